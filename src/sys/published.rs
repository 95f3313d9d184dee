//! A value that many threads read while one now and then puts another in its place.

use std::ptr;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};
use std::sync::{Mutex, PoisonError};

/// The value, and all those before it: who reads one may hold it as long as this lives.
pub struct Published<T> {
    now: AtomicPtr<T>,
    before: Mutex<Vec<AtomicPtr<T>>>,
}

impl<T> Default for Published<T> {
    fn default() -> Self {
        Self {
            now: AtomicPtr::new(ptr::null_mut()),
            before: Mutex::new(Vec::new()),
        }
    }
}

impl<T> Published<T> {
    /// The value, if there is one.
    #[inline(always)]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: NULL, or of a box that `set` has leaked and that only the drop of `self` frees.
        unsafe { self.now.load(Acquire).as_ref() }
    }

    /// Puts a value in place of the one before.
    pub fn set(&self, value: Option<Box<T>>) {
        let new = value.map_or(ptr::null_mut(), Box::into_raw);
        let old = self.now.swap(new, AcqRel);
        if !old.is_null() {
            let before = self.before.lock();
            before
                .unwrap_or_else(PoisonError::into_inner)
                .push(AtomicPtr::new(old));
        }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let now = std::mem::replace(self.now.get_mut(), ptr::null_mut());
        let before = self.before.get_mut();
        let before = before.unwrap_or_else(PoisonError::into_inner).drain(..);
        for old in before.map(AtomicPtr::into_inner).chain([now]) {
            if !old.is_null() {
                // SAFETY: from a box that `set` has leaked; each stands in one place only, and nobody
                // can hold a reference any more.
                drop(unsafe { Box::from_raw(old) });
            }
        }
    }
}

// SAFETY: `get` hands out shared references only, `set` moves values in: as for a lock of boxes.
unsafe impl<T: Send + Sync> Sync for Published<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Published<T> {}
