//! A process is killed at every single point of a change: before every store into memory that others share, and before
//! every system call (guarantee P1; failures 12, 16 to 20 of the original).
//!
//! What happened: the process died between two instructions of a put, a delete, an open or a close. What the user saw:
//! half a value, a key that was gone or there twice, a deleted one that was back, or nothing at all because nobody could
//! open the database any more. Here: after each of these deaths a process that has the database open goes on at once, a
//! fresh one finds the shared objects of the dead, another one finds the file alone, as after a reboot; all of them see
//! every change that was answered, the one in flight completely or not at all, and leave a clean file.
//!
//! How: the child is this program once more. For system calls it is traced (ptrace) and killed at the n-th; for stores
//! this program's own `mmap`, which takes the place of the C library's, makes shared maps read-only, so that every store
//! faults, is counted, and is let through by a single step. n goes from 0 until a run ends by itself.

#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Atomics, Mapped, Running};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;
use support::ffi::{self, Plain, RESOURCES, SETTINGS, Sizes};
use support::{Scratch, check};

/// What a child leaves behind when it dies.
#[repr(C)]
struct Board {
    /// Calls begun and answered.
    begun: AtomicU64,
    answered: AtomicU64,
    /// Stores counted so far; before store number `fatal` the child dies.
    stores: AtomicU64,
    fatal: AtomicU64,
    /// The stores counted when each call began.
    stores_before: [AtomicU64; 16],
    /// The answer that was not the expected one: call number + 1, and what it answered.
    wrong: AtomicU64,
    answer: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Atomics for Board {}

/// One call of a child.
#[derive(Clone, Copy, Debug)]
enum Do {
    Open,
    /// Key, length of the value and a number that tells it from others.
    Put(&'static str, usize, u64),
    Delete(&'static str),
    Close,
}

/// What a child does, and what was done before it.
struct Scenario {
    name: &'static str,
    before: &'static [Do],
    /// If not empty, another process makes these calls first, and is killed in the middle of the last one.
    wreck: &'static [Do],
    calls: &'static [Do],
    /// Of stores only those from this call on, and one in 13: of those of long values few differ.
    since: usize,
}

impl Scenario {
    /// Whether there is a redo log in it.
    fn logs(&self) -> bool {
        self.name.contains("log")
    }
}

const A: &str = "/a";
const B: &str = "/b/longer/name/of/a/key";
const C: &str = "/c";

use Do::{Close, Delete, Open, Put};

const FIRST_PUT: Scenario = Scenario {
    name: "first put in a new file",
    before: &[],
    wreck: &[],
    calls: &[Open, Put(A, 100, 1), Close],
    since: 0,
};
const OVERWRITE: Scenario = Scenario {
    name: "overwrite",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[],
    calls: &[Open, Put(A, 90, 3), Put(A, 120, 4), Close],
    since: 0,
};
const DELETE: Scenario = Scenario {
    name: "delete",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[],
    calls: &[Open, Delete(A), Close],
    since: 0,
};
const PUT_AGAIN: Scenario = Scenario {
    name: "put into a deleted slot",
    before: &[Put(A, 100, 1), Put(B, 210, 2), Delete(A)],
    wreck: &[],
    calls: &[Open, Put(TWIN, 90, 3), Close],
    since: 0,
};
const SECOND_TABLE: Scenario = Scenario {
    name: "second table",
    before: &[Put(A, 100, 1)],
    wreck: &[],
    calls: &[Open, Put(TWIN, 90, 3), Close],
    since: 0,
};
const LAST_CLOSE: Scenario = Scenario {
    name: "last close",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[],
    calls: &[Open, Put(C, 60, 3), Put(A, 0, 4), Delete(B), Close],
    since: 0,
};
/// The third change of a key goes into the redo log, and from there into its pair. A new table takes the place of the
/// log, then there is another one.
const LOG: Scenario = Scenario {
    name: "redo log",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[],
    calls: &[
        Open,
        Put(A, 90, 3),
        Put(A, 120, 4),
        Put(A, 70, 5),
        Put(TWIN, 30, 6),
        Put(A, 75, 7),
        Put(A, 80, 8),
        Put(A, 85, 9),
        Delete(A),
        Close,
    ],
    since: 0,
};

/// A value fills a page, and eight pages are a half of the log: the last put finds it full, brings both values to the place where it
/// goes on, and puts its own there.
const OTHER_HALF: Scenario = Scenario {
    name: "other half of the redo log",
    before: &[Put(A, 3800, 1), Put(B, 210, 2)],
    wreck: &[],
    calls: &[
        Open,
        Put(A, 3810, 3),
        Put(A, 3820, 4),
        Put(B, 200, 5),
        Put(B, 190, 6),
        Put(A, 3830, 7),
        Put(A, 3840, 8),
        Put(A, 3850, 9),
        Put(A, 3840, 10),
        Put(A, 3830, 11),
        Put(A, 3820, 12),
        Put(A, 3810, 13),
        Put(A, 3800, 14),
    ],
    since: 12,
};

/// Recovery, and the finishing of what a dead process has left, can be killed as well.
const RECOVERY: Scenario = Scenario {
    name: "after a death in an overwrite",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[Open, Put(C, 60, 3), Delete(B), Put(A, 150, 4)],
    calls: &[Open, Put(C, 70, 5), Close],
    since: 0,
};
const SECOND_RECOVERY: Scenario = Scenario {
    name: "after a death in a put with a second table",
    before: &[Put(A, 100, 1), Put(B, 210, 2), Delete(B)],
    wreck: &[Open, Put(B, 77, 3), Put(TWIN, 200, 4)],
    calls: &[Open, Put(TWIN, 70, 5), Close],
    since: 0,
};
const LOG_RECOVERY: Scenario = Scenario {
    name: "after a death in a put into the log",
    before: &[Put(A, 100, 1), Put(B, 210, 2)],
    wreck: &[
        Open,
        Put(A, 60, 3),
        Put(A, 150, 4),
        Put(A, 20, 5),
        Put(A, 25, 6),
    ],
    calls: &[Open, Put(A, 70, 5), Put(A, 71, 6), Delete(B), Close],
    since: 0,
};

/// Has the slot of [`A`].
const TWIN: &str = "/a-twin/439";

#[test]
fn keys_collide() {
    // The scenarios rest on it: a second table is needed, and a deleted slot is used by another key.
    let slot = |key: &str| check::slot_of(key.as_bytes(), 510);
    assert_eq!(slot(A), slot(TWIN));
    assert!(slot(A) != slot(B) && slot(A) != slot(C) && slot(B) != slot(C));
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is there after these calls.
fn after(mut model: Model, calls: &[Do]) -> Model {
    for call in calls {
        match *call {
            Put(key, len, n) => drop(model.insert(key.into(), support::value(n, len))),
            Delete(key) => drop(model.remove(key.as_bytes())),
            Open | Close => {}
        }
    }
    model
}

// ---------------------------------------------------------------- the child

const CHILD: &str = "KISSDB_KILL_POINTS_CHILD";

/// How a child is brought to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Before a store into shared memory.
    Store,
    /// Before a system call.
    Call,
}

#[test]
fn child() {
    // Not a test: the process that is to be killed. Returns at once in an ordinary run.
    let Ok(work) = std::env::var(CHILD) else {
        return;
    };
    procs::die_with_the_driver();
    let words: Vec<&str> = work.split('\n').collect();
    let [path, board, sizes, scenario, part, at] = words[..] else {
        panic!("{work}")
    };
    let board = Mapped::<Board>::open(Path::new(board)).expect("the board");
    let scenario = SCENARIOS[scenario.parse::<usize>().expect("a scenario")];
    let sizes = if sizes == "212" { RESOURCES } else { SETTINGS };
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(30) };
    if at == "Store" {
        stores::arm(&board);
    } else {
        // SAFETY: no memory is involved.
        println!("ready {}.", unsafe { libc::gettid() });
        let mut byte = [0];
        std::io::stdin().read_exact(&mut byte).expect("the driver");
    }
    let calls = if part == "Wreck" {
        scenario.wreck
    } else {
        scenario.calls
    };
    perform(calls, Path::new(path), sizes, &board);
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(0) };
}

fn perform(calls: &[Do], path: &Path, sizes: Sizes, board: &Board) {
    let db = Plain::new();
    for (call, n) in calls.iter().zip(1..) {
        board.begun.store(n, SeqCst);
        board.stores_before[n as usize % 16].store(board.stores.load(SeqCst), SeqCst);
        let right = match *call {
            Open => (db.open(path, ffi::RWCREAT, ffi::WT, sizes), 0),
            Put(key, len, value) => {
                let (rc, written) = db.put(key.as_bytes(), &support::value(value, len));
                (rc * 1000 + written, i32::try_from(len).unwrap_or(-1))
            }
            Delete(key) => (db.delete(key.as_bytes()).0, 0),
            Close => (db.close(), 0),
        };
        if right.0 != right.1 {
            board.answer.store(right.0 as u64, SeqCst);
            board.wrong.store(n, SeqCst);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(7) };
        }
        board.answered.store(n, SeqCst);
    }
}

/// Counts stores into shared maps, and dies before a certain one.
///
/// x86-64 only: a processor that cannot be told to stop after one instruction cannot let a store through. There
/// `arm` does nothing and a run has no stores.
mod stores {
    use super::Board;
    use procs::Mapped;
    use std::sync::atomic::{
        AtomicPtr, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    };

    use super::procs;

    static BOARD: AtomicPtr<Board> = AtomicPtr::new(std::ptr::null_mut());
    /// The page that is writable while one instruction runs.
    static OPEN_PAGE: AtomicUsize = AtomicUsize::new(0);
    /// Begin and end of the maps that are watched.
    static MAPS: [[AtomicUsize; 2]; 256] = [const { [const { AtomicUsize::new(0) }; 2] }; 256];
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    const PAGE: usize = 4096;

    pub fn arm(board: &Mapped<Board>) {
        if cfg!(not(target_arch = "x86_64")) {
            return;
        }
        for (signal, handler) in [
            (libc::SIGSEGV, on_store as *const () as usize),
            (libc::SIGTRAP, on_step as *const () as usize),
        ] {
            // SAFETY: all zero is a valid sigaction; the handlers have the signature that SA_SIGINFO asks for.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        let board: &Board = board;
        BOARD.store(std::ptr::from_ref(board).cast_mut(), SeqCst);
    }

    /// Takes the place of the C library's function in this program.
    #[unsafe(no_mangle)]
    extern "C" fn mmap64(
        addr: *mut libc::c_void,
        len: usize,
        protection: i32,
        flags: i32,
        fd: i32,
        offset: i64,
    ) -> *mut libc::c_void {
        let armed = !BOARD.load(Relaxed).is_null();
        let watched =
            armed && fd >= 0 && flags & libc::MAP_SHARED != 0 && protection & libc::PROT_WRITE != 0;
        let given = if watched {
            protection & !libc::PROT_WRITE
        } else {
            protection
        };
        // SAFETY: the caller's arguments; a map with fewer rights harms nobody.
        let at = unsafe { libc::syscall(libc::SYS_mmap, addr, len, given, flags, fd, offset) };
        if watched && at > 0 {
            let n = COUNT.fetch_add(1, SeqCst);
            MAPS[n][0].store(at as usize, SeqCst);
            MAPS[n][1].store(at as usize + len, SeqCst);
        }
        at as *mut libc::c_void
    }

    /// As above.
    #[unsafe(no_mangle)]
    extern "C" fn mmap(
        addr: *mut libc::c_void,
        len: usize,
        protection: i32,
        flags: i32,
        fd: i32,
        offset: i64,
    ) -> *mut libc::c_void {
        mmap64(addr, len, protection, flags, fd, offset)
    }

    fn watched(address: usize) -> bool {
        let n = COUNT.load(SeqCst).min(MAPS.len());
        MAPS[..n]
            .iter()
            .any(|m| (m[0].load(SeqCst)..m[1].load(SeqCst)).contains(&address))
    }

    const TRAP_FLAG: i64 = 0x100;

    extern "C" fn on_store(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a siginfo of a fault.
        let address = unsafe { (*info).si_addr() } as usize;
        if !watched(address) {
            // SAFETY: the default action ends the process when the instruction faults again.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            return;
        }
        // SAFETY: armed, so it points to the board, which stays mapped until this process ends.
        let board = unsafe { &*BOARD.load(SeqCst) };
        let n = board.stores.fetch_add(1, SeqCst);
        if n == board.fatal.load(SeqCst) {
            // SAFETY: ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        let page = address & !(PAGE - 1);
        OPEN_PAGE.store(page, SeqCst);
        // SAFETY: a page of a map that its owner believes to be writable.
        unsafe { libc::mprotect(page as *mut _, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
        step(context, true);
    }

    extern "C" fn on_step(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let page = OPEN_PAGE.load(SeqCst);
        // SAFETY: as above.
        unsafe { libc::mprotect(page as *mut _, PAGE, libc::PROT_READ) };
        step(context, false);
    }

    #[cfg(target_arch = "x86_64")]
    fn step(context: *mut libc::c_void, on: bool) {
        // SAFETY: the kernel passes the context that it will go on with.
        let flags = unsafe {
            &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize]
        };
        *flags = if on {
            *flags | TRAP_FLAG
        } else {
            *flags & !TRAP_FLAG
        };
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn step(_: *mut libc::c_void, _: bool) {}
}

// ---------------------------------------------------------------- the driver

/// What became of a child.
enum Fate {
    /// It was killed at its point.
    Killed,
    /// It came to its end before: there are no more points.
    Ended,
}

/// Which calls of a scenario a child makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Wreck,
    Calls,
}

/// Runs a child up to point `n`.
fn run(work: &Work, part: Part, at: At, n: u64) -> Result<Fate, String> {
    let board = Mapped::<Board>::create(&work.board).expect("the board");
    board.fatal.store(n, SeqCst);
    let text = format!(
        "{}\n{}\n{}\n{}\n{part:?}\n{at:?}",
        work.path.display(),
        work.board.display(),
        work.sizes.value,
        work.scenario
    );
    let mut command = procs::child(CHILD, text);
    let (mut child, ended) = match at {
        At::Store => {
            let mut child = Running::start(&mut command);
            child.wait();
            (child, None)
        }
        At::Call => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = Running::start(&mut command);
            let ended = trace::to_call(&mut child, n);
            (child, Some(ended))
        }
    };
    let status = child.wait();
    let wrong = board.wrong.load(SeqCst);
    if wrong != 0 {
        let answer = board.answer.load(SeqCst) as i32;
        return Err(format!("call {wrong} answered {answer}"));
    }
    match procs::how(status).as_str() {
        "exit 0" => Ok(Fate::Ended),
        "signal 9" if ended != Some(false) => Ok(Fate::Killed),
        how => Err(format!(
            "the child ended by {how} in call {} of {part:?}",
            board.begun.load(SeqCst)
        )),
    }
}

/// Tracing, as far as it is needed to stop before a system call.
mod trace {
    use super::*;

    const GET_SYSCALL_INFO: u32 = 0x420e;
    const ENTRY: u8 = 1;

    fn request(what: u32, tid: i32, addr: usize, data: usize) -> i64 {
        // SAFETY: requests that read no memory of ours, or write to a buffer whose size is given.
        unsafe { libc::ptrace(what, tid, addr, data) }
    }

    fn is_entry(tid: i32) -> bool {
        let mut info = [0u64; 16];
        let size = size_of_val(&info);
        let n = request(GET_SYSCALL_INFO, tid, size, info.as_mut_ptr() as usize);
        assert!(
            n > 0,
            "PTRACE_GET_SYSCALL_INFO: {}",
            std::io::Error::last_os_error()
        );
        info[0].to_le_bytes()[0] == ENTRY
    }

    /// Kills the child at its `n`-th system call; false if it ended before. The child must be of this thread.
    pub fn to_call(child: &mut Running, n: u64) -> bool {
        let mut said = child.child().stdout.take().expect("its voice");
        let mut voice = child.child().stdin.take().expect("its ear");
        let (mut text, mut bytes) = (String::new(), [0; 256]);
        let tid: i32 = loop {
            let got = said.read(&mut bytes).expect("what it says");
            assert!(got > 0, "the child did not begin: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..got]));
            let told = text.split_once("ready ").and_then(|t| t.1.split_once('.'));
            if let Some((tid, _)) = told {
                break tid.parse().expect("a thread");
            }
        };
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        let seized = request(libc::PTRACE_SEIZE, tid, 0, options as usize);
        assert_eq!(
            seized,
            0,
            "PTRACE_SEIZE: {}",
            std::io::Error::last_os_error()
        );
        request(libc::PTRACE_INTERRUPT, tid, 0, 0);
        let (mut entries, mut first) = (0, true);
        loop {
            let mut status = 0;
            // SAFETY: the buffer is a status.
            let got = unsafe { libc::waitpid(tid, &mut status, libc::__WALL) };
            assert_eq!(got, tid, "waitpid: {}", std::io::Error::last_os_error());
            if !libc::WIFSTOPPED(status) {
                return false;
            }
            if first {
                first = false;
                voice.write_all(b"x").expect("its ear");
            }
            let mut signal = 0;
            if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
                if is_entry(tid) {
                    if entries == n {
                        child.signal(libc::SIGKILL);
                        // SAFETY: as above. The thread is reaped here, its process by the caller.
                        unsafe { libc::waitpid(tid, &mut status, libc::__WALL) };
                        return true;
                    }
                    entries += 1;
                }
            } else if status >> 16 == 0 {
                signal = libc::WSTOPSIG(status);
            }
            request(libc::PTRACE_SYSCALL, tid, 0, signal as usize);
        }
    }
}

/// One enumeration.
struct Work {
    scenario: usize,
    sizes: Sizes,
    at: At,
    with: With,
    /// The store before which the wreck's process died.
    wreck: Option<u64>,
    path: PathBuf,
    board: PathBuf,
}

impl Work {
    /// Removes the shared objects, as a reboot does.
    fn wipe(&self) {
        for tail in ["-shm-info", "-ht"] {
            let name = support::object_name(&self.path, tail);
            let _ = fs::remove_file(Path::new("/dev/shm").join(name));
        }
    }
}

/// Who or what is there beside the child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum With {
    /// Nobody, and no shared objects.
    Nobody,
    /// The shared objects of the wreck, and nobody alive.
    Objects,
    /// Another process, or at least another handle, that goes on.
    Survivor,
    /// One that only reads: so it is the last writer who dies, perhaps in its close.
    Reader,
}

const SCENARIOS: [&Scenario; 11] = [
    &FIRST_PUT,
    &OVERWRITE,
    &DELETE,
    &PUT_AGAIN,
    &SECOND_TABLE,
    &LAST_CLOSE,
    &RECOVERY,
    &SECOND_RECOVERY,
    &LOG,
    &OTHER_HALF,
    &LOG_RECOVERY,
];

/// A call of the survivors may take this long.
const LIMIT: Duration = Duration::from_secs(1);

/// All pairs, asked for in both ways.
fn state_of(db: &Plain) -> Result<Model, String> {
    let mut model = Model::new();
    for key in db.keys().map_err(|rc| format!("iterate: {rc}"))? {
        let value = db
            .get(&key)
            .map_err(|rc| format!("get of a key of the iterator: {rc}"))?;
        if model.insert(key.clone(), value).is_some() {
            return Err(format!("{} twice", key.escape_ascii()));
        }
    }
    for key in [A, B, C, TWIN] {
        let there = db.get(key.as_bytes());
        if there.as_ref().ok() != model.get(key.as_bytes()) || there.is_err_and(|rc| rc != 1) {
            return Err(format!("{key}: get and iterator disagree"));
        }
    }
    Ok(model)
}

fn told(model: &Model) -> String {
    let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| format!("{}={}", k.escape_ascii(), v.len());
    model.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// Reads everything, then puts, overwrites and deletes; if it is to be `gentle` not: what the death has torn must be in
/// order at the close although nobody writes over it.
fn exercise(who: &str, db: &Plain, possible: &[Model], gentle: bool) -> Result<Model, String> {
    let seen = state_of(db).map_err(|e| format!("{who}: {e}"))?;
    if !possible.contains(&seen) {
        let possible: Vec<String> = possible.iter().map(told).collect();
        return Err(format!(
            "{who} finds {}; possible is {}",
            told(&seen),
            possible.join(" or ")
        ));
    }
    if gentle {
        return Ok(seen);
    }
    let mut model = seen;
    for (key, len, n) in [("/new", 77, 11), (A, 33, 12), (TWIN, 150, 13), (A, 200, 14)] {
        let value = support::value(n, len);
        let put = db.put(key.as_bytes(), &value);
        if put != (0, value.len() as i32) {
            return Err(format!("{who}: put {key}: {put:?}"));
        }
        model.insert(key.into(), value);
    }
    for key in ["/new", TWIN] {
        let deleted = db.delete(key.as_bytes());
        if deleted != (0, 0) {
            return Err(format!("{who}: delete {key}: {deleted:?}"));
        }
        model.remove(key.as_bytes());
    }
    let now = state_of(db).map_err(|e| format!("{who}, later: {e}"))?;
    if now != model {
        return Err(format!(
            "{who}, later, finds {}; not {}",
            told(&now),
            told(&model)
        ));
    }
    Ok(model)
}

fn close(who: &str, db: &Plain) -> Result<(), String> {
    match db.close() {
        0 => Ok(()),
        rc => Err(format!("{who}: close: {rc}")),
    }
}

/// After the last close.
fn closed(who: &str, path: &Path, model: &Model) -> Result<(), String> {
    let file = fs::read(path).expect("the file");
    let mut bad = check::check(&file, true);
    let pairs = check::pairs(&file);
    if pairs != *model {
        bad.push(format!(
            "the file has {}; not {}",
            told(&pairs),
            told(model)
        ));
    }
    for tail in ["-shm-info", "-ht"] {
        if support::object_exists(path, tail) {
            bad.push(format!("{tail} is left behind"));
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(format!("{who}: {}", bad.join("; ")))
}

fn fresh(who: &str, path: &Path, sizes: Sizes) -> Result<Plain, String> {
    Plain::opened(path, ffi::RWCREAT, sizes)
        .map_err(|rc| format!("{who}: open: {rc} ({})", std::io::Error::last_os_error()))
}

/// A process that was open already goes on.
fn survived(work: &Work, survivor: &Plain, possible: &[Model], gentle: bool) -> Result<(), String> {
    // Nobody listens, but what there is to say of the dead is put into words.
    kissdb::log::set(kissdb::log::Level::Info, |_, _| ());
    let model = exercise("who was open already", survivor, possible, gentle)?;
    let late = fresh("a fresh one", &work.path, work.sizes)?;
    let model = exercise("a fresh one", &late, &[model], gentle)?;
    close("a fresh one", &late)?;
    let model = exercise("who was open already, again,", survivor, &[model], gentle)?;
    close("who was open already", survivor)?;
    closed("who was open already", &work.path, &model)
}

/// A reader goes on, and so does what it shared with the dead writer. The next writer dies as well, with all that it has stored,
/// or closes.
fn outlived(work: &Work, reader: &Plain, possible: &[Model], gentle: bool) -> Result<(), String> {
    let seen = state_of(reader).map_err(|e| format!("the reader: {e}"))?;
    if !possible.contains(&seen) {
        return Err(format!("the reader finds {}", told(&seen)));
    }
    let late = fresh("the next writer", &work.path, work.sizes)?;
    let model = exercise("the next writer", &late, &[seen], gentle)?;
    let left = work.path.with_extension("left");
    fs::copy(&work.path, &left).expect("a copy");
    let after = fresh("one after its death", &left, work.sizes)?;
    let theirs = exercise(
        "one after its death",
        &after,
        std::slice::from_ref(&model),
        gentle,
    )?;
    close("one after its death", &after)?;
    closed("one after its death", &left, &theirs)?;
    close("the next writer", &late)?;
    if state_of(reader).as_ref() != Ok(&model) {
        return Err("the reader, later, finds something else".to_owned());
    }
    close("the reader", reader)?;
    closed("the next writer", &work.path, &model)
}

/// All users are dead: their shared objects are there, or, as after a reboot, not.
fn recovered(work: &Work, possible: &[Model], gentle: bool) -> Result<(), String> {
    let rebooted = work.path.with_extension("rebooted");
    let read_only = work.path.with_extension("readonly");
    let there = work.path.exists();
    if there {
        for copy in [&rebooted, &read_only] {
            fs::copy(&work.path, copy).expect("a copy");
        }
        let before = fs::read(&read_only).expect("the copy");
        if before.len() >= check::HEADER {
            let who = "a reader after a reboot";
            let db = Plain::opened(&read_only, ffi::RDONLY, work.sizes)
                .map_err(|rc| format!("{who}: open: {rc}"))?;
            let seen = state_of(&db).map_err(|e| format!("{who}: {e}"))?;
            if !possible.contains(&seen) {
                return Err(format!("{who} finds {}", told(&seen)));
            }
            close(who, &db)?;
            if fs::read(&read_only).expect("the copy") != before {
                return Err(format!("{who} has changed the file"));
            }
        }
    }
    for (who, path) in [
        ("the next one", &work.path),
        ("one after a reboot", &rebooted),
    ] {
        if there || path == &work.path {
            let db = fresh(who, path, work.sizes)?;
            let model = exercise(who, &db, possible, gentle)?;
            close(who, &db)?;
            closed(who, path, &model)?;
        }
    }
    Ok(())
}

/// One point: `None` if there is none of this number.
fn point(work: &Arc<Work>, template: &[u8], n: u64) -> Result<Option<()>, String> {
    if template.is_empty() {
        let _ = fs::remove_file(&work.path);
    } else {
        fs::write(&work.path, template).expect("the file");
    }
    let scenario = SCENARIOS[work.scenario];
    let opened = |mode| {
        Plain::opened(&work.path, mode, work.sizes)
            .map_err(|rc| format!("who is open already: open: {rc}"))
    };
    let survivor = match work.with {
        With::Survivor => Some(opened(ffi::RWCREAT)?),
        With::Reader => Some(opened(ffi::RDONLY)?),
        With::Nobody | With::Objects => None,
    };
    let before = after(Model::new(), scenario.before);
    let mut bases = vec![before.clone()];
    if let Some(wreck) = work.wreck {
        run(work, Part::Wreck, At::Store, wreck)?;
        let board = Mapped::<Board>::open(&work.board).expect("the board");
        let done = [&board.answered, &board.begun].map(|c| c.load(SeqCst) as usize);
        bases = done
            .map(|n| after(before.clone(), &scenario.wreck[..n]))
            .to_vec();
        if work.with == With::Nobody {
            work.wipe();
        }
    }
    let fate = run(work, Part::Calls, work.at, n)?;
    let board = Mapped::<Board>::open(&work.board).expect("the board");
    let mut possible = Vec::new();
    for base in bases {
        for count in [&board.answered, &board.begun] {
            possible.push(after(
                base.clone(),
                &scenario.calls[..count.load(SeqCst) as usize],
            ));
        }
    }
    let in_flight = board.begun.load(SeqCst);
    // Every second point each way, the others with the other sizes.
    let gentle = n % 2 == u64::from(work.sizes == SETTINGS);
    let (send, receive) = std::sync::mpsc::channel();
    let theirs = work.clone();
    std::thread::spawn(move || {
        let result = match survivor {
            Some(db) if theirs.with == With::Reader => outlived(&theirs, &db, &possible, gentle),
            Some(db) => survived(&theirs, &db, &possible, gentle),
            None => recovered(&theirs, &possible, gentle),
        };
        drop(send.send(result));
    });
    // Some hundred calls.
    match receive.recv_timeout(LIMIT * 5) {
        Ok(Ok(())) => {}
        Ok(Err(what)) => return Err(format!("death in call {in_flight}: {what}")),
        Err(_) => panic!(
            "{}, {:?} {n}, death in call {in_flight}: a survivor hangs",
            scenario.name, work.at
        ),
    }
    Ok(matches!(fate, Fate::Killed).then_some(()))
}

/// Every point of a scenario.
fn every_point(scenario: &'static Scenario, at: At) {
    let number = SCENARIOS
        .iter()
        .position(|s| std::ptr::eq(*s, scenario))
        .expect("a scenario");
    let scratch = Scratch::below(match scenario.logs() {
        true => procs::lasting_directory(),
        false => procs::fast_directory(),
    });
    let only = std::env::var("KISSDB_POINT")
        .ok()
        .map(|_| procs::number("KISSDB_POINT", 0));
    let mut bad = Vec::new();
    // The extra ones for one kind of database, unless all are asked for.
    let all_points = std::env::var_os("KISSDB_ALL_POINTS").is_some();
    let few = scenario.since > 0 || !scenario.wreck.is_empty() && !all_points;
    for sizes in [SETTINGS, RESOURCES]
        .into_iter()
        .take(if few { 1 } else { 2 })
    {
        let path = scratch.db(&format!("{}.db", sizes.value));
        let template = template(scenario, &scratch.db("template.db"), sizes);
        let all = [With::Nobody, With::Objects, With::Survivor, With::Reader];
        for with in all {
            let left_out = match with {
                With::Objects => scenario.wreck.is_empty(),
                // Only what is there can be read, and a reader that finds a wreck recovers for itself.
                With::Reader => scenario.before.is_empty() || !scenario.wreck.is_empty(),
                With::Nobody | With::Survivor => false,
            };
            if left_out {
                continue;
            }
            let mut work = Work {
                scenario: number,
                sizes,
                at,
                with,
                wreck: None,
                path: path.clone(),
                board: scratch.db("board"),
            };
            if !scenario.wreck.is_empty() {
                work.wreck = Some(wreck_point(&work, &template));
                scratch.wipe_objects();
            }
            let work = Arc::new(work);
            let (first, step) = match at == At::Store && scenario.since > 0 {
                true => (
                    first_point(&work, &template) + 4 * with as u64,
                    if all_points { 1 } else { 13 },
                ),
                false => (0, 1),
            };
            let mut n = only.unwrap_or(first);
            let since = procs::now();
            loop {
                let found = point(&work, &template, n);
                if let Err(what) = &found {
                    bad.push(format!("{} {at:?} {n}, {with:?}: {what}", sizes.value));
                    scratch.wipe_objects();
                }
                if found == Ok(None) || only.is_some() || bad.len() >= 10 {
                    break;
                }
                n += step;
            }
            println!(
                "{}, {}, {}: killed before {} {}, {:.1} s",
                scenario.name,
                sizes.value,
                match with {
                    With::Nobody => "alone",
                    With::Objects => "alone with the objects of the dead",
                    With::Survivor => "another user",
                    With::Reader => "a reader",
                },
                (n - first).div_ceil(step),
                if at == At::Store {
                    "stores"
                } else {
                    "system calls"
                },
                (procs::now() - since) as f64 / 1e9
            );
        }
    }
    assert!(
        bad.is_empty(),
        "{}: {} points:\n{}",
        scenario.name,
        bad.len(),
        bad.join("\n")
    );
}

/// The first store of the first call that matters.
fn first_point(work: &Work, template: &[u8]) -> u64 {
    fs::write(&work.path, template).expect("the file");
    let whole = run(work, Part::Calls, At::Store, u64::MAX);
    assert!(matches!(whole, Ok(Fate::Ended)), "the calls");
    let board = Mapped::<Board>::open(&work.board).expect("the board");
    board.stores_before[SCENARIOS[work.scenario].since].load(SeqCst)
}

/// A store in the middle of the last call of a wreck. `KISSDB_WRECK` names another place, in percent.
fn wreck_point(work: &Work, template: &[u8]) -> u64 {
    fs::write(&work.path, template).expect("the file");
    let whole = run(work, Part::Wreck, At::Store, u64::MAX);
    assert!(matches!(whole, Ok(Fate::Ended)), "the wreck's calls");
    let board = Mapped::<Board>::open(&work.board).expect("the board");
    let last = SCENARIOS[work.scenario].wreck.len();
    let from = board.stores_before[last].load(SeqCst);
    let stores = board.stores.load(SeqCst) - from;
    from + stores * procs::number("KISSDB_WRECK", 50) / 100
}

/// The file before the scenario begins: cleanly closed, or none.
fn template(scenario: &Scenario, path: &Path, sizes: Sizes) -> Vec<u8> {
    if scenario.before.is_empty() {
        return Vec::new();
    }
    let board = Mapped::<Board>::create(&path.with_extension("board")).expect("a board");
    let calls = [&[Open], scenario.before, &[Close]].concat();
    let _ = fs::remove_file(path);
    perform(&calls, path, sizes, &board);
    assert_eq!(board.answered.load(Relaxed), calls.len() as u64);
    fs::read(path).expect("the file")
}

macro_rules! points {
    ($($stores:ident $calls:ident $scenario:ident;)*) => {
        $(
            #[test]
            fn $stores() {
                every_point(&$scenario, At::Store);
            }

            #[test]
            fn $calls() {
                every_point(&$scenario, At::Call);
            }
        )*
    };
}

points! {
    stores_of_a_first_put calls_of_a_first_put FIRST_PUT;
    stores_of_an_overwrite calls_of_an_overwrite OVERWRITE;
    stores_of_a_delete calls_of_a_delete DELETE;
    stores_of_a_put_again calls_of_a_put_again PUT_AGAIN;
    stores_of_a_second_table calls_of_a_second_table SECOND_TABLE;
    stores_of_a_last_close calls_of_a_last_close LAST_CLOSE;
    stores_of_the_log calls_of_the_log LOG;
    stores_of_the_other_half calls_of_the_other_half OTHER_HALF;
    stores_of_a_recovery calls_of_a_recovery RECOVERY;
    stores_of_another_recovery calls_of_another_recovery SECOND_RECOVERY;
    stores_of_a_recovery_of_the_log calls_of_a_recovery_of_the_log LOG_RECOVERY;
}
