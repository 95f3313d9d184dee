//! Several handles of one file.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

type Behind = Box<dyn FnMut(u64)>;

/// A file in memory that tells of each store behind it; who panics there is killed there.
pub(super) struct Shared {
    file: Rc<Memory>,
    behind: RefCell<Behind>,
}

pub(super) type Handle = Engine<Shared, Arc<State>>;

/// An empty file, and what its users share.
pub(super) struct Several {
    file: Rc<Memory>,
    state: Arc<State>,
}

impl Several {
    pub fn new() -> Self {
        Self {
            file: Rc::new(Memory::new(empty(128, 8028))),
            state: Arc::default(),
        }
    }

    /// A handle that calls `behind` with the offset of each of its stores.
    pub fn writer(&self, behind: impl FnMut(u64) + 'static) -> Handle {
        self.handle(Box::new(behind), true)
    }

    pub fn reader(&self) -> Handle {
        self.handle(Box::new(|_| ()), false)
    }

    fn handle(&self, behind: Behind, writes: bool) -> Handle {
        let store = Shared {
            file: self.file.clone(),
            behind: RefCell::new(behind),
        };
        Engine::open(store, self.state.clone(), writes, false).expect("opens")
    }
}

impl Shared {
    pub fn bytes(&self) -> Vec<u8> {
        self.file.bytes()
    }
}

impl Storage for Shared {
    fn len(&self) -> crate::Result<u64> {
        self.file.len()
    }
    fn known_len(&self) -> u64 {
        self.file.known_len()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> crate::Result<()> {
        self.file.read(at, buf)
    }
    fn store(&self, at: u64, word: u64) -> crate::Result<()> {
        self.file.store(at, word)?;
        (self.behind.borrow_mut())(at);
        Ok(())
    }
    fn grow(&self, len: u64) -> crate::Result<()> {
        self.file.grow(len)
    }
    fn truncate(&self, len: u64) -> crate::Result<()> {
        self.file.truncate(len)
    }
    fn fill_holes(&self) -> crate::Result<()> {
        Ok(())
    }
    fn sync(&self) -> crate::Result<()> {
        self.file.sync()
    }
    fn is_file(&self) -> bool {
        true
    }
}
