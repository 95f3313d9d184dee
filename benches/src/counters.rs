//! Counts what a loaded library asks of the operating system. The functions below are exported by
//! the program (build.rs), so every library that it loads finds them in front of libc's.

use std::ffi::{c_int, c_void};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static SYNCS: AtomicU64 = AtomicU64::new(0);
/// Also look whether a write goes to a descriptor that syncs by itself (LMDB's pages 0 and 1).
static WATCH_WRITES: AtomicBool = AtomicBool::new(false);

macro_rules! next {
    ($name:literal, $kind:ty) => {{
        static FOUND: AtomicU64 = AtomicU64::new(0);
        let mut found = FOUND.load(Relaxed);
        if found == 0 {
            // SAFETY: a C string; the answer is checked.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, $name.as_ptr()) } as u64;
            assert!(found != 0);
            FOUND.store(found, Relaxed);
        }
        // SAFETY: libc's function of that name has that type.
        unsafe { std::mem::transmute::<*const c_void, $kind>(found as *const c_void) }
    }};
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    SYNCS.fetch_add(1, Relaxed);
    let real = next!(c"fdatasync", unsafe extern "C" fn(c_int) -> c_int);
    // SAFETY: the caller's duty.
    unsafe { real(fd) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    SYNCS.fetch_add(1, Relaxed);
    let real = next!(c"fsync", unsafe extern "C" fn(c_int) -> c_int);
    // SAFETY: the caller's duty.
    unsafe { real(fd) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msync(at: *mut c_void, length: usize, flags: c_int) -> c_int {
    if flags & libc::MS_SYNC != 0 {
        SYNCS.fetch_add(1, Relaxed);
    }
    let real = next!(
        c"msync",
        unsafe extern "C" fn(*mut c_void, usize, c_int) -> c_int
    );
    // SAFETY: the caller's duty.
    unsafe { real(at, length, flags) }
}

fn note_write(fd: c_int) {
    // SAFETY: asks for flags only.
    if WATCH_WRITES.load(Relaxed) && unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_DSYNC != 0
    {
        SYNCS.fetch_add(1, Relaxed);
    }
}

macro_rules! writes {
    ($($name:ident, $text:literal;)*) => {$(
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, from: *const c_void, length: usize, at: i64) -> isize {
            note_write(fd);
            let real = next!($text, unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize);
            // SAFETY: the caller's duty.
            unsafe { real(fd, from, length, at) }
        }
    )*};
}
writes! {
    pwrite, c"pwrite";
    pwrite64, c"pwrite64";
}

/// # Safety
/// As libc's, with the most arguments that a call can have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: i64,
    a: i64,
    b: i64,
    c: i64,
    d: i64,
    e: i64,
    f: i64,
) -> i64 {
    if number == libc::SYS_fdatasync || number == libc::SYS_fsync {
        SYNCS.fetch_add(1, Relaxed);
    }
    type Call = unsafe extern "C" fn(i64, i64, i64, i64, i64, i64, i64) -> i64;
    let real = next!(c"syscall", Call);
    // SAFETY: the caller's duty.
    unsafe { real(number, a, b, c, d, e, f) }
}

/// Syncs asked for so far by this process.
pub fn syncs() -> u64 {
    SYNCS.load(Relaxed)
}

pub fn watch_writes(on: bool) {
    WATCH_WRITES.store(on, Relaxed);
}

/// Bytes of pages that this process has made dirty and that go to a block device.
pub fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:").unwrap_or(0)
}

/// Flushes that the device below a path has carried out, for whomever.
pub fn device_flushes(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// A line of /proc/self/status in bytes.
pub fn status_bytes(name: &str) -> u64 {
    field("/proc/self/status", name).unwrap_or(0) * 1024
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
