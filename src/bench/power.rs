//! The energy that the processor uses, as far as the system tells.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::BenchError;

/// Where Linux shows the processor's counters of energy (its documentation, `power/powercap/powercap.rst`).
pub const POWERCAP: &str = "/sys/class/powercap";
/// What counters of Intel's and AMD's processors are called there; the same counters read through memory have another name.
const CONTROL: &str = "intel-rapl:";
/// What macOS tells power with.
const POWERMETRICS: &str = "powermetrics";
/// The line of what it prints that counts, in milliwatts.
const COMBINED: &str = "Combined Power (CPU + GPU + ANE):";
/// Microjoules in a joule, and milliwatts in a kilowatt.
const MICRO: f64 = 1e-6;
const MILLI: f64 = 1e-3;

/// Why energy is not known.
#[derive(Debug, Error)]
pub enum PowerError {
    /// There are no counters.
    #[error("there are no counters of a processor's energy in `{}`, as in most virtual machines", .0.display())]
    None(PathBuf),
    /// They are there, but not for everybody.
    #[error("`{}` may not be read: Linux shows it to root only, since it gives away what others compute (CVE-2020-8694)", .0.display())]
    Denied(PathBuf),
    /// A counter says something that is no number.
    #[error("`{}` cannot be used: {found}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// macOS does not tell.
    #[error("`powermetrics` tells nothing, which needs administrator rights: {0}")]
    Powermetrics(String),
}

/// Who tells the energy.
#[derive(Debug)]
pub enum PowerMeter {
    /// Counters of the processor, on Linux.
    Counters(EnergyCounters),
    /// A program of macOS, run without asking for a password.
    Powermetrics,
}

impl PowerMeter {
    /// The one of this machine; `powercap` is [`POWERCAP`].
    ///
    /// # Errors
    /// There is none, or it does not talk to this user.
    pub fn find(powercap: &Path) -> Result<Self, PowerError> {
        if cfg!(target_os = "macos") {
            let told = powermetrics(Duration::from_millis(100), || Ok(()));
            return match told {
                Ok(_) => Ok(Self::Powermetrics),
                Err(error) => Err(PowerError::Powermetrics(error.to_string())),
            };
        }
        EnergyCounters::find(powercap).map(Self::Counters)
    }

    /// Who tells, in words.
    pub fn source(&self) -> String {
        match self {
            Self::Counters(counters) => format!("by the processor's counters of {}", counters.names().join(", ")),
            Self::Powermetrics => "by macOS's estimate of processor, GPU and neural engine together".to_owned(),
        }
    }

    /// Joules of one `work`, which is done again and again for `time`, and how often it was done in a second.
    pub fn joules(&self, time: Duration, mut work: impl FnMut() -> Result<(), BenchError>) -> Result<f64, BenchError> {
        match self {
            Self::Counters(counters) => {
                let told = |error: PowerError| BenchError::Unexpected(error.to_string());
                let before = counters.read().map_err(told)?;
                let times = repeated(time, &mut work)?;
                let after = counters.read().map_err(told)?;
                Ok(counters.joules_between(&before, &after) / times)
            }
            Self::Powermetrics => powermetrics(time, work),
        }
    }
}

/// Does `work` for `time`, at least once; returns how often.
fn repeated(time: Duration, work: &mut impl FnMut() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let started = Instant::now();
    let mut times = 0.0;
    loop {
        work()?;
        times += 1.0;
        if started.elapsed() >= time {
            return Ok(times);
        }
    }
}

/// Joules of one `work` by the mean power that `powermetrics` tells of the time meanwhile.
fn powermetrics(time: Duration, mut work: impl FnMut() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let program = Command::new("sudo")
        .args(["-n", POWERMETRICS, "--samplers", "cpu_power", "-n", "1", "-i"])
        .arg(time.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let started = Instant::now();
    let times = repeated(time, &mut work);
    let seconds = started.elapsed().as_secs_f64();
    let output = program.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match combined_watts(&text) {
        Some(watts) => Ok(watts * seconds / times?),
        None => Err(BenchError::Unexpected(
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .next()
                .unwrap_or("it printed no combined power")
                .to_owned(),
        )),
    }
}

/// The watts in what `powermetrics` printed.
pub fn combined_watts(text: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(COMBINED))?;
    let milliwatts: f64 = rest.trim().strip_suffix("mW")?.trim().parse().ok()?;
    Some(milliwatts * MILLI)
}

/// The counters of every processor package and of the memory beside it.
#[derive(Debug)]
pub struct EnergyCounters {
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    name: String,
    counter: PathBuf,
    /// Microjoules after which the counter begins again.
    range: u64,
}

impl EnergyCounters {
    /// Those in `powercap`, all of which can be read.
    ///
    /// # Errors
    /// [`PowerError`].
    pub fn find(powercap: &Path) -> Result<Self, PowerError> {
        let none = || PowerError::None(powercap.to_owned());
        let entries = powercap.read_dir().map_err(|_| none())?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let mut zones = Vec::new();
        for folder in folders {
            let file_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !file_name.starts_with(CONTROL) {
                continue;
            }
            let name = read(&folder.join("name"))?;
            // A package has its cores and its graphics in it, but not the memory; the platform has all packages in it.
            if name.starts_with("package") || name == "dram" {
                zones.push(Zone {
                    range: number(&folder.join("max_energy_range_uj"))?,
                    counter: folder.join("energy_uj"),
                    name,
                });
            }
        }
        if zones.is_empty() {
            return Err(none());
        }
        let counters = Self { zones };
        counters.read()?;
        Ok(counters)
    }

    /// What the counters are called, in order.
    pub fn names(&self) -> Vec<String> {
        self.zones.iter().map(|zone| zone.name.clone()).collect()
    }

    /// What the counters show, in their order.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(&self) -> Result<Vec<u64>, PowerError> {
        self.zones.iter().map(|zone| number(&zone.counter)).collect()
    }

    /// Joules between two readings, between which no counter began again more than once: at 200 W the usual range of 262 kJ
    /// lasts 22 minutes.
    pub fn joules_between(&self, before: &[u64], after: &[u64]) -> f64 {
        let zones = self.zones.iter().zip(before.iter().zip(after));
        let microjoules = zones.map(|(zone, (&before, &after))| {
            if after >= before {
                after - before
            } else {
                // The counter began again at zero; the step from its range to there is one of its units, some 60 microjoules.
                zone.range.saturating_sub(before) + after
            }
        });
        microjoules.map(|microjoules| microjoules as f64).sum::<f64>() * MICRO
    }
}

fn number(path: &Path) -> Result<u64, PowerError> {
    let text = read(path)?;
    text.parse().map_err(|_| PowerError::Broken {
        path: path.to_owned(),
        found: format!("`{}` is no number", text.chars().take(40).collect::<String>()),
    })
}

fn read(path: &Path) -> Result<String, PowerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(PowerError::unread(path, &error)),
    }
}

impl PowerError {
    fn unread(path: &Path, error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Denied(path.to_owned()),
            _ => Self::Broken {
                path: path.to_owned(),
                found: error.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorKind, Path, PowerError};

    #[test]
    fn a_file_for_root_alone_names_the_reason() {
        let path = Path::new("/sys/class/powercap/intel-rapl:0/energy_uj");
        let denied = PowerError::unread(path, &ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, PowerError::Denied(_)), "{denied}");
        assert!(denied.to_string().contains("CVE-2020-8694"), "{denied}");
        let broken = PowerError::unread(path, &ErrorKind::NotFound.into());
        assert!(matches!(broken, PowerError::Broken { .. }), "{broken}");
    }
}
