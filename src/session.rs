//! One open handle: the file, its shared object, an engine, and the locks around every call.
//!
//! Both doors, the C functions and [`crate::Database`], go through here.

use crate::engine::state::phase;
use crate::engine::storage::Overlay;
use crate::engine::{Engine, Position, State, Storage};
use crate::error::{Error, Result};
use crate::format::Sizes;
use crate::format::header::{self, Header};
use crate::sys::file::{self, File, FileMap, Owner};
use crate::sys::sem::Sem;
use crate::sys::shm::{self, Opened, Shm};
use crate::sys::{fork, names, sem, users};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

/// How a handle opens its file. The numbers are those of the C interface; a larger one allows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The file must exist and is never written.
    ReadOnly = 1,
    /// The file must exist.
    ReadWrite = 2,
    /// The file is made if there is none.
    Create = 3,
    /// The file is emptied, or made; nobody else may have it open.
    Replace = 4,
}

impl Mode {
    /// The mode of a `KISSDB_OPEN_MODE_*` number.
    pub fn from_number(n: i32) -> Option<Self> {
        Some(match n {
            1 => Self::ReadOnly,
            2 => Self::ReadWrite,
            3 => Self::Create,
            4 => Self::Replace,
            _ => return None,
        })
    }
}

/// What an open needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The file.
    pub path: &'a CStr,
    /// How.
    pub mode: Mode,
    /// What callers find in the shared struct; any number.
    pub write_mode: u16,
    /// Sizes of a new file: slots a table, key, value.
    pub sizes: (u64, u64, u64),
    /// The caller's semaphore.
    pub sem: Option<Sem>,
}

/// Where the engine of a handle works.
enum Medium {
    File(FileMap),
    /// A read-only handle that had to recover.
    Memory(Overlay<FileMap>),
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Storage for Medium {
            $(fn $name(&self, $($arg: $type),*) -> $answer {
                match self {
                    Self::File(s) => s.$name($($arg),*),
                    Self::Memory(s) => s.$name($($arg),*),
                }
            })*
        }
    };
}

forward! {
    len() -> Result<u64>;
    known_len() -> u64;
    read(at: u64, buf: &mut [u8]) -> Result<()>;
    load(at: u64) -> Result<u64>;
    store(at: u64, word: u64) -> Result<()>;
    grow(len: u64) -> Result<()>;
    truncate(len: u64) -> Result<()>;
    fill_holes() -> Result<()>;
    sync() -> Result<()>;
    is_file() -> bool;
}

/// The words that engines share, or those of a handle that recovers for itself.
enum Words {
    Shared(Arc<Shm>),
    Private(Box<State>),
}

impl Medium {
    fn is_torn(&self) -> bool {
        match self {
            Self::File(map) => map.is_torn(),
            Self::Memory(changes) => changes.below().is_torn(),
        }
    }
}

impl AsRef<State> for Words {
    fn as_ref(&self) -> &State {
        match self {
            Self::Shared(shm) => shm.state(),
            Self::Private(state) => state,
        }
    }
}

/// An open handle.
pub struct Session {
    shm: Arc<Shm>,
    /// Number of our user record.
    me: u32,
    engine: Engine<Medium, Words>,
    /// The description that the locks hang on, for ours alone: its view of write errors is not
    /// used up by the caller's syncs.
    file: File,
    /// The description whose number the caller gets.
    callers_file: File,
    ht: Option<OwnedFd>,
    sem: Option<Sem>,
    mode: Mode,
    path: CString,
    /// The process that this handle was made in; see [`fork::generation`].
    process: u64,
}

/// Holds a lock of the shared object and gives it back, also when a call panics.
struct Held {
    shm: Arc<Shm>,
    ticket: u32,
    gate: bool,
}

impl Held {
    fn gate(shm: &Arc<Shm>, me: u32) -> Self {
        let ticket = shm.users().ticket(me);
        shm.gate()
            .lock(ticket, |t| t == ticket || shm.users().holds(t));
        Self::gate_held(shm, me)
    }

    /// The gate, which is held already.
    fn gate_held(shm: &Arc<Shm>, me: u32) -> Self {
        Self {
            shm: shm.clone(),
            ticket: shm.users().ticket(me),
            gate: true,
        }
    }

    fn engine(shm: &Arc<Shm>, me: u32) -> Self {
        let ticket = shm.users().ticket(me);
        shm.engine()
            .lock(ticket, |t| t == ticket || shm.users().holds(t));
        Self {
            shm: shm.clone(),
            ticket,
            gate: false,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let lock = if self.gate {
            self.shm.gate()
        } else {
            self.shm.engine()
        };
        lock.unlock(self.ticket);
    }
}

/// Growing past 2 GiB is allowed by the environment variable `KISSDB_LARGE_FILES=1`.
fn large_files() -> bool {
    std::env::var_os("KISSDB_LARGE_FILES").is_some_and(|v| v == "1")
}

impl Session {
    /// Opens a database.
    ///
    /// # Errors
    /// As `KISSDB_open` answers; nothing stays locked or open.
    pub fn open(request: &Request) -> Result<Self> {
        let (file, created) = open_file(request)?;
        let owner = file.owner()?;
        let (shm, me, gate) = join(request, &file, owner)?;
        let opened = Self::open_inside(request, file, created, &shm, me, owner);
        if opened.is_err() {
            let alone = shm.users().living(me).is_empty();
            if alone {
                shm.retire();
            }
            // The record last: until then a waiter sees the gate held by somebody alive.
            drop(gate);
            shm.users().release(me);
        }
        opened
    }

    fn open_inside(
        request: &Request,
        file: File,
        created: bool,
        shm: &Arc<Shm>,
        me: u32,
        owner: Owner,
    ) -> Result<Self> {
        let others = shm.users().living(me);
        let shared = shm.shared();
        if others.is_empty() {
            shm.state().reset();
            shared.ref_count.store(0, Relaxed);
        }
        if request.mode == Mode::Replace && (!others.is_empty() || file.has_other_users()?) {
            return Err(Error::Access("in use by others"));
        }
        prepare_header(request, &file, created)?;
        let writable = request.mode != Mode::ReadOnly;
        // Both before the caller can touch either: it gets numbers of descriptors that stay ours.
        let callers_file = file.reopen(writable)?;
        let map = FileMap::new(file.reopen(writable)?)?;
        let engine = {
            let _held = Held::engine(shm, me);
            open_engine(map, shm, writable)?
        };
        let users = shm.users();
        // Whoever opened before us has been counted by its caller meanwhile.
        let mut counted = 0;
        for &n in &others {
            if let Some(r) = users.records.get(n as usize) {
                counted += u16::from(r.flags.load(Relaxed) & users::WITH_SEM != 0);
            }
        }
        if request.sem.is_some() {
            shm.has_sem();
            shared.ref_count.store(counted, Relaxed);
        }
        let mode = request.mode as u16;
        if shared.open_mode.load(Relaxed) == 0 {
            shared.write_mode.store(request.write_mode, Relaxed);
        }
        shared.open_mode.fetch_max(mode, Relaxed);
        let flags = own_flags(request) & !users::MOVING;
        if let Some(r) = users.records.get(me as usize) {
            r.mode.store(u32::from(mode), Relaxed);
            r.flags.store(flags, Relaxed);
        }
        let ht = shm::touch(&names::shm_name(names::HT, &shm.stem()), owner);
        Ok(Self {
            shm: shm.clone(),
            me,
            engine,
            file,
            callers_file,
            ht,
            sem: request.sem,
            mode: request.mode,
            path: request.path.to_owned(),
            process: fork::generation(),
        })
    }

    /// Whether this is a fork child of the process that opened the handle.
    pub fn is_inherited(&self) -> bool {
        self.process != fork::generation()
    }

    /// The first call of a fork child on an inherited handle makes it a user of its own: record,
    /// locks and descriptors so far are the parent's. The caller will uncount it at its close.
    ///
    /// # Errors
    /// As [`Session::open`]; the next call tries again.
    pub fn follow_fork(&mut self) -> Result<()> {
        if !self.is_inherited() {
            return Ok(());
        }
        let writable = self.file.is_writable();
        let request = Request {
            path: &self.path,
            mode: self.mode,
            write_mode: self.shm.shared().write_mode.load(Relaxed),
            sizes: (0, 0, 0),
            sem: self.sem,
        };
        let file = self.file.reopen(writable)?;
        let owner = file.owner()?;
        let mut shm = Arc::new(self.shm.reopen()?);
        let mut me = shm.claim(own_flags(&request))?;
        let mut gate = Held::gate(&shm, me);
        if shm.is_retired() {
            // The parent was the last one and has closed: there may be a new object.
            drop(gate);
            shm.users().release(me);
            let (fresh, user, held) = join(&request, &file, owner)?;
            shm = Arc::new(fresh.in_place_of(&self.shm)?);
            me = user;
            gate = held;
        }
        let shared = shm.shared();
        if shm.users().living(me).is_empty() {
            shm.state().reset();
            shared.ref_count.store(0, Relaxed);
        }
        let opened = FileMap::new(file.reopen(writable)?).and_then(|map| {
            let _held = Held::engine(&shm, me);
            open_engine(map, &shm, writable)
        });
        let engine = match opened {
            Ok(engine) => engine,
            Err(e) => {
                drop(gate);
                shm.users().release(me);
                return Err(e);
            }
        };
        self.callers_file.become_like(&file.reopen(writable)?)?;
        if self.sem.is_some() {
            shared.ref_count.fetch_add(1, Relaxed);
        }
        shared.open_mode.fetch_max(self.mode as u16, Relaxed);
        if let Some(r) = shm.users().records.get(me as usize) {
            r.mode.store(self.mode as u32, Relaxed);
            r.flags.fetch_and(!users::MOVING, Relaxed);
        }
        drop(gate);
        // Another thread of the parent may have been inside the engine at the fork.
        std::mem::forget(std::mem::replace(&mut self.engine, engine));
        self.file = file;
        self.shm = shm;
        self.me = me;
        self.process = fork::generation();
        Ok(())
    }

    /// The sizes of the file.
    pub fn sizes(&self) -> Sizes {
        self.engine.sizes()
    }

    /// Descriptors for the caller: the file, the object, `-ht` (-1 if there is none).
    pub fn descriptors(&self) -> (i32, i32, i32) {
        use std::os::fd::AsRawFd;
        let ht = self.ht.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        (self.callers_file.raw(), self.shm.raw(), ht)
    }

    /// The shared object.
    pub fn shm(&self) -> &Arc<Shm> {
        &self.shm
    }

    /// The lock that callers take around their own calls.
    pub fn callers_lock(&self) -> CallersLock {
        CallersLock {
            shm: self.shm.clone(),
            me: self.me,
            ticket: self.shm.users().ticket(self.me),
            sem: self.sem,
        }
    }

    /// Owner and permissions of the file, for the caller's own shared objects.
    pub fn owner(&self) -> Result<Owner> {
        Ok(self.file.owner()?)
    }

    /// Runs `f` with the engine, under the engine lock.
    fn with<R>(&mut self, f: impl FnOnce(&mut Engine<Medium, Words>) -> Result<R>) -> Result<R> {
        self.follow_fork()?;
        self.callers_lock().rescue_semaphore();
        let _held = Held::engine(&self.shm, self.me);
        self.replace_torn_map()?;
        if matches!(self.engine.store(), Medium::Memory(_))
            && self.shm.state().phase.load(Relaxed) != phase::UNREAD
        {
            // Somebody who may write has recovered the file meanwhile.
            self.engine = open_engine(FileMap::new(self.file.reopen(false)?)?, &self.shm, false)?;
        }
        let answer = f(&mut self.engine);
        if self.engine.store().is_torn() {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        answer
    }

    /// A map in which zeros took the place of what somebody cut off is of no use any more.
    fn replace_torn_map(&mut self) -> Result<()> {
        if self.shm.is_torn() {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        if self.engine.store().is_torn() {
            let writable = self.file.is_writable();
            let map = FileMap::new(self.file.reopen(writable)?)?;
            self.engine = open_engine(map, &self.shm, writable)?;
        }
        Ok(())
    }

    /// See [`Engine::get`].
    pub fn get(&mut self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        self.with(|e| e.get(key, buf))
    }

    /// See [`Engine::put`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.may_write()?;
        self.with(|e| e.put(key, value))
    }

    /// See [`Engine::delete`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        self.may_write()?;
        self.with(|e| e.delete(key))
    }

    /// See [`Engine::next`].
    pub fn next(&mut self, pos: &mut Position, buf: Option<&mut [u8]>) -> Result<Option<Vec<u8>>> {
        self.with(|e| e.next(pos, buf))
    }

    /// Makes everything answered so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.with(Engine::sync)
    }

    /// A read-only handle may write when it is the last closer that carries out what the callers
    /// have cached.
    fn may_write(&mut self) -> Result<()> {
        if self.mode != Mode::ReadOnly {
            return Ok(());
        }
        let shared = self.shm.shared();
        let write_back = shared.cache_created.load(Relaxed) != 0
            && shared.open_mode.load(Relaxed) != Mode::ReadOnly as u16;
        if !write_back {
            return Err(Error::Access("opened read-only"));
        }
        self.become_writer()
    }

    fn become_writer(&mut self) -> Result<()> {
        if let Medium::File(map) = self.engine.store()
            && map.file().is_writable()
        {
            return Ok(());
        }
        let map = FileMap::new(self.file.reopen(true)?)?;
        let _held = Held::engine(&self.shm, self.me);
        self.engine = open_engine(map, &self.shm, true)?;
        if let Some(r) = self.shm.users().records.get(self.me as usize) {
            r.flags.fetch_or(users::WRITER, Relaxed);
        }
        Ok(())
    }

    /// Closes the handle. The last one that may write leaves a clean file, the last one no objects.
    ///
    /// # Errors
    /// [`Error::Io`] if something could not be made durable; everything is released all the same.
    pub fn close(mut self) -> Result<()> {
        self.follow_fork()?;
        let shm = self.shm.clone();
        let users = shm.users();
        if let Some(r) = users.records.get(self.me as usize) {
            r.flags.fetch_or(users::MOVING, Relaxed);
        }
        let gate = Held::gate(&shm, self.me);
        let others = users.living(self.me);
        let flags = |n: u32| {
            users
                .records
                .get(n as usize)
                .map_or(0, |r| r.flags.load(Relaxed))
        };
        let changed = shm.state().phase.load(Relaxed) == phase::CHANGED;
        let mut closed = Ok(());
        if changed && !others.iter().any(|&n| flags(n) & users::WRITER != 0) {
            // A reader can be left alone with what a dead writer has changed, and may not be
            // allowed to write: then the next opener recovers.
            if self.become_writer().is_ok() {
                closed = self.with(Engine::settle);
            }
        }
        let shared = shm.shared();
        if self.sem.is_some() && shared.ref_count.load(Relaxed) == 0 {
            shared.cache_created.store(0, Relaxed);
        }
        shared.callers.unlock(users.ticket(self.me));
        if others.is_empty() {
            shm.retire();
        } else if shared.cache_created.load(Relaxed) == 0 {
            let modes = others.iter().filter_map(|&n| users.records.get(n as usize));
            let strongest = modes.map(|r| r.mode.load(Relaxed)).max().unwrap_or(0);
            shared.open_mode.store(strongest as u16, Relaxed);
        }
        shm.orphaned().store(0, Relaxed);
        // A fork child may keep the description open.
        self.file.unlock_as_user();
        drop(gate);
        users.release(self.me);
        closed
    }
}

fn own_flags(request: &Request) -> u32 {
    let sem = if request.sem.is_some() {
        users::WITH_SEM
    } else {
        0
    };
    let writer = if request.mode == Mode::ReadOnly {
        0
    } else {
        users::WRITER
    };
    sem | writer | users::MOVING
}

fn open_engine(map: FileMap, shm: &Arc<Shm>, writable: bool) -> Result<Engine<Medium, Words>> {
    let file = map.file().reopen(false);
    match Engine::open(
        Medium::File(map),
        Words::Shared(shm.clone()),
        writable,
        large_files(),
    ) {
        Err(Error::Access(_)) => {
            let below = Overlay::new(FileMap::new(file?)?)?;
            Engine::open(
                Medium::Memory(below),
                Words::Private(Box::default()),
                false,
                false,
            )
        }
        opened => opened,
    }
}

/// Opens or makes the file; whether it was made.
fn open_file(request: &Request) -> Result<(File, bool)> {
    let writable = request.mode != Mode::ReadOnly;
    loop {
        match File::open(request.path, writable) {
            Ok(f) => return Ok((f, false)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && request.mode >= Mode::Create => {
                new_sizes(request)?;
                match File::create(request.path) {
                    Ok(f) => return Ok((f, true)),
                    Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn new_sizes(request: &Request) -> Result<Sizes> {
    let (slots, key, value) = request.sizes;
    Sizes::new(slots, key, value).ok_or(Error::Invalid("sizes of a new database"))
}

/// Sees to it that the file has a header.
fn prepare_header(request: &Request, file: &File, created: bool) -> Result<()> {
    let mut bytes = [0; header::SIZE];
    let n = file.read_start(&mut bytes)?;
    let whole = n == header::SIZE && (file.len()? > n as u64 || bytes.iter().any(|&b| b != 0));
    if whole && request.mode != Mode::Replace {
        return Header::parse(&bytes).map(drop);
    }
    let sizes = if request.mode == Mode::Replace {
        new_sizes(request)?
    } else {
        match Header::cut_off(&bytes[..n])? {
            _ if request.mode == Mode::ReadOnly => {
                return Err(std::io::Error::from_raw_os_error(libc::ENODATA).into());
            }
            Some(sizes) => sizes,
            None => new_sizes(request)?,
        }
    };
    file.replace(&Header { sizes, clean: true }.bytes())?;
    if created {
        file::sync_directory_of(request.path)?;
    }
    Ok(())
}

/// Finds or makes the shared object of the file; answers it with our user record, the gate held.
fn join(request: &Request, file: &File, owner: Owner) -> Result<(Arc<Shm>, u32, Held)> {
    let ident = file.ident()?;
    let flags = own_flags(request);
    let mut stem = request.path.to_bytes().to_vec();
    let mut plain = true;
    // Who has the file open, but no object that can be found, is about to close it, or out of reach.
    for _ in 0..500 {
        let name = names::shm_name(names::INFO, &stem);
        let mut found = Shm::open(&name, ident, owner)?;
        if matches!(found, Opened::NotOurs) {
            if !plain {
                return Err(Error::OpenShm(std::io::Error::from_raw_os_error(
                    libc::EEXIST,
                )));
            }
            plain = false;
            stem = names::other_stem(request.path.to_bytes(), ident.dev, ident.ino);
            continue;
        }
        if matches!(found, Opened::Absent) && file.has_other_users().unwrap_or(false) {
            match Shm::find(ident, owner, None) {
                Some(shm) => {
                    shm.add_name(&name);
                    found = Opened::Ours(shm);
                }
                None => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
            }
        }
        if let Opened::Ours(shm) = found {
            let shm = Arc::new(shm);
            // A leftover's records are in the way of nobody: the dead hold no locks.
            let me = shm.claim(flags)?;
            let gate = Held::gate(&shm, me);
            if !shm.is_retired() {
                let _ = file.lock_as_user();
                return Ok((shm, me, gate));
            }
            // Its last user died between the two steps of removing it, or is about to end them.
            shm.retire();
            drop(gate);
            shm.users().release(me);
            continue;
        }
        if let Some(shm) = Shm::create(&name, &stem, ident, owner, flags)? {
            // Where a file system has no locks a second path of the file is not recognised.
            let _ = file.lock_as_user();
            let shm = Arc::new(shm);
            let gate = Held::gate_held(&shm, 0);
            // Somebody may have made one under another path at the same time. Of two at least one
            // sees the other and gives way.
            let rival = file.has_other_users().unwrap_or(false)
                && Shm::find(ident, owner, Some(shm.number())).is_some();
            if !rival {
                return Ok((shm, 0, gate));
            }
            file.unlock_as_user();
            shm.retire();
        }
    }
    Err(Error::Access("in use under another name"))
}

/// The lock in `shared->rwlock`, as one handle uses it. One writer, or readers; a dead owner is
/// found out. Nothing of this library waits for it.
pub struct CallersLock {
    shm: Arc<Shm>,
    me: u32,
    ticket: u32,
    sem: Option<Sem>,
}

/// How long a writer sleeps between two looks at the readers.
const READERS_NAP: Duration = Duration::from_micros(100);

impl CallersLock {
    fn alive(&self, n: u32) -> bool {
        n == self.me || self.shm.users().alive(n)
    }

    fn lock(&self) {
        let holds = |t| t == self.ticket || self.shm.users().holds(t);
        self.shm.shared().callers.lock(self.ticket, holds);
    }

    /// Posts the callers' semaphore if its holder has died.
    fn rescue_semaphore(&self) {
        // Inside this lock we may be the closer that holds it.
        if let Some(sem) = self.sem
            && self.shm.shared().callers.holder() != Some(self.ticket)
        {
            sem::rescue(sem, &self.shm, self.me);
        }
    }

    /// Takes it for writing.
    pub fn write(&self) {
        self.rescue_semaphore();
        self.lock();
        let users = self.shm.users();
        for n in 0..users.high() {
            let Some(r) = users.records.get(n as usize) else {
                continue;
            };
            while r.reads.load(Relaxed) != 0 {
                if !self.alive(n) {
                    r.reads.store(0, Relaxed);
                    break;
                }
                std::thread::sleep(READERS_NAP);
            }
        }
        self.repair_count();
    }

    /// Takes it for reading. A handle that has it for reading gets it again at once.
    pub fn read(&self) {
        let lock = &self.shm.shared().callers;
        let users = self.shm.users();
        let Some(mine) = users.records.get(self.me as usize) else {
            return;
        };
        if mine.reads.load(Relaxed) == 0 {
            // Through the writer's door: a writer that waits is not starved.
            self.lock();
            mine.reads.fetch_add(1, SeqCst);
            lock.unlock(self.ticket);
        } else {
            mine.reads.fetch_add(1, SeqCst);
        }
    }

    /// Gives it back.
    pub fn unlock(&self) {
        let lock = &self.shm.shared().callers;
        if lock.holder() == Some(self.ticket) {
            return lock.unlock(self.ticket);
        }
        if let Some(mine) = self.shm.users().records.get(self.me as usize) {
            let _ = mine
                .reads
                .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        }
    }

    /// In a close (the semaphore is taken) the caller reads refCount next: users that died have
    /// left it too high. It can't be too low.
    fn repair_count(&self) {
        if self.sem.is_none_or(|s| s.value() != 0) {
            return;
        }
        let users = self.shm.users();
        let counted = (0..users.high()).filter(|&n| {
            let r = users.records.get(n as usize);
            r.is_some_and(|r| r.flags.load(Relaxed) & users::WITH_SEM != 0) && self.alive(n)
        });
        let counted = counted.count() as u16;
        self.shm.shared().ref_count.fetch_min(counted, Relaxed);
    }
}
