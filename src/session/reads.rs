//! Reads that take no lock: what of a handle they need, beside its session.

use super::medium::{Medium, Words};
use crate::engine::Engine;
use crate::engine::Position;
use crate::engine::index::{Index, Reader};
use crate::format::Sizes;
use crate::format::key::Key;
use crate::sys::map::FileMap;
use crate::sys::published::Published;
use crate::sys::sem::Sem;
use crate::sys::shm::Shm;
use crate::sys::sigbus::Torn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The reads of one handle, for the process that made it. Where one answers `None` the session must
/// be asked, which takes the engine lock.
pub struct Reads {
    now: Published<Parts>,
    /// The session works on them.
    usable: AtomicBool,
}

/// What belongs to the engine on the mapped file that the session has now, or had before it recovered in memory.
struct Parts {
    map: Arc<FileMap>,
    shm: Arc<Shm>,
    index: Arc<Index>,
    sizes: Sizes,
    sem: Option<Sem>,
    /// The object's.
    torn: &'static Torn,
}

impl Parts {
    #[inline(always)]
    fn reader(&self) -> Reader<'_, FileMap> {
        Reader {
            index: &self.index,
            store: &self.map,
            state: self.shm.state(),
            sizes: self.sizes,
        }
    }

    /// Whether what was read of the object are no zeros in the place of a page that is gone.
    #[inline(always)]
    fn are_whole(&self) -> bool {
        self.torn.count() == 0
    }
}

impl Reads {
    pub(super) fn new() -> Self {
        Self {
            now: Published::new(),
            usable: AtomicBool::new(false),
        }
    }

    /// Follows the session to another engine.
    pub(super) fn follow(&self, engine: &Engine<Medium, Words>, shm: &Arc<Shm>, sem: Option<Sem>) {
        // Who reads beside the writers has none of their words.
        let map = match engine.store() {
            Medium::File(map) if !shm.is_nameless() => Some(map),
            _ => None,
        };
        if let Some(map) = map
            && !self
                .now
                .get()
                .is_some_and(|parts| Arc::ptr_eq(&parts.map, map))
        {
            self.now.set(Some(Parts {
                map: map.clone(),
                shm: shm.clone(),
                index: engine.index().clone(),
                sizes: engine.sizes(),
                sem,
                torn: shm.torn(),
            }));
        }
        self.usable.store(map.is_some(), Relaxed);
    }

    /// The parts, unless there is something that a call under the lock has to deal with.
    #[inline(always)]
    fn parts(&self) -> Option<&Parts> {
        let usable = self.usable.load(Relaxed);
        self.now.get().filter(|parts| {
            usable
                && parts.sem.is_none_or(|sem| sem.value() != 0)
                && parts.shm.coming_and_going().orphaned.load(Relaxed) == 0
        })
    }

    /// As [`super::Session::get`].
    #[inline(always)]
    pub fn get(&self, key: &Key, buf: &mut [u8]) -> Option<Option<usize>> {
        let parts = self.parts()?;
        parts.reader().get(key, buf).filter(|_| parts.are_whole())
    }

    /// As [`super::Session::next`], but `key` receives as much of the key as it has room for, zeros behind it;
    /// `Some(false)` is the end.
    #[inline]
    pub fn next(&self, pos: &mut Position, key: &mut [u8], buf: Option<&mut [u8]>) -> Option<bool> {
        let parts = self.parts()?;
        let found = parts.reader().next(pos, key, buf);
        found.filter(|_| parts.are_whole())
    }
}
