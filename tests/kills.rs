//! Processes that use one database are killed at random (guarantee P1; failures 16, 17, 18 of the original).
//!
//! What happened: a process of the platform was killed (out of memory, watchdog) while it was inside a call of the
//! database, or held one of its locks. What the user saw: every other process that used the same database stood still
//! until the next reboot, and what had been set since the last clean close was gone with the tables that were never
//! written.
//!
//! `KISSDB_KILLS` says how many deaths (three quarters of them of processes that know nothing of the middleware's
//! semaphore), `KISSDB_SEED` which; a run prints both. `KISSDB_TEST_DIR`: where the databases lie. After a failure
//! `KISSDB_KEEP` gets copies of all files, and for `KISSDB_KEEP_SECONDS` the processes stay.

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/procs.rs"]
mod procs;
mod support;

use ledger::{Key, Op};
use procs::{Atomics, Mapped, Rng, Running, Times, now};
use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;
use support::ffi::{self, Handle, Plain, Sizes};
use support::{Scratch, check};

/// Processes that use the database at the same time.
const LANES: usize = 4;
/// Keys that each of them may change.
const KEYS: usize = 40;
/// Keys that all of them change.
const COMMON: usize = 3;
/// A call that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1);
/// Deaths in the life of one database; the next ones happen to a new one.
const PER_DATABASE: u64 = 100;

/// The calls whose times are kept apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    Close,
    Lock,
    Get,
    Put,
    Delete,
    Iterate,
}

const CALLS: [(Call, &str); 7] = [
    (Call::Open, "open"),
    (Call::Close, "close"),
    (Call::Lock, "Kdb_wrlock"),
    (Call::Get, "get"),
    (Call::Put, "put"),
    (Call::Delete, "delete"),
    (Call::Iterate, "iterate"),
];

/// What driver and children share.
#[repr(C)]
struct Board {
    /// 1: everybody shall close and go.
    stop: AtomicU32,
    /// Odd while a process is stopped by a signal, or is about to be.
    stops: AtomicU64,
    /// Grows before and after each death.
    deaths: AtomicU64,
    /// Handles that may write, closed since the last death.
    writers_closed: AtomicU64,
    /// When the last dead process was gone: from then on waiting for it is up to the library.
    gone: AtomicU64,
    /// Grows after each death; a sweep that begins later has seen it all.
    sweeps_wanted: AtomicU64,
    lanes: [Lane; LANES],
    keys: [[Key; KEYS]; LANES],
    common: [[Key; LANES]; COMMON],
    /// All calls, and those during which a process died or the first one after that.
    times: [[Times; 2]; CALLS.len()],
}

// SAFETY: atomics only, and arrays of types that hold atomics only.
unsafe impl Atomics for Board {}

#[repr(C)]
struct Lane {
    /// The call in flight and since when; 0: none.
    call: AtomicU32,
    since: AtomicU64,
    /// The `sweeps_wanted` that it found before the last sweep that it has finished.
    swept: AtomicU64,
}

/// What a child does until it is killed or told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Changes its keys, without any lock.
    Writer,
    /// Changes its keys with the callers' lock around each call.
    Locker,
    /// The same, and keeps the lock for a while.
    Holder,
    /// Reads.
    Reader,
    /// Opens, does little, closes.
    Opener,
}

const CHILD: &str = "KISSDB_KILLS_CHILD";

/// One at a time: each of these wants the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The name of a key: the first ones of all lanes share a slot, so that tables have to be appended.
fn name_of(lane: usize, i: usize) -> Vec<u8> {
    let plain = format!("/lane{lane}/key{i}");
    if i >= 3 {
        return plain.into_bytes();
    }
    (0..100_000)
        .map(|salt| format!("{plain}/{salt}").into_bytes())
        .find(|name| check::slot_of(name, 510) == 7)
        .expect("a name for slot 7")
}

fn id_of(lane: usize, i: usize) -> u64 {
    (lane * KEYS + i) as u64 + 1
}

fn common_name(c: usize) -> Vec<u8> {
    format!("/common/{c}").into_bytes()
}

fn common_id(c: usize, lane: usize) -> u64 {
    (1000 + c * LANES + lane) as u64
}

// ---------------------------------------------------------------- the child

struct Worker {
    board: Mapped<Board>,
    lane: usize,
    path: PathBuf,
    findings: PathBuf,
    sizes: Sizes,
    middleware: bool,
    rng: Rng,
    deaths: Cell<u64>,
    names: Vec<Vec<Vec<u8>>>,
}

/// What a worker calls: the database with or without the middleware around it.
enum Door {
    Plain(Plain),
    Middleware(Handle),
}

impl Door {
    fn db(&self) -> &Plain {
        match self {
            Door::Plain(db) => db,
            Door::Middleware(handle) => handle.plain(),
        }
    }
}

impl Worker {
    /// `directory lane seed sizes way`, as the driver gave it.
    fn new(work: &str) -> Worker {
        let words: Vec<&str> = work.split('\n').collect();
        let [directory, name, lane, seed, value, way] = words[..] else {
            panic!("{work}")
        };
        let directory = Path::new(directory);
        let lane: usize = lane.parse().expect("a lane");
        Worker {
            board: Mapped::open(&directory.join(format!("{name}.board"))).expect("the board"),
            lane,
            path: directory.join(format!("{name}.db")),
            findings: directory.join("findings"),
            sizes: sizes(value.parse().expect("a size")),
            middleware: way == "middleware",
            rng: Rng(seed.parse().expect("a seed")),
            deaths: Cell::new(0),
            names: (0..LANES)
                .map(|l| (0..KEYS).map(|i| name_of(l, i)).collect())
                .collect(),
        }
    }

    fn room(&self) -> usize {
        self.sizes.value as usize
    }

    /// Something that must not be. Ends this process.
    fn finding(&self, what: String) -> ! {
        let text = format!(
            "process {} of lane {}: {what}\n",
            std::process::id(),
            self.lane
        );
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.findings)
            .expect("the findings");
        file.write_all(text.as_bytes()).expect("a finding");
        std::process::exit(7)
    }

    fn timed<T>(&self, call: Call, f: impl FnOnce() -> T) -> T {
        let lane = &self.board.lanes[self.lane];
        let stops = self.board.stops.load(SeqCst);
        let without_a_core = procs::without_a_core();
        let since = now();
        lane.call.store(call as u32, Relaxed);
        lane.since.store(since, SeqCst);
        let answer = f();
        lane.since.store(0, SeqCst);
        let until = now();
        let delayed = procs::without_a_core() - without_a_core;
        let time = (until - since).saturating_sub(delayed);
        let deaths = self.board.deaths.load(SeqCst);
        let struck = self.deaths.replace(deaths) != deaths;
        if stops & 1 == 0 && stops == self.board.stops.load(SeqCst) {
            let [all, near] = &self.board.times[call as usize];
            all.note(time);
            if struck {
                let gone = self.board.gone.load(SeqCst).max(since);
                near.note(until.saturating_sub(gone).saturating_sub(delayed));
            }
        }
        answer
    }

    fn stopping(&self) -> bool {
        self.board.stop.load(Relaxed) != 0
    }

    fn pause(&mut self, microseconds: u64) {
        let n = self.rng.below(microseconds);
        std::thread::sleep(Duration::from_micros(n));
    }

    fn run(&mut self) {
        let role = match self.rng.below(20) {
            0..=6 => Role::Writer,
            7..=9 => Role::Locker,
            10..=11 => Role::Holder,
            12..=14 => Role::Reader,
            _ => Role::Opener,
        };
        while !self.stopping() {
            let (door, writes) = self.open(role);
            self.settle(&door);
            self.sweep(&door, role);
            let mut rounds = match role {
                Role::Opener => self.rng.below(4),
                _ => u64::MAX,
            };
            while rounds > 0 && !self.stopping() {
                rounds -= 1;
                for _ in 0..self.rng.below(12) {
                    self.step(&door, role);
                    self.pause(150);
                }
                self.sweep(&door, role);
            }
            self.close(door);
            self.board.writers_closed.fetch_add(writes.into(), SeqCst);
            self.pause(1000);
        }
    }

    /// A door, and whether it may write.
    fn open(&mut self, role: Role) -> (Door, bool) {
        let mut mode = match (role, self.rng.below(4)) {
            (Role::Reader, 0..=1) => ffi::RDONLY,
            (Role::Reader, _) | (_, 0) => ffi::RDWR,
            _ => ffi::RWCREAT,
        };
        loop {
            let nothing = self
                .board
                .keys
                .iter()
                .flatten()
                .all(|k| k.answered().0 == 0);
            let (door, rc) = if self.middleware {
                let handle = Handle::new(&self.path);
                let rc = self.timed(Call::Open, || handle.open(mode, ffi::WT, self.sizes));
                (Door::Middleware(handle), rc)
            } else {
                let db = Plain::new();
                let rc = self.timed(Call::Open, || {
                    db.open(&self.path, mode, ffi::WT, self.sizes)
                });
                (Door::Plain(db), rc)
            };
            if rc == 0 {
                return (door, mode != ffi::RDONLY);
            }
            let error = std::io::Error::last_os_error();
            if mode != ffi::RWCREAT && rc == ffi::ERROR_IO && nothing {
                // Nobody has got as far as making the file.
                mode = ffi::RWCREAT;
                continue;
            }
            self.finding(format!("open in mode {mode}: {rc} ({error})"));
        }
    }

    fn close(&self, door: Door) {
        let close = || {
            self.timed(Call::Close, || match &door {
                Door::Plain(db) => db.close(),
                Door::Middleware(handle) => handle.close(),
            })
        };
        let mut rc = close();
        if rc == ffi::SEM_TIMED_OUT {
            // Who waits for the semaphore already when its holder dies may end by its own time-out; any call of a
            // living user puts that right.
            let _ = door.db().get(b"/any");
            rc = close();
        }
        if rc != 0 {
            self.finding(format!("close: {rc} ({})", std::io::Error::last_os_error()));
        }
    }

    /// Runs `f` under the callers' lock, if the role wants it.
    fn around<T>(&mut self, door: &Door, role: Role, f: impl FnOnce(&Self, &Plain) -> T) -> T {
        let db = door.db();
        if !self.middleware && !matches!(role, Role::Locker | Role::Holder) {
            return f(self, db);
        }
        // SAFETY: the database is open.
        let lock = unsafe { &raw mut (*db.shared()).rwlock };
        // SAFETY: as above.
        self.timed(Call::Lock, || unsafe { ffi::Kdb_wrlock(lock) });
        if role == Role::Holder {
            self.pause(300);
        }
        let answer = f(self, db);
        // SAFETY: taken above.
        unsafe { ffi::Kdb_unlock(lock) };
        answer
    }

    fn step(&mut self, door: &Door, role: Role) {
        if role == Role::Reader {
            let (lane, i) = (self.rng.below(LANES as u64), self.rng.below(KEYS as u64));
            return self.around(door, role, |me, db| {
                me.look(db, lane as usize, i as usize);
            });
        }
        match self.rng.below(16) {
            0 => {
                let c = self.rng.below(COMMON as u64) as usize;
                self.around(door, role, |me, db| me.put_common(db, c));
            }
            // New keys come one after the other during the life of a database.
            1..=3 => {
                let i = self.rng.below(KEYS as u64) as usize;
                self.around(door, role, |me, db| me.put(db, i));
            }
            n => {
                let known = |i: &usize| self.board.keys[self.lane][*i].begun().0 != 0;
                let i = match (0..KEYS).filter(known).count() as u64 {
                    0 => 0,
                    some => self.rng.below(some) as usize,
                };
                let live = !self.board.keys[self.lane][i].answered().is_absent();
                self.around(door, role, |me, db| {
                    if n >= 13 && live {
                        me.delete(db, i);
                    } else {
                        me.put(db, i);
                    }
                });
            }
        }
    }

    fn put(&self, db: &Plain, i: usize) {
        let (key, id) = (&self.board.keys[self.lane][i], id_of(self.lane, i));
        let op = key.begin_put();
        let value = op.value(id, self.room());
        let answer = self.timed(Call::Put, || db.put(&self.names[self.lane][i], &value));
        if answer != (0, value.len() as i32) {
            self.finding(format!("put {id} {op:x?}: {answer:?}"));
        }
        key.answer(op);
    }

    fn delete(&self, db: &Plain, i: usize) {
        let (key, id) = (&self.board.keys[self.lane][i], id_of(self.lane, i));
        let op = key.begin_delete();
        let answer = self.timed(Call::Delete, || db.delete(&self.names[self.lane][i]));
        if answer != (0, 0) {
            self.finding(format!("delete {id} {op:x?}: {answer:?}"));
        }
        key.answer(op);
    }

    fn put_common(&self, db: &Plain, c: usize) {
        let op = self.board.common[c][self.lane].begin_put();
        let value = op.value(common_id(c, self.lane), self.room());
        let answer = self.timed(Call::Put, || db.put(&common_name(c), &value));
        if answer != (0, value.len() as i32) {
            self.finding(format!("put of a common key: {answer:?}"));
        }
    }

    /// Reads a key and judges the answer.
    fn look(&self, db: &Plain, lane: usize, i: usize) -> Option<Op> {
        let (key, id) = (&self.board.keys[lane][i], id_of(lane, i));
        let before = key.before();
        let got = self.timed(Call::Get, || db.get(&self.names[lane][i]));
        let value = match &got {
            Ok(value) => Some(value.as_slice()),
            Err(1) => None,
            Err(rc) => self.finding(format!("get {id}: {rc}")),
        };
        match key.judge(id, self.room(), &before, value) {
            Ok(shown) => shown,
            Err(what) => self.finding(format!("key {id} (of lane {lane}): {what}")),
        }
    }

    fn look_common(&self, db: &Plain, c: usize) {
        let value = match self.timed(Call::Get, || db.get(&common_name(c))) {
            Ok(value) => value,
            Err(1) => return,
            Err(rc) => self.finding(format!("get of a common key: {rc}")),
        };
        let fits = (0..LANES).any(|l| {
            let told = Op::told_by(&value, common_id(c, l), self.room());
            matches!(told, Ok(op) if op.is_none_or(|op| op <= self.board.common[c][l].begun()))
        });
        if !fits {
            self.finding(format!("common key {c}: {} bytes of nobody", value.len()));
        }
    }

    /// Decides what became of the call in which the last process of this lane died.
    fn settle(&mut self, door: &Door) {
        for i in 0..KEYS {
            let key = &self.board.keys[self.lane][i];
            if key.answered() != key.begun() {
                let shown = self.look(door.db(), self.lane, i);
                self.board.keys[self.lane][i].settle(shown);
            }
        }
    }

    /// Looks at everything that anybody has ever written.
    fn sweep(&mut self, door: &Door, role: Role) {
        let wanted = self.board.sweeps_wanted.load(SeqCst);
        let locked = self.rng.one_in(2);
        let role = if locked { role } else { Role::Writer };
        for lane in 0..LANES {
            for i in 0..KEYS {
                if self.board.keys[lane][i].begun().0 != 0 {
                    self.around(door, role, |me, db| me.look(db, lane, i));
                }
            }
            // Four processes that never rest would measure the machine's scheduler.
            self.pause(500);
        }
        for c in 0..COMMON {
            self.look_common(door.db(), c);
        }
        if self.rng.one_in(4) {
            self.around(door, role, |me, db| me.iterate(db));
        }
        self.board.lanes[self.lane].swept.store(wanted, SeqCst);
    }

    /// Every key that is there throughout comes once, no key comes twice.
    fn iterate(&self, db: &Plain) {
        let all = || (0..LANES).flat_map(|l| (0..KEYS).map(move |i| (l, i)));
        let before: Vec<(Op, Op)> = all()
            .map(|(l, i)| {
                let key = &self.board.keys[l][i];
                let answered = key.answered();
                (answered, key.begun())
            })
            .collect();
        let keys = self.timed(Call::Iterate, || db.keys());
        let mut keys = keys.unwrap_or_else(|rc| self.finding(format!("iterate: {rc}")));
        let found = keys.len();
        keys.sort();
        keys.dedup();
        if keys.len() != found {
            self.finding(format!("the iterator gave {found} keys of {}", keys.len()));
        }
        for ((l, i), (answered, begun)) in all().zip(before) {
            let key = &self.board.keys[l][i];
            let quiet = answered == begun && key.begun() == begun;
            let there = keys.binary_search(&self.names[l][i]).is_ok();
            if quiet && there == answered.is_absent() {
                self.finding(format!(
                    "the iterator: key {} there {there}, answered {:#x}",
                    id_of(l, i),
                    answered.0
                ));
            }
        }
    }
}

#[test]
fn child() {
    // Not a test: the process that is to be killed. Returns at once in an ordinary run.
    let Ok(work) = std::env::var(CHILD) else {
        return;
    };
    procs::die_with_the_driver();
    match work.split_once('\n') {
        Some(("dies holding", rest)) => die_holding(rest),
        Some(("random", rest)) => Worker::new(rest).run(),
        _ => panic!("{work}"),
    }
    std::process::exit(0);
}

// ---------------------------------------------------------------- the driver

fn sizes(value: u64) -> Sizes {
    let key = if value == 212 { 64 } else { 128 };
    Sizes {
        table: 510,
        key,
        value,
    }
}

/// One database and the processes that use it.
struct Ground<'a> {
    scratch: &'a Scratch,
    name: String,
    board: Mapped<Board>,
    sizes: Sizes,
    middleware: bool,
    children: Vec<Running>,
    rng: &'a mut Rng,
    /// When time was taken from the children, and how much: they were stopped, or the machine was.
    excuses: Vec<(u64, u64)>,
    last_look: u64,
    deaths: u64,
}

impl<'a> Ground<'a> {
    fn new(
        scratch: &'a Scratch,
        name: String,
        value: u64,
        middleware: bool,
        rng: &'a mut Rng,
    ) -> Ground<'a> {
        let board = Mapped::create(&scratch.db(&format!("{name}.board"))).expect("the board");
        let mut ground = Ground {
            scratch,
            name,
            board,
            sizes: sizes(value),
            middleware,
            children: Vec::new(),
            rng,
            excuses: Vec::new(),
            last_look: now(),
            deaths: 0,
        };
        for lane in 0..LANES {
            let child = ground.start(lane);
            ground.children.push(child);
        }
        ground
    }

    fn start(&mut self, lane: usize) -> Running {
        let work = format!(
            "random\n{}\n{}\n{lane}\n{}\n{}\n{}",
            self.scratch.path().display(),
            self.name,
            self.rng.next(),
            self.sizes.value,
            if self.middleware {
                "middleware"
            } else {
                "plain"
            }
        );
        Running::start(&mut procs::child(CHILD, work))
    }

    /// Fails if a child has found something, ended by itself, or hangs.
    fn look(&mut self) {
        let time = now();
        let asleep = time - self.last_look;
        self.last_look = time;
        if asleep > 100_000_000 {
            self.excuses.push((time, asleep));
        }
        let findings = fs::read_to_string(self.scratch.db("findings")).unwrap_or_default();
        if !findings.is_empty() {
            self.fail(&findings);
        }
        for lane in 0..LANES {
            if self.board.stop.load(Relaxed) == 0
                && let Some(status) = self.children[lane].ended()
            {
                self.fail(&format!("lane {lane} ended by {}", procs::how(status)));
            }
            let since = self.board.lanes[lane].since.load(SeqCst);
            if since == 0 || since > time {
                continue;
            }
            let excused = self.excuses.iter().filter(|e| e.0 > since).map(|e| e.1);
            let busy = (time - since).saturating_sub(excused.sum());
            let call = self.board.lanes[lane].call.load(SeqCst) as usize;
            let limit = match CALLS[call].0 {
                // See Worker::close.
                Call::Close if self.middleware => LIMIT * 6,
                _ => LIMIT,
            };
            if busy > limit.as_nanos() as u64 {
                self.fail(&format!(
                    "lane {lane} hangs in {} for {} ms",
                    CALLS[call].1,
                    busy / 1_000_000
                ));
            }
        }
    }

    fn fail(&mut self, what: &str) -> ! {
        if let Some(keep) = std::env::var_os("KISSDB_KEEP") {
            // For whoever looks into it: processes stay for a debugger, files are copied.
            for name in fs::read_dir(self.scratch.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = fs::copy(name.path(), Path::new(&keep).join(name.file_name()));
            }
            for name in self.scratch.objects() {
                let _ = fs::copy(
                    Path::new("/dev/shm").join(&name),
                    Path::new(&keep).join(&name),
                );
            }
            eprintln!("{what}");
            for (lane, child) in self.children.iter().enumerate() {
                let l = &self.board.lanes[lane];
                let since = l.since.load(SeqCst);
                let ms = now().saturating_sub(since) / 1_000_000;
                let call = CALLS[l.call.load(SeqCst) as usize].1;
                let busy = if since == 0 { 0 } else { ms };
                eprintln!("lane {lane}: pid {}, {call} for {busy} ms", child.pid());
            }
            std::thread::sleep(Duration::from_secs(procs::number("KISSDB_KEEP_SECONDS", 0)));
        }
        panic!("{}, after {} deaths of it: {what}", self.name, self.deaths);
    }

    fn nap(&mut self, microseconds: u64) {
        let until = now() + microseconds * 1000;
        loop {
            self.look();
            let left = until.saturating_sub(now());
            if left == 0 {
                return;
            }
            std::thread::sleep(Duration::from_nanos(left.min(1_000_000)));
        }
    }

    /// Kills the processes of these lanes, then starts new ones.
    fn kill(&mut self, lanes: &[usize]) {
        self.board.deaths.fetch_add(1, SeqCst);
        for &lane in lanes {
            self.children[lane].signal(libc::SIGKILL);
        }
        for &lane in lanes {
            let status = self.children[lane].wait();
            if procs::how(status) != "signal 9" {
                self.fail(&format!("lane {lane} ended by {}", procs::how(status)));
            }
            self.board.lanes[lane].since.store(0, SeqCst);
            self.deaths += 1;
        }
        self.board.writers_closed.store(0, SeqCst);
        self.board.gone.store(now(), SeqCst);
        self.board.deaths.fetch_add(1, SeqCst);
        self.board.sweeps_wanted.fetch_add(1, SeqCst);
        for &lane in lanes {
            self.children[lane] = self.start(lane);
        }
    }

    /// Stops a process for a while; what waits for it then waits for the living.
    fn stop(&mut self, lane: usize, microseconds: u64) {
        self.board.stops.fetch_add(1, SeqCst);
        let since = now();
        self.children[lane].signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_micros(microseconds));
        if self.rng.one_in(3) {
            // It dies without having run again.
            self.kill(&[lane]);
        } else {
            self.children[lane].signal(libc::SIGCONT);
        }
        let until = now();
        self.excuses.push((until, until - since));
        self.board.stops.fetch_add(1, SeqCst);
    }

    /// Returns when somebody has seen that everything is still there.
    fn wait_for_sweep(&mut self) {
        let wanted = self.board.sweeps_wanted.load(SeqCst);
        let since = now();
        while !(0..LANES).any(|l| self.board.lanes[l].swept.load(SeqCst) >= wanted) {
            self.nap(200);
            if now() - since > 20_000_000_000 {
                self.fail("nobody gets through all keys any more");
            }
        }
    }

    fn deaths(&mut self, wanted: u64) {
        while self.deaths < wanted {
            let n = self.rng.below(4000);
            self.nap(n);
            let lane = self.rng.below(LANES as u64) as usize;
            match self.rng.below(40) {
                0..=3 => {
                    let n = self.rng.below(8000);
                    self.stop(lane, n);
                }
                4 => self.kill(&[0, 1, 2, 3]),
                5..=6 => self.kill(&[lane, (lane + 1) % LANES]),
                _ => self.kill(&[lane]),
            }
            self.wait_for_sweep();
        }
    }

    /// Everybody closes; what is left must be right.
    fn end(&mut self) {
        self.board.stop.store(1, SeqCst);
        let since = now();
        while !(0..LANES).all(|l| self.children[l].ended().is_some()) {
            self.nap(500);
            if now() - since > 10_000_000_000 {
                self.fail("somebody does not end");
            }
        }
        self.look();
        for lane in 0..LANES {
            let status = self.children[lane].wait();
            if !status.success() {
                self.fail(&format!("lane {lane} ended by {}", procs::how(status)));
            }
        }
        let objects = self.scratch.objects();
        if !objects.is_empty() {
            self.fail(&format!("left behind: {}", objects.join(" ")));
        }
        let path = self.scratch.db(&format!("{}.db", self.name));
        if self.board.writers_closed.load(SeqCst) == 0 {
            // Who only reads leaves the file as the dead have left it.
            let db = Plain::opened(&path, ffi::RDWR, self.sizes).expect("open");
            assert_eq!(db.close(), 0, "{}", self.name);
        }
        let file = fs::read(&path).expect("the file");
        let mut bad = check::check(&file, true);
        let pairs = check::pairs(&file);
        let room = self.sizes.value as usize;
        for lane in 0..LANES {
            for i in 0..KEYS {
                let key = &self.board.keys[lane][i];
                let there = pairs.get(&name_of(lane, i)).map(Vec::as_slice);
                // The last writer may have died in a call, and nobody has read what became of it.
                if let Err(what) = key.judge(id_of(lane, i), room, &key.before(), there) {
                    bad.push(format!("key {i} of lane {lane} in the file: {what}"));
                }
            }
        }
        if !bad.is_empty() {
            self.fail(&bad.join("\n"));
        }
    }
}

/// Runs until so many processes have died; tells how long calls took.
fn random_kills(kills: u64, seed: u64, middleware: bool) {
    println!(
        "KISSDB_KILLS={kills} KISSDB_SEED={seed}{}",
        if middleware {
            ", the middleware's way"
        } else {
            ""
        }
    );
    // Without a redo log and with one. Of those on a disk, which is waited for, no times are taken.
    let scratches = [procs::fast_directory(), procs::lasting_directory()].map(Scratch::below);
    let mut rng = Rng(seed);
    let begin = now();
    let times: Vec<[Times; 2]> = CALLS.iter().map(|_| [Times::new(), Times::new()]).collect();
    let (mut deaths, mut n) = (0, 0);
    while deaths < kills {
        let name = format!("kills{n}");
        let value = if n % 2 == 0 { 8028 } else { 212 };
        let on_disk = n / 2 % 2 == 1;
        n += 1;
        let mut ground = Ground::new(
            &scratches[usize::from(on_disk)],
            name,
            value,
            middleware,
            &mut rng,
        );
        ground.deaths(PER_DATABASE.min(kills - deaths));
        ground.end();
        deaths += ground.deaths;
        let new_times = ground.board.times.iter().filter(|_| !on_disk);
        for (sum, new) in times.iter().zip(new_times) {
            sum[0].add(&new[0]);
            sum[1].add(&new[1]);
        }
    }
    let seconds = (now() - begin) as f64 / 1e9;
    println!(
        "{deaths} deaths on {n} databases in {seconds:.1} s: nothing lost, nobody hung. Seed {seed}"
    );
    let (waits, struck) = (Times::new(), Times::new());
    for ((call, name), [all, near]) in CALLS.iter().zip(&times) {
        println!("{name:>11}: {}", all.told());
        println!("  at a death {}", near.told());
        if matches!(call, Call::Lock | Call::Get | Call::Put | Call::Delete) {
            waits.add(all);
            struck.add(near);
        }
    }
    println!("get, put, delete and Kdb_wrlock:");
    println!("        all: {}", waits.told());
    println!("  at a death {}", struck.told());
    // Nobody has hung: see Ground::look. At a death most of the time goes to waiting for living holders, who wait for a
    // core themselves; what the dead cost is measured in a_dead_holder_delays_nobody.
    assert!(waits.share(0.99) <= 500_000, "a call in 100 is too slow");
}

#[test]
fn what_cannot_be_true_is_noticed() {
    // A judge that never objects proves nothing: a lost change, one that comes and goes, an old value, a torn one, that
    // of another key, a deleted key that is back.
    let (id, room) = (5, 8028);
    let verdict = |key: &Key, got: Option<Vec<u8>>| {
        key.judge(id, room, &key.before(), got.as_deref()).is_ok()
    };
    let key = Key::new();
    assert!(verdict(&key, None));
    let mut last = key.begin_put();
    // In flight: both are possible, until somebody has seen the new one.
    assert!(verdict(&key, None));
    while last.value(id, room).is_empty() {
        last = key.begin_put();
    }
    assert!(verdict(&key, Some(last.value(id, room))));
    assert!(!verdict(&key, None), "seen, and gone again");
    key.answer(last);
    assert!(!verdict(&key, None), "lost");
    assert!(!verdict(&key, Some(last.value(id + 1, room))), "mixed up");
    let mut torn = last.value(id, room);
    *torn.last_mut().expect("a byte") ^= 1;
    assert!(!verdict(&key, Some(torn)), "torn");
    let second = key.begin_put();
    key.answer(second);
    assert!(!verdict(&key, Some(last.value(id, room))), "old");
    let delete = key.begin_delete();
    key.answer(delete);
    assert!(verdict(&key, None));
    assert!(!verdict(&key, Some(second.value(id, room))), "back");
    // Its writer died, and it was found not to have happened.
    let undone = key.begin_put();
    key.settle(Some(delete));
    assert!(verdict(&key, None));
    assert!(!verdict(&key, Some(undone.value(id, room))), "undone");
}

#[test]
fn four_processes_are_killed_at_random() {
    // Failures 16, 17 and 18: after the first death everybody stood still, and the tables were never written again.
    let _alone = alone();
    random_kills(
        procs::number("KISSDB_KILLS", 2000) * 3 / 4,
        procs::seed("KISSDB_SEED"),
        false,
    );
}

// ---------------------------------------------------------------- one death at a chosen place

/// Where a child is when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Between Kdb_wrlock and Kdb_unlock.
    Written,
    /// Between Kdb_rdlock and Kdb_unlock.
    Read,
    /// In an operation of the 2019 middleware: mutex and lock.
    Mutex,
    /// The middleware's open, between taking the semaphore and KISSDB_open.
    BeforeOpen,
    /// Between KISSDB_open and the count.
    Uncounted,
    /// Between the count and posting the semaphore.
    Counted,
    /// The middleware's close, between taking the semaphore and Kdb_wrlock.
    Closing,
    /// Between Kdb_wrlock and Kdb_unlock of a close, counted off.
    Leaving,
    /// Between Kdb_unlock and KISSDB_close.
    Left,
    /// Inside KISSDB_close, where the name of the semaphore has just been removed: closes when told to.
    Unlinked,
    /// Anywhere in one put after the other: mostly in the lock around each call.
    Putting,
    /// Anywhere in one open and close after the other: mostly in the lock around these.
    Moving,
    /// Outside the library, with nothing held.
    Nowhere,
}

const PLACES: [Place; 13] = [
    Place::Written,
    Place::Read,
    Place::Mutex,
    Place::BeforeOpen,
    Place::Uncounted,
    Place::Counted,
    Place::Closing,
    Place::Leaving,
    Place::Left,
    Place::Unlinked,
    Place::Putting,
    Place::Moving,
    Place::Nowhere,
];

/// The child: goes to its place, says so, and waits for its end.
fn die_holding(work: &str) {
    let (place, path) = work.split_once('\n').expect("a place and a path");
    let path = Path::new(path);
    let wait_for_the_end = || -> ! {
        println!("ready");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    };
    let place = PLACES[place.parse::<usize>().expect("a place")];
    let rwlock = |db: &Plain| {
        // SAFETY: callers pass an open database.
        unsafe { &raw mut (*db.shared()).rwlock }
    };
    match place {
        Place::Written | Place::Read => {
            let db = Plain::opened(path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
            // SAFETY: the database is open.
            unsafe {
                if place == Place::Written {
                    ffi::Kdb_wrlock(rwlock(&db));
                } else {
                    ffi::Kdb_rdlock(rwlock(&db));
                }
            }
            wait_for_the_end()
        }
        Place::Mutex => {
            let handle = Handle::new(path).generation(ffi::Generation::Y2019);
            assert_eq!(handle.open(ffi::RWCREAT, ffi::WT, ffi::SETTINGS), 0);
            handle.locked(|_| wait_for_the_end())
        }
        Place::BeforeOpen | Place::Uncounted | Place::Counted => {
            let db = Plain::new();
            let name = ffi::shm_name("-sem", path).expect("a name");
            let name = std::ffi::CString::new(name).expect("a name");
            // SAFETY: the middleware's way: named, opened, waited for, before KISSDB_open.
            unsafe {
                let sem = libc::sem_open(name.as_ptr(), libc::O_CREAT, ffi::SEMAPHORE_MODE, 1);
                assert!(sem != libc::SEM_FAILED);
                (*db.as_ptr()).kdbSem = sem;
                assert_eq!(libc::sem_wait(sem), 0);
            }
            if place == Place::BeforeOpen {
                wait_for_the_end()
            }
            let rc = db.open(path, ffi::RWCREAT, ffi::WT, ffi::SETTINGS);
            assert_eq!(rc, 0);
            if place == Place::Counted {
                // SAFETY: the database is open.
                unsafe { (*db.shared()).refCount += 1 };
            }
            wait_for_the_end()
        }
        Place::Putting => {
            let db = Plain::opened(path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
            println!("ready");
            loop {
                for i in 0..KEYS {
                    assert_eq!(db.put(&name_of(0, i), b"victim"), (0, 6));
                }
            }
        }
        Place::Moving => {
            println!("ready");
            loop {
                let db = Plain::opened(path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
                assert_eq!(db.close(), 0);
            }
        }
        Place::Nowhere => wait_for_the_end(),
        Place::Unlinked => {
            let handle = Handle::new(path);
            assert_eq!(handle.open(ffi::RWCREAT, ffi::WT, ffi::SETTINGS), 0);
            println!("ready");
            while !path.with_extension("go").exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            DIE_IN_SEM_UNLINK.store(1, SeqCst);
            handle.close();
            unreachable!("the last one removes the semaphore")
        }
        Place::Closing | Place::Leaving | Place::Left => {
            let handle = Handle::new(path);
            assert_eq!(handle.open(ffi::RWCREAT, ffi::WT, ffi::SETTINGS), 0);
            assert!(handle.wait());
            if place == Place::Closing {
                wait_for_the_end()
            }
            // SAFETY: the database is open.
            unsafe {
                ffi::Kdb_wrlock(rwlock(handle.plain()));
                (*handle.plain().shared()).refCount -= 1;
                if place == Place::Leaving {
                    wait_for_the_end()
                }
                ffi::Kdb_unlock(rwlock(handle.plain()));
            }
            wait_for_the_end()
        }
    }
}

/// Not 0 in a child that is to die there.
static DIE_IN_SEM_UNLINK: AtomicU32 = AtomicU32::new(0);

/// Takes the place of the C library's in this program.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn sem_unlink(name: *const std::ffi::c_char) -> std::ffi::c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy();
    let removed = fs::remove_file(format!("/dev/shm/sem.{}", name.trim_start_matches('/')));
    if DIE_IN_SEM_UNLINK.load(SeqCst) != 0 {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    if removed.is_ok() { 0 } else { -1 }
}

/// A child at its place.
fn start_at(place: Place, path: &Path) -> Running {
    let n = PLACES.iter().position(|p| *p == place).expect("a place");
    let work = format!("dies holding\n{n}\n{}", path.display());
    let mut child = Running::start(procs::child(CHILD, work).stdout(Stdio::piped()));
    let mut said = child.child().stdout.take().expect("its voice");
    let (mut text, mut bytes) = (String::new(), [0; 256]);
    while !text.contains("ready") {
        let n = said.read(&mut bytes).expect("what it says");
        assert!(n > 0, "the child for {place:?} did not get there: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    child
}

/// What `f` answers; fails if that takes longer than [`LIMIT`].
fn within_limit<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || drop(send.send(f())));
    let answer = receive
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| panic!("{what}: no answer within a second"));
    worker.join().expect("an answer");
    answer
}

/// Takes and releases the callers' lock, sets a key and reads it, all in time.
fn works(what: &str, db: &std::sync::Arc<Plain>) {
    let db = db.clone();
    let answer = within_limit(what, move || {
        // SAFETY: the database is open.
        unsafe {
            let lock = &raw mut (*db.shared()).rwlock;
            ffi::Kdb_wrlock(lock);
            ffi::Kdb_unlock(lock);
        }
        let put = db.put(b"/works", b"yes");
        (put, db.get(b"/works"))
    });
    assert_eq!(answer, ((0, 3), Ok(b"yes".to_vec())), "{what}");
}

/// Makes one call after the other until told to stop: begin, end, and how long of that no core was to be had.
fn call_again_and_again(
    stop: std::sync::Arc<AtomicU32>,
    call: impl Fn() + Send + 'static,
) -> std::thread::JoinHandle<Vec<[u64; 3]>> {
    std::thread::spawn(move || {
        let mut times = Vec::new();
        while stop.load(SeqCst) == 0 {
            let (delayed, since) = (procs::without_a_core(), now());
            call();
            times.push([since, now(), procs::without_a_core() - delayed]);
            std::thread::sleep(Duration::from_micros(50));
        }
        times
    })
}

/// The longest that one of two users waits for a process that is killed at `at` while they call what needs what is held
/// at `place`: once from its end (that is: reaped), once from the signal on. Without the time in which the machine had no
/// core for the caller, and for an open without what an open takes.
fn longest_waits(
    survivors: &[std::sync::Arc<Plain>; 2],
    path: &Path,
    (place, at): (Place, Place),
    rng: &mut Rng,
) -> Vec<[u64; 2]> {
    let mut child = start_at(at, path);
    let stop = std::sync::Arc::new(AtomicU32::new(0));
    let waiters = survivors.clone().map(|db| {
        let path = path.to_path_buf();
        call_again_and_again(stop.clone(), move || match place {
            Place::Putting => drop(db.get(b"/works")),
            Place::Moving => drop(Plain::opened(&path, ffi::RDWR, ffi::SETTINGS)),
            _ => {
                // SAFETY: the database is open.
                unsafe {
                    let lock = &raw mut (*db.shared()).rwlock;
                    ffi::Kdb_wrlock(lock);
                    ffi::Kdb_unlock(lock);
                }
            }
        })
    });
    std::thread::sleep(Duration::from_micros(rng.below(3000)));
    let killed = now();
    child.kill();
    let gone = now();
    std::thread::sleep(Duration::from_millis(2));
    stop.store(1, SeqCst);
    let longest = |waiter: std::thread::JoinHandle<Vec<[u64; 3]>>| {
        let times = within_limit("a waiter", move || waiter.join().expect("times"));
        // What a call takes that nobody delays.
        let mut usual: Vec<u64> = times
            .iter()
            .map(|t| (t[1] - t[0]).saturating_sub(t[2]))
            .collect();
        usual.sort_unstable();
        let usual = match place {
            Place::Moving => usual.get(usual.len() / 2).copied().unwrap_or(0),
            _ => 0,
        };
        [gone, killed].map(|from| {
            let waited = |t: &[u64; 3]| t[1].saturating_sub(from.max(t[0]) + t[2] + usual);
            times.iter().map(waited).max().unwrap_or(0)
        })
    };
    waiters.into_iter().map(longest).collect()
}

/// Kills holders, and in turns with them processes that hold nothing: what 99 of 100 callers wait for at most, of each.
fn waits_for_the_dead(path: &Path) -> [u64; 2] {
    let open =
        || std::sync::Arc::new(Plain::opened(path, ffi::RWCREAT, ffi::SETTINGS).expect("open"));
    let survivors = [open(), open()];
    let mut rng = Rng(1);
    let (all, from_the_signal, for_nobody) = (Times::new(), Times::new(), Times::new());
    let places = [
        (Place::Written, "the callers' lock, written"),
        (Place::Read, "the callers' lock, read"),
        (Place::Mutex, "the callers' lock, 2019"),
        (Place::Putting, "the engine's lock"),
        (Place::Moving, "the gate"),
    ];
    for (place, name) in places {
        let waits = Times::new();
        for round in 0..procs::number("KISSDB_HOLDERS", 500) / 5 {
            for [gone, killed] in longest_waits(&survivors, path, (place, place), &mut rng) {
                waits.note(gone);
                from_the_signal.note(killed);
            }
            for [gone, _] in longest_waits(&survivors, path, (place, Place::Nowhere), &mut rng) {
                for_nobody.note(gone);
            }
            if round % 10 == 0 {
                works("a user of before", &survivors[0]);
                works("a new user", &open());
            }
        }
        println!("{name:>28}: {}", waits.told());
        all.add(&waits);
    }
    println!("{:>28}: {}", "all", all.told());
    println!("{:>28}: {}", "from the signal on", from_the_signal.told());
    println!(
        "{:>28}: {}",
        "for one that holds nothing",
        for_nobody.told()
    );
    [all.share(0.99), for_nobody.share(0.99)]
}

#[test]
fn a_dead_holder_delays_nobody() {
    // Failure 18: death while holding shared->rwlock, and everybody waits for ever. Here who waits already gets it, and
    // so does who comes later, whether the dead one had it for reading or for writing, or died in the library's own
    // locks. Half a millisecond for 99 of 100 callers, beyond what this machine delays them by when somebody dies who
    // holds nothing (half a millisecond of that at most). A machine that is busy with something else can only add to
    // it: one quiet time of three is enough.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    let quick = (0..3).any(|n| {
        let [dead, nobody] = waits_for_the_dead(&scratch.db(&format!("lock{n}.db")));
        dead <= nobody.min(500_000) + 500_000
    });
    assert!(quick, "the dead are waited for");
}

#[test]
fn what_a_dead_one_held_is_not_taken_for_its_successors() {
    // Failures 17 and 18. The dead one's place in the list of users is given to the next opener; what it held must not
    // seem to be held by that one, who would wait for itself.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    for (n, place) in [Place::Written, Place::Read].into_iter().enumerate() {
        let path = scratch.db(&format!("successor{n}.db"));
        let open = || {
            std::sync::Arc::new(Plain::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open"))
        };
        let survivor = open();
        start_at(place, &path).kill();
        // The first one clears the list, the second one gets the place.
        let later = [open(), open(), open()];
        for (i, db) in later.iter().enumerate() {
            works(&format!("{place:?}: opener {i} after the death"), db);
        }
        works(&format!("{place:?}: a user of before"), &survivor);
    }
}

#[test]
fn a_semaphore_of_the_dead_is_posted() {
    // Failure 18, second half: death inside open or close of the middleware left its semaphore at 0, and every later
    // open failed after 5 s, until the next reboot.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    let holding = &PLACES[3..9];
    let mut bad = Vec::new();
    for (n, &place) in holding.iter().enumerate() {
        for survivors in 0..2 {
            let path = scratch.db(&format!("sem{n}-{survivors}.db"));
            let got = std::panic::catch_unwind(|| semaphore_case(&path, place, survivors));
            if let Err(panic) = got {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                bad.push(format!("{place:?}, {survivors} survivors: {text}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

fn semaphore_case(path: &Path, place: Place, survivors: usize) {
    let open = || {
        let path = path.to_owned();
        within_limit("open", move || {
            Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS)
                .unwrap_or_else(|rc| panic!("open: {rc}"))
        })
    };
    // An opener.
    let before: Vec<Handle> = (0..survivors).map(|_| open()).collect();
    start_at(place, path).kill();
    let opener = open();
    assert_eq!(
        opener.ref_count() as usize,
        survivors + 1,
        "refCount after an open"
    );
    assert_eq!(opener.put(b"/k", b"v"), (0, 1));
    assert_eq!(opener.semaphore(), Some(1), "after an open");
    // A user's next call, while a closer waits.
    start_at(place, path).kill();
    let mut before = before.into_iter();
    let closer = before
        .next()
        .map(|handle| std::thread::spawn(move || handle.close()));
    let since = now();
    while opener.semaphore() == Some(0) {
        assert_eq!(opener.get(b"/k"), Ok(b"v".to_vec()));
        assert!(
            now() - since < 1_000_000_000,
            "calls of a living user do not post the semaphore"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(closer) = closer {
        let rc = within_limit("close of a waiter", move || {
            closer.join().expect("an answer")
        });
        assert_eq!(rc, 0, "close of a waiter");
    }
    for handle in before {
        assert_eq!(handle.close(), 0);
    }
    // The last one is known as such, whoever has died: it writes the cache back.
    opener.set_cache_created(true);
    let (rc, written) = within_limit("close", move || {
        let mut written = false;
        (opener.close_with(|_| written = true), written)
    });
    assert_eq!(
        (rc, written),
        (0, true),
        "close of the last one, and whether it knew"
    );
    let file = fs::read(path).expect("the file");
    assert_eq!(check::check(&file, true), Vec::<String>::new());
}

#[test]
fn a_closer_that_dies_has_posted_before_the_name_is_gone() {
    // The last user of a database closed and died between removing the semaphore's name and posting it. An opener that
    // had the semaphore open waited its 5 s and failed: nobody else could reach it any more.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    let path = scratch.db("unlinked.db");
    let mut child = start_at(Place::Unlinked, &path);
    let name = ffi::shm_name("-sem", &path).expect("a name");
    let name = std::ffi::CString::new(name).expect("a name");
    // SAFETY: a C string; the semaphore is there.
    let sem = unsafe { libc::sem_open(name.as_ptr(), 0) };
    assert!(sem != libc::SEM_FAILED);
    fs::write(path.with_extension("go"), "").expect("a sign");
    assert_eq!(procs::how(child.wait()), "signal 9");
    let mut value = 0;
    // SAFETY: open.
    unsafe { libc::sem_getvalue(sem, &mut value) };
    assert_eq!(value, 1, "who waits for it now waits for ever");
    // SAFETY: open, and not used afterwards.
    unsafe { libc::sem_close(sem) };
    let next = Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
    assert_eq!(next.close(), 0);
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

#[test]
fn one_call_posts_a_semaphore_of_the_dead() {
    // Everybody closes, and the one who holds the semaphore dies. The closers' waits end after 5 s by their own
    // time-out; then each makes one call, all at the same time. Nobody posted it (it took two calls that were 0.2 s
    // apart), so all closes failed once more.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    for (n, place) in [Place::BeforeOpen, Place::Closing, Place::Left]
        .into_iter()
        .enumerate()
    {
        let path = scratch.db(&format!("once{n}.db"));
        let open = || Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
        let (first, second) = (open(), open());
        start_at(place, &path).kill();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(first.semaphore(), Some(0), "{place:?}");
        let plain = n % 2 == 0;
        let first = within_limit("one call", move || {
            let got = if plain {
                first.plain().get(b"/any")
            } else {
                first.get(b"/any")
            };
            assert_eq!(got, Err(1));
            first
        });
        assert_eq!(first.semaphore(), Some(1), "{place:?}, after one call");
        assert_eq!((first.close(), second.close()), (0, 0));
    }
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

#[test]
fn a_semaphore_of_the_dead_is_posted_while_the_lock_is_busy() {
    // The living kept taking the callers' lock, which a closer would hold: at each look somebody was inside. An opener
    // waited its 5 s and failed.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    let path = scratch.db("busy.db");
    let open = || Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
    let users = [open(), open(), open()];
    let stop = std::sync::Arc::new(AtomicU32::new(0));
    start_at(Place::Closing, &path).kill();
    let busy = users.map(|handle| {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while stop.load(SeqCst) == 0 {
                handle.locked(|_| std::thread::sleep(Duration::from_millis(1)));
            }
            handle
        })
    });
    let opener = {
        let path = path.clone();
        within_limit("open", move || {
            Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS)
        })
    };
    stop.store(1, SeqCst);
    assert_eq!(opener.expect("open").close(), 0);
    for handle in busy {
        assert_eq!(handle.join().expect("a user").close(), 0);
    }
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

#[test]
fn a_semaphore_of_the_living_is_left_alone() {
    // A call that found it at 0, with the opener not inside yet, was remembered for 10 s. When the next holder took it,
    // it was posted under his hands, and two were in at a time; each open or close after that as well.
    let _alone = alone();
    let scratch = Scratch::below(procs::fast_directory());
    let path = scratch.db("alive.db");
    let open = || Handle::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
    let user = open();
    let look = || assert_eq!(user.plain().get(b"/any"), Err(1));
    for round in 0..2 {
        let other = open();
        assert!(other.wait());
        look();
        assert_eq!(other.plain().close(), 0);
        std::thread::sleep(Duration::from_millis(300));
        // A close, with a cache that takes its time to be written.
        let other = open();
        other.set_cache_created(true);
        assert!(other.wait());
        look();
        // SAFETY: the database is open.
        unsafe { ffi::Kdb_wrlock(&raw mut (*other.plain().shared()).rwlock) };
        for _ in 0..50 {
            look();
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(
                other.semaphore(),
                Some(0),
                "posted under its holder's hands"
            );
        }
        // SAFETY: taken above.
        unsafe { ffi::Kdb_unlock(&raw mut (*other.plain().shared()).rwlock) };
        assert_eq!(other.plain().close(), 0);
        assert_eq!(user.semaphore(), Some(1), "round {round}");
        // One post too many is made good by the next close.
        user.post();
        let other = open();
        assert!(other.wait());
        assert_eq!(other.plain().close(), 0);
        assert_eq!(user.semaphore(), Some(1), "round {round}");
    }
    user.set_cache_created(false);
    assert_eq!(user.close(), 0);
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

#[test]
fn the_middleware_is_killed_at_random() {
    // Failures 16 to 18 again, with everything that the middleware does around the calls: semaphore, count, lock.
    let _alone = alone();
    random_kills(
        procs::number("KISSDB_KILLS", 2000) / 4,
        procs::seed("KISSDB_SEED"),
        true,
    );
}
