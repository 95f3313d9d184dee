//! Several handles of one file.

use super::*;
use crate::format::slot::Slot;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

type Behind = Box<dyn FnMut(u64)>;

/// A file in memory that tells of each store behind it; who panics there is killed there. And in front of and behind
/// each slot that is loaded.
pub(super) struct Shared {
    file: Rc<Memory>,
    behind: RefCell<Behind>,
    before_slot: RefCell<Behind>,
    behind_slot: RefCell<Behind>,
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

    /// The file can't become longer than so many bytes.
    pub fn full_at(&self, len: u64) {
        self.file.full_at(Some(len));
    }

    /// A handle that calls `behind` with the offset of each of its stores.
    pub fn writer(&self, behind: impl FnMut(u64) + 'static) -> Handle {
        self.handle(Box::new(behind), true)
    }

    /// What a walk or a close of somebody else does: nothing that is remembered holds any more, then a store.
    pub fn new_layout(&self) -> impl Fn(u64, u64) + 'static {
        let (file, state) = (self.file.clone(), self.state.clone());
        move |at, word| {
            state.layout.fetch_add(1, SeqCst);
            file.store(at, word).expect("stores");
        }
    }

    pub fn reader(&self) -> Handle {
        self.handle(Box::new(|_| ()), false)
    }

    fn handle(&self, behind: Behind, writes: bool) -> Handle {
        let store = Shared {
            file: self.file.clone(),
            behind: RefCell::new(behind),
            before_slot: RefCell::new(Box::new(|_| ())),
            behind_slot: RefCell::new(Box::new(|_| ())),
        };
        Engine::open(store, self.state.clone(), writes, false).expect("opens")
    }
}

impl Shared {
    pub fn bytes(&self) -> Vec<u8> {
        self.file.bytes()
    }

    /// Calls `f` with the offset of each slot before it is loaded.
    pub fn before_slots(&self, f: impl FnMut(u64) + 'static) {
        *self.before_slot.borrow_mut() = Box::new(f);
    }

    /// Calls `f` with the offset of each slot when it has been loaded.
    pub fn behind_slots(&self, f: impl FnMut(u64) + 'static) {
        *self.behind_slot.borrow_mut() = Box::new(f);
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
    fn load_slot(&self, at: u64) -> crate::Result<Slot> {
        (self.before_slot.borrow_mut())(at);
        let slot = self.file.load_slot(at);
        (self.behind_slot.borrow_mut())(at);
        slot
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

/// Two of one slot, in two tables then, and another one.
const KEYS: [&[u8]; 3] = [b"/k0", b"/k176", b"b"];

/// One step of one of three handles.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize),
    Delete(usize),
    Get(usize),
    Keys,
    Fold,
    Sync,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let key = || 0..KEYS.len();
    // In one sector, in two, in many.
    let len = prop_oneof![6 => 1..60usize, 1 => 300..600usize, 1 => 3000..8029usize];
    let step = prop_oneof![
        6 => (key(), len).prop_map(|(k, len)| Step::Put(k, len)),
        3 => key().prop_map(Step::Delete),
        6 => key().prop_map(Step::Get),
        1 => Just(Step::Keys),
        1 => Just(Step::Fold),
        1 => Just(Step::Sync),
    ];
    (0..3usize, step)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What one handle has changed the others find, whatever they remember; values go into pairs and into the log, and back.
    #[test]
    fn all_handles_find_the_same(steps in prop::collection::vec(step(), 0..1500)) {
        let several = Several::new();
        let mut handles = [0; 3].map(|_| several.writer(|_| ()));
        let mut model = std::collections::BTreeMap::new();
        for (n, (handle, step)) in steps.into_iter().enumerate() {
            let e = &mut handles[handle];
            match step {
                Step::Put(k, len) => {
                    let value = vec![n as u8; len];
                    e.put(KEYS[k], &value)?;
                    model.insert(k, value);
                }
                Step::Delete(k) => prop_assert_eq!(e.delete(KEYS[k])?, model.remove(&k).is_some()),
                Step::Get(k) => {
                    let mut buf = [0; 8028];
                    let found = e.get(KEYS[k], &mut buf)?.map(|size| buf[..size].to_vec());
                    prop_assert_eq!(found.as_ref(), model.get(&k));
                }
                Step::Keys => {
                    let (mut pos, mut keys) = (Position::default(), Vec::new());
                    while let Some(mut key) = e.next(&mut pos, None)? {
                        key.retain(|&b| b != 0);
                        keys.push(KEYS.iter().position(|k| **k == key));
                    }
                    keys.sort();
                    prop_assert!(keys.into_iter().eq(model.keys().map(|&k| Some(k))));
                }
                Step::Fold => drop(e.fold()?),
                Step::Sync => e.sync()?,
            }
        }
    }
}
