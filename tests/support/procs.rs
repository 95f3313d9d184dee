//! Processes that are meant to die, and memory that outlives them.
//!
//! A child is this test program once more, started anew (never a bare fork of a threaded process), with the environment
//! naming its work; only the test `child` of the program looks at that. What a child has done stands in a file that both
//! sides map: a store into it survives SIGKILL.
//!
//! Unsafe here: mapping that file, signals, clocks. The mapped types hold atomics only.
#![allow(dead_code)] // each test program uses a part of it

use std::fs;
use std::io;
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A type that may lie in memory that other processes write: atomics and arrays of them, valid when zero.
///
/// # Safety
/// Every bit pattern is a value, nothing but atomics is inside, and nothing is dropped.
pub unsafe trait Atomics {}

/// A `T` in a file, mapped by everybody who opens it.
pub struct Mapped<T: Atomics> {
    map: memmap2::MmapRaw,
    of: std::marker::PhantomData<T>,
}

impl<T: Atomics> Mapped<T> {
    /// A new one, all zero.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(size_of::<T>() as u64)?;
        Self::of(&file)
    }

    /// The one that another process has made.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(&fs::OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn of(file: &fs::File) -> io::Result<Self> {
        let map = memmap2::MmapOptions::new()
            .len(size_of::<T>())
            .map_raw(file)?;
        Ok(Self {
            map,
            of: std::marker::PhantomData,
        })
    }
}

impl<T: Atomics> Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as many bytes as a T has are mapped, page-aligned, as long as `self` lives; T holds atomics only, for
        // which every pattern is valid and which others may change.
        unsafe { &*self.map.as_ptr().cast::<T>() }
    }
}

/// Nanoseconds of a clock that all processes share and nobody sets.
pub fn now() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer is a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// Nanoseconds that this thread could have run, had it been given a core: a wait that no library is to blame for. 0 where
/// the kernel does not count them.
pub fn without_a_core() -> u64 {
    thread_local! {
        static COUNTED: Option<fs::File> = fs::File::open("/proc/thread-self/schedstat").ok();
    }
    use std::os::unix::fs::FileExt;
    let mut text = [0; 64];
    let read = COUNTED.with(|f| f.as_ref().and_then(|f| f.read_at(&mut text, 0).ok()));
    let words = String::from_utf8_lossy(&text[..read.unwrap_or(0)]).into_owned();
    words
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// This program once more; its test `child` finds `work` in the environment variable of that name.
pub fn child(work: &str, value: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(work, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Called first in a child: no test leaves one behind, whatever happens to its driver. The driver's pid is in
/// [`DRIVER`].
pub fn die_with_the_driver() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// A started child. Killed and reaped when dropped, so that a failing test leaves none behind.
pub struct Running {
    child: Child,
    gone: Option<ExitStatus>,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        Running {
            child: command.spawn().expect("start a child"),
            gone: None,
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, unless it has been reaped: its number may be somebody else's by then.
    pub fn signal(&self, signal: i32) {
        if self.gone.is_none() {
            // SAFETY: a child of ours that is not reaped.
            unsafe { libc::kill(self.pid(), signal) };
        }
    }

    /// SIGKILL, and waits until it is dead.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(libc::SIGKILL);
        self.wait()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.gone.is_none() {
            self.gone = self.child.try_wait().expect("wait for a child");
        }
        self.gone
    }

    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.gone {
            return status;
        }
        let status = self.child.wait().expect("wait for a child");
        self.gone = Some(status);
        status
    }

    /// How it ended, if it did within `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = now() + limit.as_nanos() as u64;
        while now() < until {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

/// In words.
pub fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (_, code) => format!("exit {}", code.unwrap_or(-1)),
    }
}

/// A number from the environment; `_` may stand between its digits.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .replace('_', "")
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// The seed of a run: given, or taken from the clock. Print it.
pub fn seed(name: &str) -> u64 {
    number(name, now() % 1_000_000_007)
}

/// Small and reproducible (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn named_directory() -> Option<PathBuf> {
    std::env::var_os("KISSDB_TEST_DIR").map(PathBuf::from)
}

/// A directory for databases on a disk: only there the library keeps a redo log. `KISSDB_TEST_DIR` names another.
pub fn lasting_directory() -> PathBuf {
    named_directory().unwrap_or_else(std::env::temp_dir)
}

/// A directory for databases on memory, where a sync costs nothing: a death loses nothing that a power cut would.
/// `KISSDB_TEST_DIR` names another.
pub fn fast_directory() -> PathBuf {
    named_directory()
        .or_else(|| Some(PathBuf::from("/dev/shm")).filter(|p| p.is_dir()))
        .unwrap_or_else(std::env::temp_dir)
}

/// How often a call took how long: eight classes to each doubling.
#[repr(C)]
pub struct Times {
    classes: [AtomicU64; 400],
    longest: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Atomics for Times {}

impl Times {
    pub fn note(&self, ns: u64) {
        self.classes[Self::class(ns)].fetch_add(1, Relaxed);
        self.longest.fetch_max(ns, Relaxed);
    }

    fn class(ns: u64) -> usize {
        let ns = ns.max(8);
        let top = 63 - ns.leading_zeros() as usize;
        let eighth = (ns >> (top - 3)) as usize & 7;
        ((top - 3) * 8 + eighth).min(399)
    }

    /// The upper end of a class.
    fn end(class: usize) -> u64 {
        (8 + class as u64 % 8 + 1) << (class / 8)
    }

    pub fn count(&self) -> u64 {
        self.classes.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// Nanoseconds that this share of the calls did not exceed.
    pub fn share(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut n = 0;
        for (class, count) in self.classes.iter().enumerate() {
            n += count.load(Relaxed);
            if n >= wanted && n > 0 {
                return Self::end(class).min(self.longest());
            }
        }
        self.longest()
    }

    pub fn longest(&self) -> u64 {
        self.longest.load(Relaxed)
    }

    pub fn add(&self, other: &Times) {
        for (a, b) in self.classes.iter().zip(&other.classes) {
            a.fetch_add(b.load(Relaxed), Relaxed);
        }
        self.longest.fetch_max(other.longest(), Relaxed);
    }

    /// None yet.
    pub fn new() -> Times {
        Times {
            classes: [const { AtomicU64::new(0) }; 400],
            longest: AtomicU64::new(0),
        }
    }

    /// In words.
    pub fn told(&self) -> String {
        let ms = |ns: u64| ns as f64 / 1e6;
        format!(
            "{:8} calls, p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.3} ms",
            self.count(),
            ms(self.share(0.5)),
            ms(self.share(0.99)),
            ms(self.share(0.999)),
            ms(self.longest())
        )
    }
}

impl Default for Times {
    fn default() -> Times {
        Times::new()
    }
}
