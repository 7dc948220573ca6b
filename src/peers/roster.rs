use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::contestant::{Ability, Contestant, FLOAT32, Peer, Start};
use super::protocol::Greeting;
use super::worker::{PeerError, PeerWorker};
use crate::interrupt::Interrupt;
use crate::python::Python;

/// Longest time until a program says what it is: importing torch from a cold disk takes a minute.
const GREETING: Duration = Duration::from_mins(5);
/// Where distributions put `OpenBLAS`.
const OPENBLAS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/libopenblas.so.0",
    "/usr/lib/aarch64-linux-gnu/libopenblas.so.0",
    "/usr/lib64/libopenblas.so.0",
    "/usr/lib/libopenblas.so.0",
];
/// Element types in which torch is timed.
const TORCH_DTYPES: [&str; 2] = [FLOAT32, "bfloat16"];

/// Where programs and models are looked for.
#[derive(Debug, Clone)]
pub struct PeerPlaces {
    /// This program.
    pub program: PathBuf,
    /// The model in a Hugging Face folder with plain weights in float32.
    pub folder: PathBuf,
    /// The same model as one GGUF file.
    pub gguf: Option<PathBuf>,
    /// Who is compared with.
    pub peers: Vec<Peer>,
    /// The python that has torch.
    pub torch: Python,
    /// The python that has mlx-lm.
    pub mlx_lm: Python,
    /// The python that asks llama.cpp.
    pub llama_cpp: Python,
    /// `OpenBLAS`; looked for where it is `None`.
    pub openblas: Option<PathBuf>,
}

/// Who cannot take part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// As a contestant's.
    pub id: String,
    /// As a contestant's.
    pub title: String,
    /// Why.
    pub reason: String,
    /// What would change that; `None` where nothing would.
    pub hint: Option<String>,
}

/// Who takes part, this program first, and who does not.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// In the order of their turns.
    pub contestants: Vec<Contestant>,
    /// In the order in which they were looked for.
    pub absent: Vec<Absent>,
}

impl Roster {
    /// Everybody is absent, since nobody was asked for.
    pub fn nobody() -> Self {
        let mut roster = Self::default();
        for peer in Peer::ALL {
            roster.was_not_asked_for(peer);
        }
        roster
    }

    /// Looks for everybody by starting them; this program is always there.
    ///
    /// # Errors
    /// This program itself does not come up, or the user wishes to stop.
    pub fn find(places: &PeerPlaces, interrupt: &Interrupt) -> Result<Self, PeerError> {
        let mut roster = Self::default();
        roster.add_own(places, interrupt)?;
        for peer in Peer::ALL {
            if !places.peers.contains(&peer) {
                roster.was_not_asked_for(peer);
                continue;
            }
            match peer {
                Peer::Torch => roster.add_torch(places, interrupt)?,
                Peer::MlxLm => roster.add_mlx_lm(places, interrupt)?,
                Peer::LlamaCpp => roster.add_llama_cpp(places, interrupt)?,
            }
        }
        Ok(roster)
    }

    fn add_own(&mut self, places: &PeerPlaces, interrupt: &Interrupt) -> Result<(), PeerError> {
        let start = Start::Own {
            program: places.program.clone(),
        };
        let greeting = PeerWorker::probe(&start, interrupt, GREETING)?;
        let own = Contestant::in_float32("diagnose", "diagnose", start, places.folder.clone(), greeting);
        let of_gguf = places.gguf.as_ref().map(|gguf| Contestant {
            id: "diagnose-gguf".to_owned(),
            title: "diagnose, from the GGUF file".to_owned(),
            model: gguf.clone(),
            does: Ability::Loading,
            ..own.clone()
        });
        self.contestants.push(own);
        match of_gguf {
            Some(contestant) => self.contestants.push(contestant),
            None => self.absent(
                "diagnose-gguf",
                "diagnose, from the GGUF file",
                "no GGUF file of the model is known".to_owned(),
                Some("name it with --gguf".to_owned()),
            ),
        }
        Ok(())
    }

    fn add_torch(&mut self, places: &PeerPlaces, interrupt: &Interrupt) -> Result<(), PeerError> {
        let title = Peer::Torch.title();
        let start = script(&places.torch, Peer::Torch, BTreeMap::new());
        let Some(greeting) = self.probe(
            "torch",
            title,
            &start,
            interrupt,
            &install(&places.torch, "torch transformers peft", "--python-torch"),
        )?
        else {
            return Ok(());
        };
        for device in &greeting.devices {
            for dtype in TORCH_DTYPES {
                self.contestants.push(Contestant {
                    id: format!("torch-{device}-{dtype}"),
                    title: format!("{title}, {device}, {dtype}"),
                    start: start.clone(),
                    model: places.folder.clone(),
                    dtype: dtype.to_owned(),
                    device: device.clone(),
                    threads: cores(),
                    does: Ability::Everything,
                    exact: dtype == FLOAT32,
                    versions: greeting.versions.clone(),
                });
            }
        }
        Ok(())
    }

    fn add_mlx_lm(&mut self, places: &PeerPlaces, interrupt: &Interrupt) -> Result<(), PeerError> {
        let (id, title) = ("mlx-lm", "mlx-lm, wheel as shipped");
        let start = script(&places.mlx_lm, Peer::MlxLm, BTreeMap::new());
        let hint = install(&places.mlx_lm, "mlx-lm", "--python-mlx-lm");
        let Some(greeting) = self.probe(id, title, &start, interrupt, &hint)? else {
            return Ok(());
        };
        let shipped = Contestant::in_float32(id, title, start, places.folder.clone(), greeting);
        let (id, title) = ("mlx-lm-openblas", "mlx-lm, OpenBLAS in its place");
        match openblas(places.openblas.as_deref()) {
            Err((reason, hint)) => self.absent(id, title, reason, hint),
            Ok(library) => {
                let environment = BTreeMap::from([(OsString::from("LD_PRELOAD"), library.clone().into_os_string())]);
                let start = script(&places.mlx_lm, Peer::MlxLm, environment);
                if let Some(greeting) = self.probe(id, title, &start, interrupt, &hint)? {
                    let file = library.file_name().map(|name| name.to_string_lossy().into_owned());
                    if file.is_some_and(|file| greeting.libraries.contains(&file)) {
                        self.contestants.push(Contestant {
                            id: id.to_owned(),
                            title: title.to_owned(),
                            start,
                            versions: greeting.versions,
                            ..shipped.clone()
                        });
                    } else {
                        self.absent(
                            id,
                            title,
                            format!("`{}` was not loaded, only {:?}", library.display(), greeting.libraries),
                            Some("name another with --openblas".to_owned()),
                        );
                    }
                }
            }
        }
        self.contestants.push(shipped);
        Ok(())
    }

    fn add_llama_cpp(&mut self, places: &PeerPlaces, interrupt: &Interrupt) -> Result<(), PeerError> {
        let (id, title) = ("llama.cpp", Peer::LlamaCpp.title());
        let Some(gguf) = &places.gguf else {
            self.absent(
                id,
                title,
                "no GGUF file of the model is known".to_owned(),
                Some("name it with --gguf".to_owned()),
            );
            return Ok(());
        };
        let start = script(&places.llama_cpp, Peer::LlamaCpp, BTreeMap::new());
        let hint = format!(
            "put llama-server on the path, or {}",
            install(&places.llama_cpp, "xllamacpp", "--python-llama-cpp")
        );
        if let Some(greeting) = self.probe(id, title, &start, interrupt, &hint)? {
            let file = gguf.file_name().unwrap_or(gguf.as_os_str()).to_string_lossy();
            self.contestants.push(Contestant {
                id: id.to_owned(),
                title: format!("{title}, {file}"),
                start,
                model: gguf.clone(),
                dtype: "as the file has it".to_owned(),
                device: greeting.first_device(),
                threads: cores(),
                does: Ability::Answers,
                // It computes with packed weights and rounds what goes into their products.
                exact: false,
                versions: greeting.versions,
            });
        }
        Ok(())
    }

    /// What a program says of itself; `None` where it does not come up, which is then noted.
    fn probe(
        &mut self,
        id: &str,
        title: &str,
        start: &Start,
        interrupt: &Interrupt,
        hint: &str,
    ) -> Result<Option<Greeting>, PeerError> {
        match PeerWorker::probe(start, interrupt, GREETING) {
            Ok(greeting) => Ok(Some(greeting)),
            Err(error) if error.is_interrupted() => Err(error),
            Err(error) => {
                self.absent(id, title, error.to_string(), Some(hint.to_owned()));
                Ok(None)
            }
        }
    }

    fn was_not_asked_for(&mut self, peer: Peer) {
        let hint = format!("`diagnose bench --peers {}`", peer.name());
        self.absent(peer.name(), peer.title(), "it was not asked for".to_owned(), Some(hint));
    }

    fn absent(&mut self, id: &str, title: &str, reason: String, hint: Option<String>) {
        self.absent.push(Absent {
            id: id.to_owned(),
            title: title.to_owned(),
            reason,
            hint,
        });
    }
}

fn script(python: &Python, peer: Peer, environment: BTreeMap<OsString, OsString>) -> Start {
    Start::Script {
        python: python.clone(),
        script: peer.script(),
        environment,
    }
}

fn install(python: &Python, packages: &str, option: &str) -> String {
    format!(
        "`{} -m pip install {packages}`, or name another python with {option}",
        python.name()
    )
}

fn cores() -> Option<usize> {
    std::thread::available_parallelism().ok().map(std::num::NonZero::get)
}

/// The file of `OpenBLAS`, links followed, or why there is none and what to do.
fn openblas(named: Option<&Path>) -> Result<PathBuf, (String, Option<String>)> {
    if !cfg!(target_os = "linux") {
        return Err((
            "only on Linux: elsewhere the wheel computes with the system's own library".to_owned(),
            None,
        ));
    }
    let found = match named {
        Some(named) => named
            .canonicalize()
            .map_err(|error| format!("`{}`: {error}", named.display())),
        None => OPENBLAS
            .iter()
            .find_map(|path| Path::new(path).canonicalize().ok())
            .ok_or_else(|| "OpenBLAS is not installed".to_owned()),
    };
    found.map_err(|reason| {
        let hint = "Debian, Ubuntu: `apt install libopenblas0-pthread`; or name the library with --openblas";
        (reason, Some(hint.to_owned()))
    })
}
