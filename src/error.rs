//! The one list of what can go wrong, and the number that a C caller sees for it.

use std::io;

/// Why a call failed.
///
/// Each variant has exactly one code of the C interface, [`Error::code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a call on the database file.
    #[error("database file: {0}")]
    Io(#[from] io::Error),
    /// No memory.
    #[error("out of memory")]
    Memory,
    /// An argument is outside its range, or the handle is not open.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The file is not a database, or a record is damaged in both copies.
    #[error("corrupt database: {0}")]
    Corrupt(&'static str),
    /// The handle may not write, or the database is in use.
    #[error("access denied: {0}")]
    Access(&'static str),
    /// A shared-memory object could not be opened or may not be trusted.
    #[error("shared memory: {0}")]
    OpenShm(io::Error),
    /// A shared-memory object could not be mapped.
    #[error("mapping shared memory: {0}")]
    MapShm(io::Error),
    /// A shared-memory object could not be given its size.
    #[error("sizing shared memory: {0}")]
    ResizeShm(io::Error),
    /// The file is of another version of the format.
    #[error("wrong database version")]
    Version,
}

/// The result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For what can't be a key.
    pub(crate) const NO_KEY: Self = Self::Invalid("a key has 1 to 127 bytes");

    /// The `KISSDB_ERROR_*` number, always negative.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Io(_) => -1,
            Self::Memory => -2,
            Self::Invalid(_) => -3,
            Self::Corrupt(_) => -4,
            Self::Access(_) => -5,
            Self::OpenShm(_) => -7,
            Self::MapShm(_) => -9,
            Self::ResizeShm(_) => -10,
            Self::Version => -12,
        }
    }

    /// The error number of the operating system behind this error, if there is one.
    pub fn os(&self) -> Option<i32> {
        match self {
            Self::Io(e) | Self::OpenShm(e) | Self::MapShm(e) | Self::ResizeShm(e) => {
                e.raw_os_error()
            }
            _ => None,
        }
    }
}

impl From<nix::Error> for Error {
    fn from(e: nix::Error) -> Self {
        Self::Io(e.into())
    }
}
