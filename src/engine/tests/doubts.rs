//! Files and handles in which something is doubtful: that must not last, nor cost more than it has to.

use super::several::{Handle, Several};
use super::*;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn a_file_of_tables_to_which_no_link_leads() {
    // Header, table 0 with the mark, and behind the last pair 400 tables that no link leads to: an odd file, or one of which
    // power has kept the tables and not the links. Recovery called itself for each of them, until its stack was full.
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    let mut bytes = e.store().bytes();
    bytes.truncate(32768);
    for _ in 0..400 {
        let at = bytes.len();
        bytes.resize(at + 12288, 0);
        put_u64(&mut bytes, at, table::START_DELIMITER);
        put_u64(&mut bytes, at + 8, table::MARK);
        put_u64(&mut bytes, at + 12280, table::END_DELIMITER);
    }
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let opened = small.spawn(move || all(&mut open(bytes)));
    let found = opened.expect("a thread").join().expect("opens");
    assert_eq!(found[&b"a"[..]], b"1");
}

#[test]
fn a_damaged_pair_costs_a_sync_once() {
    // Of a key in a closed file one copy is bad. It was mended with the next put, and each later put of any key brought the log
    // into the pairs, with two syncs.
    let mut e = with_a_and_b(b"1", b"2");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    let pair = pair_of(&bytes, b"b");
    bytes[pair + 8192 + 148] ^= 1;
    let mut e = open(bytes);
    e.get(b"b", &mut [0; 8]).expect("reads");
    for n in 0..10 {
        e.put(b"b", &[n]).expect("puts");
        e.put(b"a", &[n]).expect("puts");
    }
    assert!(e.read_pair(pair as u64).expect("reads").is_intact());
    syncs(&e);
    for n in 0..100 {
        e.put(b"a", &[n]).expect("puts");
    }
    assert_eq!(syncs(&e), 0);
}

#[test]
fn a_slot_in_a_closed_file_that_says_a_put_has_written_it() {
    // Damage in a closed file, under a right checksum: bit 61 of a slot's second offset, and an end delimiter of the pair. The
    // next close took the bit away and did not look at the pair, which then had one end that is none in a file without fault.
    let mut e = with_a_and_b(b"1", b"2");
    e.settle().expect("closes");
    let sound = e.store().bytes();
    let mut bytes = sound.clone();
    let at = table::slot_offset(4096, hash::slot(b"b", 510)) as usize;
    bytes[at + 15] ^= 1 << 5;
    bytes[pair_of(&sound, b"b") + 8184] ^= 1;
    let sum = RawTable(bytes[4096..16384].into()).checksum();
    put_u64(&mut bytes, 4096 + 8, sum);
    let mut e = open(bytes);
    for value in [b"3", b"1"] {
        e.put(b"a", value).expect("puts");
    }
    e.settle().expect("closes");
    assert!(e.store().bytes() == sound);
}

#[test]
fn a_damaged_pair_in_front_of_a_damaged_one_leaves_no_hole() {
    // Both copies of two pairs of one chain are bad in a closed file. The first one is deleted, and its slot was unused then, in front
    // of a used one: there the original stops, and puts what comes next in front of what it does not see.
    let sizes = Sizes::new(1, 128, 8028).expect("in range");
    let mut e = open(Header { sizes, clean: true }.bytes().to_vec());
    e.put(b"a", b"1").expect("puts");
    e.put(b"b", b"1").expect("puts");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    for t in 0..2 {
        let pair = e.place(t, 0).expect("reads").pair as usize;
        bytes[pair + 148] ^= 1;
        bytes[pair + 8192 + 148] ^= 1;
    }
    let mut e = open(bytes);
    assert!(e.delete(b"a").expect("deletes"));
    assert!(e.place(0, 0).expect("reads").slot.is_deleted());
    assert!(!e.place(1, 0).expect("reads").slot.is_unused());
    e.settle().expect("closes");
}

#[test]
fn a_failed_sync_in_a_put_hides_no_other_key() {
    // A put into a deleted pair in front of another key: one of its syncs fails. Nothing more may be written in this life, and the other
    // key is there; each get of it tried to finish the put, and was an I/O error.
    let mut some = 0;
    for n in 0.. {
        let sizes = Sizes::new(1, 128, 8028).expect("in range");
        let mut e = open(Header { sizes, clean: true }.bytes().to_vec());
        e.put(b"a", b"1").expect("puts");
        e.put(b"b", b"1").expect("puts");
        e.delete(b"a").expect("deletes");
        e.sync().expect("syncs");
        e.store().fail_after(Some(n));
        let done = e.put(b"c", &[7; 1000]).is_ok();
        e.store().fail_after(None);
        if done {
            break;
        }
        e.store().take_log();
        if e.st().poisoned.load(Relaxed) != 0 {
            some += 1;
            assert_eq!(e.get(b"b", &mut [0; 8]).expect("reads"), Some(1), "{n}");
            assert_eq!(e.store().take_log(), [], "{n}");
        }
    }
    assert!(some > 0);
}

#[test]
fn tables_beside_a_log_do_not_make_the_file_longer() {
    // One slot, so each key has a table of its own, and between them values go into the log. Each table left the place of the
    // log that had to end for it, and the next log lay behind that.
    let sizes = Sizes::new(1, 128, 8028).expect("in range");
    let mut e = open(Header { sizes, clean: true }.bytes().to_vec());
    e.put(b"hot", b"0").expect("puts");
    for n in 0..100u8 {
        for value in 0..5 {
            e.put(b"hot", &[value, n]).expect("puts");
        }
        e.put(&[b'k', n + 1], b"1").expect("puts");
    }
    let (end, len) = (e.st().end.load(Relaxed), e.store().len().expect("known"));
    assert!(
        len < end + end / 2,
        "{end} bytes are in use, the file has {len}"
    );
}

#[test]
fn readers_agree_on_a_change_whose_maker_died_behind_its_slot() {
    // A writer is killed behind the last store of a slot, before anybody was told of it. One of two readers had looked at the key before
    // and said what it had seen; the other one said what the slot says.
    for deletes in [false, true] {
        let file = Several::new();
        let dies_behind = Rc::new(Cell::new(u64::MAX));
        let (dies, times) = (dies_behind.clone(), Cell::new(0));
        // The first store there makes sure of the page.
        let mut writer = file.writer(move |at| {
            times.set(times.get() + u32::from(at == dies.get()));
            assert_ne!(times.get(), 2, "killed");
        });
        writer.put(b"other", b"1").expect("puts");
        if deletes {
            writer.put(b"k", b"1").expect("puts");
            writer.sync().expect("syncs");
        }
        let (mut old, mut new) = (file.reader(), file.reader());
        let get = |reader: &mut Handle| reader.get(b"k", &mut [0; 8]).expect("reads").is_some();
        assert_eq!(get(&mut old), deletes);
        dies_behind.set(table::slot_offset(4096, hash::slot(b"k", 510)));
        let killed = catch_unwind(AssertUnwindSafe(|| match deletes {
            true => writer.delete(b"k").map(drop),
            false => writer.put(b"k", b"1"),
        }));
        assert!(killed.is_err());
        let seen = get(&mut new);
        assert_eq!(seen, !deletes);
        assert_eq!(get(&mut old), seen);
        let lockless = read(&old, b"k", &mut [0; 8]).map(|found| found.is_some());
        assert!(lockless.is_none_or(|found| found == seen));
    }
}
