//! The redo log.

use super::several::Several;
use super::*;
use crate::format::slot::LAPS;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// Values of which one fills a page of the log.
const PAGEFUL: usize = 3800;

/// On a medium with room for so many bytes a file of three pairs has a log of 64 KiB, and no longer one.
const NO_MORE: u64 = 192 << 10;

fn pageful(n: usize) -> Vec<u8> {
    vec![n as u8 | 1; PAGEFUL - n % 100]
}

/// The slots of /a and /b.
fn slots_of_a_and_b(bytes: &[u8]) -> [Slot; 2] {
    let table = RawTable(bytes[4096..4096 + 12288].into());
    [b"a", b"b"].map(|key| table.slot(hash::slot(key, 510)))
}

/// /a and /b, the values of both in the log.
fn with_two_in_the_log() -> Mem {
    let mut e = with_a_and_b(&pageful(0), &pageful(0));
    e.settle().expect("closes");
    // The first into the pairs; the second of /a begins the log, and a sync with it.
    for n in 1..4 {
        e.put(b"a", &pageful(n)).expect("puts");
        e.put(b"b", &pageful(n)).expect("puts");
    }
    for slot in slots_of_a_and_b(&e.store().bytes()) {
        assert!(slot.record().is_some());
    }
    e
}

#[test]
fn who_folds_what_others_have_put_again_finds_their_next_delete() {
    // Three programs used a database on a disk. One of them deleted a key, put it again and then once more, into the log;
    // another one, which had last looked while the key was deleted, brought the log into the pairs. Then the first one deleted
    // the key again. The second one went on finding the value for as long as it ran, and what it put there itself was lost.
    let several = Several::new();
    let (mut one, mut other) = (several.writer(|_| ()), several.writer(|_| ()));
    let is_logged = |e: &super::several::Handle| slots_of_a_and_b(&e.store().bytes())[0].record();
    one.put(b"a", b"1").expect("puts");
    one.put(b"b", b"1").expect("puts");
    // A log, with /b in it.
    for n in 0..4 {
        one.put(b"b", &[n]).expect("puts");
    }
    // Checked by the other one, and both copies good.
    one.sync().expect("syncs");
    one.put(b"a", b"2").expect("puts");
    assert_eq!(other.get(b"a", &mut [0; 8]).expect("reads"), Some(1));
    assert!(one.delete(b"a").expect("deletes"));
    assert_eq!(other.get(b"a", &mut [0; 8]).expect("reads"), None);
    // With copies that differ the next value of this epoch goes into the log.
    for value in [b"3", b"4", b"5"] {
        one.put(b"a", value).expect("puts");
        if value == b"3" {
            one.sync().expect("syncs");
        }
    }
    assert!(is_logged(&one).is_some());
    assert!(other.fold().expect("folds"));
    assert!(is_logged(&one).is_none());
    assert!(one.delete(b"a").expect("deletes"));
    assert_eq!(other.get(b"a", &mut [0; 8]).expect("reads"), None);
    other.put(b"a", b"6").expect("puts");
    let mut value = [0; 1];
    assert_eq!(one.get(b"a", &mut value).expect("reads"), Some(1));
    assert_eq!(&value, b"6");
}

#[test]
fn a_full_log_makes_room_for_a_key_that_is_not_in_it() {
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    e.put(b"b", b"1").expect("puts");
    e.settle().expect("closes");
    // The first into the pair, the second begins the log, of which the others fill a half.
    for n in 0..2 + 21 * 8 {
        e.put(b"b", &[n as u8]).expect("puts");
    }
    e.put(b"a", b"2").expect("puts");
    syncs(&e);
    e.put(b"a", b"3").expect("puts");
    assert_eq!(syncs(&e), 1, "of the half that is full");
    let found = all(&mut open(e.store().bytes()));
    assert_eq!(found[&b"a"[..]], b"3");
    assert_eq!(found[&b"b"[..]], [(1 + 21 * 8) as u8]);
}

#[test]
fn a_value_outlives_many_laps_of_the_log() {
    // One key is put so often that the log is filled again and again, another one rests in it: what both were given last is
    // found, also after a crash at any time, and nothing is brought into pairs before the close.
    let mut e = with_two_in_the_log();
    e.store().full_at(Some(NO_MORE));
    let pairs = [b"a", b"b"].map(|key| pair_of(&e.store().bytes(), key));
    e.store().take_log();
    for n in 4..700 {
        e.put(b"a", &pageful(n)).expect("puts");
        if n % 9 == 0 || n > 690 {
            let got = all(&mut open(e.store().bytes()));
            assert_eq!(got[&b"a"[..]], pageful(n), "{n}");
            assert_eq!(got[&b"b"[..]], pageful(3), "{n}");
        }
    }
    assert!(e.st().log_lap.load(Relaxed) > 90);
    for event in e.store().take_log() {
        if let Event::Store(at, _) = event {
            let at = at as usize;
            assert!(!pairs.iter().any(|pair| (*pair..pair + 16384).contains(&at)));
        }
    }
    e.settle().expect("closes");
    let bytes = e.store().bytes();
    // As many changes as the original would have made.
    assert_eq!((current(&bytes, b"a"), current(&bytes, b"b")), (1, 1));
    let got = all(&mut open(bytes));
    assert_eq!(got[&b"a"[..]], pageful(699));
    assert_eq!(got[&b"b"[..]], pageful(3));
}

#[test]
fn names_of_laps_begin_anew_with_other_words() {
    // A name has room for some thousand laps. Before the first one comes again, all values go to their pairs, which changes the
    // words of their slots; then the log goes on as before.
    let mut e = with_two_in_the_log();
    e.store().full_at(Some(NO_MORE));
    e.st().log_lap.fetch_add(LAPS - 10, Relaxed);
    let (mut seen, mut folds) = (std::collections::HashSet::new(), 0);
    let mut before = slots_of_a_and_b(&e.store().bytes());
    for n in 4..300 {
        e.put(b"a", &pageful(n)).expect("puts");
        let now = slots_of_a_and_b(&e.store().bytes());
        assert!(seen.insert((now[0].word.0, now[0].b)), "{n}");
        folds += usize::from(now[1].word != before[1].word);
        before = now;
        let got = all(&mut open(e.store().bytes()));
        assert_eq!(got[&b"a"[..]], pageful(n), "{n}");
        assert_eq!(got[&b"b"[..]], pageful(3), "{n}");
    }
    let lap = e.st().log_lap.load(Relaxed);
    assert!(lap > LAPS + 20, "{lap}");
    // /b is only in the log until then.
    assert_eq!(folds, 1);
}

#[test]
fn a_reader_is_overtaken_by_many_laps_of_the_log() {
    // A reader had looked at the slot of /a and was about to read the record that it named. Before it came to that, /b was put so
    // often that the log was filled, once, twice or more: there was a record of /b in that place, and the slot's word was still the
    // same, so the reader said that there was no /a.
    let key = Key::new(b"a").expect("a key");
    let mut asked = 0;
    for puts in 0..60 {
        let file = Several::new();
        file.full_at(NO_MORE);
        let mut writer = file.writer(|_| ());
        writer.put(b"a", &pageful(0)).expect("puts");
        writer.put(b"b", &pageful(0)).expect("puts");
        writer.settle().expect("closes");
        for n in 1..4 {
            writer.put(b"a", &pageful(n)).expect("puts");
            writer.put(b"b", &pageful(n)).expect("puts");
        }
        let reader = &mut file.reader();
        let mut buf = vec![0; 8028];
        reader.get(b"a", &mut buf).expect("reads");
        let writer = Rc::new(RefCell::new(writer));
        let overtakes = writer.clone();
        reader.store().behind_slots(move |_| {
            for n in 0..puts {
                let mut writer = overtakes.borrow_mut();
                writer.put(b"b", &pageful(n)).expect("puts");
            }
        });
        match super::reader(reader).get(&key, &mut buf) {
            Some(size) => assert_eq!(buf[..size.expect("is there")], pageful(3), "{puts}"),
            None => asked += 1,
        }
    }
    assert!(asked > 40 && asked < 58, "{asked}");
}

/// How many values are in the log.
fn named(e: &Mem) -> usize {
    let mut n = 0;
    e.each_slot(|_, _, slot| {
        n += usize::from(slot.record().is_some());
        Ok(())
    })
    .expect("reads");
    n
}

#[test]
fn what_would_fill_the_other_half_goes_into_the_pairs() {
    // More than a quarter of a log that is as long as it may be is in use: instead of being copied, which would
    // have to be done again very soon, it goes into its pairs.
    let mut e = open(empty(128, 8028));
    let keys: Vec<_> = (0..70).map(|n| format!("/key/{n}")).collect();
    let (mut before, mut folds) = (0, 0);
    for round in 0..20 {
        for (n, key) in keys.iter().enumerate() {
            e.put(key.as_bytes(), &pageful(round + n)).expect("puts");
            folds += usize::from(before == 70 && named(&e) < 2);
            before = named(&e);
        }
        let got = all(&mut open(e.store().bytes()));
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(got[key.as_bytes()], pageful(round + n), "{round} {n}");
        }
        if round == 0 {
            e.settle().expect("closes");
        }
    }
    assert!(folds > 2);
}

#[test]
fn values_that_go_through_the_log_leave_what_the_original_leaves() {
    // It makes the other copy current with each put. Of values that follow each other in the log only the last one comes
    // into the pair, so the close has to count.
    for puts in 1..12 {
        let mut e = open(empty(128, 8028));
        e.put(b"a", b"first").expect("puts");
        e.settle().expect("closes");
        for n in 0..puts {
            e.put(b"a", &[1 + n as u8]).expect("puts");
            if n == 5 {
                // Brings the log into the pairs.
                e.fold().expect("folds");
            }
        }
        e.settle().expect("closes");
        let bytes = e.store().bytes();
        assert_eq!(current(&bytes, b"a"), puts % 2, "{puts}");
        assert_eq!(all(&mut open(bytes))[&b"a"[..]], [puts as u8]);
    }
}

/// Two keys, put so often that the log holds the last values of both. Nobody closed.
fn with_a_log() -> Vec<u8> {
    let mut e = open(empty(128, 8028));
    for value in [b"0", b"1", b"2", b"3", b"4"] {
        e.put(b"a", value).expect("puts");
        e.put(b"b", value).expect("puts");
    }
    let slots = RawTable(e.store().bytes()[4096..4096 + 12288].into());
    let logged = (0..510).filter(|&i| slots.slot(i).record().is_some());
    assert_eq!(logged.count(), 2);
    e.store().bytes()
}

/// As the original overwrites: both copies, whatever the slot in the file says.
fn overwrite_as_the_original(bytes: &mut [u8], key: &[u8], value: &[u8]) {
    let sizes = Sizes::new(510, 128, 8028).expect("in range");
    let at = pair_of(bytes, key);
    for side in [Side::A, Side::B] {
        let block = RawBlock::new(sizes, side, true, key, value, 0);
        bytes[side.offset(at as u64) as usize..][..8192].copy_from_slice(&block.0[..]);
    }
}

#[test]
fn what_is_in_the_log_is_there_after_a_crash() {
    let mut e = open(with_a_log());
    let want = [b"a", b"b"].map(|key| (key.to_vec(), b"4".to_vec()));
    assert_eq!(all(&mut e), want.clone().into());
    e.settle().expect("closes");
    let closed = e.store().bytes();
    assert_eq!(closed.len(), 3 * 16384);
    assert_eq!(all(&mut open(closed)), want.into());
}

#[test]
fn the_original_has_written_over_a_key_whose_value_is_in_the_log() {
    // A life of ours ended with values in the log. Then the original opened the file, which to it is one that it has
    // to recover, gave a key another value, in both copies as it does, and died in its turn: our mark, our slots and our
    // log are as they were. The user set a value last with the original: that one counts, also where it is the one
    // that the pair held before.
    for value in [b"0", b"1", b"2", b"3", b"4", b"x"] {
        let mut bytes = with_a_log();
        overwrite_as_the_original(&mut bytes, b"a", value);
        let mut e = open(bytes);
        let got = all(&mut e);
        assert_eq!(got[&b"a"[..]], value, "{value:?}");
        assert_eq!(got[&b"b"[..]], b"4");
        e.settle().expect("closes");
        assert_eq!(all(&mut open(e.store().bytes())), got);
    }
}

#[test]
fn a_value_in_the_log_behind_one_with_remains_behind_it() {
    // A closed file of somebody who leaves bytes behind values: both copies of /a hold "0" and more. Here it was given "0", without the
    // rest, and then, which went into the log, "1"; the process died. The two copies do not differ in their values, but they do,
    // and the user has set "1" last.
    let mut bytes = {
        let mut e = with_a_and_b(b"0 and more", b"0");
        e.settle().expect("closes");
        e.store().bytes()
    };
    let at = pair_of(&bytes, b"a");
    for block in [at, at + 8192] {
        bytes[block + 144] = 1;
        let sum = crate::format::checksum::checksum(0, &bytes[block + 16..block + 8184]);
        bytes[block + 8..block + 12].copy_from_slice(&sum.to_le_bytes());
    }
    let mut e = open(bytes);
    for (key, value) in [(b"b", b"1"), (b"b", b"2"), (b"a", b"0"), (b"a", b"1")] {
        e.put(key, value).expect("puts");
    }
    let bytes = e.store().bytes();
    let slots = RawTable(bytes[4096..4096 + 12288].into());
    assert!(slots.slot(hash::slot(b"a", 510)).record().is_some());
    assert_eq!(all(&mut open(bytes))[&b"a"[..]], b"1");
}

#[test]
fn a_slot_that_names_a_record_where_there_is_no_log_hangs_nobody() {
    // Somebody wrote into a slot of a file in use: its offset of B says that the value is in a log, and there is none. A delete
    // tried to bring the value back into its pair for ever.
    for put in [true, false] {
        let mut e = with_a_and_b(b"1", b"2");
        let slot = table::slot_offset(4096, hash::slot(b"a", 510));
        let name = Slot::b_of_record(4096 + 24, 0);
        e.store().store(slot + 8, name).expect("stores");
        if put {
            e.put(b"a", b"new").expect("puts");
        } else {
            assert!(e.delete(b"a").expect("deletes"));
        }
        e.settle().expect("closes");
        let mut e = open(e.store().bytes());
        let want = put.then_some(&b"new"[..]);
        let got = all(&mut e);
        assert_eq!(got.get(&b"a"[..]).map(Vec::as_slice), want);
        assert_eq!(got[&b"b"[..]], b"2");
    }
}

#[test]
fn a_clean_file_has_no_log_whatever_it_says() {
    // A word that nobody reads was changed in a closed file: taken for the place of a log, all of the file would be
    // looked through for values after the next crash.
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"1").expect("puts");
    e.settle().expect("closes");
    let mut bytes = e.store().bytes();
    let at = (4096 + table::LOG) as usize;
    put_u64(&mut bytes, at, 16384);
    let table = RawTable(bytes[4096..4096 + 12288].into());
    put_u64(&mut bytes, 4096 + 8, table.checksum());
    let mut e = open(bytes);
    e.put(b"a", b"2").expect("puts");
    assert_eq!(u64_at(&e.store().bytes(), at), 0);
    e.settle().expect("closes");
    assert_eq!(all(&mut open(e.store().bytes()))[&b"a"[..]], b"2");
}
