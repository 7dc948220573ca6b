//! Every threshold of the judgement, each with its reason.

/// Share of bootstrap samples inside an interval: the convention of the field.
pub const CONFIDENCE_LEVEL: f64 = 0.95;

/// Samples drawn for the interval of a ratio.
///
/// 2000: the ends of a 95% interval are then uncertain by 3% of its width (Efron and Tibshirani 1993, section 19.3).
pub const RATIO_RESAMPLES: usize = 2000;

/// Samples drawn for the interval of a slope, each over all pairs of points.
///
/// 1000: the ends are compared with a threshold that is itself round.
pub const SLOPE_RESAMPLES: usize = 1000;

/// How far from 1 the interval of a ratio must stay for one format to be better.
///
/// 2%: nobody notices less, and clocks of two servers of the same speed agree no better.
pub const MARGIN: f64 = 1.02;

/// Values on each side from which on a bootstrap interval says what the noise is.
///
/// Five: two sets of five lie wholly apart by chance in one case of 126, two of three already in one of 10.
pub const VALUES_FOR_NOISE: usize = 5;

/// Values on each side from which on a ratio is shown with an interval.
///
/// Three: samples of one value are all alike and those of two have three medians, so that their interval looks surest where
/// least is known.
pub const VALUES_FOR_INTERVAL: usize = 3;

/// Values from which on quartiles are shown, and below which the least and the most are.
///
/// Four: one in each quarter.
pub const VALUES_FOR_QUARTILES: usize = 4;

/// Values from which on the 90th, the 95th and the 99th percentile are shown.
///
/// So many that one of them lies above: below that a percentile is the largest value by another name.
pub const VALUES_FOR_PERCENTILES: [usize; 3] = [10, 20, 100];

/// How far from 1 the ratio of times, or the interval it has, must stay where there are fewer values than [`VALUES_FOR_NOISE`].
///
/// 1.25: the same server on a machine with other work varies by a fifth between runs.
pub const MARGIN_OF_FEW_TIMES: f64 = 1.25;

/// The same for bytes.
///
/// 5%: the highest sample of memory of the same server moves by 1 to 3% between runs.
pub const MARGIN_OF_FEW_BYTES: f64 = 1.05;

/// How often a format must win for each deciding measure it loses to serve better all the same.
///
/// Three: of the six measures that leaves one that may speak for the other.
pub const WINS_FOR_ONE_LOSS: usize = 3;

/// Deciding measures, of six, that there must be for a confidence above low, and that all must agree for a high one.
///
/// Four: the time to load cannot be measured of a server that keeps its model, and not every model takes long prompts; of three
/// or fewer, one cause such as a small memory moves most.
pub const MEASURES_FOR_CERTAINTY: usize = 4;

/// Share of requests that may fail for a format to serve better all the same.
///
/// One in twenty: in a conversation of some length everybody meets that.
pub const FAILED_SHARE: f64 = 0.05;

/// How many times the tokens in a second of one round may be those of another.
///
/// 1.25, as [`MARGIN_OF_FEW_TIMES`]: what differs more was measured beside other work, or after the machine had become hot.
pub const ROUNDS_APART: f64 = MARGIN_OF_FEW_TIMES;

/// Mean seconds between two pieces of an answer below which all of it came at once.
///
/// 0.1 ms: no model writes ten thousand tokens in a second, and what a proxy has collected comes in microseconds.
pub const AT_ONCE_SECONDS: f64 = 1e-4;

/// Bytes that a character has at most, and so the most tokens: some tokenizers fall back to bytes.
pub const BYTES_OF_CHARACTER: usize = 4;

/// Tokens that a server may count beside those of the text it sends.
///
/// 16: ends of turns and markers that a template takes out; hidden reasoning has far more, and then neither the count nor the
/// time to the first piece is that of the text.
pub const TOKENS_WITHOUT_TEXT: usize = 16;

/// Tokens by which an answer may be longer than was asked for.
///
/// Two: some servers count the end of the text and of the turn.
pub const TOKENS_OVER_LIMIT: usize = 2;

/// Share by which a prompt may be shorter or longer than the length by which it is called.
///
/// 5%: templates and tokenizers differ by as much; the time to read it follows.
pub const LENGTH_APART: f64 = 0.05;

/// Bytes for each request above which memory is said to grow.
///
/// 64 KiB: at a request in a second that is 5.5 GB in a day, and restarting every week does not help; below it lie logs,
/// statistics and the noise of pages.
pub const LEAK_BYTES_PER_REQUEST: f64 = 65_536.0;

/// Settled values that are needed to tell whether memory grows.
///
/// Ten: half of them have ten slopes between them, the fewest whose median has an interval that excludes zero.
pub const LEAK_VALUES: usize = 10;

/// Values that a course is thinned to before slopes are taken between all pairs of them.
///
/// 500: those have 125,000 slopes, whose samples are drawn in a second; each then stands for the median of its neighbours.
pub const MOST_LEAK_VALUES: usize = 500;

/// Bytes that memory must have grown by before it is said to have grown and settled.
///
/// 4 MiB: an allocator's pools and the pages of code that is run for the first time stay below.
pub const SETTLED_BYTES: f64 = 4_194_304.0;

/// Share of the requests at the beginning without which memory must grow too, and in whose absence growth with every request
/// is told from growth that slows down.
///
/// A quarter: weights are paged in and pools are made there; three quarters still span a factor of four, over which a straight
/// line and a logarithm differ.
pub const BEGINNING: f64 = 0.25;

/// How much closer to the values a logarithm must lie than a straight line for growth to be slowing down.
///
/// 0.7: to a straight line with noise the two are equally close or the line is closer, and chance seldom brings a logarithm
/// below 0.75; to a cache that takes 10 MiB or more for each e-fold of requests it is closer by that and mostly far more.
pub const CLOSER: f64 = 0.7;

/// Share of the values, those nearest to a curve, by whose distance the curve is judged.
///
/// Four fifths: a pool that is made late leaves a handful of values a step below all others.
pub const NEAREST: f64 = 0.8;

/// Share of the first half's values that the end must exceed for memory not to have been given back.
///
/// Nine in ten: single samples catch a server in the middle of something.
pub const HIGH_BEFORE: f64 = 0.9;

/// Share of the last quarter's values that may lie below that all the same.
///
/// A quarter: a collector that runs every dozen requests has given back by then, a leak ends far above its first half.
pub const LOW_AT_END: f64 = 0.25;

/// Tokens of a prompt that a cache may hold although each prompt begins with a number of its own.
///
/// 48: a template's words before the system message; Llama 3's dates take about 30.
pub const TEMPLATE_TOKENS: usize = 48;

/// Share of a prompt that must come from a cache for a short prompt to count as cached.
///
/// Three quarters: a template alone can be half of a short prompt; a repeated prompt is cached but for its last token.
pub const CACHED_SHARE: f64 = 0.75;

/// Tokens by which the same prompts may differ between formats.
///
/// Two: the number at the beginning of each prompt has a token or two more or less.
pub const PROMPT_TOKENS_APART: f64 = 2.0;

/// Share by which two counts of an answer's tokens may differ, one token being free: some servers count the end.
///
/// 2%: a text cut into tokens anew is not always cut as it was written.
pub const COUNTS_APART: f64 = 0.02;

/// Share by which a server's own times and those of its client may differ.
///
/// 5%: what connection, template and tokenizer take of a request of some seconds.
pub const TIMES_APART: f64 = 0.05;

/// Seconds by which they may differ whatever the share.
///
/// 10 ms: a connection, a turn of the scheduler and a template, which weigh on short answers.
pub const SECONDS_APART: f64 = 0.01;

/// Share of samples of memory that may be missed.
///
/// 5%: peaks between samples are seen by their neighbours then.
pub const MISSED_SHARE: f64 = 0.05;

/// Processes that want to run, for each core, above which a machine is busy before anything is measured.
///
/// Half a core each: two threads of a server then wait for one another's neighbours.
pub const BUSY: f64 = 0.5;

/// Median difference of log-probabilities, in nats, above which the formats do not hold the same model.
///
/// 0.25: the same weights differ by 0.001 to 0.01, 4-bit quantisations of them by about 0.1.
pub const PARITY_NATS: f64 = 0.25;

/// Share of positions at which both formats must prefer the same token.
///
/// 0.8: 4-bit quantisations of the same weights agree at more than nine of ten.
pub const PARITY_SHARE: f64 = 0.8;
