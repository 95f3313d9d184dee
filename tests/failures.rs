//! The original's failures, one by one: each test tells what happened there, and shows that it does not happen here.
//!
//! The number in a test's name is that of the list in the guarantees. Its first lines are the story: what reached the
//! disk, what did not, what the user saw. All of it goes through the C interface, as the original's users call it. Where
//! a process has to die, to be somebody else or to be alone in the world, it is this program once more ([`agent`]);
//! damaged files are built byte by byte (`support/build.rs`).
//!
//! What needs root (other users, mounts) is passed over without it, and says so.
#![allow(clippy::type_complexity)]

#[path = "failures/agent.rs"]
mod agent;
#[path = "support/build.rs"]
mod build;
#[path = "failures/calls.rs"]
mod calls;
#[path = "failures/cuts.rs"]
mod cuts;
#[path = "failures/damage.rs"]
mod damage;
#[path = "failures/deaths.rs"]
mod deaths;
#[path = "failures/limits.rs"]
mod limits;
#[path = "failures/links.rs"]
mod links;
#[path = "failures/names.rs"]
mod names;
#[path = "failures/objects.rs"]
mod objects;
#[path = "failures/power.rs"]
mod power;
#[path = "support/procs.rs"]
mod procs;
#[path = "failures/ranges.rs"]
mod ranges;
#[path = "failures/rights.rs"]
mod rights;
#[path = "failures/steady.rs"]
mod steady;
mod support;
#[path = "failures/users.rs"]
mod users;

use build::{FIRST_TABLE, Image};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::ffi::{self, Plain, SETTINGS, Sizes};
use support::{Scratch, check, original};

/// Keys and their values.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of one slot: each but the first needs a table more.
const CHAIN: [&str; 4] = ["/k0", "/k176", "/k253", "/k330"];

#[test]
fn child() {
    // Not a test: the process that does what a test tells it. Returns at once in an ordinary run.
    agent::serve();
}

/// A place where a sync costs nothing. What is on the disk does not matter to most tests: they cut the power themselves.
fn place() -> Scratch {
    Scratch::below(procs::fast_directory())
}

fn opened(path: &Path, mode: i32, sizes: Sizes) -> Plain {
    Plain::opened(path, mode, sizes).unwrap_or_else(|rc| {
        let error = std::io::Error::last_os_error();
        panic!("open {} in mode {mode}: {rc} ({error})", path.display())
    })
}

fn open(path: &Path) -> Plain {
    opened(path, ffi::RDWR, SETTINGS)
}

fn put(db: &Plain, key: &str, value: &[u8]) {
    let size = i32::try_from(value.len()).expect("a size");
    assert_eq!(db.put(key.as_bytes(), value), (0, size), "put {key}");
}

fn delete(db: &Plain, key: &str) {
    assert_eq!(db.delete(key.as_bytes()), (0, 0), "delete {key}");
}

fn close(db: &Plain) {
    assert_eq!(db.close(), 0, "close");
}

/// The caller's sync: what was answered is on the disk.
fn sync(db: &Plain) {
    // SAFETY: a system call on the descriptor of an open database.
    assert_eq!(unsafe { libc::fdatasync(db.fd()) }, 0, "fdatasync");
}

/// A cleanly closed database with these pairs, made by the library.
fn make(path: &Path, sizes: Sizes, pairs: &[(&str, &[u8])]) {
    let db = opened(path, ffi::RWCREAT, sizes);
    for (key, value) in pairs {
        put(&db, key, value);
    }
    close(&db);
}

fn model(pairs: &[(&str, &[u8])]) -> Model {
    let owned = |(k, v): &(&str, &[u8])| (k.as_bytes().to_vec(), v.to_vec());
    pairs.iter().map(owned).collect()
}

/// All pairs as a user finds them: by the iterator, without and with values, and by get, which must all say the same.
fn all(db: &Plain) -> Result<Model, String> {
    let keys = db.keys().map_err(|rc| format!("the iterator: {rc}"))?;
    let pairs = db.pairs().map_err(|rc| format!("the iterator: {rc}"))?;
    if !keys.iter().eq(pairs.iter().map(|(key, _)| key)) {
        return Err("the iterator finds other keys with values than without".into());
    }
    let mut found = Model::new();
    for (key, buffer) in pairs {
        let name = key.escape_ascii().to_string();
        let value = db
            .get(&key)
            .map_err(|rc| format!("the iterator finds {name}, and a get of it answers {rc}"))?;
        if !buffer.starts_with(&value) {
            return Err(format!("the iterator has another value of {name} than get"));
        }
        if found.insert(key, value).is_some() {
            return Err(format!("the iterator finds {name} twice"));
        }
    }
    Ok(found)
}

/// In a few words.
fn told(model: &Model) -> String {
    let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| {
        let head = &v[..v.len().min(12)];
        format!("{}={}:{}", k.escape_ascii(), v.len(), head.escape_ascii())
    };
    model.iter().map(pair).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn finds(who: &str, db: &Plain, wanted: &Model) {
    let found = all(db).unwrap_or_else(|e| panic!("{who}: {e}"));
    assert!(
        found == *wanted,
        "{who} finds [{}] and not [{}]",
        told(&found),
        told(wanted)
    );
}

/// What the file says of itself after the last close: whole, with these pairs, for the original as well.
#[track_caller]
fn is_clean(who: &str, path: &Path, wanted: &Model) {
    let bytes = fs::read(path).expect("the file");
    assert_eq!(check::check(&bytes, true), [""; 0], "{who}");
    let pairs = check::pairs(&bytes);
    assert!(
        pairs == *wanted,
        "{who}: the file has [{}] and not [{}]",
        told(&pairs),
        told(wanted)
    );
    let read = original::recover(&bytes);
    assert!(read.opens && read.clean && !read.crashes, "{who}: {read:?}");
    let slots = u64::from_le_bytes(bytes[32..40].try_into().expect("eight bytes"));
    // The original's own files with fewer slots break at the second table, so it has no say in ours.
    assert!(
        read.pairs == *wanted || slots < 510,
        "{who}: the original finds [{}]",
        told(&read.pairs)
    );
}

/// Makes of a cleanly closed file one that was not closed and whose first table is damaged: whoever opens it next has
/// nothing but the pairs to go by.
fn to_rebuild(path: &Path) {
    let mut bytes = fs::read(path).expect("the file");
    build::put_u64(&mut bytes, 16, 1);
    build::put_u64(&mut bytes, 24, 0);
    if let Some(sum) = bytes.get_mut(FIRST_TABLE as usize + 8) {
        *sum ^= 0x5A;
    }
    fs::write(path, bytes).expect("the file");
}

/// A damaged file is opened in every way that a user may open it, and must hold these pairs and no others: in a reader,
/// which leaves the file alone; in a writer, who puts something and closes it; and in whoever has to recover the file
/// once more after that, twice. What the writer leaves must be whole.
#[track_caller]
fn holds(what: &str, image: &Image, pairs: &[(&str, &[u8])]) {
    let scratch = place();
    let mut wanted = model(pairs);
    let path = scratch.db("reader.db");
    image.save(&path);
    let reader = opened(&path, ffi::RDONLY, image.sizes);
    finds(&format!("{what}: a reader"), &reader, &wanted);
    close(&reader);
    let after = fs::read(&path).expect("the file");
    assert!(
        after == image.bytes,
        "{what}: a reader has changed the file"
    );

    let path = scratch.db("writer.db");
    image.save(&path);
    let writer = opened(&path, ffi::RDWR, image.sizes);
    finds(&format!("{what}: a writer"), &writer, &wanted);
    put(&writer, "/put by the writer", b"1");
    wanted.insert(b"/put by the writer".to_vec(), b"1".to_vec());
    finds(&format!("{what}: a writer later"), &writer, &wanted);
    close(&writer);
    is_clean(&format!("{what}: after the writer"), &path, &wanted);

    for turn in 1..=2 {
        to_rebuild(&path);
        let next = opened(&path, ffi::RDWR, image.sizes);
        finds(&format!("{what}: rebuild {turn}"), &next, &wanted);
        let key = format!("/put in turn {turn}");
        put(&next, &key, b"");
        wanted.insert(key.into_bytes(), Vec::new());
        close(&next);
        is_clean(&format!("{what}: after rebuild {turn}"), &path, &wanted);
    }
    assert_eq!(scratch.objects(), [""; 0], "{what}: left behind");
}

/// Whether this process is root; says which test is passed over if not.
fn is_root(test: &str) -> bool {
    // SAFETY: no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("{test}: passed over, because it needs root");
    }
    root
}

/// In an agent: what a test has its process do.
fn job(name: &str, arguments: &[&str]) -> String {
    match (name, arguments) {
        ("cache-and-die", [path]) => names::cache_and_die(path),
        ("copy-with-holes", [from, to]) => limits::copy_with_holes(from, to),
        ("descriptor-0", [dir]) => calls::descriptor_0(dir),
        ("descriptors", [path]) => users::descriptors(path),
        ("endure", [mode, path]) => ranges::endure(mode, path),
        ("few-descriptors", [path]) => limits::few_descriptors(path),
        ("little-memory", [path]) => limits::little_memory(path),
        ("objects-of", [path]) => rights::objects_of(path),
        ("open-and-close", [door, path]) => deaths::open_and_close(door, path),
        ("orphan", [path]) => users::orphan(path),
        ("outlived", [door, path]) => users::outlived(door, path),
        ("outliving", [path, tells]) => users::outliving(path, tells),
        ("put-like-a-table", [path]) => damage::put_like_a_table(path),
        ("reads-beside", [path, time]) => rights::reads_beside(path, time),
        ("writes-beside", [path, time]) => rights::writes_beside(path, time),
        _ => panic!("no job: {name} {arguments:?}"),
    }
}
