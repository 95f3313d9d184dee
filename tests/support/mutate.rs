//! Damage: a real file, changed in ways that a bad medium, a bad program or a bad person would.
//!
//! What is done to a file is a list of [`Change`]s, each drawn from a seed of its own, so that one can be left out
//! without changing the others: that is how a failure is made small. In half the cases the checksums are put right
//! afterwards, which gets the damage past them.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test program uses a part of it

use super::check::{checksum, slot_of};
use super::procs::{Rng, mix};
use super::reader::{BLOCK, DEAD, LIVE, MARK, PAGE, PAIR, TABLE, TABLE_MARKS, sum_of_copy, word};

const SECTOR: usize = 512;
/// No file grows beyond this by damage.
const LARGEST: usize = 16 << 20;

/// Where things lie in a file, as far as its delimiters tell.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub tables: Vec<usize>,
    pub pairs: Vec<usize>,
}

impl Layout {
    pub fn of(bytes: &[u8]) -> Layout {
        let mut out = Layout::default();
        let mut at = PAGE;
        while at < bytes.len() {
            if word(bytes, at) == TABLE_MARKS.0 {
                out.tables.push(at);
                at += TABLE;
            } else if [LIVE[0].0, DEAD[0].0].contains(&word(bytes, at))
                || [LIVE[1].0, DEAD[1].0].contains(&word(bytes, at + BLOCK))
            {
                out.pairs.push(at);
                at += PAIR;
            } else {
                at += PAGE;
            }
        }
        out
    }
}

/// A file that damage is done to.
pub struct Seed {
    pub name: String,
    pub bytes: Vec<u8>,
    pub layout: Layout,
}

impl Seed {
    pub fn new(name: String, bytes: Vec<u8>) -> Seed {
        let layout = Layout::of(&bytes);
        Seed {
            name,
            bytes,
            layout,
        }
    }
}

/// A damaged file, and what was done to it.
pub struct Damaged {
    pub bytes: Vec<u8>,
    pub told: Vec<String>,
}

/// What is to be done to which file.
#[derive(Debug)]
pub struct Damage {
    /// Number of the file, modulo how many there are.
    pub file: u64,
    /// A seed for each change.
    pub changes: Vec<u64>,
    /// 0: checksums are put right afterwards, 1: the words of slots as well.
    pub fix: u64,
    pub fix_seed: u64,
}

impl Damage {
    pub fn of(seed: u64, files: usize) -> Damage {
        let mut rng = Rng(seed);
        let file = rng.below(files as u64);
        let count = match rng.below(10) {
            0..=3 => 1,
            4..=6 => 2,
            7..=8 => 3 + rng.below(3),
            _ => 3 + rng.below(12),
        };
        Damage {
            file,
            fix: rng.below(4),
            changes: (1..=count).map(|n| mix(seed ^ n << 48)).collect(),
            fix_seed: mix(seed ^ 77),
        }
    }
}

/// Does the damage of `seed` to one of the files; bit n of `mask` clear: without the n-th change.
pub fn damaged(seeds: &[Seed], seed: u64, mask: u32) -> Damaged {
    damaged_by(seeds, &Damage::of(seed, seeds.len()), mask)
}

pub fn damaged_by(seeds: &[Seed], damage: &Damage, mask: u32) -> Damaged {
    let from = &seeds[damage.file as usize % seeds.len()];
    let mut work = Work {
        bytes: from.bytes.clone(),
        layout: from.layout.clone(),
        told: vec![format!("{} ({} bytes)", from.name, from.bytes.len())],
        rng: Rng(0),
        seeds,
    };
    for (n, &seed) in (0..).zip(&damage.changes) {
        work.rng = Rng(seed);
        if n >= 31 || mask >> n & 1 != 0 {
            work.change(n);
        }
    }
    if mask >> 31 != 0 && damage.fix < 2 {
        work.rng = Rng(damage.fix_seed);
        work.fix_checksums(&from.bytes, damage.fix == 1);
    }
    Damaged {
        bytes: work.bytes,
        told: work.told,
    }
}

/// Numbers of changes that a mask can leave out, the checksums being the last.
pub const CHANGES: u32 = 32;

struct Work<'a> {
    bytes: Vec<u8>,
    layout: Layout,
    told: Vec<String>,
    rng: Rng,
    seeds: &'a [Seed],
}

impl Work<'_> {
    fn pick(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    fn one<T: std::marker::Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        let n = self.pick(of.len());
        Some(of[n])
    }

    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    fn put(&mut self, at: usize, w: u64) {
        if let Some(b) = at
            .checked_add(8)
            .and_then(|end| self.bytes.get_mut(at..end))
        {
            b.copy_from_slice(&w.to_le_bytes());
        }
    }

    fn table(&mut self) -> usize {
        let t = self.layout.tables.clone();
        self.one(&t).unwrap_or(PAGE)
    }

    fn pair(&mut self) -> usize {
        let p = self.layout.pairs.clone();
        self.one(&p).unwrap_or(PAGE + TABLE)
    }

    fn slots(&self) -> usize {
        (word(&self.bytes, 32) as usize).clamp(1, 510)
    }

    /// A slot of a table, mostly one in use.
    fn slot(&mut self) -> (usize, usize, usize) {
        let t = self.table();
        let all = self.slots();
        let used: Vec<usize> = (0..all)
            .filter(|i| word(&self.bytes, t + 16 + 24 * i) != 0)
            .collect();
        let i = match self.rng.below(8) {
            0 => self.pick(all),
            1 => self.pick(511),
            _ => self.one(&used).unwrap_or(0),
        };
        (t, i, t + 16 + 24 * i)
    }

    /// An offset that means something somewhere.
    fn offset(&mut self) -> u64 {
        let len = self.bytes.len() as u64;
        let near = [0, 1, 8, 512, 4096, 8192, 12288, 16384];
        let by = self.one(&near).unwrap_or(0);
        let base = match self.rng.below(8) {
            0 => 0,
            1 => len,
            2 | 3 => self.table() as u64,
            4 => self.rng.below(len / PAGE as u64 + 2) * PAGE as u64,
            _ => self.pair() as u64,
        };
        match self.rng.below(4) {
            0 => base.wrapping_add(by),
            1 => base.wrapping_sub(by),
            _ => base,
        }
    }

    fn value(&mut self) -> u64 {
        let fixed = [
            0,
            1,
            2,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            i64::MIN as u64 + 4096,
            0x7FFF_FFFF_FFFF_F000,
            1 << 31,
            1 << 32,
            u64::from(u32::MAX),
            0xFFFF_FFFF_0000_0000,
            4096,
            8192,
            TABLE_MARKS.0,
            TABLE_MARKS.1,
            1 << 63 | 1 << 62,
        ];
        match self.rng.below(8) {
            0..=2 => self.one(&fixed).unwrap_or(0),
            3..=4 => self.offset(),
            5 => self.offset().wrapping_neg(),
            6 => self.delimiter(),
            _ => self.rng.next(),
        }
    }

    fn delimiter(&mut self) -> u64 {
        let all = [
            TABLE_MARKS.0,
            TABLE_MARKS.1,
            LIVE[0].0,
            LIVE[0].1,
            LIVE[1].0,
            LIVE[1].1,
            DEAD[0].0,
            DEAD[0].1,
            DEAD[1].0,
            DEAD[1].1,
        ];
        self.one(&all).unwrap_or(0)
    }

    fn change(&mut self, n: u32) {
        let before = self.told.len();
        match self.rng.below(25) {
            0 => self.flip_bits(),
            1 => self.word_anywhere(),
            2..=4 => self.slot_anew(),
            5 => self.copy_slot(),
            6 | 7 => self.link(),
            8 | 9 => self.delimiters(),
            10 => self.sector(),
            11 => self.pages(),
            12 => self.length(),
            13 => self.sizes(),
            14 => self.flags(),
            15 => self.table_sum(),
            16 => self.table_number(),
            17 => self.value_size(),
            18 => self.key(),
            19 => self.contradict(),
            20 => self.delimiters_in_a_value(),
            21 => self.slot_word(),
            22 => self.splice(),
            23 => self.wipe(),
            _ => self.duplicate(),
        }
        for told in &mut self.told[before..] {
            *told = format!("{n}: {told}");
        }
    }

    /// A byte somewhere that matters.
    fn place(&mut self) -> usize {
        let len = self.bytes.len().max(1);
        match self.rng.below(6) {
            0 => self.pick(64),
            1 => self.table() + self.pick(TABLE),
            2 => self.slot().2 + self.pick(24),
            3 => {
                let side = self.pick(2) * BLOCK;
                self.pair() + side + self.pick(160)
            }
            4 => {
                let side = self.pick(2) * BLOCK;
                self.pair() + side + 8168 + self.pick(24)
            }
            _ => self.pick(len),
        }
    }

    fn flip_bits(&mut self) {
        for _ in 0..=self.rng.below(6) {
            let (at, bit) = (self.place(), self.pick(8));
            if let Some(b) = self.bytes.get_mut(at) {
                *b ^= 1 << bit;
            }
            self.tell(format!("bit {bit} at {at:#x}"));
        }
    }

    fn word_anywhere(&mut self) {
        let (at, w) = (self.place() & !7, self.value());
        self.put(at, w);
        self.tell(format!("word {w:#x} at {at:#x}"));
    }

    fn slot_anew(&mut self) {
        let (t, i, at) = self.slot();
        let o = self.value();
        let (a, b) = match self.rng.below(8) {
            // A proper one, to the wrong place.
            0..=2 => (o, o.wrapping_add(BLOCK as u64)),
            3 => (
                o.wrapping_neg(),
                o.wrapping_add(BLOCK as u64).wrapping_neg(),
            ),
            // The other sign.
            4 => (
                word(&self.bytes, at).wrapping_neg(),
                word(&self.bytes, at + 8).wrapping_neg(),
            ),
            5 => (0, 0),
            6 => (o, word(&self.bytes, at + 8)),
            _ => (word(&self.bytes, at), o),
        };
        self.put(at, a);
        self.put(at + 8, b);
        self.tell(format!(
            "slot {i} of table {t:#x} is {:#x} {:#x}",
            a as i64, b as i64
        ));
    }

    fn copy_slot(&mut self) {
        let (from_table, j, from) = self.slot();
        let (t, mut i, _) = self.slot();
        if self.rng.one_in(2) {
            i = j;
        }
        let at = t + 16 + 24 * i;
        for n in [0, 8, 16] {
            let w = word(&self.bytes, from + n);
            self.put(at + n, w);
        }
        self.tell(format!(
            "slot {i} of table {t:#x} like slot {j} of {from_table:#x}"
        ));
    }

    fn link(&mut self) {
        let t = self.table();
        let to = match self.rng.below(4) {
            0 | 1 => self.table() as u64,
            2 => 0,
            _ => self.value(),
        };
        let both = self.slots();
        for i in match self.rng.below(3) {
            0 => vec![510],
            1 => vec![both],
            _ => vec![both, 510],
        } {
            self.put(t + 16 + 24 * i, to);
            self.tell(format!("link of {t:#x} in slot {i} is {to:#x}"));
        }
    }

    fn delimiters(&mut self) {
        let w = match self.rng.below(6) {
            0 => 0,
            1 => self.value(),
            _ => self.delimiter(),
        };
        let side = self.pick(2) * BLOCK;
        let at = match self.rng.below(7) {
            0 => self.table(),
            1 => self.table() + TABLE - 8,
            2 | 3 => self.pair() + side,
            4 | 5 => self.pair() + side + 8184,
            _ => {
                let pages = self.bytes.len() / PAGE;
                let n = [0, 8184 % PAGE, 4088][self.pick(3)];
                self.pick(pages.max(1)) * PAGE + n
            }
        };
        self.put(at, w);
        self.tell(format!("delimiter {w:#x} at {at:#x}"));
    }

    fn range(&mut self, at: usize, len: usize) -> Vec<u8> {
        let end = (at + len).min(self.bytes.len());
        self.bytes
            .get(at.min(end)..end)
            .unwrap_or_default()
            .to_vec()
    }

    fn lay(&mut self, at: usize, part: &[u8]) {
        let n = part.len().min(self.bytes.len().saturating_sub(at));
        if let Some(to) = self.bytes.get_mut(at..at + n) {
            to.copy_from_slice(&part[..n]);
        }
    }

    fn sector(&mut self) {
        let all = self.bytes.len() / SECTOR;
        for _ in 0..=self.rng.below(4) {
            let at = self.place() / SECTOR * SECTOR;
            let other = match self.rng.below(3) {
                0 => self.pick(all.max(1)) * SECTOR,
                1 => at ^ BLOCK,
                _ => self.place() / SECTOR * SECTOR,
            };
            let (x, y) = (self.range(at, SECTOR), self.range(other, SECTOR));
            match self.rng.below(5) {
                0 => {
                    self.lay(at, &y);
                    self.lay(other, &x);
                    self.tell(format!("sectors {at:#x} and {other:#x} change places"));
                }
                1 | 2 => {
                    self.lay(at, &y);
                    self.tell(format!("sector {at:#x} like {other:#x}"));
                }
                3 => {
                    let part: Vec<u8> = (0..SECTOR).map(|_| self.rng.next() as u8).collect();
                    self.lay(at, &part);
                    self.tell(format!("sector {at:#x} is noise"));
                }
                _ => {
                    self.lay(at, &[0; SECTOR]);
                    self.tell(format!("sector {at:#x} is zero"));
                }
            }
        }
    }

    fn pages(&mut self) {
        let len = [PAGE, 2 * PAGE, TABLE, PAIR][self.pick(4)];
        let place = |w: &mut Self| match w.rng.below(4) {
            0 => w.table(),
            1 => {
                let pages = w.bytes.len() / PAGE;
                w.pick(pages.max(1)) * PAGE
            }
            _ => w.pair(),
        };
        let (at, other) = (place(self), place(self));
        let (x, y) = (self.range(at, len), self.range(other, len));
        match self.rng.below(4) {
            0 => {
                self.lay(at, &y);
                self.lay(other, &x);
                self.tell(format!(
                    "{len} bytes at {at:#x} and {other:#x} change places"
                ));
            }
            1 => {
                self.lay(at, &vec![0; len]);
                self.tell(format!("{len} bytes at {at:#x} are zero"));
            }
            2 => {
                self.lay(other, &x);
                self.lay(at, &vec![0; len]);
                self.tell(format!("{len} bytes move from {at:#x} to {other:#x}"));
                self.moved(other);
            }
            _ => {
                self.lay(other, &x);
                self.tell(format!("{len} bytes at {at:#x} also at {other:#x}"));
                self.moved(other);
            }
        }
    }

    /// Checksums may be put right in the new place, too.
    fn moved(&mut self, to: usize) {
        if self.layout.pairs.len() < 4000 && !self.layout.pairs.contains(&to) {
            self.layout.pairs.push(to);
        }
    }

    fn length(&mut self) {
        let len = self.bytes.len();
        let to = match self.rng.below(8) {
            0 => self.pick(len + 1),
            1 => self.pick(len / PAGE + 1) * PAGE,
            2 => self.pair() + self.pick(PAIR),
            3 => self.table() + self.pick(TABLE),
            4 => len + self.pick(40000),
            5 => len + (1 + self.pick(8)) * PAGE,
            6 => len + (1 + self.pick(3)) * PAIR,
            _ => len.saturating_sub(self.pick(5000)),
        }
        .min(LARGEST);
        if to > len && self.rng.one_in(2) {
            let noise: Vec<u8> = (0..to - len).map(|_| self.rng.next() as u8).collect();
            self.bytes.extend(noise);
            self.tell(format!("{to} bytes long, with noise"));
        } else {
            self.bytes.resize(to, 0);
            self.tell(format!("{to} bytes long"));
        }
    }

    fn sizes(&mut self) {
        let at = 32 + 8 * self.pick(3);
        let fixed = [
            0, 1, 2, 3, 4, 7, 63, 64, 65, 127, 128, 129, 156, 212, 509, 510, 511, 512, 8027, 8028,
            8029, 65536,
        ];
        let w = match self.rng.below(6) {
            0 => self.value(),
            1 => word(&self.bytes, at).wrapping_add(1),
            2 => word(&self.bytes, at).wrapping_sub(1),
            _ => self.one(&fixed).unwrap_or(0),
        };
        self.put(at, w);
        self.tell(format!("header word {at} is {w:#x}"));
    }

    fn flags(&mut self) {
        let flag = |w: &mut Self| match w.rng.below(5) {
            0 | 1 => 0,
            2 | 3 => 1,
            _ => w.value(),
        };
        let (failed, ok) = match self.rng.below(4) {
            0 => (0, 1),
            1 => (1, 0),
            _ => (flag(self), flag(self)),
        };
        self.put(16, failed);
        self.put(24, ok);
        self.tell(format!("closeFailed {failed:#x}, closeOk {ok:#x}"));
    }

    fn sum_of_table(&self, t: usize) -> u64 {
        self.bytes
            .get(t + 16..t + TABLE - 8)
            .map_or(0, |b| u64::from(checksum(b)))
    }

    fn table_sum(&mut self) {
        let t = if self.rng.one_in(3) {
            self.table()
        } else {
            PAGE
        };
        let w = match self.rng.below(6) {
            0..=2 => MARK,
            3 => 0xFFFF_FFFF_0000_0000,
            4 => self.sum_of_table(t),
            _ => self.value(),
        };
        self.put(t + 8, w);
        self.tell(format!("checksum of table {t:#x} is {w:#x}"));
    }

    /// A block, and whether to do the same to its twin.
    fn block(&mut self) -> Vec<usize> {
        let p = self.pair();
        match self.rng.below(4) {
            0 => vec![p],
            1 => vec![p + BLOCK],
            _ => vec![p, p + BLOCK],
        }
    }

    fn table_number(&mut self) {
        let tables = self.layout.tables.len() as u64;
        let w = match self.rng.below(5) {
            0 => self.value(),
            1 => tables,
            2 => self.rng.below(tables + 2),
            _ => self
                .one(&[0, 1, 65535, 65536, 1 << 20, u64::MAX])
                .unwrap_or(0),
        };
        for b in self.block() {
            self.put(b + 8176, w);
            self.tell(format!("htNum {w:#x} in {b:#x}"));
        }
    }

    fn value_size(&mut self) {
        let room = word(&self.bytes, 48) as u32;
        let fixed = [
            0,
            1,
            room,
            room.wrapping_add(1),
            room.wrapping_sub(1),
            8028,
            8029,
            8192,
            u32::MAX,
            i32::MAX as u32,
            i32::MIN as u32,
        ];
        let w = self.one(&fixed).unwrap_or(0);
        for b in self.block() {
            self.lay(b + 144, &w.to_le_bytes());
            self.tell(format!("{w:#x} bytes of value in {b:#x}"));
        }
    }

    fn key(&mut self) {
        let other = self.pair();
        let slots = self.slots();
        let field = self.range(other + 16, 128);
        let name: Vec<u8> = field.split(|&b| b == 0).next().unwrap_or_default().to_vec();
        let mut key = match self.rng.below(6) {
            0 => vec![],
            1 => vec![b'k'; 128],
            2 => vec![b'k'; 127],
            3 => name,
            // Another one of the same slot.
            4 => (0..4000u32)
                .map(|n| format!("/same/{n}").into_bytes())
                .find(|k| slot_of(k, slots) == slot_of(&name, slots))
                .unwrap_or_default(),
            _ => format!("/new/{}", self.rng.below(100)).into_bytes(),
        };
        key.resize(128, 0);
        for b in self.block() {
            self.lay(b + 16, &key);
            self.tell(format!(
                "key {} in {b:#x}",
                key.split(|&b| b == 0)
                    .next()
                    .unwrap_or_default()
                    .escape_ascii()
            ));
        }
    }

    fn seal(&mut self, b: usize) {
        let covered = (word(&self.bytes, 40) as usize).min(128)
            + 12
            + (word(&self.bytes, 48) as usize).min(8028);
        if let Some(part) = self.bytes.get(b + 16..b + 16 + covered) {
            let sum = checksum(part);
            self.put(b + 8, u64::from(sum));
        }
    }

    fn contradict(&mut self) {
        let p = self.pair();
        let side = self.pick(2);
        let b = p + side * BLOCK;
        match self.rng.below(5) {
            0 => {
                let text = format!("other {}", self.rng.below(1000));
                self.lay(b + 148, text.as_bytes());
                self.lay(b + 144, &(text.len() as u32).to_le_bytes());
                self.seal(b);
                self.tell(format!("block {b:#x} has the value {text:?}"));
            }
            1 => {
                let (start, end) = DEAD[side];
                self.put(b, start);
                self.put(b + 8184, end);
                self.tell(format!("block {b:#x} is deleted"));
            }
            2 => {
                let (start, end) = DEAD[side];
                self.put(b, start);
                self.put(b + 8184, end);
                self.lay(b + 144, &[0; 8032]);
                self.seal(b);
                self.tell(format!("block {b:#x} is deleted and empty"));
            }
            3 => {
                let (start, end) = LIVE[side];
                self.put(b, start);
                self.put(b + 8184, end);
                self.tell(format!("block {b:#x} is live"));
            }
            _ => {
                let w = [LIVE[side].1, DEAD[side].1, 0][self.pick(3)];
                self.put(b + 8184, w);
                let v = [LIVE[side].0, DEAD[side].0, 0][self.pick(3)];
                self.put(b, v);
                self.tell(format!("block {b:#x} from {v:#x} to {w:#x}"));
            }
        }
    }

    /// Failure 5: a value that looks like a table, or like anything else, where the original looks.
    fn delimiters_in_a_value(&mut self) {
        let p = self.pair();
        let (w, at) = match self.rng.below(4) {
            0 => (TABLE_MARKS.0, 148 + 3948),
            1 => (TABLE_MARKS.1, 148 + 3940),
            2 => (self.delimiter(), 148 + 3948),
            _ => (self.delimiter(), 148 + 3940),
        };
        for b in [p, p + BLOCK] {
            self.put(b + at, w);
            let size = word(&self.bytes, b + 144) as u32;
            if size < 3956 {
                self.lay(b + 144, &4000u32.to_le_bytes());
            }
            self.seal(b);
        }
        self.tell(format!("the value of {p:#x} holds {w:#x} at {}", at - 148));
    }

    fn slot_word(&mut self) {
        let (t, i, at) = self.slot();
        let p = (word(&self.bytes, at) as i64).unsigned_abs() as usize;
        let side = self.rng.below(2);
        let sum = word(
            &self.bytes,
            p.saturating_add(side as usize * BLOCK).saturating_add(8),
        );
        let w = match self.rng.below(7) {
            0 => 0,
            1 => 1,
            2 => self.value(),
            3 => 1 << 63 | side << 62 | self.rng.next() >> 2,
            _ => 1 << 63 | side << 62 | self.rng.below(4) << 32 | sum & 0xFFFF_FFFF,
        };
        self.put(at + 16, w);
        self.tell(format!("word of slot {i} of table {t:#x} is {w:#x}"));
    }

    /// A part of another file.
    fn splice(&mut self) {
        let n = self.pick(self.seeds.len());
        let other = &self.seeds[n];
        let len = [SECTOR, PAGE, BLOCK, TABLE, PAIR][self.pick(5)];
        let at = self.place() / len.min(PAGE) * len.min(PAGE);
        let from = match self.rng.below(3) {
            0 => at,
            1 => {
                let p = other.layout.pairs.clone();
                self.one(&p).unwrap_or(at)
            }
            _ => {
                let t = other.layout.tables.clone();
                self.one(&t).unwrap_or(at)
            }
        };
        let part = other
            .bytes
            .get(from..(from + len).min(other.bytes.len()))
            .unwrap_or_default();
        self.lay(at, part);
        self.tell(format!(
            "{len} bytes of {} at {from:#x} to {at:#x}",
            other.name
        ));
        if at.is_multiple_of(PAGE) {
            self.moved(at);
        }
    }

    fn wipe(&mut self) {
        match self.rng.below(5) {
            0 => {
                let t = self.table();
                self.lay(t, &[0; TABLE]);
                self.tell(format!("table {t:#x} is zero"));
            }
            1 => {
                let t = self.table();
                self.lay(t + 8, &[0; TABLE - 16]);
                self.tell(format!("table {t:#x} is empty"));
            }
            2 => {
                for b in self.block() {
                    self.lay(b + 8, &[0; BLOCK - 16]);
                    self.tell(format!("block {b:#x} is empty"));
                }
            }
            3 => {
                for b in self.block() {
                    self.lay(b, &[0; BLOCK]);
                    self.tell(format!("block {b:#x} is zero"));
                }
            }
            _ => {
                let t = self.table();
                self.put(t, 0);
                self.put(t + TABLE - 8, 0);
                self.tell(format!("table {t:#x} has no delimiters"));
            }
        }
    }

    /// A pair or table once more at the end, perhaps with a slot or link that leads there.
    fn duplicate(&mut self) {
        let at = self.bytes.len().next_multiple_of(PAGE);
        if at + PAIR > LARGEST {
            return;
        }
        if self.rng.one_in(4) {
            let t = self.table();
            let part = self.range(t, TABLE);
            self.bytes.resize(at, 0);
            self.bytes.extend(&part);
            self.layout.tables.push(at);
            self.tell(format!("table {t:#x} again at {at:#x}"));
            if self.rng.one_in(2) {
                let last = self.table();
                self.put(last + 16 + 24 * 510, at as u64);
                self.tell(format!("linked from {last:#x}"));
            }
            return;
        }
        let p = self.pair();
        let part = self.range(p, PAIR);
        self.bytes.resize(at, 0);
        self.bytes.extend(&part);
        self.moved(at);
        self.tell(format!("pair {p:#x} again at {at:#x}"));
        if self.rng.one_in(2) {
            let (t, i, slot) = self.slot();
            self.put(slot, at as u64);
            self.put(slot + 8, (at + BLOCK) as u64);
            self.tell(format!("slot {i} of {t:#x} leads there"));
        }
    }

    /// Puts right the checksum of every table and block that is not what it was; `words`: and those in the slots.
    fn fix_checksums(&mut self, before: &[u8], words: bool) {
        self.tell("31: checksums put right".to_owned());
        for p in self.layout.pairs.clone() {
            for b in [p, p + BLOCK] {
                let (now, was) = (self.bytes.get(b..b + BLOCK), before.get(b..b + BLOCK));
                if now.is_some() && now != was {
                    self.seal(b);
                }
            }
        }
        for t in self.layout.tables.clone() {
            if words {
                self.fix_words(t, before);
            }
            let (now, was) = (self.bytes.get(t..t + TABLE), before.get(t..t + TABLE));
            if now.is_some() && now != was && word(&self.bytes, t + 8) != MARK {
                let sum = self.sum_of_table(t);
                self.put(t + 8, sum);
            }
        }
    }

    /// Tagged words of the slots that changed say what their copies have now.
    fn fix_words(&mut self, t: usize, before: &[u8]) {
        for i in 0..self.slots() {
            let at = t + 16 + 24 * i;
            let w = word(&self.bytes, at + 16);
            if w >> 63 == 0 {
                continue;
            }
            let p = (word(&self.bytes, at) as i64).unsigned_abs() as usize;
            let side = (w >> 62 & 1) as usize * BLOCK;
            let sum = sum_of_copy(&self.bytes, p.saturating_add(side));
            if sum != sum_of_copy(before, p.saturating_add(side)) {
                self.put(at + 16, w & !0xFFFF_FFFF | sum);
            }
        }
    }
}
