//! What is not changed is not written, and the same calls leave the same bytes (P7).

use super::agent::Agent;
use super::build::Image;
use super::support::ffi::{self, Handle, RESOURCES, SETTINGS, Sizes};
use super::*;
use std::os::unix::fs::MetadataExt;

/// All that tells of a write: bytes, times of change of contents and of the inode, blocks.
fn trace_of(path: &Path) -> (Vec<u8>, [i64; 5]) {
    let m = fs::metadata(path).expect("the file");
    let times = [
        m.mtime(),
        m.mtime_nsec(),
        m.ctime(),
        m.ctime_nsec(),
        m.blocks() as i64,
    ];
    (fs::read(path).expect("the file"), times)
}

#[test]
fn promise_7_open_and_close_without_a_change_write_nothing() {
    // Flash wears. The original wrote the header at each open and all tables at each close. Fails if content, length, blocks
    // or a time of the file change by opens, reads, refused calls and deletes of what is not there.
    let scratch = Scratch::new();
    for (name, image) in [
        (
            "full.db",
            Image::with(
                SETTINGS,
                &[("/a", b"1"), (CHAIN[0], b"2"), (CHAIN[1], b"3")],
            ),
        ),
        ("resources.db", Image::with(RESOURCES, &[("/a", b"1")])),
        ("empty.db", Image::new(SETTINGS)),
    ] {
        let path = scratch.db(name);
        image.save(&path);
        let before = trace_of(&path);
        // A time that could not be told from the one before would hide a write.
        std::thread::sleep(std::time::Duration::from_millis(20));
        for mode in [ffi::RDONLY, ffi::RDWR, ffi::RWCREAT] {
            let db = opened(&path, mode, image.sizes);
            let _ = all(&db);
            assert_eq!(db.get(b"/none"), Err(1));
            if mode != ffi::RDONLY {
                assert_eq!(db.delete(b"/none").0, 1);
                assert_eq!(db.put(b"", b"x").0, ffi::ERROR_INVALID_PARAMETERS);
            }
            sync(&db);
            close(&db);
            assert!(trace_of(&path) == before, "{name}, mode {mode}: written");
            let handle = Handle::opened(&path, mode, image.sizes).expect("open");
            let second = Handle::opened(&path, ffi::RDONLY, image.sizes).expect("open");
            assert_eq!(handle.get(b"/none"), Err(1));
            assert_eq!(handle.close(), 0);
            assert_eq!(second.close(), 0);
            assert!(
                trace_of(&path) == before,
                "{name}, mode {mode}, the middleware: written"
            );
        }
        // The death of somebody who has changed nothing makes no recovery necessary either.
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("middle h RDWR {}", path.display())), "0");
        agent.ask("get h /a");
        agent.kill();
        scratch.wipe_objects();
        let db = opened(&path, ffi::RDWR, image.sizes);
        let _ = all(&db);
        close(&db);
        assert!(trace_of(&path) == before, "{name}: written after a death");
    }
    let path = scratch.db("unclean.db");
    let image = Image::with(SETTINGS, &[("/a", b"1")]).into_rebuild();
    image.save(&path);
    let before = trace_of(&path);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let db = opened(&path, ffi::RDONLY, SETTINGS);
    finds("a reader", &db, &model(&[("/a", b"1")]));
    close(&db);
    assert!(
        trace_of(&path) == before,
        "a reader has recovered on the disk"
    );
}

/// The same calls: overwrites, deletes, puts into deleted slots, new tables, empty and largest values.
fn calls(sizes: Sizes) -> Vec<(String, Option<Vec<u8>>)> {
    let mut calls = Vec::new();
    let mut rng = procs::Rng(7);
    for n in 0..120 {
        let key = match rng.below(4) {
            0 => CHAIN[rng.below(4) as usize].to_owned(),
            _ => format!("/key{}", rng.below(25)),
        };
        let value = support::value(n, rng.below(sizes.value + 1) as usize);
        calls.push((key, (!rng.one_in(4)).then_some(value)));
    }
    calls
}

#[test]
fn promise_7_the_same_calls_leave_the_same_bytes() {
    // Whoever compares or copies files by their contents relies on it. Fails if timing, syncs, other users, doors or clean
    // closes in between leave another byte.
    for sizes in [
        SETTINGS,
        RESOURCES,
        Sizes {
            table: 5,
            ..RESOURCES
        },
    ] {
        let scratch = place();
        let mut files = Vec::new();
        for way in [
            "plain",
            "synced",
            "slow",
            "closed",
            "middle",
            "shared",
            "two handles",
        ] {
            let path = scratch.db(&format!("{way}{}.db", sizes.table));
            let mut db = opened(&path, ffi::RWCREAT, sizes);
            let other =
                (way == "shared" || way == "two handles").then(|| opened(&path, ffi::RDWR, sizes));
            let handle =
                (way == "middle").then(|| Handle::opened(&path, ffi::RDWR, sizes).expect("open"));
            for (n, (key, value)) in calls(sizes).iter().enumerate() {
                let user = match (&handle, &other) {
                    (Some(handle), _) => handle.plain(),
                    (_, Some(other)) if n % 2 == 0 && way == "two handles" => other,
                    _ => &db,
                };
                match value {
                    Some(value) => put(user, key, value),
                    None => assert!(user.delete(key.as_bytes()).0 >= 0),
                }
                match way {
                    "synced" => sync(&db),
                    "slow" if n % 40 == 0 => {
                        std::thread::sleep(std::time::Duration::from_millis(5))
                    }
                    "shared" => drop(all(other.as_ref().expect("another"))),
                    "closed" if n % 10 == 0 => {
                        close(&db);
                        db = opened(&path, ffi::RDWR, sizes);
                    }
                    _ => {}
                }
            }
            if let Some(handle) = handle {
                assert_eq!(handle.close(), 0);
            }
            close(&db);
            if let Some(other) = other {
                close(&other);
            }
            files.push((way, fs::read(&path).expect("the file")));
        }
        let (_, first) = &files[0];
        assert_eq!(check::check(first, true), [""; 0]);
        for (way, file) in &files[1..] {
            let differs = file.iter().zip(first).position(|(a, b)| a != b);
            assert!(
                file == first,
                "{way}: {} bytes and {}, the first difference at {differs:?}; {:?}",
                file.len(),
                first.len(),
                check::compare(first, file)
            );
        }
    }
}

#[test]
fn promise_7_a_death_and_a_recovery_leave_the_same_bytes_too() {
    // After a death the next user's close leaves what the dead one's would have left. Fails if a byte differs.
    let scratch = place();
    let (lived, died) = (scratch.db("lived.db"), scratch.db("died.db"));
    let mut agents = [Agent::start(), Agent::start()];
    for (agent, path) in agents.iter_mut().zip([&lived, &died]) {
        assert_eq!(
            agent.ask(&format!("open h RWCREAT {}", path.display())),
            "0"
        );
        for n in 0..12 {
            assert_eq!(agent.ask(&format!("fill h /key{n} {n} {}", 100 * n)), "0");
        }
        for call in [
            "delete h /key3",
            "put h /key4 x",
            "put h /k0 1",
            "put h /k176 2",
            "delete h /k0",
        ] {
            assert_eq!(agent.ask(call), "0");
        }
    }
    let [mut lives, dies] = agents;
    assert_eq!(lives.ask("close h"), "0");
    dies.kill();
    let db = open(&died);
    close(&db);
    let (lived, died) = (
        fs::read(&lived).expect("a file"),
        fs::read(&died).expect("a file"),
    );
    assert_eq!(check::compare(&lived, &died), [""; 0]);
    assert!(lived == died, "the bytes differ");
}
