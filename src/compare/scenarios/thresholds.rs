//! The numbers that scenarios are made of, each with its reason.

/// Tokens of context beside prompt and answer: the system message, the chat template, and what an estimate was wrong by.
pub const TEMPLATE_ROOM: usize = 256;

/// Tokens that a chat template puts around a system message and a question: ChatML's are about so many.
pub const TEMPLATE_TOKENS: usize = 15;

/// Context is asked for in multiples of this many tokens, as servers allocate it.
pub const CONTEXT_STEP: usize = 256;

/// Least context that a model is loaded with: what servers take by default is not below it.
pub const LEAST_CONTEXT: usize = 2048;

/// A context that is sized by an estimate gets one token for this many more.
pub const ESTIMATE_RESERVE: usize = 8;

/// Fewest bytes of text that a token of a prompt stands for on average; English has about four.
pub const LEAST_BYTES_PER_TOKEN: usize = 2;

/// Bytes of English text for one token, where neither tokenizer nor server tells.
pub const USUAL_BYTES_PER_TOKEN: f64 = 4.0;

/// Shorter prompts of the context scenario, in tokens, by which the cost of length is seen.
pub const SHORTER_CONTEXTS: [usize; 3] = [512, 1024, 2048];

/// A long prompt whose length differs by more than this share from what was asked for is told.
pub const LENGTH_TOLERANCE: f64 = 0.05;

/// Words of the two prompts by which a server is asked how long tokens are: far enough apart that the difference is of text.
pub const PROBE_WORDS: [usize; 2] = [20, 400];

/// Tokens of the first answer after loading: more would measure generation.
pub const FIRST_ANSWER_TOKENS: usize = 8;

/// Longest answer of a leak test in tokens: many short requests show more than few long ones.
pub const LEAK_ANSWER_TOKENS: usize = 16;

/// Samples of memory that are waited for after an answer, so that what the server frees late is seen as freed.
pub const SETTLING_SAMPLES: u32 = 3;

/// Positions of the text at which the next word's probability is asked for.
pub const QUALITY_POSITIONS: usize = 32;

/// Words of the text before the first position: fewer say nothing about what follows.
pub const QUALITY_FIRST_WORD: usize = 12;

/// Likeliest tokens that are asked for at each position; APIs commonly allow 20 at most.
pub const QUALITY_CANDIDATES: usize = 20;

/// Longest text of an answer that is kept, in characters.
pub const KEPT_CHARACTERS: usize = 2000;

/// Longest sleep in one piece, in milliseconds: so soon is a wish to stop heard.
pub const NAP_MS: u64 = 20;

/// Tokens by which a server's count of an answer may be above what was asked for: the one that ends it, and a template's.
pub const UNASKED_TOKENS: usize = 8;

/// Most requests that are under way at one time where they are sent at a rate: each has two threads of this program, and no
/// server for one machine takes more at once.
pub const MOST_UNDER_WAY: usize = 256;

/// Seconds by which a request may be sent after it was due before that is told: less is the system's way of waking threads.
pub const LATE: f64 = 0.1;

/// How often it is looked whether one of [`MOST_UNDER_WAY`] has ended, in milliseconds: far below [`LATE`].
pub const ROOM_NAP_MS: u64 = 5;

/// How long processes that are killed may take until the system lists them no more, in milliseconds.
pub const VANISHING_MS: u64 = 1000;
