//! The engine over a file in memory.

use super::storage::{Event, Memory, Storage};
use super::{Engine, Position, State};
use crate::format::Sizes;
use crate::format::block::{self, RawBlock, Side};
use crate::format::header::Header;
use crate::format::key::Key;
use crate::format::slot::Slot;
use crate::format::table::{self, RawTable};
use crate::format::{hash, put_u64, u64_at};
use std::collections::BTreeMap;

mod cuts;
mod deaths;
mod doubts;
mod iterations;
mod kept;
mod log;
mod several;

type Mem = Engine<Memory, State>;

fn empty(key: u64, value: u64) -> Vec<u8> {
    let sizes = Sizes::new(510, key, value).expect("in range");
    Header { sizes, clean: true }.bytes().to_vec()
}

fn open(bytes: Vec<u8>) -> Mem {
    Engine::open(Memory::new(bytes), State::default(), true, false).expect("opens")
}

/// A new file with two keys of these values.
fn with_a_and_b(a: &[u8], b: &[u8]) -> Mem {
    let mut e = open(empty(128, 8028));
    e.put(b"a", a).expect("puts");
    e.put(b"b", b).expect("puts");
    e
}

/// Syncs that the record of a file holds.
fn syncs(e: &Mem) -> usize {
    let log = e.store().take_log();
    let syncs = |e: &&Event| matches!(e, Event::Sync | Event::SyncRange(..));
    log.iter().filter(syncs).count()
}

fn all(e: &mut Mem) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut pos = Position::default();
    let mut out = BTreeMap::new();
    let mut buf = vec![0; 8028];
    while let Some(key) = e.next(&mut pos, None).expect("iterates") {
        let n = key.iter().position(|&b| b == 0).unwrap_or(key.len());
        let key = key[..n].to_vec();
        let size = e.get(&key, &mut buf).expect("reads").expect("is there");
        assert!(
            out.insert(key, buf[..size].to_vec()).is_none(),
            "a key twice"
        );
    }
    out
}

#[test]
fn put_get_delete_and_a_clean_close() {
    let mut e = open(empty(128, 8028));
    let mut model = BTreeMap::new();
    for round in 0..3u8 {
        for i in 0..700u32 {
            let key = format!("/key/{i}").into_bytes();
            let value = vec![round + 1; (i as usize * 37 + round as usize) % 1200];
            if i % 7 == u32::from(round) {
                assert_eq!(
                    e.delete(&key).expect("deletes"),
                    model.remove(&key).is_some()
                );
            } else {
                e.put(&key, &value).expect("puts");
                model.insert(key, value);
            }
        }
        assert_eq!(all(&mut e), model);
        e.settle().expect("closes");
        let bytes = e.store().bytes();
        e = open(bytes);
        assert_eq!(all(&mut e), model);
    }
}

#[test]
fn a_killed_life_is_taken_up_by_the_next() {
    // Everything reached the medium, nobody closed.
    let mut e = open(empty(64, 212));
    let mut model = BTreeMap::new();
    for i in 0..1200u32 {
        let key = format!("r{}", i % 700).into_bytes();
        if i % 5 == 4 {
            e.delete(&key).expect("deletes");
            model.remove(&key);
        } else {
            e.put(&key, &i.to_le_bytes()).expect("puts");
            model.insert(key, i.to_le_bytes().to_vec());
        }
        if i % 100 == 0 {
            let mut next = open(e.store().bytes());
            assert_eq!(all(&mut next), model, "after {i}");
            e = next;
        }
    }
}

#[test]
fn a_read_of_a_clean_file_stores_nothing() {
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    e.settle().expect("closes");
    let mut e = open(e.store().bytes());
    assert_eq!(all(&mut e).len(), 1);
    e.settle().expect("closes");
    assert_eq!(e.store().take_log(), []);
}

#[test]
fn every_failing_change_leaves_an_open_database() {
    // From the n-th store, growth or sync on everything fails: the call says so, and the next open finds each key with the last value
    // that was answered, or that of the first call that failed.
    for n in 0.. {
        let mut e = with_a_and_b(b"old", b"old");
        e.settle().expect("closes");
        let mut e = open(e.store().bytes());
        e.store().fail_after(Some(n));
        let ops: [(&[u8], Option<&[u8]>); 7] = [
            (b"a", Some(b"new")),
            (b"a", Some(b"newer")),
            (b"a", Some(b"in the log")),
            (b"a", Some(b"also")),
            (b"b", None),
            (b"b", Some(b"again")),
            (b"c", Some(b"new")),
        ];
        let mut may: BTreeMap<&[u8], Vec<Option<&[u8]>>> = BTreeMap::new();
        may.insert(b"a", vec![Some(b"old")]);
        may.insert(b"b", vec![Some(b"old")]);
        may.insert(b"c", vec![None]);
        let mut failed = false;
        for (key, value) in ops {
            let done = match value {
                Some(value) => e.put(key, value).is_ok(),
                None => e.delete(key).is_ok(),
            };
            assert!(!done || !failed, "{n}: a call behind a failed one");
            let may = may.get_mut(key).expect("one of three");
            match done {
                true => *may = vec![value],
                false if !failed => may.push(value),
                false => {}
            }
            failed |= !done;
        }
        failed |= e.settle().is_err();
        e.store().fail_after(None);
        let got = all(&mut open(e.store().bytes()));
        for (key, values) in may {
            let found = got.get(key).map(Vec::as_slice);
            assert!(values.contains(&found), "{n} {key:?} {found:?} {values:?}");
        }
        if !failed {
            assert!(n > 20);
            break;
        }
    }
}

#[test]
fn syncs_are_as_few_as_promised() {
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    assert_eq!(
        syncs(&e),
        2,
        "the first table, and the first change of a life"
    );
    e.put(b"b", b"1").expect("puts");
    assert_eq!(syncs(&e), 0, "a new key");
    e.settle().expect("closes");
    assert_eq!(syncs(&e), 3, "data, tables, flags");
    e.put(b"a", b"2").expect("puts");
    assert_eq!(syncs(&e), 1, "the first change of a life");
    e.put(b"b", b"2").expect("puts");
    assert_eq!(syncs(&e), 0, "the first overwrite");
    e.put(b"b", b"3").expect("puts");
    assert_eq!(syncs(&e), 1, "the same pair again");
    // 21 records a page. When half of the log is full, it gets twice as long, and the other half begins with the last value.
    let mut there = 0;
    for pages in [8, 16, 32, 64, 128, 128, 128] {
        for n in there..21 * pages {
            e.put(b"b", &[n as u8]).expect("puts");
            assert_eq!(syncs(&e), 0, "into the log, {n} of {pages} pages");
        }
        e.put(b"b", b"5").expect("puts");
        assert_eq!(syncs(&e), 1, "a half of {pages} pages is full");
        there = 2;
    }
    e.settle().expect("closes");
    assert_eq!(syncs(&e), 4, "and one for what is in the log");
    e.put(b"a", b"5").expect("puts");
    let mut e = open(e.store().bytes());
    assert_eq!(all(&mut e).len(), 2);
    assert_eq!(syncs(&e), 0, "recovery with nothing to mend");
    e.put(b"a", b"6").expect("puts");
    assert_eq!(syncs(&e), 1, "the first change behind it");
}

#[test]
fn a_put_of_the_value_that_is_there_stores_one_word() {
    // Settings are set to what they are all the time. Each such put wrote a copy, and every second one synced. What the
    // original would leave is left all the same: each put makes the other copy current.
    for puts in 1..4 {
        let mut e = with_a_and_b(b"same", b"other");
        e.settle().expect("closes");
        e.put(b"b", b"begins a life").expect("puts");
        e.store().take_log();
        for _ in 0..puts {
            e.put(b"a", b"same").expect("puts");
            let [Event::Store(..)] = e.store().take_log()[..] else {
                panic!("more than a word");
            };
        }
        let mut after_crash = open(e.store().bytes());
        assert_eq!(all(&mut after_crash)[&b"a"[..]], b"same");
        e.settle().expect("closes");
        let bytes = e.store().bytes();
        assert_eq!(current(&bytes, b"a"), puts % 2);
        assert_eq!(all(&mut open(bytes))[&b"a"[..]], b"same");
    }
}

/// Which copy the slot of a key in table 0 makes current.
fn current(bytes: &[u8], key: &[u8]) -> u64 {
    let slot = table::slot_offset(4096, hash::slot(key, 510));
    u64_at(bytes, slot as usize + 16)
}

/// Where the pair of a key begins.
fn pair_of(bytes: &[u8], key: &[u8]) -> usize {
    let pairs = (16384..bytes.len()).step_by(16384);
    let mut found = pairs.filter(|&p| bytes[p + 16..].starts_with(key));
    found.next().expect("has a pair")
}

#[test]
fn a_table_costs_one_sync_and_a_pair_in_front_of_others_none() {
    // Steps by which the file grew did not end behind whole pairs: at each end a sync of its own. And each put into
    // a deleted pair in front of a used slot of a later table made one, 3.5 ms on a disk.
    let sizes = Sizes::new(1, 128, 8028).expect("in range");
    let mut e = open(Header { sizes, clean: true }.bytes().to_vec());
    let key = |n: u32| format!("/key/{n}").into_bytes();
    e.put(&key(0), b"value").expect("puts");
    syncs(&e);
    for n in 1..40 {
        e.put(&key(n), b"value").expect("puts");
        assert_eq!(syncs(&e), 1, "a table for key {n}");
    }
    for n in 0..20 {
        e.delete(&key(n)).expect("deletes");
    }
    e.sync().expect("syncs");
    syncs(&e);
    for n in 100..120 {
        e.put(&key(n), b"another").expect("puts");
    }
    assert_eq!(syncs(&e), 0);
    // Too long for one sector.
    e.delete(&key(110)).expect("deletes");
    e.sync().expect("syncs");
    syncs(&e);
    e.put(&key(130), &[7; 365]).expect("puts");
    assert_eq!(syncs(&e), 2);
    e.settle().expect("closes");
    let mut e = open(e.store().bytes());
    assert_eq!(all(&mut e).len(), 40);
}

#[test]
fn a_zero_table_hides_nothing() {
    // The slots of the only table were zeroed, with the checksum that zeros have; flags clean. The
    // original shows an empty database.
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    bytes[4096 + 8..4096 + 12280].fill(0);
    let mut e = open(bytes);
    assert_eq!(all(&mut e).len(), 1);
}

#[test]
fn a_put_into_a_fresh_file_that_was_cut_off_anywhere() {
    // Power goes during the very first put: a table with one delimiter, with none, a mark or none,
    // flags or none, zeros behind. Whoever comes next finds a database, empty or with the key.
    let mut e = open(empty(128, 8028));
    e.store().take_log();
    e.put(b"a", b"1").expect("puts");
    let log = e.store().take_log();
    let mut image = empty(128, 8028);
    for event in log {
        match event {
            Event::Store(at, w) => {
                image[at as usize..at as usize + 8].copy_from_slice(&w.to_le_bytes())
            }
            Event::Length(n) => image.resize(n as usize, 0),
            Event::Sync | Event::SyncRange(..) | Event::Mark(_) => {}
        }
        let mut e = open(image.clone());
        assert!(all(&mut e).len() <= 1);
        e.put(b"b", b"2").expect("puts");
        e.settle().expect("closes");
        assert_eq!(e.get(b"b", &mut [0; 8]).expect("reads"), Some(1));
    }
}

#[test]
fn a_file_cut_off_inside_a_pair_opens() {
    // Somebody shortened the file of a life that was not closed, to any length. What lies before
    // the cut is there.
    let mut e = open(empty(128, 8028));
    for i in 0..8 {
        e.put(format!("k{i}").as_bytes(), b"v").expect("puts");
    }
    let bytes = e.store().bytes();
    for len in (4096..16384 + 8 * 16384 + 5000).step_by(1111) {
        let mut e = open(bytes[..len].to_vec());
        let whole = (len.saturating_sub(16384) / 16384).min(8);
        assert!(all(&mut e).len() >= whole, "{len}");
        e.put(b"new", b"v").expect("puts");
        e.settle().expect("closes");
    }
}

#[test]
fn pairs_that_the_original_appended_at_an_odd_offset() {
    // Power went and left an odd length; the original appended a pair behind it and closed. Here
    // nobody may lose that pair.
    let mut e = with_a_and_b(b"1", b"2");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    let odd = 16384 + 16384 + 100;
    let pair = bytes.split_off(32768);
    bytes.resize(odd, 0x55);
    bytes.extend(pair);
    let mut raw = RawTable(bytes[4096..16384].to_vec().into_boxed_slice());
    for i in 0..510 {
        let slot = raw.slot(i);
        if slot.a == 32768 {
            raw.set_slot(i, Slot::live(odd as u64, slot.word));
        }
    }
    let sum = raw.checksum();
    put_u64(&mut raw.0, 8, sum);
    bytes[4096..16384].copy_from_slice(&raw.0);
    let image = bytes.clone();
    let mut e = open(bytes);
    assert_eq!(all(&mut e).len(), 2);
    e.put(b"c", b"3").expect("puts");
    e.settle().expect("closes");
    assert_eq!(all(&mut open(e.store().bytes())).len(), 3);
    // Read-only: found as well, nothing stored.
    let below = Memory::new(image);
    let over = super::storage::Overlay::new(below).expect("reads");
    let mut e = Engine::open(over, State::default(), false, false).expect("opens");
    assert_eq!(e.get(b"b", &mut [0; 8]).expect("reads"), Some(1));
    assert_eq!(e.store().below().take_log(), []);
}

#[test]
fn a_live_slot_on_a_deleted_pair_is_used_again() {
    // A closed file whose slot says live, but copy A deleted (a bit of the slot's sign was lost):
    // absent for a get, and a put must not leave the key twice.
    let mut e = open(empty(128, 8028));
    e.put(b"k", b"1").expect("puts");
    e.delete(b"k").expect("deletes");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    let mut raw = RawTable(bytes[4096..16384].to_vec().into_boxed_slice());
    for i in 0..510 {
        let slot = raw.slot(i);
        if slot.is_deleted() {
            raw.set_slot(i, Slot::live(16384, slot.word));
        }
    }
    let sum = raw.checksum();
    put_u64(&mut raw.0, 8, sum);
    bytes[4096..16384].copy_from_slice(&raw.0);
    let mut e = open(bytes);
    assert_eq!(e.get(b"k", &mut [0; 8]).expect("reads"), None);
    e.put(b"k", b"22").expect("puts");
    e.settle().expect("closes");
    let mut e = open(e.store().bytes());
    assert_eq!(all(&mut e).len(), 1);
    assert_eq!(e.store().bytes().len(), 32768, "the same pair");
}

#[test]
fn a_put_over_one_in_a_deleted_pair_makes_the_other_copy_live() {
    // A key was deleted and put again, into copy A alone: B is its deleted record still, with the same key and all zeros
    // behind. The next value goes to B. With the delimiters that it had, the original would take A's for the last one, for ever.
    let mut e = with_a_and_b(b"1", b"2");
    e.delete(b"a").expect("deletes");
    e.sync().expect("syncs");
    e.put(b"a", b"3").expect("puts");
    let b = pair_of(&e.store().bytes(), b"a") + block::SIZE;
    let start = |e: &Mem| u64_at(&e.store().bytes(), b);
    assert_eq!(start(&e), Side::B.delimiters(false).0);
    e.sync().expect("syncs");
    e.put(b"a", b"4").expect("puts");
    assert_eq!(start(&e), Side::B.delimiters(true).0);
    let mut e = open(e.store().bytes());
    assert_eq!(all(&mut e)[&b"a"[..]], b"4");
}

#[test]
fn a_torn_first_table_is_mended_by_an_open_and_a_close() {
    // Power went in the first put of a file's life: half of the first table had reached the medium, the flags
    // still said that the file was closed. Somebody opened it and closed it without a call; it was
    // left as it was, clean and with half a table, for the original to find.
    let mut bytes = empty(128, 8028);
    bytes.resize(4096 + 12288, 0);
    put_u64(&mut bytes, 4096, crate::format::table::START_DELIMITER);
    let mut e = open(bytes);
    e.settle().expect("closes");
    let bytes = e.store().bytes();
    let raw = bytes
        .get(4096..16384)
        .map(|t| RawTable(t.to_vec().into_boxed_slice()));
    assert!(raw.is_none_or(|t| t.delimiters() == 2 && t.checksum() == u64_at(&t.0, 8)));
    assert_eq!(all(&mut open(bytes)).len(), 0);
}

#[test]
fn a_read_without_the_lock_does_not_miss_what_was_cut_off() {
    // Somebody cut the file off while it was open, and this process had asked for its length since. The pair read
    // as zeros, without a fault, and the key that was in it was answered as absent.
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    let mut buf = [0; 8];
    while read(&e, b"a", &mut buf) != Some(Some(1)) {
        assert_eq!(e.get(b"a", &mut buf).expect("reads"), Some(1));
    }
    super::Storage::truncate(e.store(), 16384).expect("is cut off");
    assert_eq!(read(&e, b"a", &mut buf), None, "it must ask under the lock");
    assert!(e.get(b"a", &mut [0; 8]).is_err());
}

/// For reads without the lock.
fn reader<S: Storage, H: AsRef<State>>(e: &Engine<S, H>) -> super::index::Reader<'_, S> {
    super::index::Reader {
        index: e.index(),
        store: e.store(),
        state: e.st(),
        sizes: e.sizes(),
    }
}

/// A get without the lock; `None`: it has to be asked for under the lock.
fn read<S: Storage, H: AsRef<State>>(
    e: &Engine<S, H>,
    key: &[u8],
    buf: &mut [u8],
) -> Option<Option<usize>> {
    reader(e).get(&Key::new(key).expect("a key"), buf)
}

#[test]
fn a_record_cut_short_does_not_come_back() {
    // A process was killed in a put into the log, with the record there and the slot not naming it. Others found the value
    // before it. Then all of them ended without a close, and recovery, which reads the log, must find that value too.
    for n in 0.. {
        let mut e = open(empty(128, 8028));
        for value in [&b"one"[..], b"two", b"three", b"four"] {
            e.put(b"k", value).expect("puts");
        }
        e.store().fail_after(Some(n));
        let done = e.put(b"k", b"in flight");
        e.store().fail_after(None);
        let want = match done.is_ok() {
            true => &b"in flight"[..],
            false => b"four",
        };
        assert_eq!(all(&mut e)[&b"k"[..]], want, "{n}");
        assert_eq!(all(&mut open(e.store().bytes()))[&b"k"[..]], want, "{n}");
        if done.is_ok() {
            assert!(n > 20);
            break;
        }
    }
}

#[test]
fn what_a_reader_has_seen_of_a_change_cut_short_stays_so() {
    // A process was killed in the middle of a put into a deleted pair: both copies were there, the slot was not. Another one
    // that may only read found the key absent. The next writer took the put for done, and the key was there, though nobody
    // had put it since. The same with deletes, the other way round.
    for sizes in [(128, 8028), (64, 212)] {
        let long = vec![7; if sizes.1 > 400 { 3000 } else { 200 }];
        for (what, value) in [("delete", &b""[..]), ("short", b"new"), ("long", &long)] {
            for n in 0.. {
                let mut e = open(empty(sizes.0, sizes.1));
                for key in [&b"k"[..], b"other"] {
                    e.put(key, &[1; 90]).expect("puts");
                }
                if what != "delete" {
                    e.delete(b"k").expect("deletes");
                }
                e.sync().expect("syncs");
                e.get(b"k", &mut []).expect("reads");
                e.store().fail_after(Some(n));
                let done = match what {
                    "delete" => e.delete(b"k").map(drop),
                    _ => e.put(b"k", value),
                };
                e.store().fail_after(None);
                e.st()
                    .poisoned
                    .store(0, std::sync::atomic::Ordering::Relaxed);
                let seen = read(&e, b"k", &mut [0; 8028]);
                let after = e.get(b"k", &mut []).expect("reads");
                if let Some(seen) = seen {
                    assert_eq!(seen, after, "{what}, cut short after {n} stores, {sizes:?}");
                }
                // And so it is after a close.
                e.settle().expect("closes");
                let mut e = open(e.store().bytes());
                assert_eq!(e.get(b"k", &mut []).expect("reads"), after, "{what} {n}");
                assert_eq!(e.get(b"other", &mut []).expect("reads"), Some(90));
                if done.is_ok() {
                    break;
                }
            }
        }
    }
}
