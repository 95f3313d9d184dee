//! The C interface: every exported function checks its pointers, calls the core and converts the
//! answer. `unsafe` because callers hand over addresses; each block names what they owe.
//!
//! No panic leaves: `guard` turns one into an answer. Nothing is printed; messages go to whoever has
//! asked for them with `kissdb_set_log`.

mod functions;
mod handles;
mod helpers;
mod types;

pub use functions::*;
pub use helpers::*;
pub use types::*;

use crate::error::Error;
use crate::log::Deliver;
use crate::sys::NotCancelled;
use std::panic::{AssertUnwindSafe, catch_unwind};

// A process that aborts inside the library would die holding locks that others wait for.
#[cfg(panic = "abort")]
compile_error!("kissdb must be built with panic=unwind");

/// A call that takes locks: it is not cancelled, and its messages are delivered behind everything else.
struct Whole {
    // Dropped first.
    _messages: Deliver,
    _cancel: NotCancelled,
}

impl Whole {
    fn new() -> Self {
        Self {
            _messages: Deliver,
            _cancel: NotCancelled::new(),
        }
    }
}

/// Runs `f` to its end; a panic inside is answered with `otherwise`.
fn guard<R>(otherwise: R, f: impl FnOnce() -> R) -> R {
    let _whole = Whole::new();
    quick(otherwise, f)
}

/// The same for what makes no system call and has nothing to tell before it has a [`Whole`] of its own.
fn quick<R>(otherwise: R, f: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(otherwise)
}

/// What a call may need of the heap, in bytes; a single failure inside it would abort the process.
const RESERVE: usize = 64 << 10;

/// Whether there is memory for a call that allocates.
fn memory() -> Result<(), Error> {
    // SAFETY: a plain allocation, given back at once: what the call needs comes out of the same place.
    let p = unsafe { libc::malloc(RESERVE) };
    if p.is_null() {
        return Err(Error::Memory);
    }
    // Touched, so that the compiler keeps the pair.
    // SAFETY: just allocated, and not used afterwards.
    unsafe {
        p.cast::<u8>().write_volatile(0);
        libc::free(p);
    }
    Ok(())
}

/// The answer of a failed call, errno as the operating system left it.
fn code(e: &Error) -> i32 {
    if let Some(n) = e.os() {
        crate::sys::set_errno(n);
    }
    e.code()
}
