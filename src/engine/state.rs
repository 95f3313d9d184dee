//! What the users of a database share beyond its file, while at least one of them lives.
//!
//! Every word is guarded by the engine lock, but `layout`, `changes`, `tables` and `length` are read without
//! it as well ([`super::index`]). None of it is needed to
//! recover: a life that ends without a close leaves the file alone to tell. A process that dies
//! under the lock leaves `intent` set, and the next one to take the lock finishes its work.

use crate::format::table;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How far a life has come.
pub mod phase {
    /// Nobody has read the file yet.
    pub const UNREAD: u64 = 0;
    /// The file is clean; nothing has been changed in this life.
    pub const CLEAN: u64 = 1;
    /// The file is marked as changed.
    pub const CHANGED: u64 = 2;
    /// The marks are being stored, or are to be, behind a recovery that has found nothing to mend: who makes the first
    /// change, or finds this after a death, stores them.
    pub const MARKING: u64 = 3;
}

/// What is known of the tables of a clean file.
pub mod tables {
    /// Nobody has looked yet: whoever needs them first does.
    pub const UNREAD: u64 = 0;
    /// They are what the close left.
    pub const GOOD: u64 = 1;
    /// They are not: who may write recovers, who may not does so in memory.
    pub const BAD: u64 = 2;
}

/// Kinds of changes that a death can leave half-done.
pub mod intent {
    /// A put into a pair, or a table.
    pub const PAIR: u64 = 0;
    /// A delete.
    pub const DELETE: u64 = 1;
    /// A put into the log.
    pub const RECORD: u64 = 2;
}

/// How many gaps inside the file are remembered for new pairs; more are found in the next life.
pub const GAPS: usize = 32;

/// A counter for each slot.
#[derive(Debug)]
#[repr(transparent)]
pub struct Slots([AtomicU64; table::SLOTS]);

impl Default for Slots {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; table::SLOTS])
    }
}

impl std::ops::Deref for Slots {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// The shared words.
#[derive(Debug, Default)]
#[repr(C)]
pub struct State {
    /// One of [`phase`].
    pub phase: AtomicU64,
    /// One of [`tables`]; matters while the phase is CLEAN.
    pub verified: AtomicU64,
    /// 1 if this life began with a recovery: pairs that nobody has touched may be torn.
    pub recovered: AtomicU64,
    /// 1 after a sync that failed: nothing can be promised any more.
    pub poisoned: AtomicU64,
    /// Counts the syncs of our own; see [`crate::format::slot::Word::changed_in`].
    pub epoch: AtomicU64,
    /// 1 if `end` and the gaps are known.
    pub surveyed: AtomicU64,
    /// Behind the last table or pair in use, in bytes.
    pub end: AtomicU64,
    /// The file has been this long in this life: shorter, somebody else has cut it off.
    pub length: AtomicU64,
    /// Number of tables.
    pub tables: AtomicU64,
    /// Changes before tables or pairs are rearranged in any other way than by a change of one key, so
    /// that what a handle remembers is void, and what is being read without the lock is not used.
    pub layout: AtomicU64,
    /// Counts the closes: each drops the tags of the slots.
    pub closes: AtomicU64,
    /// Where the log begins; 0: there is none. It goes on to the end of the file.
    pub log: AtomicU64,
    /// Behind its last record; 0 while the log can't be used.
    pub log_next: AtomicU64,
    /// How often it has gone on in its other half: the first one in even laps.
    pub log_lap: AtomicU64,
    /// Not 0 while a change is under way: the offset of its slot.
    pub intent: AtomicU64,
    /// The pair or the record that this change writes.
    pub intent_pair: AtomicU64,
    /// What kind of change: one of [`intent`].
    pub intent_kind: AtomicU64,
    /// 1 while the tables are made anew.
    pub walking: AtomicU64,
    /// For each slot of the tables: counts the changes of which key is where in its chain.
    pub changes: Slots,
    /// For each slot of the tables: odd while one of its chain is being stored into, and another number behind it. A value that
    /// was read at an even one is what the key has as long as that stays, and the layout does.
    pub written: Slots,
    /// How many gaps follow.
    pub gap_count: AtomicU64,
    /// Offsets of zeroed places for a pair inside the file.
    pub gaps: [AtomicU64; GAPS],
}

impl State {
    /// Forgets everything, as at the beginning of a life. Layout number and closes go on.
    pub fn reset(&self) {
        for w in [
            &self.phase,
            &self.verified,
            &self.recovered,
            &self.poisoned,
            &self.epoch,
            &self.surveyed,
            &self.end,
            &self.length,
            &self.tables,
            &self.log,
            &self.log_next,
            &self.log_lap,
            &self.intent,
            &self.intent_pair,
            &self.intent_kind,
            &self.walking,
            &self.gap_count,
        ] {
            w.store(0, Relaxed);
        }
        self.layout.fetch_add(1, Relaxed);
    }
}

impl AsRef<State> for State {
    fn as_ref(&self) -> &State {
        self
    }
}
