//! The mapped file.
//!
//! It is mapped in pieces that never move; the last one reaches past the end of the file, so
//! that growth needs no new mapping. No access goes past the end: the length is
//! asked for whenever one would.

use super::file::File;
use super::prefetch::prefetch;
use super::sigbus::{Guard, Torn};
use super::{errno, retry, room_allowed};
use crate::engine::Storage;
use crate::engine::storage::plain;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::block::{self, KEY_LEN, PAIR};
use crate::format::key::Key;
use crate::format::slot::{self, Slot, Word};
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Map {
    guard: Guard,
    map: MmapRaw,
    /// Where in the file it begins.
    start: u64,
}

/// The mapped file. Any thread may read while one writes.
pub struct FileMap {
    file: File,
    /// Address of each piece, 0 while it is not mapped. Piece 0 is the first [`PIECE`] bytes, each
    /// further one as long as all before it: the number of an offset's piece is a matter of its bits.
    pieces: [AtomicUsize; PIECES],
    maps: Mutex<Vec<Map>>,
    /// The address of offset 0 and how many bytes are mapped behind it in one: all that there was at
    /// first, and some more.
    base: (usize, u64),
    /// The file was this long when last asked.
    known: AtomicU64,
    lasting: bool,
    torn: &'static Torn,
    /// What it counted when all pages were the file's.
    whole: AtomicU64,
}

/// Bytes that a processor fetches at a time.
const LINE: usize = 64;
/// The smallest piece that is mapped, in bytes.
const PIECE: u64 = 1 << 20;
/// So many bytes are mapped at once: a small file that grows stays in one map, where an address is one addition. No
/// more: valgrind looks for pointers in all of it at the exit, page by page.
const AT_FIRST: u64 = 16 << 20;
/// Enough for any offset.
const PIECES: usize = 45;

fn piece_of(at: u64) -> usize {
    (u64::BITS - (at / PIECE).leading_zeros()) as usize
}

fn piece_start(n: usize) -> u64 {
    match n {
        0 => 0,
        n => PIECE << (n - 1),
    }
}

impl FileMap {
    /// Maps all of `file`.
    pub fn new(file: File) -> Result<Self> {
        let mut map = Self {
            known: AtomicU64::new(file.len()?),
            lasting: file.is_lasting(),
            file,
            pieces: [const { AtomicUsize::new(0) }; PIECES],
            maps: Mutex::new(Vec::new()),
            base: (0, 0),
            torn: Torn::never(),
            whole: AtomicU64::new(0),
        };
        let len = map.known_len().max(1);
        let mut mapped = len.max(AT_FIRST);
        if map.reach(mapped).is_err() {
            // A limit of the caller's: for locked memory, or addresses.
            mapped = len;
            map.reach(mapped)?;
        }
        let first = map.maps().first().map(|first| first.guard.torn());
        map.torn = first.unwrap_or(map.torn);
        map.base = (
            map.pieces[0].load(Relaxed),
            piece_start(piece_of(mapped - 1) + 1),
        );
        Ok(map)
    }

    /// The file behind the map.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether a page was gone when it was touched: somebody has cut the file off, the medium can't be read, or there is no
    /// room, where a file system makes it at the first store into a page. Zeros stand in its place.
    #[inline(always)]
    pub fn is_torn(&self) -> bool {
        !self.is_whole_since(self.whole_at())
    }

    /// An error if it is torn. Behind a read: what was read may be such zeros. Behind a store: it may not have arrived.
    #[inline(always)]
    pub fn whole(&self) -> Result<()> {
        match self.is_torn() {
            true => Err(errno(libc::EIO).into()),
            false => Ok(()),
        }
    }

    /// Puts the file's pages back where zeros stand. What they hold may have been read, and stores into them did not arrive.
    ///
    /// # Errors
    /// It could not be mapped, or some thread just meets another page that is gone: it is as torn as before.
    pub fn mend(&self) -> Result<()> {
        let maps = self.maps();
        let Some(torn) = self.torn.settled() else {
            return Err(errno(libc::EIO).into());
        };
        for Map { guard, map, start } in maps.iter() {
            let Some((at, len)) = guard.gone() else {
                continue;
            };
            let inside = at - map.as_mut_ptr() as usize;
            let new = self.map(start + inside as u64, len)?;
            // SAFETY: moves a map that nobody knows yet over a part of ours that is as long and of the same part of the file.
            let moved = unsafe {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                libc::mremap(new.as_mut_ptr().cast(), len, len, flags, at)
            };
            if moved == libc::MAP_FAILED {
                return Err(io::Error::last_os_error().into());
            }
            // It is a part of ours now.
            std::mem::forget(new);
        }
        self.whole.store(torn, Release);
        Ok(())
    }

    fn map(&self, start: u64, len: usize) -> Result<MmapRaw> {
        let mut options = MmapOptions::new();
        options.offset(start).len(len);
        Ok(match self.file.is_writable() {
            true => options.map_raw(self.file.raw())?,
            false => options.map_raw_read_only(self.file.raw())?,
        })
    }

    fn maps(&self) -> MutexGuard<'_, Vec<Map>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps the file until `end`, which is not 0, is inside a piece.
    fn reach(&self, end: u64) -> Result<()> {
        let last = piece_of(end - 1);
        let mut maps = self.maps();
        let missing = |n: &usize| self.pieces[*n].load(Relaxed) == 0;
        let Some(first) = (0..=last).find(missing) else {
            return Ok(());
        };
        let start = piece_start(first);
        let len = usize::try_from(piece_start(last + 1) - start).map_err(|_| Error::Memory)?;
        let map = self.map(start, len)?;
        maps.try_reserve(1).map_err(|_| Error::Memory)?;
        let address = map.as_mut_ptr() as usize;
        let others = maps.first().map(|m| &m.guard);
        let guard = Guard::new(map.as_mut_ptr(), map.len(), others).ok_or(Error::Memory)?;
        maps.push(Map { guard, map, start });
        for n in first..=last {
            let inside = (piece_start(n) - start) as usize;
            self.pieces[n].store(address + inside, Release);
        }
        Ok(())
    }

    /// The address of a range that is inside the file, as far as that is known, and in one map: nearly
    /// every access.
    #[inline(always)]
    fn one(&self, at: u64, len: usize) -> Option<*mut u8> {
        let end = at.checked_add(len as u64)?;
        if end > self.known.load(Relaxed) {
            return None;
        }
        let (base, mapped) = self.base;
        if end <= mapped {
            return Some((base + at as usize) as *mut u8);
        }
        let n = piece_of(at);
        if end > piece_start(n + 1) {
            return None;
        }
        let address = self.pieces.get(n)?.load(Acquire);
        // What is mapped stays so as long as `self` lives.
        (address != 0).then(|| (address + (at - piece_start(n)) as usize) as *mut u8)
    }

    /// The address of so many slots, if [`FileMap::one`] knows it.
    #[inline(always)]
    fn slots(&self, at: u64, n: u16) -> Option<*mut u8> {
        self.one(at, slot::SIZE as usize * usize::from(n))
            .filter(|_| at.is_multiple_of(8))
    }

    /// Makes the file longer. Where that fails half-way it is as long as it was.
    fn or_as_before(&self, old: u64, f: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        let longer = f(&self.file);
        if longer.is_err() {
            let _ = self.file.set_len(old);
        }
        self.len()?;
        Ok(longer?)
    }

    /// Calls `f` with the addresses of the parts of a range that is inside the file.
    fn parts(&self, at: u64, len: usize, mut f: impl FnMut(*mut u8, usize, usize)) -> Result<()> {
        let end = at
            .checked_add(len as u64)
            .ok_or(Error::Corrupt("offset out of range"))?;
        if end > self.known_len() && end > self.len()? {
            return Err(errno(libc::EIO).into());
        }
        if len == 0 {
            return Ok(());
        }
        self.reach(end)?;
        let mut done = 0;
        while done < len {
            let from = at + done as u64;
            let stop = piece_start(piece_of(from) + 1);
            let n = (len - done).min((stop - from) as usize);
            let Some(address) = self.one(from, n) else {
                return Err(errno(libc::EIO).into());
            };
            f(address, done, n);
            done += n;
        }
        Ok(())
    }
}

impl Storage for FileMap {
    fn len(&self) -> Result<u64> {
        let len = self.file.len()?;
        self.known.store(len, Relaxed);
        Ok(len)
    }

    fn known_len(&self) -> u64 {
        self.known.load(Relaxed)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(from) = self.one(at, buf.len()) {
            // SAFETY: as many bytes at `from` are mapped and inside the file; see below.
            unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
            return Ok(());
        }
        let end = at.saturating_add(buf.len() as u64);
        if end > self.known_len() {
            self.len()?;
        }
        let inside = self.known_len().saturating_sub(at).min(buf.len() as u64) as usize;
        let (buf, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        if buf.is_empty() {
            return Ok(());
        }
        let to = buf.as_mut_ptr();
        self.parts(at, buf.len(), |from, done, n| {
            // SAFETY: `n` bytes at `from` are mapped and inside the file, `done + n` bytes at `to`
            // are ours. The engine lock keeps well-behaved writers away; what others write
            // meanwhile is data like any other.
            unsafe { std::ptr::copy_nonoverlapping(from, to.add(done), n) }
        })
    }

    fn read_by_call(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let inside = self.file.read(at, buf)?;
        let (known, end) = (self.known_len(), at.saturating_add(buf.len() as u64));
        if at.saturating_add(inside as u64) < known.min(end) {
            // Cut off since: the map would have raised SIGBUS.
            return Err(errno(libc::EIO).into());
        }
        buf[inside..].fill(0);
        Ok(())
    }

    #[inline(always)]
    fn whole_at(&self) -> u64 {
        self.whole.load(Acquire)
    }

    #[inline(always)]
    fn is_whole_since(&self, when: u64) -> bool {
        self.torn.count() == when
    }

    #[inline(always)]
    fn load(&self, at: u64) -> Result<u64> {
        if at.is_multiple_of(8)
            && let Some(from) = self.one(at, 8)
        {
            // SAFETY: 8 mapped bytes at a multiple of 8, inside the file.
            return Ok(u64::from_le(
                unsafe { &*from.cast::<AtomicU64>() }.load(Acquire),
            ));
        }
        let mut w = [0; 8];
        self.read(at, &mut w)?;
        Ok(u64::from_le_bytes(w))
    }

    #[inline(always)]
    fn holds(&self, at: u64, key: &Key) -> Result<bool> {
        let Some(field) = self.one(at, KEY_LEN).filter(|_| at.is_multiple_of(8)) else {
            return plain::holds(self, at, key);
        };
        // SAFETY: the field is mapped, inside the file, and begins at a multiple of 8.
        Ok(unsafe { is_key(field, key) })
    }

    #[inline(always)]
    fn read_key(&self, at: u64, key: &mut [u8]) -> Result<()> {
        let (whole, rest) = key.as_chunks_mut::<8>();
        let fits = rest.is_empty() && whole.len() <= KEY_LEN / 8 && at.is_multiple_of(8);
        let Some(field) = self.one(at, KEY_LEN).filter(|_| fits) else {
            return plain::read_key(self, at, key);
        };
        const LOW: u64 = 0x0101_0101_0101_0101;
        // No copy of it in between: it would be loaded in larger pieces than it was stored in, which waits for the stores.
        let mut words = whole.iter_mut();
        for (i, bytes) in words.by_ref().enumerate() {
            // SAFETY: the field is mapped, inside the file, and begins at a multiple of 8.
            let word = unsafe { word_at(field, 8 * i) };
            // The top bit of the first byte that is 0; above it there may be others.
            let end = word.wrapping_sub(LOW) & !word & (LOW << 7);
            if end != 0 {
                *bytes = (word & (end ^ (end - 1)) >> 8).to_le_bytes();
                break;
            }
            *bytes = word.to_le_bytes();
        }
        words.into_slice().as_flattened_mut().fill(0);
        Ok(())
    }

    #[inline(always)]
    fn fetch(&self, at: u64, len: usize) {
        if let Some(from) = self.one(at, len) {
            for line in (0..len).step_by(LINE) {
                // SAFETY: inside the same mapped range.
                prefetch(unsafe { from.add(line) });
            }
        }
    }

    #[inline(always)]
    fn fetch_named(&self, at: u64, slots: u16, values: bool) {
        let Some(first) = self.slots(at, slots) else {
            return;
        };
        for i in 0..usize::from(slots) {
            // SAFETY: one of the mapped slots.
            let Slot { a, word, .. } = unsafe { slot_at(first, i) };
            if a > 0 {
                let block = word.side().offset(a as u64);
                // Keys are mostly short.
                match values {
                    true => self.fetch_block(block, 0),
                    false => self.fetch(block, 1),
                }
            }
        }
    }

    #[inline(always)]
    fn fetch_block(&self, at: u64, key: usize) {
        // A line costs about as much as the rest of a call, so none is fetched that will not be read.
        if let Some(from) = self.one(at, block::FRONT) {
            let second = block::KEY + key >= LINE;
            for line in (0..block::FRONT).step_by(LINE) {
                if line != LINE || second {
                    // SAFETY: inside the same mapped range.
                    prefetch(unsafe { from.add(line) });
                }
            }
        }
    }

    #[inline(always)]
    fn load_slot(&self, at: u64) -> Result<Slot> {
        match self.slots(at, 1) {
            // SAFETY: a mapped slot.
            Some(slot) => Ok(unsafe { slot_at(slot, 0) }),
            None => plain::load_slot(self, at),
        }
    }

    #[inline(always)]
    fn unused_slots(&self, at: u64, most: u16) -> Result<u16> {
        let Some(first) = self.slots(at, most) else {
            return plain::unused_slots(self, at, most);
        };
        // SAFETY: one of the mapped slots.
        let unused = |&i: &u16| unsafe { slot_at(first, i.into()) }.is_unused();
        Ok((0..most).take_while(unused).count() as u16)
    }

    #[inline(always)]
    fn read_value(&self, at: u64, most: usize, buf: &mut [u8]) -> Result<usize> {
        match self.one(at, block::TABLE).filter(|_| at.is_multiple_of(8)) {
            // SAFETY: all of the block up to there is mapped, inside the file, and begins at a multiple of 8.
            Some(block) => Ok(unsafe { copy_value(block, most, buf) }),
            None => plain::read_value(self, at, most, buf),
        }
    }

    #[inline(always)]
    fn read_value_of(
        &self,
        key: &Key,
        at: u64,
        most: usize,
        buf: &mut [u8],
    ) -> Result<Option<usize>> {
        let Some(block) = self.one(at, block::TABLE).filter(|_| at.is_multiple_of(8)) else {
            return plain::read_value_of(self, key, at, most, buf);
        };
        // SAFETY: as above, and the key field is in front of the value.
        Ok(unsafe { is_key(block.add(block::KEY), key).then(|| copy_value(block, most, buf)) })
    }

    fn next_data(&self, at: u64) -> Result<u64> {
        Ok(self.file.next_data(at)?)
    }

    fn store(&self, at: u64, word: u64) -> Result<()> {
        if !self.file.is_writable() || !at.is_multiple_of(8) {
            return Err(errno(libc::EBADF).into());
        }
        if let Some(to) = self.one(at, 8) {
            // SAFETY: as below.
            unsafe { &*to.cast::<AtomicU64>() }.store(word.to_le(), Release);
            return Ok(());
        }
        self.parts(at, 8, |to, _, _| {
            // SAFETY: 8 mapped bytes at a multiple of 8 (pieces begin at page boundaries) in a
            // writable mapping, inside the file. Release keeps the order of all stores, which the
            // write protocol rests on.
            unsafe { &*to.cast::<AtomicU64>() }.store(word.to_le(), Release);
        })
    }

    fn store_all(&self, at: u64, words: &[u64]) -> Result<()> {
        let writable = self.file.is_writable() && at.is_multiple_of(8);
        let Some(to) = self.one(at, 8 * words.len()).filter(|_| writable) else {
            let places = (at..).step_by(8);
            return words
                .iter()
                .zip(places)
                .try_for_each(|(&w, at)| self.store(at, w));
        };
        for (i, word) in words.iter().enumerate() {
            // SAFETY: as for one word: all of them are mapped, inside the file, at multiples of 8.
            unsafe { &*to.add(8 * i).cast::<AtomicU64>() }.store(word.to_le(), Release);
        }
        Ok(())
    }

    fn grow(&self, len: u64) -> Result<()> {
        let old = self.len()?;
        if len <= old {
            return Ok(());
        }
        room_allowed(len)?;
        self.or_as_before(old, |file| {
            if !file.allocate(old, len)? {
                write_zeros(file, old, len)?;
            }
            Ok(())
        })
    }

    fn extend(&self, len: u64) -> Result<()> {
        let old = self.len()?;
        if len > old {
            room_allowed(len)?;
            self.or_as_before(old, |file| {
                // Where that is cheap: each write into what has its place then costs less.
                if !self.lasting || !file.allocate(old, len)? {
                    file.set_len(len)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn allocate(&self, at: u64, len: u64) -> Result<()> {
        let end = at.saturating_add(len);
        if !self.file.allocate(at, end)? {
            write_zeros(&self.file, at, end)?;
        }
        Ok(())
    }

    fn fill(&self, at: u64, len: u64) -> Result<()> {
        // One by one, so that a page that is stored into later is not written with its neighbours.
        let end = at.saturating_add(len);
        for page in (at..end).step_by(PAGE as usize) {
            write_zeros(&self.file, page, end.min(page + PAGE))?;
        }
        Ok(())
    }

    /// With a system call: a store into a page that nobody has touched yet costs a fault, and the
    /// kernel has to fill the page with zeros first. It copies page by page, under a lock that its
    /// writing to the medium takes as well, and the pages were not there or are on the medium: of a
    /// sector nothing arrives, or all.
    fn write_pair(&self, at: u64, pair: &[u8; PAIR as usize]) -> Result<()> {
        Ok(self.file.write_all(at, pair)?)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.file.set_len(len)?;
        self.known.store(len, Relaxed);
        Ok(())
    }

    fn fill_holes(&self) -> Result<()> {
        self.file.allocate(0, self.len()?)?;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        match self.lasting {
            true => Ok(self.file.sync()?),
            false => Ok(()),
        }
    }

    fn sync_range(&self, at: u64, len: u64) -> Result<()> {
        let inside = usize::try_from(len).ok();
        match inside.and_then(|n| self.one(at, n).map(|from| (from, n))) {
            // SAFETY: as many bytes at `from` are mapped and inside the file.
            Some((from, n)) => Ok(unsafe { sync_map(from, n) }?),
            None => self.sync(),
        }
    }

    fn is_lasting(&self) -> bool {
        self.lasting
    }

    fn is_file(&self) -> bool {
        true
    }
}

/// The word `from` bytes behind `at`.
///
/// # Safety
/// 8 bytes there are mapped, at a multiple of 8.
#[inline(always)]
unsafe fn word_at(at: *mut u8, from: usize) -> u64 {
    // SAFETY: the caller's promise. Acquire: one after the other.
    u64::from_le(unsafe { &*at.add(from).cast::<AtomicU64>() }.load(Acquire))
}

/// One of several slots, its word loaded first.
///
/// # Safety
/// It is mapped, and they begin at a multiple of 8.
#[inline(always)]
unsafe fn slot_at(first: *mut u8, i: usize) -> Slot {
    // SAFETY: three words, the caller's promise.
    let word = |n: usize| unsafe { word_at(first, slot::SIZE as usize * i + 8 * n) };
    let last = Word(word(2));
    Slot {
        a: word(0) as i64,
        b: word(1) as i64,
        word: last,
    }
}

/// Whether a key field holds this key.
///
/// # Safety
/// The field is mapped, and begins at a multiple of 8.
#[inline(always)]
unsafe fn is_key(field: *mut u8, key: &Key) -> bool {
    // SAFETY: a key has less words than the field.
    key.is_in(|i| unsafe { word_at(field, 8 * i) })
}

/// Copies the value of a block into `buf` if it fits; answers its size, at most `most`.
///
/// # Safety
/// The block is mapped up to the end of the value field, and begins at a multiple of 8.
#[inline(always)]
unsafe fn copy_value(block: *mut u8, most: usize, buf: &mut [u8]) -> usize {
    // SAFETY: 4 bytes at a multiple of 4, in front of the value.
    let size = unsafe { &*block.add(block::VALUE_SIZE).cast::<AtomicU32>() }.load(Acquire);
    let size = (u32::from_le(size) as usize)
        .min(most)
        .min(block::VALUE_LEN);
    if let Some(buf) = buf.get_mut(..size) {
        // SAFETY: the field has as many bytes. What well-behaved writers do meanwhile the caller finds out, and what
        // others write is data like any other.
        unsafe {
            std::ptr::copy_nonoverlapping(block.add(block::VALUE), buf.as_mut_ptr(), size);
        }
    }
    size
}

/// Returns when a part of a map is on the medium. Not a point where a thread can be cancelled.
///
/// # Safety
/// `len` bytes there are mapped.
unsafe fn sync_map(from: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: no precondition.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // A map begins with a page, so does the part.
    let before = from as usize % page;
    // SAFETY: a system call on mapped memory, the caller's promise.
    retry(|| unsafe {
        let start = from.sub(before);
        libc::syscall(libc::SYS_msync, start, before + len, libc::MS_SYNC) as i64
    })
    .map(drop)
}

/// Where a file system cannot allocate: zeros are written.
fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 14] = [0; 1 << 14];
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZEROS.len() as u64);
        file.write_all(at, &ZEROS[..n as usize])?;
        at += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::VALUE_LEN;
    use crate::format::table;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_table_that_was_cut_off_is_no_table_of_zeros() {
        // A file was cut off while open, and a snapshot of it was empty without an error: its tables were read as zeros.
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(1 << 16).expect("a length");
        let path = std::ffi::CString::new(file.path().as_os_str().as_bytes()).expect("a path");
        let map = FileMap::new(File::open(&path, false).expect("opens")).expect("maps");
        let mut raw = [1; table::SIZE as usize];
        map.read_by_call(1 << 16, &mut raw)
            .expect("zeros behind the end");
        assert!(raw.iter().all(|&b| b == 0));
        file.as_file().set_len(8192).expect("is cut off");
        assert!(map.read_by_call(4096, &mut raw).is_err());
    }

    /// A word as blocks hold them: text, zeros, sizes, anything.
    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![
            3 => Just(0),
            3 => prop::array::uniform8(1u8..4).prop_map(u64::from_le_bytes),
            1 => 0u64..9000,
            1 => any::<u64>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn what_is_read_in_place_is_what_is_copied_first(
            words in prop::collection::vec(word(), 2048),
            short in 0..9000usize,
            places in prop::collection::vec((0u64..2048, any::<bool>()), 40),
            key_room in 0..140usize,
            value_room in 0..9000usize,
            most in 0..=VALUE_LEN,
        ) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.truncate(bytes.len() - short);
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), &bytes)?;
            let path = std::ffi::CString::new(file.path().as_os_str().as_bytes())?;
            let map = FileMap::new(File::open(&path, false)?)?;
            for (word, aligned) in places {
                let at = 8 * word + u64::from(!aligned);
                let mut fields = [[0xEE; 150]; 2];
                map.read_key(at, &mut fields[0][..key_room])?;
                plain::read_key(&map, at, &mut fields[1][..key_room])?;
                prop_assert_eq!(fields[0], fields[1]);
                prop_assert_eq!(map.load_slot(at)?, plain::load_slot(&map, at)?);
                let some = most as u16 % 20;
                let unused = map.unused_slots(at, some)?;
                prop_assert_eq!(unused, plain::unused_slots(&map, at, some)?);
                let mut values = [[0xEE; VALUE_LEN + 1000]; 2];
                let sizes = [
                    map.read_value(at, most, &mut values[0][..value_room])?,
                    plain::read_value(&map, at, most, &mut values[1][..value_room])?,
                ];
                prop_assert_eq!(sizes[0], sizes[1]);
                prop_assert!(values[0] == values[1]);
                // The key that is there, and another one.
                let mut field = [0; KEY_LEN];
                plain::read_key(&map, at + block::KEY as u64, &mut field)?;
                let end = field.iter().position(|&b| b == 0).unwrap_or(KEY_LEN);
                for name in [&field[..end], b"another"] {
                    let Some(key) = Key::new(name) else { continue };
                    prop_assert_eq!(map.holds(at, &key)?, plain::holds(&map, at, &key)?);
                    let found = [
                        map.read_value_of(&key, at, most, &mut values[0][..value_room])?,
                        plain::read_value_of(&map, &key, at, most, &mut values[1][..value_room])?,
                    ];
                    prop_assert_eq!(found[0], found[1]);
                    prop_assert!(values[0] == values[1]);
                }
            }
        }
    }
}
