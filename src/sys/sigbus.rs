//! A page of a map that is gone raises SIGBUS at the next touch: somebody has cut the file off, the medium can't be read, or it
//! is full and the file system (btrfs, UBIFS) makes room at the first store into a page. Only for addresses inside our own maps it
//! is caught: the map is remembered as torn, a page of zeros takes the place of the one that is gone, and whoever touched it asks
//! whether the map is torn before anything follows from what was read, and behind what was stored. Every other SIGBUS goes to
//! whoever was there before.

use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

/// Maps that can be guarded at a time. Untouched they cost nothing.
pub const MOST: usize = 1 << 16;

static RANGES: [Range; MOST] = [const {
    Range {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; MOST];

/// Where to look for a free one first.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();
static HITS: AtomicUsize = AtomicUsize::new(0);

/// How often a page of any of our maps was gone: as long as this stays, no map has been torn.
#[inline(always)]
pub fn hits() -> usize {
    HITS.load(Acquire)
}

/// What handled SIGBUS before: written once, before our handler is installed.
struct Before(std::cell::UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written inside INSTALL only, before anything can read it.
unsafe impl Sync for Before {}
static BEFORE: Before = Before(std::cell::UnsafeCell::new(MaybeUninit::uninit()));

/// A guarded map, until it is dropped.
pub struct Guard(&'static Range);

impl Guard {
    /// Guards `len` bytes at `start`, which must stay mapped as long as the guard lives; `None`: there are too many.
    pub fn new(start: *mut u8, len: usize) -> Option<Self> {
        INSTALL.call_once(install);
        let start = start as usize;
        let takes = |r: &&Range| {
            r.start.load(Relaxed) == 0
                && r.start.compare_exchange(0, start, Acquire, Relaxed).is_ok()
        };
        let (before, behind) = RANGES.split_at(NEXT.fetch_add(1, Relaxed) % MOST);
        let r = behind.iter().chain(before).find(takes)?;
        r.hit.store(false, Relaxed);
        r.end.store(start + len, Release);
        Some(Self(r))
    }

    /// Whether a page of it was gone.
    pub fn was_hit(&self) -> bool {
        self.0.hit.load(Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end.store(0, Release);
        self.0.start.store(0, Release);
    }
}

fn install() {
    // SAFETY: all zero is a valid sigaction; the handler has the signature that SA_SIGINFO asks for
    // and calls nothing that is not safe in a signal handler. BEFORE is written here only, and the
    // handler that reads it does not exist before the second call.
    unsafe {
        let before = (*BEFORE.0.get()).as_mut_ptr();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), before) != 0 {
            return;
        }
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = handle as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut());
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo of a memory fault.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = |r: &&Range| {
        let (start, end) = (r.start.load(Relaxed), r.end.load(Acquire));
        start <= address && address < end
    };
    if let Some(r) = RANGES.iter().find(ours) {
        // Before the zeros are there, for other threads.
        r.hit.store(true, Relaxed);
        HITS.fetch_add(1, Release);
        // SAFETY: no precondition; safe in a handler.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: replaces one page of a map of ours, which is only ever copied from and stored to.
        let p = unsafe {
            libc::mmap(
                (address & !(page - 1)) as *mut libc::c_void,
                page,
                prot,
                flags,
                -1,
                0,
            )
        };
        if p != libc::MAP_FAILED {
            return;
        }
    }
    // SAFETY: written before this handler was installed.
    let before = unsafe { (*BEFORE.0.get()).assume_init_ref() };
    // SAFETY: a siginfo, as above.
    let was_sent = unsafe { (*info).si_code } <= 0;
    match before.sa_sigaction {
        libc::SIG_IGN if was_sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: puts the old action back; the fault then happens again and is the old one's. What was sent is sent again.
            unsafe {
                libc::sigaction(signal, before, std::ptr::null_mut());
                if was_sent {
                    libc::raise(signal);
                }
            }
        }
        f if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: installed by the process with this signature.
            let f: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(f) };
            f(signal, info, context);
        }
        f => {
            // SAFETY: as above.
            let f: extern "C" fn(i32) = unsafe { std::mem::transmute(f) };
            f(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_maps_than_handles_have_a_guard() {
        // A process had 1,100 databases open and one of them was cut off. Maps behind the 2,048th were not guarded, so the next
        // touch of that one ended the process.
        let len = 49_152 * 4096;
        let (prot, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of addresses only.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(all, libc::MAP_FAILED);
        let pages = (0..len).step_by(4096);
        let guards: Vec<_> = pages
            .map(|at| Guard::new(all.cast::<u8>().wrapping_add(at), 4096))
            .collect();
        assert!(guards.iter().all(Option::is_some));
        drop(guards);
        // SAFETY: mapped above, and nobody knows of it any more.
        unsafe { libc::munmap(all, len) };
    }
}
