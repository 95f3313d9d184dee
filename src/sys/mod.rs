//! Every call of the operating system. `unsafe` lives here and in `capi` only; each block says why
//! it holds.
//!
//! Memory that other processes write, the mapped file and the shared objects, is never borrowed:
//! bytes are copied in and out, words are atomics.

// Offsets of files are kept in addresses and in `off_t`.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("64-bit targets only");

pub mod callers;
pub mod carryless;
#[cfg(feature = "dlt")]
pub mod dlt;
pub mod file;
pub mod fork;
pub mod lock;
pub mod map;
pub mod names;
pub mod prefetch;
pub mod published;
#[cfg(feature = "capi")]
mod reserve;
pub mod sem;
pub mod shm;
pub mod sigbus;
pub mod users;

use std::io;

/// The error number that a libc call left, as an error.
pub(crate) fn last_error() -> io::Error {
    io::Error::last_os_error()
}

/// An error with this number.
pub(crate) fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

/// Repeats a libc call that answers -1 while it was interrupted.
pub(crate) fn retry(mut call: impl FnMut() -> i64) -> io::Result<i64> {
    loop {
        match call() {
            -1 => {
                let e = last_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
            n => return Ok(n),
        }
    }
}

/// Past the limit on the size of files the kernel would send a deadly signal.
pub(crate) fn room_allowed(len: u64) -> io::Result<()> {
    // SAFETY: all zero is a valid rlimit.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // Not by libc, which asks with prlimit64: that takes three times as long, and this is asked for each new pair.
    // SAFETY: with 64 bits the kernel's rlimit is libc's.
    let asked = unsafe { libc::syscall(libc::SYS_getrlimit, libc::RLIMIT_FSIZE, &raw mut limit) };
    // SAFETY: the buffer is an rlimit.
    let known = asked == 0 || unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0;
    if known && limit.rlim_cur != libc::RLIM_INFINITY && len > limit.rlim_cur {
        return Err(errno(libc::EFBIG));
    }
    Ok(())
}

/// Gives a range of a shared object its memory; on tmpfs this can be interrupted.
pub(crate) fn allocate(fd: i32, from: usize, to: usize) -> io::Result<()> {
    room_allowed(to as u64)?;
    loop {
        // SAFETY: a call on a descriptor.
        match unsafe { libc::posix_fallocate(fd, from as libc::off_t, (to - from) as libc::off_t) }
        {
            0 => return Ok(()),
            libc::EINTR => {}
            n => return Err(errno(n)),
        }
    }
}

/// Sets errno for a C caller.
pub(crate) fn set_errno(n: i32) {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = n };
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

/// While it lives, this thread can't be cancelled: its unwinding would leave locks held.
pub(crate) struct NotCancelled(libc::c_int);

impl NotCancelled {
    const DISABLE: libc::c_int = 1;

    pub fn new() -> Self {
        let mut old = 0;
        // SAFETY: sets a flag of this thread.
        unsafe { pthread_setcancelstate(Self::DISABLE, &mut old) };
        Self(old)
    }
}

impl Drop for NotCancelled {
    fn drop(&mut self) {
        // SAFETY: sets the flag back.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}
