//! Shared objects of the callers' own, through the helpers that they link.

use super::file::Owner;
use super::file::{above_standard, stat};
use super::{allocate, errno, last_error, names, retry, shm};
use std::ffi::{CStr, CString, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// How often an object that comes and goes is tried, and after how many tries one without a size counts as left over:
/// others than this library can be making it.
const ATTEMPTS: u32 = 100;
const LEFTOVER_AFTER: u32 = 50;

/// Opens an object, or makes it with `length` bytes; answers its descriptor and whether it was made.
/// A new one gets the owner and permissions given.
///
/// # Errors
/// `EINVAL`: there is a shorter one, which somebody may use; `EACCES`: there is one of a stranger.
pub fn open_object(name: &CStr, length: usize, owner: Option<Owner>) -> io::Result<(i32, bool)> {
    for attempt in 0..ATTEMPTS {
        // SAFETY: a C string.
        match retry(|| i64::from(unsafe { libc::shm_open(name.as_ptr(), libc::O_RDWR, 0) })) {
            Ok(fd) => {
                // SAFETY: just opened, owned by nobody else.
                let fd = above_standard(unsafe { OwnedFd::from_raw_fd(fd as i32) })?;
                let st = stat(&fd)?;
                let regular = st.st_mode & libc::S_IFMT == libc::S_IFREG;
                if !regular || owner.is_some_and(|o| !shm::is_trusted(&st, o)) {
                    return Err(errno(libc::EACCES));
                }
                if st.st_size as u64 >= length as u64 {
                    return Ok((fd.into_raw_fd(), false));
                }
                if st.st_size != 0 {
                    return Err(errno(libc::EINVAL));
                }
                if attempt >= LEFTOVER_AFTER {
                    remove_leftover(name, &fd)?;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
        match make_object(name, length, owner) {
            Ok(fd) => return Ok((fd.into_raw_fd(), true)),
            // Somebody was faster.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(errno(libc::EAGAIN))
}

/// A new object, which has its name only when it is whole.
fn make_object(name: &CStr, length: usize, owner: Option<Owner>) -> io::Result<OwnedFd> {
    let dir = CString::new(names::SHM_DIR)?;
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: a C string; the mode is given.
    let fd = retry(|| i64::from(unsafe { libc::open(dir.as_ptr(), flags, 0o644) }))?;
    // SAFETY: just opened, owned by nobody else.
    let fd = above_standard(unsafe { OwnedFd::from_raw_fd(fd as i32) })?;
    // Allocated, not only sized: a store must not fail later.
    if length > 0 {
        allocate(fd.as_raw_fd(), 0, length)?;
    }
    if let Some(owner) = owner {
        shm::give_to(fd.as_raw_fd(), owner);
    }
    shm::link_fd(&fd, name.to_bytes())?;
    Ok(fd)
}

/// Removes the name of an object that nobody who made it has sized, if it is still its name: who does so holds a lock
/// on the object.
fn remove_leftover(name: &CStr, fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a system call on an open descriptor.
    let locked = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
    if !locked {
        return Ok(());
    }
    let path = names::shm_path(name.to_bytes()).ok_or_else(|| errno(libc::EINVAL))?;
    if shm::inode_of(&path) == Some(stat(fd)?.st_ino) {
        // SAFETY: a C string.
        unsafe { libc::shm_unlink(name.as_ptr()) };
    }
    Ok(())
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
