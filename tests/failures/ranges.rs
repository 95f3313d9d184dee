//! Numbers in a file that lead out of it, and damage of any kind: 24 to 26, 35.

use super::agent::Agent;
use super::build::{
    FIRST_PAIR, FIRST_TABLE, Image, KEY_AT, NUMBER_AT, PAIR_BYTES, SIZE_AT, VALUE_AT,
    names_in_slot, pair,
};
use super::support::check::{self, BLOCK, TABLE};
use super::support::ffi::{self, RESOURCES, SETTINGS, Sizes};
use super::*;

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
        assert_eq!(
            after[32..56],
            image.bytes[32..56],
            "{what}, {mode}: the header"
        );
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
    let mode = if mode == "RDONLY" {
        ffi::RDONLY
    } else {
        ffi::RDWR
    };
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
    for key in names_in_slot("more", slot, 510, 3)
        .iter()
        .chain(&names_in_slot("new", 3, 510, 2))
    {
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
            endures(
                &mut agent,
                &format!("{what}, clean"),
                &image.clone(),
                &pairs,
            );
            endures(
                &mut agent,
                &format!("{what}, unclean"),
                &image.unclean(),
                &pairs,
            );
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
            endures(
                &mut agent,
                &format!("{what}, unclean"),
                &image.unclean(),
                &pairs[..2],
            );
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
        for size in [
            most + 1,
            8029,
            16384,
            1 << 20,
            i32::MAX as u32,
            1 << 31,
            u32::MAX,
        ] {
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
                0 if has_a_good_copy => {
                    assert_eq!((got.size, value.unwrap_or(b"2")), (1, &b"2"[..]))
                }
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
            odd.append(&pair(
                sizes,
                true,
                format!("/n{number}").as_bytes(),
                b"n",
                number,
            ));
        }
        let mut half = image.clone();
        let end = half.end();
        half.append(&pair(sizes, true, b"/two numbers", b"n", 0));
        half.set(end + NUMBER_AT as u64, 77);
        half.seal_block(end);
        for (what, image) in [("keys", image), ("numbers", odd), ("two numbers", half)] {
            let what = format!("{what}, {}", sizes.value);
            endures(&mut agent, &what, &image.clone().into_rebuild(), &intact);
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
        _ => image.into_rebuild(),
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
            2 => image.bytes[at..to]
                .iter_mut()
                .for_each(|b| *b = rng.next() as u8),
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
