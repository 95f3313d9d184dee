//! Random histories against a model, through the C functions, with deaths and reboots (guarantees P1, P3, P5).
//!
//! What happened: several programs used one database, opened and closed it in any order, one was killed, the device was
//! restarted. What the user saw: settings that had been answered as stored were gone, deleted ones came back, an
//! iterator passed keys over or gave them twice.
//!
//! Some processes hold some handles each; a driver tells one of them at a time what to do and compares every answer with
//! a map. A process may be killed between two calls, or while it carries one out; then the call has happened or has not.
//! After each last clean close the file is checked byte by byte and no shared object may be left.
//!
//! `KISSDB_HISTORIES` says how many, `KISSDB_SEED` which; a run prints both. `KISSDB_HISTORY` runs one of them alone and
//! prints its steps.

#[path = "support/made.rs"]
mod made;
#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Rng, Running, mix, number};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Instant;
use support::Scratch;
use support::check::{check, pairs};
use support::ffi::{self, KISSDB_Iterator, Plain, Sizes};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
type Judged<T = ()> = Result<T, String>;

const CHILD: &str = "KISSDB_HISTORIES_CHILD";
/// Processes, and handles in each.
const PROCESSES: usize = 3;
const HANDLES: usize = 2;

// ---------------------------------------------------------------- the child

/// A request is a line of numbers and hexadecimal bytes, an answer too:
///
/// | request | answer |
/// |---|---|
/// | `open H MODE PATH SLOTS KEY VALUE` | code |
/// | `close H` | code |
/// | `put H KEY VALUE` | code, bytes written |
/// | `delete H KEY` | code, bytes deleted |
/// | `get H KEY` | code, value |
/// | `begin H`, `next H` | code, key, value |
/// | `sync H` | code |
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    procs::die_with_the_driver();
    // Nobody listens, but what there is to say of the dead is put into words.
    kissdb::log::set(kissdb::log::Level::Info, |_, _| ());
    let mut handles: Vec<Plain> = (0..HANDLES).map(|_| Plain::new()).collect();
    let mut iterators: Vec<KISSDB_Iterator> = (0..HANDLES)
        .map(|_| KISSDB_Iterator {
            db: std::ptr::null_mut(),
            h_no: 0,
            h_idx: 0,
        })
        .collect();
    let mut out = std::io::stderr();
    for line in std::io::stdin().lines() {
        let line = line.expect("a request");
        let words: Vec<&str> = line.split(' ').collect();
        let h: usize = words[1].parse().expect("a handle");
        let n = |i: usize| words[i].parse::<i64>().expect("a number");
        let db = &mut handles[h];
        let answer = match words[0] {
            "open" => {
                let sizes = Sizes {
                    table: n(4) as u16,
                    key: n(5) as u64,
                    value: n(6) as u64,
                };
                db.open(&PathBuf::from(words[3]), n(2) as i32, ffi::WT, sizes)
                    .to_string()
            }
            "close" => db.close().to_string(),
            "put" => {
                let (rc, written) = db.put(&bytes(words[2]), &bytes(words[3]));
                format!("{rc} {written}")
            }
            "delete" => {
                let (rc, deleted) = db.delete(&bytes(words[2]));
                format!("{rc} {deleted}")
            }
            "get" => match db.get(&bytes(words[2])) {
                Ok(v) => format!("0 {}", hex(&v)),
                Err(rc) => format!("{rc} "),
            },
            "begin" => {
                // SAFETY: both structs live as long as this process.
                unsafe { ffi::KISSDB_Iterator_init(db.as_ptr(), &mut iterators[h]) };
                "0".to_owned()
            }
            "next" => {
                let (mut key, mut value) = ([0u8; 256], vec![0u8; ffi::VALUE_ROOM]);
                // SAFETY: both buffers have room for the largest sizes.
                let rc = unsafe {
                    ffi::KISSDB_Iterator_next(
                        &mut iterators[h],
                        key.as_mut_ptr().cast(),
                        value.as_mut_ptr().cast(),
                    )
                };
                let end = value.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
                let key = key.split(|&b| b == 0).next().unwrap_or_default();
                format!("{rc} {} {}", hex(key), hex(&value[..end]))
            }
            _ => {
                // SAFETY: a descriptor of ours.
                unsafe { libc::fdatasync(db.fd()) }.to_string()
            }
        };
        out.write_all(format!("{answer}\n").as_bytes())
            .expect("an answer");
    }
    // Told to go without a close: as a death.
    handles.into_iter().for_each(Plain::leak);
    std::process::exit(0);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).expect("a digit") as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|c| digit(c[0]) << 4 | digit(c[1]))
        .collect()
}

// ---------------------------------------------------------------- the driver

struct Process {
    running: Running,
    to: ChildStdin,
    from: BufReader<std::process::ChildStderr>,
    /// What the test program prints.
    _rest: Option<ChildStdout>,
    open: [Option<Open>; HANDLES],
}

/// What the driver knows of an open handle.
struct Open {
    writable: bool,
    iterating: Option<Iteration>,
}

/// An iteration under way: keys that were there all the time, and those that came.
struct Iteration {
    throughout: BTreeSet<Vec<u8>>,
    /// Keys that were there at some time of it.
    ever: BTreeSet<Vec<u8>>,
    came: Vec<Vec<u8>>,
}

impl Process {
    fn start() -> Process {
        let mut command = procs::child(CHILD, "1");
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(&mut command);
        let child = running.child();
        Process {
            to: child.stdin.take().expect("its input"),
            from: BufReader::new(child.stderr.take().expect("its answers")),
            _rest: child.stdout.take(),
            running,
            open: [const { None }; HANDLES],
        }
    }

    fn send(&mut self, request: &str) {
        // A dead one is noticed when its answer is missing.
        let _ = self.to.write_all(format!("{request}\n").as_bytes());
    }

    fn answer(&mut self) -> Judged<String> {
        let mut line = String::new();
        let n = self.from.read_line(&mut line).unwrap_or(0);
        if n == 0 || !line.ends_with('\n') {
            return Err(format!(
                "a process ended: {}",
                procs::how(self.running.wait())
            ));
        }
        Ok(line.trim_end_matches('\n').to_owned())
    }

    fn kill(&mut self) {
        self.running.kill();
        // What it had answered already stays in the pipe.
        let mut rest = Vec::new();
        let _ = self.from.read_to_end(&mut rest);
        self.open = [const { None }; HANDLES];
    }
}

/// How a history went: figures for the last line.
#[derive(Default)]
struct Counts {
    calls: u64,
    kills: u64,
    reboots: u64,
    clean: u64,
}

struct History<'a> {
    rng: Rng,
    processes: Vec<Process>,
    scratch: &'a Scratch,
    path: PathBuf,
    sizes: Sizes,
    keys: u64,
    model: Model,
    steps: Vec<String>,
    counts: Counts,
    /// Somebody has made the file.
    exists: bool,
    /// All users have died, and nobody who may write has opened it since.
    left_open: bool,
}

const SIZES: [(u16, u64, u64); 6] = [
    (510, 128, 8028),
    (510, 64, 212),
    (3, 128, 8028),
    (3, 64, 212),
    (1, 128, 300),
    (17, 128, 8028),
];

impl History<'_> {
    fn tell(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn key(&mut self) -> Vec<u8> {
        let keys = self.keys;
        let mut key = made::key(&mut self.rng, keys);
        // An iterator of a 64/212 database gives 64 bytes of a key.
        key.truncate(self.sizes.key.min(127) as usize);
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let room = self.sizes.value as usize;
        let room = if self.rng.one_in(3) {
            room
        } else {
            room.min(400)
        };
        made::value(&mut self.rng, room)
    }

    fn somebody(&mut self) -> (usize, usize) {
        let p = self.rng.below(PROCESSES as u64) as usize;
        (p, self.rng.below(HANDLES as u64) as usize)
    }

    fn users(&self) -> usize {
        let handles = self.processes.iter().flat_map(|p| &p.open);
        handles.filter(|h| h.is_some()).count()
    }

    fn call(&mut self, p: usize, request: &str) -> Judged<String> {
        self.counts.calls += 1;
        let shown: String = request.chars().take(90).collect();
        self.steps.push(format!("{p}: {shown}"));
        self.processes[p].send(request);
        let answer = self.processes[p].answer()?;
        let shown: String = answer.chars().take(60).collect();
        if let Some(step) = self.steps.last_mut() {
            let _ = write!(step, " -> {shown}");
        }
        Ok(answer)
    }

    /// The file, which is there, in the first place of a process that has none open.
    fn open_to_write(&mut self, p: usize) -> Judged {
        let Sizes { table, key, value } = self.sizes;
        let (path, mode) = (self.path.display(), ffi::RDWR);
        let request = format!("open 0 {mode} {path} {table} {key} {value}");
        self.expect(p, &request, "0")?;
        self.left_open = false;
        self.processes[p].open[0] = Some(Open {
            writable: true,
            iterating: None,
        });
        Ok(())
    }

    fn expect(&mut self, p: usize, request: &str, want: &str) -> Judged {
        let got = self.call(p, request)?;
        if got == want {
            return Ok(());
        }
        let cut = |s: &str| s.chars().take(100).collect::<String>();
        Err(format!("answers {} instead of {}", cut(&got), cut(want)))
    }

    fn step(&mut self) -> Judged {
        let (p, h) = self.somebody();
        if self.rng.one_in(60) {
            return self.reboot();
        }
        if self.rng.one_in(25) {
            return self.kill(p);
        }
        if self.processes[p].open[h].is_none() {
            return self.open(p, h);
        }
        match self.rng.below(40) {
            0..=1 => self.close(p, h),
            2..=15 => self.put(p, h),
            16..=21 => self.delete(p, h),
            22..=28 => self.get(p, h),
            29..=36 => self.next(p, h),
            37 => self.killed_in_a_call(p, h),
            38 => self.refused(p, h),
            _ => self.expect(p, &format!("sync {h}"), "0"),
        }
    }

    fn open(&mut self, p: usize, h: usize) -> Judged {
        let Sizes { table, key, value } = self.sizes;
        let mode = match self.rng.below(10) {
            0..=1 => ffi::RDONLY,
            2..=4 => ffi::RDWR,
            5 => ffi::RWREPLACE,
            _ => ffi::RWCREAT,
        };
        let users = self.users();
        let want = match mode {
            ffi::RWREPLACE if users > 0 => ffi::ERROR_ACCESS_VIOLATION,
            ffi::RDONLY | ffi::RDWR if !self.exists => ffi::ERROR_IO,
            _ => 0,
        };
        let path = self.path.display().to_string();
        let request = format!("open {h} {mode} {path} {table} {key} {value}");
        self.expect(p, &request, &want.to_string())?;
        if want == 0 {
            if mode == ffi::RWREPLACE {
                self.model.clear();
            }
            self.exists = true;
            self.left_open &= mode == ffi::RDONLY;
            self.processes[p].open[h] = Some(Open {
                writable: mode != ffi::RDONLY,
                iterating: None,
            });
        }
        Ok(())
    }

    fn close(&mut self, p: usize, h: usize) -> Judged {
        self.expect(p, &format!("close {h}"), "0")?;
        self.processes[p].open[h] = None;
        if self.users() == 0 {
            return self.closed();
        }
        Ok(())
    }

    /// After the last close.
    fn closed(&mut self) -> Judged {
        let left = self.scratch.objects();
        if !left.is_empty() {
            return Err(format!("after the last close there are {left:?}"));
        }
        if self.left_open {
            // Nobody was there who may write.
            return Ok(());
        }
        self.counts.clean += 1;
        let file = std::fs::read(&self.path).map_err(|e| e.to_string())?;
        let findings = check(&file, true);
        if !findings.is_empty() {
            return Err(format!("after the last close: {findings:?}"));
        }
        if pairs(&file) != self.model {
            return Err("after the last close: the file holds other pairs".to_owned());
        }
        Ok(())
    }

    fn writes(&self, p: usize, h: usize) -> bool {
        self.processes[p].open[h]
            .as_ref()
            .is_some_and(|o| o.writable)
    }

    fn put(&mut self, p: usize, h: usize) -> Judged {
        let (key, value) = (self.key(), self.value());
        let request = format!("put {h} {} {}", hex(&key), hex(&value));
        if !self.writes(p, h) {
            return self.expect(p, &request, &format!("{} 0", ffi::ERROR_ACCESS_VIOLATION));
        }
        self.expect(p, &request, &format!("0 {}", value.len()))?;
        self.put_happened(key, value);
        Ok(())
    }

    fn iterations(&mut self) -> impl Iterator<Item = &mut Iteration> {
        let handles = self.processes.iter_mut().flat_map(|p| &mut p.open);
        handles.flatten().filter_map(|o| o.iterating.as_mut())
    }

    fn put_happened(&mut self, key: Vec<u8>, value: Vec<u8>) {
        for it in self.iterations() {
            it.ever.insert(key.clone());
        }
        self.model.insert(key, value);
    }

    fn delete_happened(&mut self, key: &[u8]) {
        for it in self.iterations() {
            it.throughout.remove(key);
        }
        self.model.remove(key);
    }

    fn delete(&mut self, p: usize, h: usize) -> Judged {
        let key = self.key();
        let request = format!("delete {h} {}", hex(&key));
        if !self.writes(p, h) {
            let answer = self.call(p, &request)?;
            return if answer.starts_with("-5 ") {
                Ok(())
            } else {
                Err(format!("a delete on a read-only handle answers {answer}"))
            };
        }
        let want = if self.model.contains_key(&key) {
            "0 0".to_owned()
        } else {
            format!("1 {}", ffi::NOTHING_DELETED)
        };
        self.expect(p, &request, &want)?;
        self.delete_happened(&key);
        Ok(())
    }

    fn get(&mut self, p: usize, h: usize) -> Judged {
        let key = self.key();
        let want = match self.model.get(&key) {
            Some(v) => format!("0 {}", hex(v)),
            None => "1 ".to_owned(),
        };
        self.expect(p, &format!("get {h} {}", hex(&key)), &want)
    }

    /// Arguments out of range are refused and change nothing.
    fn refused(&mut self, p: usize, h: usize) -> Judged {
        let rc = if self.writes(p, h) {
            ffi::ERROR_INVALID_PARAMETERS
        } else {
            ffi::ERROR_ACCESS_VIOLATION
        };
        let long = vec![b'l'; 128 + self.rng.below(60) as usize];
        let (key, size) = match self.rng.below(3) {
            0 => (Vec::new(), 1),
            1 => (long, 1),
            _ => (self.key(), self.sizes.value as usize + 1),
        };
        let request = format!("put {h} {} {}", hex(&key), hex(&vec![7; size]));
        let answer = self.call(p, &request)?;
        if answer == format!("{} 0", ffi::ERROR_INVALID_PARAMETERS) || answer == format!("{rc} 0") {
            return Ok(());
        }
        Err(format!("a bad put answers {answer}"))
    }

    /// The next entry of the handle's iteration, or a new one.
    fn next(&mut self, p: usize, h: usize) -> Judged {
        let all: BTreeSet<Vec<u8>> = self.model.keys().cloned().collect();
        let Some(open) = &mut self.processes[p].open[h] else {
            return Ok(());
        };
        if open.iterating.is_none() {
            open.iterating = Some(Iteration {
                throughout: all.clone(),
                ever: all,
                came: Vec::new(),
            });
            self.expect(p, &format!("begin {h}"), "0")?;
        }
        for _ in 0..=self.rng.below(4) {
            let answer = self.call(p, &format!("next {h}"))?;
            let words: Vec<&str> = answer.split(' ').collect();
            let it = self.processes[p].open[h]
                .as_mut()
                .and_then(|o| o.iterating.as_mut());
            let Some(it) = it else { return Ok(()) };
            if words[0] == "0" {
                let came: BTreeSet<&Vec<u8>> = it.came.iter().collect();
                let missing: Vec<&Vec<u8>> =
                    it.throughout.iter().filter(|k| !came.contains(k)).collect();
                if let Some(key) = missing.first() {
                    return Err(format!("an iteration passed {} over", key.escape_ascii()));
                }
                if let Some(o) = &mut self.processes[p].open[h] {
                    o.iterating = None;
                }
                return Ok(());
            }
            if words[0] != "1" {
                return Err(format!("an iteration answers {answer}"));
            }
            let (key, value) = (bytes(words[1]), bytes(words[2]));
            if it.throughout.contains(&key) && it.came.contains(&key) {
                return Err(format!("an iteration gives {} twice", key.escape_ascii()));
            }
            if !it.ever.contains(&key) {
                return Err(format!("an iteration gives {}", key.escape_ascii()));
            }
            it.came.push(key.clone());
            let want = self.model.get(&key).map(|v| {
                let end = v.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
                v[..end].to_vec()
            });
            if want != Some(value) {
                return Err(format!(
                    "an iteration gives another value of {}",
                    key.escape_ascii()
                ));
            }
        }
        Ok(())
    }

    fn kill(&mut self, p: usize) -> Judged {
        self.counts.kills += 1;
        self.tell(format!("{p} is killed"));
        self.processes[p].kill();
        self.processes[p] = Process::start();
        self.left_open |= self.exists && self.users() == 0;
        Ok(())
    }

    /// A call is sent and its process killed at once or a little later. It has happened or it has not.
    fn killed_in_a_call(&mut self, p: usize, h: usize) -> Judged {
        if !self.writes(p, h) {
            return Ok(());
        }
        let key = self.key();
        let value = (!self.rng.one_in(3)).then(|| self.value());
        let request = match &value {
            Some(v) => format!("put {h} {} {}", hex(&key), hex(v)),
            None => format!("delete {h} {}", hex(&key)),
        };
        let shown: String = request.chars().take(90).collect();
        self.tell(format!("{p}: {shown}, and is killed"));
        self.counts.kills += 1;
        self.processes[p].send(&request);
        let wait = self.rng.below(120);
        let until = procs::now() + wait * 1000;
        while procs::now() < until {
            std::hint::spin_loop();
        }
        self.processes[p].kill();
        self.processes[p] = Process::start();
        self.left_open |= self.users() == 0;
        // Somebody else looks.
        let mut other = None;
        for (q, process) in self.processes.iter().enumerate() {
            other = other.or_else(|| {
                process
                    .open
                    .iter()
                    .position(|o| o.is_some())
                    .map(|h| (q, h))
            });
        }
        let (q, h) = match other {
            Some(other) => other,
            None => {
                self.open_to_write(p)?;
                (p, 0)
            }
        };
        let answer = self.call(q, &format!("get {h} {}", hex(&key)))?;
        let told = |v: Option<&Vec<u8>>| v.map_or("1 ".to_owned(), |v| format!("0 {}", hex(v)));
        let (before, after) = (told(self.model.get(&key)), told(value.as_ref()));
        if answer != before && answer != after {
            return Err(format!(
                "after a death in a call on {} neither the old nor the new value is there",
                key.escape_ascii()
            ));
        }
        if answer == after {
            match value {
                Some(v) => self.put_happened(key, v),
                None => self.delete_happened(&key),
            }
        }
        Ok(())
    }

    /// Everybody dies, and what was in shared memory is gone.
    fn reboot(&mut self) -> Judged {
        self.counts.reboots += 1;
        self.tell("reboot");
        for p in &mut self.processes {
            p.kill();
            *p = Process::start();
        }
        self.scratch.wipe_objects();
        self.left_open = self.exists;
        Ok(())
    }

    fn end(&mut self) -> Judged {
        for p in 0..PROCESSES {
            for h in 0..HANDLES {
                if self.processes[p].open[h].is_some() {
                    self.close(p, h)?;
                }
            }
        }
        if self.exists {
            // Whoever was the last one may have been killed, or may not write.
            self.open_to_write(0)?;
            self.close(0, 0)?;
        }
        Ok(())
    }
}

/// One history with processes that are reused for the next one.
fn run(
    scratch: &Scratch,
    processes: Vec<Process>,
    seed: u64,
    n: u64,
) -> (Judged, Vec<Process>, Vec<String>, Counts) {
    let mut rng = Rng(mix(seed.wrapping_mul(0x1000_0001) ^ mix(n)));
    let (table, key, value) = SIZES[rng.below(SIZES.len() as u64) as usize];
    let keys = 3 + rng.below(14);
    let steps = 10 + rng.below(60);
    let mut history = History {
        rng,
        processes,
        scratch,
        path: scratch.db(&format!("{n}.db")),
        sizes: Sizes { table, key, value },
        keys,
        model: Model::new(),
        steps: vec![format!("{table}/{key}/{value}, {keys} keys")],
        counts: Counts::default(),
        exists: false,
        left_open: false,
    };
    let judged = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            history.step()?;
        }
        history.end()
    }))
    .unwrap_or_else(|_| Err("the driver failed".to_owned()));
    let _ = std::fs::remove_file(&history.path);
    (judged, history.processes, history.steps, history.counts)
}

fn fresh() -> Vec<Process> {
    (0..PROCESSES).map(|_| Process::start()).collect()
}

fn directory() -> Scratch {
    Scratch::below(procs::lasting_directory())
}

#[test]
fn against_a_model() {
    let seed = number("KISSDB_SEED", 1);
    // An unoptimised build is too slow for more. Only its directory tells: the profile of the tests has assertions too.
    let exe = std::env::current_exe().unwrap_or_default();
    let debug = exe.components().any(|c| c.as_os_str() == "debug");
    let default = if debug { 300 } else { 2_000 };
    let (first, runs) = match std::env::var_os("KISSDB_HISTORY") {
        Some(_) => (number("KISSDB_HISTORY", 0), number("KISSDB_HISTORY", 0) + 1),
        None => (0, number("KISSDB_HISTORIES", default)),
    };
    let scratch = directory();
    let started = Instant::now();
    let mut all = Counts::default();
    let mut processes = fresh();
    let mut findings = Vec::new();
    for n in first..runs {
        let (judged, reused, steps, counts) = run(&scratch, processes, seed, n);
        processes = reused;
        all.calls += counts.calls;
        all.kills += counts.kills;
        all.reboots += counts.reboots;
        all.clean += counts.clean;
        if first > 0 || runs == 1 {
            println!("{}", steps.join("\n"));
        }
        if let Err(finding) = judged {
            findings.push(format!(
                "{finding}\n  {}\n  again: KISSDB_SEED={seed} KISSDB_HISTORY={n} cargo test --release --test histories \
                 -- --nocapture",
                steps.join("\n  ")
            ));
            processes = fresh();
            scratch.wipe_objects();
            if findings.len() >= 5 {
                break;
            }
        }
    }
    println!(
        "{} histories, seed {seed}, {:.1} s: {} calls, {} deaths, {} reboots, {} last closes checked",
        runs - first,
        started.elapsed().as_secs_f64(),
        all.calls,
        all.kills,
        all.reboots,
        all.clean
    );
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
}

/// The model is a judge only if it can say no: a value changed behind everybody's back is found.
#[test]
fn a_changed_value_is_found() {
    let scratch = directory();
    let mut processes = fresh();
    let path = scratch.db("changed.db");
    let spelt = path.display().to_string();
    let say = |p: &mut Process, request: &str| {
        p.send(request);
        p.answer().expect("an answer")
    };
    let p = &mut processes[0];
    assert_eq!(say(p, &format!("open 0 3 {spelt} 510 128 8028")), "0");
    assert_eq!(say(p, "put 0 6161 626262"), "0 3");
    assert_eq!(say(p, "close 0"), "0");
    let mut model = Model::new();
    model.insert(b"aa".to_vec(), b"bbb".to_vec());
    let read = |path: &Path| pairs(&std::fs::read(path).expect("the file"));
    assert_eq!(read(&path), model);
    assert_eq!(say(p, &format!("open 0 3 {spelt} 510 128 8028")), "0");
    assert_eq!(say(p, "put 0 6161 626263"), "0 3");
    assert_eq!(say(p, "close 0"), "0");
    assert_ne!(read(&path), model);
}
