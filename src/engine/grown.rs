//! Arrays that any thread reads while one puts a larger one in their place.

use crate::error::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// So many, made by `new`.
///
/// # Errors
/// [`Error::Memory`].
pub(super) fn slice<T>(n: usize, new: impl FnMut() -> T) -> Result<Box<[T]>> {
    let mut all = Vec::new();
    all.try_reserve_exact(n).map_err(|_| Error::Memory)?;
    all.resize_with(n, new);
    Ok(all.into_boxed_slice())
}

/// One array, and all those before it, each at most half as long: who reads one may hold it as long as this lives. `N`: as many as
/// there can be.
pub(super) struct Grown<T, const N: usize> {
    all: [OnceLock<Box<[T]>>; N],
    now: AtomicUsize,
}

impl<T, const N: usize> Grown<T, N> {
    /// Without any.
    pub fn new() -> Self {
        Self {
            all: [const { OnceLock::new() }; N],
            now: AtomicUsize::new(0),
        }
    }

    /// The last one, empty if there is none.
    #[inline(always)]
    pub fn last(&self) -> &[T] {
        let now = self.all.get(self.now.load(Acquire));
        now.and_then(OnceLock::get).map_or(&[], AsRef::as_ref)
    }

    /// Puts a larger one in its place. By one thread at a time.
    ///
    /// # Errors
    /// [`Error::Memory`] if there were `N` already.
    pub fn replace(&self, larger: Box<[T]>) -> Result<()> {
        let next = match self.last() {
            [] => 0,
            _ => self.now.load(Relaxed) + 1,
        };
        let place = self.all.get(next).ok_or(Error::Memory)?;
        // Nobody else writes, so nobody was faster.
        let _ = place.set(larger);
        self.now.store(next, Release);
        Ok(())
    }
}
