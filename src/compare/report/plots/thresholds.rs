//! From where on a picture is drawn otherwise, each with its reason.

/// Times that are this many times apart need an axis on which powers of ten have equal distances.
///
/// 30: on a linear axis the smallest would stand within 3% of zero, and its quartiles on one another.
pub(super) const FAR_APART: f64 = 30.0;

/// Prompts whose lengths differ at most by this factor have one median.
///
/// 1.25: a few words more or less are no other context, and scenarios ask for lengths that are at least twice as far apart.
pub(super) const ALIKE: f64 = 1.25;

/// Bytes that an axis of growth spans at least.
///
/// 1 MB: single pages that come and go must not look like a course.
pub(super) const SMALLEST_SPAN: f64 = 1e6;

/// Lines of names of phases above a panel; phases without room in them are counted instead.
///
/// Four: a scenario has about as many parts within one another, and more would push the panel off a screen.
pub(super) const FLAG_LINES: usize = 4;
