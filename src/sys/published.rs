//! A value that any thread reads, without a lock, while another one now and then puts a new one in its place.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

/// The value, and all those before it: who reads one may hold it as long as this lives, in a static for ever. No
/// lock: it could be held by a thread that a fork child does not have.
pub struct Published<T>(AtomicPtr<Node<T>>, PhantomData<*const T>);

struct Node<T> {
    value: Option<T>,
    before: *mut Node<T>,
}

impl<T> Published<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()), PhantomData)
    }

    /// The value that was set last, if there is one.
    #[inline(always)]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: NULL, or a box that `set` has leaked, whole since then (Acquire) and never changed, which only
        // the drop of `self` frees.
        let node = unsafe { self.0.load(Acquire).as_ref() };
        node?.value.as_ref()
    }

    /// Puts a value, or none, in place of the one before.
    pub fn set(&self, value: Option<T>) {
        let before = self.0.load(Relaxed);
        let mut node = Box::new(Node { value, before });
        loop {
            let before = node.before;
            let new = Box::into_raw(node);
            match self.0.compare_exchange(before, new, Release, Relaxed) {
                Ok(_) => return,
                Err(other) => {
                    // SAFETY: from the box above, and nobody else has seen it.
                    node = unsafe { Box::from_raw(new) };
                    node.before = other;
                }
            }
        }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let mut next = *self.0.get_mut();
        while !next.is_null() {
            // SAFETY: from a box that `set` has leaked; each is in the list once, and nobody can hold a
            // reference any more.
            next = unsafe { Box::from_raw(next) }.before;
        }
    }
}

// SAFETY: `get` hands out shared references only, `set` moves values in: as for a lock of values.
unsafe impl<T: Send + Sync> Sync for Published<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Published<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn old_values_live_as_long_as_the_whole() {
        let (one, two) = (Arc::new(1), Arc::new(2));
        let published = Published::new();
        assert!(published.get().is_none());
        published.set(Some(one.clone()));
        let held = published.get().expect("set");
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..100).for_each(|_| published.set(Some(two.clone()))));
            }
        });
        assert_eq!((**held, published.get().map(|v| **v)), (1, Some(2)));
        published.set(None);
        assert!(published.get().is_none());
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 401));
        drop(published);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
    }
}
