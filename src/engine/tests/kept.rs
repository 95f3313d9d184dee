//! Values that a process has read and keeps: never older than what others find.

use super::several::{Handle, Several};
use super::*;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

type Value = Option<Vec<u8>>;

/// What a change does to the key.
#[derive(Debug, Clone, Copy)]
enum Change {
    Put(&'static [u8]),
    Delete,
    /// A new key of the same slot.
    Other,
    Sync,
}

use Change::{Delete, Other, Put, Sync};

/// Into the pair, into the log, back out of it, over a deleted pair, longer than what is kept, the same value again.
const CHANGES: [Change; 22] = [
    Put(b"one"),
    Put(b"two"),
    Other,
    Put(b"three"),
    Put(b"three"),
    Put(b"four"),
    Sync,
    Put(b"five"),
    Put(b"five"),
    Put(b"six"),
    Delete,
    Sync,
    Put(b"seven"),
    Delete,
    Put(b"eight"),
    Put(&[9; 1000]),
    Put(b"ten"),
    Other,
    Put(b"eleven"),
    Sync,
    Delete,
    Put(b"twelve"),
];

/// Keys of one slot.
fn keys() -> impl Iterator<Item = Vec<u8>> {
    let slot = hash::slot(b"key", 510);
    let all = (0..).map(|n: u32| format!("other{n}").into_bytes());
    all.filter(move |key| hash::slot(key, 510) == slot)
}

fn make(writer: &mut Handle, change: Change, others: &mut dyn Iterator<Item = Vec<u8>>) {
    match change {
        Put(value) => writer.put(b"key", value).expect("puts"),
        Delete => assert!(writer.delete(b"key").expect("deletes")),
        Other => writer
            .put(&others.next().expect("endless"), b"1")
            .expect("puts"),
        Sync => writer.sync().expect("syncs"),
    }
}

fn value(size: Option<usize>, buf: &[u8]) -> Value {
    size.map(|n| buf[..n].to_vec())
}

/// Without the lock.
fn quick(e: &Handle) -> Option<Value> {
    let mut buf = [0; 8028];
    read(e, b"key", &mut buf).map(|size| value(size, &buf))
}

/// Until the handle has all that it will remember of the key.
fn warm(e: &mut Handle) -> Value {
    let mut buf = [0; 8028];
    for _ in 0..4 {
        if quick(e).is_none() {
            e.get(b"key", &mut buf).expect("reads");
        }
    }
    let size = e.get(b"key", &mut buf).expect("reads");
    let found = value(size, &buf);
    assert!(quick(e).is_none_or(|quick| quick == found));
    found
}

/// Two readers, one of which keeps nothing, and what they have found in turns.
struct Watch {
    keeps: Handle,
    keeps_nothing: Handle,
    seen: Vec<Value>,
    looked: usize,
}

impl Watch {
    fn new(file: &Several) -> Rc<RefCell<Self>> {
        let (keeps, keeps_nothing) = (file.reader(), file.reader());
        keeps_nothing.index().keep_nothing();
        Rc::new(RefCell::new(Self {
            keeps,
            keeps_nothing,
            seen: Vec::new(),
            looked: 0,
        }))
    }

    /// Both look, in turns, so that each has to follow the other.
    fn look(&mut self) {
        for reader in [
            &self.keeps_nothing,
            &self.keeps,
            &self.keeps_nothing,
            &self.keeps,
        ] {
            if let Some(found) = quick(reader) {
                self.looked += 1;
                self.seen.push(found);
            }
        }
        self.seen.dedup();
    }

    /// Before a change; answers what the key has.
    fn begin(&mut self) -> Value {
        let before = warm(&mut self.keeps);
        assert_eq!(warm(&mut self.keeps_nothing), before);
        self.seen.clear();
        before
    }

    /// Behind it: first they found what the key had, and from some store on what it has.
    fn end(&mut self, before: Value, note: impl std::fmt::Debug) {
        self.look();
        let after = warm(&mut self.keeps_nothing);
        assert_eq!(warm(&mut self.keeps), after, "{note:?}");
        let mut order = [before, after].into_iter();
        let in_order = self
            .seen
            .iter()
            .all(|found| order.any(|next| next == *found));
        assert!(in_order, "{note:?}: {:?}", self.seen);
    }
}

#[test]
fn who_keeps_a_value_finds_what_others_find() {
    // A value that one process keeps has to be given up when another one stores into the slot of its key: behind each store of each
    // kind of change, whoever keeps nothing and whoever keeps the value before must not contradict each other.
    let file = Several::new();
    let watch = Rc::new(RefCell::new(None::<Rc<RefCell<Watch>>>));
    let behind = watch.clone();
    let mut writer = file.writer(move |_| {
        if let Some(watch) = &*behind.borrow() {
            watch.borrow_mut().look();
        }
    });
    let mut others = keys();
    make(&mut writer, Put(b"zero"), &mut others);
    let readers = Watch::new(&file);
    *watch.borrow_mut() = Some(readers.clone());
    for change in CHANGES.into_iter().chain(CHANGES) {
        let before = readers.borrow_mut().begin();
        let short = before.as_ref().is_some_and(|value| value.len() < 64);
        let key = Key::new(b"key").expect("a key");
        assert_eq!(reader(&readers.borrow().keeps).keeps(&key), short);
        assert!(!reader(&readers.borrow().keeps_nothing).keeps(&key));
        make(&mut writer, change, &mut others);
        readers.borrow_mut().end(before, change);
    }
    let looked = readers.borrow().looked;
    assert!(looked > 1000, "looked {looked} times");
}

#[test]
fn who_keeps_a_value_agrees_when_the_writer_dies() {
    // A process was killed behind some store of a change. Who had kept the value before must say what those say who had not, now
    // and at each store of the next one, who puts things right and changes the key again.
    for (n, change) in CHANGES.into_iter().enumerate() {
        for dies_behind in 0.. {
            let file = Several::new();
            let left = Rc::new(Cell::new(u64::MAX));
            let counts = left.clone();
            let mut writer = file.writer(move |_| {
                assert_ne!(counts.get(), 0, "killed");
                counts.set(counts.get() - 1);
            });
            let mut others = keys();
            make(&mut writer, Put(b"zero"), &mut others);
            for &change in &CHANGES[..n] {
                make(&mut writer, change, &mut others);
            }
            let watch = Watch::new(&file);
            let before = watch.borrow_mut().begin();
            left.set(dies_behind);
            let make = || make(&mut writer, change, &mut others);
            let killed = catch_unwind(AssertUnwindSafe(make)).is_err();
            left.set(u64::MAX);
            watch.borrow_mut().look();
            let looks = watch.clone();
            let mut next = file.writer(move |_| looks.borrow_mut().look());
            next.put(b"elsewhere", b"1").expect("puts");
            watch.borrow_mut().end(before, (n, dies_behind));
            let before = watch.borrow_mut().begin();
            next.put(b"key", b"from the next one").expect("puts");
            watch.borrow_mut().end(before, (n, dies_behind));
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn what_recovery_has_changed_is_not_kept() {
    // Recovery stores into pairs without a word to those who keep what they held, but that the layout has moved. Here it puts another
    // value into a pair.
    let file = Several::new();
    let mut writer = file.writer(|_| ());
    writer.put(b"key", b"before").expect("puts");
    writer.settle().expect("closes");
    let mut keeps = file.reader();
    assert_eq!(warm(&mut keeps).as_deref(), Some(&b"before"[..]));
    writer.rearrange();
    let pair = pair_of(&writer.store().bytes(), b"key") as u64;
    for side in [Side::A, Side::B] {
        let sizes = writer.sizes();
        let block = RawBlock::new(sizes, side, true, b"key", b"behind", 0);
        for (i, word) in block.0.chunks_exact(8).enumerate() {
            let at = side.offset(pair) + 8 * i as u64;
            writer.store().store(at, u64_at(word, 0)).expect("stores");
        }
    }
    assert_eq!(warm(&mut keeps).as_deref(), Some(&b"behind"[..]));
    assert_eq!(warm(&mut file.reader()).as_deref(), Some(&b"behind"[..]));
}
