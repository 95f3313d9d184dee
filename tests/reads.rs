//! Reads beside writers: what a get or an iteration answers was there at one moment.
//!
//! What happened: while one program stored settings, others read them. A read copies a value without waiting for the
//! writer. What a user must never see: half of one value and half of another, a value that is older than one that he
//! has seen before or whose put has ended, no value for a key that was there all the time, or the value of another key.
//!
//! Writers overwrite, delete and put again, through handles of their own that they open and close, so that records are
//! used again for other keys and the file is settled under the readers. Each value tells which key it belongs to and how
//! often that was changed, and is filled with bytes that follow from both.
//!
//! `KISSDB_READS_MS` says for how long, 1250 in each scenario and on each medium unless told.

#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Rng, number};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};
use support::Scratch;
use support::ffi::{self, Plain, RDONLY, RDWR, SETTINGS};

/// Keys that are there all the time; keys that come and go.
const STEADY: u64 = 4;
const BLINKING: u64 = 4;

/// All keys are of a few slots, so that they share chains and the places of deleted ones.
fn keys() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let slot = |key: &[u8]| {
        let hash = |h: u64, b: &u8| h.wrapping_mul(33).wrapping_add(u64::from(*b));
        key.iter().fold(5381, hash) % 510
    };
    let of_slots = |stem: &str, n: u64| -> Vec<Vec<u8>> {
        let all = (0..).map(|i| format!("/{stem}/{i}").into_bytes());
        all.filter(|k| slot(k) < 3).take(n as usize).collect()
    };
    (of_slots("steady", STEADY), of_slots("blinking", BLINKING))
}

/// The `n`-th value of a key: its name, the number, and bytes of both, in lengths that are kept by who has read them, or span one
/// sector, or several.
fn value(key: &[u8], n: u64) -> Vec<u8> {
    let mut v = vec![key.len() as u8];
    v.extend(key);
    v.extend(n.to_le_bytes());
    let len = [7800, 24, 5000, 40, 8, 700, 7000, 64][(n % 8) as usize];
    v.extend((0..len).map(|i| (n as u8) ^ (i as u8).wrapping_mul(31)));
    v
}

/// The number of a value that `key` can have; panics if it is none.
fn judge(key: &[u8], found: &[u8]) -> u64 {
    let name = key.escape_ascii();
    let n = 1 + key.len();
    assert_eq!(
        found.get(1..n),
        Some(key),
        "{name}: the value of another key"
    );
    let number = u64::from_le_bytes(found[n..n + 8].try_into().expect("8 bytes"));
    assert!(found == value(key, number), "{name}: a torn value");
    number
}

struct Stage {
    scratch: Scratch,
    over: AtomicBool,
    reads: AtomicU64,
    /// The number of the last value of each steady key whose put has ended.
    put: [AtomicU64; STEADY as usize],
    /// What each blinking key was given last, begun and ended: twice the number of the value, and one more for its delete.
    given: [[AtomicU64; 2]; BLINKING as usize],
}

impl Stage {
    fn path(&self) -> std::path::PathBuf {
        self.scratch.db("reads.db")
    }

    /// Gets a blinking key: a value that it has been given, and that it had not lost before the call, or nothing.
    fn look(&self, db: &Plain, n: u64, key: &[u8]) {
        let [begun, ended] = &self.given[n as usize];
        let before = ended.load(Acquire);
        let found = db.get(key);
        let after = begun.load(Acquire);
        let name = key.escape_ascii();
        let known = format!("{name}: given {before} before, {after} behind");
        match found {
            Ok(found) => {
                let number = judge(key, &found);
                assert!(
                    (before..=after).contains(&(2 * number)),
                    "{known}: {number}"
                );
            }
            Err(rc) => {
                assert_eq!(rc, 1, "{name}");
                assert!(
                    before == 0 || before % 2 == 1 || after != before,
                    "{known}: gone"
                );
            }
        }
    }

    /// Overwrites, deletes and puts until it is over, and looks at the keys of others; each life of its handle has `calls` of them. Only one writer has
    /// the numbers of a key.
    fn write(&self, path: &Path, calls: u64, mine: impl Fn(u64) -> bool, seed: u64) {
        let (steady, blinking) = keys();
        let mut rng = Rng(seed);
        let mut numbers = BTreeMap::new();
        while !self.over.load(Relaxed) {
            let db = Plain::opened(path, RDWR, SETTINGS).expect("opens");
            for _ in 0..rng.below(calls) {
                let (n, both) = (rng.below(STEADY), rng.below(BLINKING));
                if rng.one_in(3) && mine(both) {
                    let key = &blinking[both as usize];
                    let [begun, ended] = &self.given[both as usize];
                    let last = ended.load(Relaxed);
                    if rng.one_in(2) {
                        begun.store(last | 1, Release);
                        let rc = db.delete(key).0;
                        let there = last % 2 == 0 && last != 0;
                        assert_eq!(rc, i32::from(!there), "delete of what was given {last}");
                    } else {
                        let number = last / 2 + 1;
                        begun.store(2 * number, Release);
                        assert_eq!(db.put(key, &value(key, number)).0, 0);
                    }
                    ended.store(begun.load(Relaxed), Release);
                } else if !mine(both) {
                    self.look(&db, both, &blinking[both as usize]);
                } else if mine(n) {
                    let key = &steady[n as usize];
                    let number = numbers.entry(key.clone()).or_insert(0);
                    *number += 1;
                    assert_eq!(db.put(key, &value(key, *number)).0, 0);
                    self.put[n as usize].store(*number, Release);
                }
            }
            assert_eq!(db.close(), 0);
        }
    }

    /// Gets and iterates until it is over.
    fn read(&self, db: &Plain, seed: u64) {
        let (steady, blinking) = keys();
        let mut rng = Rng(seed);
        let mut seen = BTreeMap::new();
        let mut judge = |key: &[u8], found: &[u8]| {
            let number = judge(key, found);
            let last = seen.insert(key.to_vec(), number);
            let name = key.escape_ascii();
            assert!(
                last.is_none_or(|l| l <= number),
                "{name}: {last:?}, then {number}"
            );
            self.reads.fetch_add(1, Relaxed);
            number
        };
        while !self.over.load(Relaxed) {
            for _ in 0..200 {
                let n = rng.below(STEADY) as usize;
                let key = &steady[n];
                let put = self.put[n].load(Acquire);
                let found = db.get(key);
                let found = found.unwrap_or_else(|rc| panic!("{}: {rc}", key.escape_ascii()));
                let number = judge(key, &found);
                let name = key.escape_ascii();
                assert!(
                    number >= put,
                    "{name}: {number}, but {put} was there before"
                );
                let n = rng.below(BLINKING);
                self.look(db, n, &blinking[n as usize]);
                assert_eq!(db.get(b"/never"), Err(1));
            }
            let mut times = BTreeMap::new();
            for (key, mut buffer) in db.pairs().expect("iterates") {
                // A value ends where its key says, behind it there are zeros.
                let number =
                    u64::from_le_bytes(buffer[1 + key.len()..][..8].try_into().expect("8"));
                let len = value(&key, number).len();
                assert!(buffer[len..SETTINGS.value as usize].iter().all(|&b| b == 0));
                buffer.truncate(len);
                judge(&key, &buffer);
                *times.entry(key).or_insert(0) += 1;
            }
            for key in &steady {
                assert_eq!(times.get(key), Some(&1), "{}", key.escape_ascii());
            }
        }
    }
}

/// A database with all steady keys, on memory and on a disk; `play` runs until the time is over. On memory a sync is
/// quick, so that the same copy is soon written again; on a disk values are in the redo log.
fn stage(play: impl Fn(&Stage)) {
    for directory in [procs::fast_directory(), procs::lasting_directory()] {
        let stage = Stage {
            scratch: Scratch::below(directory),
            over: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            put: Default::default(),
            given: Default::default(),
        };
        let db = Plain::opened(&stage.path(), ffi::RWCREAT, SETTINGS).expect("opens");
        for key in keys().0 {
            assert_eq!(db.put(&key, &value(&key, 0)).0, 0);
        }
        assert_eq!(db.close(), 0);
        play(&stage);
        let db = Plain::opened(&stage.path(), RDONLY, SETTINGS).expect("opens");
        for key in keys().0 {
            judge(&key, &db.get(&key).expect("is there"));
        }
        assert_eq!(db.close(), 0);
        assert_eq!(stage.scratch.objects(), [""; 0]);
        let reads = stage.reads.load(Relaxed);
        println!("{reads} reads");
        assert!(reads > 100, "the readers hardly came to read");
    }
}

/// Ends the play when the time is over or a thread has panicked.
fn wait(stage: &Stage, threads: &[std::thread::ScopedJoinHandle<()>]) {
    let end = Instant::now() + Duration::from_millis(number("KISSDB_READS_MS", 1250));
    while Instant::now() < end && !threads.iter().any(|t| t.is_finished()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    stage.over.store(true, Relaxed);
}

#[test]
fn values_are_of_one_moment() {
    // Two writers whose handles live long, two readers with a handle each, and two that share one that may write.
    stage(|stage| {
        let path = &stage.path();
        let shared = Plain::opened(path, RDWR, SETTINGS).expect("opens");
        std::thread::scope(|s| {
            let shared = &shared;
            let mut threads = Vec::new();
            for w in 0..2 {
                threads.push(s.spawn(move || stage.write(path, 20_000, |n| n % 2 == w, 100 + w)));
            }
            for r in 0..2 {
                threads.push(s.spawn(move || {
                    let db = Plain::opened(path, RDONLY, SETTINGS).expect("opens");
                    stage.read(&db, 200 + r);
                    assert_eq!(db.close(), 0);
                }));
                threads.push(s.spawn(move || stage.read(shared, 300 + r)));
            }
            wait(stage, &threads);
        });
        assert_eq!(shared.close(), 0);
    });
}

#[test]
fn a_file_is_settled_under_its_readers() {
    // The only writer opens and closes all the time: its close brings the other copies up to date and empties deleted
    // ones, in records that readers may be about to copy.
    stage(|stage| {
        let path = &stage.path();
        std::thread::scope(|s| {
            let mut threads = vec![s.spawn(move || stage.write(path, 40, |_| true, 400))];
            for r in 0..3 {
                threads.push(s.spawn(move || {
                    let db = Plain::opened(path, RDONLY, SETTINGS).expect("opens");
                    stage.read(&db, 500 + r);
                    assert_eq!(db.close(), 0);
                }));
            }
            wait(stage, &threads);
        });
    });
}

/// Whether files there are on memory.
fn is_memory(directory: &Path) -> bool {
    let path = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: a C string and a zeroed place for the answer, plain numbers.
    let (rc, fs) = unsafe {
        let mut fs: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &mut fs), fs)
    };
    rc == 0 && fs.f_type as u64 == libc::TMPFS_MAGIC as u64
}

#[test]
fn a_log_is_kept_where_a_sync_costs_something() {
    // The second value of a key between two syncs would wait for one. On a disk it goes into the log; on memory, where
    // nothing outlives a power cut, there is nothing to wait for, and no log that has to be emptied.
    for directory in [procs::fast_directory(), procs::lasting_directory()] {
        let logs = !is_memory(&directory);
        let scratch = Scratch::below(directory);
        let path = scratch.db("a.db");
        let db = Plain::opened(&path, ffi::RWCREAT, SETTINGS).expect("opens");
        assert_eq!(db.put(b"/a", b"1").0, 0);
        assert_eq!(db.close(), 0);
        let db = Plain::opened(&path, RDWR, SETTINGS).expect("opens");
        for value in [b"2", b"3", b"4"] {
            assert_eq!(db.put(b"/a", value).0, 0);
        }
        let bytes = std::fs::read(&path).expect("the file");
        let log = (kissdb::format::PAGE + kissdb::format::table::LOG) as usize;
        assert_eq!(bytes[log..log + 8] != [0; 8], logs, "{}", path.display());
        assert_eq!(db.get(b"/a"), Ok(b"4".to_vec()));
        assert_eq!(db.close(), 0);
    }
}

#[test]
fn what_a_handle_remembers_of_a_pair_others_may_change() {
    // One handle had seen a record whole. Another deleted it and stored it again, which leaves the ends of the record for
    // the close; the first one closed last and believed that they were as it had seen them: the file said that it was
    // closed and its record ended as a deleted one.
    let scratch = Scratch::new();
    let path = scratch.db("a.db");
    let db = Plain::opened(&path, ffi::RWCREAT, SETTINGS).expect("opens");
    assert_eq!(db.put(b"/a", b"1").0, 0);
    assert_eq!(db.close(), 0);
    let first = Plain::opened(&path, RDWR, SETTINGS).expect("opens");
    assert_eq!(first.get(b"/a"), Ok(b"1".to_vec()));
    let second = Plain::opened(&path, RDWR, SETTINGS).expect("opens");
    assert_eq!(second.delete(b"/a").0, 0);
    assert_eq!(second.put(b"/a", b"2").0, 0);
    assert_eq!(second.close(), 0);
    assert_eq!(first.get(b"/a"), Ok(b"2".to_vec()));
    assert_eq!(first.close(), 0);
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(support::check::check(&bytes, true), [""; 0]);
}
