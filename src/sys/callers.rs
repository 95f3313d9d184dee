//! Shared objects of the callers' own, through the helpers that they link.

use super::file::Owner;
use super::file::stat;
use super::{allocate, errno, last_error, retry, shm};
use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// How often an object that comes and goes is tried, and after how many tries one that is too short
/// counts as left over.
const ATTEMPTS: u32 = 100;
const LEFTOVER_AFTER: u32 = 50;

/// Opens an object, or makes it with `length` bytes; answers its descriptor and whether it was made.
/// A new one gets the owner and permissions given.
pub fn open_object(name: &CStr, length: usize, owner: Option<Owner>) -> io::Result<(i32, bool)> {
    for attempt in 0..ATTEMPTS {
        let made = retry(|| {
            // SAFETY: a C string; the mode is given.
            i64::from(unsafe {
                libc::shm_open(
                    name.as_ptr(),
                    libc::O_CREAT | libc::O_EXCL | libc::O_RDWR,
                    0o644,
                )
            })
        });
        match made {
            Ok(fd) => {
                // SAFETY: just opened, owned by nobody else.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                if let Some(owner) = owner {
                    shm::give_to(fd.as_raw_fd(), owner);
                }
                // Allocated, not only sized: a store must not fail later.
                if length > 0
                    && let Err(e) = allocate(fd.as_raw_fd(), 0, length)
                {
                    // SAFETY: a C string.
                    unsafe { libc::shm_unlink(name.as_ptr()) };
                    return Err(e);
                }
                return Ok((fd.into_raw_fd(), true));
            }
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
        // SAFETY: as above.
        match retry(|| i64::from(unsafe { libc::shm_open(name.as_ptr(), libc::O_RDWR, 0) })) {
            Ok(fd) => {
                // SAFETY: just opened, owned by nobody else.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                let st = stat(&fd)?;
                let regular = st.st_mode & libc::S_IFMT == libc::S_IFREG;
                if !regular || owner.is_some_and(|o| !shm::is_trusted(&st, o)) {
                    return Err(errno(libc::EACCES));
                }
                if st.st_size as u64 >= length as u64 {
                    return Ok((fd.into_raw_fd(), false));
                }
                if attempt >= LEFTOVER_AFTER {
                    // Nobody who made it has sized it: a leftover.
                    // SAFETY: a C string.
                    unsafe { libc::shm_unlink(name.as_ptr()) };
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            // Removed in between: made anew.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Err(errno(libc::EAGAIN))
}

/// Maps an object; MAP_FAILED on an error.
pub fn map(fd: i32, length: usize) -> *mut c_void {
    // SAFETY: a new mapping, at an address of the kernel's choice.
    unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    }
}

/// Unmaps; whether that worked.
///
/// # Safety
/// Nobody uses the memory any more.
pub unsafe fn unmap(at: *mut c_void, length: usize) -> bool {
    // SAFETY: the caller's promise.
    !at.is_null() && at != libc::MAP_FAILED && unsafe { libc::munmap(at, length) } == 0
}

/// Closes a descriptor and removes the name; whether both worked.
///
/// # Safety
/// The descriptor is the caller's and not used afterwards.
pub unsafe fn close_object(fd: i32, name: &CStr) -> bool {
    // SAFETY: the caller's promise.
    let closed = unsafe { libc::close(fd) } == 0;
    // SAFETY: a C string.
    let removed = unsafe { libc::shm_unlink(name.as_ptr()) } == 0;
    let gone = removed || last_error().raw_os_error() == Some(libc::ENOENT);
    closed && gone
}
