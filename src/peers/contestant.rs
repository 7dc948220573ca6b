use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::protocol::Greeting;
use super::workload::Workload;
use crate::python::Python;

/// The element type in which everybody can be compared.
pub(super) const FLOAT32: &str = "float32";

/// A program to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// PyTorch with transformers and PEFT.
    Torch,
    /// Python mlx-lm.
    MlxLm,
    /// llama.cpp's server.
    LlamaCpp,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Torch, Self::MlxLm, Self::LlamaCpp];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::MlxLm => "mlx-lm",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Torch => "PyTorch + PEFT",
            Self::MlxLm => "mlx-lm",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Its script.
    pub(super) fn script(self) -> &'static str {
        match self {
            Self::Torch => "bench_worker_torch.py",
            Self::MlxLm => "bench_worker_mlx_lm.py",
            Self::LlamaCpp => "bench_worker_llama_cpp.py",
        }
    }
}

/// How a contestant's process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// This program, with the hidden subcommand that answers jobs.
    Own {
        /// Its executable.
        program: PathBuf,
    },
    /// A script that this program carries.
    Script {
        /// The python that runs it.
        python: Python,
        /// Its name.
        script: &'static str,
        /// Variables that are set for it.
        environment: BTreeMap<OsString, OsString>,
    },
    /// Any program that speaks the protocol.
    Program {
        /// It.
        program: PathBuf,
    },
}

/// What a contestant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// All of the work.
    Everything,
    /// All but training.
    Answers,
    /// Nothing but loading.
    Loading,
}

/// One way to do the work: a program with a model, an element type and a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contestant {
    /// Its name in results, for example `torch-cpu-float32`.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// How its process is started.
    pub start: Start,
    /// What it loads.
    pub model: PathBuf,
    /// Element type.
    pub dtype: String,
    /// Where it computes.
    pub device: String,
    /// Threads that it is told to use; `None` for its own choice.
    pub threads: Option<usize>,
    /// What it does.
    pub does: Ability,
    /// Whether its numbers should be those of every other such contestant: the same weights in the same precision.
    pub exact: bool,
    /// Versions of what it consists of.
    pub versions: BTreeMap<String, String>,
}

impl Contestant {
    /// One that does everything in float32, exactly, on its first device with threads of its own choice.
    pub(super) fn in_float32(id: &str, title: &str, start: Start, model: PathBuf, greeting: Greeting) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            start,
            model,
            dtype: FLOAT32.to_owned(),
            device: greeting.first_device(),
            threads: None,
            does: Ability::Everything,
            exact: true,
            versions: greeting.versions,
        }
    }

    /// Whether it does this work.
    pub fn does(&self, workload: &Workload) -> bool {
        match self.does {
            Ability::Everything => true,
            Ability::Answers => !matches!(workload, Workload::Training(_)),
            Ability::Loading => matches!(workload, Workload::Loading),
        }
    }
}
