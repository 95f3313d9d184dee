//! The lock that callers take around their own calls.

use crate::sys::sem::{self, Sem};
use crate::sys::shm::Shm;
use crate::sys::users;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

/// The lock in `shared->rwlock`, as one handle uses it. One writer, or readers; a dead owner is
/// found out. Nothing of this library waits for it.
pub struct CallersLock {
    pub(super) shm: Arc<Shm>,
    pub(super) me: u32,
    pub(super) ticket: u32,
    pub(super) sem: Option<Sem>,
}

/// How long a writer sleeps between two looks at the readers.
const READERS_NAP: Duration = Duration::from_micros(100);

impl CallersLock {
    fn alive(&self, n: u32) -> bool {
        n == self.me || self.shm.users().alive(n)
    }

    fn lock(&self) {
        let holds = |t, ask| t == self.ticket || self.shm.users().holds(t, ask);
        self.shm.shared().callers.lock(self.ticket, holds);
    }

    fn record(&self) -> Option<&users::User> {
        self.shm.users().records.get(self.me as usize)
    }

    /// Posts the callers' semaphore if its holder has died.
    pub(super) fn rescue_semaphore(&self) {
        if let Some(sem) = self.sem {
            sem::rescue(sem, &self.shm, Some(self.me), true);
        }
    }

    fn semaphore_is_taken(&self) -> bool {
        self.sem.is_some_and(|s| s.value() == 0)
    }

    /// Who takes this lock while the semaphore is at 0 may be the closer that holds it, from here until
    /// it comes to our close; unless it has given the lock back before and gone on.
    fn become_suspect(&self) {
        if self.semaphore_is_taken()
            && let Some(r) = self.record()
            && !self.shm.coming_and_going().is_cleared(r)
        {
            r.flags.fetch_or(users::SUSPECT, Relaxed);
        }
    }

    /// What the user does now a closer would not do.
    pub(super) fn is_no_closer(&self) {
        if let Some(r) = self.record() {
            self.shm.coming_and_going().clear(r);
            r.flags.fetch_and(!users::SUSPECT, Relaxed);
        }
    }

    /// Takes it for writing.
    pub fn write(&self) {
        self.become_suspect();
        self.rescue_semaphore();
        self.lock();
        let users = self.shm.users();
        for n in 0..users.high() {
            let Some(r) = users.records.get(n as usize) else {
                continue;
            };
            while r.reads.load(Relaxed) != 0 {
                if !self.alive(n) {
                    r.reads.store(0, Relaxed);
                    break;
                }
                std::thread::sleep(READERS_NAP);
            }
        }
        self.repair_count();
    }

    /// Takes it for reading. A handle that has it for reading gets it again at once.
    pub fn read(&self) {
        let lock = &self.shm.shared().callers;
        let users = self.shm.users();
        let Some(mine) = users.records.get(self.me as usize) else {
            return;
        };
        if mine.reads.load(Relaxed) == 0 {
            // Through the writer's door: a writer that waits is not starved.
            self.lock();
            mine.reads.fetch_add(1, SeqCst);
            lock.unlock(self.ticket);
        } else {
            mine.reads.fetch_add(1, SeqCst);
        }
    }

    /// Gives it back.
    pub fn unlock(&self) {
        let lock = &self.shm.shared().callers;
        // Who has it for writing waited until nobody had it for reading: the lock can be that of another thread, who waits for us.
        let reads = self.record().map_or(0, |r| r.reads.load(SeqCst));
        if reads == 0 && lock.holder() == Some(self.ticket) {
            if self.semaphore_is_taken() {
                // A closer closes next: who comes here again is none.
                self.is_no_closer();
            } else if let Some(r) = self.record() {
                r.flags.fetch_and(!users::SUSPECT, Relaxed);
            }
            return lock.unlock(self.ticket);
        }
        if let Some(mine) = self.shm.users().records.get(self.me as usize) {
            let _ = mine
                .reads
                .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        }
    }

    /// Gives it back if the handle has it for writing: it is being closed.
    pub fn let_go(&self) {
        let lock = &self.shm.shared().callers;
        if lock.holder() == Some(self.ticket) {
            lock.unlock(self.ticket);
        }
    }

    /// In a close (the semaphore is taken) the caller reads refCount next: users that died have
    /// left it too high. It can't be too low.
    fn repair_count(&self) {
        if self.sem.is_none_or(|s| s.value() != 0) {
            return;
        }
        let users = self.shm.users();
        let counted = (0..users.high()).filter(|&n| {
            let r = users.records.get(n as usize);
            r.is_some_and(|r| r.flags.load(Relaxed) & users::WITH_SEM != 0) && self.alive(n)
        });
        let counted = counted.count() as u16;
        self.shm.shared().ref_count.fetch_min(counted, Relaxed);
    }
}
