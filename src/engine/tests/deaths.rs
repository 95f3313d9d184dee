//! Deaths and failed syncs while others keep what the dead one shared with them.

use super::{empty, open, with_a_and_b};
use crate::engine::storage::{Memory, Storage};
use crate::engine::{Engine, Position, State};
use crate::error::Result;
use crate::format::header::Header;
use crate::format::{PAGE, Sizes, hash, table, u64_at};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A handle of a process that shares this state with others.
fn join(bytes: Vec<u8>, state: &Arc<State>) -> Engine<Memory, Arc<State>> {
    Engine::open(Memory::new(bytes), state.clone(), true, false).expect("opens")
}

fn value<H: AsRef<State>>(e: &mut Engine<Memory, H>, key: &[u8]) -> Option<Vec<u8>> {
    let mut buf = vec![0; 8028];
    let n = e.get(key, &mut buf).expect("reads");
    n.map(|n| buf[..n].to_vec())
}

/// What is left by a process that died at the n-th change of its close, for each n; a reader stays, and with it the state.
fn deaths_in_a_close(
    prepare: impl Fn(&mut Engine<Memory, Arc<State>>),
    look: impl Fn(Vec<u8>, &Arc<State>),
) {
    for n in 0.. {
        let state = Arc::new(State::default());
        let mut e = join(empty(128, 8028), &state);
        prepare(&mut e);
        e.store().fail_after(Some(n));
        if e.settle().is_ok() {
            assert!(n > 8);
            return;
        }
        // It is a death that it stands for, not a sync that failed.
        state.poisoned.store(0, Relaxed);
        look(e.store().bytes(), &state);
    }
}

#[test]
fn a_writer_dies_in_its_close_and_a_reader_stays() {
    // The file said that it was closed, or nearly. The state that the reader kept said that it was marked as changed, so the
    // next writer did not mark it; when he had died as well, his last values were taken for older ones.
    let prepare = |e: &mut Engine<Memory, Arc<State>>| {
        e.put(b"a", b"0").expect("puts");
        e.put(b"b", b"0").expect("puts");
    };
    deaths_in_a_close(prepare, |bytes, state| {
        let mut next = join(bytes, state);
        next.put(b"a", b"1").expect("puts");
        next.sync().expect("syncs");
        next.put(b"a", b"2").expect("puts");
        let bytes = next.store().bytes();
        assert_eq!(u64_at(&bytes, 4096 + 8), table::MARK);
        let mut after = open(bytes);
        assert_eq!(value(&mut after, b"a").as_deref(), Some(&b"2"[..]));
        assert_eq!(value(&mut after, b"b").as_deref(), Some(&b"0"[..]));
    });
}

#[test]
fn a_writer_dies_between_the_two_links_to_a_new_table() {
    // A table of a few slots has its link twice: behind the last slot in use, and behind the last one there is. Who stored one of
    // them died, or had no room for the other; the next one closed the file with two different links, a finding.
    let sizes = Sizes::new(2, 128, 8028).expect("in range");
    let header = Header { sizes, clean: true }.bytes().to_vec();
    let put = |e: &mut Engine<_, _>, n: u32| e.put(format!("/k{n}").as_bytes(), b"v");
    let mut e = join(header.clone(), &Arc::new(State::default()));
    let second = (0..).find(|&n| {
        put(&mut e, n).expect("puts");
        e.st().tables.load(Relaxed) == 2
    });
    let second = second.expect("a key that needs a second table");
    for n in 0.. {
        let state = Arc::new(State::default());
        let mut e = join(header.clone(), &state);
        (0..second).for_each(|n| put(&mut e, n).expect("puts"));
        e.store().fail_after(Some(n));
        if put(&mut e, second).is_ok() {
            assert!(n > 8);
            return;
        }
        // It is a death that it stands for, not a sync that failed.
        state.poisoned.store(0, Relaxed);
        let mut next = join(e.store().bytes(), &state);
        next.settle().expect("closes");
        let bytes = next.store().bytes();
        let link = |i| u64_at(&bytes, table::slot_offset(PAGE, i) as usize);
        assert_eq!(link(2), link(table::SLOTS as u16), "{n}");
    }
}

#[test]
fn a_writer_dies_in_its_close_and_leaves_what_was_a_log() {
    // The log lay behind the end of the file in use, and nobody knew of it any more. When the file had grown that far, a new
    // table was made over old records: slots of garbage, and no clean close.
    let log = Cell::new(0);
    let slot = |key: &str| hash::slot(key.as_bytes(), 510);
    let prepare = |e: &mut Engine<Memory, Arc<State>>| {
        e.put(b"a", b"0").expect("puts");
        e.settle().expect("closes");
        for n in 1..40 {
            e.put(b"a", &[n; 40]).expect("puts");
        }
        log.set(e.st().log.load(Relaxed));
        assert!(log.get() > 0);
    };
    deaths_in_a_close(prepare, |bytes, state| {
        let mut next = join(bytes, state);
        // Keys of different slots up to where the log was, then one that needs a table.
        let mut taken = vec![slot("a")];
        let mut keys = (0..).map(|n| format!("/k{n}"));
        while state.end.load(Relaxed) < log.get() {
            let Some(key) = keys.find(|key| !taken.contains(&slot(key))) else {
                break;
            };
            next.put(key.as_bytes(), b"v").expect("puts");
            taken.push(slot(&key));
        }
        let twin = keys.find(|key| slot(key) == slot("a")).expect("a key");
        next.put(twin.as_bytes(), b"v").expect("puts");
        let mut pos = Position::default();
        let mut found = 0;
        while next.next(&mut pos, None).expect("iterates").is_some() {
            found += 1;
        }
        assert_eq!(found, taken.len() + 1);
        next.settle().expect("closes");
    });
}

#[test]
fn a_writer_dies_while_the_log_goes_on_in_its_other_half() {
    // One half of the log is full, with the last values of /a and /b in it. Who was bringing them over died: some slots name
    // records here, some there, and the next one knows of neither more than what the slots say. Nothing that had been
    // answered was lost, not when the next one had filled the log many times, and not when all had died.
    let of = |n: usize| vec![n as u8 | 1; 3800 + n % 50];
    for (puts, room) in [(8, Some(192 << 10)), (9, Some(192 << 10)), (9, None)] {
        for n in (puts..).step_by(23) {
            let state = Arc::new(State::default());
            let mut e = join(empty(128, 8028), &state);
            // There is no room for a longer log.
            e.store().full_at(room);
            for value in [1, 2, 3] {
                e.put(b"a", &of(value)).expect("puts");
                e.put(b"b", &of(value)).expect("puts");
                if value == 1 {
                    e.settle().expect("closes");
                }
            }
            let lap = state.log_lap.load(Relaxed);
            assert!(lap > 0);
            let mut last = 4;
            while last < 4 + puts as usize || state.log_lap.load(Relaxed) == lap {
                e.put(b"a", &of(last)).expect("puts");
                last += 1;
            }
            // Up to where the next one finds it full.
            let full = |e: &Engine<Memory, Arc<State>>| {
                let (next, len) = (state.log_next.load(Relaxed), e.store().len().expect("has"));
                let (log, lap) = (state.log.load(Relaxed), state.log_lap.load(Relaxed));
                let half = (len - log) / 2;
                next + 4096 > log + half * (1 + lap % 2)
            };
            while !full(&e) {
                e.put(b"a", &of(last)).expect("puts");
                last += 1;
            }
            e.store().fail_after(Some(n));
            let done = e.put(b"a", &of(last)).is_ok();
            // It is a death that it stands for, not a sync that failed.
            state.poisoned.store(0, Relaxed);
            let check = |e: &mut Engine<Memory, Arc<State>>| {
                let got = value(e, b"a").expect("is there");
                assert!(got == of(last) || !done && got == of(last - 1), "{n}");
                assert_eq!(value(e, b"b"), Some(of(3)), "{n}");
            };
            let bytes = e.store().bytes();
            check(&mut join(bytes.clone(), &Arc::new(State::default())));
            let mut next = join(bytes, &state);
            next.store().full_at(room);
            check(&mut next);
            for more in 0..50 {
                next.put(b"a", &of(more)).expect("puts");
                assert_eq!(value(&mut next, b"a"), Some(of(more)), "{n} {more}");
                assert_eq!(value(&mut next, b"b"), Some(of(3)), "{n} {more}");
                if more % 10 == 0 {
                    let mut after = open(next.store().bytes());
                    assert_eq!(value(&mut after, b"a"), Some(of(more)), "{n} {more}");
                    assert_eq!(value(&mut after, b"b"), Some(of(3)), "{n} {more}");
                }
            }
            next.settle().expect("closes");
            let mut after = open(next.store().bytes());
            assert_eq!(value(&mut after, b"a"), Some(of(49)));
            assert_eq!(value(&mut after, b"b"), Some(of(3)));
            if done {
                assert!(n > 1000);
                break;
            }
        }
    }
}

/// A file that notes how many gaps are known when a word is stored at an offset.
struct Watched {
    memory: Memory,
    state: Arc<State>,
    at: u64,
    gaps: Cell<Option<u64>>,
}

impl Storage for Watched {
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }
    fn known_len(&self) -> u64 {
        self.memory.known_len()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.memory.read(at, buf)
    }
    fn store(&self, at: u64, word: u64) -> Result<()> {
        if at == self.at {
            self.gaps.set(Some(self.state.gap_count.load(Relaxed)));
        }
        self.memory.store(at, word)
    }
    fn grow(&self, len: u64) -> Result<()> {
        self.memory.grow(len)
    }
    fn truncate(&self, len: u64) -> Result<()> {
        self.memory.truncate(len)
    }
    fn fill_holes(&self) -> Result<()> {
        self.memory.fill_holes()
    }
    fn sync(&self) -> Result<()> {
        self.memory.sync()
    }
    fn is_file(&self) -> bool {
        true
    }
}

#[test]
fn a_death_behind_the_commit_of_a_pair_in_a_gap() {
    // The gap was still in the list of gaps when the slot named the pair: after a death in between the next new key was
    // written over it, and two slots named one pair.
    let mut e = with_a_and_b(b"1", b"2");
    e.put(b"c", b"3").expect("puts");
    let mut bytes = e.store().bytes();
    let slot_of = |key: &[u8]| table::slot_offset(4096, hash::slot(key, 510));
    let at = slot_of(b"b") as usize;
    let pair = u64_at(&bytes, at) as usize;
    bytes[pair..pair + 16384].fill(0);
    bytes[at..at + 24].fill(0);
    let state = Arc::new(State::default());
    let watched = Watched {
        memory: Memory::new(bytes),
        state: state.clone(),
        at: slot_of(b"k1"),
        gaps: Cell::default(),
    };
    let mut e = Engine::open(watched, state.clone(), true, false).expect("opens");
    e.put(b"a", b"begins a life").expect("puts");
    assert_eq!(state.gap_count.load(Relaxed), 1);
    e.put(b"k1", b"one").expect("puts");
    assert_eq!(
        u64_at(&e.store().memory.bytes(), slot_of(b"k1") as usize),
        pair as u64
    );
    assert_eq!(e.store().gaps.get(), Some(0));
}

#[test]
fn a_failed_sync_hides_no_value() {
    // After a crash a copy is torn, the other one is good. A sync failed; a get wanted to mend the pair first, which could not
    // be, and answered an I/O error.
    let mut e = with_a_and_b(b"1", b"2");
    e.sync().expect("syncs");
    e.put(b"a", b"3").expect("puts");
    let mut bytes = e.store().bytes();
    let slot = table::slot_offset(4096, hash::slot(b"a", 510)) as usize;
    let pair = u64_at(&bytes, slot) as usize;
    bytes[pair + 8192 + 148] ^= 1;
    let mut e = open(bytes);
    e.store().fail_after(Some(0));
    e.sync().expect_err("fails");
    e.store().fail_after(None);
    assert_eq!(value(&mut e, b"a").as_deref(), Some(&b"1"[..]));
    e.put(b"a", b"4").expect_err("no more changes");
}
