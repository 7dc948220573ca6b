//! Finds out why a fine-tuned MLX language model answers badly, and says how to fix it.
//!
//! Data flows one way: files become a model and examples, training changes the model, probes measure it, rules judge what
//! was measured, reports show it. Which module may use which is this table, and a test holds the sources to it. Rules and
//! reports are pure: they see evidence and nothing of MLX.
//!
//! | module | may use |
//! | --- | --- |
//! | `as_written` | |
//! | `atomic_write` | |
//! | `counts` | |
//! | `double_precision` | |
//! | `embedded` | `temporary_folder` |
//! | `excerpt` | |
//! | `interrupt` | |
//! | `lanes` | |
//! | `line_process` | `interrupt` |
//! | `memory` | |
//! | `panic_message` | |
//! | `python` | |
//! | `quantile` | |
//! | `readback` | |
//! | `shell_word` | |
//! | `suggestion` | |
//! | `temporary_folder` | |
//! | `time_stamp` | |
//! | `yaml` | |
//! | `thresholds` | |
//! | `param_snapshot` | |
//! | `param_diff` | `param_snapshot`, `readback` |
//! | `evidence` | `counts`, `quantile`, `thresholds` |
//! | `checks` | `evidence`, `model`, `param_diff`, `param_snapshot`, `readback`, `suggestion`, `temporary_folder` |
//! | `model` | `atomic_write`, `evidence`, `readback`, `shell_word`, `suggestion` |
//! | `data` | `evidence`, `model`, `suggestion` |
//! | `adapter` | `atomic_write`, `evidence`, `model`, `readback`, `suggestion` |
//! | `train` | `as_written`, `data`, `interrupt`, `lanes`, `memory`, `model`, `param_snapshot`, `readback` |
//! | `distributed` | `data`, `evidence`, `interrupt`, `param_snapshot`, `readback`, `shell_word`, `train`, `yaml` |
//! | `engine` | `interrupt`, `lanes`, `model`, `readback`, `suggestion` |
//! | `device` | `double_precision`, `evidence`, `memory`, `model`, `readback`, `thresholds`, `train` |
//! | `workflow` | `adapter`, `data`, `memory`, `model`, `train` |
//! | `external` | `excerpt`, `interrupt`, `python`, `shell_word`, `suggestion` |
//! | `faults` | `adapter`, `atomic_write`, `data`, `diagnosis`, `evidence`, `model`, `param_snapshot`, `suggestion`, `temporary_folder`, `train`, `workflow` |
//! | `torch` | `data`, `interrupt`, `line_process`, `model`, `python` |
//! | `probes` | `adapter`, `data`, `engine`, `evidence`, `interrupt`, `model`, `param_diff`, `param_snapshot`, `quantile`, `readback`, `torch`, `train` |
//! | `rules` | `evidence`, `quantile`, `shell_word`, `suggestion`, `thresholds` |
//! | `regression` | `evidence` |
//! | `report` | `evidence`, `quantile`, `regression`, `rules`, `thresholds` |
//! | `diagnosis` | `adapter`, `as_written`, `data`, `device`, `distributed`, `engine`, `evidence`, `external`, `interrupt`, `model`, `param_snapshot`, `probes`, `python`, `quantile`, `readback`, `rules`, `temporary_folder`, `torch`, `train`, `training_log`, `workflow` |
//! | `training_log` | `counts`, `evidence` |
//! | `fine_tuning` | `adapter`, `as_written`, `atomic_write`, `data`, `device`, `diagnosis`, `distributed`, `evidence`, `interrupt`, `memory`, `model`, `param_snapshot`, `probes`, `rules`, `suggestion`, `train`, `yaml` |
//! | `bench` | `adapter`, `atomic_write`, `counts`, `data`, `device`, `diagnosis`, `engine`, `evidence`, `fine_tuning`, `interrupt`, `memory`, `model`, `param_diff`, `param_snapshot`, `quantile`, `report`, `rules`, `suggestion`, `thresholds`, `time_stamp`, `train`, `workflow` |
//! | `compare` | `atomic_write`, `counts`, `excerpt`, `interrupt`, `python`, `quantile`, `report`, `suggestion`, `time_stamp`, `yaml` |
//! | `serving` | `adapter`, `device`, `engine`, `model`, `suggestion` |
//! | `selftest` | `adapter`, `atomic_write`, `data`, `device`, `diagnosis`, `embedded`, `evidence`, `external`, `faults`, `interrupt`, `model`, `panic_message`, `quantile`, `report`, `rules`, `shell_word`, `suggestion`, `temporary_folder`, `train`, `workflow` |
//! | `verification` | `adapter`, `checks`, `data`, `device`, `double_precision`, `embedded`, `engine`, `evidence`, `interrupt`, `memory`, `model`, `panic_message`, `param_snapshot`, `probes`, `readback`, `report`, `rules`, `suggestion`, `temporary_folder`, `train` |
//! | `peers` | `adapter`, `bench`, `data`, `device`, `engine`, `interrupt`, `line_process`, `memory`, `model`, `param_snapshot`, `python`, `serving`, `temporary_folder`, `thresholds`, `train` |
//! | `cli` | `adapter`, `as_written`, `atomic_write`, `bench`, `compare`, `data`, `device`, `diagnosis`, `distributed`, `embedded`, `engine`, `evidence`, `external`, `faults`, `fine_tuning`, `interrupt`, `memory`, `model`, `peers`, `probes`, `python`, `regression`, `report`, `rules`, `selftest`, `serving`, `shell_word`, `suggestion`, `temporary_folder`, `torch`, `train`, `verification`, `workflow`, `yaml` |

pub mod adapter;
pub mod as_written;
pub mod atomic_write;
pub mod bench;
pub mod checks;
pub mod cli;
pub mod compare;
pub mod counts;
pub mod data;
pub mod device;
pub mod diagnosis;
pub mod distributed;
pub mod double_precision;
pub mod embedded;
pub mod engine;
pub mod evidence;
pub mod excerpt;
pub mod external;
pub mod faults;
pub mod fine_tuning;
pub mod interrupt;
pub mod lanes;
pub mod line_process;
pub mod memory;
pub mod model;
pub mod panic_message;
pub mod param_diff;
pub mod param_snapshot;
pub mod peers;
pub mod probes;
pub mod python;
pub mod quantile;
pub mod readback;
pub mod regression;
pub mod report;
pub mod rules;
pub mod selftest;
pub mod serving;
pub mod shell_word;
pub mod suggestion;
pub mod temporary_folder;
pub mod thresholds;
pub mod time_stamp;
pub mod torch;
pub mod train;
pub mod training_log;
pub mod verification;
pub mod workflow;
pub mod yaml;
