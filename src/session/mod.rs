//! One open handle: the file, its shared object, an engine, and the locks around every call.
//!
//! Both doors, the C functions and [`crate::Database`], go through here.

mod beside;
mod callers;
mod join;
mod medium;
mod reads;

pub use callers::CallersLock;
pub use reads::Reads;

use crate::engine::state::{phase, tables};
use crate::engine::{Engine, Position, Snapshot};
use crate::error::{Error, Result};
use crate::format::Sizes;
use crate::format::block::KEY_LEN;
use crate::format::key::Key;
use crate::log;
use crate::sys::file::{File, Owner};
use crate::sys::sem::Sem;
use crate::sys::shm::{self, Shm};
use crate::sys::{fork, names, sem, users};
use beside::Beside;
use join::{Held, join, open_file, prepare_header};
use medium::{Medium, Words, open_at_least_reader, open_engine};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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

/// So often an open begins again because the file was replaced meanwhile.
const REPLACED: u32 = 100;

/// So many milliseconds a look waits for the others to finish what a dead user has begun.
const PATIENCE: u32 = 50;

/// An open handle.
pub struct Session {
    shm: Arc<Shm>,
    /// Number of our user record.
    me: u32,
    engine: Engine<Medium, Words>,
    /// The one on the file's map, if there was one, while `engine` is on what was recovered in memory.
    resting: Option<Engine<Medium, Words>>,
    reads: Arc<Reads>,
    /// The description that the locks hang on, for ours alone: its view of write errors is not
    /// used up by the caller's syncs.
    file: File,
    /// The description whose number the caller gets.
    callers_file: File,
    ht: Option<OwnedFd>,
    sem: Option<Sem>,
    mode: Mode,
    path: CString,
    /// Of a reader who may not share the writers' object.
    beside: Option<Beside>,
    /// The process that this handle was made in; see [`fork::generation`].
    process: u64,
}

impl Session {
    /// Opens a database.
    ///
    /// # Errors
    /// As `KISSDB_open` answers; nothing stays locked or open.
    pub fn open(request: &Request) -> Result<Self> {
        for _ in 0..REPLACED {
            let (file, created) = open_file(request)?;
            let owner = file.owner()?;
            let (shm, me, gate) = join(request, &file, owner)?;
            // While we waited for the gate another file may have been put in its place.
            let stays = created || file.stands_at(request.path);
            let opened = stays.then(|| Self::open_inside(request, file, created, &shm, me, owner));
            log::name(request.path);
            if !matches!(opened, Some(Ok(_))) {
                let alone = shm.users().living(me).is_empty();
                if alone && !keeps_cache(&shm, request.sem) {
                    shm.retire();
                }
                // The record last: until then a waiter sees the gate held by somebody alive.
                shm.users().leave(me);
                drop(gate);
                shm.users().release(me);
            }
            if let Some(answer) = opened {
                if request.sem.is_some() {
                    shm.coming_and_going().note();
                }
                return answer;
            }
        }
        Err(Error::Access("replaced again and again"))
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
        let engine = {
            let _held = Held::engine(shm, me);
            open_at_least_reader(&file, shm, writable)?
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
            // Too high by those who died. It can be low by those whose callers are about to count them.
            shared.ref_count.fetch_min(counted, Relaxed);
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
        let named = !shm.is_nameless();
        let ht = named.then(|| shm::touch(&names::shm_name(names::HT, &shm.stem()), owner));
        let reads = Arc::new(Reads::new());
        reads.follow(&engine, shm, request.sem);
        Ok(Self {
            shm: shm.clone(),
            me,
            engine,
            resting: None,
            reads,
            file,
            callers_file,
            ht: ht.flatten(),
            beside: (!named).then(Beside::default),
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
            match fresh.in_place_of(&self.shm) {
                Ok(placed) => shm = Arc::new(placed),
                Err(e) => {
                    drop(held);
                    fresh.users().release(user);
                    return Err(e);
                }
            }
            me = user;
            gate = held;
        }
        let shared = shm.shared();
        if shm.users().living(me).is_empty() {
            shm.state().reset();
            shared.ref_count.store(0, Relaxed);
        }
        let open = || {
            let _held = Held::engine(&shm, me);
            let engine = open_at_least_reader(&file, &shm, writable)?;
            self.callers_file.become_like(&file.reopen(writable)?)?;
            Ok(engine)
        };
        let engine = match open() {
            Ok(engine) => engine,
            Err(e) => {
                drop(gate);
                shm.users().release(me);
                return Err(e);
            }
        };
        if self.sem.is_some() {
            shared.ref_count.fetch_add(1, Relaxed);
        }
        shared.open_mode.fetch_max(self.mode as u16, Relaxed);
        if let Some(r) = shm.users().records.get(me as usize) {
            r.mode.store(self.mode as u32, Relaxed);
            r.flags.fetch_and(!users::MOVING, Relaxed);
        }
        drop(gate);
        log::name(&self.path);
        // Another thread of the parent may have been inside the engine at the fork.
        medium::leave_behind(std::mem::replace(&mut self.engine, engine));
        if let Some(resting) = self.resting.take() {
            medium::leave_behind(resting);
        }
        self.file = file;
        self.shm = shm;
        self.reads.follow(&self.engine, &self.shm, self.sem);
        self.me = me;
        self.process = fork::generation();
        Ok(())
    }

    /// Reads that take no lock.
    pub fn reads(&self) -> &Arc<Reads> {
        &self.reads
    }

    fn set_engine(&mut self, engine: Engine<Medium, Words>) -> Engine<Medium, Words> {
        let before = std::mem::replace(&mut self.engine, engine);
        self.reads.follow(&self.engine, &self.shm, self.sem);
        before
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
        let answer = self.run(f);
        log::name(&self.path);
        answer
    }

    fn run<R>(&mut self, f: impl FnOnce(&mut Engine<Medium, Words>) -> Result<R>) -> Result<R> {
        self.follow_fork()?;
        if let Some(sem) = self.sem
            && (sem.value() == 0 || self.shm.coming_and_going().orphaned.load(Relaxed) != 0)
        {
            self.callers_lock().rescue_semaphore();
        }
        let _held = Held::engine(&self.shm, self.me);
        if self.shm.torn().count() != 0 {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        if self.engine.store().is_torn() {
            self.work_on_file(self.engine.is_writable())?;
        }
        if !self.engine.is_writable() {
            self.choose_medium()?;
        }
        let answer = f(&mut self.engine);
        if self.engine.store().is_torn() {
            log::error(|| {
                "a page of it is gone: no room, a medium that fails, or cut off while open".into()
            });
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        answer
    }

    /// As [`Session::with`], for what changes nothing. Where there is no room to finish what somebody has begun, what is there is
    /// read all the same, and the handle goes on as a reader until its next change.
    fn read<R>(&mut self, mut f: impl FnMut(&mut Engine<Medium, Words>) -> Result<R>) -> Result<R> {
        let answer = self.with(&mut f);
        if answer.is_ok() || !self.engine.is_writable() || !self.engine.store().is_torn() {
            return answer;
        }
        self.change_over(false)?;
        self.with(f)
    }

    /// Who does not write a file that has to be recovered does so in memory, until somebody has recovered the file.
    fn choose_medium(&mut self) -> Result<()> {
        let state = self.shm.state();
        let recovered = state.phase.load(Relaxed) != phase::UNREAD
            && state.verified.load(Relaxed) != tables::BAD;
        let in_memory = matches!(self.engine.store(), Medium::Memory(_));
        if in_memory && recovered {
            self.work_on_file(false)?;
        } else if !in_memory && self.beside.is_none() && !self.engine.is_readable()? {
            let in_memory = medium::open_in_memory(self.file.reopen(false)?)?;
            self.resting = Some(self.set_engine(in_memory));
        }
        Ok(())
    }

    /// Goes on with the file's map, all of its pages the file's, and changes the file if `writable`. Where there is such a map
    /// it stays: those who read without the lock keep it until the close.
    fn work_on_file(&mut self, writable: bool) -> Result<()> {
        if let Some(resting) = self.resting.take() {
            self.set_engine(resting);
        }
        match self.engine.store() {
            Medium::File(map) if map.file().is_writable() >= writable => {
                map.mend()?;
                self.engine.begin_anew(writable);
            }
            _ => drop(self.set_engine(open_engine(&self.file, &self.shm, writable)?)),
        }
        Ok(())
    }

    /// A closer, who holds the callers' semaphore, may write its cache back, but it never reads.
    fn is_no_closer(&self) {
        if self.sem.is_some_and(|s| s.value() == 0) {
            self.callers_lock().is_no_closer();
        }
    }

    /// See [`Engine::get`].
    pub fn get(&mut self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        let Some(made) = Key::new(key) else {
            return Ok(None);
        };
        match self.reads.get(&made, buf) {
            Some(answer) if !self.is_inherited() => Ok(answer),
            _ => {
                self.is_no_closer();
                if self.beside.is_some() {
                    let slots = |e: &Engine<_, _>, _: Option<&_>| Some(e.slots_of(key));
                    return self.read_beside(|e| e.get(key, buf), slots);
                }
                self.read(|e| e.get(key, buf))
            }
        }
    }

    /// See [`Engine::put_key`]. `key`: `None` for what can't be one.
    ///
    /// # Errors
    /// Its own.
    pub fn put(
        &mut self,
        key: Option<Key>,
        value: &[u8],
        memory: impl Fn() -> Result<()>,
    ) -> Result<()> {
        self.may_write()?;
        let key = key.ok_or(Error::NO_KEY)?;
        self.engine.fetch_place(&key);
        self.with(|e| e.put_key(&key, value, memory))
    }

    /// See [`Engine::delete_key`]. `key`: `None` for what can't be one.
    ///
    /// # Errors
    /// Its own.
    pub fn delete(&mut self, key: Option<Key>, memory: impl Fn() -> Result<()>) -> Result<bool> {
        self.may_write()?;
        match key {
            Some(key) => {
                self.engine.fetch_place(&key);
                self.with(|e| e.delete_key(&key, memory))
            }
            None => Ok(false),
        }
    }

    /// See [`Engine::next_entry`].
    pub fn next(
        &mut self,
        pos: &mut Position,
        key: &mut [u8; KEY_LEN],
        mut buf: Option<&mut [u8]>,
    ) -> Result<bool> {
        self.follow_fork()?;
        match self.reads.next(pos, key, buf.as_deref_mut()) {
            Some(found) => Ok(found),
            None => {
                self.is_no_closer();
                if self.beside.is_some() {
                    return self.next_beside(pos, key, buf);
                }
                // A second look begins where the first one did.
                let from = *pos;
                self.read(|e| {
                    *pos = from;
                    e.next_entry(pos, key, buf.as_deref_mut())
                })
            }
        }
    }

    fn next_beside(
        &mut self,
        pos: &mut Position,
        key: &mut [u8; KEY_LEN],
        mut buf: Option<&mut [u8]>,
    ) -> Result<bool> {
        let from = *pos;
        let next = |e: &mut Engine<_, _>| {
            let mut pos = from;
            let found = e.next_entry(&mut pos, key, buf.as_deref_mut())?;
            Ok((found, pos))
        };
        let slots = |_: &Engine<_, _>, answer: Option<&(_, Position)>| {
            let to = answer?.1;
            Some(match to.table == from.table {
                true => from.slot..to.slot,
                false => 0..u64::MAX,
            })
        };
        let (found, to) = self.read_beside(next, slots)?;
        *pos = to;
        Ok(found)
    }

    /// See [`Beside::read`].
    fn read_beside<R>(
        &mut self,
        f: impl FnMut(&mut Engine<Medium, Words>) -> Result<R>,
        slots: impl Fn(&Engine<Medium, Words>, Option<&R>) -> Option<std::ops::Range<u64>>,
    ) -> Result<R> {
        let mut beside = self.beside.take().unwrap_or_default();
        let answer = self.with(|e| beside.read(e, f, slots));
        self.beside = Some(beside);
        answer
    }

    /// Makes everything answered so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.with(Engine::sync)
    }

    /// Whether others have the file open whose locks this handle can't take: it may only read the file, and
    /// so has an object for itself. What it reads may be in the middle of a change.
    pub fn is_apart(&self) -> bool {
        !self.shm.has_name() && self.has_others()
    }

    fn has_others(&self) -> bool {
        self.file.has_other_users().unwrap_or(true)
    }

    /// Runs `look` while no other user changes the file: for whoever reads its bytes. It is told whether
    /// others have the file open.
    ///
    /// # Errors
    /// Those of a fork child's first call.
    pub fn still<R>(&mut self, look: impl FnOnce(bool) -> R) -> Result<R> {
        self.follow_fork()?;
        let shm = self.shm.clone();
        for _ in 0..PATIENCE {
            let held = Held::engine(&shm, self.me);
            // What a dead user left half-done the next call of a living one that may write finishes.
            if shm.state().intent.load(Relaxed) == 0 {
                return Ok(look(self.has_others()));
            }
            drop(held);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _held = Held::engine(&shm, self.me);
        Ok(look(self.has_others()))
    }

    /// See [`Engine::rebuild`].
    pub fn rebuild(&mut self) -> Result<()> {
        self.may_write()?;
        self.with(Engine::rebuild)
    }

    /// See [`Engine::snapshot_step`].
    pub fn snapshot_step(
        &mut self,
        snapshot: &mut Snapshot,
        most: usize,
    ) -> Result<Option<(u64, u64)>> {
        self.read(|e| e.snapshot_step(snapshot, most))
    }

    /// Runs `put_in_place`, which puts another file in the place of this one, while nobody else has
    /// it open and nobody can open it; `false`, and it is not run, if the entries are no longer
    /// those of `snapshot`.
    ///
    /// # Errors
    /// [`Error::Access`]: others have it open. Those of `put_in_place`.
    pub fn replace(
        &mut self,
        snapshot: &mut Snapshot,
        put_in_place: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<bool> {
        self.follow_fork()?;
        let shm = self.shm.clone();
        let _gate = Held::gate(&shm, self.me);
        if !shm.users().living(self.me).is_empty() || self.file.has_other_users()? {
            return Err(Error::Access("in use by others"));
        }
        if self.snapshot_step(snapshot, 0)?.is_some() {
            return Ok(false);
        }
        put_in_place()?;
        Ok(true)
    }

    /// A read-only handle may write when it is the last closer that carries out what the callers
    /// have cached.
    fn may_write(&mut self) -> Result<()> {
        if self.mode != Mode::ReadOnly {
            return self.become_writer();
        }
        let shared = self.shm.shared();
        let write_back = shared.cache_created.load(Relaxed) != 0
            && shared.open_mode.load(Relaxed) != Mode::ReadOnly as u16;
        if !write_back {
            return Err(Error::Access("opened read-only"));
        }
        self.become_writer()
    }

    #[inline(always)]
    fn become_writer(&mut self) -> Result<()> {
        self.follow_fork()?;
        match self.engine.is_writable() {
            true => Ok(()),
            false => self.change_over(true),
        }
    }

    /// From a reader to a writer, or back.
    #[cold]
    fn change_over(&mut self, writable: bool) -> Result<()> {
        let _held = Held::engine(&self.shm, self.me);
        if self.shm.torn().count() != 0 {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        self.work_on_file(writable)?;
        if writable && let Some(r) = self.shm.users().records.get(self.me as usize) {
            r.flags.fetch_or(users::WRITER, Relaxed);
        }
        Ok(())
    }

    /// Closes the handle. The last one that may write leaves a clean file, the last one no objects.
    ///
    /// `give_back` posts the caller's semaphore. It is called when all is done but for removing the names: once
    /// that of the semaphore is gone, nobody can post it for those who wait, should we die.
    ///
    /// # Errors
    /// [`Error::Io`] if something could not be made durable; everything is released all the same.
    pub fn close(mut self, give_back: impl FnOnce()) -> Result<()> {
        if let Err(e) = self.follow_fork() {
            give_back();
            return Err(e);
        }
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
        let changed = matches!(
            shm.state().phase.load(Relaxed),
            phase::CHANGED | phase::MARKING
        );
        let mut closed = Ok(());
        if changed && !others.iter().any(|&n| flags(n) & users::WRITER != 0) {
            let writes = self.become_writer();
            // A reader can be left alone with what a dead writer has changed, and may not be
            // allowed to write: then the next opener recovers.
            if writes.is_ok() || flags(self.me) & users::WRITER != 0 {
                closed = writes.and_then(|()| self.with(Engine::settle));
                if let Err(e) = &closed {
                    log::error(|| format!("not durable at the close, the next open recovers: {e}"));
                }
            }
        }
        let shared = shm.shared();
        if self.sem.is_some() && shared.ref_count.load(Relaxed) == 0 {
            shared.cache_created.store(0, Relaxed);
        }
        shared.callers.unlock(users.ticket(self.me));
        if let Some(r) = users.records.get(self.me as usize) {
            // The next closer must not count us.
            r.flags.fetch_and(!users::WITH_SEM, Relaxed);
        }
        if self.sem.is_some() {
            shm.coming_and_going().note();
        }
        give_back();
        if others.is_empty() && !keeps_cache(&shm, self.sem) {
            shm.retire();
            if self.sem.is_some()
                && (self.beside.is_none() || !self.file.has_other_users().unwrap_or(true))
            {
                // Its name follows from the path, also where those of the objects do not.
                sem::unlink(&names::shm_name(names::SEM, self.path.to_bytes()));
            }
        } else if shared.cache_created.load(Relaxed) == 0 {
            let modes = others.iter().filter_map(|&n| users.records.get(n as usize));
            let strongest = modes.map(|r| r.mode.load(Relaxed)).max().unwrap_or(0);
            shared.open_mode.store(strongest as u16, Relaxed);
        }
        // A fork child may keep the description open.
        self.file.unlock_as_user();
        users.leave(self.me);
        drop(gate);
        users.release(self.me);
        log::name(&self.path);
        closed
    }
}

/// Whether callers who died have left changes in their cache. The next of them writes these back; who is
/// none of them, and so has no semaphore, leaves the object as he found it.
fn keeps_cache(shm: &Shm, sem: Option<Sem>) -> bool {
    sem.is_none() && shm.shared().cache_created.load(Relaxed) != 0
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
