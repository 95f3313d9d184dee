//! What writers have begun and what they were answered, in memory that outlives them, and the question whether what a
//! reader got can be true.
//!
//! Each key has one writer at a time. An operation is a number that grows with each one on the key, doubled, plus 1 for
//! a delete; it is noted before the call and again after its answer. A value tells its own key and operation and fills
//! the rest with bytes that follow from them, so that a torn, mixed or old value is seen at once.
#![allow(dead_code)] // each test program uses a part of it

use super::procs::mix;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// An operation on a key. 0: none yet, the key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Op(pub u64);

impl Op {
    pub fn is_absent(self) -> bool {
        self.0 & 1 == 1 || self.0 == 0
    }

    pub fn turn(self) -> u64 {
        self.0 >> 1
    }

    fn put_after(self) -> Op {
        Op((self.turn() + 1) << 1)
    }

    fn delete_after(self) -> Op {
        Op((self.turn() + 1) << 1 | 1)
    }

    /// The size of the value that this operation writes, for a database with values up to `room`.
    fn size(self, key: u64, room: usize) -> usize {
        let r = mix(key << 40 ^ self.0);
        let room = room as u64 - HEAD as u64;
        let more = match r >> 60 {
            0 => return 0,
            1..=7 => r % room.min(400),
            8..=14 => r % room,
            _ => room,
        };
        HEAD + more as usize
    }

    pub fn value(self, key: u64, room: usize) -> Vec<u8> {
        let size = self.size(key, room);
        if size == 0 {
            return Vec::new();
        }
        let mut pattern = Vec::with_capacity(256);
        let mut r = mix(self.0 ^ key << 40);
        while pattern.len() < 256 {
            pattern.extend_from_slice(&r.to_le_bytes());
            r = mix(r);
        }
        let mut value = Vec::with_capacity(size + 256);
        value.extend_from_slice(&self.0.to_le_bytes());
        value.extend_from_slice(&key.to_le_bytes());
        while value.len() < size {
            value.extend_from_slice(&pattern);
        }
        value.truncate(size);
        value
    }

    /// The operation that wrote this value; `None` for an empty one, which does not tell.
    pub fn told_by(value: &[u8], key: u64, room: usize) -> Result<Option<Op>, String> {
        if value.is_empty() {
            return Ok(None);
        }
        let word = |at: usize| {
            let bytes = value.get(at..at + 8)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        };
        let (Some(op), Some(of)) = (word(0), word(8)) else {
            return Err(format!("{} bytes that nobody wrote", value.len()));
        };
        if of != key {
            return Err(format!("a value of key {of:#x}, operation {op:#x}"));
        }
        let op = Op(op);
        let whole = op.value(key, room);
        if value != whole {
            let at = value.iter().zip(&whole).position(|(a, b)| a != b);
            return Err(format!(
                "operation {:#x}: {} bytes of {}, wrong from {:?} on",
                op.0,
                value.len(),
                whole.len(),
                at
            ));
        }
        Ok(Some(op))
    }
}

const HEAD: usize = 16;

/// One key's record.
#[repr(C)]
pub struct Key {
    begun: AtomicU64,
    answered: AtomicU64,
    /// The last operation of a dead writer that was found not to have happened.
    void: AtomicU64,
    /// The latest operation whose effect anybody has seen.
    seen: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl super::procs::Atomics for Key {}

/// What a reader notes before its call.
pub struct Before {
    answered: Op,
    void: Op,
    seen: Op,
}

impl Key {
    pub const fn new() -> Key {
        Key {
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            void: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    pub fn begun(&self) -> Op {
        Op(self.begun.load(SeqCst))
    }

    pub fn answered(&self) -> Op {
        Op(self.answered.load(SeqCst))
    }

    pub fn begin_put(&self) -> Op {
        let op = self.begun().put_after();
        self.begun.store(op.0, SeqCst);
        op
    }

    pub fn begin_delete(&self) -> Op {
        let op = self.begun().delete_after();
        self.begun.store(op.0, SeqCst);
        op
    }

    pub fn answer(&self, op: Op) {
        self.answered.store(op.0, SeqCst);
    }

    pub fn before(&self) -> Before {
        let seen = Op(self.seen.load(SeqCst));
        Before {
            seen,
            void: Op(self.void.load(SeqCst)),
            answered: self.answered(),
        }
    }

    /// Judges what a get answered that began after `before`: the value, or `None` for an absent key. Answers which
    /// operation it shows, if that is known.
    pub fn judge(
        &self,
        key: u64,
        room: usize,
        before: &Before,
        got: Option<&[u8]>,
    ) -> Result<Option<Op>, String> {
        let begun = self.begun();
        let &Before {
            answered,
            void,
            seen,
        } = before;
        let told = match got {
            None => None,
            Some(value) => Op::told_by(value, key, room)?,
        };
        let mut possible = vec![answered];
        if begun != answered && begun != void {
            possible.push(begun);
        }
        // What was begun in between and not answered was undone. With answers in between all that is known is the range.
        let exact = self.answered() == answered;
        possible.retain(|op| match (got, told) {
            (None, _) => op.is_absent(),
            (Some(_), Some(told)) => *op == told,
            (Some(_), None) => !op.is_absent() && op.size(key, room) == 0,
        });
        let shown = match (told, possible.as_slice()) {
            (Some(told), _) => Some(told),
            (None, [op]) if exact => Some(*op),
            _ => None,
        };
        let state = || {
            let what = match (got, told) {
                (None, _) => "absent".to_owned(),
                (Some(v), None) => format!("{} bytes", v.len()),
                (_, Some(op)) => format!("operation {:#x}", op.0),
            };
            format!(
                "{what}; answered {:#x}, begun {:#x}, undone {:#x}, seen before {:#x}",
                answered.0, begun.0, void.0, seen.0
            )
        };
        if exact && possible.is_empty() {
            return Err(state());
        }
        if let Some(op) = shown {
            let fits = op >= answered && op <= begun && op >= seen && (op != void || op.0 == 0);
            if !fits {
                return Err(state());
            }
            self.seen.fetch_max(op.0, SeqCst);
        }
        Ok(shown)
    }

    /// The next writer of the key, after the last one has died: decides whether its last operation has happened.
    pub fn settle(&self, shown: Option<Op>) {
        let (answered, begun) = (self.answered(), self.begun());
        if answered == begun {
            return;
        }
        if shown == Some(answered) {
            self.void.store(begun.0, SeqCst);
        } else {
            self.answered.store(begun.0, SeqCst);
        }
    }
}

impl Default for Key {
    fn default() -> Key {
        Key::new()
    }
}
