//! The shared objects: `-shm-info`, which holds all that users share, and `-ht`, which is only there.
//!
//! An object comes into being whole: it is filled before it gets its name. It records which file
//! it belongs to. The last user retires it, then removes its name; whoever had opened it before
//! that sees so and begins again.

use super::file::{Ident, Owner, above_standard, effective_user};
use super::lock::Lock;
use super::sigbus::{Guard, Torn};
use super::users::{self, User, Users};
use super::{allocate, errno, last_error, names, retry, room_allowed};
use crate::engine::State;
use crate::error::{Error, Result};
use memmap2::{MmapOptions, MmapRaw};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI16, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// What callers see at the start of the object; the layout is that of `Shared_Data_s`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Shared {
    /// Not used here.
    pub ht_shm_size: AtomicU64,
    /// Not used here.
    pub ht_num: AtomicU16,
    /// Living handles with a semaphore whose callers have counted them.
    pub ref_count: AtomicU16,
    /// Strongest open mode among the users.
    pub open_mode: AtomicU16,
    /// Write mode of the first user.
    pub write_mode: AtomicU16,
    /// Kdb_true while the caller's write cache exists.
    pub cache_created: AtomicI16,
    pad: [AtomicU16; 3],
    /// The callers' lock: 56 bytes that they reach through our functions only.
    pub callers: Lock,
    rwlock_rest: [AtomicU32; 13],
    /// The 2019 callers' mutex. Not ours.
    mutex: [AtomicU64; size_of::<libc::pthread_mutex_t>() / 8],
    /// Not ours.
    mutex_init: AtomicU64,
    /// Not used here.
    pub mapped_db_size: AtomicU64,
}

const _: () = {
    let room = offset_of!(Shared, mutex) - offset_of!(Shared, callers);
    assert!(room == size_of::<libc::pthread_rwlock_t>());
};

/// The whole object.
#[repr(C)]
struct Object {
    shared: Shared,
    magic: AtomicU64,
    dev: AtomicU64,
    ino: AtomicU64,
    born: AtomicU64,
    /// 1 once its last user has gone.
    retired: AtomicU32,
    /// Held inside open and close.
    gate: Lock,
    /// Held inside every other call.
    engine: Lock,
    /// Behind the last user record that was ever used.
    high: AtomicU32,
    /// 1 once a user came with a semaphore.
    with_sem: AtomicU32,
    coming_and_going: ComingAndGoing,
    state: State,
    /// Stem of the names: the path of the first user, or with device and inode appended.
    stem: [AtomicU64; 32],
    users: [User; users::MOST as usize],
}

/// What is known of the callers' semaphore, for [`super::sem::rescue`]. Guarded by nothing: a wrong value
/// costs a moment.
#[derive(Debug)]
#[repr(C)]
pub struct ComingAndGoing {
    /// Since when the semaphore is at 0 without anybody alive who may hold it, in milliseconds of
    /// the monotonic clock; 0: it is not.
    pub orphaned: AtomicU64,
    /// When somebody with a semaphore has last come or gone.
    pub last: AtomicU64,
    /// How often that happened: while this stays, the semaphore has one holder at most.
    count: AtomicU32,
}

impl ComingAndGoing {
    /// Somebody with a semaphore comes or goes.
    pub fn note(&self) {
        self.count.fetch_add(1, Relaxed);
        self.last.store(super::sem::now(), Relaxed);
        self.orphaned.store(0, Relaxed);
    }

    /// This user is not the one who holds the semaphore, which is at 0.
    pub fn clear(&self, user: &User) {
        let count = self.count.load(Relaxed);
        user.cleared.store(count.wrapping_add(1), Relaxed);
    }

    /// Whether [`ComingAndGoing::clear`] was said since somebody has come or gone: so it still holds.
    pub fn is_cleared(&self, user: &User) -> bool {
        user.cleared.load(Relaxed) == self.count.load(Relaxed).wrapping_add(1)
    }
}

/// "kissdb" and the version of this layout.
const MAGIC: u64 = u64::from_le_bytes(*b"kissdb\x02\x03");
const SIZE: usize = size_of::<Object>();
/// Records that get their memory at once; more are allocated as they are needed.
const FIRST_USERS: usize = 32;
const FIRST: usize = std::mem::offset_of!(Object, users) + FIRST_USERS * size_of::<User>();

/// One user's view of the object.
pub struct Shm {
    /// Stays where it is: callers hold its address, also in a fork child.
    map: Arc<Mapped>,
    fd: OwnedFd,
    /// The name under which it was opened.
    name: Vec<u8>,
}

struct Mapped {
    map: MmapRaw,
    guard: Guard,
}

/// What stands under a name.
pub enum Opened {
    /// The object of our file.
    Ours(Shm),
    /// Something that must not be touched: another file's, or a stranger's.
    NotOurs,
    /// Nothing.
    Absent,
}

/// What a look at a name found.
enum Look {
    /// An object of this library, and whether it is that of the file.
    Object(Shm, bool),
    /// Something whose owner may not write the file.
    Stranger,
    /// Something of the file's owner that is no object of ours.
    Garbage(OwnedFd),
    /// Nothing.
    Absent,
}

/// Calls `f` with name and inode number of every `-shm-info` object there is.
pub fn each_object(mut f: impl FnMut(&[u8], u64)) {
    use std::os::unix::{ffi::OsStrExt, fs::DirEntryExt};
    let Ok(dir) = std::fs::read_dir(names::SHM_DIR) else {
        return;
    };
    for entry in dir.flatten() {
        let name = [b"/", entry.file_name().as_bytes()].concat();
        if name.ends_with(names::INFO) {
            f(&name, entry.ino());
        }
    }
}

pub(super) fn inode_of(path: &CStr) -> Option<u64> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string and a buffer that is large enough.
    let r = unsafe { libc::lstat(path.as_ptr(), st.as_mut_ptr()) };
    // SAFETY: filled if the call succeeded.
    (r == 0).then(|| unsafe { st.assume_init() }.st_ino)
}

/// Gives what has no name yet this one.
pub(super) fn link_fd(fd: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let path = names::shm_path(name).ok_or_else(|| errno(libc::ENAMETOOLONG))?;
    let from = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|_| errno(libc::EINVAL))?;
    let linked = retry(|| {
        // SAFETY: two C strings.
        i64::from(unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        })
    });
    linked.map(drop)
}

fn open_object(name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // SAFETY: a C string; with O_CREAT the mode is given.
    let fd = retry(|| i64::from(unsafe { libc::open(name.as_ptr(), flags, 0o600) }))?;
    // SAFETY: just opened, owned by nobody else.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Gives an object the owner, group and permissions of the database file, as far as we may.
pub fn give_to(fd: i32, owner: Owner) {
    // SAFETY: system calls on a descriptor; what is not permitted is left as it is.
    unsafe {
        if libc::fchown(fd, owner.uid, owner.gid) != 0 {
            libc::fchown(fd, u32::MAX, owner.gid);
        }
        // The owner of a file that he has made read-only still shares it among his processes.
        libc::fchmod(fd, (owner.mode | 0o600) & 0o666);
    }
}

/// Whether an object of this owner can come from somebody who may write the file.
pub(super) fn is_trusted(st: &libc::stat, file: Owner) -> bool {
    let me = effective_user();
    st.st_uid == 0
        || st.st_uid == me
        || st.st_uid == file.uid
        || (file.mode & 0o020 != 0 && st.st_gid == file.gid)
        || file.mode & 0o002 != 0
}

impl Shm {
    /// Looks at what stands under `name`. What nobody can own any more, a leftover of the original
    /// or garbage, is removed.
    ///
    /// # Errors
    /// [`Error::OpenShm`], [`Error::MapShm`].
    pub fn open(name: &[u8], file: Ident, owner: Owner) -> Result<Opened> {
        Ok(match Self::look(name, file, owner)? {
            Look::Object(shm, true) => Opened::Ours(shm),
            // Left over from a file that is gone: its number has been given to ours.
            Look::Object(shm, false)
                if shm.ident().is_before(file) && !Users::any_lock(&shm.fd).unwrap_or(true) =>
            {
                unlink(name);
                Opened::Absent
            }
            Look::Object(_, false) | Look::Stranger => Opened::NotOurs,
            Look::Absent => Opened::Absent,
            Look::Garbage(fd) => {
                if Users::any_lock(&fd).map_err(Error::OpenShm)? {
                    return Err(Error::OpenShm(errno(libc::EBUSY)));
                }
                unlink(name);
                Opened::Absent
            }
        })
    }

    fn look(name: &[u8], file: Ident, owner: Owner) -> Result<Look> {
        let path =
            names::shm_path(name).ok_or_else(|| Error::OpenShm(errno(libc::ENAMETOOLONG)))?;
        let fd = match open_object(&path, 0) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Look::Absent),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ELOOP | libc::EISDIR | libc::ENXIO)
                ) =>
            {
                return Ok(Look::Stranger);
            }
            Err(e) => return Err(Error::OpenShm(e)),
        };
        let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the descriptor is open and the buffer is large enough.
        if unsafe { libc::fstat(fd.as_raw_fd(), st.as_mut_ptr()) } != 0 {
            return Err(Error::OpenShm(last_error()));
        }
        // SAFETY: fstat succeeded and so has filled it.
        let st = unsafe { st.assume_init() };
        if st.st_mode & libc::S_IFMT != libc::S_IFREG || !is_trusted(&st, owner) {
            return Ok(Look::Stranger);
        }
        if st.st_size as u64 != SIZE as u64 || (st.st_blocks as usize) < FIRST / 512 {
            return Ok(Look::Garbage(fd));
        }
        let shm = Self::map(fd, name)?;
        let o = shm.object();
        if o.magic.load(Acquire) != MAGIC {
            return Ok(Look::Garbage(shm.fd));
        }
        let ours = shm.ident() == file;
        Ok(Look::Object(shm, ours))
    }

    fn map(fd: OwnedFd, name: &[u8]) -> Result<Self> {
        let map = MmapOptions::new()
            .len(SIZE)
            .map_raw(&fd)
            .map_err(Error::MapShm)?;
        let guard = Guard::new(map.as_mut_ptr(), SIZE, None).ok_or(Error::Memory)?;
        Ok(Self {
            map: Arc::new(Mapped { map, guard }),
            fd,
            name: name.to_vec(),
        })
    }

    /// Makes the object of `file` under `name`, with its maker as user 0 inside the gate; `None` if
    /// there is one meanwhile. Without a name nobody else finds it.
    ///
    /// # Errors
    /// [`Error::OpenShm`], [`Error::ResizeShm`], [`Error::MapShm`]; nothing is left behind.
    pub fn create(
        name: Option<&[u8]>,
        stem: &[u8],
        file: Ident,
        owner: Owner,
        flags: u32,
    ) -> Result<Option<Self>> {
        let info = names::shm_name(names::INFO, stem);
        names::shm_path(name.unwrap_or(&info))
            .ok_or_else(|| Error::OpenShm(errno(libc::ENAMETOOLONG)))?;
        let dir = CString::new(names::SHM_DIR).map_err(|_| Error::OpenShm(errno(libc::EINVAL)))?;
        // Without a name until it is whole: nobody can see it half-made, and if we die it is gone.
        let fd = open_object(&dir, libc::O_TMPFILE).map_err(Error::OpenShm)?;
        room_allowed(SIZE as u64).map_err(Error::ResizeShm)?;
        // SAFETY: a call on an open descriptor.
        retry(|| i64::from(unsafe { libc::ftruncate(fd.as_raw_fd(), SIZE as libc::off_t) }))
            .map_err(Error::ResizeShm)?;
        allocate(fd.as_raw_fd(), 0, FIRST).map_err(Error::ResizeShm)?;
        give_to(fd.as_raw_fd(), owner);
        let shm = Self::map(fd, name.unwrap_or_default())?;
        let o = shm.object();
        o.dev.store(file.dev, Relaxed);
        o.ino.store(file.ino, Relaxed);
        o.born.store(file.born, Relaxed);
        for (word, bytes) in o.stem.iter().zip(stem.chunks(8)) {
            let mut b = [0; 8];
            b[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(b), Relaxed);
        }
        let me = shm.claim(flags)?;
        o.gate.lock(shm.users().ticket(me), |_, _| false);
        o.magic.store(MAGIC, Release);
        let Some(name) = name else {
            return Ok(Some(shm));
        };
        match link_fd(&shm.fd, name) {
            Ok(()) => Ok(Some(shm)),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(None),
            Err(e) => Err(Error::OpenShm(e)),
        }
    }

    fn object(&self) -> &Object {
        // SAFETY: SIZE bytes are mapped, page-aligned, for as long as `self` lives, and all fields
        // are atomics, for which every bit pattern is valid. Memory is allocated up to FIRST and for
        // every record below `high`; nothing else is touched.
        unsafe { &*self.map.map.as_ptr().cast::<Object>() }
    }

    /// What callers see, at the address that they get.
    pub fn shared(&self) -> &Shared {
        &self.object().shared
    }

    /// What the engines share.
    pub fn state(&self) -> &State {
        &self.object().state
    }

    /// The lock that is held inside open and close.
    pub fn gate(&self) -> &Lock {
        &self.object().gate
    }

    /// The lock that is held inside every other call.
    pub fn engine(&self) -> &Lock {
        &self.object().engine
    }

    /// The user records.
    pub fn users(&self) -> Users<'_> {
        let o = self.object();
        Users {
            records: &o.users,
            high: &o.high,
            fd: &self.fd,
        }
    }

    /// Takes a user record.
    ///
    /// # Errors
    /// [`Error::OpenShm`] if there are too many users, [`Error::ResizeShm`] without memory.
    pub fn claim(&self, flags: u32) -> Result<u32> {
        let room = |n: u32| {
            let at = std::mem::offset_of!(Object, users) + n as usize * size_of::<User>();
            if at + size_of::<User>() <= FIRST {
                return Ok(());
            }
            allocate(self.fd.as_raw_fd(), at, at + size_of::<User>())
        };
        self.users()
            .claim(flags, room)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOSPC) => Error::ResizeShm(e),
                _ => Error::OpenShm(e),
            })
    }

    /// See [`super::sem::rescue`].
    pub fn coming_and_going(&self) -> &ComingAndGoing {
        &self.object().coming_and_going
    }

    /// Whether somebody alive is where a holder of the semaphore would be: inside open or close, or in
    /// the callers' lock as a closer. `me`: the user that asks.
    pub fn is_anybody_inside(&self, me: Option<u32>) -> bool {
        let users = self.users();
        let records = (0..users.high()).filter_map(|n| Some((n, users.records.get(n as usize)?)));
        records.into_iter().any(|(n, r)| {
            let flags = r.flags.load(Relaxed);
            flags & users::WITH_SEM != 0
                && flags & (users::MOVING | users::SUSPECT) != 0
                && (Some(n) == me || users.alive(n))
        })
    }

    /// The object under a name, for reading only: nothing of it can be changed through the answer, and
    /// who made it does not matter. `None` if it is not of this library, or may not be read.
    pub fn view(name: &[u8]) -> Option<Self> {
        let path = names::shm_path(name)?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        // SAFETY: a C string.
        let fd = retry(|| i64::from(unsafe { libc::open(path.as_ptr(), flags) })).ok()?;
        // SAFETY: just opened, owned by nobody else.
        let fd = above_standard(unsafe { OwnedFd::from_raw_fd(fd as i32) }).ok()?;
        let st = super::file::stat(&fd).ok()?;
        if st.st_mode & libc::S_IFMT != libc::S_IFREG || st.st_size as u64 != SIZE as u64 {
            return None;
        }
        let map = MmapOptions::new().len(SIZE).map_raw_read_only(&fd).ok()?;
        let guard = Guard::new(map.as_mut_ptr(), SIZE, None)?;
        let shm = Self {
            map: Arc::new(Mapped { map, guard }),
            fd,
            name: name.to_vec(),
        };
        (shm.object().magic.load(Acquire) == MAGIC).then_some(shm)
    }

    /// Which file it belongs to.
    pub fn ident(&self) -> Ident {
        let o = self.object();
        Ident {
            dev: o.dev.load(Relaxed),
            ino: o.ino.load(Relaxed),
            born: o.born.load(Relaxed),
        }
    }

    /// The object under a name, whatever file it belongs to, to be looked at only.
    pub fn any(name: &[u8], owner: Owner) -> Option<Self> {
        let nobody = Ident {
            dev: 0,
            ino: 0,
            born: 0,
        };
        match Self::look(name, nobody, owner).ok()? {
            Look::Object(shm, _) => Some(shm),
            _ => None,
        }
    }

    /// Whether its last user has removed it.
    pub fn is_retired(&self) -> bool {
        self.object().retired.load(Acquire) != 0
    }

    /// The stem of the names that were made with this object. It counts only if it leads here: nothing
    /// must be made or removed under a name that some garbage spells.
    pub fn stem(&self) -> Vec<u8> {
        let words = self
            .object()
            .stem
            .iter()
            .flat_map(|w| w.load(Relaxed).to_le_bytes());
        let stem: Vec<u8> = words.take_while(|&b| b != 0).collect();
        let name = names::shm_name(names::INFO, &stem);
        let leads_here = || {
            let path = names::shm_path(&name);
            path.is_some_and(|p| inode_of(&p) == Some(self.place().1))
        };
        if name == self.name || self.is_nameless() || leads_here() {
            return stem;
        }
        let own = self.name.strip_prefix(b"/").unwrap_or(&self.name);
        own.strip_suffix(names::INFO).unwrap_or(own).to_vec()
    }

    /// Nobody uses it any more: its names, and those of `-ht` and the semaphore, are removed. Under
    /// the gate; may be repeated, after a death in here.
    pub fn retire(&self) {
        self.object().retired.store(1, Release);
        let (_, ino, links) = self.place();
        if links == 0 {
            return;
        }
        let with_sem = self.object().with_sem.load(Relaxed) != 0;
        let remove = |name: &[u8]| {
            if let Some(stem) = name.strip_suffix(names::INFO) {
                unlink(&[stem, names::HT].concat());
                if with_sem {
                    super::sem::unlink(&[stem, names::SEM].concat());
                }
            }
            unlink(name);
        };
        // Without a descriptor to spare the directory can't be read: our own name goes first.
        let is_ours = |name: &[u8]| {
            let path = names::shm_path(name);
            path.is_some_and(|p| inode_of(&p) == Some(ino))
        };
        if is_ours(&self.name) {
            remove(&self.name);
        }
        if links > 1 {
            each_object(|name, at| {
                if at == ino {
                    remove(name);
                }
            });
        }
    }

    /// Whether it was made for one reader alone.
    pub fn is_nameless(&self) -> bool {
        self.name.is_empty()
    }

    /// Whether it still stands under the name by which it was opened.
    pub fn has_name(&self) -> bool {
        let path = names::shm_path(&self.name);
        path.is_some_and(|p| inode_of(&p) == Some(self.place().1))
    }

    /// A retired object whose name can't be removed, because it is another user's, serves again, as
    /// new. Under the gate.
    pub fn revive(&self) {
        let o = self.object();
        o.state.reset();
        for word in [
            &o.shared.ref_count,
            &o.shared.open_mode,
            &o.shared.write_mode,
        ] {
            word.store(0, Relaxed);
        }
        o.shared.cache_created.store(0, Relaxed);
        o.with_sem.store(0, Relaxed);
        o.retired.store(0, Release);
    }

    /// Remembers that there is a semaphore beside it.
    pub fn has_sem(&self) {
        self.object().with_sem.store(1, Relaxed);
    }

    /// Device, inode number and number of names.
    fn place(&self) -> (u64, u64, u64) {
        let mut st = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the descriptor is open and the buffer is large enough.
        unsafe { libc::fstat(self.fd.as_raw_fd(), st.as_mut_ptr()) };
        // SAFETY: zeroed, or filled by fstat.
        let st = unsafe { st.assume_init() };
        // 32 bits on some architectures.
        #[allow(clippy::unnecessary_cast)]
        let names = st.st_nlink as u64;
        (st.st_dev, st.st_ino, names)
    }

    /// A number that orders objects.
    pub fn number(&self) -> u64 {
        self.place().1
    }

    /// The object of a file that is open under another path.
    pub fn find(file: Ident, owner: Owner, except: Option<u64>) -> Option<Self> {
        let mut candidates = Vec::new();
        each_object(|name, ino| {
            if Some(ino) != except {
                candidates.push(name.to_vec());
            }
        });
        candidates
            .into_iter()
            .find_map(|name| match Self::peek(&name, file, owner) {
                Some(shm) if !shm.is_retired() => Some(shm),
                _ => None,
            })
    }

    /// The object under `name` if it is this file's; nothing is removed.
    fn peek(name: &[u8], file: Ident, owner: Owner) -> Option<Self> {
        match Self::look(name, file, owner).ok()? {
            Look::Object(shm, true) => Some(shm),
            _ => None,
        }
    }

    /// Gives the object one more name; whether it has it now.
    pub fn add_name(&self, name: &[u8]) -> bool {
        link_fd(&self.fd, name).is_ok()
    }

    /// The same object, at the same address, through a description of its own: for a fork child.
    ///
    /// # Errors
    /// [`Error::OpenShm`].
    pub fn reopen(&self) -> Result<Self> {
        let path = CString::new(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
            .map_err(|_| Error::OpenShm(errno(libc::EINVAL)))?;
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: a C string.
        let fd = retry(|| i64::from(unsafe { libc::open(path.as_ptr(), flags) }))
            .map_err(Error::OpenShm)?;
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self {
            map: self.map.clone(),
            fd: above_standard(fd).map_err(Error::OpenShm)?,
            name: self.name.clone(),
        })
    }

    /// Puts this object where `old` was mapped, so that addresses into that one lead here.
    ///
    /// # Errors
    /// [`Error::MapShm`].
    pub fn in_place_of(&self, old: &Self) -> Result<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
        );
        // SAFETY: replaces a mapping of ours of the same size; all that points into it are atomics
        // of the same layout, which the new pages have as well.
        let p = unsafe {
            libc::mmap(
                old.map.map.as_mut_ptr().cast(),
                SIZE,
                prot,
                flags,
                self.fd.as_raw_fd(),
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(Error::MapShm(last_error()));
        }
        let fd = self.fd.try_clone().map_err(Error::OpenShm)?;
        Ok(Self {
            map: old.map.clone(),
            fd,
            name: self.name.clone(),
        })
    }

    /// Whether a page of it was gone when it was touched.
    pub fn torn(&self) -> &'static Torn {
        self.map.guard.torn()
    }

    /// Descriptor of the object.
    pub fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Removes a shared object's name.
pub fn unlink(name: &[u8]) {
    if let Some(path) = names::shm_path(name) {
        // SAFETY: a C string.
        unsafe { libc::unlink(path.as_ptr()) };
    }
}

/// Makes sure that an object of this name exists (`-ht`; its contents do not matter).
pub fn touch(name: &[u8], owner: Owner) -> Option<OwnedFd> {
    let path = names::shm_path(name)?;
    if let Ok(fd) = open_object(&path, libc::O_CREAT | libc::O_EXCL) {
        give_to(fd.as_raw_fd(), owner);
        return Some(fd);
    }
    open_object(&path, 0).ok()
}
