//! The database file: opened, locked, mapped, grown, synced.
//!
//! The file is mapped in pieces that never move; the last one may reach past the end of the file, so
//! that growth by another process needs no new mapping. No access goes past the end: the length is
//! asked for whenever one would.

use super::sigbus::{self, Guard};
use super::{errno, retry, room_allowed};
use crate::engine::Storage;
use crate::engine::storage::plain;
use crate::error::{Error, Result};
use crate::format::block::{self, KEY_LEN, PAIR};
use crate::format::key::Key;
use crate::format::slot::{Slot, Word};
use memmap2::{MmapOptions, MmapRaw};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What tells one file from another, also after its number was given to a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ident {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// When the inode was made, in nanoseconds; 0 where the file system does not know.
    pub born: u64,
}

impl Ident {
    /// Whether this was an earlier file with the number that `now` has.
    pub fn is_before(&self, now: Self) -> bool {
        (self.dev, self.ino) == (now.dev, now.ino)
            && self.born != 0
            && now.born != 0
            && self.born != now.born
    }
}

/// Owner and permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Owner {
    /// Whether we may write the file at `path`, as far as its permissions go. Its owner can always let
    /// himself.
    pub fn lets_write(self, path: &CStr) -> bool {
        // SAFETY: no precondition, and a C string.
        let (me, r) = unsafe {
            let r = libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS);
            (libc::geteuid(), r)
        };
        me == self.uid || r == 0 || super::last_error().raw_os_error() != Some(libc::EACCES)
    }
}

/// An open database file.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    writable: bool,
}

/// Locks on the database file lie where no data is: one byte that every user holds shared.
const USER_BYTE: i64 = 1 << 62;
/// Behind it one byte for each that may write.
const WRITERS: i64 = 4096;

fn open_fd(path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` is a C string; the mode is read only with O_CREAT.
    let fd = retry(|| i64::from(unsafe { libc::open(path.as_ptr(), flags, mode) }))? as i32;
    // SAFETY: just opened, owned by nobody else.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where a process has closed its standard descriptors, a print must not land in what we open.
pub(super) fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: `fd` is open; the answer is a new descriptor or -1.
    let high =
        retry(|| i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) }))?;
    // SAFETY: just duplicated, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(high as i32) })
}

pub(super) fn stat(fd: &OwnedFd) -> io::Result<libc::stat> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open and the buffer is large enough.
    retry(|| i64::from(unsafe { libc::fstat(fd.as_raw_fd(), st.as_mut_ptr()) }))?;
    // SAFETY: fstat succeeded and so has filled it.
    Ok(unsafe { st.assume_init() })
}

/// A lock of the open file description (or the question for one) on a range of bytes; answers the
/// kind of lock that the call left in its argument.
pub(crate) fn ofd_lock(
    fd: &OwnedFd,
    command: i32,
    kind: i32,
    from: i64,
    len: i64,
) -> io::Result<i32> {
    // SAFETY: all zero is a valid flock.
    let mut l: libc::flock = unsafe { std::mem::zeroed() };
    l.l_type = kind as i16;
    l.l_whence = libc::SEEK_SET as i16;
    l.l_start = from as libc::off_t;
    l.l_len = len as libc::off_t;
    // SAFETY: the descriptor is open and `l` is a flock, as these commands require.
    retry(|| i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), command, &mut l) }))?;
    Ok(i32::from(l.l_type))
}

impl File {
    /// Opens an existing regular file.
    pub fn open(path: &CStr, writable: bool) -> io::Result<Self> {
        let flags = if writable {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        };
        Self::regular(open_fd(path, flags, 0)?, writable)
    }

    /// Makes a new file with permissions 0666 less the umask; `EEXIST` if there is one.
    pub fn create(path: &CStr) -> io::Result<Self> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        Self::regular(open_fd(path, flags, 0o666)?, true)
    }

    fn regular(fd: OwnedFd, writable: bool) -> io::Result<Self> {
        if stat(&fd)?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(errno(libc::EINVAL));
        }
        Ok(Self { fd, writable })
    }

    /// The same file through a new open file description, with its own locks and its own view of
    /// write errors. Where there is no /proc the new descriptor shares this one's description.
    pub fn reopen(&self, writable: bool) -> io::Result<Self> {
        let name = format!("/proc/self/fd/{}\0", self.fd.as_raw_fd());
        let name = CStr::from_bytes_with_nul(name.as_bytes()).map_err(|_| errno(libc::EINVAL))?;
        match Self::open(name, writable) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && self.writable >= writable => {
                Ok(Self {
                    fd: self.fd.try_clone()?,
                    writable,
                })
            }
            r => r,
        }
    }

    /// Whether it may be changed through this description.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The descriptor, which stays this file's.
    pub fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Which file this is.
    pub fn ident(&self) -> io::Result<Ident> {
        let st = stat(&self.fd)?;
        let mut x = std::mem::MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the descriptor is open, the path is empty, the buffer is large enough.
        let r = unsafe {
            libc::statx(
                self.raw(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_BTIME,
                x.as_mut_ptr(),
            )
        };
        // SAFETY: zeroed, and statx writes plain numbers only.
        let x = unsafe { x.assume_init() };
        let known = r == 0 && x.stx_mask & libc::STATX_BTIME != 0;
        let born = (x.stx_btime.tv_sec as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(u64::from(x.stx_btime.tv_nsec));
        Ok(Ident {
            dev: st.st_dev,
            ino: st.st_ino,
            born: if known { born } else { 0 },
        })
    }

    /// Whether `path` still leads to this file; true as well if that can't be told.
    pub fn stands_at(&self, path: &CStr) -> bool {
        use std::os::unix::fs::MetadataExt;
        let path = std::ffi::OsStr::from_bytes(path.to_bytes());
        match (std::fs::metadata(path), stat(&self.fd)) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.st_dev, here.st_ino),
            (Err(e), _) => e.kind() != io::ErrorKind::NotFound,
            _ => true,
        }
    }

    /// Owner, group and permission bits.
    pub fn owner(&self) -> io::Result<Owner> {
        let st = stat(&self.fd)?;
        Ok(Owner {
            uid: st.st_uid,
            gid: st.st_gid,
            mode: st.st_mode & 0o777,
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        Ok(stat(&self.fd)?.st_size as u64)
    }

    /// Reads up to `buf.len()` bytes from the start; answers how many there are.
    pub fn read_start(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            let rest = &mut buf[n..];
            // SAFETY: the buffer is valid for writes of its length.
            let r = retry(|| unsafe {
                libc::pread(
                    self.raw(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    n as libc::off_t,
                ) as i64
            })?;
            if r == 0 {
                break;
            }
            n += r as usize;
        }
        Ok(n)
    }

    /// Replaces the contents by `bytes` and makes them durable.
    pub fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(0, bytes)?;
        self.set_len(bytes.len() as u64)?;
        self.sync()
    }

    fn write_all(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        // The limit can be younger than the file, and lower.
        room_allowed(at.saturating_add(bytes.len() as u64))?;
        let mut n = 0;
        while n < bytes.len() {
            let rest = &bytes[n..];
            // SAFETY: the buffer is valid for reads of its length.
            n += retry(|| unsafe {
                libc::pwrite(
                    self.raw(),
                    rest.as_ptr().cast(),
                    rest.len(),
                    (at + n as u64) as libc::off_t,
                ) as i64
            })? as usize;
        }
        Ok(())
    }

    /// Gives a range its place on the medium; no byte changes, but the file may become longer.
    /// `false` where the file system can't.
    fn allocate(&self, from: u64, to: u64) -> io::Result<bool> {
        let (at, len) = (from as libc::off_t, (to - from) as libc::off_t);
        // SAFETY: the descriptor is open.
        match retry(|| i64::from(unsafe { libc::fallocate(self.raw(), 0, at, len) })) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(false)
            }
            r => r.map(|_| true),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // SAFETY: the descriptor is open.
        retry(|| i64::from(unsafe { libc::ftruncate(self.raw(), len as libc::off_t) })).map(drop)
    }

    /// Returns when data and length are on the medium. Not a point where a thread can be cancelled.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: a system call on an open descriptor.
        retry(|| unsafe { libc::syscall(libc::SYS_fdatasync, self.raw()) } as i64).map(drop)
    }

    /// From now on the number of this descriptor is one of `new`'s description.
    pub fn become_like(&self, new: &Self) -> io::Result<()> {
        // SAFETY: both are open; ours stays the owner of its number.
        retry(|| i64::from(unsafe { libc::dup3(new.raw(), self.raw(), libc::O_CLOEXEC) })).map(drop)
    }

    /// Takes back what [`File::lock_as_user`] said, also for fork children that share the description.
    pub fn unlock_as_user(&self) {
        // If this fails the lock goes with the description.
        let _ = ofd_lock(
            &self.fd,
            libc::F_OFD_SETLK,
            libc::F_UNLCK,
            USER_BYTE,
            1 + WRITERS,
        );
    }

    /// Says that this description uses the file, and whether it may write it. Kept until it is closed.
    pub fn lock_as_user(&self) -> io::Result<()> {
        ofd_lock(&self.fd, libc::F_OFD_SETLK, libc::F_RDLCK, USER_BYTE, 1)?;
        if self.writable {
            // Each writer has a byte of its own: who may only read can't take it.
            for n in 0..WRITERS {
                let taken = ofd_lock(
                    &self.fd,
                    libc::F_OFD_SETLK,
                    libc::F_WRLCK,
                    USER_BYTE + 1 + n,
                    1,
                );
                match taken {
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {}
                    r => return r.map(drop),
                }
            }
        }
        Ok(())
    }

    /// Whether another description uses the file and may write it.
    pub fn has_other_writers(&self) -> io::Result<bool> {
        let found = ofd_lock(
            &self.fd,
            libc::F_OFD_GETLK,
            libc::F_RDLCK,
            USER_BYTE + 1,
            WRITERS,
        )?;
        Ok(found != libc::F_UNLCK)
    }

    /// Whether another description uses the file, in this process or another.
    pub fn has_other_users(&self) -> io::Result<bool> {
        let found = ofd_lock(&self.fd, libc::F_OFD_GETLK, libc::F_WRLCK, USER_BYTE, 1)?;
        Ok(found != libc::F_UNLCK)
    }
}

/// The user that this process acts as.
pub fn effective_user() -> u32 {
    // SAFETY: no precondition.
    unsafe { libc::geteuid() }
}

/// Makes the entry of a new file durable in its directory.
pub fn sync_directory_of(path: &CStr) -> io::Result<()> {
    let bytes = path.to_bytes();
    let dir = match bytes.iter().rposition(|&b| b == b'/') {
        Some(0) => b"/".to_vec(),
        Some(n) => bytes[..n].to_vec(),
        None => b".".to_vec(),
    };
    let dir = std::ffi::CString::new(dir).map_err(|_| errno(libc::EINVAL))?;
    let fd = open_fd(&dir, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    // SAFETY: a system call on an open descriptor.
    match retry(|| unsafe { libc::syscall(libc::SYS_fsync, fd.as_raw_fd()) } as i64) {
        // Some file systems cannot sync a directory, and need not.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EINVAL | libc::ENOTSUP | libc::EROFS)
            ) =>
        {
            Ok(())
        }
        r => r.map(drop),
    }
}

struct Map {
    guard: Guard,
    _map: MmapRaw,
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
    /// [`sigbus::hits`] when no map of this file was torn.
    hits: AtomicUsize,
}

/// The smallest piece that is mapped, in bytes.
const PIECE: u64 = 1 << 20;
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
            file,
            pieces: [const { AtomicUsize::new(0) }; PIECES],
            maps: Mutex::new(Vec::new()),
            base: (0, 0),
            hits: AtomicUsize::new(sigbus::hits()),
        };
        let len = map.known_len().max(1);
        map.reach(len)?;
        map.base = (
            map.pieces[0].load(Relaxed),
            piece_start(piece_of(len - 1) + 1),
        );
        Ok(map)
    }

    /// The file behind the map.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether a page was gone when it was touched: somebody has cut the file off. Pages of zeros
    /// stand in the map since then, so it must not be used any more.
    pub fn is_torn(&self) -> bool {
        let hits = sigbus::hits();
        if hits == self.hits.load(Relaxed) {
            return false;
        }
        let torn = self.maps().iter().any(|m| m.guard.was_hit());
        if !torn {
            self.hits.store(hits, Relaxed);
        }
        torn
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
        let mut options = MmapOptions::new();
        options.offset(start).len(len);
        let map = if self.file.writable {
            options.map_raw(&self.file.fd)?
        } else {
            options.map_raw_read_only(&self.file.fd)?
        };
        maps.try_reserve(1).map_err(|_| Error::Memory)?;
        let address = map.as_mut_ptr() as usize;
        maps.push(Map {
            guard: Guard::new(map.as_mut_ptr(), map.len()),
            _map: map,
        });
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
        // SAFETY: a key has less words than the field, which is mapped, inside the file, and begins at
        // a multiple of 8.
        Ok(key.is_in(|i| unsafe { word_at(field, 8 * i) }))
    }

    #[inline(always)]
    fn fetch(&self, at: u64) {
        if let Some(block) = self.one(at, block::SIZE) {
            // Key, size, and the beginning of the value.
            for line in [0, 128, 192] {
                // SAFETY: inside the same mapped block.
                prefetch(unsafe { block.add(line) });
            }
        }
    }

    #[inline(always)]
    fn load_slot(&self, at: u64) -> Result<Slot> {
        let Some(slot) = self.one(at, 24).filter(|_| at.is_multiple_of(8)) else {
            return plain::load_slot(self, at);
        };
        // SAFETY: 24 mapped bytes at a multiple of 8, inside the file.
        let word = |i: usize| unsafe { word_at(slot, 8 * i) };
        let last = Word(word(2));
        Ok(Slot {
            a: word(0) as i64,
            b: word(1) as i64,
            word: last,
        })
    }

    #[inline(always)]
    fn read_value(&self, at: u64, most: usize, buf: &mut [u8]) -> Result<usize> {
        let field = at.saturating_add(block::VALUE as u64);
        let Some(value) = self.one(field, block::VALUE_LEN) else {
            return plain::read_value(self, at, most, buf);
        };
        // SAFETY: the 4 bytes before the value, at a multiple of 4, in the same mapped page.
        let size = unsafe { &*value.sub(4).cast::<AtomicU32>() }.load(Acquire);
        let size = (u32::from_le(size) as usize)
            .min(most)
            .min(block::VALUE_LEN);
        if let Some(buf) = buf.get_mut(..size) {
            // SAFETY: as many bytes at `value` are mapped and inside the file; as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(value, buf.as_mut_ptr(), size) };
        }
        Ok(size)
    }

    fn store(&self, at: u64, word: u64) -> Result<()> {
        if !self.file.writable || !at.is_multiple_of(8) {
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
        let writable = self.file.writable && at.is_multiple_of(8);
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
        if !self.file.allocate(old, len)? {
            write_zeros(&self.file, old, len)?;
        }
        self.len()?;
        Ok(())
    }

    fn extend(&self, len: u64) -> Result<()> {
        if len > self.len()? {
            room_allowed(len)?;
            self.file.set_len(len)?;
            self.len()?;
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
        Ok(self.file.sync()?)
    }

    fn is_file(&self) -> bool {
        true
    }
}

/// Tells the processor that this address is about to be read.
#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
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

/// Where a file system cannot allocate: zeros are written.
fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0u8; 1 << 16];
    let mut at = from;
    while at < to {
        let n = (to - at).min(zeros.len() as u64);
        file.write_all(at, &zeros[..n as usize])?;
        at += n;
    }
    Ok(())
}
