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
        [name, path] => {
            let all = CASES.iter().find(|c| c.0 == name);
            let &(_, case) = all.unwrap_or_else(|| panic!("{work}"));
            case(Path::new(path))
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
            // If power goes now: the original fails on a file that ends inside a pair. There are up to two tables here.
            let len = fs::metadata(path).map_or(0, |file| file.len());
            let ends = [0, 1, 2].map(|tables| (4096 + tables * 12288) % 16384);
            if words[0] == "half_fallocate" && !ends.contains(&(len % 16384)) {
                return Err(format!("step {n}, {step:?}: {len} bytes are left"));
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
        // Also where the puts before it have failed.
        if step == Close && rc == 0 && synced {
            is_clean(path).map_err(|what| format!("step {n}, closed: {what}"))?;
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
    let sound = synced || words[0] != "sync";
    if sound && (late.put(b"/late", b"v") != (0, 1) || late.delete(b"/late") != (0, 0)) {
        return Err("another user's put and delete".to_owned());
    }
    let rc = (late.close(), db.is_open().then(|| db.close()));
    if !matches!(rc, (0, None | Some(0))) && words[0] != "sync" {
        return Err(format!("the closes at the end: {rc:?}"));
    }
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

const GROUPS: [Group; 20] = {
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
        g("half_fallocate", &[ENOSPC, EIO]),
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
    let scratch = Scratch::below(procs::lasting_directory());
    let shim = shim(&scratch);
    let (mut runs, mut bad, mut points) = (0, Vec::new(), 0);
    let only = std::env::var(FAULT).ok();
    // The small size writes in another order, which matters where the file is written.
    let writes =
        ["fallocate", "half_fallocate", "ftruncate", "sync", "pwrite"].contains(&group.name);
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
    every_fallocate_fails_half_way "half_fallocate";
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

// ---------------------------------------------------------------- what runs out, and what others do

/// What a child does by name, with a path.
type Case = fn(&Path) -> Result<(), String>;

const CASES: &[(&str, Case)] = &[
    ("full disk", full_disk),
    ("nearly full disk", nearly_full_disk),
    ("full of holes", full_of_holes),
    ("directory", directory),
    ("full shm", full_shm),
    ("size limit", size_limit),
    ("descriptors", descriptors),
    ("memory", memory),
    ("shortened", shortened),
    ("pages_come_back", pages_come_back),
    ("bus error of another", bus_error_of_another),
    ("bus error of a plain handler", bus_error_of_a_plain_handler),
    ("bus error by default", bus_error_by_default),
    ("deleted", deleted),
    ("replaced", replaced),
    ("fork", forked),
    ("fork and the lock", forked_lock),
    ("fork and the count", forked_count),
    ("orphan", orphan),
    ("exec", before_exec),
    ("after exec", after_exec),
    ("dlclose", unloaded),
];

/// Starts a child for a case. `Err`: what was wrong; `Ok(None)`: it could not be started as `set_up` wants.
fn case(name: &str, path: &Path, set_up: impl FnOnce(&mut Command)) -> Result<Option<()>, String> {
    let mut command = procs::child(CHILD, format!("{name}\n{}", path.display()));
    command.env("RUST_BACKTRACE", "0").stderr(Stdio::piped());
    set_up(&mut command);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            println!("{name}: not possible here: {e}");
            return Ok(None);
        }
    };
    let mut said = String::new();
    let mut voice = child.stderr.take().expect("its voice");
    std::io::Read::read_to_string(&mut voice, &mut said).expect("what it says");
    let status = child.wait().expect("its end");
    if status.success() {
        return Ok(Some(()));
    }
    Err(format!(
        "{name}: ended by {}: {}",
        procs::how(status),
        said.trim()
    ))
}

fn passes(name: &str) {
    let scratch = Scratch::new();
    if let Err(what) = case(name, &scratch.db("case.db"), |_| ()) {
        panic!("{what}");
    }
    assert_eq!(
        scratch.objects(),
        Vec::<String>::new(),
        "{name}: left behind"
    );
}

/// Gives the child a file system of its own at `place`: a tmpfs with these options.
fn mounted(command: &mut Command, place: &Path, options: &str) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    let place = std::ffi::CString::new(place.as_os_str().as_bytes()).expect("a path");
    let options = std::ffi::CString::new(options).expect("options");
    let mount = move || {
        // SAFETY: system calls with C strings, in a process that is about to exec.
        unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, root, tmpfs) = (std::ptr::null(), c"/".as_ptr(), c"tmpfs".as_ptr());
            if libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(none, root, none, private, none.cast()) != 0
                || libc::mount(tmpfs, place.as_ptr(), tmpfs, 0, options.as_ptr().cast()) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(mount) };
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(format!("{what}: {got:?}, not {want:?} (errno: {error})"))
}

fn open(path: &Path, mode: i32) -> Result<Plain, String> {
    Plain::opened(path, mode, SETTINGS).map_err(|rc| {
        let error = std::io::Error::last_os_error();
        format!("open in mode {mode}: {rc} (errno: {error})")
    })
}

fn key(n: u64) -> Vec<u8> {
    format!("/key/{n}").into_bytes()
}

/// A closed file that is as it should be.
fn is_clean(path: &Path) -> Result<(), String> {
    let file = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    expect("the file", check::check(&file, true), Vec::new())
}

/// Puts until there is no room; answers how many there are then.
fn fill(db: &Plain, from: u64) -> Result<u64, String> {
    for n in from..100_000 {
        let put = db.put(&key(n), &support::value(n, 8028));
        if put != (0, 8028) {
            expect("the put that does not fit", put, (-1, 0))?;
            let error = std::io::Error::last_os_error().raw_os_error();
            let full = [Some(libc::ENOSPC), Some(libc::EFBIG), Some(libc::EDQUOT)];
            if !full.contains(&error) {
                return Err(format!("errno of a put that does not fit: {error:?}"));
            }
            return Ok(n);
        }
    }
    Err("this medium is never full".to_owned())
}

/// All keys up to `n` have their first values.
fn are_there(db: &Plain, n: u64) -> Result<(), String> {
    for i in 0..n {
        if db.get(&key(i)) != Ok(support::value(i, 8028)) {
            return Err(format!("key {i} of {n} is not what it was"));
        }
    }
    expect("keys", db.keys().map(|k| k.len() as u64), Ok(n))
}

fn full_disk(path: &Path) -> Result<(), String> {
    let db = open(path, ffi::RWCREAT)?;
    let n = fill(&db, 0)?;
    expect("keys on 2 MiB, some at least", n > 50, true)?;
    for _ in 0..20 {
        expect("again", db.put(&key(n), &support::value(n, 8028)), (-1, 0))?;
    }
    expect("a get of what did not fit", db.get(&key(n)), Err(1))?;
    are_there(&db, n)?;
    // What needs no room goes on.
    let late = open(path, ffi::RDWR)?;
    for i in [0, 1, 0, 0, n - 1] {
        expect("an overwrite", late.put(&key(i), b"short"), (0, 5))?;
        expect(
            "an overwrite",
            late.put(&key(i), &support::value(i, 8028)),
            (0, 8028),
        )?;
    }
    expect("a delete", db.delete(&key(3)).0, 0)?;
    expect(
        "a put into its place",
        db.put(&key(3), &support::value(3, 8028)),
        (0, 8028),
    )?;
    are_there(&late, n)?;
    expect("close", (late.close(), db.close()), (0, 0))?;
    is_clean(path)?;
    let db = open(path, ffi::RDWR)?;
    are_there(&db, n)?;
    expect("close", db.close(), 0)
}

/// With room for a few pages only: every call works or answers -1, and with room again everything does.
fn nearly_full_disk(path: &Path) -> Result<(), String> {
    let ballast = path.with_extension("ballast");
    for pages in 0..60 {
        for before in 0..3 {
            let _ = fs::remove_file(path);
            let made = open(path, ffi::RWCREAT)?;
            for n in 0..before {
                expect(
                    "a put",
                    made.put(&key(n), &support::value(n, 8028)),
                    (0, 8028),
                )?;
            }
            expect("close", made.close(), 0)?;
            if before == 0 {
                fs::remove_file(path).map_err(|e| e.to_string())?;
            }
            leave_pages(&ballast, pages)?;
            let mut there = before;
            if let Ok(db) = Plain::opened(path, ffi::RWCREAT, SETTINGS) {
                if let (0, _) = db.put(&key(before), &support::value(before, 8028)) {
                    there += 1;
                }
                are_there(&db, there)?;
                // A second table, perhaps.
                let put = db.put(TWIN.as_bytes(), b"x");
                if put.0 == 0 {
                    expect("delete", db.delete(TWIN.as_bytes()).0, 0)?;
                }
                let rc = db.close();
                if rc != 0 && rc != -1 {
                    return Err(format!("close: {rc}"));
                }
            }
            fs::remove_file(&ballast).map_err(|e| e.to_string())?;
            let what = format!("{pages} pages were free, {before} keys there");
            let db = open(path, ffi::RWCREAT).map_err(|e| format!("{what}: {e}"))?;
            are_there(&db, there).map_err(|e| format!("{what}: {e}"))?;
            let put = db.put(&key(there), &support::value(there, 8028));
            expect("a put with room again", put, (0, 8028))?;
            are_there(&db, there + 1)?;
            expect("close", db.close(), 0)?;
            is_clean(path).map_err(|e| format!("{what}: {e}"))?;
        }
    }
    Ok(())
}

/// Fills the file system up to so many pages.
fn leave_pages(ballast: &Path, pages: u64) -> Result<(), String> {
    use std::os::fd::AsRawFd;
    let file = fs::File::create(ballast).map_err(|e| e.to_string())?;
    let mut free = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: an open descriptor, and a buffer of the right type that is valid when zero.
    let free = unsafe {
        libc::fstatvfs(file.as_raw_fd(), free.as_mut_ptr());
        free.assume_init()
    };
    let bytes = (free.f_bfree * free.f_bsize).saturating_sub(pages * 4096);
    // SAFETY: an open descriptor.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as i64) } {
        0 => Ok(()),
        n => Err(format!("ballast of {bytes} bytes: error {n}")),
    }
}

/// A file with holes where it is zero, as copying tools make them, on a full disk.
fn full_of_holes(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    // Keys whose slots are not in the middle page of the table, which is a hole then.
    let outside = |n: &u64| !(160..350).contains(&check::slot_of(&key(*n), 510));
    let keys: Vec<u64> = (0..100).filter(outside).take(5).collect();
    let db = open(path, ffi::RWCREAT)?;
    for &n in &keys {
        expect("a put", db.put(&key(n), b"short").0, 0)?;
    }
    expect("close", db.close(), 0)?;
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    fs::remove_file(path).map_err(|e| e.to_string())?;
    let file = fs::File::create(path).map_err(|e| e.to_string())?;
    file.set_len(bytes.len() as u64)
        .map_err(|e| e.to_string())?;
    let mut holes = 0;
    for (page, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
        if page.iter().any(|&b| b != 0) {
            file.write_all_at(page, at).map_err(|e| e.to_string())?;
        } else {
            holes += 1;
        }
    }
    expect("there are holes", holes > 0, true)?;
    let ballast = path.with_extension("ballast");
    leave_pages(&ballast, 0)?;
    let db = open(path, ffi::RDWR)?;
    for &n in &keys {
        let put = db.put(&key(n), &support::value(n, 8028));
        expect("a put with a hole and a full disk", put, (-1, 0))?;
        expect("get", db.get(&key(n)), Ok(b"short".to_vec()))?;
    }
    expect("close", db.close(), 0)?;
    expect("the file", fs::read(path).ok() == Some(bytes), true)?;
    fs::remove_file(&ballast).map_err(|e| e.to_string())?;
    let db = open(path, ffi::RDWR)?;
    for &n in &keys {
        let put = db.put(&key(n), &support::value(n, 8028));
        expect("a put", put, (0, 8028))?;
    }
    expect("close", db.close(), 0)?;
    is_clean(path)
}

#[test]
fn a_full_disk_is_an_error_code() {
    // Failure 30: the file was made longer without its place on the medium, and the store into it was a SIGBUS, under
    // the lock.
    let scratch = Scratch::new();
    let place = scratch.db("small");
    fs::create_dir(&place).expect("a directory");
    for name in ["full disk", "nearly full disk", "full of holes"] {
        let path = place.join("full.db");
        let run = case(name, &path, |command| mounted(command, &place, "size=2m"));
        run.unwrap_or_else(|what| panic!("{what}"));
    }
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

/// The sync of the directory in which the database comes to be fails, so it was made.
fn directory(path: &Path) -> Result<(), String> {
    let db = Plain::new();
    let open = || faulty(|| db.open(path, ffi::RWCREAT, ffi::WT, SETTINGS));
    expect("open", open(), -1)?;
    expect("syncs of the directory", injected(), 1)?;
    expect("the next open", open(), 0)?;
    expect("close", db.close(), 0)
}

#[test]
fn a_database_that_comes_to_be_is_in_its_directory_after_a_power_cut() {
    // The file is nowhere yet, or somebody else has made it, empty, or a link leads there; the open made it a database
    // and synced it, but not its directory, or that of the link. After a power cut there was no file: all that was put
    // and synced was lost. Here the sync of that very directory fails, and the open must say so.
    let scratch = Scratch::below(procs::lasting_directory());
    let shim = shim(&scratch);
    for (name, is_there, is_linked) in [
        ("new", false, false),
        ("empty", true, false),
        ("link", false, true),
        ("link-empty", true, true),
    ] {
        let place = scratch.db(name);
        fs::create_dir(&place).expect("a directory");
        let file = place.join("case.db");
        if is_there {
            fs::write(&file, b"").expect("an empty file");
        }
        let path = if is_linked {
            let link = scratch.db(&format!("{name}.db"));
            std::os::unix::fs::symlink(&file, &link).expect("a link");
            link
        } else {
            file
        };
        let run = case("directory", &path, |command| {
            command
                .env("LD_PRELOAD", &shim)
                .env(FAULT, "directory_sync 1 5 once")
                .env("KISSDB_FAULT_DIRECTORY", &place);
        });
        run.unwrap_or_else(|what| panic!("{name}: {what}"));
    }
    assert_eq!(scratch.objects(), Vec::<String>::new());
}

/// /dev/shm has a few pages.
fn full_shm(path: &Path) -> Result<(), String> {
    let mut all = Vec::new();
    for n in 0..130 {
        let db = Plain::new();
        match db.open(path, ffi::RWCREAT, ffi::WT, SETTINGS) {
            0 => {
                expect(
                    "a put",
                    db.put(&key(n), &support::value(n, 8028)),
                    (0, 8028),
                )?;
                all.push(db);
            }
            ffi::ERROR_OPEN_SHM | ffi::ERROR_RESIZE_SHM | ffi::ERROR_MAP_SHM => break,
            rc => return Err(format!("open number {n} with /dev/shm full: {rc}")),
        }
    }
    let n = all.len() as u64;
    for db in all.iter().step_by(20) {
        are_there(db, n)?;
        // A cache that does not fit must leave no name behind.
        let name = db.cache_name().ok_or("no name for a cache")?;
        let c_name = std::ffi::CString::new(name.clone()).map_err(|e| e.to_string())?;
        let mut made = 0;
        // SAFETY: a C string and a flag of ours.
        let fd = unsafe { ffi::kdbShmemOpen(c_name.as_ptr(), 64 << 20, &mut made) };
        expect("a cache of 64 MiB", fd, -1)?;
        let there = Path::new("/dev/shm").join(name.trim_start_matches('/'));
        expect("its name", there.exists(), false)?;
    }
    for db in all.iter().rev() {
        expect("close", db.close(), 0)?;
    }
    let left: Vec<_> = fs::read_dir("/dev/shm")
        .map_err(|e| e.to_string())?
        .collect();
    expect("objects left", left.len(), 0)?;
    if n > 0 {
        is_clean(path)?;
    }
    Ok(())
}

#[test]
fn a_full_dev_shm_is_an_error_code() {
    // Failure 30 again, for the shared objects: ftruncate gave them a size, and the first store was a SIGBUS.
    for options in [
        "size=4k",
        "size=8k",
        "size=12k",
        "size=16k",
        "size=24k",
        "size=1m,nr_inodes=2",
        "size=1m,nr_inodes=3",
    ] {
        let scratch = Scratch::new();
        let run = case("full shm", &scratch.db("case.db"), |command| {
            mounted(command, Path::new("/dev/shm"), options);
        });
        run.unwrap_or_else(|what| panic!("{options}: {what}"));
    }
}

fn limit(what: libc::__rlimit_resource_t, soft: u64) -> u64 {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: buffers of the right type.
    unsafe {
        libc::getrlimit(what, &mut now);
        let before = now.rlim_cur;
        now.rlim_cur = soft.min(now.rlim_max);
        libc::setrlimit(what, &now);
        before
    }
}

/// The limit on the size of files, whose signal is deadly.
fn size_limit(path: &Path) -> Result<(), String> {
    for bytes in [
        0,
        1,
        4095,
        4096,
        4097,
        16384,
        20000,
        65536,
        100_000,
        300_000,
        1 << 20,
    ] {
        for before in [0, 3] {
            let what = |e: String| format!("a limit of {bytes} bytes, {before} keys there: {e}");
            let _ = fs::remove_file(path);
            if before > 0 {
                let db = open(path, ffi::RWCREAT)?;
                for n in 0..before {
                    expect(
                        "a put",
                        db.put(&key(n), &support::value(n, 8028)),
                        (0, 8028),
                    )?;
                }
                expect("close", db.close(), 0)?;
            }
            let old = limit(libc::RLIMIT_FSIZE, bytes);
            let mut there = before;
            let db = Plain::new();
            let rc = db.open(path, ffi::RWCREAT, ffi::WT, SETTINGS);
            if rc == 0 {
                there = fill(&db, before).map_err(what)?;
                are_there(&db, there).map_err(what)?;
                let close = db.close();
                // What has been set can always be closed: a close needs no room.
                expect("close", close, 0).map_err(what)?;
            } else if ![-1, -7, -10].contains(&rc) {
                return Err(what(format!("open: {rc}")));
            }
            limit(libc::RLIMIT_FSIZE, old);
            let db = open(path, ffi::RWCREAT).map_err(what)?;
            are_there(&db, there).map_err(what)?;
            expect("a put", db.put(&key(there), b"x").0, 0).map_err(what)?;
            expect("close", db.close(), 0).map_err(what)?;
            is_clean(path).map_err(what)?;
        }
    }
    Ok(())
}

#[test]
fn the_limit_on_file_sizes_is_an_error_code() {
    // Beyond RLIMIT_FSIZE the kernel sends SIGXFSZ, which nobody survives who does not ask first.
    passes("size limit");
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// A few descriptors left.
fn descriptors(path: &Path) -> Result<(), String> {
    let db = open(path, ffi::RWCREAT)?;
    for n in 0..3 {
        expect(
            "a put",
            db.put(&key(n), &support::value(n, 8028)),
            (0, 8028),
        )?;
    }
    expect("close", db.close(), 0)?;
    let (count, highest) = (open_descriptors(), 40);
    let mut opened = 0;
    for more in 0..highest {
        // Numbers below the limit may be used, and 0 to 2 and a few others are in use.
        let old = limit(libc::RLIMIT_NOFILE, more);
        let db = Plain::new();
        let rc = db.open(path, ffi::RDWR, ffi::WT, SETTINGS);
        let mut result = Ok(());
        if rc == 0 {
            opened += 1;
            let second = Plain::new();
            let again = second.open(path, ffi::RDWR, ffi::WT, SETTINGS);
            result = expect(
                "a put",
                db.put(&key(0), &support::value(0, 8028)),
                (0, 8028),
            )
            .and_then(|()| are_there(&db, 3));
            if again == 0 {
                result = result.and(expect("close", second.close(), 0));
            }
            result = result.and(expect("close", db.close(), 0));
        } else if ![-1, -7, -9, -10].contains(&rc) {
            result = Err(format!("open: {rc}"));
        }
        limit(libc::RLIMIT_NOFILE, old);
        result.map_err(|e| format!("{more} descriptors: {e}"))?;
        expect(
            &format!("descriptors after {more}"),
            open_descriptors(),
            count,
        )?;
        expect("objects", support::object_exists(path, "-shm-info"), false)?;
    }
    expect("some opens work", opened > 10, true)?;
    // Open, and then none left at all.
    for _ in 0..2 {
        let db = open(path, ffi::RDWR)?;
        let old = limit(libc::RLIMIT_NOFILE, 3);
        let put = db.put(&key(1), &support::value(1, 8028));
        let there = are_there(&db, 3);
        let rc = db.close();
        limit(libc::RLIMIT_NOFILE, old);
        expect("a put without descriptors", put, (0, 8028))?;
        there?;
        expect("a close without descriptors", rc, 0)?;
        expect("objects", support::object_exists(path, "-shm-info"), false)?;
        expect("-ht", support::object_exists(path, "-ht"), false)?;
        is_clean(path)?;
    }
    Ok(())
}

#[test]
fn running_out_of_descriptors_is_an_error_code() {
    // Failure 34: an open that failed half-way kept what it had, so that the next one had even less.
    passes("descriptors");
}

/// A little address space left.
fn memory(path: &Path) -> Result<(), String> {
    let db = open(path, ffi::RWCREAT)?;
    for n in 0..3 {
        expect(
            "a put",
            db.put(&key(n), &support::value(n, 8028)),
            (0, 8028),
        )?;
    }
    expect("close", db.close(), 0)?;
    let step: u64 = std::env::var("KISSDB_STEP").map_or(16384, |s| s.parse().unwrap_or(16384));
    let mut opened = 0;
    for n in 0..(4 << 20) / step {
        let status = fs::read_to_string("/proc/self/statm").map_err(|e| e.to_string())?;
        let pages: u64 = status
            .split(' ')
            .next()
            .and_then(|p| p.parse().ok())
            .ok_or("statm")?;
        let value = support::value(0, 8028);
        let db = Plain::new();
        let mut buffer = vec![0u8; 8028];
        let c_path =
            std::ffi::CString::new(path.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
        let old = limit(libc::RLIMIT_AS, pages * 4096 + n * step);
        // Nothing in here may need memory but the library.
        let (mut put, mut get, mut close, mut size) = (99, 99, 99, 0);
        // SAFETY: the struct, strings and buffers live through the calls.
        let rc = unsafe {
            let rc = ffi::KISSDB_open(
                db.as_ptr(),
                c_path.as_ptr(),
                ffi::RDWR,
                ffi::WT,
                510,
                128,
                8028,
            );
            if rc == 0 {
                let key = c"/key/0".as_ptr().cast();
                put = ffi::KISSDB_put(
                    db.as_ptr(),
                    key,
                    value.as_ptr().cast(),
                    8028,
                    std::ptr::null_mut(),
                );
                get = ffi::KISSDB_get(
                    db.as_ptr(),
                    key,
                    buffer.as_mut_ptr().cast(),
                    8028,
                    &mut size,
                );
                close = ffi::KISSDB_close(db.as_ptr());
            }
            rc
        };
        limit(libc::RLIMIT_AS, old);
        let codes = |rc, good: &[i32]| good.contains(&rc);
        let fits = match rc {
            0 => {
                opened += 1;
                codes(put, &[0, -1, -2]) && codes(get, &[0, -1, -2]) && codes(close, &[0, -1])
            }
            rc => codes(rc, &[-1, -2, -7, -9, -10]),
        };
        if !fits {
            return Err(format!(
                "{} bytes left: open {rc}, put {put}, get {get}, close {close}",
                n * step
            ));
        }
        if get == 0 && buffer != value {
            return Err(format!("{} bytes left: a wrong value", n * step));
        }
        let db = open(path, ffi::RDWR)?;
        are_there(&db, 3)?;
        expect("close", db.close(), 0)?;
    }
    expect("some opens work", opened > 0, true)
}

#[test]
fn running_out_of_memory_is_an_error_code() {
    // P6: without memory a call answers -2 (or -1, -9 where a map could not be made); the process goes on.
    passes("memory");
}

/// The file is cut off by somebody while it is open.
fn shortened(path: &Path) -> Result<(), String> {
    for len in [
        0, 1, 4095, 4096, 8192, 16384, 20480, 30000, 32768, 40960, 50000,
    ] {
        for last in 0..3 {
            let what = |e: String| format!("cut to {len}: {e}");
            let _ = fs::remove_file(path);
            let db = open(path, ffi::RWCREAT)?;
            let other = open(path, ffi::RDWR)?;
            for n in 0..3 {
                expect(
                    "a put",
                    db.put(&key(n), &support::value(n, 8028)),
                    (0, 8028),
                )?;
            }
            let _ = other.get(&key(0));
            let file = fs::OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|e| e.to_string())?;
            file.set_len(len).map_err(|e| e.to_string())?;
            // Any order of calls: no signal, no value that nobody wrote, no success without effect.
            for turn in 0..3 {
                let n = (turn + last) % 3;
                for db in [&db, &other] {
                    match db.get(&key(n)) {
                        Ok(value) => {
                            expect("a value", value, support::value(n, 8028)).map_err(what)?
                        }
                        Err(-1 | -4) => {}
                        Err(rc) => return Err(what(format!("get: {rc}"))),
                    }
                    let keys = db.keys();
                    if !matches!(keys, Ok(_) | Err(-1 | -4)) {
                        return Err(what(format!("iterate: {keys:?}")));
                    }
                }
                if last == 1 {
                    let put = db.put(&key(n), b"new");
                    if put.0 == 0 {
                        let got = other.get(&key(n));
                        if !matches!(got, Err(-1 | -4)) {
                            expect("what was put", got, Ok(b"new".to_vec())).map_err(what)?;
                        }
                        let put = db.put(&key(n), &support::value(n, 8028));
                        if !matches!(put.0, 0 | -1 | -4) {
                            return Err(what(format!("put: {put:?}")));
                        }
                    } else if !matches!(put.0, -1 | -4) {
                        return Err(what(format!("put: {put:?}")));
                    }
                }
            }
            for db in [other, db] {
                let rc = db.close();
                if !matches!(rc, 0 | -1) {
                    return Err(what(format!("close: {rc}")));
                }
            }
            expect("objects", support::object_exists(path, "-shm-info"), false).map_err(what)?;
        }
    }
    Ok(())
}

#[test]
fn a_file_that_others_cut_off_is_an_error_code() {
    // Failure 21: SIGBUS in every process that had the file mapped (P4).
    passes("shortened");
}

/// How many descriptors and maps of this process are of `path`.
fn kept_of(path: &Path) -> Result<(usize, usize), String> {
    let name = path.to_str().ok_or("a path")?;
    let fds = fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())?;
    let fds = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let maps = maps.lines().filter(|line| line.ends_with(name));
    Ok((fds.filter(|to| to == path).count(), maps.count()))
}

/// Pages are gone again and again, for the same handle, and come back.
fn pages_come_back(path: &Path) -> Result<(), String> {
    let db = open(path, ffi::RWCREAT)?;
    let mut values = [b"0", b"1", b"2"].map(|v| v.to_vec());
    let put = |n: usize, value: &[u8]| db.put(&key(n as u64), value).0;
    for (n, value) in values.iter().enumerate() {
        expect("a put", put(n, value), 0)?;
    }
    let other = open(path, ffi::RDWR)?;
    let reader = open(path, ffi::RDONLY)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| e.to_string())?;
    let mut kept = None;
    for round in 0..60 {
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        // Behind the first table, or inside it, or all but the header.
        let cut = [20480, 8192, 4096][round % 3];
        file.set_len(cut).map_err(|e| e.to_string())?;
        let n = round % values.len();
        let new = format!("in round {round}").into_bytes();
        match round % 4 {
            0 => expect("a put into what is gone", put(n, &new), -1)?,
            1 => expect("a delete", other.delete(&key(n as u64)).0, -1)?,
            2 => expect("a reader", reader.keys().is_err(), true)?,
            // An absent key is known to be absent, and what was read before is kept.
            _ => expect("an iteration", db.keys(), Err(-1))?,
        }
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[cut as usize..], cut)
            .map_err(|e| e.to_string())?;
        for user in [&db, &other, &reader] {
            for (n, value) in values.iter().enumerate() {
                expect("a value", user.get(&key(n as u64)), Ok(value.clone()))
                    .map_err(|e| format!("round {round}: {e}"))?;
            }
            expect("keys", user.keys().map(|k| k.len()), Ok(values.len()))?;
        }
        expect("a put", put(n, &new), 0)?;
        values[n] = new;
        // What a handle needs once it has by now.
        if round == 11 {
            kept = Some(kept_of(path)?);
        }
    }
    expect("descriptors and maps", Some(kept_of(path)?), kept)?;
    for user in [reader, other, db] {
        expect("a close", user.close(), 0)?;
    }
    let db = open(path, ffi::RDONLY)?;
    for (n, value) in values.iter().enumerate() {
        expect("a value", db.get(&key(n as u64)), Ok(value.clone()))?;
    }
    expect("a close", db.close(), 0)
}

#[test]
fn a_handle_whose_pages_come_back_keeps_nothing_of_it() {
    // A disk was full, and somebody tried to put again and again: each time a store into a page was refused, and a descriptor
    // and a map more were kept. After some 1,000 of them the process had no descriptors left, and its gets failed as well.
    passes("pages_come_back");
}

static OWN_BUS_ERRORS: AtomicI64 = AtomicI64::new(0);

extern "C" fn own_handler(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    OWN_BUS_ERRORS.fetch_add(1, SeqCst);
    // SAFETY: ends this process, as a handler of a program that cannot go on.
    unsafe { libc::_exit(33) };
}

/// A page of a file that is not there: touching it is a SIGBUS that is not the library's.
fn foreign_bus_error(path: &Path) -> Result<(), String> {
    let file = fs::File::create(path.with_extension("foreign")).map_err(|e| e.to_string())?;
    file.set_len(4096).map_err(|e| e.to_string())?;
    let file = fs::File::open(path.with_extension("foreign")).map_err(|e| e.to_string())?;
    // SAFETY: a map that is read once, which is the point.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            std::os::fd::AsRawFd::as_raw_fd(&file),
            0,
        );
        fs::OpenOptions::new()
            .write(true)
            .open(path.with_extension("foreign"))
            .and_then(|f| f.set_len(0))
            .map_err(|e| e.to_string())?;
        at.cast::<u8>().read_volatile();
    }
    Err("a page that is not there could be read".to_owned())
}

fn bus_error_of_another(path: &Path) -> Result<(), String> {
    // SAFETY: a handler of the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = own_handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
    let _db = open(path, ffi::RWCREAT)?;
    foreign_bus_error(path)
}

extern "C" fn plain_handler(_: i32) {
    // SAFETY: as in own_handler.
    unsafe { libc::_exit(34) };
}

fn bus_error_of_a_plain_handler(path: &Path) -> Result<(), String> {
    // SAFETY: a handler of the signature that signal asks for.
    unsafe { libc::signal(libc::SIGBUS, plain_handler as *const () as usize) };
    let _db = open(path, ffi::RWCREAT)?;
    foreign_bus_error(path)
}

fn bus_error_by_default(path: &Path) -> Result<(), String> {
    // SAFETY: the default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    let _db = open(path, ffi::RWCREAT)?;
    foreign_bus_error(path)
}

#[test]
fn the_bus_errors_of_others_are_theirs() {
    // The library's SIGBUS handler is for its own maps. What a program does in its own handler, or that it has none,
    // stays as it was.
    let scratch = Scratch::new();
    let own = case("bus error of another", &scratch.db("a.db"), |_| ());
    assert!(
        own.as_ref().is_err_and(|e| e.contains("exit 33")),
        "{own:?}"
    );
    let plain = case("bus error of a plain handler", &scratch.db("c.db"), |_| ());
    assert!(
        plain.as_ref().is_err_and(|e| e.contains("exit 34")),
        "{plain:?}"
    );
    let none = case("bus error by default", &scratch.db("b.db"), |_| ());
    assert!(
        none.as_ref().is_err_and(|e| e.contains("signal 7")),
        "{none:?}"
    );
}

/// The file's name is removed while it is open.
fn deleted(path: &Path) -> Result<(), String> {
    let old = open(path, ffi::RWCREAT)?;
    expect("a put", old.put(b"/k", b"old").0, 0)?;
    fs::remove_file(path).map_err(|e| e.to_string())?;
    expect("a get", old.get(b"/k"), Ok(b"old".to_vec()))?;
    expect("a put", old.put(b"/k2", b"old").0, 0)?;
    // A new file of the same name is another database.
    expect(
        "nothing to open",
        Plain::new().open(path, ffi::RDWR, ffi::WT, SETTINGS),
        -1,
    )?;
    let new = open(path, ffi::RWCREAT)?;
    expect("a new file", new.keys(), Ok(Vec::new()))?;
    expect("a put", new.put(b"/k", b"new").0, 0)?;
    expect("a get", old.get(b"/k"), Ok(b"old".to_vec()))?;
    let third = open(path, ffi::RDWR)?;
    expect("a get", third.get(b"/k"), Ok(b"new".to_vec()))?;
    expect("close", old.close(), 0)?;
    expect("a get", new.get(b"/k"), Ok(b"new".to_vec()))?;
    expect("close", (third.close(), new.close()), (0, 0))?;
    is_clean(path)?;
    // And without a successor: nothing is made.
    let old = open(path, ffi::RDWR)?;
    fs::remove_file(path).map_err(|e| e.to_string())?;
    expect("a put", old.put(b"/k", b"old").0, 0)?;
    expect("close", old.close(), 0)?;
    expect("the file", path.exists(), false)
}

/// Another database takes the place of an open one.
fn replaced(path: &Path) -> Result<(), String> {
    let other = path.with_extension("other");
    for (name, value) in [(path, b"old"), (&other, b"new")] {
        let db = open(name, ffi::RWCREAT)?;
        expect("a put", db.put(b"/k", value).0, 0)?;
        expect("close", db.close(), 0)?;
    }
    let old = open(path, ffi::RDWR)?;
    expect("a put", old.put(b"/only/old", b"x").0, 0)?;
    fs::rename(&other, path).map_err(|e| e.to_string())?;
    let new = open(path, ffi::RDWR)?;
    expect("a get of the old", old.get(b"/k"), Ok(b"old".to_vec()))?;
    expect("a get of the new", new.get(b"/k"), Ok(b"new".to_vec()))?;
    expect("a get of the new", new.get(b"/only/old"), Err(1))?;
    for n in 0..20 {
        expect("a put", old.put(&key(n), b"old").0, 0)?;
        expect("a put", new.put(&key(n), b"new").0, 0)?;
    }
    expect("close", (old.close(), new.close()), (0, 0))?;
    is_clean(path)?;
    let new = open(path, ffi::RDWR)?;
    expect("a get", new.get(&key(7)), Ok(b"new".to_vec()))?;
    expect("close", new.close(), 0)
}

#[test]
fn a_file_deleted_while_open_stays_a_database() {
    // Failure 21: the shared objects go by the name, so the new file got the old one's tables.
    passes("deleted");
}

#[test]
fn a_file_replaced_while_open_is_another_database() {
    // Failure 21: as above.
    passes("replaced");
}

/// Forks; `child` runs in the child, which ends with 0 if it answers `Ok`. Answers its pid.
fn fork(child: impl FnOnce() -> Result<(), String>) -> Result<i32, String> {
    // SAFETY: the process was started for this; its other thread only waits.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().to_string()),
        0 => {
            // SAFETY: no memory is involved.
            unsafe { libc::alarm(SECONDS) };
            let code = match child() {
                Ok(()) => 0,
                Err(what) => {
                    eprintln!("in the fork child: {what}");
                    8
                }
            };
            // SAFETY: ends this process without its destructors, as a fork child does.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

fn wait_for(pid: i32) -> Result<(), String> {
    let mut status = 0;
    // SAFETY: the buffer is a status.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    expect("the end of the fork child", status, 0)
}

/// A channel between the two: one byte is a message.
fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().expect("a pipe")
}

fn hear(mut from: &std::io::PipeReader) {
    let mut byte = [0];
    std::io::Read::read_exact(&mut from, &mut byte).expect("the other one");
}

fn say(mut to: &std::io::PipeWriter) {
    std::io::Write::write_all(&mut to, b"x").expect("the other one");
}

fn forked(path: &Path) -> Result<(), String> {
    // The child works and closes; the parent goes on.
    let db = open(path, ffi::RWCREAT)?;
    expect("a put", db.put(b"/parent", b"1").0, 0)?;
    let pid = fork(|| {
        expect("a get", db.get(b"/parent"), Ok(b"1".to_vec()))?;
        expect("a put", db.put(b"/child", b"2"), (0, 1))?;
        expect("close", db.close(), 0)
    })?;
    wait_for(pid)?;
    expect("a get", db.get(b"/child"), Ok(b"2".to_vec()))?;
    expect("a put", db.put(b"/parent", b"3").0, 0)?;
    // Both at once, changing the same pair.
    let pid = fork(|| {
        for n in 0..200 {
            expect(
                "a put",
                db.put(&key(n % 7), &support::value(n, 100)),
                (0, 100),
            )?;
        }
        Ok(())
    })?;
    for n in 0..200 {
        expect(
            "a put",
            db.put(&key(n % 7), &support::value(n, 100)),
            (0, 100),
        )?;
    }
    wait_for(pid)?;
    // That child has not closed. It is dead, so we are the last.
    expect("close", db.close(), 0)?;
    is_clean(path)?;
    expect("objects", support::object_exists(path, "-shm-info"), false)?;
    // The parent closes first, the child is the last one. And a child of the child.
    let db = open(path, ffi::RDWR)?;
    let ((from_parent, to_child), (from_child, to_parent)) = (pipe(), pipe());
    let pid = fork(|| {
        expect("a put", db.put(b"/child", b"4").0, 0)?;
        say(&to_parent);
        hear(&from_parent);
        expect("a put", db.put(b"/child", b"5").0, 0)?;
        let grandchild = fork(|| {
            expect("a get", db.get(b"/child"), Ok(b"5".to_vec()))?;
            expect("a put", db.put(b"/grandchild", b"6").0, 0)?;
            expect("close", db.close(), 0)
        })?;
        wait_for(grandchild)?;
        expect("a get", db.get(b"/grandchild"), Ok(b"6".to_vec()))?;
        expect("close", db.close(), 0)
    })?;
    hear(&from_child);
    expect("close of the parent", db.close(), 0)?;
    say(&to_child);
    wait_for(pid)?;
    is_clean(path)?;
    expect("objects", support::object_exists(path, "-shm-info"), false)?;
    // A child that never makes a call does not count.
    let db = open(path, ffi::RDWR)?;
    let (from_parent, to_child) = pipe();
    let pid = fork(|| {
        hear(&from_parent);
        Ok(())
    })?;
    expect("a put", db.put(b"/parent", b"7").0, 0)?;
    expect("close beside a silent child", db.close(), 0)?;
    is_clean(path)?;
    expect("objects", support::object_exists(path, "-shm-info"), false)?;
    say(&to_child);
    wait_for(pid)
}

#[test]
fn a_fork_child_is_a_user_of_its_own() {
    // Failure 16: the child's close tore the state down under the parent, and keys were lost.
    passes("fork");
}

/// The callers' lock keeps parent and child apart.
fn forked_lock(path: &Path) -> Result<(), String> {
    let db = open(path, ffi::RWCREAT)?;
    // SAFETY: the database is open.
    let lock = || unsafe { &raw mut (*db.shared()).rwlock };
    let (from_child, to_parent) = pipe();
    // SAFETY: as above.
    unsafe { ffi::Kdb_wrlock(lock()) };
    let pid = fork(|| {
        // SAFETY: as above. The first call of the child on this handle.
        unsafe { ffi::Kdb_wrlock(lock()) };
        say(&to_parent);
        expect("a put", db.put(b"/child", b"1").0, 0)?;
        // SAFETY: as above.
        unsafe { ffi::Kdb_unlock(lock()) };
        expect("close", db.close(), 0)
    })?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut waiting = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&from_child),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    let came = unsafe { libc::poll(&mut waiting, 1, 0) };
    expect("children inside the parent's lock", came, 0)?;
    expect("a get of the child's put", db.get(b"/child"), Err(1))?;
    // SAFETY: as above.
    unsafe { ffi::Kdb_unlock(lock()) };
    hear(&from_child);
    // SAFETY: as above.
    unsafe { ffi::Kdb_wrlock(lock()) };
    expect(
        "a get of the child's put",
        db.get(b"/child"),
        Ok(b"1".to_vec()),
    )?;
    // SAFETY: as above.
    unsafe { ffi::Kdb_unlock(lock()) };
    wait_for(pid)?;
    expect("close", db.close(), 0)?;
    is_clean(path)
}

#[test]
fn a_fork_child_waits_for_its_parents_lock() {
    // Failure 16: what the parent holds, the child must not believe to hold.
    passes("fork and the lock");
}

/// The middleware's count with a fork child.
fn forked_count(path: &Path) -> Result<(), String> {
    let handle = ffi::Handle::opened(path, ffi::RWCREAT, SETTINGS).map_err(|rc| rc.to_string())?;
    expect("a put", handle.put(b"/k", b"1").0, 0)?;
    expect("refCount", handle.ref_count(), 1)?;
    let ((from_parent, to_child), (from_child, to_parent)) = (pipe(), pipe());
    let pid = fork(|| {
        expect("a get", handle.get(b"/k"), Ok(b"1".to_vec()))?;
        expect("refCount with a child", handle.ref_count(), 2)?;
        say(&to_parent);
        hear(&from_parent);
        handle.set_cache_created(true);
        let mut last = false;
        let rc = handle.close_with(|_| last = true);
        expect("close of the child", (rc, last), (0, false))
    })?;
    hear(&from_child);
    expect("refCount with a child", handle.ref_count(), 2)?;
    say(&to_child);
    wait_for(pid)?;
    expect("refCount after its close", handle.ref_count(), 1)?;
    expect("semaphore", handle.semaphore(), Some(1))?;
    let mut last = false;
    let rc = handle.close_with(|_| last = true);
    expect("close of the last one", (rc, last), (0, true))?;
    is_clean(path)
}

#[test]
fn a_fork_child_is_counted() {
    // Failure 16: with the wrong count the cache was written back too early, or never.
    passes("fork and the count");
}

/// A fork child that never calls lives on when its parent is killed.
fn orphan(path: &Path) -> Result<(), String> {
    let (from_child, to_parent) = pipe();
    let (from_grandchild, to_child) = pipe();
    let pid = fork(|| {
        let db = open(path, ffi::RWCREAT)?;
        expect("a put", db.put(b"/k", b"1").0, 0)?;
        // SAFETY: the database is open.
        unsafe { ffi::Kdb_wrlock(&raw mut (*db.shared()).rwlock) };
        fork(|| {
            say(&to_child);
            procs::die_with_the_driver();
            std::thread::sleep(std::time::Duration::from_secs(3));
            Ok(())
        })?;
        hear(&from_grandchild);
        say(&to_parent);
        std::thread::sleep(std::time::Duration::from_secs(60));
        Ok(())
    })?;
    hear(&from_child);
    let db = open(path, ffi::RWCREAT)?;
    // SAFETY: a child of ours; nothing else is involved.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let mut status = 0;
    // SAFETY: the buffer is a status.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    let since = procs::now();
    // SAFETY: the database is open.
    unsafe {
        let lock = &raw mut (*db.shared()).rwlock;
        ffi::Kdb_wrlock(lock);
        ffi::Kdb_unlock(lock);
    }
    expect("in time", procs::now() - since < 1_000_000_000, true)?;
    expect("a get", db.get(b"/k"), Ok(b"1".to_vec()))?;
    expect("a put", db.put(b"/k", b"2").0, 0)?;
    expect("close", db.close(), 0)?;
    is_clean(path)?;
    expect("objects", support::object_exists(path, "-shm-info"), false)
}

#[test]
fn a_fork_child_does_not_keep_its_dead_parent_alive() {
    // Failures 16 and 18: descriptors that a fork child has inherited keep the kernel's locks of the dead parent held.
    passes("orphan");
}

/// A program that executes another one without closing.
fn before_exec(path: &Path) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let db = open(path, ffi::RWCREAT)?;
    expect("a put", db.put(b"/k", b"1").0, 0)?;
    // SAFETY: the database is open.
    unsafe { ffi::Kdb_wrlock(&raw mut (*db.shared()).rwlock) };
    let error = procs::child(CHILD, format!("after exec\n{}", path.display())).exec();
    Err(format!("exec: {error}"))
}

fn after_exec(path: &Path) -> Result<(), String> {
    let name = path.file_stem().map(|n| n.to_string_lossy().into_owned());
    let name = name.ok_or("no name")?;
    for entry in fs::read_dir("/proc/self/fd")
        .map_err(|e| e.to_string())?
        .flatten()
    {
        if let Ok(to) = fs::read_link(entry.path())
            && to.to_string_lossy().contains(&name)
        {
            return Err(format!("{} is still open after an exec", to.display()));
        }
    }
    let since = procs::now();
    let db = open(path, ffi::RWCREAT)?;
    // The same process, by number and start, is alive; but it is not that user any more.
    // SAFETY: the database is open.
    unsafe {
        let lock = &raw mut (*db.shared()).rwlock;
        ffi::Kdb_wrlock(lock);
        ffi::Kdb_unlock(lock);
    }
    expect("in time", procs::now() - since < 1_000_000_000, true)?;
    expect("a get", db.get(b"/k"), Ok(b"1".to_vec()))?;
    expect("close", db.close(), 0)?;
    is_clean(path)?;
    expect("objects", support::object_exists(path, "-shm-info"), false)
}

#[test]
fn a_user_ends_with_an_exec() {
    // P8: what is shared is close-on-exec. A process that executes another program is no user any more, whatever it
    // held, although its number is in use.
    passes("exec");
}

/// The shared library, loaded by hand and unloaded while a database is open.
fn unloaded(path: &Path) -> Result<(), String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let library = exe
        .ancestors()
        .skip(1)
        .take(3)
        .map(|d| d.join("libkissdb.so"))
        .find(|p| p.exists())
        .ok_or("no libkissdb.so beside this test")?;
    let library =
        std::ffi::CString::new(library.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
    let c_path =
        std::ffi::CString::new(path.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
    type OpenFn =
        unsafe extern "C" fn(*mut ffi::KISSDB, *const libc::c_char, i32, i32, u16, u64, u64) -> i32;
    type PutFn = unsafe extern "C" fn(
        *mut ffi::KISSDB,
        *const libc::c_void,
        *const libc::c_void,
        i32,
        *mut i32,
    ) -> i32;
    for closed in [true, false] {
        let db = Plain::new();
        // SAFETY: functions of these signatures in a library that is loaded while they are called.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            expect("dlopen", handle.is_null(), false)?;
            let open: OpenFn = std::mem::transmute(libc::dlsym(handle, c"KISSDB_open".as_ptr()));
            let put: PutFn = std::mem::transmute(libc::dlsym(handle, c"KISSDB_put".as_ptr()));
            let close: unsafe extern "C" fn(*mut ffi::KISSDB) -> i32 =
                std::mem::transmute(libc::dlsym(handle, c"KISSDB_close".as_ptr()));
            // In a thread that ends after the library has gone.
            let at = db.as_ptr() as usize;
            let c_path = c_path.clone();
            let (done, wait) = std::sync::mpsc::channel();
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                let db = at as *mut ffi::KISSDB;
                let mut answers = vec![open(
                    db,
                    c_path.as_ptr(),
                    ffi::RWCREAT,
                    ffi::WT,
                    510,
                    128,
                    8028,
                )];
                answers.push(put(
                    db,
                    c"/k".as_ptr().cast(),
                    c"v".as_ptr().cast(),
                    1,
                    std::ptr::null_mut(),
                ));
                if closed {
                    answers.push(close(db));
                }
                let _ = done.send(answers);
                let _ = ended.recv();
            });
            let answers = wait.recv().map_err(|e| e.to_string())?;
            expect("answers", answers.iter().all(|&rc| rc == 0), true)?;
            expect("dlclose", libc::dlclose(handle), 0)?;
            let _ = end.send(());
            expect("the thread", thread.join().is_ok(), true)?;
        }
        // The struct is not ours to close any more.
        ffi::keep(db);
    }
    // A bus error of the program's own, after that, is still what it was: see the driver.
    // SAFETY: the default action.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    foreign_bus_error(path)
}

#[test]
fn the_library_can_be_unloaded() {
    // A plug-in that links the library is unloaded, with a database open or closed: threads end, and a bus error of the
    // program does not end up in a handler that has gone.
    let scratch = Scratch::new();
    let path = scratch.db("case.db");
    let run = case("dlclose", &path, |_| ());
    assert!(
        run.as_ref().is_err_and(|e| e.contains("signal 7")),
        "{run:?}"
    );
    // That process has died with the database open.
    let db = open(&path, ffi::RDWR).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(db.get(b"/k"), Ok(b"v".to_vec()));
    assert_eq!(db.close(), 0);
    assert_eq!(scratch.objects(), Vec::<String>::new());
}
