//! The rules of a chain: its slots and their pairs.

use super::{Chain, Finding, Life, Part, Rule};
use crate::engine::{Outcome, Pair};
use crate::format::block::{Kind, PAIR, RawBlock, Side};
use crate::format::slot::{self, Slot};
use crate::format::table;
use crate::format::{PAGE, Sizes, hash};
use std::collections::HashMap;

/// Something that has its place in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub at: u64,
    pub len: u64,
    pub part: Part,
}

/// A slot as it was read, with what it leads to.
pub(super) struct Seen {
    /// Number of the table.
    pub table: usize,
    /// Offset of the table.
    pub at: u64,
    pub slot: Slot,
    /// Length of the file at that moment.
    pub len: u64,
    pub blocks: Option<(u64, [RawBlock; 2])>,
    /// The same of a pair that goes on behind the end of the file, or lies there: what is left of it.
    pub rest: Option<(u64, [RawBlock; 2])>,
    /// Bytes of the value, if it is in the redo log.
    pub logged: Option<u64>,
}

/// What is known so far.
pub(super) struct Judge {
    pub sizes: Sizes,
    pub life: Life,
    pub tables: usize,
    pub findings: Vec<Finding>,
    pub placed: Vec<Placed>,
    /// Keys that are found, and where their pairs are.
    pub keys: HashMap<Vec<u8>, u64>,
    pub deleted: u64,
    pub payload: u64,
}

/// The chain that is being looked at.
#[derive(Default)]
pub(super) struct ChainSeen {
    pub chain: Chain,
    /// Offsets of unused slots with none in use behind them so far.
    holes: Vec<u64>,
    keys: HashMap<Vec<u8>, usize>,
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::A => "A",
        Side::B => "B",
    }
}

/// A key that can be read although its record is damaged.
fn likely_key(blocks: &[RawBlock; 2]) -> Option<Vec<u8>> {
    let legible = |k: &&[u8]| (1..128).contains(&k.len()) && std::str::from_utf8(k).is_ok();
    let keys = blocks.iter().map(RawBlock::key);
    keys.into_iter().find(legible).map(<[u8]>::to_vec)
}

impl Judge {
    pub fn find(&mut self, rule: Rule, offset: u64, key: Option<&[u8]>, detail: impl Into<String>) {
        self.findings.push(Finding {
            rule,
            offset,
            key: key.map(<[u8]>::to_vec),
            detail: detail.into(),
        });
    }

    /// One slot of the chain with this index; slots come in the order of the tables.
    pub fn slot(&mut self, index: u16, chain: &mut ChainSeen, mut seen: Seen) {
        let at = table::slot_offset(seen.at, index);
        let which = format!("slot {index} of table {}", seen.table);
        let slot = seen.slot;
        if slot.is_unused() {
            chain.holes.push(at);
            return;
        }
        chain.chain.length = seen.table as u32 + 1;
        if self.life == Life::Closed && slot.word.0 > 1 {
            let detail = format!("{which}: its third word is {:#x}, not 0 or 1", slot.word.0);
            self.find(Rule::SlotWord, at + slot::WORD, None, detail);
        }
        let sizes = self.sizes;
        let pair = seen
            .blocks
            .take()
            .map(|(at, blocks)| Pair::check(at, blocks, sizes))
            .map(|pair| match self.life {
                // As the next open will take it.
                Life::Open => pair.after_a_cut(&slot, sizes),
                _ => pair,
            });
        // At an odd offset a record counts only if it is beyond doubt.
        let doubtful = |pair: &Pair| match pair.outcome(Some(slot.word)) {
            _ if pair.at.is_multiple_of(PAGE) => false,
            Outcome::Live(side) => hash::slot(pair.block(side).key(), sizes.slots) != index,
            _ => true,
        };
        let key = match pair.filter(|p| !doubtful(p)) {
            None => {
                let detail = format!("{which} leads nowhere: {}", why_nowhere(slot, seen.len));
                let rest = seen.rest.take();
                let rest = rest.map(|(at, blocks)| Pair::check(at, blocks, sizes));
                // A record that is whole is found again, as any to which no slot leads.
                let lost = |p: &Pair| !matches!(p.outcome(None), Outcome::Live(_));
                let lost = rest.filter(|p| !slot.is_deleted() && lost(p));
                let key = lost.as_ref().and_then(|p| likely_key(&p.blocks));
                let rule = match lost {
                    Some(_) => Rule::SlotBehindEnd,
                    None => Rule::SlotOffset,
                };
                self.find(rule, at, key.as_deref(), detail);
                key
            }
            Some(pair) => {
                if !pair.at.is_multiple_of(PAGE) {
                    let detail = format!("{which} leads to a pair at an odd offset");
                    self.find(Rule::OddPair, pair.at, None, detail);
                } else if !slot.is_whole() {
                    let detail = format!("the two offsets of {which} contradict each other");
                    self.find(Rule::SlotOffset, at, None, detail);
                }
                self.pair(index, &which, chain, &seen, &pair)
            }
        };
        for hole in std::mem::take(&mut chain.holes) {
            let detail =
                format!("an unused slot in front of {which}: the original does not look behind it");
            self.find(Rule::Hole, hole, key.as_deref(), detail);
        }
    }

    /// The pair that a slot leads to; answers its key.
    fn pair(
        &mut self,
        index: u16,
        which: &str,
        chain: &mut ChainSeen,
        seen: &Seen,
        pair: &Pair,
    ) -> Option<Vec<u8>> {
        let (table, slot) = (seen.table, seen.slot);
        let outcome = pair.outcome(Some(slot.word));
        let (side, live) = match outcome {
            Outcome::Live(side) => (side, true),
            Outcome::Deleted(side) => (side, false),
            Outcome::Damaged => {
                self.lost(pair);
                self.place(pair, Part::Damaged);
                return likely_key(&pair.blocks);
            }
        };
        let block = pair.block(side);
        let key = block.key().to_vec();
        self.copies(pair, side, live);
        if slot.is_deleted() == live {
            let (says, is) = if live {
                ("deleted", "live")
            } else {
                ("live", "deleted")
            };
            let detail = format!("{which} says {says}, its record is {is}");
            self.find(Rule::SlotKind, pair.at, Some(&key), detail);
        }
        if block.table() != table as u64 {
            let detail = format!(
                "the record of {which} names table {}; there are {}",
                block.table(),
                self.tables
            );
            self.find(Rule::TableNumber, pair.at, Some(&key), detail);
        }
        if slot.is_deleted() || !live {
            chain.chain.deleted += 1;
            self.deleted += 1;
            self.place(pair, Part::Deleted);
            return Some(key);
        }
        self.place(pair, Part::Live);
        let own = hash::slot(&key, self.sizes.slots);
        if own != index {
            let detail = format!("{which} holds a key that belongs to slot {own}");
            self.find(Rule::WrongSlot, pair.at, Some(&key), detail);
        } else if let Some(first) = chain.keys.get(&key) {
            let detail = format!("its key is in table {first} already, which counts");
            self.find(Rule::Duplicate, pair.at, Some(&key), detail);
        } else {
            chain.keys.insert(key.clone(), table);
            chain.chain.live += 1;
            let in_pair = block.value(self.sizes).len() as u64;
            self.payload += key.len() as u64 + seen.logged.unwrap_or(in_pair);
            self.keys.insert(key.clone(), pair.at);
        }
        Some(key)
    }

    fn place(&mut self, pair: &Pair, part: Part) {
        self.placed.push(Placed {
            at: pair.at,
            len: PAIR,
            part,
        });
    }

    /// A pair of which neither copy can be believed.
    pub fn lost(&mut self, pair: &Pair) {
        let why = |side: Side| {
            let block = pair.block(side);
            let other = match pair.verdict(side).kind {
                Kind::Nothing => "it has no delimiter",
                _ => "a part of it has not arrived",
            };
            block.complaint(self.sizes).unwrap_or(other)
        };
        let (a, b) = (why(Side::A), why(Side::B));
        let detail = if a == b {
            format!("both copies are damaged: {a}")
        } else {
            format!("both copies are damaged: of A {a}, of B {b}")
        };
        let key = likely_key(&pair.blocks);
        self.find(Rule::RecordLost, pair.at, key.as_deref(), detail);
    }

    /// The two copies of a pair, of which `side` counts.
    pub fn copies(&mut self, pair: &Pair, side: Side, live: bool) {
        let counts = pair.block(side);
        let key = counts.key();
        let twin = pair.block(side.other());
        let other = side.other().offset(pair.at);
        let name = side_name(side.other());
        if let Some(why) = twin.complaint(self.sizes) {
            let detail = format!(
                "copy {name} is damaged: {why}; copy {} serves",
                side_name(side)
            );
            self.find(Rule::CopyDamaged, other, Some(key), detail);
        } else if self.life != Life::Closed
            && matches!(pair.outcome_of(side.other()), Outcome::Deleted(_))
        {
            // Still the deleted record that was in this place: it follows at the close.
        } else if twin.key() != key {
            let other_key = String::from_utf8_lossy(twin.key())
                .escape_debug()
                .to_string();
            let detail = format!("copy {name} holds another key: {other_key}");
            self.find(Rule::KeysDiffer, other, Some(key), detail);
        } else if self.life == Life::Closed && twin.value(self.sizes) != counts.value(self.sizes) {
            let detail = format!(
                "copy {name} holds another value, {} counts",
                side_name(side)
            );
            self.find(Rule::CopiesDiffer, other, Some(key), detail);
        }
        if self.life != Life::Closed {
            // Until the close delimiters lack, deleted values stay, empty ones have a byte behind them.
            return;
        }
        for s in [Side::A, Side::B] {
            let block = pair.block(s);
            if !block.is_delimited(s, live) {
                let kind = if live { "live" } else { "deleted" };
                let detail = format!(
                    "the delimiters of copy {} are not those of a {kind} record",
                    side_name(s)
                );
                self.find(Rule::Delimiters, s.offset(pair.at), Some(key), detail);
            }
        }
        let (of_key, of_value) = counts.remains(self.sizes);
        let (twin_key, twin_value) = twin.remains(self.sizes);
        if of_key || twin_key {
            let detail = "remains of an older key behind the key";
            self.find(Rule::KeyRemains, pair.at, Some(key), detail);
        }
        let emptied =
            counts.value(self.sizes).is_empty() && counts.value_is_zero() && twin.value_is_zero();
        if !live && !emptied {
            let detail = "a deleted value can still be read";
            self.find(Rule::DeletedRemains, pair.at, Some(key), detail);
        } else if of_value || twin_value {
            let detail = "remains of longer old values behind the value";
            self.find(Rule::ValueRemains, pair.at, Some(key), detail);
        }
    }
}

/// Why a slot leads to no place for a pair in a file of `len` bytes.
fn why_nowhere(slot: Slot, len: u64) -> String {
    let slot = slot.of_nobody();
    let at = slot.a.unsigned_abs();
    let (a, b) = (offset(slot.a), offset(slot.b));
    if slot.a == 0 || slot.b.unsigned_abs() != at.saturating_add(PAIR / 2) {
        format!("its offsets {a} and {b} are no pair")
    } else if at < PAGE {
        format!("{a} is in the header")
    } else if at.checked_add(PAIR).is_none_or(|end| end > len) {
        format!("{a} is behind the end of the file")
    } else {
        format!("{a} is no multiple of {PAGE}, and no record begins there")
    }
}

/// An offset of a slot, which is negative for a deleted pair.
fn offset(v: i64) -> String {
    let sign = if v < 0 { "-" } else { "" };
    format!("{sign}{:#x}", v.unsigned_abs())
}
