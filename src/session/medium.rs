//! Where the engine of a handle works, and which state it shares.

use crate::engine::storage::Overlay;
use crate::engine::{Engine, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::PAIR;
use crate::format::key::Key;
use crate::format::slot::Slot;
use crate::sys::file::File;
use crate::sys::map::FileMap;
use crate::sys::shm::Shm;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Where the engine of a handle works.
pub(super) enum Medium {
    /// Shared with those who read without the lock.
    File(Arc<FileMap>),
    /// A read-only handle that had to recover.
    Memory(Box<Overlay<FileMap>>),
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Storage for Medium {
            $(#[inline(always)] fn $name(&self, $($arg: $type),*) -> $answer {
                match self {
                    Self::File(s) => s.$name($($arg),*),
                    Self::Memory(s) => s.$name($($arg),*),
                }
            })*
        }
    };
}

forward! {
    fetch(at: u64, len: usize) -> ();
    fetch_block(at: u64, key: usize) -> ();
    len() -> Result<u64>;
    known_len() -> u64;
    read(at: u64, buf: &mut [u8]) -> Result<()>;
    load(at: u64) -> Result<u64>;
    holds(at: u64, key: &Key) -> Result<bool>;
    read_key(at: u64, key: &mut [u8]) -> Result<()>;
    load_slot(at: u64) -> Result<Slot>;
    read_value(at: u64, most: usize, buf: &mut [u8]) -> Result<usize>;
    next_data(at: u64) -> Result<u64>;
    store(at: u64, word: u64) -> Result<()>;
    store_all(at: u64, words: &[u64]) -> Result<()>;
    grow(len: u64) -> Result<()>;
    extend(len: u64) -> Result<()>;
    allocate(at: u64, len: u64) -> Result<()>;
    fill(at: u64, len: u64) -> Result<()>;
    write_pair(at: u64, pair: &[u8; PAIR as usize]) -> Result<()>;
    truncate(len: u64) -> Result<()>;
    fill_holes() -> Result<()>;
    sync() -> Result<()>;
    sync_range(at: u64, len: u64) -> Result<()>;
    is_lasting() -> bool;
    is_file() -> bool;
}

/// The words that engines share, or those of a handle that recovers for itself.
pub(super) enum Words {
    Shared(Arc<Shm>),
    Private(Box<State>),
}

impl Medium {
    pub(super) fn is_torn(&self) -> bool {
        match self {
            Self::File(map) => map.is_torn(),
            Self::Memory(changes) => changes.below().is_torn(),
        }
    }

    /// Whether it may be changed.
    #[inline(always)]
    pub(super) fn is_writable(&self) -> bool {
        matches!(self, Self::File(map) if map.file().is_writable())
    }
}

impl AsRef<State> for Words {
    fn as_ref(&self) -> &State {
        match self {
            Self::Shared(shm) => shm.state(),
            Self::Private(state) => state,
        }
    }
}

/// The engine of a handle. `writable`: whether it changes the file now.
pub(super) fn open_engine(
    file: &File,
    shm: &Arc<Shm>,
    writable: bool,
) -> Result<Engine<Medium, Words>> {
    let map = Arc::new(FileMap::new(file.reopen(writable)?)?);
    open_mapped(&map, shm, writable)
}

/// The same, but where there is no room to recover the file, or to finish what somebody has begun, one that only reads.
pub(super) fn open_at_least_reader(
    file: &File,
    shm: &Arc<Shm>,
    writable: bool,
) -> Result<Engine<Medium, Words>> {
    let map = Arc::new(FileMap::new(file.reopen(writable)?)?);
    match open_mapped(&map, shm, writable) {
        Err(_) if writable && map.is_torn() => open_engine(file, shm, false),
        opened => opened,
    }
}

fn open_mapped(
    map: &Arc<FileMap>,
    shm: &Arc<Shm>,
    writable: bool,
) -> Result<Engine<Medium, Words>> {
    let medium = Medium::File(map.clone());
    if shm.is_nameless() {
        return super::beside::open_engine(medium);
    }
    match Engine::open(medium, Words::Shared(shm.clone()), writable, large_files()) {
        Err(Error::Access(_)) => open_in_memory(map.file().reopen(false)?),
        opened => opened,
    }
}

/// An engine that recovers in memory.
pub(super) fn open_in_memory(file: File) -> Result<Engine<Medium, Words>> {
    let below = Overlay::new(FileMap::new(file)?)?;
    let state = Words::Private(Box::default());
    Engine::open(Medium::Memory(Box::new(below)), state, false, false)
}

/// Growing past 2 GiB is allowed by the environment variable `KISSDB_LARGE_FILES=1`.
pub(super) fn large_files() -> bool {
    std::env::var_os("KISSDB_LARGE_FILES").is_some_and(|v| v == "1")
}

/// What fork children left behind, one after the other.
static LEFT_BEHIND: AtomicPtr<Inherited> = AtomicPtr::new(std::ptr::null_mut());

/// An engine that another thread of the parent may have been changing at the fork: its memory can't be
/// given back. It stays reachable, for those who look for leaks.
struct Inherited {
    _engine: Engine<Medium, Words>,
    _next: *mut Inherited,
}

/// Keeps an inherited engine for ever.
pub(super) fn leave_behind(engine: Engine<Medium, Words>) {
    let node = Box::new(Inherited {
        _engine: engine,
        _next: LEFT_BEHIND.load(Relaxed),
    });
    LEFT_BEHIND.store(Box::into_raw(node), Relaxed);
}
