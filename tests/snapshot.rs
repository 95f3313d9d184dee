//! A database read at one moment while others change it, and one whose file is replaced while others open it.

mod support;

use kissdb::{Database, Error, OpenOptions};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use support::Scratch;

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|s| s.parse().ok())
        .expect("a number")
}

/// A writer gives all keys the number of his round, one after the other. At any one moment there are at most two
/// numbers, the higher one in front. A list that was read key by key, without a moment, has had three and more.
#[test]
fn a_snapshot_is_of_one_moment() {
    const KEYS: u64 = 700;
    let dir = Scratch::new();
    let path = dir.db("a.db");
    let key = |n: u64| format!("/key/{n:04}");
    let mut first = Database::open(&path).expect("opens");
    for n in 0..KEYS {
        first.put(key(n), b"0").expect("puts");
    }
    first.close().expect("closes");
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        s.spawn(|| {
            // Every other round ends with a close: then the slots lose their tags.
            while !stop.load(Relaxed) {
                let mut db = Database::open(&path).expect("opens");
                for _ in 0..2 {
                    let round = rounds.fetch_add(1, Relaxed) + 1;
                    for n in 0..KEYS {
                        db.put(key(n), round.to_string()).expect("puts");
                    }
                }
                db.close().expect("closes");
            }
        });
        let mut several = 0;
        for _ in 0..20 {
            let mut db = OpenOptions::new().read_only().open(&path).expect("opens");
            let all = db.snapshot(|_, _| ()).expect("reads");
            assert_eq!(all.damaged(), 0);
            let values: Vec<u64> = all.entries().into_values().map(number).collect();
            assert_eq!(values.len() as u64, KEYS);
            let (head, tail) = (values[0], values[values.len() - 1]);
            assert!(head == tail || head == tail + 1, "{head} {tail}");
            assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
            several += u64::from(head != tail);
        }
        stop.store(true, Relaxed);
        println!("{several} in the middle of a round, {rounds:?} rounds");
    });
}

/// Keys longer than the key field that a resource table's iterator hands out are entries as well.
#[test]
fn long_keys_of_a_resource_table_are_there() {
    let dir = Scratch::new();
    let path = dir.db("r.db");
    let mut db = OpenOptions::new()
        .create(true)
        .sizes(510, 64, 212)
        .open(&path)
        .expect("opens");
    let key = [b'k'; 127];
    db.put(key, b"v").expect("puts");
    let all = db.snapshot(|_, _| ()).expect("reads");
    assert_eq!(all.entries().get(&key[..]), Some(&&b"v"[..]));
}

/// One process had opened the file and waited for the gate while another put a new file in its place: it went on
/// with the old one, which nobody sees any more, and what it wrote was lost.
#[test]
fn who_opens_while_the_file_is_replaced_gets_the_new_one() {
    let dir = Scratch::new();
    let (path, new) = (dir.db("a.db"), dir.db("new.db"));
    for round in 0..20 {
        let mut old = Database::open(&path).expect("opens");
        old.put("old", b"1").expect("puts");
        old.close().expect("closes");
        let mut next = Database::open(&new).expect("opens");
        next.put("new", round.to_string()).expect("puts");
        next.close().expect("closes");
        let mut db = OpenOptions::new().read_only().open(&path).expect("opens");
        let mut all = db.snapshot(|_, _| ()).expect("reads");
        std::thread::scope(|s| {
            let mut opener = None;
            let replaced = db.replace(&mut all, || {
                opener = Some(s.spawn(|| {
                    let mut db = Database::open(&path).expect("opens");
                    db.put("late", b"1").expect("puts");
                    db.close().expect("closes");
                }));
                std::thread::sleep(std::time::Duration::from_millis(3));
                std::fs::rename(&new, &path)
            });
            assert!(replaced.expect("replaces"));
            db.close().expect("closes");
        });
        let mut db = Database::open(&path).expect("opens");
        let all = db.snapshot(|_, _| ()).expect("reads");
        let keys: Vec<&[u8]> = all.entries().into_keys().collect();
        assert_eq!(keys, [&b"late"[..], b"new"], "round {round}");
        drop(db);
        std::fs::remove_file(&path).expect("removes");
    }
    assert!(dir.objects().is_empty(), "{:?}", dir.objects());
}

#[test]
fn a_file_is_not_replaced_under_others_nor_when_it_has_changed() {
    let dir = Scratch::new();
    let path = dir.db("a.db");
    let mut db = Database::open(&path).expect("opens");
    db.put("k", b"1").expect("puts");
    let mut all = db.snapshot(|_, _| ()).expect("reads");
    db.put("k", b"2").expect("puts");
    let never = || -> std::io::Result<()> { panic!("must not be called") };
    assert!(!db.replace(&mut all, never).expect("answers"));
    let mut all = db.snapshot(|_, _| ()).expect("reads");
    let other = OpenOptions::new().read_only().open(&path).expect("opens");
    assert!(matches!(db.replace(&mut all, never), Err(Error::Access(_))));
    drop(other);
    assert!(db.replace(&mut all, || Ok(())).expect("answers"));
}

#[test]
fn keys_longer_than_the_key_size_are_iterated() {
    // A resource table holds keys of up to 127 bytes, its key size is 64. The iterator of the Rust door cut them off there,
    // asked for the value of what was left, and passed them over.
    let dir = Scratch::new();
    let path = dir.db("a.db");
    let options = OpenOptions::new().create(true).sizes(510, 64, 212);
    let mut db = options.open(&path).expect("opens");
    let keys = [63, 64, 65, 127].map(|n| vec![b'k'; n]);
    for (key, n) in keys.iter().zip(0u8..) {
        db.put(key, [n]).expect("puts");
    }
    let mut found: Vec<_> = db.iter().collect::<Result<_, _>>().expect("iterates");
    found.sort();
    let want = keys.iter().cloned().zip((0u8..).map(|n| vec![n]));
    assert_eq!(found, want.collect::<Vec<_>>());
    db.close().expect("closes");
}
