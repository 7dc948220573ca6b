//! What programs leave in a folder for temporary files.

use std::path::Path;

/// The names of what lies in `folder`, but for the kernels that MLX compiled and keeps for every program that comes after.
pub fn left_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("mlx"))
        .collect();
    names.sort();
    names
}
