//! Memory in reserve for the C library, so that a malloc that fails inside a call does not end the process.
//!
//! Rust aborts where a small allocation fails. Here such a one is served from a block that is always
//! there, and the call goes on; large ones fail, and are asked for by those who can deal with that. A
//! call that may need more than a few blocks is refused without memory, so the reserve has to last for the
//! calls in flight only.
//!
//! Only with the feature `capi`: a program in Rust chooses its own allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// Bytes in reserve. Untouched they cost nothing.
const SIZE: usize = 512 << 10;
/// More than this is no small allocation.
const LARGEST: usize = 16 << 10;

#[repr(align(4096))]
struct Block(UnsafeCell<[u8; SIZE]>);

// SAFETY: each allocation gets bytes of its own; the block itself is never read or written.
unsafe impl Sync for Block {}

/// The heap of the C library.
pub struct Reserve {
    block: Block,
    /// Allocations alive in the upper half, bytes given out in the lower: they begin anew when none is alive.
    given: AtomicU64,
}

impl Reserve {
    const fn new() -> Self {
        Self {
            block: Block(UnsafeCell::new([0; SIZE])),
            given: AtomicU64::new(0),
        }
    }

    fn start(&self) -> *mut u8 {
        self.block.0.get().cast()
    }

    fn is_inside(&self, p: *mut u8) -> bool {
        (p as usize).wrapping_sub(self.start() as usize) < SIZE
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST || layout.align() > 4096 {
            return ptr::null_mut();
        }
        let mut given = self.given.load(Relaxed);
        loop {
            let used = (given & u64::from(u32::MAX)) as usize;
            let from = used.next_multiple_of(layout.align());
            let to = from + layout.size();
            if to > SIZE {
                return ptr::null_mut();
            }
            let next = ((given >> 32) + 1) << 32 | to as u64;
            match self
                .given
                .compare_exchange_weak(given, next, AcqRel, Acquire)
            {
                // SAFETY: inside the block.
                Ok(_) => return unsafe { self.start().add(from) },
                Err(other) => given = other,
            }
        }
    }

    fn give_back(&self) {
        let less = |given: u64| match given >> 32 {
            0 | 1 => Some(0),
            _ => Some(given - (1 << 32)),
        };
        let _ = self.given.fetch_update(AcqRel, Acquire, less);
    }
}

// SAFETY: what the system gives is the system's; otherwise bytes of the block that nobody else has,
// aligned as asked for, until they are given back.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let p = unsafe { System.alloc(layout) };
        if p.is_null() { self.take(layout) } else { p }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let mut p = unsafe { System.alloc_zeroed(layout) };
        if p.is_null() {
            p = self.take(layout);
            if !p.is_null() {
                // SAFETY: just taken, of this size.
                unsafe { p.write_bytes(0, layout.size()) };
            }
        }
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        if self.is_inside(p) {
            return self.give_back();
        }
        // SAFETY: the caller's promise, and not ours.
        unsafe { System.dealloc(p, layout) };
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.is_inside(p) {
            // SAFETY: the caller's promise, and not ours.
            let new = unsafe { System.realloc(p, layout, size) };
            if !new.is_null() {
                return new;
            }
        }
        // SAFETY: the caller's promise: not 0, and not too large with this alignment.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both have so many bytes, and the new ones are nobody else's; then the old ones are
            // given back.
            unsafe {
                ptr::copy_nonoverlapping(p, new, layout.size().min(size));
                self.dealloc(p, layout);
            }
        }
        new
    }
}

#[global_allocator]
static HEAP: Reserve = Reserve::new();
