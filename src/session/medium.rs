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

/// Nothing follows from the zeros that stand in for a page that is gone: what reads the map is asked behind it whether it is
/// torn, what changes the file before, and what stores into the map behind it as well.
macro_rules! forward {
    ($($when:ident: { $($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)* })*) => {
        impl Storage for Medium {
            $($(#[inline(always)] fn $name(&self, $($arg: $type),*) -> $answer {
                forward!($when self.$name($($arg),*))
            })*)*
        }
    };
    (unasked $self:ident.$name:ident($($arg:ident),*)) => {
        match $self {
            Self::File(s) => s.$name($($arg),*),
            Self::Memory(s) => s.$name($($arg),*),
        }
    };
    (before $self:ident.$name:ident($($arg:ident),*)) => {{
        $self.whole()?;
        forward!(unasked $self.$name($($arg),*))
    }};
    (behind $self:ident.$name:ident($($arg:ident),*)) => {{
        let answer = forward!(unasked $self.$name($($arg),*))?;
        $self.whole()?;
        Ok(answer)
    }};
    (both $self:ident.$name:ident($($arg:ident),*)) => {{
        $self.whole()?;
        forward!(behind $self.$name($($arg),*))
    }};
}

forward! {
    unasked: {
        whole_at() -> u64;
        is_whole_since(when: u64) -> bool;
        fetch(at: u64, len: usize) -> ();
        fetch_block(at: u64, key: usize) -> ();
        len() -> Result<u64>;
        known_len() -> u64;
        next_data(at: u64) -> Result<u64>;
        // A store that has not arrived was an error.
        sync() -> Result<()>;
        sync_range(at: u64, len: u64) -> Result<()>;
        is_lasting() -> bool;
        is_file() -> bool;
    }
    behind: {
        read_by_call(at: u64, buf: &mut [u8]) -> Result<()>;
        read(at: u64, buf: &mut [u8]) -> Result<()>;
        load(at: u64) -> Result<u64>;
        holds(at: u64, key: &Key) -> Result<bool>;
        read_key(at: u64, key: &mut [u8]) -> Result<()>;
        load_slot(at: u64) -> Result<Slot>;
        read_value(at: u64, most: usize, buf: &mut [u8]) -> Result<usize>;
    }
    both: {
        store(at: u64, word: u64) -> Result<()>;
        store_all(at: u64, words: &[u64]) -> Result<()>;
    }
    before: {
        grow(len: u64) -> Result<()>;
        extend(len: u64) -> Result<()>;
        allocate(at: u64, len: u64) -> Result<()>;
        fill(at: u64, len: u64) -> Result<()>;
        write_pair(at: u64, pair: &[u8; PAIR as usize]) -> Result<()>;
        truncate(len: u64) -> Result<()>;
        fill_holes() -> Result<()>;
    }
}

/// The words that engines share, or those of a handle that recovers for itself.
pub(super) enum Words {
    Shared(Arc<Shm>),
    Private(Box<State>),
}

impl Medium {
    #[inline(always)]
    fn map(&self) -> &FileMap {
        match self {
            Self::File(map) => map,
            Self::Memory(changes) => changes.below(),
        }
    }

    #[inline(always)]
    fn whole(&self) -> Result<()> {
        self.map().whole()
    }

    pub(super) fn is_torn(&self) -> bool {
        self.map().is_torn()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Position;
    use crate::engine::index::Reader;
    use crate::format::header::Header;
    use crate::format::table::slot_offset;
    use crate::format::{PAGE, Sizes};
    use std::os::unix::ffi::OsStrExt;

    /// An empty database in `file`, and a writer.
    fn new_database(file: &tempfile::NamedTempFile) -> (Arc<FileMap>, Engine<Medium, Words>) {
        let path = std::ffi::CString::new(file.path().as_os_str().as_bytes()).expect("a path");
        let sizes = Sizes::new(510, 128, 64).expect("sizes");
        std::fs::write(file.path(), Header { sizes, clean: true }.bytes()).expect("a header");
        let map = Arc::new(FileMap::new(File::open(&path, true).expect("opens")).expect("maps"));
        let words = Words::Private(Box::default());
        let engine = Engine::open(Medium::File(map.clone()), words, true, false).expect("opens");
        (map, engine)
    }

    #[test]
    fn to_finish_what_somebody_has_begun_costs_no_page_of_a_full_tmpfs() {
        // A process was killed in a put of a new key, and then the tmpfs was full. Behind the pairs the file has holes, which were
        // read through the map to find what the dead one had left there: that takes a page each, and there was none. Every put and
        // delete of everybody was refused until there was room.
        let file = tempfile::Builder::new()
            .prefix("kissdb-")
            .tempfile_in("/dev/shm");
        let file = file.expect("a file on tmpfs");
        let (_, mut engine) = new_database(&file);
        for key in [b"/a", b"/b", b"/c"] {
            engine.put(key, b"its value").expect("a put");
        }
        let blocks =
            || std::os::unix::fs::MetadataExt::blocks(&file.as_file().metadata().expect("a file"));
        let before = blocks();
        let state = engine.st();
        let end = state.end.load(Relaxed);
        let holes = file
            .as_file()
            .metadata()
            .expect("a file")
            .len()
            .saturating_sub(end);
        assert!(holes >= PAIR, "{holes} bytes behind the end");
        // It had taken the place, and has stored nothing.
        state.end.store(end + PAIR, Relaxed);
        state.intent_pair.store(end, Relaxed);
        state.intent.store(slot_offset(PAGE, 3), Relaxed);
        assert_eq!(engine.get(b"/b", &mut [0; 64]).expect("a get"), Some(9));
        assert_eq!(engine.st().intent.load(Relaxed), 0, "it is not finished");
        assert_eq!(blocks(), before);
    }

    #[test]
    fn who_reads_without_the_lock_comes_past_nothing_in_a_torn_map() {
        // A disk was full and a put was refused, while another thread iterated with the same handle and met the zeros that
        // stood in for the page: it went on behind the key that it had not read, and the user never saw it.
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (map, mut engine) = new_database(&file);
        for key in [b"/a", b"/b", b"/c"] {
            engine.put(key, b"its value").expect("a put");
            assert_eq!(engine.get(key, &mut [0; 64]).expect("a get"), Some(9));
        }
        let reader = Reader {
            index: engine.index(),
            store: &*map,
            state: engine.st(),
            sizes: engine.sizes(),
        };
        let keys = || {
            let (mut pos, mut keys) = (Position::default(), Vec::new());
            let mut key = [0; 128];
            while reader.next(&mut pos, &mut key, None)? {
                keys.push(key[1]);
            }
            Some((keys, pos))
        };
        let all = keys().expect("all of them");
        assert_eq!(all.0, b"abc");
        let bytes = std::fs::read(file.path()).expect("is read");
        for (cut, most, key) in [(20480, 1, b"/c"), (8192, 0, b"/b")] {
            file.as_file().set_len(cut).expect("is cut off");
            let mut pos = Position::default();
            let mut seen = 0;
            let at = loop {
                let at = pos;
                match reader.next(&mut pos, &mut [0; 128], None) {
                    Some(_) => seen += 1,
                    None => break at,
                }
            };
            assert_eq!((pos, seen), (at, most), "cut off at {cut}");
            let key = Key::new(key).expect("a key");
            assert_eq!(reader.get(&key, &mut [0; 64]), None);
            assert!(!reader.keeps(&key));
            std::os::unix::fs::FileExt::write_all_at(file.as_file(), &bytes[cut as usize..], cut)
                .expect("is back");
            assert_eq!(keys(), None, "as long as zeros stand there");
            map.mend().expect("maps again");
            assert_eq!(keys().as_ref(), Some(&all));
        }
    }

    #[test]
    fn a_torn_map_answers_nothing_and_changes_nothing() {
        // A disk was full, of a file system that makes room at the first store into a page. The store did not arrive, zeros took
        // the place of the table that it went into, and the same call went on with them: it saw no pair, settled the
        // file as an empty one, and every synced value was gone.
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = std::ffi::CString::new(file.path().as_os_str().as_bytes()).expect("a path");
        let before = [7; 1 << 16];
        let torn_by = |touch: &dyn Fn(&Medium) -> bool| {
            std::fs::write(file.path(), before).expect("its bytes");
            let map = FileMap::new(File::open(&path, true).expect("opens")).expect("maps");
            let medium = Medium::File(Arc::new(map));
            file.as_file().set_len(1 << 15).expect("is cut off");
            assert!(touch(&medium), "a touch of what is gone");
            file.as_file().set_len(1 << 16).expect("is back");
            medium
        };
        let (mut bytes, key) = ([0; 8], Key::new(b"k").expect("a key"));
        for touch in [
            &(|m: &Medium| m.store(40960, 1).is_err()) as &dyn Fn(&_) -> _,
            &|m: &Medium| m.store_all(40960, &[1, 2]).is_err(),
            &|m: &Medium| m.read(40960, &mut [0; 8]).is_err(),
            &|m: &Medium| m.load(40960).is_err(),
            &|m: &Medium| m.load_slot(40960).is_err(),
            &|m: &Medium| m.read_key(40960, &mut [0; 8]).is_err(),
            &|m: &Medium| m.read_value(40960, 8, &mut [0; 8]).is_err(),
            &|m: &Medium| m.holds(40960, &key).is_err(),
        ] {
            let medium = torn_by(touch);
            assert!(medium.load(8192).is_err());
            assert!(medium.read(0, &mut bytes).is_err());
            assert!(medium.store(0, 1).is_err());
            assert!(medium.store_all(0, &[1, 2]).is_err());
            assert!(medium.write_pair(0, &[1; PAIR as usize]).is_err());
            assert!(medium.grow(1 << 17).is_err());
            assert!(medium.extend(1 << 17).is_err());
            assert!(medium.allocate(0, 4096).is_err());
            assert!(medium.fill(0, 4096).is_err());
            assert!(medium.fill_holes().is_err());
            assert!(medium.truncate(4096).is_err());
            let after = std::fs::read(file.path()).expect("is read");
            assert!(after[..1 << 15] == before[..1 << 15] && after.len() == 1 << 16);
        }
    }
}
