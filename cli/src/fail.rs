//! Why the command ends early, and what to do about it, in one line.

use std::io;
use std::path::Path;

/// Why the command ends early.
#[derive(Debug)]
pub enum Fail {
    /// Nobody reads what is written any more. Not an error.
    Closed,
    /// What went wrong and what to do, in one line.
    Said(String),
}

pub type Result<T> = std::result::Result<T, Fail>;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Fine = 0,
    /// Findings, differences, no such key, records left out.
    Found = 1,
    /// Wrong use or an I/O error.
    Failed = 2,
}

/// An error with this text.
pub fn said<T>(text: impl Into<String>) -> Result<T> {
    Err(Fail::Said(text.into()))
}

/// For what goes to standard output.
impl From<io::Error> for Fail {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Said(format!("standard output: {}", plain(&e))),
        }
    }
}

/// The text of an error of the operating system, without its number.
pub fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

/// Says which file an error is about.
pub trait About<T> {
    fn about(self, path: &Path) -> Result<T>;
}

impl<T> About<T> for io::Result<T> {
    fn about(self, path: &Path) -> Result<T> {
        self.map_err(|e| Fail::Said(format!("{}: {}", path.display(), advise(path, &e))))
    }
}

impl<T> About<T> for kissdb::Result<T> {
    fn about(self, path: &Path) -> Result<T> {
        use kissdb::Error as E;
        let file = path.display();
        self.map_err(|e| {
            Fail::Said(match &e {
                E::Io(e) => format!("{file}: {}", advise(path, e)),
                E::Corrupt(what) if what.contains("record") => format!(
                    "{file}: {what}; `kissdb check {file}` tells which, and what can be done"
                ),
                E::Corrupt(what) => format!(
                    "{file}: not a database, or its header is damaged ({what}); see `kissdb check {file}`"
                ),
                E::Version => format!("{file}: a KISSDB file of another version than 2.3"),
                E::Access(what) => format!("{file}: {what}; see `kissdb info {file}` for who uses it"),
                E::OpenShm(e) if e.kind() == io::ErrorKind::InvalidFilename => format!(
                    "{file}: the path is too long for a shared object; change into its directory first"
                ),
                E::OpenShm(e) if e.kind() == io::ErrorKind::PermissionDenied => format!(
                    "{file}: its shared object in /dev/shm belongs to another user; run this as that user or as root"
                ),
                E::OpenShm(e) | E::MapShm(e) | E::ResizeShm(e) => format!(
                    "{file}: shared memory in /dev/shm: {}; `kissdb shm {file}` shows what is there", plain(e)
                ),
                e => format!("{file}: {e}"),
            })
        })
    }
}

fn advise(path: &Path, e: &io::Error) -> String {
    let file = path.display();
    let text = plain(e);
    match e.kind() {
        io::ErrorKind::NotFound => {
            format!("no such file; `kissdb create {file}` makes an empty database")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{text}; run this as the owner of the file or as root")
        }
        io::ErrorKind::StorageFull => format!("{text}; nothing was changed, make room and repeat"),
        io::ErrorKind::FileTooLarge => format!(
            "{text}: past 2 GiB the original library cannot read it; KISSDB_LARGE_FILES=1 in the environment allows it"
        ),
        io::ErrorKind::InvalidInput => "not a regular file".into(),
        // ENODATA, which has no kind: a file without a whole header, opened for reading.
        _ if text.starts_with("no data available") => format!(
            "empty, or cut off inside its header; `kissdb put` makes a database of it, `kissdb check {file}` looks closer"
        ),
        _ => text,
    }
}
