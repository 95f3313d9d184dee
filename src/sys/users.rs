//! Who uses a database: one record for each open handle, and a proof that its owner is alive.
//!
//! The proof is a lock of the open file description on one byte of the shared object, which the
//! kernel releases at death. A fork child that does not call keeps it held, so the process id and
//! the start time of the process are asked as well where they can be.

use super::errno;
use super::file::ofd_lock;
use super::lock::Ask;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Most handles that can have one database open at a time.
pub const MOST: u32 = 4096;
/// The byte of record 0 among the locks on the object.
const FIRST_BYTE: i64 = 1 << 40;

/// A ticket is the number of a record plus one in its lower bits, how often it was taken above.
const RECORD_BITS: u32 = 13;
const CLAIMS: u32 = (1 << (31 - RECORD_BITS)) - 1;

/// The handle came with a semaphore: its caller counts it in refCount.
pub const WITH_SEM: u32 = 1;
/// It may change the file.
pub const WRITER: u32 = 4;
/// It is inside open or close.
pub const MOVING: u32 = 8;

/// It wants or has the callers' lock, and may be the closer that holds the semaphore.
pub const SUSPECT: u32 = 32;

/// It has closed, but still holds the gate: it does not count any more.
pub const LEAVING: u32 = 16;

/// A record. Written by its owner, or under the gate by whoever removes a dead one.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct User {
    /// 1 while the record is in use.
    pub used: AtomicU32,
    /// [`WITH_SEM`] and so on.
    pub flags: AtomicU32,
    /// Open mode.
    pub mode: AtomicU32,
    /// How often the record was taken.
    claims: AtomicU32,
    /// Process id, in the name space of its owner.
    pub pid: AtomicU32,
    started: AtomicU64,
    namespace: AtomicU64,
    /// How often this user holds the callers' lock for reading.
    pub reads: AtomicU32,
    /// See [`super::shm::ComingAndGoing::is_cleared`].
    pub cleared: AtomicU32,
}

/// This process, as a record names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    started: u64,
    namespace: u64,
}

/// What /proc says of a process: since when it runs, in clock ticks; `None` if it has ended and is not reaped.
struct Told {
    pid: u32,
    running_since: Option<u64>,
}

/// `None` if there is no /proc, or it may not be read: that says nothing of the process.
fn told(of: &str) -> Option<Told> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    let pid = stat.split_once(' ')?.0.parse().ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let since = fields.nth(1)?.parse().ok()?;
    // The others go on where the first thread has ended.
    let ended = matches!(state, "Z" | "X") && threads <= 1;
    Some(Told {
        pid,
        running_since: (!ended).then_some(since),
    })
}

/// Whether the process that was started then has ended; `false` as well if that can't be told.
fn has_ended(pid: u32, since: u64) -> bool {
    // SAFETY: no signal is sent.
    let gone = unsafe { libc::kill(pid as libc::pid_t, 0) } != 0
        && super::last_error().raw_os_error() == Some(libc::ESRCH);
    gone || told(&pid.to_string()).is_some_and(|p| p.running_since != Some(since))
}

impl Process {
    fn me() -> Self {
        use std::os::unix::fs::MetadataExt;
        // Of this process, once asked; a fork child has another generation.
        static KNOWN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
        let (pid, process) = (std::process::id(), super::fork::generation());
        let [of, since, place] = &KNOWN;
        if of.load(Acquire) != process {
            // A /proc of other processes than those that this one sees calls it otherwise.
            let me = told("self").filter(|me| me.pid == pid);
            let ns = |name: &str| std::fs::metadata(format!("/proc/self/ns/{name}"));
            let [pids, times] = ["pid", "time"].map(|name| ns(name).map_or(0, |m| m.ino()));
            since.store(me.and_then(|me| me.running_since).unwrap_or(0), Relaxed);
            // The numbers of processes, and the times at which they were started.
            place.store(pids << 32 ^ times, Relaxed);
            if since.load(Relaxed) != 0 {
                of.store(process, Release);
            }
        }
        Self {
            pid,
            started: since.load(Relaxed),
            namespace: place.load(Relaxed),
        }
    }
}

/// The records of one object, as one of its users sees them.
#[derive(Clone, Copy)]
pub struct Users<'a> {
    /// All records.
    pub records: &'a [User],
    /// The word behind [`Users::high`].
    pub high: &'a AtomicU32,
    /// The caller's description of the object.
    pub fd: &'a OwnedFd,
}

impl Users<'_> {
    /// Takes a free record; `room(n)` makes sure that record n has memory.
    pub fn claim(&self, flags: u32, room: impl Fn(u32) -> io::Result<()>) -> io::Result<u32> {
        // A dead one's record is freed under the gate; if there is no other, its lock proves it free.
        for take_dead in [false, true] {
            for (n, r) in (0..).zip(self.records) {
                if n >= self.high.load(Acquire) {
                    room(n)?;
                } else if r.used.load(Relaxed) != 0 && !take_dead {
                    continue;
                }
                match ofd_lock(
                    self.fd,
                    libc::F_OFD_SETLK,
                    libc::F_WRLCK,
                    FIRST_BYTE + i64::from(n),
                    1,
                ) {
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                        continue;
                    }
                    Err(e) => return Err(e),
                }
                r.claims.fetch_add(1, Relaxed);
                self.high.fetch_max(n + 1, Release);
                let me = Process::me();
                r.flags.store(flags, Relaxed);
                r.reads.store(0, Relaxed);
                r.cleared.store(0, Relaxed);
                r.pid.store(me.pid, Relaxed);
                r.started.store(me.started, Relaxed);
                r.namespace.store(me.namespace, Relaxed);
                r.used.store(1, Release);
                return Ok(n);
            }
        }
        Err(errno(libc::EMFILE))
    }

    /// From now on this user is none of the living, though it holds its locks still.
    pub fn leave(&self, n: u32) {
        if let Some(r) = self.records.get(n as usize) {
            r.flags.fetch_or(LEAVING, Relaxed);
        }
    }

    /// Gives a record back.
    pub fn release(&self, n: u32) {
        if let Some(r) = self.records.get(n as usize) {
            r.flags.store(0, Relaxed);
            r.used.store(0, Release);
        }
        // If this fails the record is free all the same once the description is closed.
        let _ = ofd_lock(
            self.fd,
            libc::F_OFD_SETLK,
            libc::F_UNLCK,
            FIRST_BYTE + i64::from(n),
            1,
        );
    }

    /// What the owner of record `n` signs locks with: this use of the record. Never 0, below 2^31.
    pub fn ticket(&self, n: u32) -> u32 {
        let claims = self
            .records
            .get(n as usize)
            .map_or(0, |r| r.claims.load(Relaxed));
        (claims & CLAIMS) << RECORD_BITS | (n + 1)
    }

    /// Whether a ticket, not the caller's own, is of somebody alive.
    pub fn holds(&self, ticket: u32, ask: Ask) -> bool {
        self.of_ticket(ticket)
            .is_some_and(|n| self.seems_alive(n, ask))
    }

    /// The record that a ticket names, if it is still that use of it.
    pub fn of_ticket(&self, ticket: u32) -> Option<u32> {
        let n = (ticket & ((1 << RECORD_BITS) - 1)).wrapping_sub(1);
        (n < MOST && self.ticket(n) == ticket).then_some(n)
    }

    /// Whether record `n`, not the caller's own, belongs to a living process.
    pub fn alive(&self, n: u32) -> bool {
        self.seems_alive(n, Ask::Thoroughly)
    }

    fn seems_alive(&self, n: u32, ask: Ask) -> bool {
        let Some(r) = self.records.get(n as usize) else {
            return false;
        };
        if r.used.load(Acquire) == 0 {
            return false;
        }
        let byte = FIRST_BYTE + i64::from(n);
        // Who can't ask must not take what is another's.
        let free = matches!(
            ofd_lock(self.fd, libc::F_OFD_GETLK, libc::F_WRLCK, byte, 1),
            Ok(libc::F_UNLCK)
        );
        !free && (ask == Ask::Quickly || !self.is_phantom(r))
    }

    /// The description lives on in a fork child, but its owner is dead.
    fn is_phantom(&self, r: &User) -> bool {
        let (pid, since) = (r.pid.load(Relaxed), r.started.load(Relaxed));
        let me = Process::me();
        // Who does not know himself knows nobody.
        me.started != 0
            && me.namespace == r.namespace.load(Relaxed)
            && since != 0
            && pid != me.pid
            && has_ended(pid, since)
    }

    /// Behind the last record that was ever used.
    pub fn high(&self) -> u32 {
        self.high.load(Acquire).min(self.records.len() as u32)
    }

    /// The living users other than `me`; records of dead ones are freed. Under the gate.
    pub fn living(&self, me: u32) -> Vec<u32> {
        let mut out = Vec::new();
        for n in 0..self.high() {
            let r = &self.records[n as usize];
            let leaving = r.flags.load(Relaxed) & LEAVING != 0;
            if n == me || r.used.load(Acquire) == 0 || (leaving && self.alive(n)) {
                continue;
            }
            if self.alive(n) {
                out.push(n);
            } else {
                let pid = r.pid.load(Relaxed);
                crate::log::warning(|| format!("process {pid} died while it had this open"));
                r.flags.store(0, Relaxed);
                r.used.store(0, Release);
            }
        }
        out
    }

    /// Whether anybody else holds a record's lock, asked without trusting the records.
    pub fn any_lock(fd: &OwnedFd) -> io::Result<bool> {
        let most = i64::from(MOST);
        Ok(ofd_lock(fd, libc::F_OFD_GETLK, libc::F_WRLCK, FIRST_BYTE, most)? != libc::F_UNLCK)
    }
}
