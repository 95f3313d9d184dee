//! Whether this process is a fork child of the one that made a handle.
//!
//! A page that the kernel empties in a child (`MADV_WIPEONFORK`, Linux 4.14) is asked, which costs
//! a load; without it, the process id, which costs a system call.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts the forks between the first process of this library and this one.
static GENERATION: AtomicU64 = AtomicU64::new(1);
static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

#[inline(always)]
fn page() -> Option<&'static AtomicU64> {
    *PAGE.get_or_init(|| {
        let len = 4096;
        // SAFETY: a fresh anonymous mapping, of nobody else's memory.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: `p` is the mapping made above, `len` bytes long.
        if unsafe { libc::madvise(p, len, libc::MADV_WIPEONFORK) } != 0 {
            // SAFETY: as above; nothing points into it.
            unsafe { libc::munmap(p, len) };
            return None;
        }
        // SAFETY: page-aligned, zero-initialised, never unmapped, and only used as an atomic.
        Some(unsafe { &*p.cast::<AtomicU64>() })
    })
}

/// A number that differs between a process and its fork children. Never 0.
#[inline(always)]
pub fn generation() -> u64 {
    match page() {
        Some(word) => match word.load(Relaxed) {
            // First call in this process: emptied by a fork, or new.
            0 => {
                let n = GENERATION.fetch_add(1, Relaxed) + 1;
                match word.compare_exchange(0, n, Relaxed, Relaxed) {
                    Ok(_) => n,
                    Err(other) => other,
                }
            }
            n => n,
        },
        None => u64::from(std::process::id()),
    }
}
