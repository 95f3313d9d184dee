//! What a damaged file must still give: a second reading of `guarantees.md`, section 2, from bytes alone.
//!
//! [`read`] answers which keys an undamaged pair holds, so that no open, change or close may lose them, and with which
//! values. It says nothing where the damage leaves a choice; how often is counted.
//!
//! An undamaged pair: page-aligned behind table 0, both copies whole in the file, checksum field right and its upper
//! half zero, key of 1 to 127 bytes, size within the header's, both with the delimiters of a live copy. (In a file that
//! carries our mark the end delimiters may be missing or still those of a deleted pair: they follow at the close. Its
//! redo log may hold a later value.)
//! A copy without its end delimiter may have to be what the word of its slot says of both copies.
//! Reachable: in a file whose tables are to be believed by the slot of its key, else by the walk from thing to thing.
//! Not judged, because more than one answer is right: a pair that overlaps something else which looks like a pair or
//! table.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test program uses a part of it

use super::check::checksum;
use std::collections::{BTreeMap, BTreeSet};

/// In the offset of B of a slot: a put has written it.
const OF_PUT: u64 = 1 << 61;
pub const PAGE: usize = 4096;
pub const TABLE: usize = 12288;
pub const BLOCK: usize = 8192;
pub const PAIR: usize = 16384;
/// All ones in the checksum field of table 0: this library was changing the file.
pub const MARK: u64 = u64::MAX;
/// Start and end delimiters: of a table, of copies A and B, live and deleted.
pub const TABLE_MARKS: (u64, u64) = (0x3333_3333, 0xCCCC_CCCC);
pub const LIVE: [(u64, u64); 2] = [(0x2AAA_AAAA, 0x5555_5555), (0xE38E_38E3, 0xAAAA_AAA8)];
pub const DEAD: [(u64, u64); 2] = [(0xAAAA_AAAA, 0xD555_5555), (0x7E07_E07E, 0x81F8_1F81)];

/// The judgement.
#[derive(Default, Debug)]
pub struct Expected {
    /// The header is one that an open must accept.
    pub header: bool,
    /// The tables say where everything is: a clean file whose tables are whole.
    pub believed: bool,
    /// Our mark is there.
    pub marked: bool,
    /// Bytes of a key that an iterator gives, and the largest value.
    pub key_size: usize,
    pub value_size: usize,
    pub slots: usize,
    /// Keys that must be found, each with the values that it may have (mostly one).
    pub must: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Every key that stands in any good copy, with its values there: nothing else may ever be served.
    pub good: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Keys of anything that looks like a copy.
    pub keys: BTreeSet<Vec<u8>>,
    /// Undamaged pairs of which nothing is demanded because of an overlap.
    pub ambiguous: usize,
    /// A slot leads to a good copy of a key that belongs elsewhere, or two good copies of a pair have different keys.
    pub foreign: bool,
    /// Undamaged pairs that no slot leads to, in a file that need not be walked.
    pub unreachable: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Live,
    Deleted,
    Nothing,
}

struct Copy<'a> {
    start: u64,
    end: u64,
    kind: Kind,
    good: bool,
    /// What a slot's word says of it.
    sum: u64,
    key: &'a [u8],
    value: &'a [u8],
}

/// A value in the redo log.
struct Logged<'a> {
    /// The word of its slot.
    word: u64,
    key: &'a [u8],
    value: &'a [u8],
}

/// The sum over words that this library has for its own: how it begins, goes on and ends.
fn first_of_sum(seed: u64) -> u64 {
    seed ^ 0x6A09_E667_F3BC_C908
}

fn next_of_sum(sum: u64, word: u64) -> u64 {
    let mixed = (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

fn last_of_sum(sum: u64) -> u64 {
    let mixed = (sum ^ sum >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed ^ mixed >> 32).max(1)
}

/// What the word of a slot says of the copy at `at`.
pub fn sum_of_copy(bytes: &[u8], at: usize) -> u64 {
    let block = at.checked_add(BLOCK).and_then(|end| bytes.get(at..end));
    let Some(block) = block else {
        return 0;
    };
    let key = block[16..144].split(|&b| b == 0).next().unwrap_or_default();
    let size = word(block, 144) as u32 as usize;
    let (value, table) = (&block[148..148 + size.min(8028)], word(block, 8176));
    let words = |bytes: &[u8]| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(8), 0);
        let all = (0..padded.len()).step_by(8).map(|at| word(&padded, at));
        all.collect::<Vec<_>>()
    };
    let mut all = words(key);
    all.push(value.len() as u64);
    let (front, rest) = value.split_at(value.len() - value.len() % 32);
    for lane in (0..4).filter(|_| !front.is_empty()) {
        let every_fourth = words(front).into_iter().skip(lane).step_by(4);
        all.push(every_fourth.fold(first_of_sum(lane as u64), next_of_sum));
    }
    all.extend(words(rest));
    let sum = last_of_sum(all.into_iter().fold(first_of_sum(table), next_of_sum));
    // An empty value with a mark behind it is another one.
    let marked = size == 0 && block[148] != 0;
    (if marked { !sum } else { sum }) & 0xFFFF_FFFF
}

struct File<'a> {
    bytes: &'a [u8],
    /// Bytes that are really there.
    len: usize,
    slots: usize,
    key_size: usize,
    value_size: usize,
}

pub fn word(bytes: &[u8], at: usize) -> u64 {
    at.checked_add(8)
        .and_then(|end| bytes.get(at..end))
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl<'a> File<'a> {
    fn new(bytes: &'a [u8]) -> Option<File<'a>> {
        if bytes.len() < PAGE || !bytes.starts_with(b"KdB\x02.\x03") {
            return None;
        }
        let field = |at, max: usize| {
            usize::try_from(word(bytes, at))
                .ok()
                .filter(|n| (1..=max).contains(n))
        };
        Some(File {
            bytes,
            len: bytes.len(),
            slots: field(32, 510)?,
            key_size: field(40, 128)?,
            value_size: field(48, 8028)?,
        })
    }

    fn word(&self, at: usize) -> u64 {
        word(self.bytes, at)
    }

    fn copy(&self, at: usize, side: usize) -> Option<Copy<'a>> {
        let block = self.bytes.get(at..at.checked_add(BLOCK)?)?;
        let (start, sum, end) = (word(block, 0), word(block, 8), word(block, 8184));
        let key = block[16..144].split(|&b| b == 0).next().unwrap_or_default();
        let size = word(block, 144) as u32 as usize;
        let covered = self.key_size + 4 + self.value_size + 8;
        let good = (1..128).contains(&key.len())
            && size <= self.value_size
            && sum >> 32 == 0
            && sum == u64::from(checksum(&block[16..16 + covered]));
        let value = &block[148..148 + size.min(self.value_size)];
        let live = start == LIVE[side].0 || end == LIVE[side].1;
        let dead = start == DEAD[side].0 || end == DEAD[side].1;
        let empty = || size == 0 && block[148..8176].iter().all(|&b| b == 0);
        let kind = match (live, dead) {
            (false, false) => Kind::Nothing,
            (true, false) => Kind::Live,
            (false, true) => Kind::Deleted,
            (true, true) if good && empty() => Kind::Deleted,
            (true, true) => Kind::Live,
        };
        Some(Copy {
            start,
            end,
            kind,
            good,
            sum: sum_of_copy(self.bytes, at),
            key,
            value,
        })
    }

    fn pair(&self, at: usize) -> Option<[Copy<'a>; 2]> {
        Some([self.copy(at, 0)?, self.copy(at.checked_add(BLOCK)?, 1)?])
    }

    fn intact(&self, at: usize, marked: bool) -> Option<[Copy<'a>; 2]> {
        if at < PAGE + TABLE || !at.is_multiple_of(PAGE) || at + PAIR > self.len {
            return None;
        }
        let pair = self.pair(at)?;
        let [a, b] = &pair;
        for (side, c) in pair.iter().enumerate() {
            let end = c.end == LIVE[side].1 || marked && (c.end == 0 || c.end == DEAD[side].1);
            if !c.good || c.kind != Kind::Live || c.start != LIVE[side].0 || !end {
                return None;
            }
        }
        (a.key == b.key).then_some(pair)
    }

    /// Delimiters of a pair at their places, and whether one of its copies is good.
    fn signs(&self, at: usize) -> (usize, bool) {
        let mut n = 0;
        let mut good = false;
        for (side, place) in [(0, at), (1, at + BLOCK)] {
            let (start, end) = (self.word(place), self.word(place + 8184));
            let m = usize::from(start == LIVE[side].0 || start == DEAD[side].0)
                + usize::from(end == LIVE[side].1 || end == DEAD[side].1);
            n += m;
            good |= m > 0 && self.copy(place, side).is_some_and(|c| c.good);
        }
        (n, good)
    }

    fn table_signs(&self, at: usize) -> usize {
        usize::from(self.word(at) == TABLE_MARKS.0)
            + usize::from(self.word(at + TABLE - 8) == TABLE_MARKS.1)
    }

    fn table_is_right(&self, at: usize) -> bool {
        let Some(table) = self.bytes.get(at..at + TABLE) else {
            return false;
        };
        self.table_signs(at) == 2 && word(table, 8) == u64::from(checksum(&table[16..TABLE - 8]))
    }

    /// The chain, and whether it ends properly.
    fn chain(&self) -> (Vec<usize>, bool) {
        let mut out: Vec<usize> = Vec::new();
        let mut at = PAGE;
        loop {
            let inside = at.is_multiple_of(PAGE) && at >= PAGE && at + TABLE <= self.len;
            if !inside || out.last().is_some_and(|&last| last >= at) || self.table_signs(at) == 0 {
                return (out, false);
            }
            out.push(at);
            let mut link = self.word(at + 16 + 24 * 510);
            if link == 0 && self.slots < 510 {
                link = self.word(at + 16 + 24 * self.slots);
            }
            if link == 0 {
                return (out, true);
            }
            at = usize::try_from(link)
                .unwrap_or(usize::MAX)
                .min(usize::MAX / 2);
        }
    }

    /// Where a slot that is live points, if both its offsets agree.
    /// In a file that is being changed that of B may name a record of the log instead, or that of A not have arrived.
    fn slot(&self, table: usize, i: usize, logs: bool) -> (Option<usize>, u64) {
        let at = table + 16 + 24 * i;
        let (a, mut b) = (self.word(at), self.word(at + 8));
        if logs && b >> 61 == 1 {
            b ^= OF_PUT;
        }
        let torn = logs && a == 0 && b > BLOCK as u64;
        let a = if torn { b - BLOCK as u64 } else { a };
        let place = usize::try_from(a).ok().filter(|&p| {
            p > 0
                && p < self.len
                && (b == (p + BLOCK) as u64 || logs && b >> 62 == 1 && b % 4096 % 64 == 24)
        });
        (place, self.word(at + 16))
    }

    /// The whole records of the redo log, by the offsets of their slots, in their order.
    fn records(&self) -> BTreeMap<usize, Vec<Logged<'a>>> {
        let mut out: BTreeMap<usize, Vec<Logged>> = BTreeMap::new();
        let log = usize::try_from(self.word(PAGE + 16 + 24 * 510 + 8)).unwrap_or(0);
        let all_sizes = self.key_size + self.value_size == 128 + 8028;
        if log < PAGE + TABLE || !log.is_multiple_of(PAGE) || !all_sizes {
            return out;
        }
        for at in (log + 8..self.len).step_by(64) {
            let size = word(self.bytes, at + 160) as u32 as usize;
            let end = at + (164 + size).next_multiple_of(8);
            if size > 3916 || end > at - at % PAGE + PAGE - 8 || end > self.len {
                continue;
            }
            let words = (at + 8..end).step_by(8).map(|at| self.word(at));
            if last_of_sum(words.fold(first_of_sum(at as u64), next_of_sum)) != self.word(at) {
                continue;
            }
            let field = &self.bytes[at + 32..at + 160];
            let slot = self.word(at + 16) as usize;
            out.entry(slot).or_default().push(Logged {
                word: self.word(at + 24),
                key: field.split(|&b| b == 0).next().unwrap_or_default(),
                value: &self.bytes[at + 164..at + 164 + size],
            });
        }
        out
    }

    fn slot_of(&self, key: &[u8]) -> usize {
        super::check::slot_of(key, self.slots)
    }
}

/// What must be found in this file by an open that may recover it.
pub fn read(bytes: &[u8]) -> Expected {
    let mut out = Expected::default();
    // What lies behind the end reads as zeros: a copy that the file ends in may still be good.
    let real_len = bytes.len();
    let mut padded = bytes.to_vec();
    padded.resize(real_len.next_multiple_of(PAGE) + PAIR, 0);
    let bytes = padded.as_slice();
    let Some(mut file) = File::new(bytes).filter(|_| real_len >= PAGE) else {
        return out;
    };
    file.len = real_len;
    out.header = true;
    (out.slots, out.key_size, out.value_size) = (file.slots, file.key_size, file.value_size);
    let clean = file.word(16) == 0 && file.word(24) == 1;
    out.marked = real_len >= PAGE + TABLE && file.word(PAGE + 8) == MARK;
    let (tables, whole) = file.chain();
    out.believed = clean && !out.marked && whole && tables.iter().all(|&t| file.table_is_right(t));

    // Everything that could ever be served, wherever it lies.
    let mut live: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
    let mut copies: BTreeMap<&[u8], usize> = BTreeMap::new();
    for at in (PAGE..real_len).step_by(PAGE) {
        for side in 0..2 {
            let Some(c) = file.copy(at, side) else {
                continue;
            };
            if c.kind != Kind::Nothing && (1..128).contains(&c.key.len()) {
                out.keys.insert(c.key.to_vec());
            }
            if c.good {
                out.keys.insert(c.key.to_vec());
                out.good
                    .entry(c.key.to_vec())
                    .or_default()
                    .insert(c.value.to_vec());
                if c.kind == Kind::Live {
                    *copies.entry(c.key).or_default() += 1;
                    live.entry(c.key).or_default().insert(c.value);
                }
                // A delete that did not reach copy A is none, and what it has left in B is perhaps what its slot names.
                if let Some(b) = file.copy(at + BLOCK, 1).filter(|b| side == 0 && b.good)
                    && (c.kind, b.kind) == (Kind::Live, Kind::Deleted)
                    && b.key == c.key
                {
                    live.entry(c.key).or_default().insert(b.value);
                }
            }
        }
    }

    // Also where a walk that was cut short has replaced the mark.
    let logs = out.marked || file.word(PAGE + 8) == 0xFFFF_FFFF_0000_0000;
    let records = if logs {
        file.records()
    } else {
        BTreeMap::new()
    };
    for r in records.values().flatten() {
        out.keys.insert(r.key.to_vec());
        let values = out.good.entry(r.key.to_vec()).or_default();
        values.insert(r.value.to_vec());
    }

    // Where the slots lead, each in the slot of its key.
    let mut named: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    // Pairs whose slot was written by a put, of which the rest of the slot has not arrived.
    let mut wordless = BTreeSet::new();
    // The last value in the log for each pair.
    let mut logged: BTreeMap<usize, &Logged> = BTreeMap::new();
    // Values in the log on their way into their pair, which may not have arrived there.
    let mut folded: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    for &t in &tables {
        for i in 0..file.slots {
            let (a, b) = (word(bytes, t + 16 + 24 * i), word(bytes, t + 24 + 24 * i));
            let b = if logs && b >> 61 == 1 { b ^ OF_PUT } else { b };
            for (place, side) in [(a, 0), (b, 1)] {
                let place = (place as i64).unsigned_abs() as usize;
                if place.is_multiple_of(PAGE)
                    && (PAGE..real_len).contains(&place)
                    && let Some(c) = file.copy(place, side)
                {
                    out.foreign |= c.good && file.slot_of(c.key) != i;
                }
            }
            let (Some(at), current) = file.slot(t, i, logs) else {
                continue;
            };
            if at % PAGE == 0
                && let Some([a, b]) = file.pair(at)
            {
                out.foreign |= a.good && b.good && a.key != b.key;
            }
            if let Some([a, _]) = file.intact(at, out.marked)
                && file.slot_of(a.key) == i
            {
                named.entry(at).or_default().insert(current);
                let (first, second) = (t + 16 + 24 * i, t + 24 + 24 * i);
                let of_put = word(bytes, second) >> 61 == 1 || word(bytes, first) == 0;
                if of_put && (current >> 63 == 0 || current >> 59 & 1 == 1) {
                    wordless.insert(at);
                }
                let all = records.get(&(t + 16 + 24 * i)).into_iter().flatten();
                for r in all.filter(|r| r.key == a.key) {
                    if r.word == current {
                        logged.insert(at, r);
                    } else {
                        folded.entry(at).or_default().push(r.value);
                    }
                }
            }
        }
    }

    // The walk.
    let mut met = BTreeSet::new();
    let mut doubtful_to = 0;
    let mut at = PAGE + TABLE;
    while at < real_len {
        let (signs, good) = file.signs(at);
        if good {
            if at >= doubtful_to {
                met.insert(at);
            }
            at += PAIR;
            continue;
        }
        match file.table_signs(at) {
            2 if signs == 0 => {
                at += TABLE;
                continue;
            }
            0 => {}
            _ => doubtful_to = doubtful_to.max(at + TABLE),
        }
        if signs > 0 {
            doubtful_to = doubtful_to.max(at + PAIR);
        }
        at += PAGE;
    }

    for at in (PAGE + TABLE..real_len).step_by(PAGE) {
        let Some([a, b]) = file.intact(at, out.marked) else {
            continue;
        };
        let slot = named.get(&at);
        if (out.believed || out.marked) && slot.is_none() {
            out.unreachable += 1;
            continue;
        }
        // Something else claims a part of this place: which of the two is real?
        let overlapped = tables.iter().any(|&t| t < at + PAIR && at < t + TABLE)
            || named
                .keys()
                .any(|&q| q != at && q < at + PAIR && at < q + PAIR);
        // Where no slot says so either, what is met first need not be it.
        let before = (1..PAIR / PAGE).filter_map(|n| at.checked_sub(n * PAGE));
        let doubted = || before.filter(|&q| q > PAGE).any(|q| file.signs(q).1);
        if overlapped || !out.believed && (!met.contains(&at) || slot.is_none() && doubted()) {
            out.ambiguous += 1;
            continue;
        }
        // A put that power has cut short looks like this.
        let current = slot.and_then(|words| words.first()).copied().unwrap_or(0);
        let of_both = out.marked && current >> 63 == 1 && current >> 60 & 1 == 1;
        let no_word = out.marked && wordless.contains(&at);
        let open = [(0, &a), (1, &b)].map(|(side, c)| c.end != LIVE[side].1);
        let torn = [(0, &a), (1, &b)]
            .map(|(side, c)| open[side] && of_both && c.sum != current & 0xFFFF_FFFF);
        if torn == [true, true] || no_word && open == [true, true] {
            out.ambiguous += 1;
            continue;
        }
        let mut values: BTreeSet<&[u8]> = live.get(a.key).cloned().unwrap_or_default();
        // One pair alone holds the key: then the slot may say which of two good copies it is.
        let own: BTreeSet<&[u8]> = [a.value, b.value].into();
        let mut sure = false;
        if values == own
            && own.len() == 2
            && copies.get(a.key) == Some(&2)
            && let Some(words) = slot
            && let Some(&current) = words.first().filter(|_| words.len() == 1)
        {
            let tagged = current >> 63 != 0;
            let side = if tagged {
                current >> 62 & 1 == 1
            } else {
                current != 0
            };
            let [this, other] = if side { [&b, &a] } else { [&a, &b] };
            if no_word {
                // Both are possible.
            } else if torn != [false, false] {
                let whole = if torn[0] { b.value } else { a.value };
                values = [whole].into();
                sure = true;
            } else if out.believed && !tagged {
                values = [this.value].into();
            } else if out.marked && tagged {
                let arrived = current & 0xFFFF_FFFF == this.sum;
                let later = logged.get(&at).filter(|_| arrived);
                let in_pair = if arrived { this.value } else { other.value };
                values = [later.map_or(in_pair, |r| r.value)].into();
                if !arrived {
                    values.extend(folded.get(&at).into_iter().flatten());
                }
                sure = true;
            }
        }
        if !sure {
            let all = records.values().flatten().filter(|r| r.key == a.key);
            values.extend(all.map(|r| r.value));
        }
        out.must
            .entry(a.key.to_vec())
            .or_default()
            .extend(values.into_iter().map(<[u8]>::to_vec));
    }
    out
}
