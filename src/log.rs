//! What the library has to tell about recovery and damage. It is silent until somebody asks.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use kissdb::log::{self, Level};
//!
//! log::set(Level::Warning, |level, message| eprintln!("{level:?}: {message}"));
//! let db = kissdb::Database::open(dir.path().join("settings.db"))?;
//! db.close()?;
//! log::clear();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A message is one line: the file's path, then what happened, with the offset in bytes and the key
//! where they are known. Messages of a call are handed over in its own thread right before it
//! returns, when it holds no lock of the library any more; so a receiver may use the library, and
//! what it does there is not logged. Without a receiver no text is made and nothing is allocated.

use crate::sys::published::Published;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How much a message matters. A receiver gets those of its level and of the more important ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something is lost or can't be promised: a record of which both copies are damaged, a sync
    /// that failed, a file that somebody cut off while it was open, a page that the medium has no room for.
    Error = 1,
    /// Something was wrong and is mended, or served all the same: a damaged copy whose twin is
    /// good, a lost table, a user or a holder of the semaphore that died.
    Warning = 2,
    /// Recovery: that it began and why, that it ended and what it found.
    Info = 3,
}

impl Level {
    /// The level of a `KISSDB_LOG_*` number.
    pub fn from_number(n: i32) -> Option<Self> {
        [Self::Error, Self::Warning, Self::Info]
            .into_iter()
            .find(|&l| l as i32 == n)
    }
}

type Receiver = Box<dyn Fn(Level, &str) + Send + Sync>;

/// Who gets messages, and up to which level.
static RECEIVER: Published<(Level, Receiver)> = Published::new();

/// The level that somebody wants to hear: what most calls look at. 0 is none.
static WANTED: AtomicU8 = AtomicU8::new(wanted(None));

/// DLT wants to hear everything, and filters itself.
const fn wanted(level: Option<Level>) -> u8 {
    match level {
        _ if cfg!(feature = "dlt") => Level::Info as u8,
        Some(level) => level as u8,
        None => 0,
    }
}

/// A call has at most this many messages; what is behind is counted.
const MOST: usize = 64;

struct Message {
    level: Level,
    text: String,
    /// The path stands before the text.
    named: bool,
}

struct Queue {
    messages: Vec<Message>,
    left_out: usize,
}

thread_local! {
    static QUEUE: RefCell<Queue> = const { RefCell::new(Queue { messages: Vec::new(), left_out: 0 }) };
    static DELIVERING: Cell<bool> = const { Cell::new(false) };
}

/// From now on `receiver` gets the messages of `level` and of the more important ones, from all
/// threads and for all databases of this process. It takes the place of the one before.
///
/// A receiver stays in memory until the process ends: another thread may be about to call it. It may
/// not block for long, because the call that it interrupts waits for it; a panic in it is caught.
pub fn set(level: Level, receiver: impl Fn(Level, &str) + Send + Sync + 'static) {
    RECEIVER.set(Some((level, Box::new(receiver))));
    WANTED.store(wanted(Some(level)), Relaxed);
}

/// The library is silent again. A message that another thread is handing over may still arrive.
pub fn clear() {
    WANTED.store(wanted(None), Relaxed);
    if RECEIVER.get().is_some() {
        RECEIVER.set(None);
    }
}

fn push(level: Level, text: impl FnOnce() -> String) {
    if WANTED.load(Relaxed) < level as u8 || DELIVERING.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let text = text();
    // A thread that is ending has no queue any more.
    let _ = QUEUE.try_with(|q| {
        let mut q = q.borrow_mut();
        // One call may meet the same thing several times.
        if q.messages.iter().any(|m| !m.named && m.text == text) {
            return;
        }
        if q.messages.len() == MOST {
            q.left_out += 1;
            return;
        }
        q.messages.push(Message {
            level,
            text,
            named: false,
        });
    });
}

pub(crate) fn error(text: impl FnOnce() -> String) {
    push(Level::Error, text);
}

pub(crate) fn warning(text: impl FnOnce() -> String) {
    push(Level::Warning, text);
}

pub(crate) fn info(text: impl FnOnce() -> String) {
    push(Level::Info, text);
}

/// Puts the file's path in front of the messages of this thread that have none.
pub(crate) fn name(path: &CStr) {
    if WANTED.load(Relaxed) == 0 {
        return;
    }
    let _ = QUEUE.try_with(|q| {
        for m in q.borrow_mut().messages.iter_mut().filter(|m| !m.named) {
            m.text = format!("{}: {}", path.to_string_lossy(), m.text);
            m.named = true;
        }
    });
}

/// Hands this thread's messages over when it is dropped. Each door makes one before anything else
/// in a call, so that every lock is free again by then.
pub(crate) struct Deliver;

impl Drop for Deliver {
    fn drop(&mut self) {
        if WANTED.load(Relaxed) == 0 || DELIVERING.try_with(Cell::get).unwrap_or(true) {
            return;
        }
        let taken = QUEUE.try_with(|q| {
            let mut q = q.borrow_mut();
            let more = std::mem::take(&mut q.left_out);
            (std::mem::take(&mut q.messages), more)
        });
        let Ok((mut messages, more)) = taken else {
            return;
        };
        if messages.is_empty() {
            return;
        }
        if more > 0 {
            messages.push(Message {
                level: Level::Warning,
                text: format!("{more} more messages of this call are left out"),
                named: true,
            });
        }
        // The call's own error number is for its caller.
        let errno = crate::sys::last_error().raw_os_error();
        let _ = DELIVERING.try_with(|d| d.set(true));
        for m in messages {
            let text = m.text.replace(|c: char| c.is_control(), "?");
            hand_over(m.level, &text);
        }
        let _ = DELIVERING.try_with(|d| d.set(false));
        crate::sys::set_errno(errno.unwrap_or(0));
    }
}

fn hand_over(level: Level, text: &str) {
    #[cfg(feature = "dlt")]
    crate::sys::dlt::send(level, text);
    if let Some((wanted, receiver)) = RECEIVER.get()
        && level <= *wanted
    {
        // A panic would leave through a call that has succeeded.
        let _ = catch_unwind(AssertUnwindSafe(|| receiver(level, text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// One test, because the receiver belongs to the whole process.
    #[test]
    fn messages_in_order_with_names_and_levels() {
        static GOT: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());
        let got = || std::mem::take(&mut *GOT.lock().unwrap());
        let mine = std::thread::current().id();
        let keep = move |level, text: &str| {
            // Other tests of this process have messages of their own.
            if std::thread::current().id() == mine {
                GOT.lock().unwrap().push((level, text.to_string()));
            }
        };
        let call = || {
            let _messages = Deliver;
            error(|| "one\ntwo".into());
            info(|| "three".into());
            error(|| "one\ntwo".into());
            name(c"a.db");
            warning(|| "four".into());
            name(c"b.db");
        };
        call();
        assert_eq!(got(), []);

        set(Level::Info, keep);
        call();
        assert_eq!(
            got(),
            [
                (Level::Error, "a.db: one?two".to_string()),
                (Level::Info, "a.db: three".to_string()),
                (Level::Warning, "b.db: four".to_string()),
            ]
        );

        set(Level::Warning, keep);
        call();
        assert_eq!(got().len(), 2);

        // What a receiver does is not logged, and its panic goes no further.
        set(Level::Error, move |level, text| {
            call();
            keep(level, text);
            panic!("caught");
        });
        call();
        assert_eq!(got().len(), 1);

        set(Level::Info, keep);
        {
            let _messages = Deliver;
            for n in 0..MOST + 5 {
                info(|| n.to_string());
            }
        }
        let many = got();
        assert_eq!(many.len(), MOST + 1);
        assert_eq!(many[MOST].1, "5 more messages of this call are left out");

        clear();
        call();
        assert_eq!(got(), []);
    }
}
