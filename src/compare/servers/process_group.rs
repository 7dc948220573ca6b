//! A program that is started in a process group of its own, which does not outlive this program.
//!
//! Whatever ends this program (a second Ctrl-C, SIGQUIT, SIGKILL, want of memory) closes its end of a pipe, at whose other end
//! a shell waits, which then kills the group. `PR_SET_PDEATHSIG` would do less: Linux only, the one process and not what it
//! started, and with the end of the thread that started it rather than of the program.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Waits for a line, and kills the group `$0` where the pipe ends without one.
const WATCH: &str = r#"read -r ended || kill -s KILL -- "-$0""#;

/// A process and all that it starts in its group, until it is dropped.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    child: Child,
    watcher: Option<Watcher>,
    is_left: bool,
}

/// The shell that waits for the end of this program.
#[derive(Debug)]
struct Watcher {
    shell: Child,
    pipe: ChildStdin,
}

impl ProcessGroup {
    /// Starts the first process of a group.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        Ok(Self {
            // Without a shell, this program's own ways of ending a group are all there are.
            watcher: Watcher::start(child.id()).ok(),
            child,
            is_left: false,
        })
    }

    /// The first process.
    pub(super) fn leader(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The number of the group and of its first process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets what is still running in the group be, as a program means it that starts a service and ends.
    pub(super) fn leave(mut self) {
        self.is_left = true;
    }

    /// Signals the group; one that has ended already needs no signal.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.is_left {
            self.signal(Signal::SIGKILL);
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.dismiss();
        }
    }
}

impl Watcher {
    /// In a group of its own too, so that Ctrl-C does not end it.
    fn start(group: u32) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, &group.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { shell, pipe })
    }

    /// Tells it that the group has ended: its number may become that of another one.
    fn dismiss(mut self) {
        if self.pipe.write_all(b"ended\n").is_err() {
            // Somebody ended the shell.
            let _ = self.shell.kill();
        }
        let _ = self.shell.wait();
    }
}
