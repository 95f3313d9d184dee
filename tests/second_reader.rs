//! Proves the model of the original's recovery (`support/original.rs`) on 200 unclean files of
//! which it is recorded what the original found in them, and shows that the model can say no.
//!
//! # What the files decided where the description leaves a choice
//!
//! Each was tried the other way round; in brackets a file that then comes out wrong.
//!
//! - A table is found by its start delimiter alone (018) and by its end delimiter alone (028).
//!   Slots of tables whose checksums are all right are kept (111).
//! - A block that starts live and ends deleted is live (063). The reverse occurs once (024), in a
//!   block B whose twin holds the same value: it decides nothing, see `original::Reading`.
//! - A live: key, htNum and value come from B if that is live and good (193, 176), from A even
//!   where B is deleted and good (078).
//! - A deleted and good: deleted, even where B is live and good (151). A bad and both deleted: B
//!   decides (068).
//! - A slot claimed twice: the later pair in the file has it (190).
//! - A block B without its A at the very end of the file is found (050).
//! - Look-ups compare the key of the current copy, not that of copy A (136), and stop at a hole
//!   (131).
//! - In kept tables the current copies are checked (062), and no delimiter is looked at (038).
//!
//! Not decided by them, and taken from the description: that an all-zero table is kept, that a
//! deleted pair displaces a live one, that A live and bad with B deleted and good is wiped, that in
//! kept tables a slot with two bad copies becomes deleted, what wiped records do later, and all
//! that happens outside the file or its tables.

#[path = "support/original.rs"]
mod original;

use original::{Outcome, Reading, checksum, hash, recover, recover_reading};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Key -> size and crc32 of the value, as in expected.jsonl.
type Listing = BTreeMap<String, (usize, String)>;

struct Recorded {
    name: String,
    image: Vec<u8>,
    opens: bool,
    crashes: bool,
    pairs: Listing,
}

fn data(dir: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(dir)
}

fn unpack(path: PathBuf) -> Vec<u8> {
    let packed = fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut image)
        .unwrap();
    image
}

fn golden(name: &str) -> Vec<u8> {
    unpack(data("golden").join(format!("{name}.db.gz")))
}

fn recorded() -> Vec<Recorded> {
    let lines = fs::read_to_string(data("second-reader").join("expected.jsonl")).unwrap();
    let read = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = line["file"].as_str().unwrap().to_owned();
        let pair = |(key, v): (&String, &serde_json::Value)| {
            let (size, crc) = (v[0].as_u64().unwrap(), v[1].as_str().unwrap());
            (key.clone(), (size as usize, crc.to_owned()))
        };
        Recorded {
            image: unpack(data("second-reader").join(&name)),
            opens: line["open"].as_i64() == Some(0),
            crashes: line["end"].as_i64() != Some(0),
            pairs: line["pairs"]
                .as_object()
                .unwrap()
                .iter()
                .map(pair)
                .collect(),
            name,
        }
    };
    lines.lines().map(read).collect()
}

fn listing(found: &Outcome) -> Listing {
    let line = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        let crc = format!("{:08x}", crc32fast::hash(value));
        (
            String::from_utf8_lossy(key).into_owned(),
            (value.len(), crc),
        )
    };
    found.pairs.iter().map(line).collect()
}

#[test]
fn the_model_finds_what_the_original_found() {
    let files = recorded();
    assert_eq!(files.len(), 200);
    let mut wrong = Vec::new();
    for file in &files {
        for reading in [Reading::LiveWins, Reading::StartDecides] {
            let found = recover_reading(&file.image, reading);
            if (found.opens, found.crashes) != (file.opens, file.crashes)
                || listing(&found) != file.pairs
            {
                wrong.push((&file.name, reading, listing(&found), &file.pairs));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong, the first: {:#?}",
        wrong.len(),
        wrong[0]
    );
    // They must have come to what is hard.
    let all: Vec<_> = files.iter().map(|f| recover(&f.image)).collect();
    let some = |what: fn(&Outcome) -> bool| assert!(all.iter().any(what));
    some(|o| o.rebuilt);
    some(|o| !o.rebuilt && o.tables > 1);
    some(|o| !o.wiped.is_empty());
    some(|o| o.displaced > 0);
    some(|o| o.unreachable > 0);
    some(|o| !o.undecided.is_empty());
}

#[test]
fn the_comparison_sees_every_damaged_value() {
    // Each value changed in both copies, with checksums to match: no file may pass any more.
    for mut file in recorded() {
        for at in (16384..file.image.len().saturating_sub(8191)).step_by(4096) {
            let start = word(&file.image, at);
            if [A_LIVE.0, B_LIVE.0].contains(&start) {
                file.image[at + 148] ^= 0x55;
                let sum = checksum(&file.image[at + 16..at + 8184]);
                put_word(&mut file.image, at + 8, sum.into());
            }
        }
        let found = listing(&recover(&file.image));
        assert!(
            file.pairs.is_empty() || found != file.pairs,
            "{}",
            file.name
        );
    }
}

#[test]
fn checksum_is_the_dialect() {
    let all: Vec<u8> = (0..=255).collect();
    let mut block = vec![0; 8168];
    block[..4].copy_from_slice(b"key1");
    block[128] = 5;
    block[132..137].copy_from_slice(b"hello");
    assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    assert_eq!(checksum(&[0]), 0);
    assert_eq!(checksum(&[0; 8168]), 0);
    assert_eq!(checksum(&[0xFF; 16]), 0xffff_ffff);
    assert_eq!(checksum(&all), 0x0170_51c0);
    assert_eq!(checksum(&all.repeat(4)), 0xe894_b6dd);
    assert_eq!(checksum(&block), 0xa62f_fa00);
}

// ---- images made by hand ----

const A_LIVE: (u64, u64) = (0x2AAA_AAAA, 0x5555_5555);
const B_LIVE: (u64, u64) = (0xE38E_38E3, 0xAAAA_AAA8);
const A_DEAD: (u64, u64) = (0xAAAA_AAAA, 0xD555_5555);
const B_DEAD: (u64, u64) = (0x7E07_E07E, 0x81F8_1F81);

fn word(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn put_word(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A header as it stands while a settings database is open for writing.
fn header() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..6].copy_from_slice(b"KdB\x02.\x03");
    for (at, value) in [(16, 1), (32, 510), (40, 128), (48, 8028)] {
        put_word(&mut image, at, value);
    }
    image
}

/// Appends an empty table whose checksum field is all ones, so that the blocks are read.
fn table(image: &mut Vec<u8>) {
    let at = image.len();
    image.resize(at + 12288, 0);
    put_word(image, at, 0x3333_3333);
    put_word(image, at + 8, u64::MAX);
    put_word(image, at + 12280, 0xCCCC_CCCC);
}

fn write_block(
    image: &mut [u8],
    at: usize,
    marks: (u64, u64),
    key: &str,
    value: &[u8],
    table: u64,
) {
    image[at..at + 8192].fill(0);
    put_word(image, at, marks.0);
    image[at + 16..at + 16 + key.len()].copy_from_slice(key.as_bytes());
    image[at + 144..at + 148].copy_from_slice(&(value.len() as u32).to_le_bytes());
    image[at + 148..at + 148 + value.len()].copy_from_slice(value);
    put_word(image, at + 8176, table);
    put_word(image, at + 8184, marks.1);
    let sum = checksum(&image[at + 16..at + 8184]);
    put_word(image, at + 8, sum.into());
}

/// Appends a live pair and answers where.
fn pair(image: &mut Vec<u8>, key: &str, value: &[u8], table: u64) -> usize {
    let at = image.len();
    image.resize(at + 16384, 0);
    write_block(image, at, A_LIVE, key, value, table);
    write_block(image, at + 8192, B_LIVE, key, value, table);
    at
}

/// The first keys of a slot, so many as asked for.
fn keys_of_slot<const N: usize>(slot: u64) -> [String; N] {
    let mut keys = (0..)
        .map(|n| format!("/{n}"))
        .filter(|k| hash(k.as_bytes()) % 510 == slot);
    [(); N].map(|()| keys.next().unwrap())
}

/// One table, `/a` = 1 and `/b` = 2: the image and where the pairs lie.
fn two_pairs() -> (Vec<u8>, usize, usize) {
    let mut image = header();
    table(&mut image);
    let a = pair(&mut image, "/a", b"1", 0);
    let b = pair(&mut image, "/b", b"2", 0);
    (image, a, b)
}

fn values(found: &Outcome) -> Vec<(&str, &[u8])> {
    assert!(found.opens && !found.crashes, "{found:?}");
    let text = |k| std::str::from_utf8(k).unwrap();
    found
        .pairs
        .iter()
        .map(|(k, v)| (text(k), v.as_slice()))
        .collect()
}

#[test]
fn an_intact_file_is_found_whole() {
    let (image, ..) = two_pairs();
    let found = recover(&image);
    assert_eq!(values(&found), [("/a", &b"1"[..]), ("/b", b"2")]);
    assert!(found.rebuilt && found.wiped.is_empty() && found.undecided.is_empty());
}

#[test]
fn a_zeroed_file_holds_nothing() {
    let (mut image, ..) = two_pairs();
    image[4096..].fill(0);
    let found = recover(&image);
    assert_eq!(
        (values(&found), found.tables, found.rebuilt),
        (vec![], 0, false)
    );
    image.fill(0);
    assert_eq!(recover(&image), Outcome::default());
    assert_eq!(recover(&[]), Outcome::default());
}

#[test]
fn a_zero_table_is_believed() {
    let (mut image, ..) = two_pairs();
    image[4104..16376].fill(0);
    let found = recover(&image);
    assert_eq!(
        (values(&found), found.tables, found.rebuilt),
        (vec![], 1, false)
    );
    // One of its delimiters is enough to find it, the blocks do not count without a bad table.
    put_word(&mut image, 4096, 0);
    assert_eq!(values(&recover(&image)), []);
    put_word(&mut image, 4104, u64::MAX);
    assert_eq!(values(&recover(&image)).len(), 2);
}

#[test]
fn a_lost_table_is_fatal() {
    let mut image = header();
    table(&mut image);
    let [a, b] = keys_of_slot(7);
    pair(&mut image, &a, b"1", 0);
    let second = image.len();
    table(&mut image);
    pair(&mut image, &b, b"2", 1);
    assert_eq!(values(&recover(&image)).len(), 2);
    image[second..second + 12288].fill(0);
    let found = recover(&image);
    assert!(found.crashes);
    assert!(!found.pairs.contains_key(b.as_bytes()));
}

#[test]
fn a_stale_table_with_a_good_checksum_loses_what_followed() {
    // /new was put and /k0 deleted after the last clean close, both synced.
    let found = recover(&golden("unclean-later"));
    assert!(!found.rebuilt && !found.pairs.contains_key(&b"/new"[..]));
    assert_eq!(found.pairs[&b"/k0"[..]], b"");
    assert_eq!(found.pairs.len(), 42);
}

#[test]
fn the_files_from_the_field_are_found_whole() {
    // Counts and sums from the recorded traces 30 and 31: key NUL size value, sorted.
    for (name, count, sum) in [
        ("unclean-first", 380, 0x7227_f4f2),
        ("unclean-grown", 490, 0x46b1_f607),
    ] {
        let found = recover(&golden(name));
        let mut all = crc32fast::Hasher::new();
        for (key, value) in &found.pairs {
            all.update(key);
            all.update(&[0]);
            all.update(&(value.len() as u32).to_le_bytes());
            all.update(value);
        }
        assert_eq!(
            (found.pairs.len(), all.finalize(), found.crashes),
            (count, sum, false)
        );
    }
}

#[test]
fn tables_and_blocks_of_a_clean_file_agree() {
    for name in ["vehicle", "resources", "04-chain", "05-rct"] {
        let mut image = golden(name);
        let by_tables = recover(&image);
        assert!(by_tables.clean && by_tables.tables > 0 && !by_tables.pairs.is_empty());
        // Unclean with good tables: kept. With a marked one: rebuilt.
        put_word(&mut image, 16, 1);
        put_word(&mut image, 24, 0);
        let kept = recover(&image);
        put_word(&mut image, 4104, u64::MAX);
        let rebuilt = recover(&image);
        assert!(!kept.rebuilt && rebuilt.rebuilt);
        for other in [kept, rebuilt] {
            assert_eq!(values(&other), values(&by_tables), "{name}");
            assert_eq!(other.tables, by_tables.tables);
        }
    }
}

#[test]
fn the_table_of_copies() {
    // Rows and columns as in the model's description; what each pair comes to.
    let a_kinds = [
        (A_LIVE, true),
        (A_LIVE, false),
        (A_DEAD, true),
        (A_DEAD, false),
    ];
    let b_kinds = [
        (B_LIVE, true),
        (B_LIVE, false),
        (B_DEAD, true),
        (B_DEAD, false),
    ];
    let expected = ["BAAAA", "Bwwww", "-----", "ww-ww", "Bw-w-"];
    for (row, line) in expected.iter().enumerate() {
        for (column, want) in line.chars().enumerate() {
            let (mut image, _, at) = two_pairs();
            for (copy, kind, value) in [
                (at, a_kinds.get(row), b"A"),
                (at + 8192, b_kinds.get(column), b"B"),
            ] {
                match kind {
                    Some(&(marks, good)) => {
                        write_block(&mut image, copy, marks, "/b", value, 0);
                        image[copy + 148 + 1] ^= u8::from(!good);
                    }
                    None => image[copy..copy + 8192].fill(0),
                }
            }
            let found = recover(&image);
            let got = match found.pairs.get(&b"/b"[..]) {
                Some(value) => char::from(value[0]),
                None if found.wiped == [at] => 'w',
                None => '-',
            };
            assert_eq!(got, want, "row {row} column {column}");
            assert_eq!(found.pairs[&b"/a"[..]], b"1");
            assert!(found.undecided.is_empty() && !found.crashes);
        }
    }
}

#[test]
fn contradicting_delimiters() {
    for (marks, by_default, by_start) in [
        ((A_LIVE.0, A_DEAD.1), true, true),
        ((A_DEAD.0, A_LIVE.1), true, false),
    ] {
        let (mut image, _, at) = two_pairs();
        write_block(&mut image, at, marks, "/b", b"2", 0);
        let found = |reading| {
            let found = recover_reading(&image, reading);
            (
                found.pairs.contains_key(&b"/b"[..]),
                found.undecided.is_empty(),
            )
        };
        let proven = by_default == by_start;
        assert_eq!(found(Reading::LiveWins), (by_default, proven));
        assert_eq!(found(Reading::StartDecides), (by_start, proven));
    }
}

#[test]
fn a_wiped_record_takes_slot_281() {
    assert_eq!(hash(b"") % 510, 281);
    let [rival] = keys_of_slot(281);
    let (mut image, a, _) = two_pairs();
    for (at, marks) in [(a, A_LIVE), (a + 8192, B_LIVE)] {
        write_block(&mut image, at, marks, "", b"", 0);
    }
    assert_eq!(values(&recover(&image)), [("", &b""[..]), ("/b", b"2")]);
    // Behind an intact key of that slot it displaces that key.
    let (mut image, a, b) = two_pairs();
    for (at, marks) in [(0, A_LIVE), (8192, B_LIVE)] {
        write_block(&mut image, a + at, marks, &rival, b"1", 0);
        write_block(&mut image, b + at, marks, "", b"", 0);
    }
    let found = recover(&image);
    assert_eq!((values(&found), found.displaced), (vec![("", &b""[..])], 1));
}

#[test]
fn a_hole_hides_what_lies_behind_it() {
    let mut image = header();
    table(&mut image);
    let a = pair(&mut image, "/a", b"1", 0);
    table(&mut image);
    // A later pair of the same key, in the next table.
    pair(&mut image, "/a", b"2", 1);
    let found = recover(&image);
    assert_eq!(
        (values(&found), found.unreachable),
        (vec![("/a", &b"1"[..])], 1)
    );
    image[a..a + 16384].fill(0);
    let found = recover(&image);
    assert_eq!((values(&found), found.unreachable), (vec![], 1));
}

#[test]
fn a_value_that_looks_like_a_table_is_taken_for_one() {
    for (offset, word, places) in [
        (3948, 0x3333_3333_u64, [4096, 12288]),
        (3940, 0xCCCC_CCCC, [-8192, 0]),
    ] {
        let (mut image, a, _) = two_pairs();
        let mut value = vec![7; 5000];
        value[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        for (at, marks) in [(a, A_LIVE), (a + 8192, B_LIVE)] {
            write_block(&mut image, at, marks, "/a", &value, 0);
        }
        let found = recover(&image);
        let doubts: Vec<_> = found.undecided.iter().map(|&(at, _)| at).collect();
        assert_eq!(found.tables, 3);
        assert_eq!(doubts, places.map(|place| a.wrapping_add_signed(place)));
    }
}

#[test]
fn the_missing_delimiter_is_written_over_what_is_there() {
    // The value in /a's block B looks like a table that ends where /b's block A does.
    let (mut image, a, b) = two_pairs();
    put_word(&mut image, b, 0);
    image[b + 8192 + 148] ^= 1;
    // Start delimiter lost, twin bad: live by its end delimiter.
    assert_eq!(values(&recover(&image)).len(), 2);
    put_word(&mut image, a + 8192 + 4096, 0x3333_3333);
    let found = recover(&image);
    assert_eq!(values(&found), [("/a", &b"1"[..])]);
    assert_eq!(found.wiped, [b]);
}

#[test]
fn a_size_beyond_the_value_is_read_outside() {
    let (mut image, _, b) = two_pairs();
    for (size, crashes) in [(8028_u32, false), (8029, true), (u32::MAX, true)] {
        for block in [b, b + 8192] {
            image[block + 144..block + 148].copy_from_slice(&size.to_le_bytes());
            let sum = checksum(&image[block + 16..block + 8184]);
            put_word(&mut image, block + 8, sum.into());
        }
        assert_eq!(recover(&image).crashes, crashes);
    }
}

#[test]
fn lengths() {
    // A pair behind an odd length is not found.
    let (mut image, ..) = two_pairs();
    image.resize(image.len() + 2048, 0);
    let odd = image.clone();
    pair(&mut image, "/c", b"3", 0);
    assert_eq!(values(&recover(&image)), values(&recover(&odd)));
    assert_eq!(values(&recover(&odd)).len(), 2);
    // A zero tail and zero pairs do no harm.
    let (mut image, ..) = two_pairs();
    image.resize(image.len() + 5 * 4096, 0);
    pair(&mut image, "/c", b"3", 0);
    assert_eq!(values(&recover(&image)).len(), 3);
    // A file that ends behind a torn block A: fatal; behind a good one: nobody knows.
    let (mut image, _, b) = two_pairs();
    image.truncate(b + 8192);
    assert_eq!(recover(&image).undecided.len(), 1);
    image[b + 148] ^= 1;
    assert!(recover(&image).crashes);
}

#[test]
fn kept_slots_are_checked() {
    // Good tables, so the slots count: current copy bad, then both.
    let mut image = golden("04-chain");
    put_word(&mut image, 16, 1);
    let whole = recover(&image);
    let slot = (0..510)
        .find(|s| word(&image, 4112 + 24 * s) as i64 > 0)
        .unwrap();
    let at = word(&image, 4112 + 24 * slot) as usize;
    let current = at + 8192 * usize::from(word(&image, 4112 + 24 * slot + 16) != 0);
    image[current + 148] ^= 1;
    assert_eq!(recover(&image).pairs, whole.pairs);
    image[current + 148] ^= 1;
    image[at + 148] ^= 1;
    image[at + 8192 + 148] ^= 1;
    let found = recover(&image);
    assert_eq!(
        (found.pairs.len(), found.rebuilt),
        (whole.pairs.len() - 1, false)
    );
    // A slot that points outside the file.
    let sum = |image: &mut [u8]| {
        let sum = checksum(&image[4112..16376]);
        put_word(image, 4104, sum.into());
    };
    for wild in [1 << 40, i64::MAX as u64, image.len() as u64 - 4096] {
        let mut image = image.clone();
        put_word(&mut image, 4112 + 24 * slot, wild);
        put_word(&mut image, 4112 + 24 * slot + 16, 0);
        sum(&mut image);
        assert!(recover(&image).crashes);
    }
}

#[test]
fn bad_headers_and_links() {
    let (image, ..) = two_pairs();
    for (at, value) in [
        (32, 0),
        (32, 511),
        (40, 129),
        (40, 0),
        (48, 8029),
        (48, u64::MAX),
    ] {
        let mut image = image.clone();
        put_word(&mut image, at, value);
        assert!(recover(&image).crashes, "{at} {value}");
    }
    for at in [0, 3, 5] {
        let mut image = image.clone();
        image[at] ^= 1;
        assert_eq!(recover(&image), Outcome::default());
    }
    // A clean file is read by its links: a circle and a wild one.
    let clean = golden("04-chain");
    for link in [4096, u64::MAX, 1 << 62, clean.len() as u64 - 1] {
        let mut image = clean.clone();
        put_word(&mut image, 4112 + 24 * 510, link);
        assert!(recover(&image).crashes, "{link}");
    }
}

/// xorshift: the same damage in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn no_image_makes_the_model_panic() {
    let mut dice = Dice(0x5EED);
    let words = [
        0,
        1,
        u64::MAX,
        i64::MIN as u64,
        0x3333_3333,
        0xCCCC_CCCC,
        A_LIVE.0,
        B_LIVE.1,
    ];
    for file in recorded().iter().step_by(4) {
        for _ in 0..10 {
            let mut image = file.image.clone();
            for _ in 0..=dice.below(12) {
                // Words that mean something, on places that mean something.
                let step = [8, 24, 4096][dice.below(3)];
                let at = dice.below(image.len() / step) * step + [0, 8, 4088][dice.below(3)];
                if at + 8 <= image.len() {
                    let wild = (dice.below(1 << 22) as u64) << dice.below(40);
                    let value = [wild, words[dice.below(words.len())]][dice.below(2)];
                    put_word(&mut image, at, value);
                }
            }
            if dice.below(2) == 0 {
                // Let the damaged slots be believed.
                let sum = checksum(&image[4112..16376]);
                put_word(&mut image, 4104, sum.into());
                put_word(&mut image, 16, dice.below(2) as u64);
                put_word(&mut image, 24, 1);
            }
            if dice.below(3) == 0 {
                image.truncate(dice.below(file.image.len()));
            }
            recover(&image);
        }
    }
}
