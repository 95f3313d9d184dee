//! Arguments and modes: 22, 23, 27, 28, 31, 32, 34.

use super::agent::Agent;
use super::build::{Image, pair};
use super::support::ffi::{self, Handle, KISSDB, RESOURCES, SETTINGS};
use super::*;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

#[test]
fn failure_22_no_mode_writes_into_descriptor_0() {
    // On the disk, in whatever the process had as its descriptor 0: a header of 4096 bytes. RWREPLACE and unknown modes
    // went past the open call of the original, whose descriptor was then 0 from the zeroed struct. Fails if the file
    // behind descriptor 0 changes, or if the database ends up there when descriptor 0 is closed.
    let scratch = place();
    let mut agent = Agent::start();
    let told = agent.ask(&format!("job descriptor-0 {}", scratch.path().display()));
    assert_eq!(told, "fine");
}

/// In the agent, whose descriptor 0 is first a file and then closed.
pub fn descriptor_0(dir: &str) -> String {
    let dir = Path::new(dir);
    let victim = dir.join("victim");
    fs::write(&victim, "not a database\n").expect("a file");
    // SAFETY: no memory is involved. The agent's own input comes back at the end.
    let input = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 10) };
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&victim)
        .expect("a file");
    let mut wrong = Vec::new();
    for closed in [false, true] {
        let mut n = 0;
        for mode in [ffi::RWREPLACE, 0, 5, -1, 99, i32::MAX, i32::MIN] {
            for there in [false, true] {
                n += 1;
                let path = dir.join(format!("{closed}{n}.db"));
                if there {
                    make(&path, SETTINGS, &[("/a", b"1")]);
                }
                // SAFETY: no memory is involved.
                unsafe {
                    if closed {
                        libc::close(0);
                    } else {
                        libc::dup2(file.as_raw_fd(), 0);
                    }
                }
                let db = Plain::new();
                let rc = db.open(&path, mode, ffi::WT, SETTINGS);
                let what = format!("mode {mode}, closed {closed}, there {there}: {rc}");
                let right = if mode == ffi::RWREPLACE {
                    0
                } else {
                    ffi::ERROR_INVALID_PARAMETERS
                };
                if rc != right {
                    wrong.push(what.clone());
                }
                // SAFETY: no memory is involved.
                if closed && unsafe { libc::fcntl(0, libc::F_GETFD) } >= 0 {
                    let name = fs::read_link("/proc/self/fd/0").unwrap_or_default();
                    wrong.push(format!("{what}: {} is descriptor 0", name.display()));
                }
                if rc == 0 {
                    let new =
                        db.fd() > 2 && db.put(b"/new", b"2").0 == 0 && db.get(b"/a") == Err(1);
                    if !new || db.close() != 0 {
                        wrong.push(format!("{what}: does not work on descriptor {}", db.fd()));
                    }
                    is_clean(&what, &path, &model(&[("/new", b"2")]));
                } else if path.exists() != there {
                    wrong.push(format!("{what}: a file came or went"));
                }
                if fs::read(&victim).expect("the file") != b"not a database\n" {
                    wrong.push(format!("{what}: written into descriptor 0"));
                }
                // SAFETY: no memory is involved.
                if closed && unsafe { libc::fcntl(0, libc::F_GETFD) } >= 0 {
                    wrong.push(format!("{what}: something is open as descriptor 0"));
                }
            }
        }
    }
    // SAFETY: no memory is involved.
    unsafe { libc::dup2(input, 0) };
    if wrong.is_empty() {
        "fine".into()
    } else {
        wrong.join("; ")
    }
}

#[test]
fn failure_22_replace_empties_the_file_unless_others_use_it() {
    // What the mode is for. Fails if the old contents are still there, or if they are taken away from a living user.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let user = open(&path);
    let db = Plain::new();
    assert_eq!(
        db.open(&path, ffi::RWREPLACE, ffi::WT, SETTINGS),
        ffi::ERROR_ACCESS_VIOLATION
    );
    let mut agent = Agent::start();
    let answer = agent.ask(&format!("middle h RWREPLACE {}", path.display()));
    assert_eq!(answer, "-5");
    finds("the user", &user, &model(&[("/a", b"1")]));
    close(&user);
    is_clean("the user", &path, &model(&[("/a", b"1")]));
    let db = opened(&path, ffi::RWREPLACE, RESOURCES);
    finds("replaced", &db, &Model::new());
    put(&db, "/r", b"2");
    close(&db);
    is_clean("replaced", &path, &model(&[("/r", b"2")]));
    assert_eq!(fs::read(&path).expect("the file")[40], 64, "the new sizes");
}

#[test]
fn failure_23_put_and_delete_on_a_read_only_handle() {
    // The original mapped the file for reading and wrote into the map: SIGSEGV. Fails if the answer is not -5, or the
    // file changes.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let before = fs::read(&path).expect("the file");
    let mut agent = Agent::start();
    for door in ["open", "middle"] {
        assert_eq!(
            agent.ask(&format!("{door} h RDONLY {}", path.display())),
            "0"
        );
        for call in ["put h /a 2", "put h /b 2", "delete h /a", "delete h /none"] {
            assert_eq!(agent.ask(call), "-5", "{door}: {call}");
        }
        assert_eq!(agent.ask("get h /a"), "1");
        assert_eq!(agent.ask("close h"), "0");
    }
    assert!(fs::read(&path).expect("the file") == before, "changed");
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn failure_23_a_read_only_first_user() {
    // The shared state had the first user's rights: if that one only read, the puts of all later ones failed. Fails if a
    // writer who comes second cannot write, if the reader does not see it, or if the reader may write after all.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let (mut reader, mut writer) = (Agent::start(), Agent::start());
        assert_eq!(
            reader.ask(&format!("{door} h RDONLY {}", path.display())),
            "0"
        );
        assert_eq!(reader.ask("mode h"), "1", "{door}");
        assert_eq!(
            writer.ask(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(writer.ask("mode h"), "2", "{door}");
        assert_eq!(writer.ask("put h /b 2"), "0", "{door}");
        for n in 0..30 {
            assert_eq!(
                writer.ask(&format!("fill h /fill{n} {n} 5000")),
                "0",
                "{door}"
            );
        }
        assert_eq!(reader.ask("get h /b"), "2", "{door}");
        assert_eq!(reader.ask("put h /c 3"), "-5", "{door}");
        assert_eq!(writer.ask("delete h /a"), "0", "{door}");
        assert_eq!(reader.ask("get h /a"), "!1", "{door}");
        assert_eq!(writer.ask("close h"), "0", "{door}");
        // The last writer leaves a clean file, also if readers stay.
        let bytes = fs::read(&path).expect("the file");
        assert_eq!(check::check(&bytes, true), [""; 0], "{door}");
        assert_eq!(reader.ask("mode h"), "1", "{door}");
        assert_eq!(reader.ask("get h /b"), "2", "{door}");
        assert_eq!(reader.ask("close h"), "0", "{door}");
        assert!(
            fs::read(&path).expect("the file") == bytes,
            "{door}: changed by a reader"
        );
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

/// What a put or delete answered, and the number that it left.
fn put_raw(db: &Plain, key: *const libc::c_char, value: Option<&[u8]>, size: i32) -> (i32, i32) {
    let mut written = -7;
    let value = value.map_or(std::ptr::null(), <[u8]>::as_ptr);
    // SAFETY: key is a C string or null; value is null or has as many bytes as the library may read.
    let rc = unsafe { ffi::KISSDB_put(db.as_ptr(), key.cast(), value.cast(), size, &mut written) };
    (rc, written)
}

#[test]
fn failure_27_keys_and_values_that_do_not_fit() {
    // The original copied keys of 128 bytes and more over what lies behind the key field, took the empty key for a key,
    // wrote values larger than their place over the block's end, and took a negative size for a very large one:
    // damaged records, neighbours' data, crashes. Fails if one of these is taken, or leaves a trace in the file.
    for sizes in [SETTINGS, RESOURCES] {
        let scratch = place();
        let path = scratch.db("a.db");
        let longest = "k".repeat(127);
        let most = sizes.value as usize;
        let value = support::value(3, most);
        make(&path, sizes, &[("/a", b"1"), (&longest, &value)]);
        let before = fs::read(&path).expect("the file");
        let db = opened(&path, ffi::RDWR, sizes);
        let large = vec![b'v'; 20_000];
        let invalid = (ffi::ERROR_INVALID_PARAMETERS, 0);
        for len in [0, 128, 129, 255, 256, 4096, 100_000] {
            let key = vec![b'k'; len];
            assert_eq!(db.put(&key, b"2"), invalid, "a key of {len}");
            assert_eq!(db.put(&key, b""), invalid, "a key of {len}");
            assert_eq!(db.get(&key), Err(1), "a key of {len}");
            assert_eq!(db.delete(&key), (1, ffi::NOTHING_DELETED), "a key of {len}");
        }
        for len in [most + 1, most + 100, 8029, 16384, 20_000] {
            assert_eq!(db.put(b"/a", &large[..len]), invalid, "a value of {len}");
            assert_eq!(db.put(b"/new", &large[..len]), invalid, "a value of {len}");
        }
        for size in [-1, -8028, i32::MIN, i32::MAX, 8029] {
            assert_eq!(
                put_raw(&db, c"/a".as_ptr(), Some(&large), size),
                invalid,
                "size {size}"
            );
        }
        assert_eq!(put_raw(&db, std::ptr::null(), Some(&large), 1), invalid);
        assert_eq!(put_raw(&db, c"/a".as_ptr(), None, 1), invalid);
        let wanted = model(&[("/a", b"1"), (&longest, &value)]);
        let mut as_listed = wanted.clone();
        if sizes == RESOURCES {
            // The iterator gives key size bytes of a key.
            let value = as_listed.remove(longest.as_bytes()).expect("it");
            assert_eq!(db.get(longest.as_bytes()), Ok(value));
            assert_eq!(db.keys().map(|k| k.len()), Ok(2));
        } else {
            finds("after all that", &db, &as_listed);
        }
        close(&db);
        assert!(
            fs::read(&path).expect("the file") == before,
            "something was written"
        );
        // What fits to the last byte does fit.
        let db = opened(&path, ffi::RDWR, sizes);
        assert_eq!(put_raw(&db, c"/empty".as_ptr(), None, 0), (0, 0));
        assert_eq!(db.get(b"/empty"), Ok(Vec::new()));
        assert_eq!(db.put(longest.as_bytes(), &large[..most]), (0, most as i32));
        assert_eq!(db.get(longest.as_bytes()), Ok(large[..most].to_vec()));
        close(&db);
        assert_eq!(
            check::check(&fs::read(&path).expect("the file"), true),
            [""; 0]
        );
    }
}

#[test]
fn failure_27_buffers_that_are_too_small() {
    // A get into a buffer that the value does not fit in. Fails if a byte of it is written, or one behind it.
    let scratch = place();
    let path = scratch.db("a.db");
    let value = support::value(5, 1000);
    make(&path, SETTINGS, &[("/a", &value)]);
    let db = open(&path);
    for room in [0, 1, 500, 999] {
        let got = db.get_into(b"/a", room);
        assert_eq!((got.rc, got.size), (0, 1000), "room {room}");
        assert_eq!(got.buffer, vec![ffi::UNTOUCHED; room], "room {room}");
    }
    let got = db.get_into(b"/a", 1001);
    assert_eq!((got.rc, got.size), (0, 1000));
    assert_eq!(got.buffer[..1000], value[..]);
    assert_eq!(got.buffer[1000], ffi::UNTOUCHED);
    let mut size = 0;
    // SAFETY: no buffer is given, size is ours.
    let rc = unsafe {
        ffi::KISSDB_get(
            db.as_ptr(),
            c"/a".as_ptr().cast(),
            std::ptr::null_mut(),
            0,
            &mut size,
        )
    };
    assert_eq!((rc, size), (0, 1000));
    close(&db);
}

#[test]
fn failure_27_no_pointers_and_no_open_handle() {
    // NULL, a handle that was never opened, one that is closed. The original crashed. Fails if this program does.
    let null = std::ptr::null_mut();
    let (mut n, mut made) = (0, ffi::Kdb_false);
    let mut it = ffi::KISSDB_Iterator {
        db: null,
        h_no: 0,
        h_idx: 0,
    };
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let (never, closed) = (Plain::new(), open(&path));
    close(&closed);
    let key = c"/a".as_ptr().cast();
    for db in [null, never.as_ptr(), closed.as_ptr()] {
        // SAFETY: each pointer is null or points to what it should; the handles are not open.
        let answers = unsafe {
            ffi::KISSDB_Iterator_init(db, &mut it);
            [
                ffi::KISSDB_get(db, key, (&raw mut n).cast(), 4, &mut 0),
                ffi::KISSDB_put(db, key, key, 1, &mut n),
                ffi::KISSDB_delete(db, key, &mut n),
                ffi::KISSDB_Iterator_next(&mut it, [0u8; 256].as_mut_ptr().cast(), null.cast()),
                ffi::KISSDB_close(db),
            ]
        };
        assert_eq!(answers, [ffi::ERROR_INVALID_PARAMETERS; 5]);
        // SAFETY: as above.
        unsafe { ffi::cleanKdbStruct(db) };
    }
    let db = open(&path);
    // SAFETY: as above, on an open handle, with nulls for the rest.
    unsafe {
        let p = db.as_ptr();
        assert_eq!(ffi::KISSDB_get(p, null.cast(), null.cast(), 0, &mut 0), -3);
        assert_eq!(ffi::KISSDB_get(p, key, null.cast(), 5, &mut 0), -3);
        assert_eq!(
            ffi::KISSDB_get(p, key, null.cast(), 0, std::ptr::null_mut()),
            -3
        );
        assert_eq!(ffi::KISSDB_put(p, key, key, 1, std::ptr::null_mut()), 0);
        assert_eq!(ffi::KISSDB_delete(p, null.cast(), &mut n), -3);
        assert_eq!(ffi::KISSDB_delete(p, key, std::ptr::null_mut()), 0);
        assert_eq!(
            ffi::KISSDB_Iterator_next(std::ptr::null_mut(), p.cast(), null.cast()),
            -3
        );
        ffi::KISSDB_Iterator_init(p, std::ptr::null_mut());
        ffi::KISSDB_Iterator_init(p, &mut it);
        assert_eq!(
            ffi::KISSDB_Iterator_next(&mut it, null.cast(), null.cast()),
            -3
        );
        assert_eq!(
            ffi::KISSDB_open(null, c"x".as_ptr(), 1, 5, 510, 128, 8028),
            -3
        );
        ffi::Kdb_wrlock(std::ptr::null_mut());
        ffi::Kdb_rdlock(std::ptr::null_mut());
        ffi::Kdb_unlock(std::ptr::null_mut());
        assert_eq!(ffi::kdbShmemOpen(std::ptr::null(), 1, &mut made), -1);
        assert!(ffi::kdbGetShmName(std::ptr::null(), c"x".as_ptr()).is_null());
        assert!(ffi::kdbGetShmName(c"-ht".as_ptr(), std::ptr::null()).is_null());
        assert_eq!(ffi::kdbShmemClose(-1, std::ptr::null()), ffi::Kdb_false);
        assert_eq!(
            ffi::freeKdbShmemPtr(std::ptr::null_mut(), 1),
            ffi::Kdb_false
        );
    }
    // SAFETY: zero is valid for numbers and pointers.
    let mut zeroed: KISSDB = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours; no path.
    let rc = unsafe { ffi::KISSDB_open(&mut zeroed, std::ptr::null(), 1, 5, 510, 128, 8028) };
    assert_eq!(rc, ffi::ERROR_INVALID_PARAMETERS);
    close(&db);
}

#[test]
fn failure_28_a_key_put_again_after_an_earlier_slot_was_deleted() {
    // On the disk: the same key twice. A second key of a slot lies in table 1; the first one is deleted, and the second put
    // again: the original took the first free slot of the chain without looking further. Deleting the key
    // then took the new value away, and the old one was back. Fails if a deleted key has any value.
    let scratch = place();
    let path = scratch.db("a.db");
    let db = opened(&path, ffi::RWCREAT, SETTINGS);
    put(&db, CHAIN[0], b"first");
    put(&db, CHAIN[1], b"old");
    delete(&db, CHAIN[0]);
    put(&db, CHAIN[1], b"new");
    finds("put again", &db, &model(&[(CHAIN[1], b"new")]));
    close(&db);
    is_clean("put again", &path, &model(&[(CHAIN[1], b"new")]));
    let db = open(&path);
    delete(&db, CHAIN[1]);
    assert_eq!(db.get(CHAIN[1].as_bytes()), Err(1));
    assert_eq!(db.delete(CHAIN[1].as_bytes()).0, 1, "it was there twice");
    finds("deleted", &db, &Model::new());
    close(&db);
    is_clean("deleted", &path, &Model::new());
    to_rebuild(&path);
    let db = open(&path);
    finds("deleted, rebuilt", &db, &Model::new());
    close(&db);
}

#[test]
fn failure_28_a_file_in_which_the_original_has_left_a_key_twice() {
    // Such files are in the field. The first of the two counts, as for the original. Fails if the other one is ever seen.
    let mut image = Image::with(
        SETTINGS,
        &[(CHAIN[0], b"first"), (CHAIN[1], b"old"), ("/b", b"2")],
    );
    let (_, index, at) = image.find(CHAIN[0]);
    image.write(at, &pair(SETTINGS, true, CHAIN[1].as_bytes(), b"new", 0));
    image.set_slot(0, index, at as i64, at as i64 + 8192, 0);
    let wanted = model(&[(CHAIN[1], b"new"), ("/b", b"2")]);
    for image in [image.clone(), image.clone().unclean(), image.into_rebuild()] {
        let scratch = place();
        let path = scratch.db("a.db");
        image.save(&path);
        let db = open(&path);
        finds("twice", &db, &wanted);
        put(&db, CHAIN[1], b"newer");
        assert_eq!(db.get(CHAIN[1].as_bytes()), Ok(b"newer".to_vec()));
        close(&db);
        let db = open(&path);
        assert_eq!(db.get(CHAIN[1].as_bytes()), Ok(b"newer".to_vec()));
        delete(&db, CHAIN[1]);
        assert_eq!(db.get(CHAIN[1].as_bytes()), Err(1), "the old value is back");
        finds("deleted", &db, &model(&[("/b", b"2")]));
        close(&db);
        is_clean("deleted", &path, &model(&[("/b", b"2")]));
    }
}

#[test]
fn failure_31_old_values_do_not_stay_in_the_file() {
    // On the disk: a password, behind the shorter value that has replaced it, or in a deleted record. Fails if a clean file
    // still has it anywhere.
    let secret = b"correct horse battery staple ".repeat(20);
    for sizes in [SETTINGS, RESOURCES] {
        let secret = &secret[..secret.len().min(sizes.value as usize)];
        for (what, others) in [("alone", 0), ("among others", 20)] {
            let scratch = place();
            let path = scratch.db("a.db");
            let db = opened(&path, ffi::RWCREAT, sizes);
            for n in 0..others {
                put(&db, &format!("/other{n}"), b"public");
            }
            for key in [
                "/shorter", "/empty", "/deleted", "/again", "/much", CHAIN[0], CHAIN[1],
            ] {
                put(&db, key, secret);
            }
            close(&db);
            let has_it = || {
                let bytes = fs::read(&path).expect("the file");
                bytes.windows(14).any(|w| w == b"battery staple")
            };
            assert!(has_it(), "{what}: the test would see it");
            let db = opened(&path, ffi::RDWR, sizes);
            put(&db, "/shorter", b"short");
            put(&db, "/empty", b"");
            put(&db, "/much", secret);
            put(&db, "/much", b"short");
            delete(&db, "/deleted");
            delete(&db, "/again");
            put(&db, "/again", b"new");
            delete(&db, CHAIN[0]);
            put(&db, CHAIN[2], b"another key");
            delete(&db, CHAIN[1]);
            close(&db);
            assert!(!has_it(), "{what}, {}: it is still there", sizes.value);
            assert_eq!(
                check::check(&fs::read(&path).expect("the file"), true),
                [""; 0]
            );
        }
    }
}

#[test]
fn failure_32_a_short_foreign_file_is_left_alone() {
    // On the disk: somebody's notes, under a name that a configuration has wrong. The original wrote a header over any
    // file shorter than one. Fails if a file that is not ours is opened or changed.
    let image = Image::with(SETTINGS, &[]).bytes;
    let mut almost = image[..200].to_vec();
    almost[100] = 1;
    for foreign in [
        b"hello, world".to_vec(),
        b"x".to_vec(),
        vec![b'x'; 4095],
        b"KdB but not what it should be".to_vec(),
        b"\0\0\0\0\0\0\0\0\0\0x".to_vec(),
        almost,
        vec![b'x'; 4096],
        vec![b'x'; 100_000],
        vec![0; 4097],
    ] {
        let scratch = place();
        let path = scratch.db("notes");
        fs::write(&path, &foreign).expect("a file");
        let before = fs::metadata(&path).expect("the file");
        let mut agent = Agent::start();
        for mode in ["RDONLY", "RDWR", "RWCREAT"] {
            for door in ["open", "middle", "middle19"] {
                let answer = agent.ask_quickly(&format!("{door} h {mode} {}", path.display()));
                let what = format!("{} bytes, {mode}, {door}", foreign.len());
                // Zeros are nobody's: a file of up to 4096 of them is an empty one, a longer one is none of ours.
                assert_eq!(answer, "-4", "{what}");
                assert!(
                    fs::read(&path).expect("the file") == foreign,
                    "{what}: changed"
                );
                assert_eq!(scratch.objects(), [""; 0], "{what}: left behind");
            }
        }
        let after = fs::metadata(&path).expect("the file");
        assert_eq!(
            (before.mtime_nsec(), before.ino()),
            (after.mtime_nsec(), after.ino())
        );
    }
}

#[test]
fn failure_32_what_a_power_cut_left_of_a_new_database_is_not_foreign() {
    // The other side: a file of up to 4096 bytes that is all zero, or begins as our header does, is a database that was
    // being made. Fails if it cannot be opened; read-only it stays as it is.
    let whole = Image::with(RESOURCES, &[]).bytes;
    let mut starts = vec![Vec::new(), vec![0; 1], vec![0; 512], vec![0; 4096]];
    starts.extend([1, 4, 32, 40, 56, 512, 4095].map(|n| whole[..n].to_vec()));
    for start in starts {
        let scratch = place();
        let path = scratch.db("a.db");
        fs::write(&path, &start).expect("a file");
        let db = Plain::new();
        assert_eq!(
            db.open(&path, ffi::RDONLY, ffi::WT, SETTINGS),
            ffi::ERROR_IO
        );
        assert!(
            fs::read(&path).expect("the file") == start,
            "changed by a reader"
        );
        let db = open(&path);
        put(&db, "/a", b"1");
        close(&db);
        is_clean("made", &path, &model(&[("/a", b"1")]));
        let of_the_file = start.len() >= 56 && start[0] == b'K';
        let key_size = fs::read(&path).expect("the file")[40];
        assert_eq!(
            key_size,
            if of_the_file { 64 } else { 128 },
            "{} bytes",
            start.len()
        );
    }
}

#[test]
fn failure_34_an_open_that_fails_leaves_nothing_locked() {
    // The error paths of the original's open and close kept the semaphore, or the lock: the next one hung. Fails if
    // anybody has to wait after a failed open, or a shared object stays behind.
    let scratch = place();
    let (foreign, none) = (scratch.db("foreign"), scratch.db("none/a.db"));
    fs::write(&foreign, "hello, world").expect("a file");
    let mut agent = Agent::start();
    for door in ["open", "middle", "middle19"] {
        for turn in 0..3 {
            let calls = [
                (format!("{door} h RDWR {}", foreign.display()), "-4"),
                (format!("{door} h RWCREAT {}", none.display()), "-1"),
                (
                    format!("{door} h RDWR {}", scratch.db("absent").display()),
                    "-1",
                ),
                (format!("{door} h 77 {}", foreign.display()), "-3"),
                (
                    format!("{door} h RWCREAT {}", scratch.path().display()),
                    "-1",
                ),
            ];
            for (call, answer) in calls {
                assert_eq!(agent.ask_quickly(&call), answer, "turn {turn}: {call}");
            }
        }
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
    // While somebody has it open: a replace that is refused must not disturb, and its semaphore is theirs.
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let user = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    for _ in 0..3 {
        let call = format!("middle h RWREPLACE {}", path.display());
        assert_eq!(agent.ask_quickly(&call), "-5");
        // The middleware posts once more than it has waited: what it does with its own semaphore is not ours.
        assert!(user.semaphore() >= Some(1));
    }
    assert_eq!(user.ref_count(), 1);
    assert_eq!(user.put(b"/b", b"2"), (0, 1));
    assert_eq!(user.close(), 0);
    is_clean("the user", &path, &model(&[("/a", b"1"), ("/b", b"2")]));
}

#[test]
fn failure_34_a_close_that_fails_leaves_nothing_locked() {
    // The same for a close that cannot write: the file was cut off under it. Fails if semaphore or lock stay taken, or an
    // object stays behind.
    for door in ["middle", "middle19"] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(agent.ask("put h /b 2"), "0");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        file.set_len(4096).expect("cut off");
        assert_eq!(
            agent.ask_quickly("close h"),
            "-1",
            "{door}: the close cannot have written"
        );
        assert_eq!(scratch.objects(), [""; 0], "{door}");
        assert_eq!(
            agent.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(agent.ask_quickly("semaphore h"), "1", "{door}");
        assert_eq!(agent.ask_quickly("put h /c 3"), "0");
        assert_eq!(agent.ask_quickly("close h"), "0");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

#[test]
fn failure_34_a_close_by_who_holds_the_lock() {
    // A handle is closed while its own user holds the callers' lock. Fails if the next one waits for it.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut stays = Agent::start();
    assert_eq!(stays.ask(&format!("middle h RDWR {}", path.display())), "0");
    let mut closes = Agent::start();
    assert_eq!(closes.ask(&format!("open h RDWR {}", path.display())), "0");
    assert_eq!(closes.ask("lock h"), "done");
    assert_eq!(closes.ask_quickly("close h"), "0");
    assert_eq!(stays.ask_quickly("put h /b 2"), "0");
    assert_eq!(stays.ask_quickly("close h"), "0");
    assert_eq!(scratch.objects(), [""; 0]);
}
