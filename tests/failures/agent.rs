//! A process of its own that makes the calls it is told, one line at a time. It can die at any moment, be another user,
//! live in other mounts, and wait for a lock while the test goes on.
//!
//! Its handles have names. What it is told:
//!
//! | line | answer |
//! |---|---|
//! | `open H MODE PATH`, `middle H MODE PATH`, `middle19 H MODE PATH` | of the open: by the bare calls, or with all that the middleware does around them |
//! | `close H`, `sync H` | 0, or what it is instead |
//! | `put H KEY TEXT`, `fill H KEY SEED LENGTH` | the answer |
//! | `get H KEY` | the value, or `!` and the answer |
//! | `delete H KEY` | the answer |
//! | `keys H` | the keys, sorted |
//! | `lock H`, `read H`, `unlock H`, `wait H`, `post H` | `done` |
//! | `count H`, `semaphore H`, `mode H` | the number |
//! | `cd PATH`, `umask MODE`, `euid UID GID`, `no-files N`, `file-limit BYTES` | `done` |
//! | `fork` | `done`, by a child that goes on in its place; `parent` goes back to the parent once the child has gone |
//! | `job NAME ARGUMENTS` | that of a function of a test |

use super::procs::{self, Running};
use super::support::ffi::{self, Generation, Handle, Plain, SETTINGS, Shared_Data_s};
use std::collections::HashMap;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const CHILD: &str = "KISSDB_FAILURES_CHILD";
/// Begins each answer.
const SAYS: &str = "@@ ";

/// Nobody waits longer for what a dead process held (P1).
pub const ONE_SECOND: Duration = Duration::from_secs(1);
/// Whoever takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// A mount of an agent's own.
pub enum Mount<'a> {
    /// The first directory is seen at the second one as well.
    Bind(&'a Path, &'a Path),
    /// A file system in memory, with room for so many bytes.
    Memory(&'a Path, u64),
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

/// The process, as the test sees it. Killed when dropped.
pub struct Agent {
    running: Running,
    ear: ChildStdin,
    said: Receiver<String>,
}

impl Agent {
    pub fn start() -> Agent {
        Agent::start_as(|_| ())
    }

    /// Started after `change` has had its way with the command.
    pub fn start_as(change: impl FnOnce(&mut Command)) -> Agent {
        let mut command = procs::child(CHILD, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        change(&mut command);
        let mut running = Running::start(&mut command);
        let ear = running.child().stdin.take().expect("its ear");
        let voice = running.child().stdout.take().expect("its voice");
        let (send, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(voice).lines().map_while(Result::ok) {
                // The test harness has its own say before, on the same line.
                if let Some((_, answer)) = line.split_once(SAYS) {
                    let _ = send.send(answer.to_owned());
                }
            }
        });
        let mut agent = Agent { running, ear, said };
        assert_eq!(agent.ask("hello"), "done");
        agent
    }

    /// With mounts of its own, that nobody else sees. Needs root.
    pub fn start_with_mounts(mounts: &[Mount]) -> Agent {
        let none = CString::default();
        let mounts: Vec<_> = mounts
            .iter()
            .map(|mount| match mount {
                Mount::Bind(from, to) => (c(from), c(to), c"none", libc::MS_BIND, none.clone()),
                Mount::Memory(at, bytes) => {
                    let size = CString::new(format!("size={bytes},mode=1777")).expect("a size");
                    (c"none".into(), c(at), c"tmpfs", 0, size)
                }
            })
            .collect();
        let prepare = move || {
            let failed = || Err(std::io::Error::last_os_error());
            // SAFETY: system calls, with C strings that the closure owns. They concern this process alone.
            unsafe {
                let private = libc::MS_REC | libc::MS_PRIVATE;
                let nothing = std::ptr::null();
                if libc::unshare(libc::CLONE_NEWNS) != 0
                    || libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()) != 0
                {
                    return failed();
                }
                for (from, to, kind, flags, data) in &mounts {
                    let (from, to, data) = (from.as_ptr(), to.as_ptr(), data.as_ptr().cast());
                    if libc::mount(from, to, kind.as_ptr(), *flags, data) != 0 {
                        return failed();
                    }
                }
            }
            Ok(())
        };
        Agent::start_as(|command| {
            // SAFETY: it makes system calls and allocates nothing.
            unsafe { command.pre_exec(prepare) };
        })
    }

    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// Tells it something, without waiting.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.ear, "{line}").unwrap_or_else(|e| panic!("{line}: the agent is gone: {e}"));
    }

    /// What it says next, if it does so in time.
    pub fn hear(&mut self, limit: Duration) -> Option<String> {
        self.said.recv_timeout(limit).ok()
    }

    /// Its answer. It must not die or hang meanwhile.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer(line, HANGS)
    }

    /// Its answer, which must come within a second: nobody waits longer for the dead.
    #[track_caller]
    pub fn ask_quickly(&mut self, line: &str) -> String {
        let since = Instant::now();
        self.tell(line);
        let answer = self.answer(line, HANGS);
        let time = since.elapsed();
        assert!(
            time <= ONE_SECOND,
            "{line}: answered {answer} after {time:?}"
        );
        answer
    }

    #[track_caller]
    fn answer(&mut self, line: &str, limit: Duration) -> String {
        match self.hear(limit) {
            Some(answer) => answer,
            None => {
                let ended = self.running.wait_for(Duration::from_millis(200));
                // Before the test's directory and objects are removed.
                self.running.kill();
                match ended {
                    Some(status) => panic!("{line}: the process ended by {}", procs::how(status)),
                    None => panic!("{line}: the process hangs"),
                }
            }
        }
    }

    /// SIGKILL, and waits until it is dead.
    pub fn kill(mut self) {
        self.running.kill();
    }

    /// Lets it come to its end by itself; how it did.
    pub fn end(mut self) -> String {
        self.tell("end");
        match self.running.wait_for(HANGS) {
            Some(status) => procs::how(status),
            None => panic!("the process does not end"),
        }
    }
}

/// A handle of an agent.
enum Door {
    Plain(Plain),
    Middle(Handle),
}

impl Door {
    fn db(&self) -> &Plain {
        match self {
            Door::Plain(db) => db,
            Door::Middle(handle) => handle.plain(),
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> String {
        let (rc, written) = match self {
            Door::Plain(db) => db.put(key, value),
            Door::Middle(handle) => handle.put(key, value),
        };
        match rc {
            0 if written as usize == value.len() => "0".into(),
            0 => format!("0, but {written} bytes"),
            rc => rc.to_string(),
        }
    }

    fn get(&self, key: &[u8]) -> String {
        let got = match self {
            Door::Plain(db) => db.get(key),
            Door::Middle(handle) => handle.get(key),
        };
        got.map_or_else(|rc| format!("!{rc}"), |v| v.escape_ascii().to_string())
    }

    fn close(&self) -> i32 {
        match self {
            Door::Plain(db) => db.close(),
            Door::Middle(handle) => handle.close(),
        }
    }
}

/// In the child: does what it is told until nobody tells it anything any more.
pub fn serve() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    procs::die_with_the_driver();
    let mut doors = HashMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        // Byte by byte: a fork child must not find in a buffer what was meant for its parent.
        if !read_line(&mut line) || line == "end" {
            break;
        }
        let answer = perform(&mut doors, &line);
        say(&answer);
    }
    // Dead processes close nothing.
    ffi::keep(doors);
}

fn read_line(line: &mut String) -> bool {
    let mut byte = [0u8];
    loop {
        // SAFETY: one byte, into a buffer of one.
        match unsafe { libc::read(0, byte.as_mut_ptr().cast(), 1) } {
            1 if byte[0] == b'\n' => return true,
            1 => line.push(char::from(byte[0])),
            _ => return false,
        }
    }
}

fn say(answer: &str) {
    let text = format!("{SAYS}{answer}\n");
    // SAFETY: the buffer is as long as it says. Straight to the descriptor, past the harness.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

fn mode_of(word: &str) -> i32 {
    match word {
        "RDONLY" => ffi::RDONLY,
        "RDWR" => ffi::RDWR,
        "RWCREAT" => ffi::RWCREAT,
        "RWREPLACE" => ffi::RWREPLACE,
        other => other.parse().unwrap_or_else(|_| panic!("no mode: {other}")),
    }
}

fn perform(doors: &mut HashMap<String, Door>, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| -> u64 { word.parse().unwrap_or_else(|_| panic!("{line}")) };
    match words[..] {
        ["hello"] => "done".into(),
        ["open", name, mode, path] => {
            let db = Plain::new();
            let rc = db.open(Path::new(path), mode_of(mode), ffi::WT, SETTINGS);
            doors.insert(name.into(), Door::Plain(db));
            rc.to_string()
        }
        [kind @ ("middle" | "middle19"), name, mode, path] => {
            let generation = match kind {
                "middle" => Generation::Y2015,
                _ => Generation::Y2019,
            };
            let handle = Handle::new(Path::new(path)).generation(generation);
            let rc = handle.open(mode_of(mode), ffi::WT, SETTINGS);
            doors.insert(name.into(), Door::Middle(handle));
            rc.to_string()
        }
        ["cd", to] => done(std::env::set_current_dir(to)),
        ["umask", mode] => {
            let mode = u32::from_str_radix(mode, 8).expect("a mode");
            // SAFETY: no memory is involved.
            unsafe { libc::umask(mode) };
            "done".into()
        }
        ["euid", uid, gid] => {
            let (uid, gid) = (number(uid) as u32, number(gid) as u32);
            // SAFETY: no memory is involved: the list of groups is empty.
            let r = unsafe {
                libc::setgroups(0, std::ptr::null()) | libc::setegid(gid) | libc::seteuid(uid)
            };
            if r == 0 { "done" } else { "failed" }.into()
        }
        ["no-files", n] => limit(libc::RLIMIT_NOFILE, number(n)),
        ["file-limit", n] => limit(libc::RLIMIT_FSIZE, number(n)),
        ["fork"] => fork(),
        ["parent"] => {
            // SAFETY: ends this fork child at once.
            unsafe { libc::_exit(0) }
        }
        ["job", name, ref arguments @ ..] => super::job(name, arguments),
        [call, name, ref rest @ ..] => {
            let door = doors
                .get(name)
                .unwrap_or_else(|| panic!("{line}: no {name}"));
            on_handle(door, call, rest).unwrap_or_else(|| panic!("{line}: not understood"))
        }
        _ => panic!("{line}: not understood"),
    }
}

fn on_handle(door: &Door, call: &str, rest: &[&str]) -> Option<String> {
    let db = door.db();
    Some(match (call, rest) {
        ("put", [key, text]) => door.put(key.as_bytes(), text.as_bytes()),
        ("fill", [key, seed, len]) => {
            let value = super::support::value(seed.parse().ok()?, len.parse().ok()?);
            door.put(key.as_bytes(), &value)
        }
        ("get", [key]) => door.get(key.as_bytes()),
        ("delete", [key]) => match door {
            Door::Plain(db) => db.delete(key.as_bytes()).0.to_string(),
            Door::Middle(handle) => handle.delete(key.as_bytes()).0.to_string(),
        },
        ("keys", []) => match super::all(db) {
            Ok(all) => {
                let keys = all.keys().map(|k| k.escape_ascii().to_string());
                keys.collect::<Vec<_>>().join(" ")
            }
            Err(e) => e,
        },
        ("close", []) => door.close().to_string(),
        // SAFETY: a system call on the descriptor of an open database.
        ("sync", []) => unsafe { libc::fdatasync(db.fd()) }.to_string(),
        ("lock", []) => {
            // SAFETY: shared is mapped while the database is open.
            unsafe { ffi::Kdb_wrlock(&raw mut (*db.shared()).rwlock) };
            "done".into()
        }
        ("read", []) => {
            // SAFETY: as above.
            unsafe { ffi::Kdb_rdlock(&raw mut (*db.shared()).rwlock) };
            "done".into()
        }
        ("unlock", []) => {
            // SAFETY: as above.
            unsafe { ffi::Kdb_unlock(&raw mut (*db.shared()).rwlock) };
            "done".into()
        }
        ("count", []) => field(db, offset_of!(Shared_Data_s, refCount)),
        ("mode", []) => field(db, offset_of!(Shared_Data_s, openMode)),
        ("wait" | "post" | "semaphore", []) => {
            let Door::Middle(handle) = door else {
                return None;
            };
            match call {
                "wait" if handle.wait() => "done".into(),
                "wait" => "timed out".into(),
                "post" => {
                    handle.post();
                    "done".into()
                }
                _ => handle.semaphore().map_or("none".into(), |n| n.to_string()),
            }
        }
        _ => return None,
    })
}

/// A number in the shared struct.
fn field(db: &Plain, offset: usize) -> String {
    let shared = db.shared();
    if shared.is_null() {
        return "not open".into();
    }
    // SAFETY: shared is mapped while the database is open; others write the field, hence volatile.
    let number = unsafe { shared.byte_add(offset).cast::<u16>().read_volatile() };
    number.to_string()
}

fn done(r: std::io::Result<()>) -> String {
    r.map_or_else(|e| e.to_string(), |()| "done".into())
}

fn limit(what: libc::__rlimit_resource_t, n: u64) -> String {
    let both = libc::rlimit {
        rlim_cur: n,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the buffer is an rlimit.
    let r = unsafe {
        let mut before = both;
        libc::getrlimit(what, &mut before);
        libc::setrlimit(
            what,
            &libc::rlimit {
                rlim_max: before.rlim_max,
                ..both
            },
        )
    };
    if r == 0 { "done" } else { "failed" }.into()
}

/// The child goes on; the parent waits for its end.
fn fork() -> String {
    // SAFETY: the child goes on with the one thread that it has, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => std::io::Error::last_os_error().to_string(),
        0 => {
            procs::die_with_the_driver();
            "done".into()
        }
        child => {
            let mut status = 0;
            // SAFETY: the buffer is a status.
            unsafe { libc::waitpid(child, &mut status, 0) };
            match status {
                0 => "back".into(),
                n => format!("the child ended with {n:#x}"),
            }
        }
    }
}
