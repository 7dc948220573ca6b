//! Every threshold and tolerance of the program, each with its reason.
//!
//! Identities come first: a rule uses a threshold only where no identity separates the healthy from the faulty.

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Threshold {
    /// The constant's name.
    pub name: &'static str,
    /// Its value as written.
    pub value: &'static str,
    /// What it limits, and why it is what it is.
    pub reason: &'static str,
}

/// Declares constants and lists them, with their doc comments, in [`TABLE`].
macro_rules! thresholds {
    ($($(#[doc = $reason:literal])+ pub const $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[doc = $reason])+ pub const $name: $type = $value;)+

        /// Every threshold, in the order of declaration.
        pub static TABLE: &[Threshold] = &[$(Threshold {
            name: stringify!($name),
            value: stringify!($value),
            reason: concat!($($reason),+),
        }),+];
    };
}

thresholds! {
    /// Share of an answer's tail that one repeated span must cover to count as a loop.
    ///
    /// Half: a refrain in a healthy answer stays below it, a stuck decoder passes it within three repetitions.
    pub const LOOPED_SHARE: f64 = 0.5;

    /// Share of distinct runs of four tokens below which an answer goes in circles without repeating one span exactly.
    ///
    /// Half: people's texts stay above 0.95, greedy text of small models above 0.7 (Welleck et al. 2020, arXiv
    /// 1908.04319); a collapsed model alternates between two or three tokens and falls below 0.4.
    pub const DISTINCT_RUNS: f64 = 0.5;

    /// Share of the prompts, or of the rows, from which on something is the rule and not an exception.
    ///
    /// Half: greedy answers of a small model flip on single prompts after any training.
    pub const MOST: f64 = 0.5;

    /// Prompts that must agree before a change in the answers is an error.
    ///
    /// Two: one greedy answer that loops or runs on is common in healthy small models.
    pub const AGREEING_PROMPTS: usize = 2;

    /// Share of the longer of two answers that must begin alike for them to be the same.
    ///
    /// Half: the same weights in another precision take another word at a near tie, mostly late; answers of different
    /// weights to one question part after a few words.
    pub const SAME_ANSWER: f64 = 0.5;

    /// Share of what the reference trainer learnt that another trainer must have learnt from the same rows in as many steps.
    ///
    /// A tenth: bias correction alone makes the first steps of Adam three times smaller, and in a short run a healthy PEFT
    /// learnt 0.4 of what mlx-lm's optimizer does; a training that does nothing learns nothing.
    pub const LEARNT_SHARE: f64 = 0.1;

    /// Share of a run with the stop set off that leading stop tokens must fill to count as spam on a single prompt.
    ///
    /// Half: a model that merely ends at once goes on to a new turn, a collapsed one repeats the token to the limit.
    pub const FILLED_BY_STOP: f64 = 0.5;

    /// How many times longer than the mean supervised row an answer must be before a missing stop is held against it.
    ///
    /// Two: an answer that is cut while it is still as long as those of the data may be about to stop.
    pub const LONGER_THAN_TAUGHT: f64 = 2.0;

    /// Share of rows without supervision above which a warning is due.
    ///
    /// One in a hundred: a few over-long rows are usual, more of them mean a wrong mask or a wrong length limit.
    pub const UNSUPERVISED_ROWS: f64 = 0.01;

    /// Share of rows that teach nothing but the end above which a warning is due.
    ///
    /// One in twenty: single empty answers occur in honest data and do not change what the model says.
    pub const STOP_ONLY_ROWS: f64 = 0.05;

    /// Share of rows that were cut above which a warning is due.
    ///
    /// One in a hundred: single over-long rows are usual and teach nothing wrong but their missing end.
    pub const CUT_ROWS: f64 = 0.01;

    /// Share of rows that were cut from which on the data is no longer what it was meant to be.
    ///
    /// One in ten: so many answers without an end teach the model that answers need none.
    pub const MANY_CUT_ROWS: f64 = 0.1;

    /// Share of rows that are asked differently at inference above which the run cannot give what was asked for.
    ///
    /// One in twenty: a template may treat single odd conversations in its own way; more of them are the rule.
    pub const ASKED_DIFFERENTLY_ROWS: f64 = 0.05;

    /// Share of rows with foreign turn markers above which a warning is due.
    ///
    /// One in twenty: texts about language models quote such markers now and then.
    pub const FOREIGN_MARKER_ROWS: f64 = 0.05;

    /// Share of rows that are copies of others above which a warning is due.
    ///
    /// One in twenty: greetings and short questions recur in honest data; copied files repeat far more.
    pub const DUPLICATE_SHARE: f64 = 0.05;

    /// Copies that there must be before they are held against the data.
    ///
    /// Two: in small data one copy is already a large share.
    pub const FEWEST_DUPLICATES: usize = 2;

    /// Share of validation rows that are trained on above which a warning is due.
    ///
    /// One in a hundred: one row among many moves the validation loss by less than it moves from batch to batch.
    pub const KNOWN_VALIDATION_SHARE: f64 = 0.01;

    /// Share of validation rows that are trained on from which on the validation loss means nothing.
    ///
    /// One in ten: known rows cost next to nothing, so the mean falls by about their share.
    pub const LARGE_KNOWN_VALIDATION_SHARE: f64 = 0.1;

    /// Share of conversations that end without an answer above which a warning is due.
    ///
    /// One in a hundred: a few broken rows are usual, more of them mean that answers were lost on the way.
    pub const UNANSWERED_SHARE: f64 = 0.01;

    /// Share of padding among the positions that were computed above which it is worth a word.
    ///
    /// A fifth: batches sorted by length stay below 0.02, unsorted ones were reported at 0.25.
    pub const PADDING_SHARE: f64 = 0.2;

    /// Share of rows with a wrong mask above which the run cannot give what was asked for.
    ///
    /// One in twenty: single rows in which tokens melt together are usual, a wrong mask hits all rows.
    pub const WRONG_MASK_ROWS: f64 = 0.05;

    /// Share of answers without an end above which a warning is due.
    ///
    /// One in twenty: templates close single odd conversations otherwise; a model stops that sees an end in the rest.
    pub const ENDLESS_SHARE: f64 = 0.05;

    /// Share of rows with a masked end above which the model unlearns to stop.
    ///
    /// One in a hundred: an end is masked by its id and then in all rows that have one, or by chance in very few.
    pub const MASKED_END_ROWS: f64 = 0.01;

    /// Share of rows with a repeated end above which a warning is due.
    ///
    /// One in twenty: single answers that write the end themselves occur in honest data.
    pub const REPEATED_END_ROWS: f64 = 0.05;

    /// Cosine of two output rows above which the model can hardly tell the two tokens apart.
    ///
    /// 0.999: special tokens that no training touched drift together; a chat model that stops well was measured at 0.991.
    pub const ALIKE_ROWS: f64 = 0.999;

    /// Cosine of two output rows above which they are one row: no hidden state gives the tokens different logits.
    ///
    /// One in 100,000 below 1 is the rounding of a cosine in float32.
    pub const SAME_ROWS: f64 = 0.999_99;

    /// Factor between the norm of an output row and the median norm from which on the row was hardly trained with the rest.
    ///
    /// Ten: rows of stop tokens were measured between 0.94 and 1.21, and rare tokens lie within a factor of three.
    pub const OUTLYING_NORM: f64 = 10.0;

    /// Length of the longest row, in units of the median row, above which single batches need far more memory.
    ///
    /// Eight: chat data has rows of three to five times the median; beyond that, runs fail late and by chance.
    pub const OUTLIER_ROW_LENGTH: f64 = 8.0;

    /// Growth of the memory after each step, as a share of the trained values in f32, that is more than rounding.
    ///
    /// A tenth: buffers that MLX hands out again differ by up to 0.03 from step to step and do so in both directions.
    pub const LEAKED_SHARE: f64 = 0.1;

    /// Smallest growth of the memory as a share of the largest one for it to count as the same every step.
    ///
    /// A quarter: rows of other lengths change what a step leaves behind, and other work in the process comes and goes.
    pub const STEADY_GROWTH: f64 = 0.25;

    /// Steps in a row, after the second, in which the memory must grow before something is said to keep it.
    ///
    /// Three: two can be chance.
    pub const GROWING_STEPS: usize = 3;

    /// Updates that must tell before the gradients of several processes are judged.
    ///
    /// Three: a number is within one in a hundred of another by chance in one update of fifty or so, and in two of three in one run
    /// of a thousand.
    pub const FEWEST_SHARED_UPDATES: usize = 3;

    /// Distance of an applied gradient from the mean over all targets, as a share of its length, that is rounding in f32.
    ///
    /// One in ten thousand: sums in another order were measured below one in a million.
    pub const ROUNDED_GRADIENT: f64 = 1e-4;

    /// Distance of an applied gradient from what it should be, as a share of its length, above which it is another one.
    ///
    /// One in a hundred: gradients that travel in bfloat16 are rounded by up to one in 256 each, which adds up to about one in a
    /// thousand of the length.
    pub const OTHER_GRADIENT: f64 = 0.01;

    /// How much nearer another reading of an applied gradient must be for it to be the true one.
    ///
    /// A tenth of the distance: where the processes have nearly as many targets each, the readings are near each other, but the
    /// true one is as near as rounding allows.
    pub const TRUER_READING: f64 = 0.1;

    /// Factor between the targets of two processes from which on it matters that their means count the same.
    ///
    /// 1.1: less is below what the choice of rows does to a batch.
    pub const LOPSIDED_TARGETS: f64 = 1.1;

    /// Distance between the trained values of two processes, as a share of their length, above which they are not the same but for
    /// rounding.
    ///
    /// One in a million is some roundings of f32: backends that add in another order on each process leave less.
    pub const ROUNDED_APART: f64 = 1e-6;

    /// How many times as long as every other process one must compute, for its rows and for each position, to be slow.
    ///
    /// 1.5: cores that other work shares differ by a fifth from update to update.
    pub const SLOWER_RANK: f64 = 1.5;

    /// Share of the updates after the first in which the same process must be slow.
    ///
    /// Three quarters: other work on a machine comes and goes, a slow machine stays.
    pub const SLOW_UPDATES: f64 = 0.75;

    /// Updates after the first that must have been timed before a process is called slow.
    ///
    /// Four: three of them are three quarters.
    pub const FEWEST_TIMED_UPDATES: usize = 4;

    /// Rise of the loss of one batch, in nats per token, from which on training counts as diverged.
    ///
    /// One nat nearly triples the perplexity of text the model has just been trained on, which no run that learns does.
    pub const DIVERGED_RISE: f64 = 1.0;

    /// Relative distance from the loss of a uniform guess that counts as pinned to it.
    ///
    /// Two in a hundred: a collapsed run was measured at 10.803 for a uniform loss of 10.803, healthy ones are far below.
    pub const PINNED_TO_UNIFORM: f64 = 0.02;

    /// Share of the uniform loss below which a base clearly knows something.
    ///
    /// Nine tenths: a fresh initialisation starts within a few hundredths of the uniform loss.
    pub const KNOWS_SOMETHING: f64 = 0.9;

    /// Loss in nats per token below which a batch is fitted, so that nothing is left to fall.
    ///
    /// 0.05 nats give the right token 95% of the probability.
    pub const FITTED_LOSS: f64 = 0.05;

    /// Steps before the trend of the loss is judged.
    ///
    /// Five: in shorter runs the difference between batches hides any trend.
    pub const TREND_STEPS: usize = 5;

    /// Drop in nats per token that the updates must predict before a flat loss is held against them.
    ///
    /// 0.05 nats: smaller drops drown in the difference between batches.
    pub const PREDICTED_DROP: f64 = 0.05;

    /// Rise of the loss of one batch, in nats per token, that is abnormal though not yet divergence.
    ///
    /// Half a nat: the perplexity of text the model was just trained on rose by two thirds.
    pub const ABNORMAL_RISE: f64 = 0.5;

    /// Rise of the references' negative log-likelihood, in nats per token, that is abnormal.
    ///
    /// One nat: references may lie outside the training rows, so they get twice the room.
    pub const ABNORMAL_REFERENCE_RISE: f64 = 1.0;

    /// Sum of learning rates times the adapters' scale from which on equal logits cannot be rounding.
    ///
    /// 1e-4: ten steps at 1e-7 with scale 20 make 2e-5 and may vanish in float32; five steps at 1e-6 are seen.
    pub const VISIBLE_UPDATE: f64 = 1e-4;

    /// Fall of the voice score that deserves a look; it never changes the verdict.
    ///
    /// A fifth: the score of a few short answers moves by a tenth on its own.
    pub const VOICE_FALL: f64 = 0.2;

    /// Learning rate to suggest for adapters: the middle of what recipes for `LoRA` use.
    pub const ADAPTER_LEARNING_RATE: f64 = 1e-4;

    /// Learning rate to suggest for all weights: the default of mlx-lm.
    pub const FULL_LEARNING_RATE: f64 = 1e-5;

    /// Factor on a learning rate that is too high although it is not above the suggested one.
    pub const LEARNING_RATE_CUT: f64 = 0.1;

    /// Scale of the adapters when nothing else is said: the default of mlx-lm, the strongest that recipes use.
    pub const DEFAULT_SCALE: f64 = 20.0;

    /// Scale to suggest to who follows a recipe for PEFT: an alpha of twice the rank is the most common advice.
    pub const PEFT_SCALE: f64 = 2.0;

    /// Scale of the adapters above which no recipe goes.
    ///
    /// Twice the default of mlx-lm; an alpha written into the scale by mistake is commonly 64, 128 or 256.
    pub const HIGH_SCALE: f64 = 40.0;

    /// Size of an adapter's change over that of its layer's weight from which on the layer is no longer what it was.
    ///
    /// 0.3: ten steps of a usual recipe change a layer by 0.003 to 0.05, a learning rate ten times too high by 0.3.
    pub const LARGE_UPDATE: f64 = 0.3;

    /// Size of an adapter's change over that of its layer's weight from which on the adapter outweighs the layer.
    ///
    /// 1: both are equally large, and less of the base is left in what the layer computes than was put in its place.
    pub const OUTWEIGHING_UPDATE: f64 = 1.0;

    /// Share of the linear layers below which it is worth saying how few carry an adapter.
    ///
    /// A quarter: all layers of the last quarter of the blocks, or two of the seven layers of each block, are above it.
    pub const FEW_LAYERS: f64 = 0.25;

    /// Distance from 1 of the share of the adapters' change that fused weights hold, beyond which layers or the scale are
    /// wrong.
    ///
    /// A tenth: one of ten layers that is left out shows, rounding of updates above half a step stays below.
    pub const FUSED_SLACK: f64 = 0.1;

    /// Divergence of the fused model from the live one, over that of the live one from the base, that is too much.
    ///
    /// Half: rounding adds noise in all directions, which moves predictions far less than an update made to move them.
    pub const FUSED_DIVERGENCE: f64 = 0.5;

    /// Divergence of the trained model from the base, in nats per token, below which it is not compared with that of the
    /// fused model.
    ///
    /// 1e-3: rounding alone was measured at 5e-8 in float32 and 1.4e-4 in bfloat16.
    pub const COMPARABLE_DIVERGENCE: f64 = 1e-3;

    /// Size of an update in quantisation steps below which packing rounds most of it away.
    ///
    /// Three tenths: measured with 4 bits, 0.16 of a step kept 0.27 of the update, 0.48 of a step kept 0.96.
    pub const ROUNDED_STEPS: f64 = 0.3;

    /// Size of an update in quantisation steps from which on packing keeps it.
    ///
    /// Half a step: measured with 4 bits, 0.48 of a step kept 0.96 of the update.
    pub const KEPT_STEPS: f64 = 0.5;

    /// Rise of the loss, in nats per token, of the base's own answers to prompts outside the data, from which on the model
    /// forgets.
    ///
    /// 0.3 nats take a quarter of the probability from every token of answers that training had no reason to change.
    pub const FORGOTTEN_RISE: f64 = 0.3;

    /// Mean divergence per token, in nats, of the trained model from the base on such answers that is forgetting as well.
    ///
    /// One nat: predictions of models that agree on a text are within a few tenths of each other.
    pub const FORGOTTEN_DIVERGENCE: f64 = 1.0;

    /// Share of the distance between the reported loss and the right one that another reading has to account for.
    ///
    /// Nine tenths: implementations of one mistake differ in a token at the end of a row, not in more.
    pub const EXPLAINED_DEVIATION: f64 = 0.9;

    /// Relative difference of learning rates that rounding to f32 on the way may make.
    pub const SAME_LEARNING_RATE: f64 = 1e-5;

    /// Loss in nats per token that a finished adapter must be able to take off its rows before its strength is judged.
    ///
    /// 0.3: rows that the adapter never saw lose or gain less by a stronger change.
    pub const WEAK_GAIN: f64 = 0.3;

    /// Share of what a multiple of its change reaches that a finished adapter must reach by itself.
    ///
    /// Two fifths: one step of a usual recipe reaches that much and three reach 0.7, a scale of 1 in the place of 20
    /// reaches a quarter at most.
    pub const WEAK_SHARE: f64 = 0.4;

    /// Multiple of its change from which on an adapter that its rows ask for is too weak, and not merely unfinished.
    ///
    /// 10: adapters of short runs gain most from three times their change and lose by ten times.
    pub const WEAK_FACTOR: f64 = 10.0;

    /// Median change of a layer per step, relative to its norm, below which nothing is taught.
    ///
    /// 1e-5: a learning rate of 1e-5 with scale 2 makes 5e-5 per step at rank 8 and 2e-5 at rank 1, one of 1e-7 with
    /// scale 20 makes 5e-6.
    pub const UPDATE_PER_STEP: f64 = 1e-5;

    /// Median change of a layer over the whole run, relative to its norm, from which on small steps are no fault.
    ///
    /// 1e-4: many small steps add up, and adapters of that size change what a model says.
    pub const UPDATE_IN_ALL: f64 = 1e-4;

    /// Relative difference of two losses of the same rows in the same model.
    ///
    /// 1e-5: they may be summed in batches of other shapes, which was measured at 1e-7.
    pub const SAME_LOSS: f64 = 1e-5;

    /// Share of the loss by which the last third of a log must lie below the first, or the last validation below the first.
    ///
    /// One in a hundred: a run that learns nothing moved by as much from batch to batch, with learning rate 0 between 4.39
    /// and 4.44; one that learns passes it in its first lines.
    pub const FLAT_LOSS: f64 = 0.01;

    /// Rise of the loss of validation rows, in nats per token, that overfitting has to make.
    ///
    /// 0.3 nats make the text a third less likely per token; a few steps on other rows move it by less than a tenth.
    pub const OVERFIT_RISE: f64 = 0.3;

    /// Rise of the same loss above its lowest on the way, that overfitting has to make.
    ///
    /// 0.1 nats: 60 steps at usual rates on eight rows or four raised it by 0.03 again, at three times the rate by 0.15 to
    /// 0.6; what was gained and lost in one run on the same rows is no chance of a batch.
    pub const LOST_AGAIN: f64 = 0.1;

    /// How many times larger than usual a gradient must be, beyond what its loss explains, to be worth a warning.
    ///
    /// Ten: in a published run that ended in NaN the norms went 4.2, 4.2, 5044, 1.8e8; those of healthy batches differ by
    /// two or three times.
    pub const SPIKE_RATIO: f64 = 10.0;

    /// The same, to be an error.
    ///
    /// A hundred: no batch is that different, so a number is about to overflow.
    pub const BURST_RATIO: f64 = 100.0;

    /// Share of the values with a gradient that may stay the same bit for bit.
    ///
    /// Half: Adam in bfloat16 leaves 87% of typical weights alone at a learning rate of 1e-5 and 0.1% at 1e-4.
    pub const UNCHANGED_VALUES: f64 = 0.5;

    /// Share of the computed changes that has to arrive in the parameters.
    ///
    /// Half: with less, a run needs twice its steps, and the small gradients are lost altogether.
    pub const REALISED_SHARE: f64 = 0.5;

    /// Share of the uniform loss from which on answers whose tokens have no order are noise.
    ///
    /// Half: random letters were measured at 0.59; answers that are easy, for example one character repeated, have no
    /// order either and cost next to nothing.
    pub const NOISE_SHARE: f64 = 0.5;

    /// Nats per token that the order of an answer's tokens must save.
    ///
    /// 2.5 nats: turning honest answers round was measured to cost 4.8 or more, shuffled words 2.1 to 2.8, random letters
    /// less than 0.8.
    pub const ORDER_GAIN: f64 = 2.5;

    /// Nats per token that prompts must save on their own answers against those of other rows.
    ///
    /// 0.45 nats: true pairs were measured at 0.61 to 1.9, shuffled ones at -0.25 to 0.37 with standard errors up to 0.34.
    pub const PROMPT_GAIN: f64 = 0.45;

    /// Share of the uniform loss below which a base knows enough of answers to tell whose they are.
    ///
    /// Three quarters: where a base was measured at 0.78 to 0.95 of it, a manner that it does not know hid what it knows,
    /// and true pairs came down to a gain of 0.12; below 0.7 none was under 0.61.
    pub const KNOWS_ANSWERS: f64 = 0.75;

    /// Rows whose answers have to be exchanged before anything is said about pairs.
    ///
    /// Five: with fewer, two rows that happen to be alike decide; with four, true pairs came down to a gain of 0.38.
    pub const EXCHANGED_ROWS: usize = 5;

    /// Mean tokens of an answer before anything is said about pairs.
    ///
    /// Eight: a label of one word depends on a prompt in a way that only a trained model knows.
    pub const ANSWER_TOKENS: usize = 8;

    /// Nats per token by which the losses of the last third of the steps must lie below those of the third before, for
    /// training to be still on its way.
    ///
    /// 0.1 nats: the mean of a few batches moves by less once nothing more is learnt; runs that were cut short while
    /// their loss fell were measured at 0.2 to 0.6.
    pub const STILL_FALLING: f64 = 0.1;

    /// Mean rank of the end token where rows end, up to which a model expects ends.
    ///
    /// 1.5: the likeliest token in most rows, and the second in the others.
    pub const END_EXPECTED_RANK: f64 = 1.5;

    /// Share of a slope that rounding may make before nothing is said about it.
    ///
    /// Half: the smallest step at which the loss still moves is then too long for its bend, as in a run that diverged.
    pub const ROUGH_SLOPE: f64 = 0.5;

    /// Error of a product or a softmax, relative to its largest value, from which on a device is not used.
    ///
    /// One in a hundred: CUDA's tensor cores round to 1e-3, a wrong kernel is off by the values themselves.
    pub const START_UP_ERROR: f64 = 1e-2;

    /// Log-odds of a stop token in nats below which the end is not expected.
    ///
    /// -2, which is one in eight; healthy bases are at -8 or below.
    pub const END_UNLIKELY: f64 = -2.0;

    /// Nats by which the log-odds of a stop token where rows end must fall before an adapter is said to have unlearnt it.
    ///
    /// 3 nats: teaching another manner with mlx-lm was measured to lower them by 2.9 at most, to far above 0, on the tiny
    /// model, and to raise them by 7.3 on SmolLM2. The same runs on rows without ends lowered them by 17.6 and 18.4.
    pub const ENDS_LOST: f64 = 3.0;

    /// Times the distance between the quartiles, beyond them, from which on a measured value is an outlier.
    ///
    /// Tukey's own (1977, Exploratory Data Analysis, section 2D): of normally distributed values 7 in 1000 lie further out.
    pub const OUTLIER_FENCE: f64 = 1.5;

    /// Share of the cores that may want to run before a machine counts as busy for measuring.
    ///
    /// Half: below, a measurement that uses every second core has its cores to itself; hyper-threads count as cores.
    pub const BUSY_LOAD: f64 = 0.5;

    /// How many times worse the median of a benchmark's figure must be than the baseline's to count as slower.
    ///
    /// A tenth: less than that is seldom worth a search. It does not cover a machine whose own speed drifts: two runs of one
    /// program on a shared virtual machine flagged 7 of 59 figures, by up to 1.56 times, since the repeats of a figure
    /// follow each other too closely to see such a drift.
    pub const SLOWER_RATIO: f64 = 1.1;

    /// Values that a benchmark's figure must have for its noise to be known.
    ///
    /// Three on each side: if nothing changed, that all values of one side lie beyond all of the other happens to one
    /// figure in ten; with the usual five, to one in 126 (Mann and Whitney's U is 0).
    pub const FEWEST_SAMPLES: usize = 3;
}

/// Difference between losses of one batch that rounding can make, relative to the loss or to 1 nat where it is smaller.
///
/// Measured at 1e-7 in float32; kernels for other shapes and packed weights are allowed much more.
pub fn loss_tolerance(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 2e-2,
        _ => 1e-3,
    }
}

/// Relative difference between slopes of the loss that its bend and rounding can make, beyond what is known of them.
///
/// Measured at 3e-4 in float32.
pub fn slope_tolerance(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 0.25,
        _ => 0.05,
    }
}

/// Relative difference between updates and their replay that rounding of the moments can make.
///
/// Measured below 1e-6 in float32; moments of 16 bits are off by a few in a hundred.
pub fn update_tolerance(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 0.1,
        _ => 5e-3,
    }
}

/// Largest absolute difference between logits that must be equal, by the element type of the products.
///
/// Saved tensors and attached zeros are exact; the slack is for kernels that choose another order of summation.
pub fn logit_tolerance(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 5e-2,
        _ => 1e-3,
    }
}

/// Largest absolute difference between logits that two backends may compute from the same weights; `largest` is the
/// largest absolute logit.
///
/// Measured in float32 at 1.5e-4 with logits up to 38, by kernels of other summation orders; attention scores that are
/// wrong by one in a hundred in every block make 0.2. In 16 bits rounding grows with the logits: measured at five units
/// in the last place of the largest one.
pub fn backend_logit_tolerance(dtype: &str, largest: f64) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 16.0 * epsilon(dtype) * largest,
        _ => 1e-3,
    }
}

/// Largest distance between the gradients of one tensor that two backends may compute, relative to their norm.
///
/// Measured in float32 at 1.4e-4. In 16 bits every activation on the way back is rounded: measured at 16 units in the last
/// place.
pub fn backend_gradient_tolerance(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" | "float16" => 32.0 * epsilon(dtype),
        _ => 1e-3,
    }
}

/// Distance from 1 to the next number of an element type.
pub fn epsilon(dtype: &str) -> f64 {
    match dtype {
        "bfloat16" => 1.0 / 128.0,
        "float16" => 1.0 / 1024.0,
        _ => f64::from(f32::EPSILON),
    }
}
