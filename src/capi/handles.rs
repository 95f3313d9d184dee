//! Which handles are open. A caller's struct holds a number, never an address that is trusted:
//! a struct that was never opened, was closed, or is garbage, is found out here.

use crate::format::{Sizes, hash};
use crate::session::{CallersLock, Reads, Session};
use crate::sys::file::Owner;
use crate::sys::{NotCancelled, fork, names, sigbus};
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What stands behind an open handle.
pub(super) struct Handle {
    session: Mutex<Session>,
    /// Outside the mutex: reads that wait for nobody.
    pub reads: Arc<Reads>,
    /// The file's.
    pub sizes: Sizes,
    /// Outside the mutex: a caller may wait for it while another thread is inside a call.
    pub lock: CallersLock,
}

impl Handle {
    pub fn new(session: Session) -> Self {
        Self {
            lock: session.callers_lock(),
            reads: session.reads().clone(),
            sizes: session.sizes(),
            session: Mutex::new(session),
        }
    }

    /// Calls `f` with the session; one call of a handle at a time.
    pub fn with<R>(&self, f: impl FnOnce(&mut Session) -> R) -> R {
        f(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn into_session(self) -> Session {
        self.session
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a slot holds a handle, how many calls are inside it, and how often it was used:
/// generation in the upper half, then OPEN, then the count.
struct Slot {
    word: AtomicU64,
    /// The process in which the handle was last made; see [`fork::generation`].
    process: AtomicU64,
    /// Where the caller sees the shared struct, and the hash of [`cache_name`]: asked before a handle of the parent's is made one of
    /// a fork child.
    shared: AtomicUsize,
    cache: AtomicU64,
    handle: UnsafeCell<Option<Box<Handle>>>,
}

// SAFETY: `handle` is written only by the thread that has moved the word from free to reserved, or
// from open to closed with a count of 0; it is shared only while OPEN is set and the count is not 0.
unsafe impl Sync for Slot {}

// What the promise above rests on besides: a handle may be used and dropped by any thread.
const _: () = {
    const fn any_thread<T: Send + Sync>() {}
    any_thread::<Handle>();
};

const OPEN: u64 = 1 << 31;
const RESERVED: u64 = 1 << 30;
const COUNT: u64 = RESERVED - 1;
const CHUNK: usize = 256;
const CHUNKS: usize = 64;

// Each of the maps of a handle has a guard, or the open fails: two, and one each time that the file is twice as long.
const _: () = assert!(4 * CHUNK * CHUNKS <= sigbus::MOST);

static TABLE: [OnceLock<Box<[Slot]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

fn chunk(n: usize) -> &'static [Slot] {
    TABLE[n].get_or_init(|| {
        (0..CHUNK)
            .map(|_| Slot {
                word: AtomicU64::new(1 << 32),
                process: AtomicU64::new(0),
                shared: AtomicUsize::new(0),
                cache: AtomicU64::new(0),
                handle: UnsafeCell::new(None),
            })
            .collect()
    })
}

#[inline(always)]
fn slot(number: usize) -> Option<&'static Slot> {
    let index = number & (CHUNK * CHUNKS - 1);
    TABLE.get(index / CHUNK)?.get()?.get(index % CHUNK)
}

#[inline(always)]
fn generation(number: usize) -> u64 {
    (number / (CHUNK * CHUNKS)) as u64
}

/// A handle that stays open as long as this exists.
pub(super) struct Inside {
    slot: &'static Slot,
}

impl std::ops::Deref for Inside {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        // SAFETY: the count is not 0, so nobody takes the handle away, and it was there when the
        // count was raised under OPEN.
        match unsafe { &*self.slot.handle.get() } {
            Some(handle) => handle,
            None => unreachable!("an open slot has a handle"),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.slot.word.fetch_sub(1, Release);
    }
}

/// The process that makes an inherited handle its own; 0: none does.
static ADOPTING: AtomicU64 = AtomicU64::new(0);

/// In a fork child: the handle becomes this process's own. Calls that other threads of the parent
/// were inside of at the fork will never end here, nor unlock anything: they are not waited for.
fn adopt(slot: &Slot) -> bool {
    let _whole = NotCancelled::new();
    let me = fork::generation();
    loop {
        let other = ADOPTING.load(Relaxed);
        // A number of the parent's is left over from a thread that does not exist here.
        if other != me
            && ADOPTING
                .compare_exchange(other, me, Acquire, Relaxed)
                .is_ok()
        {
            break;
        }
        std::thread::yield_now();
    }
    let mut adopted = slot.process.load(Relaxed) == me;
    if !adopted {
        // SAFETY: nobody is inside in this process: entering needs `process` to be ours, and only
        // one thread adopts.
        let handle = unsafe { &mut *slot.handle.get() };
        if let Some(old) = handle.take() {
            let mut session = (*old).into_session();
            // A panic must not leave the slot empty and the others waiting.
            let follow = AssertUnwindSafe(|| session.follow_fork().is_ok());
            adopted = catch_unwind(follow).unwrap_or(false);
            *handle = Some(Box::new(Handle::new(session)));
        }
        if adopted {
            slot.word.fetch_and(!COUNT, Relaxed);
            slot.process.store(me, Release);
        }
    }
    ADOPTING.store(0, Release);
    adopted
}

/// Enters the handle of this number, if it is open.
#[inline(always)]
pub(super) fn enter(number: usize) -> Option<Inside> {
    let slot = slot(number)?;
    enter_slot(slot, |word| word >> 32 == generation(number))
}

#[inline(always)]
fn enter_slot(slot: &'static Slot, fits: impl Fn(u64) -> bool) -> Option<Inside> {
    let mut word = slot.word.load(Relaxed);
    loop {
        if word & OPEN == 0 || !fits(word) {
            return None;
        }
        if slot.process.load(Acquire) != fork::generation() && !adopt(slot) {
            return None;
        }
        match slot
            .word
            .compare_exchange_weak(word, word + 1, Acquire, Relaxed)
        {
            Ok(_) => return Some(Inside { slot }),
            Err(other) => word = other,
        }
    }
}

fn open_slots() -> impl Iterator<Item = &'static Slot> {
    let slots = TABLE.iter().map_while(OnceLock::get).flat_map(|c| c.iter());
    slots.filter(|slot| slot.word.load(Acquire) & OPEN != 0)
}

/// The handle whose shared struct is at this address; `Some(None)` if a fork child can't make it its own.
pub(super) fn enter_by_shared(shared: usize) -> Option<Option<Inside>> {
    let mut slots = open_slots().filter(|slot| slot.shared.load(Relaxed) == shared);
    let slot = slots.next()?;
    // It may have been closed in between, and be another's.
    let own = |inside: &Inside| inside.slot.shared.load(Relaxed) == shared;
    Some(enter_slot(slot, |_| true).filter(own))
}

/// Owner and permissions for a caller's shared object: those of the database that it belongs to.
pub(super) fn owner_of(name: &[u8]) -> Option<Owner> {
    let cache = hash::djb2(name);
    let slots = open_slots().filter(|slot| slot.cache.load(Relaxed) == cache);
    let mut inside = slots.filter_map(|slot| enter_slot(slot, |_| true));
    inside.find_map(|inside| {
        inside.with(|s| (cache_name(s) == name).then(|| s.owner().ok()).flatten())
    })
}

/// The name of the callers' own object beside that of the database.
fn cache_name(session: &Session) -> Vec<u8> {
    names::shm_name(names::CACHE, &session.shm().stem())
}

/// Keeps a handle; answers its number, never 0, or gives it back when there are too many.
pub(super) fn insert(handle: Box<Handle>) -> Result<usize, Box<Handle>> {
    for (n, slot) in (0..CHUNKS).flat_map(|c| {
        chunk(c)
            .iter()
            .enumerate()
            .map(move |(i, s)| (c * CHUNK + i, s))
    }) {
        let word = slot.word.load(Relaxed);
        if word & (OPEN | RESERVED | COUNT) != 0 {
            continue;
        }
        if slot
            .word
            .compare_exchange(word, word | RESERVED, Acquire, Relaxed)
            .is_err()
        {
            continue;
        }
        handle.with(|s| {
            let shared = std::ptr::from_ref(s.shm().shared()) as usize;
            slot.shared.store(shared, Relaxed);
            slot.cache.store(hash::djb2(&cache_name(s)), Relaxed);
        });
        // SAFETY: RESERVED is ours, so nobody else touches the handle.
        unsafe { *slot.handle.get() = Some(handle) };
        slot.process.store(fork::generation(), Relaxed);
        slot.word.store(word | OPEN, Release);
        return Ok((word >> 32) as usize * CHUNK * CHUNKS + n);
    }
    Err(handle)
}

/// Takes a handle out: calls inside it end first, later ones find it closed.
pub(super) fn remove(number: usize) -> Option<Box<Handle>> {
    let slot = slot(number)?;
    let mut word = slot.word.load(Relaxed);
    loop {
        if word & OPEN == 0 || word >> 32 != generation(number) {
            return None;
        }
        if slot.process.load(Acquire) != fork::generation() && !adopt(slot) {
            return None;
        }
        match slot
            .word
            .compare_exchange_weak(word, (word & !OPEN) | RESERVED, Acquire, Relaxed)
        {
            Ok(_) => break,
            Err(other) => word = other,
        }
    }
    while slot.word.load(Acquire) & COUNT != 0 {
        // SAFETY: nobody takes it away but we; it was there under OPEN.
        if let Some(handle) = unsafe { &*slot.handle.get() } {
            // One of them may wait for the lock that this handle has.
            handle.lock.let_go();
        }
        std::thread::yield_now();
    }
    // SAFETY: OPEN is gone and the count is 0: nobody is inside, and nobody can enter.
    let handle = unsafe { (*slot.handle.get()).take() };
    // The generation 0 is left out, so that no number is 0.
    let next = ((word >> 32) as u32).wrapping_add(1).max(1);
    slot.word.store(u64::from(next) << 32, Release);
    handle
}
