//! Tests of the checker itself (`support/check.rs`), on the files that the original left behind.
//!
//! The other tests trust it to see what is wrong with a file. Here it is shown that it passes the original's files and
//! that it can fail: each test damages a good file in one way and must get the finding for it, and no other.

mod support;

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use support::check::{self, BLOCK, HEADER, LINK, PAIR, TABLE, check, compare, slot_of};

/// The original's files that were closed cleanly.
const CLEAN: [&str; 8] = [
    "01-basic",
    "02-overwrite",
    "03-delete-reuse",
    "04-chain",
    "05-rct",
    "06-readonly",
    "resources",
    "vehicle",
];

fn golden(name: &str) -> Vec<u8> {
    support::gunzip(support::data("golden").join(format!("{name}.db.gz")))
}

/// A file of 128/8028 that is taken apart and damaged.
struct Patient {
    bytes: Vec<u8>,
}

impl Patient {
    fn new(name: &str) -> Patient {
        let bytes = golden(name);
        assert_eq!(check(&bytes, false), [""; 0], "{name} before the damage");
        Patient { bytes }
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn set(&mut self, at: usize, n: u64) -> &mut Patient {
        self.bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
        self
    }

    /// Changes one byte into another one.
    fn poke(&mut self, at: usize) -> &mut Patient {
        self.bytes[at] ^= 0x41;
        self
    }

    /// Where table `n` is.
    fn table(&self, n: usize) -> usize {
        check::table_offsets(&self.bytes)[n]
    }

    /// Where slot `s` of table `n` is.
    fn slot(&self, n: usize, s: usize) -> usize {
        self.table(n) + 16 + 24 * s
    }

    /// Where the pair of slot `s` of table `n` is.
    fn pair(&self, n: usize, s: usize) -> usize {
        let offset = self.i64(self.slot(n, s));
        usize::try_from(offset.unsigned_abs()).expect("an offset")
    }

    /// Where the pair of a key of table 0 is.
    fn pair_of(&self, key: &[u8]) -> usize {
        self.pair(0, slot_of(key, LINK))
    }

    /// Makes the checksum of the table at `at` right again.
    fn seal_table(&mut self, at: usize) -> &mut Patient {
        let sum = check::checksum(&self.bytes[at + 16..at + TABLE - 8]);
        self.set(at + 8, sum.into())
    }

    /// The same for both copies of the pair at `at`.
    fn seal_pair(&mut self, at: usize) -> &mut Patient {
        for copy in [at, at + BLOCK] {
            let sum = check::checksum(&self.bytes[copy + 16..copy + BLOCK - 8]);
            self.set(copy + 8, sum.into());
        }
        self
    }

    #[track_caller]
    fn finds(&self, expected: &[&str]) {
        assert_eq!(check(&self.bytes, false), expected);
    }
}

#[test]
fn the_originals_files_pass() {
    // What the original closed is right by definition. In one of its files the remains of an old value are left behind
    // a shorter one: that is what `ours` is there to see, and it sees nothing else in any of them.
    for name in CLEAN {
        let file = golden(name);
        assert_eq!(check(&file, false), [""; 0], "{name}");
        assert_eq!(compare(&file, &file), [""; 0], "{name}");
        if name != "02-overwrite" {
            assert_eq!(check(&file, true), [""; 0], "{name}");
        }
    }
    let behind =
        ["A", "B"].map(|copy| format!("table 0 slot 151: copy {copy}: bytes behind the value"));
    assert_eq!(check(&golden("02-overwrite"), true), behind);
}

#[test]
fn files_that_were_not_closed_do_not_pass() {
    // The power went while the original had them open: flags, and tables that do not know what is in the blocks.
    for name in ["unclean-first", "unclean-grown", "unclean-later"] {
        let findings = check(&golden(name), false);
        assert_eq!(
            findings.first().map(String::as_str),
            Some("flags 1 0"),
            "{name}"
        );
        assert!(findings.len() > 1, "{name}: {findings:?}");
    }
}

#[test]
fn the_checksum_is_the_files_dialect() {
    // The vectors of format.md. The last one is a whole block, its value followed by 8 KiB of zeros.
    let mut block = vec![0; 8168];
    block[..4].copy_from_slice(b"key1");
    block[128] = 5;
    block[132..137].copy_from_slice(b"hello");
    let count: Vec<u8> = (0..=255).collect();
    let vectors: [(&[u8], u32); 8] = [
        (&[], 0),
        (b"123456789", 0xcbf4_3926),
        (&[0], 0),
        (&[0; 8168], 0),
        (&[0xFF; 16], 0xffff_ffff),
        (&count, 0x0170_51c0),
        (&count.repeat(4), 0xe894_b6dd),
        (&block, 0xa62f_fa00),
    ];
    for (bytes, sum) in vectors {
        assert_eq!(check::checksum(bytes), sum, "of {} bytes", bytes.len());
    }
    assert_ne!(check::checksum(&count), crc32fast::hash(&count));
}

#[test]
fn the_pairs_of_a_file_are_those_of_its_trace() {
    // Trace 01 leaves three keys and a deleted one, trace 04 a thousand keys in a chain of tables, of which two thousand
    // others were deleted. The values are known from the traces.
    let node = b"/Node/#\xc3\xa4\xc3\xb6/x".to_vec();
    let basic = BTreeMap::from([
        (b"/b".to_vec(), support::value(4, 8028)),
        (b"/c".to_vec(), support::value(5, 1)),
        (node, support::value(6, 100)),
    ]);
    assert_eq!(check::pairs(&golden("01-basic")), basic);

    let chain: BTreeMap<_, _> = (500..1500)
        .map(|i| (support::key(i), support::value(i, 33)))
        .collect();
    assert_eq!(check::pairs(&golden("04-chain")), chain);

    let resources = BTreeMap::from([(b"resource-one".to_vec(), support::value(3, 212))]);
    assert_eq!(check::pairs(&golden("05-rct")), resources);

    let vehicle = check::pairs(&golden("vehicle"));
    assert_eq!(
        vehicle.get(b"/node/system/serial".as_slice()).map(Vec::len),
        Some(17)
    );
}

#[test]
fn the_current_copy_counts() {
    // The original leaves the two copies of a pair different after it has recovered a file; `current` says which one
    // holds. Here copy B of /c is given another value, and the slot first points to A and then to B.
    let mut file = Patient::new("01-basic");
    let (slot, pair) = (slot_of(b"/c", LINK), file.pair_of(b"/c"));
    let value = |file: &Patient| {
        check::pairs(&file.bytes)
            .remove(b"/c".as_slice())
            .expect("/c")
    };
    file.bytes[pair + BLOCK + 148] = b'B';
    file.seal_pair(pair);
    let current = file.slot(0, slot) + 16;
    assert_eq!(file.u64(current), 0);
    assert_eq!(value(&file), support::value(5, 1));
    let table = file.table(0);
    file.set(current, 1).seal_table(table);
    assert_eq!(value(&file), b"B");
    file.finds(&[&format!("table 0 slot {slot}: copies differ")]);
}

#[test]
fn a_dump_has_a_line_for_each_pair() {
    // Deleted pairs are in the list too: their keys stay in the file.
    let lines = check::dump(&golden("01-basic"));
    let (a, c) = (slot_of(b"/a", LINK), slot_of(b"/c", LINK));
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines.contains(&format!("0 {a} deleted 0 /a 0")),
        "{lines:?}"
    );
    assert!(lines.contains(&format!("0 {c} live 0 /c 1")), "{lines:?}");
}

#[test]
fn the_header_is_checked() {
    // A file that is still marked as open, or as neither, was not closed. Nothing else in the header may be set.
    let mut file = Patient::new("01-basic");
    file.set(16, 1).finds(&["flags 1 1"]);
    file.set(24, 0).finds(&["flags 1 0"]);
    file.set(16, 0).finds(&["flags 0 0"]);
    let mut file = Patient::new("01-basic");
    file.poke(HEADER - 1)
        .finds(&["header: padding is not zero"]);
    for (at, finding) in [
        (0, "no header"),
        (3, "version [43, 2e, 03]"),
        (5, "version [02, 2e, 42]"),
    ] {
        Patient::new("01-basic").poke(at).finds(&[finding]);
    }
    for (at, size) in [
        (32, 0),
        (32, 511),
        (40, 0),
        (40, 129),
        (48, 0),
        (48, 8029),
        (48, u64::MAX),
    ] {
        let mut file = Patient::new("01-basic");
        file.set(at, size);
        let findings = check(&file.bytes, false);
        assert!(
            findings.len() == 1 && findings[0].starts_with("header sizes "),
            "{findings:?}"
        );
        assert!(check::pairs(&file.bytes).is_empty() && check::dump(&file.bytes).is_empty());
    }
    let only_header = &golden("01-basic")[..HEADER];
    assert_eq!(
        check(only_header, true),
        [""; 0],
        "a database that was never written"
    );
    assert_eq!(check(&only_header[..HEADER - 1], true), ["no header"]);
}

#[test]
fn a_tables_checksum_and_delimiters_are_checked() {
    // One byte of the checksum field, one byte under the checksum that changes no slot in use, each delimiter.
    let mut file = Patient::new("01-basic");
    file.poke(HEADER + 8)
        .finds(&["table 0 at 0x1000: checksum"]);
    let mut file = Patient::new("01-basic");
    let link = file.slot(0, LINK);
    file.poke(link + 16).finds(&["table 0 at 0x1000: checksum"]);
    for at in [HEADER, HEADER + TABLE - 8] {
        let mut file = Patient::new("01-basic");
        file.poke(at).finds(&["table 0 at 0x1000: delimiters"]);
    }
}

#[test]
fn a_tables_mark_of_an_unclean_life_is_a_bad_checksum() {
    // While the library has a database open for writing the first table carries all ones. A close that forgets to put
    // the checksum back must be seen.
    let mut file = Patient::new("01-basic");
    file.set(HEADER + 8, u64::MAX)
        .finds(&["table 0 at 0x1000: checksum"]);
    // The upper half of the field belongs to it.
    let mut file = Patient::new("01-basic");
    file.poke(HEADER + 15)
        .finds(&["table 0 at 0x1000: checksum"]);
}

#[test]
fn delimiters_of_blocks_are_checked() {
    // Live /c and deleted /a, both ends of both copies.
    for key in [b"/c", b"/a"] {
        for (copy, name) in [(0, "A"), (BLOCK, "B")] {
            for end in [0, BLOCK - 8, BLOCK - 1] {
                let mut file = Patient::new("01-basic");
                let at = file.pair_of(key) + copy + end;
                let slot = slot_of(key, LINK);
                file.poke(at)
                    .finds(&[&format!("table 0 slot {slot}: copy {name} delimiters")]);
            }
        }
    }
    // A live slot whose blocks say deleted, as a close that loses a re-put would leave it.
    let mut file = Patient::new("01-basic");
    let slot = slot_of(b"/a", LINK);
    let (at, table) = (file.slot(0, slot), file.table(0));
    let pair = file.pair_of(b"/a") as u64;
    file.set(at, pair)
        .set(at + 8, pair + BLOCK as u64)
        .seal_table(table);
    let said = ["A", "B"].map(|copy| format!("table 0 slot {slot}: copy {copy} delimiters"));
    file.finds(&said.each_ref().map(String::as_str));
}

#[test]
fn contents_of_blocks_are_checked() {
    // A byte of a value in one copy, the table number in both, a size that the database does not allow, a value in a
    // deleted pair.
    let slot = slot_of(b"/c", LINK);
    let here = |what: &str| format!("table 0 slot {slot}: {what}");
    let mut file = Patient::new("01-basic");
    let pair = file.pair_of(b"/c");
    file.poke(pair + BLOCK + 148)
        .finds(&[&here("copy B checksum"), &here("copies differ")]);

    let mut file = Patient::new("01-basic");
    file.set(pair + 8176, 7)
        .set(pair + BLOCK + 8176, 7)
        .seal_pair(pair);
    file.finds(&[&here("copy A names table 7"), &here("copy B names table 7")]);

    let mut file = Patient::new("01-basic");
    file.bytes[pair + 146] = 1;
    file.bytes[pair + BLOCK + 146] = 1;
    file.seal_pair(pair)
        .finds(&[&here("copy A: size 65537"), &here("copy B: size 65537")]);

    let mut file = Patient::new("01-basic");
    let (slot, pair) = (slot_of(b"/a", LINK), file.pair_of(b"/a"));
    file.bytes[pair + 144] = 3;
    file.bytes[pair + BLOCK + 144] = 3;
    let said = ["A", "B"]
        .map(|copy| format!("table 0 slot {slot}: copy {copy}: deleted with 3 bytes of value"));
    file.seal_pair(pair)
        .finds(&said.each_ref().map(String::as_str));
}

#[test]
fn a_key_that_is_there_twice_is_found() {
    // #28: the original could put a key a second time after an earlier slot of its chain had been deleted. Here the key
    // of table 0 is written over that of the same slot in table 1, everything sealed.
    let mut file = Patient::new("04-chain");
    let (s, key) = live_in_two_tables(&file);
    let (first, second) = (file.pair(0, s), file.pair(1, s));
    for copy in [0, BLOCK] {
        file.bytes
            .copy_within(first + 16..first + 16 + 128, second + copy + 16);
    }
    file.seal_pair(second);
    file.finds(&[&format!(
        "table 1 slot {s}: key {} is also in table 0",
        key.escape_ascii()
    )]);
}

#[test]
fn a_hole_in_a_chain_is_found() {
    // #8: the original stops looking at the first unused slot, so a later key of the slot cannot be reached. First the
    // slot alone is cleared, and its pair belongs to nothing; then the pair is zeroed as well and only the hole is left.
    let mut file = Patient::new("04-chain");
    let (s, _) = live_in_two_tables(&file);
    let (slot, pair, table) = (file.slot(0, s), file.pair(0, s), file.table(0));
    file.set(slot, 0)
        .set(slot + 8, 0)
        .set(slot + 16, 0)
        .seal_table(table);
    let hole = format!("table 0 slot {s}: a hole in the chain");
    file.finds(&[
        &hole,
        &format!("16384 bytes at {pair:#x} belong to nothing"),
    ]);
    file.bytes[pair..pair + PAIR].fill(0);
    file.finds(&[&hole]);
}

/// A slot that is live in tables 0 and 1, and its key in table 0.
fn live_in_two_tables(file: &Patient) -> (usize, Vec<u8>) {
    let live = |n: usize, s: usize| file.i64(file.slot(n, s)) > 0;
    let s = (0..LINK)
        .find(|&s| live(0, s) && live(1, s))
        .expect("a slot in use in both");
    let key = &file.bytes[file.pair(0, s) + 16..][..128];
    (
        s,
        key.split(|&c| c == 0).next().unwrap_or_default().to_vec(),
    )
}

/// What is found of a pair in slot 200 whose key belongs to slot `s`.
fn in_slot_200(s: usize) -> [String; 2] {
    ["A", "B"].map(|copy| format!("table 0 slot 200: copy {copy}: key belongs to slot {s}"))
}

#[test]
fn a_key_in_the_wrong_slot_is_found() {
    // The slot of /b is moved to another, unused one: no look-up finds the key there.
    let mut file = Patient::new("01-basic");
    let s = slot_of(b"/b", LINK);
    let (from, to, table) = (file.slot(0, s), file.slot(0, 200), file.table(0));
    file.bytes.copy_within(from..from + 24, to);
    file.bytes[from..from + 24].fill(0);
    file.seal_table(table);
    let [a, b] = in_slot_200(s);
    file.finds(&[&a, &b]);
}

#[test]
fn garbage_in_unused_space_is_found() {
    // Zeros behind the last pair are what growth in steps would leave; a single other byte there belongs to nothing. The
    // same for a gap inside, and for a length that hides later pairs from the original's rebuild (#11).
    let mut file = Patient::new("01-basic");
    let end = file.bytes.len();
    file.bytes.resize(end + 2 * BLOCK, 0);
    file.finds(&[]);
    file.poke(end + 5000)
        .finds(&[&format!("16384 bytes at {end:#x} belong to nothing")]);

    let mut file = Patient::new("01-basic");
    let s = slot_of(b"/b", LINK);
    let (slot, pair, table) = (file.slot(0, s), file.pair(0, s), file.table(0));
    file.bytes[slot..slot + 24].fill(0);
    file.seal_table(table);
    file.finds(&[&format!("16384 bytes at {pair:#x} belong to nothing")]);
    file.bytes[pair..pair + PAIR].fill(0);
    file.finds(&[]);

    let mut file = Patient::new("01-basic");
    file.bytes.push(0);
    file.finds(&[&format!("length {} is no multiple of 4096", end + 1)]);
}

#[test]
fn what_is_left_behind_a_value_or_a_key_is_found_in_our_files_only() {
    // #31: the original leaves old values readable behind shorter new ones, this library must not. The byte is sealed,
    // as it would be in a real file.
    for (offset, what) in [
        (148 + 20, "value"),
        (8175, "value"),
        (16 + 3, "key"),
        (143, "key"),
    ] {
        let mut file = Patient::new("01-basic");
        let (slot, pair) = (slot_of(b"/c", LINK), file.pair_of(b"/c"));
        file.poke(pair + offset)
            .poke(pair + BLOCK + offset)
            .seal_pair(pair);
        let said = ["A", "B"]
            .map(|copy| format!("table 0 slot {slot}: copy {copy}: bytes behind the {what}"));
        assert_eq!(check(&file.bytes, true), said, "byte {offset}");
        // A key field that differs behind its NUL is the same in both copies, so nothing else is wrong with it.
        assert_eq!(check(&file.bytes, false), [""; 0], "byte {offset}");
    }
}

#[test]
fn offsets_that_make_no_sense_are_found() {
    // #24: out of range, negative, unaligned, not a pair; and two slots that share one.
    let (s, b) = (slot_of(b"/c", LINK), BLOCK as i64);
    let len = golden("01-basic").len() as i64;
    let wrong = [
        (len, len + b),
        (len - b, len),
        (i64::MAX - b, i64::MAX),
        (i64::MAX, i64::MIN),
        (i64::MIN, i64::MAX),
        (i64::MIN, i64::MIN),
        (32769, 32769 + b),
        (32768, -32768 - b),
        (32768, 32768),
        (0, b),
        (-b, 0),
        (0, -1),
        (-1, -1 - b),
    ];
    for (x, y) in wrong {
        let mut file = Patient::new("01-basic");
        let (slot, pair, table) = (file.slot(0, s), file.pair(0, s), file.table(0));
        file.bytes[pair..pair + PAIR].fill(0);
        file.set(slot, x as u64)
            .set(slot + 8, y as u64)
            .seal_table(table);
        file.finds(&[&format!("table 0 slot {s}: offsets {x} {y}")]);
        assert!(
            check::dump(&file.bytes)
                .iter()
                .any(|line| line.contains("nowhere"))
        );
    }
    let mut file = Patient::new("01-basic");
    let (from, to, pair, table) = (
        file.slot(0, s),
        file.slot(0, 200),
        file.pair(0, s),
        file.table(0),
    );
    file.bytes.copy_within(from..from + 24, to);
    let [a, b] = in_slot_200(s);
    let twice = format!("two things at {pair:#x}");
    file.seal_table(table).finds(&[&a, &b, &twice]);
}

#[test]
fn broken_links_between_tables_are_found() {
    // Cyclic, out of the file, negative: the walk ends, and says why. What hung on the link belongs to nothing.
    for (link, said) in [
        (4096, "the chain of tables comes back to 0x1000"),
        (-4096, "table 0: link to -4096, outside the file"),
        (
            i64::MIN,
            "table 0: link to -9223372036854775808, outside the file",
        ),
        (
            i64::MAX,
            "table 0: link to 9223372036854775807, outside the file",
        ),
    ] {
        let mut file = Patient::new("04-chain");
        let (at, table) = (file.slot(0, LINK), file.table(0));
        file.set(at, link as u64).seal_table(table);
        let findings = check(&file.bytes, false);
        assert_eq!(findings.first().map(String::as_str), Some(said));
        assert!(
            findings[1..]
                .iter()
                .all(|f| f.contains("belong to nothing")),
            "{findings:?}"
        );
        assert!(findings.len() > 1);
    }
}

#[test]
fn two_links_of_a_small_table_must_agree_in_our_files() {
    // Section 7: with fewer slots than 510 the original writes the link to slot 510 and reads it from slot htSize. Ours
    // has it in both. A file whose only table has a link in one of them is followed, and in ours it is a finding.
    let mut file = Patient::new("01-basic");
    let (end, table) = (file.bytes.len(), file.table(0));
    file.bytes.truncate(HEADER + TABLE);
    file.bytes[table + 16..table + TABLE - 8].fill(0);
    let copy = file.bytes[table..].to_vec();
    file.bytes.extend(copy);
    assert!(file.bytes.len() < end);
    let second = (HEADER + TABLE) as u64;
    let (link, early) = (file.slot(0, LINK), file.slot(0, 3));
    file.set(32, 3)
        .set(link, second)
        .seal_table(table)
        .seal_table(HEADER + TABLE);
    assert_eq!(
        check(&file.bytes, true),
        ["table 0 at 0x1000: two different links"]
    );
    file.set(early, second).set(link, 0).seal_table(table);
    assert_eq!(
        check(&file.bytes, true),
        ["table 0 at 0x1000: two different links"]
    );
    assert_eq!(check::table_offsets(&file.bytes).len(), 2);
    file.set(link, second).seal_table(table);
    assert_eq!(check(&file.bytes, true), [""; 0]);
    let stray = file.slot(0, 77);
    file.set(stray, second).seal_table(table);
    assert_eq!(
        check(&file.bytes, true),
        ["table 0 at 0x1000: 1 slots behind the last in use"]
    );
}

#[test]
fn a_current_that_is_no_copy_is_found() {
    // 0 and 1 are what the original writes; a deleted slot has 0.
    for (key, current) in [(b"/c", 2), (b"/a", 1)] {
        let mut file = Patient::new("01-basic");
        let s = slot_of(key, LINK);
        let (slot, table) = (file.slot(0, s), file.table(0));
        file.set(slot + 16, current).seal_table(table);
        file.finds(&[&format!("table 0 slot {s}: current {current}")]);
    }
}

#[test]
fn a_comparison_sees_what_matters_and_nothing_else() {
    // Two files of the same calls may differ behind the end of a value (and in the checksum that covers it), nowhere
    // else. Each change is made to a copy of the file that it is compared with.
    let good = Patient::new("01-basic");
    let (s, pair) = (slot_of(b"/c", LINK), good.pair_of(b"/c"));
    let differs = |change: &dyn Fn(&mut Patient)| {
        let mut other = Patient {
            bytes: good.bytes.clone(),
        };
        change(&mut other);
        let (there, back) = (
            compare(&good.bytes, &other.bytes),
            compare(&other.bytes, &good.bytes),
        );
        assert_eq!(there.len(), back.len(), "{there:?} {back:?}");
        there
    };
    assert_eq!(
        differs(&|f| {
            f.poke(pair + 148 + 20)
                .poke(pair + BLOCK + 150)
                .seal_pair(pair);
        }),
        [""; 0]
    );

    let one = |change: &dyn Fn(&mut Patient), start: &str| {
        let found = differs(change);
        assert!(
            found.len() == 1 && found[0].starts_with(start),
            "{start}: {found:?}"
        );
    };
    let copy_a = format!("table 0 slot {s} copy A: ");
    let copy_b = format!("table 0 slot {s} copy B: ");
    one(
        &|f| {
            f.poke(pair + 148);
        },
        &copy_a,
    );
    one(
        &|f| {
            f.poke(pair + BLOCK + 148);
        },
        &copy_b,
    );
    one(
        &|f| {
            f.poke(pair + 144);
        },
        &copy_a,
    );
    one(
        &|f| {
            f.poke(pair + 140);
        },
        &copy_a,
    );
    one(
        &|f| {
            f.poke(pair);
        },
        &copy_a,
    );
    one(
        &|f| {
            f.poke(pair + BLOCK + 8176);
        },
        &copy_b,
    );
    one(
        &|f| {
            f.poke(pair + 8184);
        },
        &copy_a,
    );
    one(
        &|f| {
            f.poke(16);
        },
        "headers differ",
    );
    one(
        &|f| {
            f.poke(HEADER + 8);
        },
        "table 0: ",
    );
    one(
        &|f| {
            let at = f.slot(0, s) + 16;
            f.poke(at);
        },
        "table 0: offset 0x1000 0x1000, checksum",
    );
    one(&|f| f.bytes.extend([0; 4096]), "sizes ");
    one(&|f| f.bytes.truncate(100), "second: no header");
    assert!(!compare(&good.bytes, &golden("03-delete-reuse")).is_empty());
}

#[test]
fn damaged_files_are_read_to_the_end() {
    // The 200 unclean files of the second reader: nothing is asked of the findings but that there are some, and that no
    // file stops the checker.
    let mut files = 0;
    for entry in fs::read_dir(support::data("second-reader"))
        .expect("the files")
        .flatten()
    {
        if entry.path().extension().is_some_and(|e| e == "gz") {
            let file = support::gunzip(entry.path());
            assert!(!check(&file, true).is_empty(), "{}", entry.path().display());
            everything(&file);
            files += 1;
        }
    }
    assert_eq!(files, 200);
}

fn everything(bytes: &[u8]) -> usize {
    check(bytes, true).len()
        + check(bytes, false).len()
        + compare(bytes, bytes).len()
        + check::dump(bytes).len()
        + check::pairs(bytes).len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40_000)) {
        // Files of no shape at all, and the same behind a header that is good.
        everything(&bytes);
        let mut file = golden("01-basic")[..HEADER].to_vec();
        file.extend(&bytes);
        everything(&file);
    }

    #[test]
    fn no_damage_makes_it_panic(
        pokes in prop::collection::vec((0usize..100_000, prop_oneof![any::<u64>(), 0u64..120_000, Just(i64::MIN as u64)]), 1..12),
        slots in prop::collection::vec((0usize..511, prop_oneof![any::<i64>(), -100_000i64..100_000]), 0..6),
        cut in 0usize..100_000,
    ) {
        // Numbers of all kinds at any place of a good file, most of all in its slots, and then a part of it only.
        let mut file = Patient::new("03-delete-reuse");
        for (at, n) in pokes {
            let last = file.bytes.len() - 8;
            file.set(at.min(last), n);
        }
        for (s, offset) in slots {
            let at = HEADER + 16 + 24 * s;
            file.set(at, offset as u64).set(at + 8, offset.wrapping_add(8192) as u64);
        }
        everything(&file.bytes);
        file.bytes.truncate(cut);
        everything(&file.bytes);
    }
}
