//! A page of a map that is gone raises SIGBUS at the next touch: somebody has cut the file off, the medium can't be read, or it
//! is full and the file system (btrfs, UBIFS) makes room at the first store into a page. Only for addresses inside our own maps it
//! is caught: a page of zeros takes the place of the one that is gone, and the map is torn until somebody has put the file's
//! page back. Whoever has touched a map asks behind that whether it is torn, before anything follows from what he has read or
//! stored. Every other SIGBUS goes to whoever was there before.

use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    compiler_fence, fence,
};

struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
    torn: Torn,
    /// The range whose `torn` counts the pages of this one that are gone.
    first: AtomicUsize,
    /// Addresses of the lowest and the highest page of it that ever was.
    low: AtomicUsize,
    high: AtomicUsize,
}

/// How often a page of one of the maps of a file was gone when it was touched.
pub struct Torn {
    /// Counted before the zeros are there, and behind that.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Torn {
    const fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Of what is not mapped yet.
    pub fn never() -> &'static Self {
        static NEVER: Torn = Torn::new();
        &NEVER
    }

    /// Asked behind a touch: zeros in the place of a page can have been met if it is another number than when all pages were
    /// the file's.
    #[inline(always)]
    pub fn count(&self) -> u64 {
        // The touch first. In this thread the handler has run by then, another one's has counted before the zeros were there.
        compiler_fence(SeqCst);
        fence(Acquire);
        self.begun.load(Relaxed)
    }

    /// The same; `None` while some thread still puts zeros into such a place.
    pub fn settled(&self) -> Option<u64> {
        let ended = self.ended.load(SeqCst);
        (self.begun.load(SeqCst) == ended).then_some(ended)
    }
}

/// Maps that can be guarded at a time. Untouched they cost nothing.
pub const MOST: usize = 1 << 16;

static RANGES: [Range; MOST] = [const {
    Range {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        torn: Torn::new(),
        first: AtomicUsize::new(0),
        low: AtomicUsize::new(usize::MAX),
        high: AtomicUsize::new(0),
    }
}; MOST];

/// Where to look for a free one first.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();

/// What handled SIGBUS before: written once, before our handler is installed.
struct Before(std::cell::UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written inside INSTALL only, before anything can read it.
unsafe impl Sync for Before {}
static BEFORE: Before = Before(std::cell::UnsafeCell::new(MaybeUninit::uninit()));

/// A guarded map, until it is dropped: the number of its range.
pub struct Guard(usize);

impl Guard {
    /// Guards `len` bytes at `start`, which must stay mapped as long as the guard lives; `None`: there are too many. `first`:
    /// of another map of the same file that lives as long; with a page of this one both are torn.
    pub fn new(start: *mut u8, len: usize, first: Option<&Self>) -> Option<Self> {
        INSTALL.call_once(install);
        let start = start as usize;
        let takes = |&n: &usize| {
            let r = &RANGES[n].start;
            r.load(Relaxed) == 0 && r.compare_exchange(0, start, Acquire, Relaxed).is_ok()
        };
        let from = NEXT.fetch_add(1, Relaxed) % MOST;
        let n = (from..MOST).chain(0..from).find(takes)?;
        let r = &RANGES[n];
        r.torn.begun.store(0, Relaxed);
        r.torn.ended.store(0, Relaxed);
        r.low.store(usize::MAX, Relaxed);
        r.high.store(0, Relaxed);
        r.first.store(first.map_or(n, |first| first.0), Relaxed);
        r.end.store(start + len, Release);
        Some(Self(n))
    }

    /// How often a page of it, or of a map of which it is the first, was gone.
    pub fn torn(&self) -> &'static Torn {
        &RANGES[self.0].torn
    }

    /// Address and length of the part of it, whole pages, outside of which no page ever was gone; `None`: none was.
    pub fn gone(&self) -> Option<(usize, usize)> {
        let r = &RANGES[self.0];
        let (low, high) = (r.low.load(SeqCst), r.high.load(SeqCst));
        (low <= high).then(|| (low, high - low + page_size()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let r = &RANGES[self.0];
        r.end.store(0, Release);
        r.start.store(0, Release);
    }
}

/// Bytes a page of memory has. Safe in a signal handler.
fn page_size() -> usize {
    // SAFETY: no precondition.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
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
        let page = page_size();
        let start = address & !(page - 1);
        r.low.fetch_min(start, SeqCst);
        r.high.fetch_max(start, SeqCst);
        let torn = RANGES.get(r.first.load(Relaxed)).map(|first| &first.torn);
        if let Some(torn) = torn {
            torn.begun.fetch_add(1, SeqCst);
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: replaces one page of a map of ours, which is only ever copied from and stored to.
        let p = unsafe { libc::mmap(start as *mut libc::c_void, page, prot, flags, -1, 0) };
        if p != libc::MAP_FAILED {
            if let Some(torn) = torn {
                torn.ended.fetch_add(1, SeqCst);
            }
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
            .map(|at| Guard::new(all.cast::<u8>().wrapping_add(at), 4096, None))
            .collect();
        assert!(guards.iter().all(Option::is_some));
        drop(guards);
        // SAFETY: mapped above, and nobody knows of it any more.
        unsafe { libc::munmap(all, len) };
    }
}
