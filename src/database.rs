//! The safe Rust door.

use crate::engine::{Position, Snapshot};
use crate::error::{Error, Result};
use crate::format::Sizes;
use crate::format::block::{self, KEY_LEN};
use crate::format::key::Key;
use crate::log::Deliver;
use crate::session::{Mode, Request, Session};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How to open a database.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("settings.db");
/// use kissdb::OpenOptions;
///
/// let mut db = OpenOptions::new().create(true).open(&path)?;
/// db.put("/radio/volume", b"11")?;
/// db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions {
    mode: Mode,
    sizes: (u64, u64, u64),
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// For reading and writing an existing file; a new one would get the sizes of a settings
    /// database: 510 slots, keys of 128, values of 8028 bytes.
    pub fn new() -> Self {
        Self {
            mode: Mode::ReadWrite,
            sizes: (510, 128, 8028),
        }
    }

    /// The file is never written. A database that was not closed is recovered in memory.
    pub fn read_only(mut self) -> Self {
        self.mode = Mode::ReadOnly;
        self
    }

    /// Whether the file is made if there is none.
    pub fn create(mut self, yes: bool) -> Self {
        self.mode = if yes { Mode::Create } else { Mode::ReadWrite };
        self
    }

    /// The file is emptied or made; nobody else may have it open.
    pub fn replace(mut self) -> Self {
        self.mode = Mode::Replace;
        self
    }

    /// Sizes of a new file: slots of a hash table (1..=510), bytes of a key (1..=128) and of a
    /// value (1..=8028). Those of an existing file win.
    pub fn sizes(mut self, slots: u16, key: u16, value: u16) -> Self {
        self.sizes = (slots.into(), key.into(), value.into());
        self
    }

    /// Opens the database.
    ///
    /// # Errors
    /// [`Error::Io`]: the file can't be opened, made or mapped. [`Error::Invalid`]: sizes.
    /// [`Error::Corrupt`], [`Error::Version`]: not a database of this format. [`Error::Access`]:
    /// others use a file that shall be replaced. [`Error::OpenShm`], [`Error::MapShm`],
    /// [`Error::ResizeShm`]: shared memory.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Database> {
        let _messages = Deliver;
        let path = CString::new(path.as_ref().as_os_str().as_bytes())
            .map_err(|_| Error::Invalid("a path with a NUL"))?;
        let request = Request {
            path: &path,
            mode: self.mode,
            write_mode: WRITE_THROUGH,
            sizes: self.sizes,
            sem: None,
        };
        Ok(Database {
            session: Some(Session::open(&request)?),
        })
    }
}

/// So many pairs are read while others wait: about a millisecond.
const FEW: usize = 64;
/// Between two steps of a snapshot.
const PAUSE: Duration = Duration::from_micros(50);

/// What callers of the C interface find as the write mode: nothing is cached.
const WRITE_THROUGH: u16 = 5;

/// An open database. Other processes, threads and handles may use the same file, through either
/// door. Dropping it closes it; [`Database::close`] tells of errors.
pub struct Database {
    session: Option<Session>,
}

impl Database {
    /// Opens an existing settings database for reading and writing, or makes one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("settings.db");
    /// let mut db = kissdb::Database::open(&path)?;
    /// db.put("/seat/height", b"42")?;
    /// assert_eq!(db.get("/seat/height")?.as_deref(), Some(&b"42"[..]));
    /// assert_eq!(db.get("/seat/width")?, None);
    /// # Ok::<(), kissdb::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().create(true).open(path)
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session
            .as_mut()
            .ok_or(Error::Invalid("the database is closed"))
    }

    /// The value of a key; `None` if there is no such key, or it is empty or longer than 127 bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if both copies of the record are damaged; [`Error::Io`].
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let _messages = Deliver;
        let session = self.session()?;
        let mut buf = vec![0; session.sizes().value as usize];
        Ok(session.get(key.as_ref(), &mut buf)?.map(|n| {
            buf.truncate(n);
            buf
        }))
    }

    /// Sets the value of a key. It survives the death of the process at once, a power cut after
    /// [`Database::sync`] or [`Database::close`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key of 0 or more than 127 bytes, or with a NUL, or a value larger
    /// than the database's; [`Error::Access`] on a read-only handle; [`Error::Io`]: nothing changed.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let _messages = Deliver;
        let key = Key::new(key.as_ref());
        self.session()?.put(key, value.as_ref(), || Ok(()))
    }

    /// Deletes a key; whether it was there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let mut db = kissdb::Database::open(dir.path().join("a.db"))?;
    /// db.put("k", b"v")?;
    /// assert!(db.delete("k")?);
    /// assert!(!db.delete("k")?);
    /// # Ok::<(), kissdb::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Access`] on a read-only handle; [`Error::Io`]: nothing changed.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let _messages = Deliver;
        self.session()?.delete(Key::new(key.as_ref()), || Ok(()))
    }

    /// All entries, in no particular order. Others may change the database meanwhile: a key that is
    /// there throughout comes exactly once.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let mut db = kissdb::Database::open(dir.path().join("a.db"))?;
    /// db.put("a", b"1")?;
    /// db.put("b", b"2")?;
    /// let mut all = db.iter().collect::<Result<Vec<_>, _>>()?;
    /// all.sort();
    /// assert_eq!(all, [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
    /// # Ok::<(), kissdb::Error>(())
    /// ```
    pub fn iter(&mut self) -> Iter<'_> {
        Iter {
            db: self,
            pos: Position::default(),
        }
    }

    /// Whether others have the file open whose locks this handle can't take, because it may only read the
    /// file: then a snapshot is of no one moment.
    ///
    /// # Errors
    /// [`Error::Invalid`] on a closed database.
    pub fn is_apart(&mut self) -> Result<bool> {
        Ok(self.session()?.is_apart())
    }

    /// All entries as they are at one moment. Others go on meanwhile: it is read in small steps, and
    /// what they change is read again. All values are held in memory. `progress` is called between
    /// the steps with the slots done and all slots.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let mut db = kissdb::Database::open(dir.path().join("a.db"))?;
    /// db.put("b", b"2")?;
    /// db.put("a", b"1")?;
    /// let all = db.snapshot(|_, _| ())?;
    /// let keys: Vec<&[u8]> = all.entries().into_keys().collect();
    /// assert_eq!(keys, [b"a", b"b"]);
    /// # Ok::<(), kissdb::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Memory`].
    pub fn snapshot(&mut self, mut progress: impl FnMut(u64, u64)) -> Result<Snapshot> {
        let _messages = Deliver;
        let session = self.session()?;
        let mut snapshot = Snapshot::default();
        let mut steps = 0u64;
        let mut most = FEW;
        while let Some((done, all)) = session.snapshot_step(&mut snapshot, most)? {
            progress(done, all);
            steps += 1;
            // Who is overtaken by changes again and again lets the others wait at last.
            if steps > 2 * all / FEW as u64 {
                most = most.saturating_mul(2);
            }
            // The lock is not fair: somebody else's turn.
            std::thread::sleep(PAUSE);
        }
        Ok(snapshot)
    }

    /// Lets `put_in_place` put another file in the place of this one, by renaming it, while nobody
    /// else has this one open and nobody can open it. `false`, and it is not called, if the entries
    /// are no longer those of `snapshot`.
    ///
    /// # Errors
    /// [`Error::Access`]: others have it open. [`Error::Io`], also that of `put_in_place`.
    pub fn replace(
        &mut self,
        snapshot: &mut Snapshot,
        put_in_place: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<bool> {
        let _messages = Deliver;
        self.session()?.replace(snapshot, put_in_place)
    }

    /// Makes all tables anew from the records that lie in the file, as the recovery of a badly damaged one
    /// does: for a repair. What is damaged in both copies is gone afterwards, what no table led to is
    /// found. Work on a copy.
    ///
    /// # Errors
    /// [`Error::Access`] on a read-only handle; [`Error::Io`].
    pub fn rebuild(&mut self) -> Result<()> {
        let _messages = Deliver;
        self.session()?.rebuild()
    }

    /// The sizes in the file's header.
    ///
    /// # Errors
    /// [`Error::Invalid`] on a closed database.
    pub fn sizes(&mut self) -> Result<Sizes> {
        Ok(self.session()?.sizes())
    }

    /// Makes everything that was answered so far durable.
    ///
    /// # Errors
    /// [`Error::Io`]; from then on nothing more is written in this life of the database.
    pub fn sync(&mut self) -> Result<()> {
        let _messages = Deliver;
        self.session()?.sync()
    }

    /// Closes the database. The last user leaves a clean file.
    ///
    /// # Errors
    /// [`Error::Io`] if something could not be made durable; the next open recovers.
    pub fn close(mut self) -> Result<()> {
        self.close_inner()
    }

    fn close_inner(&mut self) -> Result<()> {
        let _messages = Deliver;
        self.session.take().map_or(Ok(()), |s| s.close(|| ()))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Who wants to know calls close.
        let _ = self.close_inner();
    }
}

/// Iterator over the entries of a [`Database`].
pub struct Iter<'a> {
    db: &'a mut Database,
    pos: Position,
}

impl Iterator for Iter<'_> {
    /// Key and value.
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let _messages = Deliver;
        loop {
            let mut field = [0; KEY_LEN];
            let session = self.db.session();
            let found = session.and_then(|s| s.next(&mut self.pos, &mut field, None));
            match found {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(e)),
            }
            let key = block::key_in(&field);
            match self.db.get(key) {
                Ok(Some(value)) => return Some(Ok((key.to_vec(), value))),
                // Deleted by another user in between.
                Ok(None) => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
