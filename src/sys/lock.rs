//! A lock in shared memory that outlives its holders.
//!
//! One word: who holds it, as the ticket of a user record, and whether somebody waits. A ticket names
//! one use of one record, so that a dead holder is never mistaken for the next owner of its record. That a
//! holder is alive is proved by a lock that the kernel releases ([`super::users`]), not by anything
//! in memory; so a word that names nobody alive, whatever it contains, is free to be taken. A
//! waiter sleeps on the word (futex) for moments only and asks after the holder in between.
//!
//! Why not a robust mutex: it blocks for ever if the holder unmapped the region before it died,
//! what stands in it after a crash can't be told from garbage, and re-initialising it under waiters
//! corrupts it.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

/// The lock. All zero is free.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Lock(AtomicU32);

const WAITERS: u32 = 1;
/// Tries before sleeping: the engine lock is held for a microsecond.
const SPINS: u32 = 200;
/// The first sleep; a dead holder is noticed after about this long.
const FIRST_WAIT: Duration = Duration::from_micros(100);
/// Who has waited for so long asks thoroughly.
const THOROUGH_AFTER: Duration = Duration::from_millis(1);

/// How a holder is asked after: quickly at first, because it costs less than the sleep in between,
/// then thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// One system call; a dead one whom a fork child keeps up may seem alive.
    Quickly,
    /// The process is looked at as well.
    Thoroughly,
}

/// How long a waiter sleeps that has waited for so long already: often at first, when the holder
/// may just have died, rarely for one that is alive and slow.
fn nap(waited: Duration) -> Duration {
    (waited / 16).clamp(FIRST_WAIT, Duration::from_millis(20))
}

impl Lock {
    /// Takes the lock with the ticket `me` (not 0, below 2^31), by force from a holder that is not `alive`.
    pub fn lock(&self, me: u32, alive: impl Fn(u32, Ask) -> bool) {
        let mine = me << 1;
        if self.0.compare_exchange(0, mine, Acquire, Relaxed).is_ok() {
            return;
        }
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if self.0.load(Relaxed) == 0
                && self.0.compare_exchange(0, mine, Acquire, Relaxed).is_ok()
            {
                return;
            }
        }
        // A holder that is dead already is noticed before the first sleep.
        let (start, mut slept) = (Instant::now(), true);
        loop {
            let now = self.0.load(Relaxed);
            if now == 0 {
                // Others may sleep: the flag is kept, at worst for a needless wake.
                if self
                    .0
                    .compare_exchange(0, mine | WAITERS, Acquire, Relaxed)
                    .is_ok()
                {
                    return;
                }
                continue;
            }
            let waited = start.elapsed();
            if slept {
                let ask = if waited < THOROUGH_AFTER {
                    Ask::Quickly
                } else {
                    Ask::Thoroughly
                };
                if !alive(now >> 1, ask)
                    && self
                        .0
                        .compare_exchange(now, mine | WAITERS, Acquire, Relaxed)
                        .is_ok()
                {
                    return;
                }
            }
            let flagged = now | WAITERS;
            if now != flagged
                && self
                    .0
                    .compare_exchange(now, flagged, Relaxed, Relaxed)
                    .is_err()
            {
                slept = false;
                continue;
            }
            slept = !sleep(&self.0, flagged, nap(waited));
        }
    }

    /// Gives the lock back. Nothing happens if `me` does not hold it.
    pub fn unlock(&self, me: u32) {
        let mine = me << 1;
        let mut now = self.0.load(Relaxed);
        while now & !WAITERS == mine {
            match self.0.compare_exchange(now, 0, Release, Relaxed) {
                Ok(_) => {
                    if now & WAITERS != 0 {
                        wake(&self.0);
                    }
                    return;
                }
                Err(other) => now = other,
            }
        }
    }

    /// The ticket that holds the lock, of somebody alive or not.
    pub fn holder(&self) -> Option<u32> {
        Some(self.0.load(Relaxed) >> 1).filter(|&t| t != 0)
    }
}

/// Sleeps while the word is `expected`; `false` after the whole time.
pub(crate) fn sleep(word: &AtomicU32, expected: u32, time: Duration) -> bool {
    let t = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos() as _,
    };
    // SAFETY: a system call that reads the word and the timespec, both valid. The time is relative
    // and counted by the monotonic clock.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &t,
        )
    };
    !(r == -1 && super::last_error().raw_os_error() == Some(libc::ETIMEDOUT))
}

/// Wakes one sleeper.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: a system call that uses the word as a key only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn excludes() {
        let (lock, a, b) = (Lock::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|s| {
            for me in 1..5 {
                let (lock, a, b) = (&lock, &a, &b);
                s.spawn(move || {
                    for _ in 0..20_000 {
                        lock.lock(me, |_, _| true);
                        let n = a.load(Relaxed);
                        assert_eq!(n, b.load(Relaxed));
                        a.store(n + 1, Relaxed);
                        b.store(n + 1, Relaxed);
                        lock.unlock(me);
                    }
                });
            }
        });
        assert_eq!(a.load(Relaxed), 80_000);
        assert_eq!(lock.holder(), None);
    }

    #[test]
    fn a_dead_holder_and_garbage_are_taken_over() {
        let lock = Lock::default();
        lock.lock(7, |_, _| true);
        lock.lock(1, |n, _| n != 7);
        assert_eq!(lock.holder(), Some(1));
        lock.unlock(7);
        assert_eq!(lock.holder(), Some(1), "not his to unlock");
        let lock = Lock(AtomicU32::new(0xdead_beef));
        lock.lock(1, |_, _| false);
        lock.unlock(1);
        assert_eq!(lock.holder(), None);
    }
}
