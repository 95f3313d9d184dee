//! The caller's named semaphore.

use super::names;
use std::ffi::CString;

/// The semaphore that a caller opened, by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sem(*mut libc::sem_t);

// SAFETY: a process-shared semaphore may be used by any thread.
unsafe impl Send for Sem {}
// SAFETY: as above.
unsafe impl Sync for Sem {}

impl Sem {
    /// `None` for NULL and SEM_FAILED, which is 0 as well.
    ///
    /// # Safety
    /// `sem` is NULL or came from sem_open and stays open until [`Sem::post_and_close`].
    pub unsafe fn new(sem: *mut libc::sem_t) -> Option<Self> {
        (!sem.is_null()).then_some(Self(sem))
    }

    /// Its value; 1 if it can't be asked.
    pub fn value(self) -> i32 {
        let mut v = 1;
        // SAFETY: open, by the promise of `new`.
        unsafe { libc::sem_getvalue(self.0, &mut v) };
        v
    }

    /// Adds one.
    pub fn post(self) {
        // SAFETY: open, by the promise of `new`.
        unsafe { libc::sem_post(self.0) };
    }

    /// Adds one and closes it; it must not be used any more.
    pub fn post_and_close(self) {
        self.post();
        // SAFETY: open, by the promise of `new`.
        unsafe { libc::sem_close(self.0) };
    }
}

/// Removes the name of a semaphore.
pub fn unlink(name: &[u8]) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: a C string.
        unsafe { libc::sem_unlink(name.as_ptr()) };
    }
}

/// Removes the semaphore of a database path.
pub fn unlink_of(path: &[u8]) {
    unlink(&names::shm_name(names::SEM, path));
}
