//! Replays the conformance suite's traces: lists of calls with the answers that they must get.
//!
//! Each `process` block of a trace runs in a process of its own: this program once more, with the environment naming
//! the block's calls, in which only the test `child` does anything. A block that ends in a crash kills itself there.
//! The commands are those at the head of the suite's `ktrace.py`.
//!
//! Beyond the answers, after each process: what only read or failed to open has not changed the file, a clean close of
//! the last user has left no shared objects and a file that passes the checker; and at the end the file is what the
//! original made of the same calls (`tests/data/golden`).

mod support;

use std::collections::BTreeSet;
use std::ffi::{OsStr, c_int};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use support::ffi::{self, Handle, Plain, Sizes};
use support::{Scratch, check};

/// What is known of the file that a trace leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// This library wrote all of it.
    Ours,
    /// The original wrote it and left it unclean; this library recovered it.
    Recovered,
    /// The original wrote it and closed it; not a byte may have changed.
    Untouched,
    /// No database at all: exactly these bytes.
    Foreign(&'static [u8]),
}

macro_rules! traces {
    ($($test:ident $name:literal $leaves:expr;)*) => {
        $(#[test] fn $test() { passes($name, $leaves); })*
        const COVERED: &[&str] = &[$($name),*];
    };
}

traces! {
    basic "01-basic" Leaves::Ours;
    overwrite "02-overwrite" Leaves::Ours;
    delete_reuse "03-delete-reuse" Leaves::Ours;
    chain "04-chain" Leaves::Ours;
    rct "05-rct" Leaves::Ours;
    readonly "06-readonly" Leaves::Ours;
    open_errors "07-open-errors" Leaves::Ours;
    crash "08-crash" Leaves::Ours;
    reboot_first "09-reboot-first" Leaves::Ours;
    reboot_second "10-reboot-second" Leaves::Ours;
    torn "11-torn" Leaves::Ours;
    header "14-header" Leaves::Foreign(b"hello, world");
    duplicate "17-duplicate" Leaves::Ours;
    reboot_nogrow "19-reboot-nogrow" Leaves::Ours;
    unclean_first "30-unclean-first" Leaves::Recovered;
    unclean_grown "31-unclean-grown" Leaves::Recovered;
    unclean_later "32-unclean-later" Leaves::Recovered;
    basic_from_original "41-basic-from-original" Leaves::Untouched;
    chain_from_original "44-chain-from-original" Leaves::Untouched;
    rct_from_original "45-rct-from-original" Leaves::Untouched;
    nothing_written "50-nothing-written" Leaves::Untouched;
}

#[test]
fn every_trace_is_covered() {
    // A trace that is copied into the data and not named above would never run, and nobody would notice.
    let there: BTreeSet<String> = fs::read_dir(support::data("traces"))
        .expect("the traces")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".trace")?.to_owned()))
        .collect();
    let covered: BTreeSet<String> = COVERED.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(
        there, covered,
        "traces in tests/data/traces, and those that have a test"
    );
}

#[test]
fn the_names_of_shared_objects_are_the_specified_ones() {
    // The tests clean up, and look for what was left behind, by names that they make themselves. If the library had
    // other names, they would find nothing and say that all is well.
    for path in [
        "/tmp/a.db",
        "a_db",
        "/Data/mnt-c/user-1/s%C3.itz",
        "/tmp/\u{e4}\u{f6}/x y.db",
    ] {
        for tail in ["-shm-info", "-ht", "-cache", "-sem"] {
            let name = format!("/{}", support::object_name(Path::new(path), tail));
            assert_eq!(
                ffi::shm_name(tail, Path::new(path)),
                Some(name),
                "{path} {tail}"
            );
        }
    }
}

#[test]
fn a_wrong_answer_is_reported() {
    // A runner that cannot fail proves nothing. Every expectation here is wrong, and each must be reported with its line.
    let scratch = Scratch::new();
    let trace = scratch.db("wrong.trace");
    let text = "process\n\
                open RWCREAT WT 128 8028 = -1\n\
                put /a 1:64 = 0 63\n\
                get /a = 0 64 00000000\n\
                check 0 1 5 = 1\n\
                list = 1 00000000\n\
                nonsense = 0\n\
                close = 1\n\
                end clean\n";
    fs::write(&trace, text).expect("write the trace");
    let (_, bad) = replay(&scratch, &trace, Leaves::Ours);
    let reported = |n: usize| {
        bad.iter()
            .any(|b| b.starts_with(&format!("wrong.trace:{n}:")))
    };
    let missing: Vec<usize> = (2..=8).filter(|&n| !reported(n)).collect();
    assert!(
        missing.is_empty(),
        "lines {missing:?} were not reported: {bad:#?}"
    );
}

#[test]
fn a_death_and_a_change_are_reported() {
    // A child that does not reach its end must not pass for one whose answers were all right, and `same` must see a byte.
    let scratch = Scratch::new();
    let trace = scratch.db("death.trace");
    let text = "process\n\
                open RWCREAT WT 128 8028 = 0\n\
                put /a 1:64 = 0 64\n\
                die\n\
                close = 0\n\
                end clean\n\
                same\n\
                poke 0x2000 01\n\
                same\n";
    fs::write(&trace, text).expect("write the trace");
    let (_, bad) = replay(&scratch, &trace, Leaves::Ours);
    for line in ["death.trace:5:", "death.trace:6:", "death.trace:9:"] {
        assert!(
            bad.iter().any(|b| b.starts_with(line)),
            "{line} was not reported: {bad:#?}"
        );
    }
}

#[test]
fn a_trace_that_is_not_understood_is_refused() {
    // A command that the runner does not know must not be passed over in silence.
    for text in [
        "open RDWR WT 128 8028",
        "process\nclose",
        "process\nend soon",
        "poke 0 0g",
        "end clean",
        "explode",
    ] {
        assert!(parse(text).is_err(), "{text:?} was taken");
    }
    let steps = parse(
        "# nothing\n\npoke 0x10 00ff # two bytes\nprocess\nget /a 5 = 0 7 1 # text\nend reboot\n",
    );
    let steps = steps.expect("a trace");
    assert_eq!(steps.len(), 2);
    assert!(matches!(&steps[0], (3, Step::Poke(0x10, bytes)) if bytes == &[0, 0xff]));
    let (6, Step::Process(ops, End::Reboot)) = &steps[1] else {
        panic!("no process")
    };
    assert_eq!(ops[0].call, "get /a 5");
    assert_eq!(ops[0].want.as_deref(), Some("0 7 1"));
}

/// Replays the trace and judges the file that it leaves.
fn passes(name: &str, leaves: Leaves) {
    let scratch = Scratch::new();
    let trace = support::data("traces").join(format!("{name}.trace"));
    let (path, mut bad) = replay(&scratch, &trace, leaves);
    match fs::read(&path) {
        Ok(file) => bad.extend(final_findings(name, &file, leaves)),
        Err(e) => bad.push(format!("{name}: no file left: {e}")),
    }
    assert!(
        bad.is_empty(),
        "{} findings:\n{}",
        bad.len(),
        bad.join("\n")
    );
}

fn final_findings(name: &str, file: &[u8], leaves: Leaves) -> Vec<String> {
    let mut bad = Vec::new();
    match leaves {
        Leaves::Ours | Leaves::Recovered => bad = check::check(file, leaves == Leaves::Ours),
        Leaves::Untouched => {} // compared with what it began as, in the replay
        Leaves::Foreign(bytes) => {
            if file != bytes {
                bad.push(format!("a foreign file became {} bytes", file.len()));
            }
        }
    }
    let golden = support::data("golden").join(format!("{name}.db.gz"));
    if golden.exists() {
        let differences = check::compare(&support::gunzip(golden), file);
        bad.extend(
            differences
                .into_iter()
                .map(|d| format!("original / ours: {d}")),
        );
    }
    bad.into_iter()
        .map(|b| format!("{name}, final file: {b}"))
        .collect()
}

/// A step of a trace.
enum Step {
    File(String),
    Poke(u64, Vec<u8>),
    Truncate(u64),
    Chmod(u32),
    Same,
    Process(Vec<Op>, End),
}

/// A call inside a process: its line, its words, its answer.
struct Op {
    line: usize,
    call: String,
    want: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Crash,
    Reboot,
}

/// The steps, each with its line (a process with that of its end).
fn parse(text: &str) -> Result<Vec<(usize, Step)>, String> {
    let mut steps = Vec::new();
    let mut process: Option<Vec<Op>> = None;
    for (i, raw) in text.lines().enumerate() {
        let line = i + 1;
        let told = raw.split('#').next().unwrap_or_default();
        let (call, want) = match told.split_once('=') {
            Some((call, want)) => (call, Some(want.trim().to_owned())),
            None => (told, None),
        };
        let words: Vec<&str> = call.split_whitespace().collect();
        let Some((&command, rest)) = words.split_first() else {
            continue;
        };
        let step = match (command, rest, &mut process) {
            ("process", [], None) => {
                process = Some(Vec::new());
                continue;
            }
            ("end", [how], Some(_)) => {
                let end = match *how {
                    "clean" => End::Clean,
                    "crash" => End::Crash,
                    "reboot" => End::Reboot,
                    _ => return Err(format!("line {line}: {raw}")),
                };
                process.take().map(|ops| Step::Process(ops, end))
            }
            (_, _, Some(ops)) => {
                ops.push(Op {
                    line,
                    call: words.join(" "),
                    want,
                });
                continue;
            }
            ("file", [name], None) => Some(Step::File((*name).to_owned())),
            ("poke", [at, bytes], None) => number(at)
                .zip(hex(bytes))
                .map(|(at, bytes)| Step::Poke(at, bytes)),
            ("truncate", [size], None) => number(size).map(Step::Truncate),
            ("chmod", [mode], None) => u32::from_str_radix(mode, 8).ok().map(Step::Chmod),
            ("same", [], None) => Some(Step::Same),
            _ => None,
        };
        steps.push((line, step.ok_or_else(|| format!("line {line}: {raw}"))?));
    }
    if process.is_some() {
        return Err("a process has no end".to_owned());
    }
    Ok(steps)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = |i: usize| {
        text.get(i..i + 2)
            .and_then(|d| u8::from_str_radix(d, 16).ok())
    };
    (0..text.len()).step_by(2).map(digits).collect()
}

/// Runs a trace. Answers with the database's path and all that was not as it should be.
fn replay(scratch: &Scratch, trace: &Path, leaves: Leaves) -> (PathBuf, Vec<String>) {
    let name = trace
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let path = scratch.db(&format!(
        "{}.db",
        trace.file_stem().unwrap_or_default().to_string_lossy()
    ));
    let text = fs::read_to_string(trace).expect("the trace");
    let steps = match parse(&text) {
        Ok(steps) => steps,
        Err(e) => return (path, vec![format!("{name}: {e}")]),
    };
    let mut bad = Vec::new();
    let mut begun: Option<Vec<u8>> = None;
    let mut seen: Option<Option<Vec<u8>>> = None;
    for (line, step) in &steps {
        let mut finding = |n: usize, what: &dyn Display| bad.push(format!("{name}:{n}: {what}"));
        match step {
            Step::File(file) => {
                let bytes = support::gunzip(trace.parent().expect("a directory").join(file));
                fs::write(&path, &bytes).expect("write the database");
                begun = Some(bytes);
            }
            Step::Poke(at, bytes) => poke(&path, *at, bytes),
            Step::Truncate(size) => {
                let file = fs::OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(&path);
                file.and_then(|f| f.set_len(*size))
                    .expect("cut the database");
            }
            Step::Chmod(mode) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("chmod");
            }
            Step::Same => {
                let now = fs::read(&path).ok();
                if seen.as_ref().is_some_and(|before| *before != now) {
                    finding(*line, &"the file has changed");
                }
                seen = Some(now);
            }
            Step::Process(ops, end) => {
                let before = fs::read(&path).ok();
                let run = run_child(scratch, &path, ops, *end);
                let mut right = true;
                for (n, op) in ops.iter().enumerate() {
                    let got = run.answers.get(n).map_or("?nothing", String::as_str);
                    if op.want.as_deref().is_some_and(|want| want != got) {
                        right = false;
                        let want = op.want.as_deref().unwrap_or_default();
                        finding(op.line, &format!("{}: expected {want}, got {got}", op.call));
                    }
                }
                if let Some(said) = &run.died {
                    right = false;
                    finding(*line, said);
                }
                if *end == End::Reboot {
                    scratch.wipe_objects();
                }
                // What follows from a process that went wrong says nothing new.
                if right {
                    let after = fs::read(&path).ok();
                    for what in process_findings(scratch, ops, *end, before, after, leaves) {
                        finding(*line, &what);
                    }
                }
            }
        }
    }
    if leaves == Leaves::Untouched && fs::read(&path).ok() != begun {
        bad.push(format!("{name}: the file is not what it began as"));
    }
    (path, bad)
}

fn poke(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("open the database");
    file.write_all_at(bytes, at).expect("poke");
}

/// What must hold after a process whose answers were right, whatever the trace.
fn process_findings(
    scratch: &Scratch,
    ops: &[Op],
    end: End,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    leaves: Leaves,
) -> Vec<String> {
    let mut bad = Vec::new();
    let opens = || ops.iter().filter(|op| op.call.starts_with("open "));
    let refused = |op: &Op| matches!(op.want.as_deref(), Some("-1" | "-4" | "-12"));
    if opens().all(|op| refused(op) || op.call.starts_with("open RDONLY ")) && before != after {
        bad.push("a process that only read, or opened nothing, has changed the file".to_owned());
    }
    let open_answers = |op: &Op| op.want.as_deref() == Some("0");
    let opened = opens().filter(|op| open_answers(op)).count();
    let closed = ops.iter().filter(|op| op.call == "close").count();
    if end == End::Clean && opened == closed {
        let objects = scratch.objects();
        if !objects.is_empty() {
            bad.push(format!("left behind: {}", objects.join(" ")));
        }
        let wrote = opened > 0 && before != after;
        if let Some(file) = after.filter(|_| wrote && leaves != Leaves::Untouched) {
            let ours = !matches!(leaves, Leaves::Recovered);
            bad.extend(check::check(&file, ours));
        }
    }
    bad
}

/// What a child left: its answers, and how it died if it was not meant to (or did not, if it was).
struct Run {
    answers: Vec<String>,
    died: Option<String>,
}

const CHILD: &str = "KISSDB_TRACE_DATABASE";
const OPS: &str = "KISSDB_TRACE_CALLS";
const END: &str = "KISSDB_TRACE_END";
const ANSWERS: &str = "KISSDB_TRACE_ANSWERS";

/// A child that takes longer is taken for one that hangs.
const CHILD_SECONDS: u32 = 120;

fn run_child(scratch: &Scratch, path: &Path, ops: &[Op], end: End) -> Run {
    let calls: Vec<&str> = ops.iter().map(|op| op.call.as_str()).collect();
    let answers = scratch.db("answers");
    fs::write(&answers, "").expect("a file for the answers");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env(OPS, calls.join("\n"))
        .env(END, if end == End::Clean { "clean" } else { "kill" })
        .env(ANSWERS, &answers)
        .stdin(Stdio::null())
        .output()
        .expect("start a child");
    let text = fs::read_to_string(&answers).expect("the answers");
    let died = match (end, output.status) {
        (End::Clean, status) => (!status.success()).then(|| describe(status)),
        (_, status) => (status.signal() != Some(libc::SIGKILL)).then(|| describe(status)),
    };
    Run {
        answers: text.lines().map(str::to_owned).collect(),
        died: died.map(|how| {
            let (said, more) = (text_of(&output.stderr), text_of(&output.stdout));
            format!("the process ended by {how}\n{said}{more}")
        }),
    }
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(libc::SIGALRM) => format!("the alarm after {CHILD_SECONDS} s: it hangs"),
        Some(signal) => format!("signal {signal}"),
        None => format!("exit {}", status.code().unwrap_or(-1)),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn child() {
    // Not a test: the process in which a trace's calls are made. Returns at once in an ordinary run.
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let calls = std::env::var(OPS).expect("the calls");
    let answers = std::env::var_os(ANSWERS).expect("a file for the answers");
    let mut answers = fs::OpenOptions::new()
        .append(true)
        .open(answers)
        .expect("the answers");
    // SAFETY: no memory is involved. Nobody else sets an alarm in this process.
    unsafe { libc::alarm(CHILD_SECONDS) };
    work(Path::new(&path), &calls, &mut |answer| {
        writeln!(answers, "{answer}").expect("write an answer");
    });
    if std::env::var_os(END).as_deref() == Some(OsStr::new("kill")) {
        // SAFETY: ends this process, as the trace asks.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// Makes the calls, on one handle at a time, and gives one answer for each.
fn work(path: &Path, calls: &str, answer: &mut dyn FnMut(String)) {
    let mut handle: Option<Handle> = None;
    for call in calls.lines() {
        let words: Vec<&str> = call.split(' ').collect();
        let said = match (words.as_slice(), &handle) {
            (["open", mode, write_mode, key, value, table @ ..], _) => {
                // A handle that failed to open, or stays open, is given up as the middleware gives it up.
                if let Some(old) = handle.take() {
                    old.leak();
                }
                let new = Handle::new(path);
                let sizes = Sizes {
                    table: table
                        .first()
                        .map_or(510, |t| t.parse().expect("a table size")),
                    key: key.parse().expect("a key size"),
                    value: value.parse().expect("a value size"),
                };
                let rc = new.open(mode_of(mode), mode_of(write_mode), sizes);
                handle = Some(new);
                match missing_object(path).filter(|_| rc == 0) {
                    Some(tail) => format!("?open without a {tail}"),
                    None => rc.to_string(),
                }
            }
            // No command of the traces: for the test that looks whether a death is noticed.
            (["die"], _) => std::process::exit(3),
            (words, Some(handle)) => made(handle, words),
            (_, None) => "?not open".to_owned(),
        };
        answer(said);
    }
    // No close that the trace does not ask for.
    if let Some(handle) = handle {
        handle.leak();
    }
}

fn mode_of(word: &str) -> c_int {
    match word {
        "RDONLY" => ffi::RDONLY,
        "RDWR" => ffi::RDWR,
        "RWCREAT" => ffi::RWCREAT,
        "RWREPLACE" => ffi::RWREPLACE,
        "WT" => ffi::WT,
        "WC" => ffi::WC,
        other => panic!("no mode: {other}"),
    }
}

/// The middleware's own tests look for these while a database is open.
fn missing_object(path: &Path) -> Option<&'static str> {
    if !support::semaphore_exists(path) {
        return Some("-sem");
    }
    ["-shm-info", "-ht"]
        .into_iter()
        .find(|tail| !support::object_exists(path, tail))
}

/// The answer to one call on an open handle, in the words of the traces.
fn made(handle: &Handle, words: &[&str]) -> String {
    match words {
        ["put", key, value] => match handle.put(&key_of(key), &value_of(value)) {
            (0, written) => format!("0 {written}"),
            (rc, _) => rc.to_string(),
        },
        ["get", key] => got(handle, key, ffi::VALUE_ROOM),
        ["get", key, room] => got(handle, key, room.parse().expect("a buffer size")),
        ["del", key] => handle.delete(&key_of(key)).0.to_string(),
        ["fill" | "check" | "empty" | "drop", from, to, len @ ..] => {
            let (from, to) = (
                from.parse().expect("a number"),
                to.parse().expect("a number"),
            );
            let len = len.first().map_or(0, |n| n.parse().expect("a length"));
            let good = |db: &Plain, i: u64| {
                let (key, value) = (support::key(i), support::value(i, len));
                match words[0] {
                    "fill" => db.put(&key, &value) == (0, i32::try_from(len).expect("a length")),
                    "check" => db.get(&key) == Ok(value),
                    "empty" => db.get(&key) == Err(1),
                    _ => db.delete(&key).0 == 0,
                }
            };
            let all = |db: &Plain| (from..to).filter(|&i| good(db, i)).count();
            handle.locked(all).to_string()
        }
        ["list"] => handle.locked(list),
        ["close"] => handle.close().to_string(),
        _ => "?unknown".to_owned(),
    }
}

fn got(handle: &Handle, key: &str, room: usize) -> String {
    let got = handle.get_into(&key_of(key), room);
    if got.rc != 0 {
        return got.rc.to_string();
    }
    let value = got.buffer.get(..got.size as usize);
    if value.is_none() && got.buffer.iter().any(|&b| b != ffi::UNTOUCHED) {
        return "?too small a buffer was written to".to_owned();
    }
    format!(
        "0 {} {:08x}",
        got.size,
        crc32fast::hash(value.unwrap_or_default())
    )
}

/// Number and checksum of all pairs that the iterator finds. It runs a second time with values, which must be those
/// that get answers, with zeros behind.
fn list(db: &Plain) -> String {
    let (keys, pairs) = match (db.keys(), db.pairs()) {
        (Ok(keys), Ok(pairs)) => (keys, pairs),
        (Err(rc), _) | (_, Err(rc)) => return rc.to_string(),
    };
    if !keys.iter().eq(pairs.iter().map(|(key, _)| key)) {
        return "?the iterator finds other keys with values than without".to_owned();
    }
    // SAFETY: a plain read of our own struct while it is open.
    let value_size = unsafe { (*db.as_ptr()).valSize } as usize;
    let mut found = std::collections::BTreeMap::new();
    for (key, mut buffer) in pairs {
        let Ok(value) = db.get(&key) else { continue };
        let mut whole = value.clone();
        whole.resize(value_size, 0);
        buffer.truncate(value_size);
        if buffer != whole {
            return format!("?the iterator has another value of {}", key.escape_ascii());
        }
        found.insert(key, value);
    }
    let mut sum = crc32fast::Hasher::new();
    for (key, value) in &found {
        sum.update(key);
        sum.update(&[0]);
        sum.update(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        sum.update(value);
    }
    format!("{} {:08x}", keys.len(), sum.finalize())
}

/// A key as a trace writes it: `key(N)`, or text with %NN escapes.
fn key_of(word: &str) -> Vec<u8> {
    let numbered = word.strip_prefix("key(").and_then(|w| w.strip_suffix(')'));
    if let Some(n) = numbered.and_then(|n| n.parse().ok()) {
        return support::key(n);
    }
    let (mut key, mut rest) = (Vec::new(), word);
    while let Some(c) = rest.chars().next() {
        let escaped = rest
            .strip_prefix('%')
            .and_then(|r| u8::from_str_radix(r.get(..2)?, 16).ok());
        if let Some(byte) = escaped {
            key.push(byte);
            rest = &rest[3..];
        } else {
            key.extend(c.to_string().as_bytes());
            rest = &rest[c.len_utf8()..];
        }
    }
    key
}

/// SEED:LEN.
fn value_of(word: &str) -> Vec<u8> {
    let (seed, len) = word.split_once(':').expect("SEED:LEN");
    support::value(
        seed.parse().expect("a seed"),
        len.parse().expect("a length"),
    )
}
