//! Damaged files that a user brings: 5 to 11, 14.

use super::agent::Agent;
use super::build::{
    self, BLOCK_END_AT, Copy, FIRST_TABLE, Image, KEY_AT, NUMBER_AT, PAIR_BYTES, SIZE_AT,
    TABLE_END, TABLE_END_AT, TABLE_START, VALUE_AT, block, header, names_in_slot, pair,
};
use super::support::check::{self, BLOCK, LINK, TABLE};
use super::support::ffi::{self, RESOURCES, SETTINGS, Sizes};
use super::support::original;
use super::*;

/// A value that the original takes for a table wherever it stands in a block: a table's end delimiter where a page
/// lies 12280 bytes before it, and a start delimiter where a page begins.
fn like_a_table(end: bool, start: bool) -> Vec<u8> {
    let mut value = vec![b'v'; 8028];
    if end {
        build::put_u64(&mut value, 3940, TABLE_END);
    }
    if start {
        build::put_u64(&mut value, 3948, TABLE_START);
    }
    value
}

#[test]
fn failure_05_a_value_like_a_table_in_a_file_left_by_the_original() {
    // On the disk: a value with 33 33 33 33 00 00 00 00 at its offset 3948, or CC CC CC CC 00 00 00 00 at 3940, closeFailed 1,
    // all of it synced. Not on the disk: the clean close. The original looked every 4096 bytes for tables, also inside
    // pairs, took the value for one, completed it with delimiters and wrote slots over it: the user's database was
    // destroyed by the bytes of a picture. Fails if recovery ever looks inside an intact pair.
    for (end, start) in [(true, false), (false, true), (true, true)] {
        let value = like_a_table(end, start);
        let pairs: [(&str, &[u8]); 4] = [
            ("/before", b"1"),
            ("/picture", &value),
            ("/other picture", &value),
            ("/behind", b"2"),
        ];
        let image = Image::with(SETTINGS, &pairs);
        let what = format!("end {end}, start {start}");
        if start {
            // The tale is true: the model of the original loses something.
            let read = original::recover(&image.clone().into_rebuild().bytes);
            assert!(
                read.crashes || !read.undecided.is_empty() || read.pairs != model(&pairs),
                "{what}: {read:?}"
            );
        }
        holds(&what, &image.clone().into_rebuild(), &pairs);
        // The same with right checksums, which the original did not get as far as to believe.
        holds(&what, &image.unclean(), &pairs);
    }
}

#[test]
fn failure_05_a_value_like_a_table_when_the_writer_dies() {
    // The same with a file of this library, whose user dies: synced values, no clean close. Fails if the marks of a
    // life in progress make recovery look into values.
    let scratch = place();
    let path = scratch.db("a.db");
    let value = like_a_table(true, true);
    make(
        &path,
        SETTINGS,
        &[("/before", b"1"), ("/picture", b"small")],
    );
    let mut writer = Agent::start();
    assert_eq!(writer.ask(&format!("open h RDWR {}", path.display())), "0");
    let fill = writer.ask(&format!("job put-like-a-table {}", path.display()));
    assert_eq!(fill, "0 0");
    assert_eq!(writer.ask("put h /behind 2"), "0");
    assert_eq!(writer.ask("sync h"), "0");
    writer.kill();
    scratch.wipe_objects();
    let wanted = model(&[
        ("/before", b"1"),
        ("/picture", &value),
        ("/new picture", &value),
        ("/behind", b"2"),
    ]);
    let db = open(&path);
    finds("after the death", &db, &wanted);
    close(&db);
    is_clean("after the death", &path, &wanted);
}

/// In the agent: puts two such values through a handle of its own, which it keeps open.
pub fn put_like_a_table(path: &str) -> String {
    let db = open(Path::new(path));
    let value = like_a_table(true, true);
    let rcs = [&b"/picture"[..], b"/new picture"].map(|key| db.put(key, &value).0);
    db.leak();
    format!("{} {}", rcs[0], rcs[1])
}

#[test]
fn failure_06_an_all_zero_table_is_not_believed() {
    // On the disk: the header and all pairs. Not on the disk: the table, whose place is zero (with or without its
    // delimiters, which the original wrote at once). The checksum of zeros is 0 in this format, so the original
    // found the table right, and the user a database without a single key. Fails if a table is believed because
    // its checksum fits.
    let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), ("/b", b"2"), (CHAIN[0], b"3")];
    let whole = Image::with(SETTINGS, &pairs);
    let mut bare = whole.clone();
    bare.zero(FIRST_TABLE, TABLE);
    let mut framed = bare.clone();
    framed.set(FIRST_TABLE, TABLE_START);
    framed.set(FIRST_TABLE + TABLE_END_AT as u64, TABLE_END);
    for (what, image) in [("with delimiters", framed), ("without delimiters", bare)] {
        holds(
            &format!("unclean, {what}"),
            &image.clone().unclean(),
            &pairs,
        );
        // The original set the clean flags before its tables had reached the disk (#13).
        holds(&format!("clean, {what}"), &image, &pairs);
    }
}

#[test]
fn failure_06_an_all_zero_second_table_is_not_believed() {
    // The same with the table that was appended last.
    let pairs: [(&str, &[u8]); 3] = [(CHAIN[0], b"1"), (CHAIN[1], b"2"), ("/b", b"3")];
    let mut image = Image::with(SETTINGS, &pairs);
    let at = image.table(1);
    image.zero(at, TABLE);
    image.set(at, TABLE_START);
    image.set(at + TABLE_END_AT as u64, TABLE_END);
    holds("unclean, with delimiters", &image.clone().unclean(), &pairs);
    holds("clean, with delimiters", &image.clone(), &pairs);
    image.zero(at, TABLE);
    holds(
        "unclean, without delimiters",
        &image.clone().unclean(),
        &pairs,
    );
    holds("clean, without delimiters", &image, &pairs);
}

#[test]
fn failure_07_a_pair_with_both_copies_bad_takes_nobodys_slot() {
    // On the disk: one pair torn in both copies. The original zeroed it and left its delimiters; at the next rebuild
    // the zero record counted as good, with an empty key, whose slot is 281 of table 0, and took that slot from an
    // intact key. The user lost a key that nothing had ever happened to, one crash later. Fails if a lost pair
    // is left in the file in any form.
    let at_281 = names_in_slot("s", 281, 510, 1);
    let pairs: [(&str, &[u8]); 3] = [(&at_281[0], b"intact"), ("/a", b"1"), ("/b", b"2")];
    let mut image = Image::with(SETTINGS, &pairs[..2]);
    let torn = image.put("/torn", b"something");
    image.put("/b", b"2");
    image.ruin(torn);
    holds("both copies bad", &image.clone().into_rebuild(), &pairs);
    holds(
        "both copies bad, tables good",
        &image.clone().unclean(),
        &pairs,
    );
    // What the original left of it: zeros between delimiters, checksum 0.
    for at in [torn, torn + BLOCK as u64] {
        image.zero(at + 8, BLOCK_END_AT - 8);
    }
    assert_eq!(
        original::recover(&image.clone().into_rebuild().bytes).displaced,
        1,
        "the tale is true: the intact key is displaced"
    );
    holds("wiped by the original", &image.into_rebuild(), &pairs);
}

#[test]
fn failure_07_a_lost_pair_in_a_file_of_this_library() {
    // The same in a file whose user has died, and which is not read as a whole: the pair is found out when it is touched, or
    // at the close. Fails as above.
    let scratch = place();
    let path = scratch.db("a.db");
    let mut agent = Agent::start();
    assert_eq!(
        agent.ask(&format!("open h RWCREAT {}", path.display())),
        "0"
    );
    for (key, text) in [
        ("/a", "1"),
        ("/torn", "something"),
        (CHAIN[0], "2"),
        (CHAIN[1], "3"),
    ] {
        assert_eq!(agent.ask(&format!("put h {key} {text}")), "0");
    }
    agent.kill();
    scratch.wipe_objects();
    let bytes = fs::read(&path).expect("the file");
    let at = |key: &str| {
        let starts = |&n: &usize| bytes[n + KEY_AT..].starts_with(key.as_bytes());
        let found = (16384..bytes.len()).step_by(4096).find(starts);
        found.expect("the pair") as u64
    };
    let all: [(&str, &[u8]); 4] = [
        ("/a", b"1"),
        ("/torn", b"something"),
        (CHAIN[0], b"2"),
        (CHAIN[1], b"3"),
    ];
    for (n, (key, _)) in all.iter().enumerate() {
        let mut image = Image::of(bytes.clone(), SETTINGS);
        image.ruin(at(key));
        let mut left = all.to_vec();
        left.remove(n);
        holds(&format!("{key} lost"), &image, &left);
    }
}

#[test]
fn failure_07_the_place_of_a_lost_pair_is_used_again() {
    // The same pair: its 16384 bytes are not lost for ever. Fails if the next put makes the file longer.
    let scratch = place();
    let path = scratch.db("a.db");
    let mut image = Image::with(SETTINGS, &[("/a", b"1")]);
    let torn = image.put("/torn", b"something");
    image.put("/b", b"2");
    image.ruin(torn);
    image.clone().into_rebuild().save(&path);
    let db = open(&path);
    put(&db, "/new", b"3");
    close(&db);
    let wanted = model(&[("/a", b"1"), ("/b", b"2"), ("/new", b"3")]);
    is_clean("after the put", &path, &wanted);
    let len = fs::metadata(&path).expect("the file").len();
    assert_eq!(len, image.end(), "the file has grown");
}

#[test]
fn failure_08_a_hole_in_a_chain_hides_nothing() {
    // On the disk: three keys of one slot in three tables, the first one torn in both copies. The original emptied
    // its slot at the rebuild; a look-up stops at an unused slot: the two later keys were in the file, intact, and
    // out of reach. Fails if a look-up stops at a hole, or if the hole is still there after the close, for the original.
    let pairs: [(&str, &[u8]); 4] = [
        (CHAIN[0], b"torn"),
        (CHAIN[1], b"2"),
        (CHAIN[2], b"3"),
        ("/b", b"4"),
    ];
    for (torn, key) in CHAIN.iter().enumerate().take(2) {
        let mut image = Image::with(SETTINGS, &pairs);
        let (number, index, at) = image.find(key);
        let mut left = pairs.to_vec();
        left.remove(torn);
        image.ruin(at);
        let what = format!("table {torn}");
        holds(
            &format!("{what}, rebuilt"),
            &image.clone().into_rebuild(),
            &left,
        );
        holds(
            &format!("{what}, slots kept"),
            &image.clone().unclean(),
            &left,
        );
        // As the original leaves it after its recovery and a clean close: the slot is unused.
        image.set_slot(number, index, 0, 0, 0);
        image.zero(at, PAIR_BYTES as usize);
        let read = original::recover(&image.bytes);
        assert!(read.unreachable > 0, "the tale is true: {read:?}");
        holds(
            &format!("{what}, unclean with a hole"),
            &image.clone().unclean(),
            &left,
        );
        let scratch = place();
        let path = scratch.db("a.db");
        image.save(&path);
        let db = open(&path);
        finds(&format!("{what}, clean with a hole"), &db, &model(&left));
        close(&db);
    }
}

#[test]
fn failure_09_blocks_that_name_tables_which_are_not_there() {
    // On the disk: pairs whose blocks name table 3, because three tables were appended meanwhile. Not on the disk:
    // those tables. The original wrote their slots there all the same, outside the memory of the tables it had: it
    // crashed, or other data was overwritten. Fails if such a pair is lost, or put where it is not found.
    for number in [1, 3, 65535, 1 << 20, u64::MAX] {
        let mut image = Image::with(SETTINGS, &[("/a", b"1")]);
        for (key, value) in [
            ("/b", b"2"),
            ("/c", b"3"),
            (CHAIN[0], b"4"),
            (CHAIN[1], b"5"),
        ] {
            image.append(&pair(SETTINGS, true, key.as_bytes(), value, number));
        }
        let pairs: [(&str, &[u8]); 5] = [
            ("/a", b"1"),
            ("/b", b"2"),
            ("/c", b"3"),
            (CHAIN[0], b"4"),
            (CHAIN[1], b"5"),
        ];
        holds(&format!("table {number}"), &image.into_rebuild(), &pairs);
    }
}

#[test]
fn failure_09_numbers_that_no_checksum_covers() {
    // In a resource table the checksum does not reach the number of the table, so any number may stand in a good block, and
    // the two copies may differ in it. Fails as above.
    for numbers in [[5, 5], [0, 5], [5, 0], [u64::MAX, 0], [0, u64::MAX]] {
        let mut image = Image::with(
            RESOURCES,
            &[("/a", b"1"), (CHAIN[0], b"2"), (CHAIN[1], b"3")],
        );
        for (copy, number) in numbers.into_iter().enumerate() {
            for key in ["/a", CHAIN[1]] {
                let at = image.find(key).2 + (copy * BLOCK + NUMBER_AT) as u64;
                image.set(at, number);
            }
        }
        let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), (CHAIN[0], b"2"), (CHAIN[1], b"3")];
        holds(&format!("{numbers:?}"), &image.into_rebuild(), &pairs);
    }
}

#[test]
fn failure_09_a_table_that_was_lost() {
    // Table 1 is zeros, in the middle of the file; pairs of it are there.
    let pairs: [(&str, &[u8]); 4] = [
        (CHAIN[0], b"1"),
        (CHAIN[1], b"2"),
        (CHAIN[2], b"3"),
        ("/b", b"4"),
    ];
    let mut image = Image::with(SETTINGS, &pairs);
    let at = image.table(1);
    image.zero(at, TABLE);
    holds("lost, unclean", &image.clone().into_rebuild(), &pairs);
    holds("lost, its link leads nowhere", &image.unclean(), &pairs);
}

#[test]
fn failure_10_a_file_that_ends_behind_a_torn_block_a() {
    // On the disk: the first block of the last pair, torn, and the length that ends behind it. Not on the disk: block B.
    // The original found block A bad, zeroed it and its twin, and its twin's place was taken to be offset 0: the
    // header was gone, and with it everything. Fails if the header changes or another key is lost.
    let pairs: [(&str, &[u8]); 2] = [("/a", b"1"), ("/b", b"2")];
    let image = Image::with(SETTINGS, &pairs);
    let value = super::support::value(10, 6000);
    let a = block(SETTINGS, Copy::A, true, b"/last", &value, 0);
    let mut torn = a.clone();
    torn[VALUE_AT] ^= 1;
    for (what, tail) in [
        ("torn", &torn[..]),
        ("half of it", &torn[..4096]),
        ("half of a good one", &a[..4096]),
        ("one sector", &torn[..512]),
    ] {
        let mut image = image.clone();
        image.append(tail);
        holds(
            &format!("{what}, rebuilt"),
            &image.clone().into_rebuild(),
            &pairs,
        );
        holds(&format!("{what}, slots kept"), &image.unclean(), &pairs);
    }
    // A whole block A is a good copy, and one good copy is enough.
    let mut image = image;
    image.append(&a);
    let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), ("/b", b"2"), ("/last", &value)];
    holds("a good block A", &image.into_rebuild(), &pairs);
}

#[test]
fn failure_11_a_length_that_is_no_multiple_of_4096() {
    // On the disk: everything, and some bytes more, because the length had got further than what was to be written
    // there. The original appended new pairs behind those bytes, where a walk in steps of 4096 never meets them: at
    // the next rebuild all keys put since then were gone. Fails if a key put into such a file is lost in a rebuild,
    // or if its length stays odd.
    let pairs: [(&str, &[u8]); 2] = [("/a", b"1"), ("/b", b"2")];
    for (more, byte) in [(1, 0), (100, 0), (512, 0x77), (4095, 0), (5000, 0x77)] {
        let mut image = Image::with(SETTINGS, &pairs);
        image.append(&vec![byte; more]);
        let what = format!("{more} bytes of {byte:x}");
        holds(
            &format!("{what}, rebuilt"),
            &image.clone().into_rebuild(),
            &pairs,
        );
        holds(
            &format!("{what}, slots kept"),
            &image.clone().unclean(),
            &pairs,
        );
        holds(&format!("{what}, clean"), &image, &pairs);
    }
}

#[test]
fn failure_11_pairs_that_the_original_appended_at_an_odd_offset() {
    // The file of the last story after the original has gone on with it and closed it: clean, tables right, some pairs
    // at offsets that are no multiple of 4096. The original reads them. Fails if this library does not.
    for more in [512, 1000, 100, 3] {
        let mut image = Image::with(SETTINGS, &[("/a", b"1")]);
        image.append(&vec![0; more]);
        image.put("/odd", b"2");
        image.put("/odd too", b"3");
        let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), ("/odd", b"2"), ("/odd too", b"3")];
        assert_eq!(original::recover(&image.bytes).pairs, model(&pairs));
        holds(&format!("{more} bytes"), &image, &pairs);
    }
}

#[test]
fn failure_12_blocks_between_live_and_deleted() {
    // On the disk: what the original left when the power went in the middle of a delete or of a put into a deleted slot,
    // one copy done, the other not, or one delimiter changed, the other not. It took whatever had one live delimiter
    // for live: an empty value appeared in place of a deleted key, or the old one was back. Fails if a pair is read
    // otherwise than: copy A decides; a torn A is deleted if it is good, empty and zero, else live; a bad A is silent.
    use Copy::{A, B};
    let block = |copy, live, value: &[u8]| block(SETTINGS, copy, live, b"/hit", value, 0);
    let torn = |copy, start: bool, value: &[u8]| {
        let mut b = block(copy, start, value);
        build::put_u64(&mut b, BLOCK_END_AT, build::delimiters(copy, !start).1);
        b
    };
    let bad = |copy, live| {
        let mut b = block(copy, live, b"bad");
        b[VALUE_AT] ^= 1;
        b
    };
    let cases: [(&str, Vec<u8>, Vec<u8>, Option<&[u8]>); 12] = [
        (
            "deleted, B not yet",
            block(A, false, b""),
            block(B, true, b"old"),
            None,
        ),
        (
            "emptied, one delimiter each",
            torn(A, true, b""),
            block(B, true, b"old"),
            None,
        ),
        (
            "the same the other way round",
            torn(A, false, b""),
            block(B, true, b"old"),
            None,
        ),
        (
            "marked at one end, not emptied",
            torn(A, true, b"old"),
            block(B, true, b"old"),
            Some(b"old"),
        ),
        (
            "the same the other way round",
            torn(A, false, b"old"),
            block(B, true, b"old"),
            Some(b"old"),
        ),
        (
            "A in the making, B not yet",
            bad(A, true),
            block(B, false, b""),
            None,
        ),
        (
            "A in the making, B done",
            bad(A, true),
            block(B, true, b"new"),
            Some(b"new"),
        ),
        (
            "A done, B not yet",
            block(A, true, b"new"),
            block(B, false, b""),
            Some(b"new"),
        ),
        (
            "A done, B in the making",
            block(A, true, b"new"),
            bad(B, true),
            Some(b"new"),
        ),
        (
            "A bad and deleted, B live",
            bad(A, false),
            block(B, true, b"old"),
            Some(b"old"),
        ),
        (
            "A bad and deleted, B deleted",
            bad(A, false),
            block(B, false, b""),
            None,
        ),
        ("both bad", bad(A, true), bad(B, false), None),
    ];
    for (what, a, b, value) in cases {
        let mut image = Image::with(SETTINGS, &[("/a", b"1"), ("/hit", b"old"), ("/b", b"2")]);
        let at = image.find("/hit").2;
        image.write(at, &a);
        image.write(at + BLOCK as u64, &b);
        let mut pairs: Vec<(&str, &[u8])> = vec![("/a", b"1"), ("/b", b"2")];
        pairs.extend(value.map(|v| ("/hit", v)));
        holds(
            &format!("{what}, rebuilt"),
            &image.clone().into_rebuild(),
            &pairs,
        );
        holds(&format!("{what}, slots kept"), &image.unclean(), &pairs);
    }
}

#[test]
fn failure_14_get_serves_the_good_copy() {
    // On the disk: a flipped bit, or a sector that cannot be read any more and comes back as something else, in the
    // copy that `current` names. The original copied it out as it was, although its checksum told and the twin was
    // good: the user got a damaged value with the answer 0. Fails if get or the iterator answers anything but the value.
    let value = super::support::value(7, 3000);
    for sizes in [SETTINGS, RESOURCES] {
        let value = &value[..value.len().min(sizes.value as usize - 60)];
        for current in [0, 1] {
            for at in [8, KEY_AT + 1, SIZE_AT, VALUE_AT, VALUE_AT + value.len() - 1] {
                let mut image = Image::new(sizes);
                image.put("/a", value);
                image.put("/b", b"2");
                let (number, index, pair) = image.find("/a");
                let (a, b) = (pair as i64, pair as i64 + BLOCK as i64);
                image.set_slot(number, index, a, b, current);
                image.flip(pair + BLOCK as u64 * current + at as u64);
                let wanted = model(&[("/a", value), ("/b", b"2")]);
                let what = format!("{} bytes, copy {current}, {at}", sizes.value);
                for (mode, image) in [
                    (ffi::RDONLY, image.clone()),
                    (ffi::RDWR, image.clone()),
                    (ffi::RDONLY, image.clone().unclean()),
                    (ffi::RDWR, image.clone().unclean()),
                ] {
                    let scratch = place();
                    let path = scratch.db("a.db");
                    image.save(&path);
                    let db = opened(&path, mode, sizes);
                    finds(&format!("{what}, mode {mode}"), &db, &wanted);
                    if mode == ffi::RDWR {
                        put(&db, "/c", b"3");
                        finds(&what, &db, &{
                            let mut more = wanted.clone();
                            more.insert(b"/c".to_vec(), b"3".to_vec());
                            more
                        });
                    }
                    close(&db);
                }
            }
        }
    }
}

#[test]
fn failure_14_two_bad_copies_are_an_error_and_not_a_value() {
    // Both copies damaged in a closed file: -4, and the others are served. Fails if a damaged value is handed out.
    let scratch = place();
    let path = scratch.db("a.db");
    let mut image = Image::with(SETTINGS, &[("/a", b"something"), ("/b", b"2")]);
    let (_, _, at) = image.find("/a");
    image.ruin(at);
    image.save(&path);
    let db = open(&path);
    let got = db.get_into(b"/a", 100);
    assert_eq!(got.rc, ffi::ERROR_CORRUPT_DBFILE);
    assert_eq!(got.buffer, vec![ffi::UNTOUCHED; 100]);
    assert_eq!(db.keys(), Ok(vec![b"/b".to_vec()]));
    assert_eq!(db.get(b"/b"), Ok(b"2".to_vec()));
    put(&db, "/a", b"again");
    assert_eq!(db.get(b"/a"), Ok(b"again".to_vec()));
    close(&db);
    is_clean(
        "put again",
        &path,
        &model(&[("/a", b"again"), ("/b", b"2")]),
    );
}

#[test]
fn the_builder_builds_what_the_checker_passes() {
    // Everything above rests on files that are right but for the damage.
    for sizes in [
        SETTINGS,
        RESOURCES,
        Sizes {
            table: 7,
            ..SETTINGS
        },
    ] {
        let mut image = Image::with(sizes, &[(CHAIN[0], b"1"), (CHAIN[1], b"2"), ("/b", b"3")]);
        image.delete(CHAIN[0]);
        assert_eq!(check::check(&image.bytes, true), [""; 0], "{sizes:?}");
        let wanted = model(&[(CHAIN[1], b"2"), ("/b", b"3")]);
        assert_eq!(check::pairs(&image.bytes), wanted);
        assert_eq!(image.bytes[..4096], header(sizes, 0, 1)[..]);
        assert!(check::table_offsets(&image.bytes).len() >= 2);
        let link = image.u64(FIRST_TABLE + 16 + 24 * LINK as u64);
        assert_eq!(link, image.table(1));
    }
}
