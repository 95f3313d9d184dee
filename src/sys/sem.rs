//! The caller's named semaphore.

use super::file::File;
use super::names;
use super::shm::Shm;
use crate::log;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
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
    /// `sem` is NULL or came from sem_open and stays open until [`Sem::close`].
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

    /// Adds one, unless somebody could take it already: then it was posted once too often, for a
    /// holder who seemed to be dead, and is right again now.
    pub fn give_back(self) {
        if self.value() < 1 {
            self.post();
        }
    }

    /// Closes it; it must not be used any more.
    pub fn close(self) {
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

/// A named semaphore; `None` if there is none, or it may not be opened. The C library makes one whole before it gets its name: what is
/// shorter is no semaphore, and would be SIGBUS.
fn open(name: &[u8]) -> Option<Sem> {
    let file = name.strip_prefix(b"/").unwrap_or(name);
    let path = names::shm_path(&[names::SEM_FILE, file].concat())?;
    let there = std::fs::metadata(OsStr::from_bytes(path.to_bytes())).ok()?;
    if there.len() < size_of::<libc::sem_t>() as u64 {
        return None;
    }
    let name = CString::new(name).ok()?;
    // SAFETY: a C string; without O_CREAT no further arguments are read.
    let sem = unsafe { libc::sem_open(name.as_ptr(), 0) };
    // SAFETY: just opened, or SEM_FAILED, which is NULL.
    unsafe { Sem::new(sem) }
}

/// The value of a named semaphore; `None` if there is none, or it may not be opened.
pub fn value_of(name: &[u8]) -> Option<i32> {
    let sem = open(name)?;
    let value = sem.value();
    // SAFETY: open, and not used afterwards.
    unsafe { libc::sem_close(sem.0) };
    Some(value)
}

/// A semaphore that was at 0 for so long, with nobody alive who could hold it, is posted. A holder
/// is outside our sight only between its wait and its call, and between that call and its post.
const ORPHANED_AFTER: u64 = 200;
/// An opener waits no longer than this for a holder that is alive; its own wait goes on then.
const PATIENCE: Duration = Duration::from_secs(3);
/// An observation older than this many milliseconds says nothing about the time since. And where
/// nobody was seen to come or go for so long, calls may be as rare: one of them has to be enough.
const STALE: u64 = 1000;
/// Between two looks of somebody who waits for the verdict.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Milliseconds of the monotonic clock, never 0.
pub(super) fn now() -> u64 {
    // SAFETY: all zero is a valid timespec.
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    (t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000).max(1)
}

/// Posts a semaphore whose holder has died: it is at 0, nobody alive is where a holder would be, and both
/// were so at a look at least [`ORPHANED_AFTER`] ago, since when nobody came or went. Costs a load where
/// the semaphore is free.
///
/// `me`: the user that calls, if it is one. `in_a_call`: nobody may look again soon, so in quiet times
/// it stays for the second look itself.
pub fn rescue(sem: Sem, shm: &Shm, me: Option<u32>, in_a_call: bool) {
    let since = &shm.coming_and_going().orphaned;
    let taken = || {
        let legally = sem.value() != 0 || shm.is_anybody_inside(me);
        if legally && since.load(Relaxed) != 0 {
            since.store(0, Relaxed);
        }
        legally
    };
    if taken() {
        return;
    }
    let mut time = now();
    let mut first = since.load(Relaxed);
    if first == 0 || time.abs_diff(first) > STALE {
        first = time;
        since.store(first, Relaxed);
        let last = shm.coming_and_going().last.load(Relaxed);
        if !in_a_call || time.abs_diff(last) <= STALE {
            return;
        }
        while time.saturating_sub(first) < ORPHANED_AFTER {
            std::thread::sleep(LOOK_AGAIN);
            if taken() || since.load(Relaxed) != first {
                return;
            }
            time = now();
        }
    }
    if time.saturating_sub(first) >= ORPHANED_AFTER
        // One of several posts.
        && since.compare_exchange(first, 0, Relaxed, Relaxed).is_ok()
        && sem.value() == 0
    {
        log::warning(|| "the holder of the callers' semaphore died: it is posted".into());
        shm.coming_and_going().note();
        sem.post();
    }
}

/// Where a caller is about to wait for the semaphore of `path`: waits here until it is free, and
/// posts it if its holder has died.
pub fn rescue_before_wait(path: &CStr) {
    let Some(sem) = open(&names::shm_name(names::SEM, path.to_bytes())) else {
        return;
    };
    let start = Instant::now();
    let mut alone_since = now();
    while sem.value() == 0 && start.elapsed() < PATIENCE {
        let owner = File::open(path, false).and_then(|f| f.owner());
        let name = names::shm_name(names::INFO, path.to_bytes());
        if let Some(shm) = owner.ok().and_then(|o| Shm::any(&name, o)) {
            rescue(sem, &shm, None, false);
            log::name(path);
            alone_since = now();
        } else if now() - alone_since >= ORPHANED_AFTER {
            log::warning(|| "the holder of the callers' semaphore died: it is posted".into());
            log::name(path);
            sem.give_back();
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    sem.close();
}
