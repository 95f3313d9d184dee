//! A model of the original (2019): what it finds in a file that it opens read-write. Promise P3 is
//! tested against it.
//!
//! # How the original recovers
//!
//! A file with closeFailed 0 and closeOk 1 is taken at its word: table 0 lies at 4096, each table
//! links to the next, `current` says which copy of a pair counts. Nothing is verified. Any other
//! file is recovered, in three steps.
//!
//! 1. *Find the tables.* At every 4096 bytes, whatever lies there, it compares two words: a table's
//!    start delimiter at +0, a table's end delimiter at +12280. One of them is enough. Tables are
//!    numbered as they are met, links play no part, and the delimiter that was missing is written
//!    into the file, be it into the middle of a value.
//! 2. *Keep or rebuild.* If the checksum of every table found is right, their slots stay. This is so
//!    as well when there is no table at all, and an all-zero table is right. Otherwise every slot is
//!    emptied and the blocks say what was in them: from 16384 on, a block A takes the place of a
//!    whole pair (16384 bytes), a block B without its A 8192 bytes, a table 12288, and behind
//!    anything else it looks again after 4096. A block is recognised by either of its delimiters;
//!    where one says live and the other deleted, it is live. What becomes of a pair:
//!
//!    | A | B live, good | B live, bad | B deleted, good | B deleted, bad | no B |
//!    |---|---|---|---|---|---|
//!    | live, good | live by B | live by A | live by A | live by A | live by A |
//!    | live, bad | live by B | wiped | wiped | wiped | wiped |
//!    | deleted, good | deleted | deleted | deleted | deleted | deleted |
//!    | deleted, bad | wiped | wiped | deleted by B | wiped | wiped |
//!    | no A | live by B | wiped | deleted by B | wiped | |
//!
//!    The deciding copy's key gives the slot, its htNum the table. What stood in that slot before is
//!    overwritten, even a live key by a deleted one. A wiped pair gets no slot; its key, size,
//!    value, checksum and htNum are zeroed.
//! 3. *Check the current copies* of the live slots, by checksum alone; delimiters do not matter. A
//!    bad one with a good twin: the twin becomes the current one. Both bad: the slot becomes
//!    deleted. After a rebuild there is nothing left to find, since the copy made current has just
//!    been found good.
//!
//! A look-up then goes through the tables at the slot of its key: it compares the key of the current
//! copy, passes deleted slots and stops at a slot never used. So a live key behind such a hole, or
//! behind another pair of the same key, is not found.
//!
//! # What the model leaves out
//!
//! It answers for one open, not for what is in the file afterwards; `wiped` says which pairs have
//! been zeroed. Where the original reads or writes outside its memory the model says `crashes`, goes
//! on without that access, and its `pairs` are then a guess. Where neither the description nor the
//! recorded files say what happens, the place is listed in `undecided`.

// Each test program uses its own part of this module.
#![allow(dead_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;

const STEP: usize = 4096;
const TABLE: usize = 12288;
const BLOCK: usize = 8192;
/// Slots a table has room for; the last one holds the link.
const SLOTS: usize = 511;
const KEY_ROOM: usize = 128;
const VALUE_ROOM: usize = 8028;

const TABLE_START: u64 = 0x3333_3333;
const TABLE_END: u64 = 0xCCCC_CCCC;

/// The words that make a block a live or a deleted A or B: (start, end).
struct Marks {
    live: (u64, u64),
    deleted: (u64, u64),
}
const A: Marks = Marks {
    live: (0x2AAA_AAAA, 0x5555_5555),
    deleted: (0xAAAA_AAAA, 0xD555_5555),
};
const B: Marks = Marks {
    live: (0xE38E_38E3, 0xAAAA_AAA8),
    deleted: (0x7E07_E07E, 0x81F8_1F81),
};

/// What the original finds, and how.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// KISSDB_open answers 0 (unless `crashes`).
    pub opens: bool,
    /// It reads or writes outside the file or its tables, or runs for ever: nothing else here can be
    /// relied on.
    pub crashes: bool,
    /// What KISSDB_get finds. A wiped record found again appears under the empty key.
    pub pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The file was clean: read by its tables.
    pub clean: bool,
    /// A table's checksum was wrong: the slots come from the blocks.
    pub rebuilt: bool,
    /// Tables found or linked.
    pub tables: usize,
    /// Offsets (of block A) of pairs that the rebuild zeroed.
    pub wiped: Vec<usize>,
    /// Pairs that lost their slot to a later pair in the rebuild.
    pub displaced: usize,
    /// Live slots that no look-up reaches.
    pub unreachable: usize,
    /// Offsets where the model had to choose without proof, and what lies there.
    pub undecided: Vec<(usize, &'static str)>,
}

/// How to take a block whose start delimiter says deleted and whose end delimiter says live. The
/// recorded files do not decide it (the other way round they do: live). What must hold for the
/// original should hold under both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Live if either delimiter says so.
    LiveWins,
    /// The start delimiter decides.
    StartDecides,
}

/// What the original finds in this file.
pub fn recover(image: &[u8]) -> Outcome {
    recover_reading(image, Reading::LiveWins)
}

/// The same under a chosen reading of contradicting delimiters. Both readings give the same unless
/// `undecided` names such a block.
pub fn recover_reading(image: &[u8], reading: Reading) -> Outcome {
    let mut out = Outcome::default();
    let file = File {
        bytes: image,
        patches: Vec::new(),
    };
    if image.len() < STEP || !image.starts_with(b"KdB\x02.\x03") {
        return out;
    }
    out.opens = true;
    let field = |at| file.word(at).unwrap_or(0);
    let fits = |at, max| {
        usize::try_from(field(at))
            .ok()
            .filter(|n| (1..=max).contains(n))
    };
    let (Some(ht_size), Some(key_size), Some(val_size)) = (
        fits(32, SLOTS - 1),
        fits(40, KEY_ROOM),
        fits(48, VALUE_ROOM),
    ) else {
        // It divides by the first and copies by the others, as they stand.
        out.crashes = true;
        return out;
    };
    out.clean = field(16) == 0 && field(24) == 1;
    let covered = key_size + 4 + val_size + 8;
    let mut open = Open {
        file,
        reading,
        ht_size,
        val_size,
        covered,
        slots: Vec::new(),
        out,
    };
    if open.out.clean {
        open.follow_links();
    } else {
        let tables = open.find_tables();
        open.out.tables = tables.len();
        if tables
            .iter()
            .all(|&at| open.file.sum_is_right(at, TABLE - 24))
        {
            for &at in &tables {
                open.load(at);
            }
            open.check_current();
        } else {
            open.out.rebuilt = true;
            open.slots = vec![Slot::default(); tables.len() * SLOTS];
            open.rebuild(tables);
        }
    }
    open.look_up();
    open.out
}

/// The dialect of CRC-32: the step whose table index is 255 is left out. From there on zero bytes
/// change nothing, so a run of them is jumped over.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        let index = (state as u8) ^ byte;
        rest = tail;
        if index != 255 {
            state = CRC[usize::from(index)] ^ (state >> 8);
        } else if *byte == 0 {
            rest = skip_zeros(tail);
        }
    }
    !state
}

/// djb2 over a key without its NUL.
pub fn hash(key: &[u8]) -> u64 {
    key.iter().fold(5381, |h: u64, &c| {
        h.wrapping_mul(33).wrapping_add(u64::from(c))
    })
}

fn skip_zeros(mut rest: &[u8]) -> &[u8] {
    // Comparing slices is a memcmp, fast in an unoptimised test as well.
    const ZEROS: [u8; 256] = [0; 256];
    while rest.starts_with(&ZEROS) {
        rest = &rest[ZEROS.len()..];
    }
    let n = rest.iter().position(|&b| b != 0).unwrap_or(rest.len());
    &rest[n..]
}

static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut bit = 0;
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

/// The image with the few words that the original writes over it while it looks for tables.
struct File<'a> {
    bytes: &'a [u8],
    patches: Vec<(usize, u64)>,
}

impl<'a> File<'a> {
    /// `None` where the file does not reach.
    fn part(&self, at: usize, len: usize) -> Option<Cow<'a, [u8]>> {
        let end = at.checked_add(len)?;
        let mut part = Cow::Borrowed(self.bytes.get(at..end)?);
        for &(place, word) in &self.patches {
            for (i, byte) in (place..).zip(word.to_le_bytes()) {
                if (at..end).contains(&i) {
                    part.to_mut()[i - at] = byte;
                }
            }
        }
        Some(part)
    }

    fn word(&self, at: usize) -> Option<u64> {
        if self.patches.is_empty() {
            let part = self.bytes.get(at..at.checked_add(8)?)?;
            return Some(u64::from_le_bytes(part.try_into().ok()?));
        }
        Some(u64::from_le_bytes(
            self.part(at, 8)?.as_ref().try_into().ok()?,
        ))
    }

    /// Whether the checksum field of a block or table at `at` fits the `len` bytes behind it.
    fn sum_is_right(&self, at: usize, len: usize) -> bool {
        let (Some(sum), Some(part)) = (
            at.checked_add(8).and_then(|p| self.word(p)),
            at.checked_add(16).and_then(|p| self.part(p, len)),
        ) else {
            return false;
        };
        // A sum with an upper half needs no computing: it fits nothing.
        u32::try_from(sum).is_ok_and(|sum| sum == checksum(&part))
    }

    fn has_block(&self, at: usize) -> bool {
        at.checked_add(BLOCK)
            .is_some_and(|end| end <= self.bytes.len())
    }

    /// The key of the block at `at`: its field up to the first NUL.
    fn key(&self, at: usize) -> Option<Vec<u8>> {
        let field = self.part(at.checked_add(16)?, KEY_ROOM)?;
        Some(field.split(|&b| b == 0).next().unwrap_or_default().to_vec())
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    a: i64,
    b: i64,
    current_b: bool,
}

impl Slot {
    fn never_used(&self) -> bool {
        self.a == 0 && self.b == 0
    }

    /// The offsets of the current copy and its twin, if the slot is live.
    fn copies(&self) -> Option<(i64, i64)> {
        (self.a > 0).then_some(if self.current_b {
            (self.b, self.a)
        } else {
            (self.a, self.b)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Deleted,
}

/// One open in progress.
struct Open<'a> {
    file: File<'a>,
    reading: Reading,
    ht_size: usize,
    val_size: usize,
    /// Bytes under a block's checksum.
    covered: usize,
    /// All tables' slots, `SLOTS` each.
    slots: Vec<Slot>,
    out: Outcome,
}

impl Open<'_> {
    fn load(&mut self, table: usize) {
        for i in 0..SLOTS {
            let at = table + 16 + 24 * i;
            let field = |n| self.file.word(at + n).unwrap_or(0);
            self.slots.push(Slot {
                a: field(0) as i64,
                b: field(8) as i64,
                current_b: field(16) != 0,
            });
        }
    }

    /// A clean file: table after table by the links.
    fn follow_links(&mut self) {
        let len = self.file.bytes.len();
        let mut at = STEP;
        if len <= STEP {
            // Header only: no table yet.
            return;
        }
        loop {
            // More tables than fit without sharing bytes: the links run in a circle.
            if at.checked_add(TABLE).is_none_or(|end| end > len) || self.out.tables > len / TABLE {
                self.out.crashes = true;
                return;
            }
            self.load(at);
            self.out.tables += 1;
            // It reads the link where htSize says, which is slot 510 only for 510.
            let link = self.slots[self.slots.len() - SLOTS + self.ht_size].a;
            if link == 0 {
                return;
            }
            // A negative link fails the test above.
            at = usize::try_from(link).unwrap_or(usize::MAX);
        }
    }

    fn find_tables(&mut self) -> Vec<usize> {
        let len = self.file.bytes.len();
        let mut found = Vec::new();
        for at in (STEP..len).step_by(STEP) {
            let (start, end) = (self.file.word(at), self.file.word(at + TABLE - 8));
            if start != Some(TABLE_START) && end != Some(TABLE_END) {
                continue;
            }
            let Some(end) = end else {
                self.out
                    .undecided
                    .push((at, "a table that the file ends in"));
                continue;
            };
            found.push(at);
            if start != Some(TABLE_START) {
                self.file.patches.push((at, TABLE_START));
            }
            if end != TABLE_END {
                self.file.patches.push((at + TABLE - 8, TABLE_END));
            }
        }
        found
    }

    fn good(&self, block: usize) -> bool {
        self.file.has_block(block) && self.file.sum_is_right(block, self.covered)
    }

    /// Whether a block of this kind lies here, by either of its delimiters.
    fn state(&mut self, at: usize, marks: &Marks) -> Option<State> {
        let start = self.file.word(at)?;
        let at_start = [marks.live.0, marks.deleted.0].contains(&start);
        if !self.file.has_block(at) {
            if at_start {
                self.out
                    .undecided
                    .push((at, "a block that the file ends in"));
            }
            return None;
        }
        let end = self.file.word(at + BLOCK - 8)?;
        let live = start == marks.live.0 || end == marks.live.1;
        let deleted = start == marks.deleted.0 || end == marks.deleted.1;
        if start == marks.deleted.0 && end == marks.live.1 {
            // Recorded (063) is only the reverse, start live and end deleted: live.
            self.out
                .undecided
                .push((at, "a block that starts deleted and ends live"));
            if self.reading == Reading::StartDecides {
                return Some(State::Deleted);
            }
        }
        if live {
            Some(State::Live)
        } else if deleted {
            Some(State::Deleted)
        } else {
            None
        }
    }

    fn rebuild(&mut self, mut tables: Vec<usize>) {
        let len = self.file.bytes.len();
        let mut at = 16384;
        // Table 0 ends where the walk begins; the others it should meet.
        tables.retain(|&table| table != STEP);
        while at < len {
            let a = self.state(at, &A);
            if a.is_some() {
                // The whole pair is passed, also where something else is in block B's place.
                let b = self.state(at + BLOCK, &B);
                self.judge(at, a, b);
                at += 2 * BLOCK;
                continue;
            }
            let b = self.state(at, &B);
            if b.is_some() {
                self.judge(at - BLOCK, None, b);
                at += BLOCK;
            } else if self.file.word(at) == Some(TABLE_START) && at + TABLE <= len {
                tables.retain(|&table| table != at);
                at += TABLE;
            } else {
                at += STEP;
            }
        }
        // Its slots, written there later, destroy what it really is.
        let wrong = tables
            .iter()
            .map(|&at| (at, "a table inside something else"));
        self.out.undecided.extend(wrong);
    }

    /// Decides about the pair whose block A lies at `at`, or would.
    fn judge(&mut self, at: usize, a: Option<State>, b: Option<State>) {
        let twin = at + BLOCK;
        // Checksums are the dear part: reckoned only where they decide.
        let deciding = match (a, b) {
            (Some(State::Live), Some(State::Live)) if self.good(twin) => Some((twin, State::Live)),
            // Of two good deleted copies either may decide: the files do not say which.
            (Some(state), _) if self.good(at) => Some((at, state)),
            (Some(State::Deleted) | None, Some(State::Deleted)) if self.good(twin) => {
                Some((twin, State::Deleted))
            }
            (None, Some(State::Live)) if self.good(twin) => Some((twin, State::Live)),
            _ => None,
        };
        if a.is_some() && !self.file.has_block(twin) {
            if deciding.is_none() {
                // It zeroes a block B that it has not found: the header goes.
                self.out.crashes = true;
            } else {
                self.out
                    .undecided
                    .push((at, "a block A that the file ends behind"));
            }
        }
        match deciding {
            Some((copy, state)) => self.enter(at, copy, state),
            // The zeroing itself shows only at the next open.
            None => self.out.wiped.push(at),
        }
    }

    /// Gives the pair the slot that its deciding copy names.
    fn enter(&mut self, at: usize, copy: usize, state: State) {
        let (Some(key), Some(table)) = (self.file.key(copy), self.file.word(copy + BLOCK - 16))
        else {
            return;
        };
        let Some(table) = usize::try_from(table).ok().filter(|&t| t < self.out.tables) else {
            self.out.crashes = true;
            return;
        };
        let slot = &mut self.slots[table * SLOTS + (hash(&key) % self.ht_size as u64) as usize];
        self.out.displaced += usize::from(!slot.never_used());
        let (a, b) = (at as i64, (at + BLOCK) as i64);
        *slot = match state {
            State::Live => Slot {
                a,
                b,
                current_b: copy != at,
            },
            State::Deleted => Slot {
                a: -a,
                b: -b,
                current_b: false,
            },
        };
    }

    /// The last step, for slots that were kept.
    fn check_current(&mut self) {
        for i in 0..self.slots.len() {
            let slot = self.slots[i];
            let Some((current, twin)) = slot.copies().filter(|_| i % SLOTS < self.ht_size) else {
                continue;
            };
            let [current, twin] = [current, twin].map(|at| {
                usize::try_from(at)
                    .ok()
                    .filter(|&at| self.file.has_block(at))
            });
            let Some(current) = current else {
                self.out.crashes = true;
                self.slots[i] = Slot { a: -slot.a, ..slot };
                continue;
            };
            if self.good(current) {
                continue;
            }
            self.out.crashes |= twin.is_none();
            self.slots[i] = if twin.is_some_and(|twin| self.good(twin)) {
                Slot {
                    current_b: !slot.current_b,
                    ..slot
                }
            } else {
                Slot {
                    a: -slot.a,
                    b: slot.b.wrapping_neg(),
                    current_b: false,
                }
            };
        }
    }

    /// Collects what look-ups find: for each slot number, table by table until the first slot never
    /// used.
    fn look_up(&mut self) {
        for number in 0..self.ht_size {
            let mut hidden = false;
            for table in 0..self.slots.len() / SLOTS {
                let slot = self.slots[table * SLOTS + number];
                hidden |= slot.never_used();
                let Some((current, _)) = slot.copies() else {
                    continue;
                };
                if hidden {
                    self.out.unreachable += 1;
                    continue;
                }
                let block = usize::try_from(current)
                    .ok()
                    .filter(|&at| self.file.has_block(at));
                let Some((key, value)) = block.and_then(|at| self.contents(at)) else {
                    self.out.crashes = true;
                    continue;
                };
                // Under a foreign slot number nobody asks for it; behind a pair of the same key
                // nobody gets there.
                if hash(&key) % self.ht_size as u64 != number as u64
                    || self.out.pairs.contains_key(&key)
                {
                    self.out.unreachable += 1;
                } else {
                    self.out.pairs.insert(key, value);
                }
            }
        }
    }

    /// Key and value of a block inside the file; `None` if its size leads outside the value.
    fn contents(&self, at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let size = self.file.part(at + 144, 4)?;
        let size = usize::try_from(u32::from_le_bytes(size.as_ref().try_into().ok()?)).ok()?;
        if size > self.val_size {
            return None;
        }
        Some((
            self.file.key(at)?,
            self.file.part(at + 148, size)?.into_owned(),
        ))
    }
}
