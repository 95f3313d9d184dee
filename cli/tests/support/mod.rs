//! What the tests share: the command, files that the library made, and damage done to their bytes.
#![allow(dead_code)] // each test program uses a part of it

use kissdb::format::block::{self, RawBlock, Side};
use kissdb::format::{PAGE, Sizes, hash, table};
use kissdb::{Database, OpenOptions};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const SETTINGS: Sizes = Sizes {
    slots: 510,
    key: 128,
    value: 8028,
};
/// The first table and the first pair.
pub const TABLE: usize = PAGE as usize;
pub const PAIR: usize = 16384;
const BLOCK: usize = block::SIZE;

pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn new(o: Output) -> Self {
        Self {
            status: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }

    /// It ended with this status, and without a panic.
    #[track_caller]
    pub fn is(self, status: i32) -> Self {
        assert!(!self.err.contains("panicked"), "{}", self.err);
        assert_eq!(self.status, status, "{}{}", self.out, self.err);
        self
    }

    /// It failed with one line, which contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{:?}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{:?}", self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }

    pub fn json_lines(&self) -> Vec<Value> {
        let line = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        self.out.lines().map(line).collect()
    }
}

/// The command with these words and, behind them, these arguments.
pub fn command(words: &str, args: &[&dyn AsRef<OsStr>]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_kissdb"));
    c.args(words.split_whitespace()).args(args);
    c.stdin(Stdio::null()).env_remove("NO_COLOR");
    c
}

pub fn run(words: &str, args: &[&dyn AsRef<OsStr>]) -> Ran {
    Ran::new(command(words, args).output().expect("starts"))
}

/// With this on its standard input.
pub fn feed(words: &str, args: &[&dyn AsRef<OsStr>], input: &[u8]) -> Ran {
    use std::io::Write;
    let mut child = command(words, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut to = child.stdin.take().expect("a pipe");
    // It may fail before it has read everything.
    let _ = to.write_all(input);
    drop(to);
    Ran::new(child.wait_with_output().expect("ends"))
}

/// A directory of a test's own. With it go the shared objects of the databases in it.
pub struct Dir {
    dir: tempfile::TempDir,
    /// Its path without links: names of objects are made of paths.
    at: PathBuf,
}

impl Dir {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kissdb-cli")
            .tempdir()
            .expect("a directory");
        let at = dir.path().canonicalize().expect("a path");
        Self { dir, at }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// Files under /dev/shm whose names begin as those of a file in this directory.
    pub fn objects(&self) -> Vec<PathBuf> {
        let path = self.path("");
        let clean = |b: &u8| match b.is_ascii_alphanumeric() {
            true => char::from(*b),
            false => '_',
        };
        let bytes = path.as_os_str().as_encoded_bytes();
        let start: String = bytes.iter().map(clean).collect();
        let ours = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("sem.")
                .unwrap_or(&name)
                .starts_with(&start)
        };
        let dir = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        dir.map(|e| e.path()).filter(ours).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for o in self.objects() {
            let _ = std::fs::remove_file(o);
        }
    }
}

/// A closed settings database with these entries.
pub fn settings(path: &Path, entries: &[(&str, &str)]) {
    let mut db = Database::open(path).expect("opens");
    for (k, v) in entries {
        db.put(k, v).expect("puts");
    }
    db.close().expect("closes");
}

/// The same with tables of so many slots, so that chains grow.
pub fn small(path: &Path, slots: u16, entries: &[(&str, &str)]) {
    let mut db = OpenOptions::new()
        .create(true)
        .sizes(slots, 128, 8028)
        .open(path)
        .expect("opens");
    for (k, v) in entries {
        db.put(k, v).expect("puts");
    }
    db.close().expect("closes");
}

/// The bytes of a file, to be damaged.
pub struct Bytes {
    path: PathBuf,
    pub all: Vec<u8>,
}

impl Bytes {
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            all: std::fs::read(path).expect("reads"),
        }
    }

    pub fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.all[at..at + 8].try_into().expect("8 bytes"))
    }

    pub fn set(&mut self, at: usize, word: u64) -> &mut Self {
        self.all[at..at + 8].copy_from_slice(&word.to_le_bytes());
        self
    }

    pub fn flip(&mut self, at: usize) -> &mut Self {
        self.all[at] ^= 1;
        self
    }

    /// Offset of the slot of a key in a table.
    pub fn slot(table: usize, slots: u16, key: &str) -> usize {
        table::slot_offset(table as u64, hash::slot(key.as_bytes(), slots)) as usize
    }

    /// Makes the checksum of a table right again.
    pub fn seal_table(&mut self, at: usize) -> &mut Self {
        let raw = table::RawTable(self.all[at..at + table::SIZE as usize].into());
        self.set(at + table::CHECKSUM as usize, raw.checksum())
    }

    /// Changes one copy of a pair and makes its checksum right again.
    pub fn block(&mut self, pair: usize, side: Side, change: impl FnOnce(&mut [u8])) -> &mut Self {
        let at = side.offset(pair as u64) as usize;
        let mut raw = RawBlock::zeroed();
        raw.0.copy_from_slice(&self.all[at..at + BLOCK]);
        change(&mut raw.0[..]);
        raw.seal(SETTINGS);
        self.all[at..at + BLOCK].copy_from_slice(&raw.0[..]);
        self
    }

    /// The same with both copies.
    pub fn both(&mut self, pair: usize, change: impl Fn(&mut [u8])) -> &mut Self {
        self.block(pair, Side::A, &change)
            .block(pair, Side::B, &change)
    }

    pub fn write(&self) {
        std::fs::write(&self.path, &self.all).expect("writes");
    }
}
