//! The tests that run with every release of MLX, in a binary of their own, so that a second release costs little to build.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod compatibility {
    mod mlx_versions;
}
