//! What the linked MLX library is and which devices it finds.

use std::collections::BTreeMap;
use std::ffi::CStr;

use crate::{
    mlx_cuda_is_available, mlx_device_count, mlx_device_free, mlx_device_info, mlx_device_info_free,
    mlx_device_info_get, mlx_device_info_get_keys, mlx_device_info_get_size, mlx_device_info_get_string,
    mlx_device_info_is_string, mlx_device_info_new, mlx_device_new, mlx_device_new_type, mlx_device_type,
    mlx_device_type__MLX_CPU, mlx_device_type__MLX_GPU, mlx_get_default_device, mlx_get_default_stream,
    mlx_metal_is_available, mlx_stream_free, mlx_stream_new, mlx_string_data, mlx_string_free, mlx_string_new,
    mlx_synchronize, mlx_vector_string_free, mlx_vector_string_get, mlx_vector_string_new, mlx_vector_string_size,
    mlx_version,
};

/// Whether MLX can compute on a Metal device here.
pub fn metal_is_available() -> bool {
    let mut available = false;
    // SAFETY: the pointer is to a local that outlives the call; on failure the value stays false.
    unsafe { mlx_metal_is_available(&raw mut available) };
    available
}

/// Whether MLX can compute on a CUDA device here.
pub fn cuda_is_available() -> bool {
    let mut available = false;
    // SAFETY: as above.
    unsafe { mlx_cuda_is_available(&raw mut available) };
    available
}

/// Lets MLX evaluate a graph breadth first, whatever its width, unless the user has set the width.
///
/// By default MLX turns to depth first beyond a width of 20 arrays, and then works through the part of a graph that lies on
/// one CPU stream before it begins with the next, so that streams wait for each other. Call it before the first
/// evaluation, when MLX reads the setting.
pub fn evaluate_breadth_first() {
    const WIDTH: &str = "MLX_BFS_MAX_WIDTH";
    if std::env::var_os(WIDTH).is_none() {
        // SAFETY: a data race needs another thread in the C library's `getenv` at this moment; MLX, which alone reads
        // variables behind Rust's lock, has no thread before the first evaluation.
        unsafe { std::env::set_var(WIDTH, i32::MAX.to_string()) };
    }
}

/// Waits until the default stream of the default device has done its work.
pub fn synchronize() {
    // SAFETY: device and stream are made, filled, used and freed here; an unset handle is refused with a status.
    unsafe {
        let mut device = mlx_device_new();
        mlx_get_default_device(&raw mut device);
        let mut stream = mlx_stream_new();
        mlx_get_default_stream(&raw mut stream, device);
        mlx_synchronize(stream);
        mlx_stream_free(stream);
        mlx_device_free(device);
    }
}

/// The version of the linked MLX library; `None` when it does not say.
pub fn version() -> Option<String> {
    // SAFETY: the string is made, filled, copied and freed here; its data is NUL-terminated as long as it lives.
    unsafe {
        let mut text = mlx_string_new();
        let status = mlx_version(&raw mut text);
        let data = mlx_string_data(text);
        let version = (status == 0 && !data.is_null()).then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_string_free(text);
        version
    }
}

/// The version of the MLX whose headers this program was compiled with.
pub const HEADERS_VERSION: &str = env!("MLX_HEADERS_VERSION");

/// The MLX library that a program loaded is not the one that it was compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionMismatch {
    /// The version of the headers.
    pub headers: String,
    /// The version of the library; `None` when it does not say.
    pub library: Option<String>,
}

impl std::fmt::Display for VersionMismatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "the MLX library that was loaded is not the one that this program was compiled for\n  found: MLX {}\n  expected: \
             MLX {}\n  hint: see what LD_LIBRARY_PATH (DYLD_LIBRARY_PATH on a Mac) names, and what lies in mlx/lib beside \
             the program",
            self.library.as_deref().unwrap_or("of an unknown version"),
            self.headers
        )
    }
}

impl std::error::Error for VersionMismatch {}

/// Compares the library that was loaded with the headers that the program was compiled with: objects of one are not laid
/// out as those of the other, and nothing else would say so.
///
/// # Errors
/// They are of different versions.
pub fn check_version() -> Result<(), VersionMismatch> {
    same_version(HEADERS_VERSION, version())
}

/// A library's version may have a suffix for builds of one's own, as in `0.32.2.dev20260101+abc`.
fn same_version(headers: &str, library: Option<String>) -> Result<(), VersionMismatch> {
    let same = library.as_deref().is_some_and(|library| {
        let rest = library.strip_prefix(headers);
        rest.is_some_and(|rest| !rest.starts_with(|character: char| character.is_ascii_digit()))
    });
    if same {
        return Ok(());
    }
    Err(VersionMismatch {
        headers: headers.to_owned(),
        library,
    })
}

/// What MLX says of a device under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceProperty {
    /// A name.
    Text(String),
    /// A count, or a number of bytes.
    Number(usize),
}

/// The kinds of device that MLX knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A Metal or CUDA device.
    Gpu,
}

/// What MLX says of each of its devices of this kind, in their order; nothing where it has none.
///
/// Metal names `device_name`, `architecture`, `memory_size`, `max_recommended_working_set_size` and
/// `max_buffer_length`; CUDA `device_name`, `compute_capability_major` and `_minor`, `total_memory` and `free_memory`.
pub fn device_properties(kind: DeviceKind) -> Vec<BTreeMap<String, DeviceProperty>> {
    let type_ = match kind {
        DeviceKind::Cpu => mlx_device_type__MLX_CPU,
        // Asking for a device that is not there ends the process unless somebody handles MLX's errors.
        DeviceKind::Gpu if !metal_is_available() && !cuda_is_available() => return Vec::new(),
        DeviceKind::Gpu => mlx_device_type__MLX_GPU,
    };
    let mut count = 0;
    // SAFETY: the pointer is to a local that outlives the call; on failure the value stays 0.
    unsafe { mlx_device_count(&raw mut count, type_) };
    (0..count).map(|index| properties_of(type_, index)).collect()
}

fn properties_of(type_: mlx_device_type, index: i32) -> BTreeMap<String, DeviceProperty> {
    let mut properties = BTreeMap::new();
    // SAFETY: device, properties and names are made, filled, read and freed here; a status other than 0 leaves them empty,
    // and a key that was got lives as long as the list of keys.
    unsafe {
        let device = mlx_device_new_type(type_, index);
        let mut info = mlx_device_info_new();
        let mut keys = mlx_vector_string_new();
        if mlx_device_info_get(&raw mut info, device) == 0 && mlx_device_info_get_keys(&raw mut keys, info) == 0 {
            for place in 0..mlx_vector_string_size(keys) {
                let mut key = std::ptr::null_mut();
                if mlx_vector_string_get(&raw mut key, keys, place) == 0 && !key.is_null() {
                    let key = CStr::from_ptr(key);
                    let property = device_property(info, key);
                    properties.extend(property.map(|value| (key.to_string_lossy().into_owned(), value)));
                }
            }
        }
        mlx_vector_string_free(keys);
        mlx_device_info_free(info);
        mlx_device_free(device);
    }
    properties
}

/// The property called `key`; `None` where there is none.
///
/// # Safety
/// `info` was filled by MLX and is not freed.
unsafe fn device_property(info: mlx_device_info, key: &CStr) -> Option<DeviceProperty> {
    // SAFETY: the pointers are to locals that outlive the calls, and the text lives as long as `info`.
    unsafe {
        let mut is_text = false;
        if mlx_device_info_is_string(&raw mut is_text, info, key.as_ptr()) != 0 {
            return None;
        }
        if is_text {
            let mut text = std::ptr::null();
            let status = mlx_device_info_get_string(&raw mut text, info, key.as_ptr());
            return (status == 0 && !text.is_null())
                .then(|| DeviceProperty::Text(CStr::from_ptr(text).to_string_lossy().into_owned()));
        }
        let mut number = 0;
        let status = mlx_device_info_get_size(&raw mut number, info, key.as_ptr());
        (status == 0).then_some(DeviceProperty::Number(number))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::same_version;

    #[rstest]
    #[case(Some("0.32.2"), true)]
    #[case(Some("0.32.2.dev20260101+abc"), true)]
    #[case(Some("0.32.20"), false)]
    #[case(Some("0.32.4"), false)]
    #[case(Some("0.31.2"), false)]
    #[case(None, false)]
    fn a_library_is_that_of_the_headers_or_refused(#[case] library: Option<&str>, #[case] same: bool) {
        let checked = same_version("0.32.2", library.map(str::to_owned));
        assert_eq!(checked.is_ok(), same);
        if let Err(mismatch) = checked {
            let text = mismatch.to_string();
            assert!(text.contains("expected: MLX 0.32.2\n"), "{text}");
            assert!(text.contains(library.unwrap_or("unknown")), "{text}");
        }
    }
}
