//! Short values that were read last, under the hash of their keys.
//!
//! Each pair has pages of its own, so with many keys a look-up has to find pages that the processor has forgotten:
//! the slot's and the pair's. Here is what such a look-up has found, in one place, for this process only. It counts as long as
//! nothing has changed in the chain of the key since ([`When`]), so who finds it here asks nobody else.
//!
//! Any thread fills an entry and any reads it, without waiting for each other: the entry's head changes before and after it
//! is filled, and says that it is empty meanwhile.
//!
//! Memory: for each key of the database 2 bytes, and some 200 (400 with few keys) once all of them were read, made in groups
//! of 2 KB when the first key of a group is read; at most 32 MB. Long values cost nothing.

use super::grown::{Grown, slice};
use super::index::mixed;
use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::format::word_of;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Words for key and value, both rounded up, the key with its NUL.
const ROOM: usize = 12;
/// Entries in a group.
const GROUP: usize = 16;
/// So many places an entry may be in, one behind the other in its group.
const PLACES: usize = 8;
/// Groups at first, and at most.
const GROUPS: (usize, usize) = (4, 1 << 14);
/// Each is at least twice as large as the one before.
const SIZES: usize = 13;
const _: () = assert!(GROUPS.0 << (SIZES - 1) >= GROUPS.1);

/// Since when a value is what it is: this [`super::State::layout`] and this [`super::State::written`] of its slot. Loaded before the
/// value is; both only grow, so where they are the same later, the value is too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    pub layout: u64,
    pub written: u64,
}

impl When {
    /// Whether somebody stores into the slot, or has died there: the value may change and this not.
    pub fn is_changing(self) -> bool {
        !self.written.is_multiple_of(2)
    }
}

/// Two lines. The head: 8 bits length of the key, 0 while there is none; 16 bits size of the value; whether
/// somebody writes; and how often somebody has.
#[repr(C, align(128))]
#[derive(Default)]
struct Entry {
    head: AtomicU64,
    layout: AtomicU64,
    written: AtomicU64,
    hash: AtomicU64,
    words: [AtomicU64; ROOM],
}

const BUSY: u64 = 1 << 24;
const TURN: u64 = 1 << 25;
const _: () = assert!(size_of::<Entry>() == 128 && 8 * ROOM <= u16::MAX as usize);

impl Entry {
    #[inline(always)]
    fn is_of(&self, hash: u64, when: When) -> bool {
        let layout = self.layout.load(Relaxed) ^ when.layout;
        let written = self.written.load(Relaxed) ^ when.written;
        layout | written | (self.hash.load(Relaxed) ^ hash) == 0
    }

    /// Copies the value into `buf` if it fits there; answers its size. `head`: of before. `None`: it is not known, or the key is
    /// another.
    #[inline(always)]
    fn get(&self, head: u64, key: &Key, when: When, buf: &mut [u8]) -> Option<usize> {
        if head as u8 as usize != key.bytes().len() || !self.is_of(key.hash(), when) {
            return None;
        }
        let (name, last) = key.words();
        let (field, value) = self.words.split_at_checked(name.len() + 1)?;
        let (end, begin) = field.split_last()?;
        let same = |(w, at): (&[u8; 8], &AtomicU64)| u64::from_le_bytes(*w) == at.load(Relaxed);
        if end.load(Relaxed) != last || !name.iter().zip(begin).all(same) {
            return None;
        }
        let size = (head >> 8) as u16 as usize;
        if let Some(buf) = buf.get_mut(..size) {
            copy(value, buf);
        }
        // All that was loaded belongs to this head.
        fence(Acquire);
        (self.head.load(Relaxed) == head).then_some(size)
    }

    /// Keeps a value that fits, unless another thread keeps one here.
    fn set(&self, key: &Key, when: When, value: &[u8]) {
        let head = self.head.load(Relaxed);
        let busy = (head | BUSY) & !0xFF;
        let exchange = |from| self.head.compare_exchange(from, busy, Acquire, Relaxed);
        if head & BUSY != 0 || exchange(head).is_err() {
            return;
        }
        // Who reads sees that before any of this.
        fence(Release);
        self.layout.store(when.layout, Relaxed);
        self.written.store(when.written, Relaxed);
        self.hash.store(key.hash(), Relaxed);
        let (name, last) = key.words();
        let name = name.iter().map(|w| u64::from_le_bytes(*w));
        let value_words = (0..value.len()).step_by(8).map(|at| word_of(value, at));
        for (to, word) in self.words.iter().zip(name.chain([last]).chain(value_words)) {
            to.store(word, Relaxed);
        }
        let sizes = (value.len() as u64) << 8 | key.bytes().len() as u64;
        let turn = (head & !(TURN - 1)).wrapping_add(TURN);
        self.head.store(turn | sizes, Release);
    }
}

/// Copies words into `to`, which ends inside the last of them, or before.
#[inline(always)]
fn copy(from: &[AtomicU64], to: &mut [u8]) {
    let (whole, rest) = to.as_chunks_mut::<8>();
    for (to, from) in whole.iter_mut().zip(from) {
        *to = from.load(Relaxed).to_le_bytes();
    }
    if !rest.is_empty()
        && let Some(last) = from.get(whole.len())
    {
        rest.copy_from_slice(&last.load(Relaxed).to_le_bytes()[..rest.len()]);
    }
}

/// Whether an entry has room for such a key and value.
fn fits(key: &Key, size: usize) -> bool {
    key.words().0.len() + 1 + size.div_ceil(8) <= ROOM
}

/// Whether so many groups are too few for so many keys.
fn is_small(groups: usize, keys: usize) -> bool {
    groups == 0 || groups < GROUPS.1 && keys + keys / 8 > groups * GROUP
}

/// Made when the first one is needed.
type Group = OnceLock<Box<[Entry; GROUP]>>;

/// All entries of a handle.
pub(crate) struct Kept {
    groups: Grown<Group, SIZES>,
    /// What a reader misses: a group, by one more than its number, or more of them ([`MORE`]).
    wanted: AtomicUsize,
    /// There was no memory for it, so nobody asks again.
    refused: AtomicBool,
}

const MORE: usize = usize::MAX;

impl Kept {
    /// Without any.
    pub fn new() -> Self {
        Self {
            groups: Grown::new(),
            wanted: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// The number of a key's group, and where it begins to look there.
    #[inline(always)]
    fn place(groups: &[Group], key: &Key) -> (usize, usize) {
        let mixed = mixed(key.hash());
        let group = ((mixed >> 32) * groups.len() as u64) >> 32;
        let first = mixed as usize >> 16 & (GROUP - 1);
        (group as usize, first)
    }

    /// The value of a key that is kept, as [`Entry::get`].
    #[inline(always)]
    pub fn get(&self, key: &Key, when: When, buf: &mut [u8]) -> Option<usize> {
        let groups = self.groups.last();
        let (group, first) = Self::place(groups, key);
        let entries = groups.get(group)?.get()?;
        for n in first..first + PLACES {
            let entry = &entries[n % GROUP];
            let head = entry.head.load(Acquire);
            if head == 0 {
                // Never used, so none behind it was for this key.
                return None;
            }
            let found = entry.get(head, key, when, buf);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Keeps a value. `keys`: how many the database has, as far as they are known. `false`: it would be kept, and so would the next
    /// ones, if [`Kept::make_wanted`] was called.
    pub fn set(&self, key: &Key, when: When, value: &[u8], keys: usize) -> bool {
        if !fits(key, value.len()) {
            return true;
        }
        let groups = self.groups.last();
        let (number, first) = Self::place(groups, key);
        let Some(group) = groups.get(number) else {
            return !self.want(MORE);
        };
        let Some(entries) = group.get() else {
            return !self.want(number + 1);
        };
        // Its own one, or one that was never used.
        let own = |n: &usize| {
            let entry = &entries[n % GROUP];
            entry.head.load(Relaxed) == 0 || entry.hash.load(Relaxed) == key.hash()
        };
        let n = match (first..first + PLACES).find(own) {
            Some(n) => n,
            None if is_small(groups.len(), keys) && self.want(MORE) => return false,
            None => first,
        };
        entries[n % GROUP].set(key, when, value);
        true
    }

    #[cold]
    fn want(&self, what: usize) -> bool {
        let asks = !self.refused.load(Relaxed);
        if asks {
            self.wanted.store(what, Relaxed);
        }
        asks
    }

    /// Makes what readers have asked for since the last time. By one thread at a time. `keys`: how many the database may have.
    pub fn make_wanted(&self, keys: impl Fn() -> usize) {
        if self.wanted.load(Relaxed) == 0 {
            return;
        }
        let made = match self.wanted.swap(0, Relaxed) {
            0 => Ok(()),
            MORE => self.make_more(keys()),
            n => self.make_group(n - 1),
        };
        if made.is_err() {
            self.refuse();
        }
    }

    /// Makes no more.
    pub fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    fn make_more(&self, keys: usize) -> Result<()> {
        let have = self.groups.last().len();
        if !is_small(have, keys) {
            // Two have asked.
            return Ok(());
        }
        let wanted = (keys + keys / 2).div_ceil(GROUP).max(2 * have);
        let wanted = wanted.clamp(GROUPS.0, GROUPS.1);
        self.groups.replace(slice(wanted, Group::default)?)
    }

    fn make_group(&self, n: usize) -> Result<()> {
        if let Some(group) = self.groups.last().get(n) {
            let entries = slice(GROUP, Entry::default)?
                .try_into()
                .map_err(|_| Error::Memory)?;
            // Of two that ask for the same one the second finds it there.
            let _ = group.set(entries);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// The value of key `n` since `written`: of a length and with bytes that no other one has.
    fn value(n: u64, written: u64) -> Vec<u8> {
        let len = (n * 7 + written * 13) % 64;
        (0..len)
            .map(|i| (n * 31 + written * 57 + i) as u8)
            .collect()
    }

    fn name(n: u64) -> String {
        format!("{n:0width$}", width = 1 + n as usize % 20)
    }

    #[test]
    fn threads_find_what_was_kept_or_nothing() {
        // Some threads fill the same few entries and others read them: what is found is all of one value, and of the key and
        // the time that were asked for.
        let kept = Kept::new();
        let found = AtomicU32::new(0);
        std::thread::scope(|s| {
            for thread in 0..4u64 {
                let (kept, found) = (&kept, &found);
                s.spawn(move || {
                    let mut random = thread + 1;
                    for _ in 0..100_000 {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                        let (n, written) = (random >> 33 & 0x7F, random >> 50 & 2);
                        let name = name(n);
                        let key = Key::new(name.as_bytes()).expect("a key");
                        let when = When { layout: 1, written };
                        let want = value(n, written);
                        let mut buf = [0xEE; 64];
                        if random >> 60 < 4 {
                            if !kept.set(&key, when, &want, 128) && thread == 0 {
                                kept.make_wanted(|| 128);
                            }
                        } else if let Some(size) = kept.get(&key, when, &mut buf) {
                            found.fetch_add(1, Relaxed);
                            assert_eq!(&buf[..size], want);
                            assert!(buf[size..].iter().all(|&b| b == 0xEE));
                        }
                    }
                });
            }
        });
        assert!(found.into_inner() > 10_000);
    }

    #[test]
    fn what_is_too_long_or_not_asked_for_is_not_kept() {
        let kept = Kept::new();
        let key = Key::new(b"key").expect("a key");
        let when = When {
            layout: 1,
            written: 0,
        };
        assert!(kept.set(&key, when, &[1; 89], 1));
        kept.make_wanted(|| unreachable!("nothing is wanted"));
        // First groups, then the group.
        for _ in 0..2 {
            assert!(!kept.set(&key, when, &[1; 88], 1));
            kept.make_wanted(|| 1);
        }
        assert!(kept.set(&key, when, &[1; 88], 1));
        let mut buf = [0; 100];
        assert_eq!(kept.get(&key, when, &mut buf), Some(88));
        assert_eq!(buf[87..90], [1, 0, 0]);
        // The size alone, where there is no room for the value.
        assert_eq!(kept.get(&key, when, &mut []), Some(88));
        for other in [When { layout: 2, ..when }, When { written: 2, ..when }] {
            assert_eq!(kept.get(&key, other, &mut buf), None);
        }
        let other = Key::new(b"kez").expect("a key");
        assert_eq!(kept.get(&other, when, &mut buf), None);
    }

    #[test]
    fn there_is_room_for_most() {
        // Of as many keys as were foreseen nearly all stay; of more of them, room is asked for.
        let keys: Vec<String> = (0..20_000).map(|n| format!("/key/{n}")).collect();
        let kept = Kept::new();
        let when = When {
            layout: 1,
            written: 0,
        };
        let made = |n: usize| Key::new(keys[n].as_bytes()).expect("a key");
        for n in 0..keys.len() {
            while !kept.set(&made(n), when, b"value", n) {
                kept.make_wanted(|| keys.len());
            }
        }
        let found = |n: &usize| kept.get(&made(*n), when, &mut [0; 8]).is_some();
        let there = (0..keys.len()).filter(found).count();
        assert!(there > 19_000, "{there}");
        let before = kept.groups.last().len();
        let more = |n| kept.set(&made(n), when, b"value", 100_000);
        assert!((0..keys.len()).any(|n| !more(n)));
        kept.make_wanted(|| 100_000);
        assert!(kept.groups.last().len() >= 2 * before);
    }
}
