use std::path::{Path, PathBuf};

use thiserror::Error;

use super::DataSource;
use super::phases::{Run, Subject};
use crate::adapter::StoredAdapter;
use crate::evidence::{Evidence, ExternalTraining, Slot};
use crate::external::{self, Assignment, Ending, ExternalTrainer, TemplateError, Watched, find_adapter};
use crate::rules::Phase;
use crate::temporary_folder::TemporaryFolder;
use crate::training_log;

/// The file in which a trainer's output is kept.
const LOG: &str = "trainer.log";

/// Why another program could not be asked to train.
#[derive(Debug, Error)]
enum ElsewhereError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("`{}` is not a folder of an earlier run\n  hint: choose another `--out`", folder.display())]
    Occupied { folder: PathBuf },
    #[error("the trainer could not be run: {0}")]
    Io(#[from] std::io::Error),
}

impl Run<'_> {
    /// Lets another program train and takes up what it left; `None` when that is nothing.
    pub(super) fn train_elsewhere(&mut self, trainer: &ExternalTrainer, evidence: &mut Evidence) -> Option<Subject> {
        self.progress.phase(Phase::Training, None);
        match self.call(trainer, evidence) {
            Ok(Some(folder)) => {
                let subject = self.take_up(&folder.adapter, evidence);
                self.left = Some(folder);
                subject
            }
            Ok(None) => {
                evidence.training = Slot::skipped("the other trainer left no adapter");
                None
            }
            Err(error) => {
                evidence.training = Slot::crashed(&error);
                evidence.external = Slot::crashed(error);
                None
            }
        }
    }

    fn take_up(&mut self, folder: &Path, evidence: &mut Evidence) -> Option<Subject> {
        match StoredAdapter::read(folder) {
            Ok(stored) => self.adopt(&stored, evidence),
            Err(error) => {
                evidence.adapter_files = Slot::crashed(error);
                None
            }
        }
    }

    /// Runs the trainer; returns where its adapter lies, when it left one.
    fn call(
        &mut self,
        trainer: &ExternalTrainer,
        evidence: &mut Evidence,
    ) -> Result<Option<LeftAdapter>, ElsewhereError> {
        let temporary = TemporaryFolder::new()?;
        // Beside the report, where there is one: the user may want to look at it.
        let folder = match &self.options.adapter_folder {
            Some(adapter) => adapter.with_file_name("trainer"),
            None => temporary.path().join("trainer"),
        };
        if folder.join(LOG).exists() {
            std::fs::remove_dir_all(&folder)?;
        } else if folder.exists() {
            return Err(ElsewhereError::Occupied { folder });
        }
        let output = folder.join("output");
        std::fs::create_dir_all(&output)?;
        let log = folder.join(LOG);
        let assignment = self.assignment(&folder, output)?;
        trainer.write_program(&folder)?;
        let command = trainer.template().fill(&assignment.values(&folder)?)?;
        let mut lines = 0;
        let finished = external::run(
            &Watched {
                command: &command,
                log: &log,
                timeout: trainer.timeout,
                interrupt: self.interrupt,
            },
            &mut |line| {
                lines += 1;
                self.progress.advance(lines, line);
            },
        )?;
        let adapter = find_adapter(&assignment.output);
        evidence.external = Slot::Ran(ExternalTraining {
            trainer: trainer.name.clone(),
            exit_code: match finished.ending {
                Ending::Exited(code) => code,
                Ending::TimedOut | Ending::Interrupted => None,
            },
            timed_out: finished.ending == Ending::TimedOut,
            timeout: trainer.timeout.as_secs_f64(),
            last_lines: finished.last_lines,
            left_adapter: adapter.is_some(),
            seconds: finished.seconds,
        });
        evidence.log = match training_log::read(&log) {
            Ok(log) => Slot::Ran(log),
            Err(error) => Slot::skipped(error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        self.progress
            .finish(&format!("the trainer ended after {:.0} s", finished.seconds));
        Ok(adapter.map(|adapter| LeftAdapter {
            adapter,
            _temporary: temporary,
        }))
    }

    fn assignment(&self, folder: &Path, output: PathBuf) -> std::io::Result<Assignment> {
        let options = self.options;
        Ok(Assignment {
            model: options.source.path().to_owned(),
            data: data_folder(&options.data, folder)?,
            output,
            steps: options.steps,
            learning_rate: options.learning_rate,
            rank: options.lora.rank,
            scale: f64::from(options.lora.scale),
            dropout: f64::from(options.lora.dropout),
            layers: options.lora.layers,
            mask_prompt: options.mask_prompt,
            seed: options.seed,
            batch_size: options.batch_size,
            max_sequence_length: options.max_sequence_length,
        })
    }
}

/// Where a trainer's adapter lies, for as long as it is needed.
pub(super) struct LeftAdapter {
    pub(super) adapter: PathBuf,
    _temporary: TemporaryFolder,
}

/// A folder with the rows as mlx-lm reads them: the user's own where it does, otherwise one inside `folder`.
fn data_folder(source: &DataSource, folder: &Path) -> std::io::Result<PathBuf> {
    let files = source.read().map_err(std::io::Error::other)?;
    let is_for_mlx_lm = files.named().all(|(_, file)| file.is_for_mlx_lm());
    let data = folder.join("data");
    let write = |name: &str, rows: &[u8]| std::fs::write(data.join(name), rows);
    match source {
        DataSource::Path(path) if path.is_dir() && is_for_mlx_lm => return Ok(path.clone()),
        _ => std::fs::create_dir_all(&data)?,
    }
    match source {
        DataSource::Path(path) if is_for_mlx_lm => write("train.jsonl", &std::fs::read(path)?)?,
        DataSource::Embedded(text) => write("train.jsonl", text.as_bytes())?,
        DataSource::Path(_) => {
            for (name, file) in files.named() {
                write(name, file.json_lines().as_bytes())?;
            }
        }
    }
    Ok(data)
}
