//! What the test programs share: the C ABI as a caller sees it, a checker of closed files, a place to work in.
#![allow(dead_code)] // each test program uses a part of it

pub mod check;
pub mod ffi;
pub mod original;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Where Linux keeps shared memory objects and named semaphores (these with `sem.` before the name).
const OBJECTS: &str = "/dev/shm";

/// A file under `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// The unpacked contents of a `.gz` file. Test data that cannot be read is a broken checkout, so this panics.
pub fn gunzip(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    let packed = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(packed.as_slice())
        .read_to_end(&mut bytes)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes
}

/// `SEED:LEN` of the traces: byte i is (SEED*131 + i*7 + (i>>8)*13) mod 256.
pub fn value(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| {
            let n = seed
                .wrapping_mul(131)
                .wrapping_add(i.wrapping_mul(7))
                .wrapping_add((i >> 8).wrapping_mul(13));
            n.to_le_bytes()[0]
        })
        .collect()
}

/// `key(N)` of the traces.
pub fn key(n: u64) -> Vec<u8> {
    let scattered = n.wrapping_mul(2_654_435_761) & 0xFF_FFFF;
    format!("/Node/0x{scattered:06x}/pos/{n}").into_bytes()
}

/// The name under /dev/shm of an object of the database at `path` as a caller spells it: written here a second time,
/// from the specification. Semaphores have `sem.` before it.
pub fn object_name(path: &Path, tail: &str) -> String {
    plain(path.as_os_str()) + tail
}

fn plain(text: &OsStr) -> String {
    let letter = |&b: &u8| {
        if b.is_ascii_alphanumeric() {
            char::from(b)
        } else {
            '_'
        }
    };
    text.as_bytes().iter().map(letter).collect()
}

/// Is the shared object (not semaphore) of the database at `path` there?
pub fn object_exists(path: &Path, tail: &str) -> bool {
    Path::new(OBJECTS).join(object_name(path, tail)).exists()
}

/// Is the named semaphore of the database at `path` there?
pub fn semaphore_exists(path: &Path) -> bool {
    Path::new(OBJECTS)
        .join(format!("sem.{}", object_name(path, "-sem")))
        .exists()
}

/// A directory of a test's own. When it goes, also in a panic, the shared objects of all databases below it go too.
pub struct Scratch {
    root: PathBuf,
    prefixes: Mutex<Vec<String>>,
    _dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::at(tempfile::Builder::new().prefix("kissdb").tempdir())
    }

    /// A directory below `parent`, for instance on another file system.
    pub fn below(parent: impl AsRef<Path>) -> Scratch {
        Scratch::at(tempfile::Builder::new().prefix("kissdb").tempdir_in(parent))
    }

    fn at(dir: std::io::Result<tempfile::TempDir>) -> Scratch {
        let dir = dir.unwrap_or_else(|e| panic!("no directory for the test: {e}"));
        let root = dir
            .path()
            .canonicalize()
            .unwrap_or_else(|e| panic!("{}: {e}", dir.path().display()));
        let prefix = plain(root.join("").as_os_str());
        Scratch {
            root,
            prefixes: Mutex::new(vec![prefix]),
            _dir: dir,
        }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The path of a database (or any file) in the directory.
    pub fn db(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Cares for one path more that does not lie below the directory as it is spelt: a relative one, one through a link.
    pub fn also(&self, path: impl AsRef<Path>) {
        let names = ["-shm-info", "-ht", "-cache", "-sem"];
        let names = names.map(|tail| object_name(path.as_ref(), tail));
        self.prefixes().extend(names);
    }

    /// The names of the shared objects and semaphores that are there now, sorted.
    pub fn objects(&self) -> Vec<String> {
        let prefixes = self.prefixes();
        let ours = |name: &String| {
            let bare = name.strip_prefix("sem.").unwrap_or(name);
            prefixes.iter().any(|p| bare.starts_with(p.as_str()))
        };
        let mut names: Vec<String> = fs::read_dir(OBJECTS)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(ours)
            .collect();
        names.sort();
        names
    }

    /// Removes all of them, as a reboot does.
    pub fn wipe_objects(&self) {
        for name in self.objects() {
            // Another process of the test may have been quicker.
            let _ = fs::remove_file(Path::new(OBJECTS).join(name));
        }
    }

    fn prefixes(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.prefixes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.wipe_objects();
        remove_half_made_semaphores();
    }
}

/// What a process leaves that is killed inside of sem_open: the C library makes a semaphore under a name of its own
/// (sem. and six letters) and links it. Those of tests may be executed, see [`ffi::SEMAPHORE_MODE`]; one that is younger may be
/// about to be linked.
fn remove_half_made_semaphores() {
    const YOUNG: Duration = Duration::from_millis(200);
    let half_made = || {
        let entries = fs::read_dir(OBJECTS).into_iter().flatten().flatten();
        entries.filter(|entry| {
            let name = entry.file_name();
            let letters = name.as_bytes().strip_prefix(b"sem.").unwrap_or_default();
            letters.len() == 6
                && letters.iter().all(u8::is_ascii_alphanumeric)
                && entry.metadata().is_ok_and(|m| m.mode() & 0o100 != 0)
        })
    };
    if half_made().next().is_none() {
        return;
    }
    std::thread::sleep(YOUNG);
    for entry in half_made() {
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .map(|t| t.elapsed());
        if matches!(age, Ok(Ok(age)) if age >= YOUNG) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
