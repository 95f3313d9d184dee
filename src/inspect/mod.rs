//! Looking into a file without changing it: its parts, and everything that is not as it should be.
//!
//! [`Inspector`] reads the bytes of a file by itself. Where other processes have the file open it joins
//! them, and each look at what belongs together (the slots of a chain and their pairs) is taken while
//! they stand still for the moment of reading; what is read is judged while they go on. If somebody has
//! begun to change the file, or closed it, in the middle of a survey, the survey begins again. Nothing is
//! written, nothing is recovered.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("a.db");
//! # kissdb::Database::open(&path)?.put("k", b"v")?;
//! use kissdb::inspect::{Inspector, Weight};
//!
//! let report = Inspector::open(&path)?.survey(|_, _| ())?;
//! assert_eq!(report.live, 1);
//! assert!(report.findings.iter().all(|f| f.rule.weight() == Weight::Note));
//! # Ok::<(), kissdb::Error>(())
//! ```

mod judge;
mod rules;
mod survey;

pub use rules::{Finding, Mended, Rule, Weight};

use crate::error::{Error, Result};
use crate::format::block::{self, RawBlock, Side};
use crate::format::header::{self, Fields};
use crate::format::slot::Slot;
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, Sizes};
use crate::session::{Mode, Request, Session};
use crate::sys;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// How the file was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Closed by its last user.
    Closed,
    /// In use, or left without a close, by this library: table 0 carries its mark.
    Open,
    /// Left without a close by the original, or in the middle of a recovery: its tables say nothing.
    Stale,
}

/// What a part of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The header.
    Header,
    /// A hash table.
    Table,
    /// A pair with a value.
    Live,
    /// A deleted pair, to be used again.
    Deleted,
    /// A pair of which both copies are damaged, or bytes that mean nothing.
    Damaged,
    /// A table or a pair that nothing leads to.
    Loose,
    /// Zeros.
    Unused,
    /// The redo log of a file that is being changed.
    Log,
}

/// A range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub len: u64,
    /// What it is.
    pub part: Part,
}

/// What all slots with one index hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// Slots with a value.
    pub live: u32,
    /// Slots with a deleted pair.
    pub deleted: u32,
    /// How many tables a look-up goes through at most.
    pub length: u32,
}

/// Everything that a survey found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Length of the file in bytes.
    pub len: u64,
    /// The header as it stands.
    pub header: Fields,
    /// The sizes that were gone by: the header's, or, where that is damaged, those that fit the records.
    pub sizes: Option<Sizes>,
    /// Whether the header can be used as it is.
    pub header_good: bool,
    /// How it was left.
    pub life: Life,
    /// Whether others have it open.
    pub in_use: bool,
    /// Others have it open, or come and go, and could not be asked to stand still: what changed during
    /// the survey may show as a finding.
    pub unsure: bool,
    /// Offsets of the tables, in the order of the chain.
    pub tables: Vec<u64>,
    /// One for each slot of a table.
    pub chains: Vec<Chain>,
    /// Keys with a value.
    pub live: u64,
    /// Deleted pairs.
    pub deleted: u64,
    /// Bytes of all keys and values.
    pub payload: u64,
    /// The whole file, in its order, without gaps.
    pub regions: Vec<Region>,
    /// By offset.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Bytes that lie in parts of a kind.
    pub fn bytes_of(&self, part: Part) -> u64 {
        let parts = self.regions.iter().filter(|r| r.part == part);
        parts.map(|r| r.len).sum()
    }
}

/// Looks into one file.
pub struct Inspector {
    path: CString,
    file: File,
    /// The same file, to ask who else uses it.
    asked: sys::file::File,
    /// Our place among the users, if there are any.
    user: Option<Session>,
    in_use: bool,
}

/// What is the same before and after a look that has seen one moment of the file.
#[derive(PartialEq)]
struct Moment {
    header: [u8; header::SIZE],
    /// The checksum of the first table, and where the log begins.
    first: (u64, i64),
    /// Moves at every close and every recovery; `None` if we are no user.
    layout: Option<u64>,
    /// Length and time of the last change, if nobody uses the file.
    stamp: Option<(u64, i64, i64)>,
}

/// A file that is replaced again and again is opened so often.
const OPENS: u32 = 100;
/// Two changes that are not so far apart can have the same time.
const TICK: Duration = Duration::from_millis(20);

impl Inspector {
    /// Opens a file for looking.
    ///
    /// # Errors
    /// [`Error::Io`]: it can't be opened, or is no regular file. [`Error::Access`]: it is replaced again
    /// and again.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = CString::new(path.as_ref().as_os_str().as_bytes())
            .map_err(|_| Error::Invalid("a path with a NUL"))?;
        Self::begin(path, false)
    }

    /// Opens the file; joins its users if there are any, or if `join`.
    fn begin(path: CString, join: bool) -> Result<Self> {
        for _ in 0..OPENS {
            let asked = sys::file::File::open(&path, false)?;
            let in_use = asked.has_other_users().unwrap_or(false);
            let inspector = Self {
                file: File::open(OsStr::from_bytes(path.to_bytes()))?,
                user: match in_use || join {
                    true => Self::join(&path)?,
                    false => None,
                },
                path: path.clone(),
                asked,
                in_use,
            };
            // Another file may have been put in its place in between.
            if inspector.is_of_one_file()? {
                return Ok(inspector);
            }
        }
        Err(Error::Access("replaced again and again"))
    }

    /// Who may not join reads all the same.
    fn join(path: &CString) -> Result<Option<Session>> {
        let user = Session::open(&Request {
            path,
            mode: Mode::ReadOnly,
            write_mode: 0,
            sizes: (0, 0, 0),
            sem: None,
        });
        match user {
            Ok(user) if !user.shm().has_name() => user.close(|| ()).map(|()| None),
            user => Ok(user.ok()),
        }
    }

    fn is_of_one_file(&self) -> Result<bool> {
        let (read, asked) = (self.file.metadata()?, self.asked.ident()?);
        let user = self.user.as_ref().map_or(asked, |u| u.shm().ident());
        let is = |other: sys::file::Ident| (other.dev, other.ino) == (read.dev(), read.ino());
        Ok(is(asked) && is(user))
    }

    /// What must not change during a look; `None` while somebody changes the file whom we did not see.
    fn moment(&mut self) -> Result<Option<Moment>> {
        let layout = |u: &Session| u.shm().state().layout.load(Relaxed);
        let layout = self.user.as_ref().map(layout);
        let alone = layout.is_none() && !self.asked.has_other_users().unwrap_or(false);
        if alone && self.has_just_changed()? {
            std::thread::sleep(TICK);
            if self.has_just_changed()? {
                return Ok(None);
            }
        }
        let stamp = self.file.metadata()?;
        let stamp = (stamp.len(), stamp.ctime(), stamp.ctime_nsec());
        let (header, table) = self.still(|me| Ok((me.header()?, me.table(PAGE)?)))?;
        Ok(Some(Moment {
            header,
            first: (table.mark(), table.slot(table::SLOTS as u16).b),
            layout,
            stamp: alone.then_some(stamp),
        }))
    }

    fn has_just_changed(&self) -> Result<bool> {
        let m = self.file.metadata()?;
        let changed = Duration::new(
            m.ctime().try_into().unwrap_or(0),
            m.ctime_nsec().try_into().unwrap_or(0),
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A time to come is that of another clock.
        let age = now.unwrap_or_default().checked_sub(changed);
        Ok(age.is_some_and(|age| age < TICK))
    }

    /// Whether others had the file open.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Behind the end of the file there are zeros.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        buf[done..].fill(0);
        Ok(())
    }

    fn header(&self) -> Result<[u8; header::SIZE]> {
        let mut bytes = [0; header::SIZE];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn table(&self, at: u64) -> Result<RawTable> {
        let mut raw = RawTable(vec![0; table::SIZE as usize].into_boxed_slice());
        self.read(at, &mut raw.0)?;
        Ok(raw)
    }

    fn slot(&self, table: u64, index: u16) -> Result<Slot> {
        let at = table::slot_offset(0, index);
        let mut raw = RawTable::empty();
        let part = &mut raw.0[at as usize..][..crate::format::slot::SIZE as usize];
        self.read(table + at, part)?;
        Ok(raw.slot(index))
    }

    fn blocks(&self, at: u64) -> Result<[RawBlock; 2]> {
        let mut blocks = [RawBlock::zeroed(), RawBlock::zeroed()];
        for side in [Side::A, Side::B] {
            let bytes = &mut blocks[side as usize].0[..];
            self.read(side.offset(at), bytes)?;
        }
        Ok(blocks)
    }

    /// Bytes of the value of what begins as a block at `at`.
    fn value_size(&self, at: u64) -> Result<u64> {
        let mut size = [0; 4];
        self.read(at.saturating_add(block::VALUE_SIZE as u64), &mut size)?;
        Ok(u32::from_le_bytes(size).into())
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<bool> {
        let mut page = [0; PAGE as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PAGE) as usize;
            self.read(at + done, &mut page[..n])?;
            if page[..n].iter().any(|&b| b != 0) {
                return Ok(false);
            }
            done += n as u64;
        }
        Ok(true)
    }

    /// Runs `look` while no other user changes the file, as far as they can be asked.
    fn still<R>(&mut self, look: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let Some(mut user) = self.user.take() else {
            return look(self);
        };
        let seen = user.still(|others| {
            self.in_use = others;
            look(self)
        });
        self.user = Some(user);
        seen?
    }

    /// The sizes with which most records of the file are good; `None` if there is none.
    fn guess_sizes(&self, len: u64, header: &Fields) -> Result<Option<Sizes>> {
        let [slots, key, value] = header.sizes;
        let known = [
            Sizes::new(slots, key, value),
            Sizes::new(510, 128, 8028),
            Sizes::new(510, 64, 212),
        ];
        let mut best = (0, None);
        for sizes in known.into_iter().flatten() {
            let (mut good, mut seen, mut at) = (0, 0, PAGE);
            while at + block::SIZE as u64 <= len && seen < ENOUGH {
                let [a, _] = self.blocks(at)?;
                let v = a.check(sizes, Side::A);
                seen += u32::from(v.delimiters == 2);
                good += u32::from(v.delimiters == 2 && v.good);
                at += PAGE;
            }
            if good > best.0 {
                best = (good, Some(sizes));
            }
        }
        Ok(best.1)
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        if let Some(user) = self.user.take() {
            // It has changed nothing: nothing can go wrong that anybody has to know.
            let _ = user.close(|| ());
        }
    }
}

/// So many records show which sizes a file has.
const ENOUGH: u32 = 64;
