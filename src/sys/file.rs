//! The database file: opened, locked, grown, synced.

use super::{errno, retry, room_allowed};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

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

/// The file system of linux/magic.h that libc has no name for.
const RAMFS_MAGIC: u32 = 0x8584_58f6;

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

    /// Where something begins at `at` or behind it that is no hole: the length if nothing does, `at` if that can't be
    /// told. The offset of this description, which nobody uses, moves there.
    pub(super) fn next_data(&self, at: u64) -> io::Result<u64> {
        // SAFETY: the descriptor is open.
        match retry(|| unsafe { libc::lseek(self.raw(), at as libc::off_t, libc::SEEK_DATA) }) {
            Ok(data) => Ok(data as u64),
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => self.len(),
            Err(_) => Ok(at),
        }
    }

    /// Reads up to `buf.len()` bytes from the start; answers how many there are.
    pub fn read_start(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.read(0, buf)
    }

    /// Reads up to `buf.len()` bytes from `at` on; answers how many there are.
    pub(super) fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let at = libc::off_t::try_from(at).map_err(|_| errno(libc::EINVAL))?;
        let mut n = 0;
        while n < buf.len() {
            let rest = &mut buf[n..];
            // SAFETY: the buffer is valid for writes of its length.
            let r = retry(|| unsafe {
                libc::pread(
                    self.raw(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    at.saturating_add(n as libc::off_t),
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

    pub(super) fn write_all(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
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

    /// Whether it is on a medium that outlives a power cut, or that can't be told.
    pub(super) fn is_lasting(&self) -> bool {
        let mut fs = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: the descriptor is open and the buffer is large enough.
        if unsafe { libc::fstatfs(self.raw(), fs.as_mut_ptr()) } != 0 {
            return true;
        }
        // SAFETY: fstatfs succeeded and so has filled it.
        let kind = unsafe { fs.assume_init() }.f_type as u32;
        ![libc::TMPFS_MAGIC as u32, RAMFS_MAGIC].contains(&kind)
    }

    /// Gives a range its place on the medium; no byte changes, but the file may become longer.
    /// `false` where the file system can't.
    pub(super) fn allocate(&self, from: u64, to: u64) -> io::Result<bool> {
        let (at, len) = (from as libc::off_t, (to - from) as libc::off_t);
        // SAFETY: the descriptor is open.
        match retry(|| i64::from(unsafe { libc::fallocate(self.raw(), 0, at, len) })) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(false)
            }
            r => r.map(|_| true),
        }
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
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
    // Not that of a link to it.
    let path = std::fs::canonicalize(std::ffi::OsStr::from_bytes(path.to_bytes()))?;
    let dir = path.parent().unwrap_or(&path).as_os_str().as_bytes();
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
