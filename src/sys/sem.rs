//! The caller's named semaphore.

use super::file::File;
use super::names;
use super::shm::Shm;
use crate::log;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

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

/// A semaphore that was at 0 for so long, with nobody alive who could hold it, is posted. A holder
/// is outside our sight only between its wait and its call, and between that call and its post.
const ORPHANED_AFTER: Duration = Duration::from_millis(200);
/// An opener waits no longer than this for a holder that is alive; its own wait goes on then.
const PATIENCE: Duration = Duration::from_secs(3);

/// An observation older than this many milliseconds says nothing about the time since.
const STALE: u64 = 10_000;

/// Milliseconds of the monotonic clock, never 0.
fn now() -> u64 {
    // SAFETY: all zero is a valid timespec.
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    (t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000).max(1)
}

/// In a call of a live user, `me`: posts a semaphore whose holder has died. Costs a load where the
/// semaphore is free.
pub fn rescue(sem: Sem, shm: &Shm, me: u32) {
    let since = shm.orphaned();
    if sem.value() != 0 {
        if since.load(Relaxed) != 0 {
            since.store(0, Relaxed);
        }
        return;
    }
    if shm.is_anybody_inside(Some(me)) {
        since.store(0, Relaxed);
        return;
    }
    let (first, now) = (since.load(Relaxed), now());
    if first == 0 || first > now || now - first > STALE {
        since.store(now, Relaxed);
    } else if now - first >= ORPHANED_AFTER.as_millis() as u64
        // One of several posts.
        && since.compare_exchange(first, 0, Relaxed, Relaxed).is_ok()
        && sem.value() == 0
    {
        log::warning(|| "the holder of the callers' semaphore died: it is posted".into());
        sem.post();
    }
}

/// Where a caller is about to wait for the semaphore of `path`: waits here until it is free, and
/// posts it if its holder has died.
pub fn rescue_before_wait(path: &CStr) {
    let Ok(name) = CString::new(names::shm_name(names::SEM, path.to_bytes())) else {
        return;
    };
    // SAFETY: a C string; without O_CREAT no further arguments are read.
    let sem = unsafe { libc::sem_open(name.as_ptr(), 0) };
    // SAFETY: just opened, or SEM_FAILED, which is NULL.
    let Some(sem) = (unsafe { Sem::new(sem) }) else {
        return;
    };
    let start = Instant::now();
    let mut alone_since = start;
    while sem.value() == 0 && start.elapsed() < PATIENCE {
        let owner = File::open(path, false).and_then(|f| f.owner());
        let name = names::shm_name(names::INFO, path.to_bytes());
        let shm = owner.ok().and_then(|o| Shm::any(&name, o));
        if shm.is_some_and(|s| s.is_anybody_inside(None)) {
            alone_since = Instant::now();
        } else if alone_since.elapsed() >= ORPHANED_AFTER {
            log::warning(|| "the holder of the callers' semaphore died: it is posted".into());
            log::name(path);
            sem.post();
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: open, and not used afterwards.
    unsafe { libc::sem_close(sem.0) };
}
