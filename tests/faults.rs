//! Calls of the operating system fail, one after the other (guarantees P4 and P6; failures 30 and 34 of the original).
//!
//! What happened: the disk was full, a descriptor or memory could not be had, the medium gave an error. What the user
//! saw: SIGBUS in the middle of a put, with the lock held, so that everybody else stood still as well; a database that
//! could not be opened any more; a put that answered success and had not happened. Here every call answers an error of
//! its list, nothing stays locked, and the database is as before.
//!
//! The n-th call fails for n = 1, 2, 3 and so on until a run meets no fault: `faults/shim.c`, compiled here with `cc` and
//! preloaded into a child.

#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Atomics, Mapped, Running};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use support::ffi::{self, Plain, RESOURCES, SETTINGS, Sizes};
use support::{Scratch, check};

/// What a child tells.
#[repr(C)]
struct Board {
    /// Answer of each step: 0, an error, [`NOT_MADE`].
    answers: [AtomicI64; STEPS.len()],
    /// Calls that failed because they were told to.
    injected: AtomicI64,
    /// Where it is, for one that does not come back.
    step: AtomicI64,
    /// Whether it has closed all that it had opened.
    closed: AtomicI64,
}

// SAFETY: atomics only.
unsafe impl Atomics for Board {}

const NOT_MADE: i64 = 1000;

/// One call of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open(i32),
    /// Key, length of the value and a number that tells it from others.
    Put(&'static str, usize, u64),
    Delete(&'static str),
    /// Reads everything, in both ways.
    Read,
    /// The caller's write cache: opened, mapped, given back.
    Cache,
    Close,
}

use Step::{Cache, Close, Delete, Open, Put, Read};

const A: &str = "/a";
const B: &str = "/b/longer/name/of/a/key";
/// Has the slot of [`A`], so that it needs a second table.
const TWIN: &str = "/a-twin/439";
const KEYS: [&str; 5] = [A, B, TWIN, "/c", "/d"];

const STEPS: [Step; 21] = [
    Open(ffi::RWCREAT),
    Put(A, 100, 1),
    Put(B, 200, 2),
    Put(A, 120, 3),
    Put(A, 90, 4),
    Delete(B),
    Put(TWIN, 212, 5),
    Put(B, 0, 6),
    Read,
    Cache,
    Close,
    Open(ffi::RDWR),
    Read,
    Put("/c", 60, 7),
    Delete(A),
    Put("/d", 61, 8),
    Read,
    Close,
    Open(ffi::RDONLY),
    Read,
    Close,
];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the database holds after those of the first `n` steps that were answered with success.
fn model(board: &Board, n: usize) -> Model {
    let mut model = Model::new();
    for (step, answer) in STEPS[..n].iter().zip(&board.answers) {
        if answer.load(SeqCst) != 0 {
            continue;
        }
        match *step {
            Put(key, len, n) => drop(model.insert(key.into(), support::value(n, len))),
            Delete(key) => drop(model.remove(key.as_bytes())),
            _ => {}
        }
    }
    model
}

fn told(model: &Model) -> String {
    let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| format!("{}={}", k.escape_ascii(), v.len());
    model.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// All pairs, asked for in both ways; an answer below 0 as it came.
fn read_all(db: &Plain) -> Result<Model, i32> {
    let mut model = Model::new();
    for key in db.keys()? {
        let value = db.get(&key)?;
        model.insert(key, value);
    }
    for key in KEYS {
        match db.get(key.as_bytes()) {
            Ok(value) if model.get(key.as_bytes()) == Some(&value) => {}
            Err(1) if !model.contains_key(key.as_bytes()) => {}
            Ok(_) | Err(1) => return Err(DISAGREE),
            Err(rc) => return Err(rc),
        }
    }
    Ok(model)
}

/// Get and iterator disagree.
const DISAGREE: i32 = -500;

// ---------------------------------------------------------------- the child

const CHILD: &str = "KISSDB_FAULTS_CHILD";
const FAULT: &str = "KISSDB_FAULT";
/// A child that takes longer hangs.
const SECONDS: u32 = 10;

fn sizes(value: &str) -> Sizes {
    if value == "212" { RESOURCES } else { SETTINGS }
}

#[test]
fn child() {
    // Not a test: the process whose calls fail. Returns at once in an ordinary run.
    let Ok(work) = std::env::var(CHILD) else {
        return;
    };
    procs::die_with_the_driver();
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(SECONDS) };
    let words: Vec<&str> = work.split('\n').collect();
    let result = match words[..] {
        ["steps", path, board, value] => {
            let board = Mapped::<Board>::open(Path::new(board)).expect("the board");
            steps(Path::new(path), &board, sizes(value))
        }
        _ => panic!("{work}"),
    };
    if let Err(what) = result {
        eprintln!("{what}");
        std::process::exit(7);
    }
    std::process::exit(0);
}

/// Arms and disarms the shim.
fn armed(yes: bool) {
    static ARM: OnceLock<usize> = OnceLock::new();
    let arm = *ARM.get_or_init(|| symbol(c"kissdb_fault_armed"));
    if arm != 0 {
        // SAFETY: the shim's function of this signature.
        let arm: extern "C" fn(i32) = unsafe { std::mem::transmute(arm) };
        arm(i32::from(yes));
    }
}

fn injected() -> i64 {
    match symbol(c"kissdb_fault_injected") {
        0 => 0,
        f => {
            // SAFETY: the shim's function of this signature.
            let f: extern "C" fn() -> i64 = unsafe { std::mem::transmute(f) };
            f()
        }
    }
}

fn symbol(name: &std::ffi::CStr) -> usize {
    // SAFETY: a C string; the answer is an address or null.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) as usize }
}

/// Makes a call with the shim armed.
fn faulty<T>(call: impl FnOnce() -> T) -> T {
    armed(true);
    let answer = call();
    armed(false);
    answer
}

/// Which answers a failing step may have.
fn may_answer(step: Step, rc: i32) -> bool {
    match step {
        Open(_) => matches!(rc, -1 | -2 | -7 | -9 | -10),
        Put(..) | Delete(_) | Read => matches!(rc, -1 | -2),
        Cache => rc == -1,
        Close => rc == -1,
    }
}

fn make(step: Step, db: &Plain, path: &Path, sizes: Sizes) -> (i32, Option<Model>) {
    match step {
        Open(mode) => (faulty(|| db.open(path, mode, ffi::WT, sizes)), None),
        Put(key, len, n) => {
            let value = support::value(n, len);
            let (rc, written) = faulty(|| db.put(key.as_bytes(), &value));
            let wrong = written != if rc == 0 { len as i32 } else { 0 };
            (if wrong { -600 } else { rc }, None)
        }
        Delete(key) => (faulty(|| db.delete(key.as_bytes())).0, None),
        Read => match faulty(|| read_all(db)) {
            Ok(model) => (0, Some(model)),
            Err(rc) => (rc, None),
        },
        Cache => (faulty(|| cache(db)), None),
        Close => (faulty(|| db.close()), None),
    }
}

fn cache(db: &Plain) -> i32 {
    let name = db.cache_name().expect("a name for the cache");
    let name = std::ffi::CString::new(name).expect("a name");
    let mut made = 0;
    // SAFETY: a C string and a flag of ours; what is opened is mapped, unmapped and closed again.
    unsafe {
        let fd = ffi::kdbShmemOpen(name.as_ptr(), 4096, &mut made);
        if fd < 0 {
            return -1;
        }
        let at = ffi::getKdbShmemPtr(fd, 4096);
        let mapped = at as isize != -1;
        if mapped {
            at.cast::<u8>().write_volatile(1);
            ffi::freeKdbShmemPtr(at, 4096);
        }
        let closed = ffi::kdbShmemClose(fd, name.as_ptr()) == ffi::Kdb_true;
        if mapped && closed { 0 } else { -1 }
    }
}

/// The scenario. A step that fails is made once more; then it goes on with what can be done.
fn steps(path: &Path, board: &Board, sizes: Sizes) -> Result<(), String> {
    let db = Plain::new();
    let told_error = std::env::var(FAULT).unwrap_or_default();
    let words: Vec<&str> = told_error.split(' ').collect();
    let harmless = words.get(2) == Some(&"4") || words[0].starts_with("short_");
    let once = words.get(3) == Some(&"once");
    let mut synced = true;
    for (n, &step) in STEPS.iter().enumerate() {
        board.step.store(n as i64, SeqCst);
        if matches!(step, Open(_)) == db.is_open() {
            continue;
        }
        let bad = |rc: i32, what: &str| {
            let error = std::io::Error::last_os_error();
            Err(format!("step {n}, {step:?}: {what} {rc} (errno: {error})"))
        };
        let before = model(board, n);
        let (mut rc, mut seen) = make(step, &db, path, sizes);
        let absent = matches!(step, Delete(key) if !before.contains_key(key.as_bytes()));
        if absent && rc == 1 {
            continue;
        }
        if rc != 0 {
            let unremovable = words[0] == "unlink" && rc == ffi::ERROR_ACCESS_VIOLATION;
            if !may_answer(step, rc) && !unremovable {
                return bad(rc, "answered");
            }
            if harmless {
                return bad(rc, "an interruption or a short answer must not show:");
            }
            if injected() == 0 {
                return bad(rc, "no fault yet, but");
            }
            if step == Close {
                synced = false;
            } else {
                // Nothing may be left that a second call stumbles over.
                (rc, seen) = make(step, &db, path, sizes);
                if rc != 0 && !may_answer(step, rc) && !unremovable {
                    return bad(rc, "answered the second time");
                }
                // After a sync that has failed nothing is promised any more until everybody has closed.
                if rc != 0 && once && words[0] != "sync" {
                    return bad(rc, "answered again, without a fault");
                }
            }
        }
        if let Some(seen) = seen
            && seen != before
        {
            return Err(format!(
                "step {n}: there is {}; not {}",
                told(&seen),
                told(&before)
            ));
        }
        board.answers[n].store(i64::from(rc), SeqCst);
        if step == Close && db.is_open() {
            return bad(rc, "still open after");
        }
    }
    board.injected.store(injected(), SeqCst);
    // Nothing is left locked: another user works at once, also beside the first one.
    let expected = model(board, STEPS.len());
    let late = Plain::opened(path, ffi::RWCREAT, sizes)
        .map_err(|rc| format!("another user's open: {rc}"))?;
    let seen = read_all(&late).map_err(|rc| format!("another user reads: {rc}"))?;
    if seen != expected {
        return Err(format!(
            "another user finds {}; not {}",
            told(&seen),
            told(&expected)
        ));
    }
    if synced || words[0] != "sync" {
        if late.put(b"/late", b"v") != (0, 1) || late.delete(b"/late") != (0, 0) {
            return Err("another user's put and delete".to_owned());
        }
    }
    let rc = (late.close(), db.is_open().then(|| db.close()));
    if !matches!(rc, (0, None | Some(0))) && words[0] != "sync" {
        return Err(format!("the closes at the end: {rc:?}"));
    }
    board.closed.store(1, SeqCst);
    Ok(())
}

// ---------------------------------------------------------------- the driver

/// The shim, compiled.
fn shim(scratch: &Scratch) -> PathBuf {
    let to = scratch.db("shim.so");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let output = Command::new("cc")
        .args([
            "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-o",
        ])
        .args([&to, &from])
        .arg("-ldl")
        .output()
        .expect("cc: a C compiler is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    to
}

/// A group of calls, and the errors that it may have.
struct Group {
    name: &'static str,
    errors: &'static [i32],
}

const GROUPS: [Group; 19] = {
    use libc::*;
    const fn g(name: &'static str, errors: &'static [i32]) -> Group {
        Group { name, errors }
    }
    [
        g(
            "open",
            &[EIO, ENOSPC, EMFILE, ENFILE, ENOMEM, EACCES, EINTR],
        ),
        g("opendir", &[EMFILE, ENOMEM]),
        g("mmap", &[ENOMEM, EAGAIN, ENFILE]),
        g("fallocate", &[ENOSPC, EIO, EDQUOT, EOPNOTSUPP, EINTR]),
        g("posix_fallocate", &[ENOSPC, EIO, ENOMEM, EINTR]),
        g("ftruncate", &[EIO, ENOSPC, EINTR]),
        g("fcntl", &[EIO, ENOLCK, EMFILE, EAGAIN, EINTR]),
        g("shm_open", &[EMFILE, ENOSPC, EACCES, EINTR]),
        g("pread", &[EIO, ENOMEM, EINTR]),
        g("pwrite", &[EIO, ENOSPC, EINTR]),
        g("short_pread", &[0]),
        g("short_pwrite", &[0]),
        g("linkat", &[EIO, ENOSPC, EACCES, EINTR]),
        g("fstat", &[EIO, ENOMEM]),
        g("statx", &[ENOSYS, EIO]),
        g("sync", &[EIO, ENOSPC, EDQUOT, EINTR]),
        g("unlink", &[EIO, EACCES]),
        g("fchown", &[EPERM, EIO]),
        g("fchmod", &[EPERM, EIO]),
    ]
};

/// Runs the scenario with one fault. Answers whether the fault was met, or what was wrong.
fn run(scratch: &Scratch, shim: &Path, fault: &str, value: &str) -> Result<bool, String> {
    let path = scratch.db("faults.db");
    let _ = fs::remove_file(&path);
    scratch.wipe_objects();
    let at = scratch.db("board");
    let board = Mapped::<Board>::create(&at).expect("the board");
    for answer in &board.answers {
        answer.store(NOT_MADE, SeqCst);
    }
    let work = format!("steps\n{}\n{}\n{value}", path.display(), at.display());
    let mut command = procs::child(CHILD, work);
    command
        .env("LD_PRELOAD", shim)
        .env(FAULT, fault)
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped());
    let mut child = Running::start(&mut command);
    let mut said = String::new();
    let mut voice = child.child().stderr.take().expect("its voice");
    std::io::Read::read_to_string(&mut voice, &mut said).expect("what it says");
    let status = child.wait();
    if !status.success() {
        return Err(format!(
            "ended by {} in step {}: {}",
            procs::how(status),
            board.step.load(SeqCst),
            said.trim()
        ));
    }
    let left: Vec<String> = scratch.objects();
    // What cannot be removed stays; the next user removes it.
    if !left.is_empty() && !fault.starts_with("unlink") && !fault.starts_with("opendir") {
        return Err(format!("left behind: {}", left.join(" ")));
    }
    // Without faults: everything that was answered is there, and the file can be closed.
    let sizes = sizes(value);
    let db = Plain::opened(&path, ffi::RWCREAT, sizes)
        .map_err(|rc| format!("afterwards: open: {rc}"))?;
    let expected = model(&board, STEPS.len());
    let seen = read_all(&db).map_err(|rc| format!("afterwards: read: {rc}"))?;
    if seen != expected {
        return Err(format!(
            "afterwards there is {}; not {}",
            told(&seen),
            told(&expected)
        ));
    }
    let put = db.put(b"/after", b"v");
    let close = db.close();
    if (put, close) != ((0, 1), 0) {
        return Err(format!("afterwards: put {put:?}, close {close}"));
    }
    let bad = check::check(&fs::read(&path).expect("the file"), true);
    if !bad.is_empty() {
        return Err(format!("afterwards: {}", bad.join("; ")));
    }
    Ok(board.injected.load(SeqCst) > 0)
}

/// Every n, each error of the group, once and for ever.
fn every_call(group: &str) {
    let group = GROUPS.iter().find(|g| g.name == group).expect("a group");
    let scratch = Scratch::below(procs::fast_directory());
    let shim = shim(&scratch);
    let (mut runs, mut bad, mut points) = (0, Vec::new(), 0);
    let only = std::env::var(FAULT).ok();
    // The small size writes in another order, which matters where the file is written.
    let writes = ["fallocate", "ftruncate", "sync", "pwrite"].contains(&group.name);
    for value in ["8028", "212"].into_iter().take(if writes { 2 } else { 1 }) {
        for &error in group.errors {
            for how in ["once", "ever"] {
                if how == "ever" && (error == libc::EINTR || error == 0) {
                    // Nobody is interrupted for ever.
                    continue;
                }
                for n in 1.. {
                    let fault = format!("{} {n} {error} {how}", group.name);
                    if only.as_ref().is_some_and(|o| *o != fault) {
                        if n > 300 {
                            break;
                        }
                        continue;
                    }
                    runs += 1;
                    match run(&scratch, &shim, &fault, value) {
                        Ok(true) => points += 1,
                        Ok(false) => break,
                        Err(what) => {
                            let name = std::io::Error::from_raw_os_error(error);
                            bad.push(format!("{value} KISSDB_FAULT='{fault}' ({name}): {what}"));
                            if bad.len() > 200 {
                                break;
                            }
                        }
                    }
                    assert!(n < 1000, "{fault}: no end");
                }
            }
        }
    }
    println!("{}: {points} faults met in {runs} runs", group.name);
    assert!(bad.is_empty(), "{} bad:\n{}", bad.len(), bad.join("\n"));
}

macro_rules! groups {
    ($($name:ident $group:literal;)*) => {
        $(#[test] fn $name() { every_call($group); })*
    };
}

groups! {
    every_open_fails "open";
    every_opendir_fails "opendir";
    every_mmap_fails "mmap";
    every_fallocate_fails "fallocate";
    every_posix_fallocate_fails "posix_fallocate";
    every_ftruncate_fails "ftruncate";
    every_fcntl_fails "fcntl";
    every_shm_open_fails "shm_open";
    every_pread_fails "pread";
    every_pwrite_fails "pwrite";
    every_pread_is_short "short_pread";
    every_pwrite_is_short "short_pwrite";
    every_linkat_fails "linkat";
    every_fstat_fails "fstat";
    every_statx_fails "statx";
    every_sync_fails "sync";
    every_unlink_fails "unlink";
    every_fchown_fails "fchown";
    every_fchmod_fails "fchmod";
}
