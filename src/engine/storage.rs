//! What the engine needs of a medium, and a medium in memory that tests can look into.

use crate::error::Result;
use crate::format::block::{self, KEY_LEN, PAIR};
use crate::format::key::Key;
use crate::format::slot::{self, Slot, Word};
use crate::format::u64_at;

/// The bytes of one file, as the engine sees them.
///
/// Offsets are in bytes from the start of the file. A store of 8 bytes at a multiple of 8 is the
/// unit that is never torn: a crash keeps, of each 512-byte sector, what it held after some prefix
/// of the stores made into it since the last [`Storage::sync`]. The order of stores between
/// sectors is not kept; the order in which other processes see them is.
#[allow(clippy::len_without_is_empty)]
pub trait Storage {
    /// Length of the file in bytes, as it is now.
    fn len(&self) -> Result<u64>;

    /// A length that the file had, without asking: never more than its length unless somebody cut
    /// it off.
    fn known_len(&self) -> u64;

    /// Fills `buf` from `at` on. Behind the end of the file there are zeros.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the file was shortened under us.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()>;

    /// The same, and of holes nothing is touched: they cost a page of some file systems (tmpfs) when they are read through a
    /// map, and there may be none.
    fn read_by_call(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.read(at, buf)
    }

    /// For those who read without the lock: begin with this number, and at the end, if the storage is not whole since, zeros
    /// may have stood in the place of what was read.
    fn whole_at(&self) -> u64 {
        0
    }

    /// See [`Storage::whole_at`].
    fn is_whole_since(&self, _when: u64) -> bool {
        true
    }

    /// The word at `at`, a multiple of 8; 0 behind the end of the file.
    fn load(&self, at: u64) -> Result<u64> {
        let mut w = [0; 8];
        self.read(at, &mut w)?;
        Ok(u64::from_le_bytes(w))
    }

    /// Whether the key field at `at`, a multiple of 8, holds this key.
    fn holds(&self, at: u64, key: &Key) -> Result<bool> {
        plain::holds(self, at, key)
    }

    /// The key in the key field at `at`, a multiple of 8, as far as there is room; zeros behind it, up to the size of the
    /// field.
    fn read_key(&self, at: u64, key: &mut [u8]) -> Result<()> {
        plain::read_key(self, at, key)
    }

    /// The slot at `at`, its word loaded first.
    fn load_slot(&self, at: u64) -> Result<Slot> {
        plain::load_slot(self, at)
    }

    /// How many slots from the one at `at` on were never used, one behind the other, at most `most`.
    fn unused_slots(&self, at: u64, most: u16) -> Result<u16> {
        plain::unused_slots(self, at, most)
    }

    /// The value of the block at `at` is copied into `buf` if it fits. Answers its size in bytes, at
    /// most `most`.
    fn read_value(&self, at: u64, most: usize, buf: &mut [u8]) -> Result<usize> {
        plain::read_value(self, at, most, buf)
    }

    /// [`Storage::read_value`] if the key field of the block, which begins at a multiple of 8, holds this key.
    fn read_value_of(
        &self,
        key: &Key,
        at: u64,
        most: usize,
        buf: &mut [u8],
    ) -> Result<Option<usize>> {
        plain::read_value_of(self, key, at, most, buf)
    }

    /// These bytes are about to be read. Nothing depends on it.
    fn fetch(&self, _at: u64, _len: usize) {}

    /// What a look-up reads of the block at `at` is about to be read: its key, of this many bytes, and where its value
    /// begins. Nothing depends on it.
    fn fetch_block(&self, _at: u64, _key: usize) {}

    /// The blocks that the live ones of so many slots from `at` on name are about to be read: their keys, and their values
    /// if `values`. Nothing depends on it.
    fn fetch_named(&self, _at: u64, _slots: u16, _values: bool) {}

    /// Where the next byte may be that is not zero, at `at` or behind it; at most the length of the file.
    fn next_data(&self, at: u64) -> Result<u64> {
        Ok(at)
    }

    /// Stores a word at `at`, a multiple of 8 inside the file.
    fn store(&self, at: u64, word: u64) -> Result<()>;

    /// Stores words one behind the other, in this order.
    fn store_all(&self, at: u64, words: &[u64]) -> Result<()> {
        let places = (at..).step_by(8);
        words
            .iter()
            .zip(places)
            .try_for_each(|(&w, at)| self.store(at, w))
    }

    /// Makes the file at least `len` bytes long. The new bytes are zero and have their place on
    /// the medium, so that storing into them can't fail later.
    ///
    /// # Errors
    /// [`crate::Error::Io`], `ENOSPC` above all; the file may then be longer, its contents are the same.
    fn grow(&self, len: u64) -> Result<()>;

    /// Makes the file at least `len` bytes long. What is new reads as zeros and may have no place on
    /// the medium yet: see [`Storage::allocate`] and [`Storage::write_pair`].
    fn extend(&self, len: u64) -> Result<()> {
        self.grow(len)
    }

    /// Gives a range of zeros inside the file, which nothing names, its place on the medium; it has it
    /// already where [`Storage::extend`] does so.
    ///
    /// # Errors
    /// As [`Storage::grow`].
    fn allocate(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Writes zeros over zeros that have their place: storing into them will change no more than these bytes.
    ///
    /// # Errors
    /// As [`Storage::grow`].
    fn fill(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Writes both blocks of a pair into a range that nothing names, whether it has its place or not.
    /// The first word of neither reaches the medium without the rest of its sector.
    ///
    /// # Errors
    /// As [`Storage::grow`]; then the range may hold any part of this.
    fn write_pair(&self, at: u64, pair: &[u8; PAIR as usize]) -> Result<()> {
        let firsts = [0, block::SIZE];
        let words = (0..pair.len()).step_by(8);
        for i in words.filter(|i| !firsts.contains(i)).chain(firsts) {
            let word = u64_at(pair, i);
            if word != 0 {
                self.store(at + i as u64, word)?;
            }
        }
        Ok(())
    }

    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> Result<()>;

    /// Gives every hole in the file its place on the medium.
    fn fill_holes(&self) -> Result<()>;

    /// Returns when all that was stored, and the length, is on the medium.
    fn sync(&self) -> Result<()>;

    /// Returns when what was stored into this range is on the medium, and the length; of the rest nothing is known.
    fn sync_range(&self, _at: u64, _len: u64) -> Result<()> {
        self.sync()
    }

    /// Whether what is on the medium outlives a power cut. If not, a sync costs nothing.
    fn is_lasting(&self) -> bool {
        true
    }

    /// Whether stores reach the file. If not, they are kept in memory for this handle.
    fn is_file(&self) -> bool;
}

/// What a storage does that has no faster way.
pub(crate) mod plain {
    use super::*;

    pub fn holds<S: Storage + ?Sized>(store: &S, at: u64, key: &Key) -> Result<bool> {
        let mut field = [0; KEY_LEN];
        store.read(at, &mut field)?;
        Ok(key.is_in(|i| u64_at(&field, 8 * i)))
    }

    pub fn read_key<S: Storage + ?Sized>(store: &S, at: u64, key: &mut [u8]) -> Result<()> {
        let n = key.len().min(KEY_LEN);
        let key = &mut key[..n];
        store.read(at, key)?;
        let end = block::key_in(key).len();
        key[end..].fill(0);
        Ok(())
    }

    pub fn load_slot<S: Storage + ?Sized>(store: &S, at: u64) -> Result<Slot> {
        let word = Word(store.load(at + slot::WORD)?);
        let (a, b) = (store.load(at)? as i64, store.load(at + slot::B)? as i64);
        Ok(Slot { a, b, word })
    }

    pub fn unused_slots<S: Storage + ?Sized>(store: &S, at: u64, most: u16) -> Result<u16> {
        let mut n = 0;
        while n < most && load_slot(store, at + slot::SIZE * u64::from(n))?.is_unused() {
            n += 1;
        }
        Ok(n)
    }

    pub fn read_value<S: Storage + ?Sized>(
        store: &S,
        at: u64,
        most: usize,
        buf: &mut [u8],
    ) -> Result<usize> {
        let size = store.load(at + block::VALUE_SIZE as u64)? as u32 as usize;
        let size = size.min(most);
        if let Some(buf) = buf.get_mut(..size) {
            store.read(at + block::VALUE as u64, buf)?;
        }
        Ok(size)
    }

    pub fn read_value_of<S: Storage + ?Sized>(
        store: &S,
        key: &Key,
        at: u64,
        most: usize,
        buf: &mut [u8],
    ) -> Result<Option<usize>> {
        if !store.holds(at.saturating_add(block::KEY as u64), key)? {
            return Ok(None);
        }
        store.read_value(at, most, buf).map(Some)
    }
}

pub use memory::{Event, Memory};
pub use overlay::Overlay;

mod memory {
    use super::{Result, Storage};
    use std::cell::{Cell, RefCell};
    use std::io;

    /// What happened to a [`Memory`], in order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Event {
        /// A word was stored at an offset.
        Store(u64, u64),
        /// The length became this.
        Length(u64),
        /// Everything before is on the medium.
        Sync,
        /// Everything before in a range, by offset and bytes, is, and the length.
        SyncRange(u64, u64),
        /// Whatever the test wants to find again.
        Mark(u64),
    }

    /// A file in memory that keeps a record of its changes and fails when told to.
    #[derive(Default)]
    pub struct Memory {
        bytes: RefCell<Vec<u8>>,
        log: RefCell<Vec<Event>>,
        fail_after: Cell<Option<u64>>,
        full_at: Cell<Option<u64>>,
    }

    impl Memory {
        /// A file with these contents.
        pub fn new(bytes: Vec<u8>) -> Self {
            Self {
                bytes: RefCell::new(bytes),
                ..Self::default()
            }
        }

        /// The contents.
        pub fn bytes(&self) -> Vec<u8> {
            self.bytes.borrow().clone()
        }

        /// The record so far; it begins anew.
        pub fn take_log(&self) -> Vec<Event> {
            self.log.take()
        }

        /// Puts a mark into the record.
        pub fn mark(&self, n: u64) {
            self.log.borrow_mut().push(Event::Mark(n));
        }

        /// After `n` more changes every change and sync fails; `None`: never.
        pub fn fail_after(&self, n: Option<u64>) {
            self.fail_after.set(n);
        }

        /// It can't become longer than so many bytes; `None`: it can.
        pub fn full_at(&self, len: Option<u64>) {
            self.full_at.set(len);
        }

        fn event(&self, e: Event) -> Result<()> {
            if let Some(n) = self.fail_after.get() {
                if n == 0 {
                    return Err(io::Error::from_raw_os_error(libc::EIO).into());
                }
                self.fail_after.set(Some(n - 1));
            }
            self.log.borrow_mut().push(e);
            Ok(())
        }
    }

    impl Storage for Memory {
        fn len(&self) -> Result<u64> {
            Ok(self.bytes.borrow().len() as u64)
        }

        fn known_len(&self) -> u64 {
            self.bytes.borrow().len() as u64
        }

        fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            let bytes = self.bytes.borrow();
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            let n = buf.len().min(bytes.len() - from);
            buf[..n].copy_from_slice(&bytes[from..from + n]);
            buf[n..].fill(0);
            Ok(())
        }

        fn store(&self, at: u64, word: u64) -> Result<()> {
            assert_eq!(at % 8, 0, "a store must not be torn");
            self.event(Event::Store(at, word))?;
            let at = at as usize;
            self.bytes.borrow_mut()[at..at + 8].copy_from_slice(&word.to_le_bytes());
            Ok(())
        }

        fn grow(&self, len: u64) -> Result<()> {
            if len > self.bytes.borrow().len() as u64 {
                if self.full_at.get().is_some_and(|most| len > most) {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC).into());
                }
                self.event(Event::Length(len))?;
                self.bytes.borrow_mut().resize(len as usize, 0);
            }
            Ok(())
        }

        fn truncate(&self, len: u64) -> Result<()> {
            self.event(Event::Length(len))?;
            self.bytes.borrow_mut().truncate(len as usize);
            Ok(())
        }

        fn fill_holes(&self) -> Result<()> {
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            self.event(Event::Sync)
        }

        fn sync_range(&self, at: u64, len: u64) -> Result<()> {
            self.event(Event::SyncRange(at, len))
        }

        fn is_file(&self) -> bool {
            true
        }
    }
}

mod overlay {
    use super::{Result, Storage};
    use crate::error::Error;
    use crate::format::PAGE;
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    type Page = Box<[u8; PAGE as usize]>;

    /// A file that is not written: changes are kept in memory, page by page. With it a read-only
    /// open recovers.
    pub struct Overlay<S> {
        below: S,
        len: Cell<u64>,
        /// The file counts up to here; behind it everything was cut off once.
        cut: Cell<u64>,
        pages: RefCell<HashMap<u64, Page>>,
    }

    impl<S: Storage> Overlay<S> {
        /// Nothing changed yet.
        pub fn new(below: S) -> Result<Self> {
            Ok(Self {
                len: Cell::new(below.len()?),
                cut: Cell::new(u64::MAX),
                below,
                pages: RefCell::default(),
            })
        }

        /// The file itself.
        pub fn below(&self) -> &S {
            &self.below
        }

        /// Fills `buf`; what has not changed `read` reads from the file.
        fn read_with(
            &self,
            at: u64,
            buf: &mut [u8],
            read: impl Fn(u64, &mut [u8]) -> Result<()>,
        ) -> Result<()> {
            let pages = self.pages.borrow();
            let mut done = 0;
            while done < buf.len() {
                let from = at.saturating_add(done as u64);
                let inside = (from % PAGE) as usize;
                let n = (buf.len() - done).min(PAGE as usize - inside);
                let part = &mut buf[done..done + n];
                match pages.get(&(from / PAGE)) {
                    _ if from >= self.len.get() => part.fill(0),
                    Some(page) => part.copy_from_slice(&page[inside..inside + n]),
                    None if from >= self.cut.get() => part.fill(0),
                    None => read(from, part)?,
                }
                done += n;
            }
            Ok(())
        }
    }

    impl<S: Storage> Storage for Overlay<S> {
        fn len(&self) -> Result<u64> {
            Ok(self.len.get())
        }

        fn known_len(&self) -> u64 {
            self.len.get()
        }

        fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            self.read_with(at, buf, |at, buf| self.below.read(at, buf))
        }

        fn read_by_call(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            self.read_with(at, buf, |at, buf| self.below.read_by_call(at, buf))
        }

        fn store(&self, at: u64, word: u64) -> Result<()> {
            let mut pages = self.pages.borrow_mut();
            pages.try_reserve(1).map_err(|_| Error::Memory)?;
            let page = match pages.entry(at / PAGE) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => {
                    let mut page = Box::new([0; PAGE as usize]);
                    if at / PAGE * PAGE < self.cut.get() {
                        self.below.read(at / PAGE * PAGE, &mut page[..])?;
                    }
                    place.insert(page)
                }
            };
            crate::format::put_u64(&mut page[..], (at % PAGE) as usize, word);
            Ok(())
        }

        fn grow(&self, len: u64) -> Result<()> {
            self.len.set(self.len.get().max(len));
            Ok(())
        }

        fn truncate(&self, len: u64) -> Result<()> {
            // The engine cuts at page boundaries only.
            self.pages.borrow_mut().retain(|&p, _| p * PAGE < len);
            self.cut.set(self.cut.get().min(len));
            self.len.set(len);
            Ok(())
        }

        fn fill_holes(&self) -> Result<()> {
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            Ok(())
        }

        fn is_file(&self) -> bool {
            false
        }
    }
}
