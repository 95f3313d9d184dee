//! A value that any thread may read, without a lock, while another one exchanges it.

use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

/// The value and those before it. None is ever given back: somebody may be looking at it, and a
/// lock that tells could be held by a thread that a fork child does not have.
pub struct Current<T: 'static>(AtomicPtr<Kept<T>>);

struct Kept<T: 'static> {
    value: T,
    /// Keeps them reachable, for those who look for leaks.
    _before: Option<&'static Kept<T>>,
}

impl<T: Send + Sync> Current<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    fn kept(&self) -> Option<&'static Kept<T>> {
        // SAFETY: NULL or what `set` has leaked, whole since then (Acquire); it is never changed.
        unsafe { self.0.load(Acquire).as_ref() }
    }

    /// The value that was set last.
    pub fn get(&self) -> Option<&'static T> {
        self.kept().map(|k| &k.value)
    }

    /// Sets it.
    pub fn set(&self, value: T) {
        let new = Box::leak(Box::new(Kept {
            value,
            _before: None,
        }));
        loop {
            let before = self.kept();
            new._before = before;
            let old = before.map_or(std::ptr::null_mut(), |k| std::ptr::from_ref(k).cast_mut());
            if self.0.compare_exchange(old, new, Release, Relaxed).is_ok() {
                return;
            }
        }
    }
}
