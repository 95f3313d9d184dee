//! The stores that are measured, behind one trait. Each library is loaded at run time, in a worker
//! process of its own; one that is not installed is left out.

use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libloading::Library;

use crate::plan::Shape;

mod gdbm;
mod kissdb;
mod lmdb;
mod sqlite;
mod tdb;
mod tokyo;

pub use gdbm::Gdbm;
pub use kissdb::{Kissdb, shared_name};
pub use lmdb::Lmdb;
pub use sqlite::Sqlite;
pub use tdb::Tdb;
pub use tokyo::Tokyo;

/// A store, in the mode in which a killed process loses nothing that was answered; with
/// `Shape::durable`, a power cut neither, once `sync` has returned.
pub trait Engine: Sized {
    /// Several processes may have a database open for writing.
    const PROCESSES: bool;

    /// Opens or makes a database.
    fn open(path: &Path, shape: &Shape) -> Result<Self>;

    /// Reads into `buffer`; the size, if the key is there.
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize>;

    fn put(&mut self, key: &CStr, value: &[u8]) -> bool;

    fn delete(&mut self, key: &CStr) -> bool;

    /// All keys, copied into a buffer; with values, those too. Answers how many.
    fn iterate(&mut self, values: bool) -> usize;

    /// Everything written so far is on the medium afterwards.
    fn sync(&mut self, path: &Path) -> Result<()> {
        File::open(path)?.sync_data()?;
        Ok(())
    }

    /// The same open database for another thread.
    fn share(&self) -> Option<Self> {
        None
    }

    fn close(self) -> Result<()>;

    /// What lies beside the file of that path.
    fn beside(_path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn version() -> String;
}

/// Loads a library for the rest of the process.
fn load(name: &str) -> Result<&'static Library> {
    // SAFETY: the libraries that are named here do nothing at load time that could harm.
    let library =
        unsafe { Library::new(name) }.with_context(|| format!("{name} cannot be loaded"))?;
    Ok(Box::leak(Box::new(library)))
}

fn c_path(path: &Path) -> Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?)
}

fn done(what: &str, answer: i32) -> Result<()> {
    ensure!(answer == 0, "{what}: {answer}");
    Ok(())
}

/// The functions of a C library, found once.
macro_rules! functions {
    ($library:expr => $($name:ident: fn($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        #[allow(non_snake_case)]
        #[derive(Clone, Copy)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)*
        }

        impl Functions {
            fn get() -> anyhow::Result<&'static Self> {
                static FOUND: std::sync::OnceLock<Functions> = std::sync::OnceLock::new();
                if let Some(found) = FOUND.get() {
                    return Ok(found);
                }
                let library = $library?;
                let found = Functions {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        // SAFETY: the types are those of the library's header.
                        *unsafe { library.get(name.as_bytes()) }?
                    },)*
                };
                Ok(FOUND.get_or_init(|| found))
            }
        }
    };
}
use functions;
