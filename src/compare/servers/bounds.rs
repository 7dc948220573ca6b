//! What is borne of servers and of the programs around them, in one table.

use std::time::Duration;

/// How often a server that starts is asked whether it is ready, which is how exactly the time to be ready is known.
pub(super) const ASK: Duration = Duration::from_millis(20);

/// Seconds that one question whether a server is ready may take; it is asked again then.
pub(super) const READY_QUESTION: f64 = 5.0;

/// Seconds that a question about a server may take that computes nothing: what it serves, its version.
pub(super) const QUESTION: f64 = 30.0;

/// How long a server may take to end once it is asked to; it has no request left.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How long the system may take to end a process that is killed; one in the middle of a driver call takes a while.
pub(super) const KILLED: Duration = Duration::from_secs(5);

/// How long a process whose connection broke may take to be seen as ended.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(300);

/// Last lines of a log that a failure quotes: an error and what surrounds it.
pub(super) const LOG_LINES: usize = 4;

/// Bytes of a log's end in which these are looked for.
pub(super) const LOG_TAIL: u64 = 8 << 10;

/// How long a small program of the system or of LM Studio may take.
pub(super) const SHORT_COMMAND: Duration = Duration::from_secs(30);

/// How long a python may take to say which modules it has; the first start after a boot reads much.
pub(super) const PYTHON_QUESTION: Duration = Duration::from_mins(1);

/// How long it may take to make a virtual environment and to fetch llama.cpp's package, about 40 MB, over a slow line.
pub(super) const INSTALLATION: Duration = Duration::from_mins(15);

/// Bytes that are read of what a small program prints.
pub(super) const SHORT_OUTPUT: u64 = 1 << 20;

/// How long it is believed that the same process listens at a port. Finding out takes longer than taking a sample.
pub(super) const LISTENER_AGE: Duration = Duration::from_secs(2);

/// Alternatives of a token that `mlx_lm.server` tells at most; newer versions tell one more.
pub(super) const MLX_LM_ALTERNATIVES: usize = 10;

/// Alternatives of a token that this program's server tells at most, as many as OpenAI.
pub(super) const DIAGNOSE_ALTERNATIVES: usize = 20;

/// How long Ollama keeps a model after a request, so that it goes even where this program is killed.
pub(super) const OLLAMA_KEEP_ALIVE: &str = "1h";

/// Seconds after which LM Studio itself unloads a model that its API has no other way to unload.
pub(super) const LM_STUDIO_IDLE: u32 = 300;
