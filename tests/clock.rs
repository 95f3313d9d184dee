//! Somebody sets the clock while processes wait (GPS, the network, a flat battery: hours, in both directions).
//!
//! What could happen: a wait that reckons with the time of day ends at once, and takes a lock from somebody who lives; or it
//! does not end for hours. Here this program's own `clock_gettime`, `gettimeofday` and `time` take the place of the C library's:
//! the time of day jumps by hours at every question, and who asks for it inside the library is counted.

#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Running, now};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use support::Scratch;
use support::ffi::{self, Handle, Plain};

/// How often the time of day was asked for.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// What it was made wrong by, in seconds.
static WRONG: AtomicI64 = AtomicI64::new(0);

/// Hours forward and back.
fn jump() -> i64 {
    ASKED.fetch_add(1, SeqCst);
    let before = WRONG.load(SeqCst);
    let next = if before > 0 { -7200 } else { 10_800 };
    WRONG.store(next, SeqCst);
    next
}

fn is_of_day(clock: libc::clockid_t) -> bool {
    matches!(
        clock,
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI
    )
}

/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let r = libc::syscall(libc::SYS_clock_gettime, clock, to);
        if r == 0 && is_of_day(clock) {
            (*to).tv_sec += jump();
        }
        r as libc::c_int
    }
}

/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(to: *mut libc::timeval, _: *mut libc::c_void) -> libc::c_int {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: ours, and the caller's promise.
    unsafe {
        let r = clock_gettime(libc::CLOCK_REALTIME, &mut t);
        (*to).tv_sec = t.tv_sec;
        (*to).tv_usec = t.tv_nsec as libc::suseconds_t / 1000;
        r
    }
}

/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn time(to: *mut libc::time_t) -> libc::time_t {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: ours, and the caller's promise.
    unsafe {
        clock_gettime(libc::CLOCK_REALTIME, &mut t);
        if !to.is_null() {
            *to = t.tv_sec;
        }
    }
    t.tv_sec
}

const CHILD: &str = "KISSDB_CLOCK_CHILD";
/// P1: nobody waits longer for the dead.
const LIMIT: Duration = Duration::from_secs(1);

fn lock(db: &Plain) {
    // SAFETY: the database is open.
    unsafe { ffi::Kdb_wrlock(&raw mut (*db.shared()).rwlock) };
}

fn unlock(db: &Plain) {
    // SAFETY: the database is open.
    unsafe { ffi::Kdb_unlock(&raw mut (*db.shared()).rwlock) };
}

#[test]
fn child() {
    // Not a test: the process that dies. Returns at once in an ordinary run.
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    procs::die_with_the_driver();
    let path = Path::new(&path);
    // Like a closer of the middleware that takes its time.
    let handle = Handle::opened(path, ffi::RWCREAT, ffi::SETTINGS).expect("open");
    assert!(handle.wait());
    lock(handle.plain());
    println!("ready");
    loop {
        std::thread::sleep(LIMIT);
    }
}

fn holder(path: &Path) -> Running {
    let mut child = Running::start(procs::child(CHILD, path).stdout(Stdio::piped()));
    let mut said = child.child().stdout.take().expect("its voice");
    let (mut text, mut bytes) = (String::new(), [0; 256]);
    while !text.contains("ready") {
        let n = said.read(&mut bytes).expect("what it says");
        assert!(n > 0, "the child did not get there: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    child
}

#[test]
fn the_time_of_day_jumps_while_processes_wait() {
    let day = || std::time::SystemTime::now();
    assert!(day() > day() && ASKED.load(SeqCst) == 2, "it does not jump");
    let scratch = Scratch::below(procs::fast_directory());
    let path = scratch.db("clock.db");
    let db = Arc::new(Plain::opened(&path, ffi::RWCREAT, ffi::SETTINGS).expect("open"));
    for alive in [true, false] {
        let mut child = holder(&path);
        ASKED.store(0, SeqCst);
        let waiter = {
            let db = db.clone();
            std::thread::spawn(move || {
                lock(&db);
                let got = now();
                unlock(&db);
                got
            })
        };
        let opener = {
            let path = path.clone();
            std::thread::spawn(move || {
                // The middleware asks for this name right before it waits.
                ffi::shm_name("-sem", &path).expect("a name");
                now()
            })
        };
        // The clock jumps for others as well.
        for _ in 0..40 {
            WRONG.store(-WRONG.load(SeqCst) - 3600, SeqCst);
            std::thread::sleep(Duration::from_millis(if alive { 10 } else { 1 }));
        }
        assert!(!waiter.is_finished(), "taken from somebody alive");
        assert!(!opener.is_finished(), "posted under somebody's hands");
        let killed = now();
        child.kill();
        let waited = |t: std::thread::JoinHandle<u64>| {
            Duration::from_nanos(t.join().expect("a time").saturating_sub(killed))
        };
        let (locked, posted) = (waited(waiter), waited(opener));
        assert!(locked < LIMIT, "{locked:?} for the lock");
        assert!(posted < LIMIT, "{posted:?} for the semaphore");
        // Calls of all kinds, and an open and a close.
        assert_eq!(db.put(b"/k", b"v"), (0, 1));
        assert_eq!(db.get(b"/k"), Ok(b"v".to_vec()));
        assert_eq!(db.delete(b"/k"), (0, 0));
        let other = Plain::opened(&path, ffi::RDWR, ffi::SETTINGS).expect("open");
        assert_eq!(other.close(), 0);
        assert_eq!(
            ASKED.load(SeqCst),
            0,
            "the library asks for the time of day"
        );
    }
    assert_eq!(db.close(), 0);
}
