//! Colour on a terminal; its switch is one for the whole process, so it has a process of its own.

#![expect(clippy::expect_used, reason = "a test that cannot be set up fails")]

#[path = "it/support/situations/mod.rs"]
mod situations;

mod diagnosis {
    mod report_colour;
}
