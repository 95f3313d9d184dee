//! The shared objects under /dev/shm: whose they are, who uses them, and removing what nobody uses.
//!
//! A database that is open has `-shm-info` and `-ht`; callers of the C interface add `-cache` and a
//! semaphore. Looking at them changes nothing and keeps nobody waiting.

use crate::error::{Error, Result};
use crate::sys::file::{self, File, Owner};
use crate::sys::lock::Lock as Word;
use crate::sys::shm::{self, Opened, Shm};
use crate::sys::{names, sem, users};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `-shm-info`: what the users of the database share.
    Info,
    /// `-ht`: is only there.
    Tables,
    /// `-cache`: the callers' write cache.
    Cache,
    /// `-sem`: the callers' semaphore.
    Semaphore,
}

/// One file under /dev/shm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The file.
    pub path: PathBuf,
    /// What it is for.
    pub role: Role,
    /// Bytes.
    pub len: u64,
    /// User id of the owner.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The value of a semaphore, if it may be asked.
    pub value: Option<i32>,
}

/// A process that has, or had, a database open; once for each handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Process id, as that process sees it: containers have their own.
    pub pid: u32,
    /// Whether it lives.
    pub alive: bool,
    /// Whether it may write.
    pub writes: bool,
    /// Whether it came with a semaphore, as the middleware does.
    pub with_semaphore: bool,
    /// Whether it is inside open or close.
    pub moving: bool,
}

/// A lock of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// `gate` (open and close), `engine` (every other call) or `callers` (theirs).
    pub name: &'static str,
    /// Who holds it. One that nobody alive holds is free: the next one takes it.
    pub holder: Option<User>,
}

/// The shared objects of one database.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The path by which its first user opened it; `None` if the objects are not of this library (the
    /// original's, or another version's) or may not be read. Then nothing below but `objects` is known.
    pub file: Option<PathBuf>,
    /// Device and inode number of the database file.
    pub ident: (u64, u64),
    /// Its users, alive and dead.
    pub users: Vec<User>,
    /// Its locks.
    pub locks: Vec<Lock>,
    /// How many handles the callers count.
    pub ref_count: u16,
    /// Whether the callers' cache holds changes that are not in the file yet.
    pub cached: bool,
    /// The objects.
    pub objects: Vec<Object>,
    /// Names of the `-shm-info` object.
    names: Vec<Vec<u8>>,
}

impl Shared {
    /// Whether a living process uses it.
    pub fn is_used(&self) -> bool {
        self.users.iter().any(|u| u.alive)
    }

    /// Whether these are the objects of the file at `path`.
    pub fn is_of(&self, path: &Path) -> bool {
        let of_file = std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == self.ident);
        let name = names::shm_name(names::INFO, path.as_os_str().as_encoded_bytes());
        of_file || self.names.contains(&name)
    }

    /// Removes the objects, if no living process uses them. What is not of this library stays, and so
    /// does a cache with changes: the next opener writes them to the file.
    ///
    /// # Errors
    /// [`Error::Access`] with the reason why they stay; [`Error::OpenShm`].
    pub fn clean(&self) -> Result<()> {
        let (Some(path), Some(name)) = (&self.file, self.names.first()) else {
            return Err(Error::Access(
                "not of this library: who uses it can't be told",
            ));
        };
        let seen = Shm::view(name).ok_or(Error::Access("gone meanwhile"))?;
        let Opened::Ours(shm) = Shm::open(name, seen.ident(), self.owner(path))? else {
            return Err(Error::Access("it belongs to another user"));
        };
        let me = shm.claim(0)?;
        let users = shm.users();
        let ticket = users.ticket(me);
        shm.gate()
            .lock(ticket, |t, ask| t == ticket || users.holds(t, ask));
        let why_not = if !users.living(me).is_empty() {
            Some("in use")
        } else if shm.shared().cache_created.load(Relaxed) != 0 {
            Some("its cache holds changes: open the file once as its application does")
        } else {
            // Before the one that others wait at: behind that they make new ones under these names.
            for o in self.objects.iter().filter(|o| o.role != Role::Info) {
                let _ = std::fs::remove_file(&o.path);
            }
            shm.retire();
            None
        };
        users.leave(me);
        shm.gate().unlock(ticket);
        users.release(me);
        why_not.map_or(Ok(()), |why| Err(Error::Access(why)))
    }

    /// The owner of the database file. Where that is gone root may clean up after anybody, others
    /// after themselves.
    fn owner(&self, path: &Path) -> Owner {
        let found = CString::new(path.as_os_str().as_encoded_bytes())
            .ok()
            .and_then(|p| File::open(&p, false).ok())
            .filter(|f| f.ident().is_ok_and(|i| (i.dev, i.ino) == self.ident))
            .and_then(|f| f.owner().ok());
        let me = file::effective_user();
        found.unwrap_or(Owner {
            uid: match self.objects.first() {
                Some(o) if me == 0 => o.uid,
                _ => me,
            },
            gid: u32::MAX,
            mode: 0,
        })
    }
}

/// All databases with shared objects, ordered by path.
pub fn list() -> Vec<Shared> {
    let mut found: Vec<(Vec<u8>, u64)> = Vec::new();
    shm::each_object(|name, inode| found.push((name.to_vec(), inode)));
    found.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut out: Vec<Shared> = found
        .chunk_by(|a, b| a.1 == b.1)
        .map(|names| read(names.iter().map(|n| n.0.clone()).collect()))
        .collect();
    out.sort_by(|a, b| (&a.file, &a.names).cmp(&(&b.file, &b.names)));
    out
}

fn read(names: Vec<Vec<u8>>) -> Shared {
    let mut shared = Shared {
        file: None,
        ident: (0, 0),
        users: Vec::new(),
        locks: Vec::new(),
        ref_count: 0,
        cached: false,
        objects: names.iter().flat_map(|n| objects_of(n)).collect(),
        names,
    };
    let Some(shm) = shared.names.first().and_then(|n| Shm::view(n)) else {
        return shared;
    };
    let records = shm.users();
    let user = |n: u32| -> Option<User> {
        let r = records.records.get(n as usize)?;
        let flags = r.flags.load(Relaxed);
        Some(User {
            pid: r.pid.load(Relaxed),
            alive: records.alive(n),
            writes: flags & users::WRITER != 0,
            with_semaphore: flags & users::WITH_SEM != 0,
            moving: flags & users::MOVING != 0,
        })
    };
    let used = |n: &u32| {
        let r = records.records.get(*n as usize);
        r.is_some_and(|r| r.used.load(Relaxed) != 0)
    };
    let lock = |name: &'static str, word: &Word| Lock {
        name,
        holder: word
            .holder()
            .and_then(|t| records.of_ticket(t))
            .and_then(user),
    };
    let ident = shm.ident();
    let mut path = shm.stem();
    // The stem of a file whose plain name was another's.
    let other = names::other_stem(b"", ident.dev, ident.ino);
    path.truncate(
        path.strip_suffix(&other[..])
            .map_or(path.len(), <[u8]>::len),
    );
    shared.file = Some(OsString::from_vec(path).into());
    shared.ident = (ident.dev, ident.ino);
    shared.users = (0..records.high()).filter(used).filter_map(user).collect();
    shared.locks = vec![
        lock("gate", shm.gate()),
        lock("engine", shm.engine()),
        lock("callers", &shm.shared().callers),
    ];
    shared.ref_count = shm.shared().ref_count.load(Relaxed);
    shared.cached = shm.shared().cache_created.load(Relaxed) != 0;
    shared
}

/// The objects that go with an `-shm-info` of this name, as far as they are there.
fn objects_of(info: &[u8]) -> Vec<Object> {
    let stem = info.strip_suffix(names::INFO).unwrap_or(info);
    let roles = [
        (Role::Info, names::INFO),
        (Role::Tables, names::HT),
        (Role::Cache, names::CACHE),
        (Role::Semaphore, names::SEM),
    ];
    let mut out = Vec::new();
    for (role, tail) in roles {
        let name = [stem, tail].concat();
        let bare = name.strip_prefix(b"/").unwrap_or(&name);
        let file = match role {
            Role::Semaphore => [names::SEM_FILE, bare].concat(),
            _ => bare.to_vec(),
        };
        let path = Path::new(names::SHM_DIR).join(OsString::from_vec(file));
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        out.push(Object {
            path,
            role,
            len: meta.len(),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode() & 0o7777,
            value: match role {
                Role::Semaphore => sem::value_of(&name),
                _ => None,
            },
        });
    }
    out
}
