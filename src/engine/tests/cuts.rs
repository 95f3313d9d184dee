//! Power cuts of which one state tells the story.

use super::*;

#[test]
fn a_recovery_that_dies_while_it_takes_a_put_back() {
    // Power went in a put of a new key: its slot arrived, and of both copies the first sectors only, whose checksums are right all the same (a
    // run of one byte). The first recovery knows by the slot's word and takes the put back. Of that word and offset B of the
    // slot arrive and nothing else, then power goes again. The put is as little there as before.
    let mut e = open(empty(128, 8028));
    e.put(b"a", b"0").expect("puts");
    let (before, slot) = (e.store().bytes(), hash::slot(b"/b", 510));
    let at = table::slot_offset(4096, slot) as usize;
    for byte in 1..=255 {
        let mut e = open(before.clone());
        e.put(b"/b", &[byte; 2000]).expect("puts");
        let mut cut = e.store().bytes();
        let pair = u64_at(&cut, at) as usize;
        for copy in [pair, pair + 8192] {
            cut[copy + 1024..copy + 8192].fill(0);
        }
        assert!(
            !all(&mut open(cut.clone())).contains_key(&b"/b"[..]),
            "{byte}"
        );
        cut[at + 8..at + 24].fill(0);
        assert!(!all(&mut open(cut)).contains_key(&b"/b"[..]), "{byte}");
    }
}

#[test]
fn a_value_of_zeros_over_the_deleted_copy_that_has_held_it() {
    // /k was given five zeros, deleted, and given "three", into copy A; all of it is on the medium. Then it was given five zeros again,
    // into copy B, and of that the word of the slot alone arrived. Either value is right, but a user found no key.
    let mut e = open(empty(128, 8028));
    for value in [&[0; 5][..], b"", b"three"] {
        match value {
            b"" => assert!(e.delete(b"/k").expect("deletes")),
            _ => e.put(b"/k", value).expect("puts"),
        }
        e.sync().expect("syncs");
    }
    let mut cut = e.store().bytes();
    e.put(b"/k", &[0; 5]).expect("puts");
    let word = table::slot_offset(4096, hash::slot(b"/k", 510)) as usize + 16;
    cut[word..word + 8].copy_from_slice(&e.store().bytes()[word..word + 8]);
    let got = all(&mut open(cut));
    assert!(got.contains_key(&b"/k"[..]), "{got:?}");
}

#[test]
fn a_torn_delete_of_a_value_of_zeros_in_a_file_of_the_original() {
    // The original closed the file: of "b" copy A has an older value, and B, the last one, is five zeros. In a life of ours
    // the key was deleted, and of that B's delimiters alone arrived. The older value was back.
    let mut bytes = {
        let mut e = with_a_and_b(b"a", &[0; 5]);
        e.settle().expect("closes");
        e.store().bytes()
    };
    let at = pair_of(&bytes, b"b");
    let sizes = Sizes::new(510, 128, 8028).expect("in range");
    let old = RawBlock::new(sizes, Side::A, true, b"b", b"old", 0);
    bytes[at..at + 8192].copy_from_slice(&old.0[..]);
    let slot = table::slot_offset(4096, hash::slot(b"b", 510)) as usize;
    put_u64(&mut bytes, slot + 16, 1);
    let sum = RawTable(bytes[4096..4096 + 12288].into()).checksum();
    put_u64(&mut bytes, 4096 + 8, sum);
    let mut e = open(bytes);
    e.put(b"a", b"x").expect("puts");
    e.sync().expect("syncs");
    let mut cut = e.store().bytes();
    e.delete(b"b").expect("deletes");
    for i in [at + 8192, at + 8192 + 8184] {
        cut[i..i + 8].copy_from_slice(&e.store().bytes()[i..i + 8]);
    }
    assert_eq!(all(&mut open(cut))[&b"b"[..]], [0; 5]);
}
