//! The processes of LM Studio: who listens, the headless one, and workers that descend from neither.

use crate::compare::memory::Processes;
use crate::compare::servers::listening::ListeningProcesses;

/// Parts of command lines that only LM Studio's processes have: its folder of programs, and its names as an application.
const MARKS: [&str; 3] = [".lmstudio/", "LM Studio", "lm-studio"];

/// LM Studio on this machine.
#[derive(Debug)]
pub(super) struct LmStudioProcesses {
    listening: ListeningProcesses,
    daemon: Option<u32>,
}

impl LmStudioProcesses {
    /// One that listens at a port, beside the headless one where it runs.
    pub(super) fn new(port: u16, daemon: Option<u32>) -> Self {
        Self {
            listening: ListeningProcesses::new(port),
            daemon,
        }
    }
}

impl Processes for LmStudioProcesses {
    fn roots(&self) -> Vec<u32> {
        let mut roots = self.listening.roots();
        roots.extend(self.daemon);
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    fn owns(&self, command_line: &[String]) -> bool {
        // The first words are the program and its script; what follows may be anything, a file under a folder for example.
        let mut words = command_line.iter().take(2);
        words.any(|word| MARKS.iter().any(|mark| word.contains(mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::LmStudioProcesses;
    use crate::compare::memory::Processes;

    fn owns(words: &[&str]) -> bool {
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        LmStudioProcesses::new(1, None).owns(&words)
    }

    #[test]
    fn workers_are_told_by_their_command_lines() {
        assert!(owns(&["/home/me/.lmstudio/.internal/utils/node", "llmworker.js"]));
        assert!(owns(&["node", "/home/me/.lmstudio/.bundle/lib/llmworker.js"]));
        assert!(owns(&["/Applications/LM Studio.app/Contents/MacOS/LM Studio"]));
        assert!(owns(&["/opt/lm-studio/lm-studio", "--no-sandbox"]));
    }

    #[test]
    fn a_program_that_reads_a_model_of_lm_studio_is_none_of_its_processes() {
        assert!(!owns(&["llama-server", "--model", "/home/me/.lmstudio/models/a.gguf"]));
    }
}
