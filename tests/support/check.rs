//! The structure of a cleanly closed KISSDB 2.3 file, judged from its bytes alone.
//!
//! A second writing of the format, on purpose: nothing here is taken from the crate, so that a mistake in its idea of
//! the file cannot hide itself. It is a port of the conformance suite's `kdbcmp.py` with a few findings more.
//!
//! No function here panics or runs away, whatever the bytes are: every read is checked, and a read that leaves the file
//! is a finding.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the header, at offset 0.
pub const HEADER: usize = 4096;
/// Bytes of a hash table.
pub const TABLE: usize = 12288;
/// Bytes of one copy of a pair.
pub const BLOCK: usize = 8192;
/// Bytes of a pair: copy A and, right behind it, copy B.
pub const PAIR: usize = 2 * BLOCK;
/// The slot that holds the link to the next table.
pub const LINK: usize = 510;

const SLOTS_AT: usize = 16;
const SLOT: usize = 24;
const TABLE_END_AT: usize = 12280;
const TABLE_START: u64 = 0x3333_3333;
const TABLE_END: u64 = 0xCCCC_CCCC;

const KEY_AT: usize = 16;
const KEY_FIELD: usize = 128;
const SIZE_AT: usize = 144;
const VALUE_AT: usize = 148;
const VALUE_FIELD: usize = 8028;
const NUMBER_AT: usize = 8176;
const BLOCK_END_AT: usize = 8184;

/// Start and end delimiters of copies A and B of a live pair.
const LIVE: [(u64, u64); 2] = [(0x2AAA_AAAA, 0x5555_5555), (0xE38E_38E3, 0xAAAA_AAA8)];
/// The same of a deleted pair.
const DEAD: [(u64, u64); 2] = [(0xAAAA_AAAA, 0xD555_5555), (0x7E07_E07E, 0x81F8_1F81)];

/// Everything that is wrong with a cleanly closed file: flags, delimiters, checksums, links, copies that differ, keys
/// that are there twice or in the wrong slot, holes in a chain, unused bytes that are not zero.
///
/// `ours`: the file was written by this library alone, which also leaves nothing behind the end of a key or a value.
pub fn check(bytes: &[u8], ours: bool) -> Vec<String> {
    let file = match File::new(bytes) {
        Ok(file) => file,
        Err(finding) => return vec![finding],
    };
    let mut bad = file.header_findings();
    let mut places = vec![(0, HEADER)];
    let (tables, broken_chain) = file.tables();
    bad.extend(broken_chain);
    let deepest = file.deepest(&tables);
    let mut keys: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (n, &at) in tables.iter().enumerate() {
        places.push((at, at.saturating_add(TABLE)));
        bad.extend(file.table_findings(n, at, ours));
        for s in 0..file.slots {
            let slot = file.slot(at, s);
            if slot.unused() {
                if deepest.get(s).is_some_and(|last| *last > n) {
                    bad.push(format!("table {n} slot {s}: a hole in the chain"));
                }
                continue;
            }
            let Some(pair) = file.pair(slot) else {
                bad.push(format!("table {n} slot {s}: offsets {} {}", slot.a, slot.b));
                continue;
            };
            places.push((pair.at, pair.at.saturating_add(PAIR)));
            for finding in file.pair_findings(n, s, &pair, ours) {
                bad.push(format!("table {n} slot {s}: {finding}"));
            }
            // Under another slot nobody finds a key, which is a finding by itself, and it can be that of a copy that was
            // swapped away: then the other one tells. So is the checksum of a copy; under two wrong ones nobody knows
            // what the key was.
            let belongs = |key: &[u8]| slot_of(key, file.slots) == s;
            let mut key = pair.current().name();
            if (key.is_empty() || !belongs(key)) && pair.other().is_good() {
                key = pair.other().name();
            }
            if pair.live
                && pair.copies.iter().any(Block::is_good)
                && belongs(key)
                && let Some(other) = keys.insert(key, n)
            {
                bad.push(format!(
                    "table {n} slot {s}: key {} is also in table {other}",
                    key.escape_ascii()
                ));
            }
        }
    }
    bad.extend(file.place_findings(places));
    bad
}

/// How two cleanly closed files differ in structure: length, header, tables, and of every pair the delimiters, key
/// field, size, value and table number. Bytes behind the end of a value may differ.
pub fn compare(a: &[u8], b: &[u8]) -> Vec<String> {
    let (x, y) = match (File::new(a), File::new(b)) {
        (Ok(x), Ok(y)) => (x, y),
        (x, y) => {
            let side =
                |name: &str, f: Result<File, String>| f.err().map(|e| format!("{name}: {e}"));
            return side("first", x)
                .into_iter()
                .chain(side("second", y))
                .collect();
        }
    };
    let mut bad = Vec::new();
    if a.len() != b.len() {
        bad.push(format!("sizes {} {}", a.len(), b.len()));
    }
    if x.slice(0, HEADER) != y.slice(0, HEADER) {
        bad.push("headers differ".to_owned());
    }
    let ((ta, broken_a), (tb, broken_b)) = (x.tables(), y.tables());
    if broken_a != broken_b {
        bad.push(format!("chains broken {broken_a:?} {broken_b:?}"));
    }
    if ta.len() != tb.len() {
        bad.push(format!("tables {} {}", ta.len(), tb.len()));
    }
    for (n, (&p, &q)) in ta.iter().zip(&tb).enumerate() {
        let slots: Vec<usize> = (0..=LINK)
            .filter(|&s| x.slot(p, s) != y.slot(q, s))
            .take(8)
            .collect();
        let (c, d) = (x.u64(p.saturating_add(8)), y.u64(q.saturating_add(8)));
        if p != q || c != d || !slots.is_empty() {
            bad.push(format!(
                "table {n}: offset {p:#x} {q:#x}, checksum {c:x} {d:x}, slots {slots:?}"
            ));
            continue;
        }
        for s in 0..x.slots {
            let slot = x.slot(p, s);
            if slot.unused() {
                continue;
            }
            match (x.pair(slot), y.pair(slot)) {
                (Some(u), Some(v)) => {
                    for (name, u, v) in [
                        ("A", u.copies[0], v.copies[0]),
                        ("B", u.copies[1], v.copies[1]),
                    ] {
                        if !u.same_content(&v) || u.start != v.start || u.end != v.end {
                            bad.push(format!(
                                "table {n} slot {s} copy {name}: {} / {}",
                                u.describe(),
                                v.describe()
                            ));
                        }
                    }
                }
                (None, None) => {}
                _ => bad.push(format!("table {n} slot {s}: the pair is in one file only")),
            }
        }
    }
    bad
}

/// One line a pair: table, slot, live or deleted, current, key, size of the value.
pub fn dump(bytes: &[u8]) -> Vec<String> {
    let Ok(file) = File::new(bytes) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for (n, &at) in file.tables().0.iter().enumerate() {
        for s in 0..file.slots {
            let slot = file.slot(at, s);
            if slot.unused() {
                continue;
            }
            lines.push(match file.pair(slot) {
                Some(pair) => {
                    let state = if pair.live { "live" } else { "deleted" };
                    let copy = pair.current();
                    format!(
                        "{n} {s} {state} {} {} {}",
                        slot.current,
                        copy.name().escape_ascii(),
                        copy.size
                    )
                }
                None => format!("{n} {s} nowhere {} {} {}", slot.current, slot.a, slot.b),
            });
        }
    }
    lines
}

/// The live pairs of a cleanly closed file, read through its tables and `current`. Empty if there is no header. Of a
/// key that is there twice the first in the chain counts, as in a look-up.
pub fn pairs(bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut out = BTreeMap::new();
    let Ok(file) = File::new(bytes) else {
        return out;
    };
    for &at in &file.tables().0 {
        for s in 0..file.slots {
            let slot = file.slot(at, s);
            if let Some(pair) = file.pair(slot).filter(|p| p.live) {
                let copy = pair.current();
                out.entry(copy.name().to_vec())
                    .or_insert_with(|| copy.value.to_vec());
            }
        }
    }
    out
}

/// The offsets of the tables, in the order of the chain.
pub fn table_offsets(bytes: &[u8]) -> Vec<usize> {
    File::new(bytes).map_or_else(|_| Vec::new(), |file| file.tables().0)
}

/// The slot of a key: djb2 modulo the slots in use.
pub fn slot_of(key: &[u8], slots: usize) -> usize {
    let hash = key.iter().fold(5381u64, |h, &c| {
        h.wrapping_mul(33).wrapping_add(u64::from(c))
    });
    let slots = u64::try_from(slots).unwrap_or(u64::MAX).max(1);
    usize::try_from(hash % slots).unwrap_or(0)
}

/// The file's dialect of CRC-32: the step whose table index would be 255 is left out. Runs of zeros are nearly free,
/// because they stop changing the state as soon as its low byte is 255.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let [low, ..] = state.to_le_bytes();
        let index = low ^ byte;
        if index != u8::MAX {
            state = STEP[usize::from(index)] ^ (state >> 8);
            rest = tail;
        } else if byte == 0 {
            rest = behind_zeros(rest);
        } else {
            rest = tail;
        }
    }
    !state
}

static STEP: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut n = 0;
    while n < 256 {
        let (mut c, mut bit) = (n as u32, 0);
        while bit < 8 {
            c = if c & 1 == 1 {
                (c >> 1) ^ 0xEDB8_8320
            } else {
                c >> 1
            };
            bit += 1;
        }
        table[n] = c;
        n += 1;
    }
    table
};

/// What is left of `bytes` from the first byte on that is not zero. Compares in pieces: a test build is not optimised,
/// and files here are mostly zeros.
fn behind_zeros(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 512] = [0; 512];
    while bytes.starts_with(&ZEROS) {
        bytes = bytes.get(ZEROS.len()..).unwrap_or_default();
    }
    while let Some((0, tail)) = bytes.split_first() {
        bytes = tail;
    }
    bytes
}

fn all_zero(bytes: &[u8]) -> bool {
    behind_zeros(bytes).is_empty()
}

/// The bytes of a file whose header has been found to be usable.
struct File<'a> {
    bytes: &'a [u8],
    slots: usize,
    key_size: usize,
    value_size: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    a: i64,
    b: i64,
    current: u64,
}

impl Slot {
    fn unused(self) -> bool {
        self.a == 0 && self.b == 0
    }
}

/// A pair to which a slot points properly.
struct Pair<'a> {
    at: usize,
    live: bool,
    current: u64,
    copies: [Block<'a>; 2],
}

impl<'a> Pair<'a> {
    fn current(&self) -> &Block<'a> {
        let [a, b] = &self.copies;
        if self.current == 0 { a } else { b }
    }

    fn other(&self) -> &Block<'a> {
        let [a, b] = &self.copies;
        if self.current == 0 { b } else { a }
    }
}

#[derive(Clone, Copy)]
struct Block<'a> {
    start: u64,
    checksum: u64,
    computed: u32,
    key: &'a [u8],
    size: usize,
    value: &'a [u8],
    behind_value: &'a [u8],
    number: u64,
    end: u64,
}

impl<'a> Block<'a> {
    /// The key up to its NUL.
    fn name(&self) -> &'a [u8] {
        self.key.split(|&c| c == 0).next().unwrap_or_default()
    }

    fn is_good(&self) -> bool {
        self.checksum == u64::from(self.computed)
    }

    fn behind_key(&self) -> &'a [u8] {
        self.key.get(self.name().len()..).unwrap_or_default()
    }

    fn same_content(&self, other: &Block) -> bool {
        self.key == other.key
            && self.size == other.size
            && self.value == other.value
            && self.number == other.number
    }

    fn describe(&self) -> String {
        format!(
            "{} {} of table {} ({:x} {:x})",
            self.name().escape_ascii(),
            self.size,
            self.number,
            self.start,
            self.end
        )
    }
}

impl<'a> File<'a> {
    fn new(bytes: &'a [u8]) -> Result<File<'a>, String> {
        let mut file = File {
            bytes,
            slots: 0,
            key_size: 0,
            value_size: 0,
        };
        if bytes.len() < HEADER || !bytes.starts_with(b"KdB") {
            return Err("no header".to_owned());
        }
        if file.slice(3, 3) != [2, b'.', 3] {
            return Err(format!("version {:02x?}", file.slice(3, 3)));
        }
        let (ht, ks, vs) = (file.u64(32), file.u64(40), file.u64(48));
        let fits = |n: u64, max: usize| usize::try_from(n).ok().filter(|n| (1..=max).contains(n));
        match (fits(ht, LINK), fits(ks, KEY_FIELD), fits(vs, VALUE_FIELD)) {
            (Some(slots), Some(key_size), Some(value_size)) => {
                (file.slots, file.key_size, file.value_size) = (slots, key_size, value_size);
                Ok(file)
            }
            _ => Err(format!("header sizes {ht} {ks} {vs}")),
        }
    }

    /// `len` bytes at `at`; nothing if they are not all in the file.
    fn slice(&self, at: usize, len: usize) -> &'a [u8] {
        at.checked_add(len)
            .and_then(|end| self.bytes.get(at..end))
            .unwrap_or_default()
    }

    /// The number at `at`; 0 behind the end of the file.
    fn u64(&self, at: usize) -> u64 {
        self.slice(at, 8).try_into().map_or(0, u64::from_le_bytes)
    }

    fn i64(&self, at: usize) -> i64 {
        self.slice(at, 8).try_into().map_or(0, i64::from_le_bytes)
    }

    fn slot(&self, table: usize, n: usize) -> Slot {
        let at = table
            .saturating_add(SLOTS_AT)
            .saturating_add(n.saturating_mul(SLOT));
        Slot {
            a: self.i64(at),
            b: self.i64(at.saturating_add(8)),
            current: self.u64(at.saturating_add(16)),
        }
    }

    /// Where the tables are, and why the chain ends before its end if it does. More tables than the file has room for
    /// cannot be right, so the work is bounded.
    fn tables(&self) -> (Vec<usize>, Option<String>) {
        let (mut out, mut seen) = (Vec::new(), BTreeSet::new());
        if self.bytes.len() < HEADER.saturating_add(TABLE) {
            return (out, None);
        }
        let mut at = HEADER;
        loop {
            if !seen.insert(at) || out.len() > self.bytes.len() / TABLE {
                return (
                    out,
                    Some(format!("the chain of tables comes back to {at:#x}")),
                );
            }
            out.push(at);
            let mut link = self.slot(at, LINK).a;
            if link == 0 && self.slots < LINK {
                link = self.slot(at, self.slots).a;
            }
            if link == 0 {
                return (out, None);
            }
            at = match usize::try_from(link) {
                Ok(next) if self.slice(next, TABLE).len() == TABLE => next,
                _ => {
                    let n = out.len().saturating_sub(1);
                    return (
                        out,
                        Some(format!("table {n}: link to {link}, outside the file")),
                    );
                }
            };
        }
    }

    /// For each slot the last table that uses it: whatever is unused before it is a hole.
    fn deepest(&self, tables: &[usize]) -> Vec<usize> {
        let mut deepest = vec![0; self.slots];
        for (n, &at) in tables.iter().enumerate() {
            for (s, last) in deepest.iter_mut().enumerate() {
                if !self.slot(at, s).unused() {
                    *last = n;
                }
            }
        }
        deepest
    }

    /// The pair to which a used slot points, if its offsets make sense.
    fn pair(&self, slot: Slot) -> Option<Pair<'a>> {
        let live = slot.a > 0;
        let at = usize::try_from(slot.a.checked_abs()?).ok()?;
        let step = if live { BLOCK as i64 } else { -(BLOCK as i64) };
        if slot.a == 0 || slot.b != slot.a.checked_add(step)? || at < HEADER || at % 4096 != 0 {
            return None;
        }
        let copies = [self.block(at)?, self.block(at.checked_add(BLOCK)?)?];
        Some(Pair {
            at,
            live,
            current: slot.current,
            copies,
        })
    }

    fn block(&self, at: usize) -> Option<Block<'a>> {
        let bytes = self.slice(at, BLOCK);
        if bytes.len() != BLOCK {
            return None;
        }
        let file = File { bytes, ..*self };
        let size = file
            .slice(SIZE_AT, 4)
            .try_into()
            .map_or(0, u32::from_le_bytes);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let (value, behind_value) = file
            .slice(VALUE_AT, VALUE_FIELD)
            .split_at(size.min(VALUE_FIELD));
        Some(Block {
            start: file.u64(0),
            checksum: file.u64(8),
            computed: checksum(file.slice(KEY_AT, self.key_size + 4 + self.value_size + 8)),
            key: file.slice(KEY_AT, KEY_FIELD),
            size,
            value,
            behind_value,
            number: file.u64(NUMBER_AT),
            end: file.u64(BLOCK_END_AT),
        })
    }

    fn header_findings(&self) -> Vec<String> {
        let mut bad = Vec::new();
        let flags = (self.u64(16), self.u64(24));
        if flags != (0, 1) {
            bad.push(format!("flags {} {}", flags.0, flags.1));
        }
        if self.u64(8) != 0 {
            bad.push(format!("header checksum {:x}", self.u64(8)));
        }
        if !all_zero(self.slice(56, HEADER - 56)) {
            bad.push("header: padding is not zero".to_owned());
        }
        if !self.bytes.len().is_multiple_of(4096) {
            bad.push(format!(
                "length {} is no multiple of 4096",
                self.bytes.len()
            ));
        }
        bad
    }

    fn table_findings(&self, n: usize, at: usize, ours: bool) -> Vec<String> {
        let mut bad = Vec::new();
        let table = File {
            bytes: self.slice(at, TABLE),
            ..*self
        };
        if (table.u64(0), table.u64(TABLE_END_AT)) != (TABLE_START, TABLE_END) {
            bad.push(format!("table {n} at {at:#x}: delimiters"));
        }
        if table.u64(8) != u64::from(checksum(table.slice(SLOTS_AT, TABLE_END_AT - SLOTS_AT))) {
            bad.push(format!("table {n} at {at:#x}: checksum"));
        }
        if ours && self.slots < LINK {
            // The original writes the link to slot 510 and reads it from slot htSize; here it stands in both.
            if self.slot(at, self.slots).a != self.slot(at, LINK).a {
                bad.push(format!("table {n} at {at:#x}: two different links"));
            }
            let between = (self.slots + 1..LINK)
                .filter(|&s| !self.slot(at, s).unused())
                .count();
            if between > 0 {
                bad.push(format!(
                    "table {n} at {at:#x}: {between} slots behind the last in use"
                ));
            }
        }
        bad
    }

    fn pair_findings(&self, n: usize, s: usize, pair: &Pair, ours: bool) -> Vec<String> {
        let mut bad = Vec::new();
        let [a, b] = &pair.copies;
        let want = if pair.live { LIVE } else { DEAD };
        for (name, copy, want) in [("A", a, want[0]), ("B", b, want[1])] {
            if (copy.start, copy.end) != want {
                bad.push(format!("copy {name} delimiters"));
            }
            if !copy.is_good() {
                bad.push(format!("copy {name} checksum"));
            }
            if copy.number != n as u64 {
                bad.push(format!("copy {name} names table {}", copy.number));
            }
            if copy.size > self.value_size {
                bad.push(format!("copy {name}: size {}", copy.size));
            }
            if !pair.live && copy.size != 0 {
                bad.push(format!(
                    "copy {name}: deleted with {} bytes of value",
                    copy.size
                ));
            }
            let key = copy.name();
            if key.is_empty() || ours && key.len() == KEY_FIELD {
                bad.push(format!("copy {name}: key of {} bytes", key.len()));
            } else if slot_of(key, self.slots) != s {
                let home = slot_of(key, self.slots);
                bad.push(format!("copy {name}: key belongs to slot {home}"));
            }
            if ours {
                if !all_zero(copy.behind_key()) {
                    bad.push(format!("copy {name}: bytes behind the key"));
                }
                if !all_zero(copy.behind_value) {
                    bad.push(format!("copy {name}: bytes behind the value"));
                }
            }
        }
        if !a.same_content(b) {
            bad.push("copies differ".to_owned());
        }
        if pair.current > 1 || (!pair.live && pair.current != 0) {
            bad.push(format!("current {}", pair.current));
        }
        bad
    }

    /// Two things at one place, and bytes that belong to nothing.
    fn place_findings(&self, mut places: Vec<(usize, usize)>) -> Vec<String> {
        let mut bad = Vec::new();
        places.sort_unstable();
        places.push((self.bytes.len(), self.bytes.len()));
        let mut at = 0;
        for (from, to) in places {
            if from < at {
                bad.push(format!("two things at {from:#x}"));
            } else if !all_zero(self.slice(at, from - at)) {
                bad.push(format!("{} bytes at {at:#x} belong to nothing", from - at));
            }
            at = at.max(to);
        }
        bad
    }
}
