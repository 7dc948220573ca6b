//! What only macOS tells of memory, asked through its C interfaces.
#![expect(
    unsafe_code,
    reason = "the system has no other interface for it, and no library here wraps it"
)]

use std::io;
use std::mem::MaybeUninit;

use nix::libc;

/// What the system charges a process with, in bytes.
pub(super) struct Charges {
    /// `ri_phys_footprint`, as Activity Monitor shows it: compressed and GPU pages included.
    pub(super) footprint: u64,
    /// `ri_wired_size`.
    pub(super) wired: u64,
}

/// What the system charges `pid` with (`proc_pid_rusage` in libproc.h, `rusage_info_v4` in sys/resource.h).
///
/// # Errors
/// The process ended, or is another user's.
pub(super) fn charges(pid: u32) -> io::Result<Charges> {
    let pid = libc::c_int::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut usage = MaybeUninit::<libc::rusage_info_v4>::zeroed();
    // SAFETY: the flavour says that the buffer is a `rusage_info_v4`, which it is; the call writes no more than that and keeps
    // no pointer. The declared type of the argument is the C header's, which is a pointer to the buffer all the same.
    let status = unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, usage.as_mut_ptr().cast()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all fields are integers, for which the zeros that were there before the call are values too.
    let usage = unsafe { usage.assume_init() };
    Ok(Charges {
        footprint: usage.ri_phys_footprint,
        wired: usage.ri_wired_size,
    })
}

/// The machine as the kernel names it.
pub(super) struct Host {
    port: libc::mach_port_t,
}

impl Host {
    /// Asks once: every call adds a reference that is not given back before the process ends.
    pub(super) fn new() -> Self {
        // SAFETY: takes nothing and cannot fail.
        #[expect(deprecated, reason = "the crate that it was moved to is no dependency here")]
        let port = unsafe { libc::mach_host_self() };
        Self { port }
    }

    /// Memory of the machine that cannot be paged out, in bytes (`host_statistics64` in `mach/mach_host.h`).
    pub(super) fn wired(&self) -> Option<u64> {
        let mut statistics = MaybeUninit::<libc::vm_statistics64>::zeroed();
        let mut count = libc::HOST_VM_INFO64_COUNT;
        // SAFETY: the flavour says that the buffer is a `vm_statistics64`, and `count` how many integers it has room for; the
        // call writes no more than that and keeps no pointer.
        let status = unsafe {
            libc::host_statistics64(
                self.port,
                libc::HOST_VM_INFO64,
                statistics.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        if status != libc::KERN_SUCCESS {
            return None;
        }
        // SAFETY: all fields are integers, for which the zeros that were there before the call are values too.
        let statistics = unsafe { statistics.assume_init() };
        // SAFETY: takes a number and returns one.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        u64::from(statistics.wire_count).checked_mul(page)
    }
}

/// Processor seconds of this thread.
pub(super) fn thread_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`, which the pointer is to.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (status == 0).then(|| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}
