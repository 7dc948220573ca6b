/// A command of Python's mlx-lm: the module of the python on the path, or its own program, which may belong to another one.
pub(super) fn mlx_lm(program: &str, options: &str) -> String {
    format!(
        "if python3 -c 'import mlx_lm' >/dev/null 2>&1; then set -- python3 -m mlx_lm {program}; \
         else set -- mlx_lm.{program}; fi; exec \"$@\" {options}"
    )
}
