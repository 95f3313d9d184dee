//! Damaged files that a user brings: 5 to 11, 14, 24 to 26, 35.

use super::agent::Agent;
use super::build::{
    self, BLOCK_END_AT, Copy, FIRST_PAIR, FIRST_TABLE, Image, KEY_AT, NUMBER_AT, PAIR_BYTES,
    SIZE_AT, TABLE_END, TABLE_END_AT, TABLE_START, VALUE_AT, block, header, names_in_slot, pair,
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
            let read = original::recover(&image.clone().to_rebuild().bytes);
            assert!(
                read.crashes || !read.undecided.is_empty() || read.pairs != model(&pairs),
                "{what}: {read:?}"
            );
        }
        holds(&what, &image.clone().to_rebuild(), &pairs);
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
    make(&path, SETTINGS, &[("/before", b"1"), ("/picture", b"small")]);
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
        holds(&format!("unclean, {what}"), &image.clone().unclean(), &pairs);
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
    holds("unclean, without delimiters", &image.clone().unclean(), &pairs);
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
    holds("both copies bad", &image.clone().to_rebuild(), &pairs);
    holds("both copies bad, tables good", &image.clone().unclean(), &pairs);
    // What the original left of it: zeros between delimiters, checksum 0.
    for at in [torn, torn + BLOCK as u64] {
        image.zero(at + 8, BLOCK_END_AT - 8);
    }
    assert_eq!(
        original::recover(&image.clone().to_rebuild().bytes).displaced,
        1,
        "the tale is true: the intact key is displaced"
    );
    holds("wiped by the original", &image.to_rebuild(), &pairs);
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
    image.clone().to_rebuild().save(&path);
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
    for torn in 0..2 {
        let mut image = Image::with(SETTINGS, &pairs);
        let (number, index, at) = image.find(CHAIN[torn]);
        let mut left = pairs.to_vec();
        left.remove(torn);
        image.ruin(at);
        let what = format!("table {torn}");
        holds(&format!("{what}, rebuilt"), &image.clone().to_rebuild(), &left);
        holds(&format!("{what}, slots kept"), &image.clone().unclean(), &left);
        // As the original leaves it after its recovery and a clean close: the slot is unused.
        image.set_slot(number, index, 0, 0, 0);
        image.zero(at, PAIR_BYTES as usize);
        let read = original::recover(&image.bytes);
        assert!(read.unreachable > 0, "the tale is true: {read:?}");
        holds(&format!("{what}, unclean with a hole"), &image.clone().unclean(), &left);
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
        for (key, value) in [("/b", b"2"), ("/c", b"3"), (CHAIN[0], b"4"), (CHAIN[1], b"5")] {
            image.append(&pair(SETTINGS, true, key.as_bytes(), value, number));
        }
        let pairs: [(&str, &[u8]); 5] = [
            ("/a", b"1"),
            ("/b", b"2"),
            ("/c", b"3"),
            (CHAIN[0], b"4"),
            (CHAIN[1], b"5"),
        ];
        holds(&format!("table {number}"), &image.to_rebuild(), &pairs);
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
    holds("lost, unclean", &image.clone().to_rebuild(), &pairs);
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
        holds(&format!("{what}, rebuilt"), &image.clone().to_rebuild(), &pairs);
        holds(&format!("{what}, slots kept"), &image.unclean(), &pairs);
    }
    // A whole block A is a good copy, and one good copy is enough.
    let mut image = image;
    image.append(&a);
    let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), ("/b", b"2"), ("/last", &value)];
    holds("a good block A", &image.to_rebuild(), &pairs);
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
        holds(&format!("{what}, rebuilt"), &image.clone().to_rebuild(), &pairs);
        holds(&format!("{what}, slots kept"), &image.clone().unclean(), &pairs);
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
    is_clean("put again", &path, &model(&[("/a", b"again"), ("/b", b"2")]));
}

/// Brings a file to an agent, which opens it in all ways, reads everything, puts, deletes and closes. It must come to
/// an end, leave the header what it was, and find what is said to be intact.
#[track_caller]
fn endures(agent: &mut Agent, what: &str, image: &Image, intact: &[(&str, &[u8])]) {
    let scratch = place();
    for mode in ["RDONLY", "RDWR", "RWCREAT"] {
        let path = scratch.db("a.db");
        image.save(&path);
        let told = agent.ask(&format!("job endure {mode} {}", path.display()));
        let after = fs::read(&path).expect("the file");
        let rc = told.split(' ').next().unwrap_or_default();
        if mode == "RDONLY" || rc != "0" {
            assert!(after == image.bytes, "{what}, {mode}: the file has changed");
        }
        assert_eq!(after[..16], image.bytes[..16], "{what}, {mode}: the header");
        assert_eq!(after[32..56], image.bytes[32..56], "{what}, {mode}: the header");
        if intact.is_empty() {
            continue;
        }
        assert_eq!(rc, "0", "{what}, {mode}: {told}");
        for (key, value) in intact {
            let pair = format!("{key}={}", sum_of(value));
            assert!(
                told.split(' ').any(|t| t == pair),
                "{what}, {mode}: {key} is lost: {told}"
            );
        }
        if mode != "RDONLY" {
            let found = check::pairs(&after);
            for (key, value) in intact {
                let now = found.get(key.as_bytes()).map(Vec::as_slice);
                assert_eq!(now, Some(*value), "{what}, {mode}: {key} in the file");
            }
        }
        assert_eq!(scratch.objects(), [""; 0], "{what}, {mode}: left behind");
    }
}

/// A value in a word.
fn sum_of(value: &[u8]) -> String {
    format!("{}:{:08x}", value.len(), crc32fast::hash(value))
}

/// In the agent: the answer of the open, then what the iterator finds, after it has changed something.
pub fn endure(mode: &str, path: &str) -> String {
    let mode = if mode == "RDONLY" { ffi::RDONLY } else { ffi::RDWR };
    let db = match Plain::opened(Path::new(path), mode, SETTINGS) {
        Ok(db) => db,
        Err(rc) => return rc.to_string(),
    };
    let mut told = vec!["0".to_owned()];
    for key in db.keys().unwrap_or_default() {
        match db.get(&key) {
            Ok(value) if value.len() <= 8028 => {
                told.push(format!("{}={}", key.escape_ascii(), sum_of(&value)));
            }
            Ok(value) => told.push(format!("a value of {} bytes", value.len())),
            Err(rc) => told.push(format!("{}!{rc}", key.escape_ascii())),
        }
    }
    // Some of them in the slot that the damaged tables share.
    let slot = check::slot_of(CHAIN[0].as_bytes(), 510);
    for key in names_in_slot("more", slot, 510, 3).iter().chain(&names_in_slot("new", 3, 510, 2)) {
        let key = key.as_bytes();
        db.put(key, b"new");
        db.get(key).ok();
        db.delete(key);
    }
    let closed = db.close();
    if closed != 0 {
        told.push(format!("closed with {closed}"));
    }
    told.join(" ")
}

#[test]
fn failure_24_table_links_out_of_range() {
    // On the disk: the link in a table's last slot leads nowhere: behind the end, into the middle of a pair, back to
    // an earlier table, to itself, to the header. The original followed it: it crashed, or read the same tables for
    // ever, or wrote the header over as if it were a table. Fails if the agent crashes or hangs, the header
    // changes, or a key of the tables before the link is lost.
    let mut agent = Agent::start();
    let pairs: [(&str, &[u8]); 4] = [
        (CHAIN[0], b"1"),
        ("/b", b"2"),
        (CHAIN[1], b"3"),
        (CHAIN[2], b"4"),
    ];
    let image = Image::with(SETTINGS, &pairs);
    let far = image.end();
    let (first, second) = (image.table(0), image.table(1));
    for (n, from) in [first, second, image.table(2)].into_iter().enumerate() {
        for to in [
            from,
            first,
            second,
            8,
            1,
            FIRST_PAIR + 1,
            FIRST_PAIR,
            from + 100,
            far,
            far - 4096,
            far + 4096,
            1 << 31,
            1 << 40,
            i64::MAX as u64,
            u64::MAX,
            i64::MIN as u64,
            (-(FIRST_TABLE as i64)) as u64,
            u64::MAX - 4095,
        ] {
            if to == from + TABLE as u64 {
                continue;
            }
            let mut image = image.clone();
            image.set_link(from, to);
            let what = format!("table {n} leads to {to:#x}");
            endures(&mut agent, &format!("{what}, clean"), &image.clone(), &pairs);
            endures(&mut agent, &format!("{what}, unclean"), &image.unclean(), &pairs);
        }
    }
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn failure_24_slot_offsets_out_of_range() {
    // The same for a slot's two offsets, with a right checksum of the table: the original read a block there and wrote
    // one. Only the key of that slot may be missing. Fails as above.
    let mut agent = Agent::start();
    let pairs: [(&str, &[u8]); 3] = [("/a", b"1"), ("/b", b"2"), ("/hit", b"3")];
    let image = Image::with(SETTINGS, &pairs);
    let (number, index, at) = image.find("/hit");
    let other = image.find("/a").2 as i64;
    let (at, far) = (at as i64, image.end() as i64);
    let half = BLOCK as i64;
    for (a, b) in [
        (far, far + half),
        (far - half, far),
        (1 << 31, (1 << 31) + half),
        (1 << 62, (1 << 62) + half),
        (i64::MAX, i64::MAX),
        (i64::MAX - half, i64::MAX),
        (i64::MIN, i64::MIN),
        (i64::MIN, i64::MIN + half),
        (-far, -far - half),
        (8, 8 + half),
        (-8, -8 - half),
        (0, half),
        (half, 0),
        (1, 1),
        (-1, -1),
        (at + 1, at + 1 + half),
        (at + 512, at + 512 + half),
        (at, at),
        (at, other),
        (at, -at - half),
        (-at, at + half),
        (at + half, at + 2 * half),
        (other, other + half),
        (-other, -other - half),
        (FIRST_TABLE as i64, FIRST_TABLE as i64 + half),
        (-(FIRST_TABLE as i64), -(FIRST_TABLE as i64) - half),
    ] {
        for current in [0, 1, 2, u64::MAX, 1 << 63] {
            let mut image = image.clone();
            image.set_slot(number, index, a, b, current);
            let what = format!("{a:#x} {b:#x} {current:x}");
            endures(&mut agent, &format!("{what}, clean"), &image, &pairs[..2]);
            endures(&mut agent, &format!("{what}, unclean"), &image.unclean(), &pairs[..2]);
        }
    }
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn failure_25_header_sizes_out_of_range() {
    // On the disk: a header with a size of 0, or larger than anything this format knows. The original divided by the
    // first, and copied as many bytes as the others said into its caller's buffers. Fails if such a file is opened
    // or changed.
    let mut agent = Agent::start();
    let image = Image::with(SETTINGS, &[("/a", b"1")]);
    for (at, most) in [(32, 510), (40, 128), (48, 8028)] {
        for size in [
            0,
            most + 1,
            65535,
            65536 + most,
            (1 << 32) + most,
            u64::MAX,
            1 << 63,
        ] {
            for image in [image.clone(), image.clone().unclean()] {
                let mut image = image;
                image.set(at, size);
                let scratch = place();
                let path = scratch.db("a.db");
                image.save(&path);
                for mode in ["RDONLY", "RDWR", "RWCREAT"] {
                    for door in ["open", "middle"] {
                        let answer = agent.ask(&format!("{door} h {mode} {}", path.display()));
                        assert_eq!(answer, "-4", "{at} is {size}");
                    }
                }
                let after = fs::read(&path).expect("the file");
                assert!(after == image.bytes, "{at} is {size}: changed");
                assert_eq!(scratch.objects(), [""; 0], "{at} is {size}: left behind");
            }
        }
    }
    for (at, byte) in [(3, 1), (3, 3), (4, b','), (5, 2), (5, 4)] {
        let mut image = image.clone();
        image.bytes[at] = byte;
        let scratch = place();
        let path = scratch.db("a.db");
        image.save(&path);
        let answer = agent.ask(&format!("open h RWCREAT {}", path.display()));
        assert_eq!(answer, "-12", "byte {at} is {byte}");
        assert!(fs::read(&path).expect("the file") == image.bytes, "changed");
    }
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn failure_26_sizes_in_blocks_out_of_range() {
    // On the disk: a block whose size is larger than a value can be, with a right checksum. The original copied that
    // many bytes: from the neighbour's data into the caller's buffer, and behind it. Fails if anything but an error
    // is answered, a byte behind the buffer is written, or the neighbours suffer.
    for sizes in [SETTINGS, RESOURCES] {
        let most = sizes.value as u32;
        for size in [most + 1, 8029, 16384, 1 << 20, i32::MAX as u32, 1 << 31, u32::MAX] {
            for copies in [&[0][..], &[1], &[0, 1]] {
                let mut image = Image::with(sizes, &[("/a", b"1"), ("/hit", b"2"), ("/b", b"3")]);
                let at = image.find("/hit").2;
                for copy in copies {
                    let block = at + copy * BLOCK as u64;
                    image.set_u32(block + SIZE_AT as u64, size);
                    image.seal_block(block);
                }
                let what = format!("{} bytes, size {size} in {copies:?}", sizes.value);
                size_is_refused(&what, &image, copies.len() < 2);
            }
        }
    }
}

#[track_caller]
fn size_is_refused(what: &str, image: &Image, has_a_good_copy: bool) {
    for unclean in [false, true] {
        let scratch = place();
        let path = scratch.db("a.db");
        match unclean {
            true => image.clone().unclean().save(&path),
            false => image.save(&path),
        }
        let db = opened(&path, ffi::RDWR, image.sizes);
        for room in [0, 1, image.sizes.value as usize, 8028] {
            let got = db.get_into(b"/hit", room);
            let value = got.buffer.get(..got.size as usize);
            match got.rc {
                0 if has_a_good_copy => assert_eq!((got.size, value.unwrap_or(b"2")), (1, &b"2"[..])),
                1 | -4 if !has_a_good_copy => assert_eq!(got.buffer, vec![ffi::UNTOUCHED; room]),
                rc => panic!("{what}, unclean {unclean}: {rc} {}", got.size),
            }
        }
        let found = all(&db).unwrap_or_else(|e| panic!("{what}: {e}"));
        for key in [&b"/a"[..], b"/b"] {
            assert!(found.contains_key(key), "{what}: {}", key.escape_ascii());
        }
        assert_eq!(found.contains_key(&b"/hit"[..]), has_a_good_copy, "{what}");
        put(&db, "/hit", b"again");
        assert_eq!(db.get(b"/hit"), Ok(b"again".to_vec()), "{what}");
        close(&db);
        let wanted = model(&[("/a", b"1"), ("/hit", b"again"), ("/b", b"3")]);
        is_clean(what, &path, &wanted);
    }
}

#[test]
fn failure_26_keys_and_table_numbers_in_blocks_out_of_range() {
    // The same for a key field without an end, an empty key, and the number of a table that is not there, in files that
    // have to be rebuilt from their blocks. Fails on a crash, or if an intact key is lost.
    let mut agent = Agent::start();
    let intact: [(&str, &[u8]); 2] = [("/a", b"1"), ("/b", b"2")];
    for sizes in [SETTINGS, RESOURCES] {
        let mut image = Image::with(sizes, &intact);
        image.append(&pair(sizes, true, &[b'x'; 128], b"no end", 0));
        image.append(&pair(sizes, true, b"", b"no key", 0));
        image.append(&pair(sizes, false, b"", b"", u64::MAX));
        image.append(&pair(sizes, true, b"", b"", 0));
        let mut odd = image.clone();
        for number in [0x8000_0000_0000_0000, u64::MAX, 65536, 510] {
            odd.append(&pair(sizes, true, format!("/n{number}").as_bytes(), b"n", number));
        }
        let mut half = image.clone();
        let end = half.end();
        half.append(&pair(sizes, true, b"/two numbers", b"n", 0));
        half.set(end + NUMBER_AT as u64, 77);
        half.seal_block(end);
        for (what, image) in [("keys", image), ("numbers", odd), ("two numbers", half)] {
            let what = format!("{what}, {}", sizes.value);
            endures(&mut agent, &what, &image.clone().to_rebuild(), &intact);
            endures(&mut agent, &what, &image.unclean(), &intact);
        }
    }
    assert_eq!(agent.end(), "exit 0");
}

/// How many damaged files are tried; tests/damaged.rs tries more. `KISSDB_FAILURES_RANDOM` says another number,
/// `KISSDB_FAILURES_DUMP` a directory for the files.
const RANDOM: u64 = 250;

#[test]
fn failure_35_random_damage() {
    // On the disk: anything. 946 of 6000 randomly damaged files made the original crash, hang or ruin the database.
    // Fails if one of these does, or if a key is lost whose pair was not hit. A message names the number of the
    // file, by which it is made again.
    let mut agent = Agent::start();
    let mut lost = Vec::new();
    for n in 0..procs::number("KISSDB_FAILURES_RANDOM", RANDOM) {
        let (image, intact) = random_damage(n);
        let intact: Vec<(&str, &[u8])> = intact.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        let what = format!("file {n}");
        if let Some(to) = std::env::var_os("KISSDB_FAILURES_DUMP") {
            image.save(&Path::new(&to).join(format!("{n}.db")));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            endures(&mut agent, &what, &image, &intact);
        }));
        if result.is_err() {
            lost.push(n);
            agent = Agent::start();
        }
    }
    assert!(lost.is_empty(), "files {lost:?}");
    assert_eq!(agent.end(), "exit 0");
}

/// File number `n`, and the pairs in it that no damage has hit.
fn random_damage(n: u64) -> (Image, Vec<(String, Vec<u8>)>) {
    let mut rng = procs::Rng(n);
    let sizes = Sizes {
        table: [510, 510, 7][rng.below(3) as usize],
        ..SETTINGS
    };
    let mut image = Image::new(sizes);
    let mut pairs = Vec::new();
    for i in 0..12 + rng.below(12) {
        let key = match i {
            0..4 => CHAIN[i as usize].to_owned(),
            _ => format!("/key{i}"),
        };
        let value = super::support::value(i, rng.below(300) as usize);
        image.put(&key, &value);
        match rng.one_in(6) {
            true => drop(image.delete(&key)),
            false => pairs.push((key, value)),
        }
    }
    let mut image = match rng.below(3) {
        0 => image,
        1 => image.unclean(),
        _ => image.to_rebuild(),
    };
    let before = image.bytes.clone();
    for _ in 0..1 + rng.below(4) {
        let len = image.bytes.len() as u64;
        if len <= 2 * 4096 {
            break;
        }
        // Nothing of the header but its flags: other sizes are another database.
        let at = 4096 + rng.below(len - 4096);
        let unit = [8, 64, 512, 4096, 8192, 16384][rng.below(6) as usize];
        let at = at / unit * unit;
        let to = (at + unit).min(len) as usize;
        let at = (at as usize).max(4096);
        match rng.below(6) {
            0 => image.bytes[at..to].fill(0),
            1 => image.bytes[at..to].fill(0xFF),
            2 => image.bytes[at..to].iter_mut().for_each(|b| *b = rng.next() as u8),
            3 => drop(image.flip(at as u64)),
            4 => {
                let from = 4096 + rng.below(len - 4096 - (to - at) as u64) / 512 * 512;
                let copy = image.bytes[from as usize..][..to - at].to_vec();
                image.bytes[at..to].copy_from_slice(&copy);
            }
            _ => image.bytes.truncate(to),
        }
    }
    pairs.retain(|(key, _)| {
        let found = (0..before.len()).step_by(4096).find(|&at| {
            let field = before.get(at + KEY_AT..at + VALUE_AT).unwrap_or_default();
            let start = before[at..].starts_with(&0x2AAA_AAAAu64.to_le_bytes());
            start && field.starts_with(key.as_bytes()) && field[key.len()] == 0
        });
        let at = found.expect("the pair");
        let place = at..at + PAIR_BYTES as usize;
        image.bytes.get(place.clone()) == before.get(place)
    });
    (image, pairs)
}

#[test]
fn the_builder_builds_what_the_checker_passes() {
    // Everything above rests on files that are right but for the damage.
    for sizes in [SETTINGS, RESOURCES, Sizes { table: 7, ..SETTINGS }] {
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
