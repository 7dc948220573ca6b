//! How far numbers of two implementations may lie apart. All are of models in f32, whose numbers are of the order of 1.

/// Difference of logits. Sums of some 100 terms in another order differ by about 1e-6, and a few layers add up; a wrong
/// model is off by tenths.
pub const LOGITS: f32 = 1e-4;

/// Relative difference of losses, which are means over logits; golden losses have six decimals.
pub const LOSS: f64 = 1e-5;

/// Length of the difference of two gradients of a parameter over the length of one. A gradient sums over all tokens
/// and passes all layers twice; a wrong one is off by more than a tenth.
pub const GRADIENTS: f32 = 1e-3;

/// Difference of logits of the same computation in other steps: the same sums, cut elsewhere.
pub const OTHER_STEPS: f32 = 2e-5;

/// Relative difference of losses after updates: `AdamW` divides gradients by their size, which makes the rounding of those
/// close to zero as large as a step.
pub const LOSS_AFTER_UPDATES: f64 = 1e-4;

/// Length of the difference of what two implementations added to a parameter in three steps of `AdamW`, over the length of
/// one. Each value moves by about the learning rate at every step, also where its gradient is close to zero and its sign
/// is that of rounding; one of a hundred may do so. A missing correction of the moments, or decay of the wrong size, is
/// off by more than a tenth.
pub const UPDATES: f32 = 2e-2;
