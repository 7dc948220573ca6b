//! NVIDIA's devices, by MLX or by NVIDIA's tool.

use std::collections::BTreeMap;

use mlx_sys::backend::DeviceProperty;

use super::program::RunProgram;
use crate::evidence::{CudaEvidence, CudaSource, Detected};

/// What NVIDIA's tool is asked for, in this order.
const QUERY: &str = "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version";
/// Bytes of the unit that NVIDIA's tool counts in.
const MEBIBYTE: u64 = 1 << 20;

/// The devices that MLX lists, or else those that NVIDIA's tool lists.
pub(super) fn detect(of_mlx: &[BTreeMap<String, DeviceProperty>], run: &RunProgram<'_>) -> Detected<Vec<CudaEvidence>> {
    if !of_mlx.is_empty() {
        return Detected::Found(of_mlx.iter().map(of_properties).collect());
    }
    match run("nvidia-smi", &[QUERY, "--format=csv,noheader,nounits"]) {
        Ok(text) => of_table(&text),
        Err(error) => Detected::absent(format!("MLX finds no CUDA device, and {error}")),
    }
}

fn of_properties(properties: &BTreeMap<String, DeviceProperty>) -> CudaEvidence {
    let number = |key: &str| match properties.get(key) {
        Some(DeviceProperty::Number(number)) => Detected::Found(*number as u64),
        _ => Detected::absent(format!("MLX names no `{key}`")),
    };
    let capability = match (number("compute_capability_major"), number("compute_capability_minor")) {
        (Detected::Found(major), Detected::Found(minor)) => Detected::Found(format!("{major}.{minor}")),
        _ => Detected::absent("MLX names no `compute_capability_major`"),
    };
    CudaEvidence {
        name: super::machine::text(properties, "device_name"),
        compute_capability: capability,
        total_memory: number("total_memory"),
        free_memory: number("free_memory"),
        driver: Detected::absent("MLX does not name it"),
        source: CudaSource::Mlx,
    }
}

/// The devices in the lines of NVIDIA's tool.
fn of_table(text: &str) -> Detected<Vec<CudaEvidence>> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let devices: Option<Vec<CudaEvidence>> = lines.iter().map(|line| of_line(line)).collect();
    match devices {
        Some(devices) if !devices.is_empty() => Detected::Found(devices),
        // Without a driver it prints why in the place of a table, and ends with an error.
        _ => Detected::absent(format!(
            "MLX finds no CUDA device, and `nvidia-smi` lists none: {}",
            lines.first().unwrap_or(&"it printed nothing")
        )),
    }
}

fn of_line(line: &str) -> Option<CudaEvidence> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    let [name, capability, total, free, driver] = cells[..] else {
        return None;
    };
    let said = |cell: &str| {
        // `[N/A]`, `[Not Supported]`: devices that share the machine's memory have none of their own.
        if cell.is_empty() || cell.starts_with('[') {
            Detected::absent(format!("`nvidia-smi` says `{cell}`"))
        } else {
            Detected::Found(cell.to_owned())
        }
    };
    let bytes = |cell: &str| match cell.parse::<u64>() {
        Ok(count) => Detected::Found(count.saturating_mul(MEBIBYTE)),
        Err(_) => Detected::absent(format!("`nvidia-smi` says `{cell}`")),
    };
    Some(CudaEvidence {
        name: said(name),
        compute_capability: said(capability),
        total_memory: bytes(total),
        free_memory: bytes(free),
        driver: said(driver),
        source: CudaSource::NvidiaSmi,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mlx_sys::backend::DeviceProperty;

    use super::{MEBIBYTE, detect};
    use crate::device::program::ProgramError;
    use crate::evidence::{CudaEvidence, CudaSource, Detected};

    fn by_nvidia_smi(printed: &str) -> Detected<Vec<CudaEvidence>> {
        detect(&[], &|program, _| {
            assert_eq!(program, "nvidia-smi");
            Ok(printed.to_owned())
        })
    }

    #[test]
    fn nvidia_smi_lists_what_mlx_cannot_use() {
        let printed = "NVIDIA H100 80GB HBM3, 9.0, 81559, 81008, 550.54.15\n\
                       NVIDIA GeForce RTX 4090, 8.9, 24564, 23000, 550.54.15\n";
        let Detected::Found(devices) = by_nvidia_smi(printed) else {
            panic!("not found")
        };
        assert_eq!(devices.len(), 2);
        assert_eq!(
            devices[0],
            CudaEvidence {
                name: Detected::Found("NVIDIA H100 80GB HBM3".to_owned()),
                compute_capability: Detected::Found("9.0".to_owned()),
                total_memory: Detected::Found(81559 * MEBIBYTE),
                free_memory: Detected::Found(81008 * MEBIBYTE),
                driver: Detected::Found("550.54.15".to_owned()),
                source: CudaSource::NvidiaSmi,
            }
        );
        assert_eq!(devices[1].name, Detected::Found("NVIDIA GeForce RTX 4090".to_owned()));
    }

    #[test]
    fn a_device_that_shares_the_machines_memory_has_none_of_its_own() {
        let Detected::Found(devices) = by_nvidia_smi("NVIDIA GB10, 12.1, [N/A], [N/A], 580.95.05\n") else {
            panic!("not found")
        };
        assert_eq!(devices[0].total_memory, Detected::absent("`nvidia-smi` says `[N/A]`"));
        assert_eq!(devices[0].compute_capability, Detected::Found("12.1".to_owned()));
    }

    #[test]
    fn a_driver_in_trouble_is_no_device() {
        let printed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the \
                       latest NVIDIA driver is installed and running.\n";
        let Detected::Absent { reason } = by_nvidia_smi(printed) else {
            panic!("found")
        };
        assert!(
            reason.starts_with("MLX finds no CUDA device, and `nvidia-smi` lists none: NVIDIA-SMI has failed"),
            "{reason}"
        );
        assert_eq!(
            by_nvidia_smi("\n"),
            Detected::absent("MLX finds no CUDA device, and `nvidia-smi` lists none: it printed nothing")
        );
    }

    #[test]
    fn a_machine_without_the_tool_says_so() {
        let found = detect(&[], &|program, _| {
            Err(ProgramError::NotRun {
                program: program.to_owned(),
                reason: "it is not installed".to_owned(),
            })
        });
        assert_eq!(
            found,
            Detected::absent("MLX finds no CUDA device, and `nvidia-smi` cannot be run: it is not installed")
        );
    }

    #[test]
    fn what_mlx_says_comes_first() {
        let properties = BTreeMap::from([
            (
                "device_name".to_owned(),
                DeviceProperty::Text("NVIDIA H100 80GB HBM3".to_owned()),
            ),
            ("compute_capability_major".to_owned(), DeviceProperty::Number(9)),
            ("compute_capability_minor".to_owned(), DeviceProperty::Number(0)),
            ("total_memory".to_owned(), DeviceProperty::Number(85_520_809_984)),
        ]);
        let found = detect(&[properties], &|_, _| panic!("nobody else is asked"));
        let Detected::Found(devices) = found else {
            panic!("not found")
        };
        assert_eq!(devices[0].compute_capability, Detected::Found("9.0".to_owned()));
        assert_eq!(devices[0].total_memory, Detected::Found(85_520_809_984));
        assert_eq!(devices[0].free_memory, Detected::absent("MLX names no `free_memory`"));
        assert_eq!(devices[0].source, CudaSource::Mlx);
    }
}
