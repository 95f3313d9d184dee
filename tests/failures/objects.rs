//! Shared objects that are not what they should be: 19 and 20.

use super::agent::Agent;
use super::support::ffi::{self, Handle, SETTINGS};
use super::*;
use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

/// The file under /dev/shm of an object of the database at `path`.
fn object(path: &Path, tail: &str) -> PathBuf {
    Path::new("/dev/shm").join(support::object_name(path, tail))
}

/// Opens, uses and closes a database that has something odd under the name of one of its objects.
#[track_caller]
fn works(what: &str, scratch: &Scratch, path: &Path) {
    for door in ["open", "middle", "middle19"] {
        let mut agent = Agent::start();
        assert_eq!(
            agent.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0",
            "{what}"
        );
        assert_eq!(agent.ask("get h /a"), "1", "{what}");
        assert_eq!(agent.ask("put h /b 2"), "0", "{what}");
        if door != "open" {
            assert_eq!(agent.ask("count h"), "1", "{what}");
        }
        let mut second = Agent::start();
        assert_eq!(
            second.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0",
            "{what}"
        );
        assert_eq!(second.ask("get h /b"), "2", "{what}");
        assert_eq!(agent.ask_quickly("close h"), "0", "{what}");
        assert_eq!(second.ask_quickly("close h"), "0", "{what}");
        assert_eq!(second.end(), "exit 0", "{what}");
        assert_eq!(agent.end(), "exit 0", "{what}");
        is_clean(what, path, &model(&[("/a", b"1"), ("/b", b"2")]));
        let _ = scratch;
    }
}

#[test]
fn failure_19_an_object_that_was_not_filled() {
    // Not on the disk at all: a process died, or is still, between the creation of the shared object and its
    // initialisation. The next opener mapped 0 bytes and got SIGBUS, or took zeros for modes and tables. Fails if an
    // open fails, crashes or reads anything from such an object.
    for size in [0, 1, 88, 136, 4096, 12288, 1 << 20] {
        for byte in [0, 0xFF, 0x5A] {
            let scratch = place();
            let path = scratch.db("a.db");
            make(&path, SETTINGS, &[("/a", b"1")]);
            fs::write(object(&path, "-shm-info"), vec![byte; size]).expect("an object");
            works(&format!("{size} bytes of {byte:x}"), &scratch, &path);
            assert_eq!(scratch.objects(), [""; 0], "{size} bytes of {byte:x}");
            if size == 0 {
                break;
            }
        }
    }
}

#[test]
fn failure_20_leftovers_of_files_that_are_gone() {
    // Processes died with a database open; it was deleted and made anew, twice, and the file system gave the new file the
    // number of the old one. So objects of files that do not exist any more stand under both names that this file could
    // use. The open failed with -7, for ever. Fails if it does, or if an object of a dead file is joined.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    for _ in 0..3 {
        let mut agent = Agent::start();
        let answer = agent.ask_quickly(&format!("open h RDWR {}", path.display()));
        assert_eq!(answer, "0");
        assert_eq!(agent.ask("get h /a"), "1");
        agent.kill();
        for name in scratch.objects() {
            if name.ends_with("-shm-info") {
                // The birth of the file, in nanoseconds, behind what callers see, device and number.
                let object = Path::new("/dev/shm").join(name);
                let mut bytes = fs::read(&object).expect("the object");
                bytes[160] ^= 1;
                let file = fs::OpenOptions::new().write(true).open(&object);
                let file = file.expect("the object");
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes[160..168], 160)
                    .expect("a write");
            }
        }
    }
    works("leftovers", &scratch, &path);
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_19_an_object_that_spells_another_name() {
    // A leftover of this library, whole but for the bytes that say under which path it was made. The next user made its other
    // objects under that name, and left them behind: a name that might be somebody else's. Fails if anything appears
    // under it.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let db = open(&path);
    let info = object(&path, "-shm-info");
    let mut bytes = fs::read(&info).expect("the object");
    close(&db);
    let stem = path.as_os_str().as_encoded_bytes();
    let at = bytes.windows(stem.len()).position(|w| w == stem);
    let at = at.expect("the path in the object");
    let other = scratch.db("b.db");
    bytes[at..at + stem.len()].copy_from_slice(other.as_os_str().as_encoded_bytes());
    fs::write(&info, bytes).expect("an object");
    works("another name", &scratch, &path);
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_19_an_object_of_the_right_size_that_was_not_filled() {
    // The same with an object as large as a whole one: zeros, a hole, or anything. Fails as above.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let db = open(&path);
    let info = object(&path, "-shm-info");
    let whole = fs::read(&info).expect("the object");
    close(&db);
    let size = whole.len();
    let mut rng = procs::Rng(19);
    let noise: Vec<u8> = (0..size).map(|_| rng.next() as u8).collect();
    // Behind the 136 bytes that callers know, the beginning is right: an older boot of the same software.
    let mut half = noise.clone();
    half[..512].copy_from_slice(&whole[..512]);
    let mut retired = whole.clone();
    retired[136 + 32..136 + 36].copy_from_slice(&1u32.to_le_bytes());
    for (what, bytes) in [
        ("zeros", vec![0; size]),
        ("noise", noise.clone()),
        ("what a dead user left", whole.clone()),
        ("half of what a dead user left, half noise", half),
        ("a retired one", retired),
    ] {
        for _ in 0..2 {
            fs::write(&info, &bytes).expect("an object");
            works(what, &scratch, &path);
            assert_eq!(scratch.objects(), [""; 0], "{what}");
        }
    }
    let hole = fs::File::create(&info).expect("an object");
    hole.set_len(size as u64).expect("a hole");
    works("a hole", &scratch, &path);
    assert_eq!(scratch.objects(), [""; 0], "a hole");
    for len in [size - 1, size + 1, size + 4096] {
        let mut bytes = whole.clone();
        bytes.resize(len, 0);
        fs::write(&info, &bytes).expect("an object");
        works(&format!("{len} bytes"), &scratch, &path);
    }
}

#[test]
fn failure_19_something_else_under_the_name() {
    // The same with a directory, a link into nothing, a link to somebody's file. Fails if the open crashes or hangs, or
    // touches what is not its own.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let precious = scratch.db("precious");
    fs::write(&precious, "precious").expect("a file");
    for tail in ["-shm-info", "-ht"] {
        let name = object(&path, tail);
        symlink(&precious, &name).expect("a link");
        works(&format!("{tail}, a link to a file"), &scratch, &path);
        assert_eq!(fs::read(&precious).expect("the file"), b"precious");
        let _ = fs::remove_file(&name);
        symlink("nowhere", &name).expect("a link");
        works(&format!("{tail}, a link into nothing"), &scratch, &path);
        let _ = fs::remove_file(&name);
        fs::create_dir(&name).expect("a directory");
        works(&format!("{tail}, a directory"), &scratch, &path);
        let _ = fs::remove_dir(&name);
    }
    fs::write(object(&path, "-ht"), "noise").expect("an object");
    works("-ht of five bytes", &scratch, &path);
}

#[test]
fn failure_19_two_first_users_at_the_same_moment() {
    // The race itself: many processes open at once what nobody has open. Fails if one of them gets an error, or another
    // state than the others.
    let scratch = place();
    let path = scratch.db("a.db");
    let mut agents: Vec<Agent> = (0..4).map(|_| Agent::start()).collect();
    for turn in 0..25 {
        let _ = fs::remove_file(&path);
        let door = ["open", "middle"][turn % 2];
        for agent in &mut agents {
            agent.tell(&format!("{door} h RWCREAT {}", path.display()));
        }
        for (n, agent) in agents.iter_mut().enumerate() {
            let answer = agent.hear(super::agent::ONE_SECOND * 2);
            assert_eq!(answer, Some("0".into()), "turn {turn}, agent {n}");
            assert_eq!(agent.ask(&format!("put h /agent{n} {turn}")), "0");
        }
        for agent in &mut agents {
            assert_eq!(
                agent.ask("keys h"),
                "/agent0 /agent1 /agent2 /agent3",
                "turn {turn}"
            );
        }
        for agent in &mut agents {
            assert_eq!(agent.ask("close h"), "0", "turn {turn}");
        }
        assert_eq!(scratch.objects(), [""; 0], "turn {turn}");
        let found = check::pairs(&fs::read(&path).expect("the file"));
        assert_eq!(found.len(), 4, "turn {turn}");
    }
}

#[test]
fn failure_20_half_of_the_shared_state_is_removed() {
    // On the disk: the tables of the last clean close. Somebody, or a half-finished close, removes one of the shared objects
    // while the database is open. A user of the original who came then made it anew, empty, and the next clean close
    // wrote its zero tables over those in the file: everything was gone. Fails if a key is lost, whoever closes last.
    for tails in [
        &["-ht"][..],
        &["-shm-info"],
        &["-shm-info", "-ht"],
        &["-sem"],
    ] {
        for last in ["old", "new"] {
            let scratch = place();
            let path = scratch.db("a.db");
            make(&path, SETTINGS, &[("/a", b"1"), ("/b", b"2")]);
            let mut old = Agent::start();
            assert_eq!(old.ask(&format!("middle h RDWR {}", path.display())), "0");
            assert_eq!(old.ask("put h /old 3"), "0");
            for tail in tails {
                let name = match *tail {
                    "-sem" => Path::new("/dev/shm")
                        .join(format!("sem.{}", support::object_name(&path, tail))),
                    tail => object(&path, tail),
                };
                fs::remove_file(&name).expect("the object");
            }
            let mut new = Agent::start();
            // Without the object the database cannot be shared; to be refused is an answer, to lose keys is not.
            let answer = new.ask(&format!("middle h RDWR {}", path.display()));
            let what = format!("{tails:?}, {last} closes last, {answer}");
            assert!(
                answer == "0" || (answer == "-5" && tails.contains(&"-shm-info")),
                "{what}"
            );
            let mut wanted = model(&[("/a", b"1"), ("/b", b"2"), ("/old", b"3")]);
            assert_eq!(old.ask("put h /old too"), "0", "{what}");
            wanted.insert(b"/old".to_vec(), b"too".to_vec());
            if answer == "0" {
                assert_eq!(new.ask("get h /old"), "too", "{what}");
                assert_eq!(new.ask("put h /new 4"), "0", "{what}");
                wanted.insert(b"/new".to_vec(), b"4".to_vec());
                if last == "old" {
                    assert_eq!(new.ask_quickly("close h"), "0", "{what}");
                }
            }
            assert_eq!(old.ask_quickly("close h"), "0", "{what}");
            if answer == "0" && last == "new" {
                assert_eq!(new.ask_quickly("close h"), "0", "{what}");
            }
            is_clean(&what, &path, &wanted);
            let mut next = Agent::start();
            assert_eq!(
                next.ask_quickly(&format!("middle h RDWR {}", path.display())),
                "0",
                "{what}"
            );
            assert_eq!(next.ask("get h /old"), "too", "{what}");
            assert_eq!(next.ask_quickly("close h"), "0", "{what}");
            is_clean(&what, &path, &wanted);
        }
    }
}

#[test]
fn failure_20_everything_is_removed_by_a_start_of_the_client() {
    // The client library removes the semaphores of its application when it starts, also those that are in use. Fails if
    // users before and after that do not share one state.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let old = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let name =
        std::ffi::CString::new(ffi::shm_name("-sem", &path).expect("a name")).expect("a name");
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::sem_unlink(name.as_ptr()) }, 0);
    let new = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(old.put(b"/old", b"2"), (0, 1));
    assert_eq!(new.get(b"/old"), Ok(b"2".to_vec()));
    assert_eq!((old.ref_count(), new.ref_count()), (2, 2));
    assert_eq!(old.close(), 0);
    assert_eq!(new.put(b"/new", b"3"), (0, 1));
    assert_eq!(new.close(), 0);
    is_clean(
        "the end",
        &path,
        &model(&[("/a", b"1"), ("/old", b"2"), ("/new", b"3")]),
    );
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_20_the_object_is_cut_off_while_in_use() {
    // Somebody truncates -shm-info under its users, as a cleaning script does with `>`. The pages are gone: a touch is
    // SIGBUS. Fails if a user dies; errors are answers. Afterwards the file must have everything that was answered.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut agent = Agent::start();
    assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
    assert_eq!(agent.ask("put h /b 2"), "0");
    for tail in ["-ht", "-shm-info"] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(object(&path, tail))
            .expect("the object");
        file.set_len(0).expect("cut off");
    }
    for call in [
        "get h /a",
        "put h /c 3",
        "keys h",
        "lock h",
        "unlock h",
        "delete h /b",
    ] {
        agent.ask(call);
    }
    agent.ask_quickly("close h");
    scratch.wipe_objects();
    let db = open(&path);
    let found = all(&db).expect("readable");
    assert_eq!(found.get(&b"/a"[..]).map(Vec::as_slice), Some(&b"1"[..]));
    close(&db);
    assert_eq!(
        check::check(&fs::read(&path).expect("the file"), true),
        [""; 0]
    );
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn several_meet_at_an_object_that_nobody_has_sized() {
    // Whoever made the callers' cache died before it had a size. All who came to it waited, removed its name, and so removed
    // what one of them had just made: two caches, and what was changed in one of them was lost. Fails if two have made it, or
    // if they have different ones. A shorter one that is there already is left to whoever uses it.
    let scratch = place();
    let path = scratch.db("a.db");
    for round in 0..25 {
        let tails = ["-a", "-b", "-c", "-d"];
        for tail in tails {
            fs::write(object(&path, tail), b"").expect("a leftover");
        }
        let open = |tail: &str, length: usize| {
            let name = CString::new(support::object_name(&path, tail)).expect("a name");
            let mut made = 0;
            // SAFETY: the name lives through the call, made is ours, and the descriptor as well.
            let object = unsafe {
                let fd = ffi::kdbShmemOpen(name.as_ptr(), length, &mut made);
                (fd >= 0).then(|| fs::File::from(OwnedFd::from_raw_fd(fd)))
            };
            object.map(|o| {
                (
                    made == ffi::Kdb_true,
                    o.metadata().expect("an object").ino(),
                )
            })
        };
        std::thread::scope(|scope| {
            let who = tails.map(|tail| [(); 3].map(|()| scope.spawn(move || open(tail, 4096))));
            for all in who {
                let all = all.map(|t| t.join().expect("a thread").expect("an object"));
                let made = all.iter().filter(|(made, _)| *made).count();
                assert_eq!(made, 1, "round {round}: {all:?}");
                assert!(all.iter().all(|(_, inode)| *inode == all[0].1), "{all:?}");
            }
        });
        for tail in tails {
            assert_eq!(open(tail, 8192), None);
            fs::remove_file(object(&path, tail)).expect("the object");
        }
    }
}
