//! Owners and permissions of shared objects (P8). Needs root, to be several users.

use super::agent::Agent;
use super::support::ffi::{self, Handle, SETTINGS};
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

/// Users and a group that need not exist.
const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;
const CAROL: u32 = 54_323;
const TEAM: u32 = 54_400;

fn object(path: &Path, tail: &str) -> PathBuf {
    Path::new("/dev/shm").join(support::object_name(path, tail))
}

/// A directory that everybody may enter, with a database of this owner.
fn place_of(uid: u32, gid: u32, mode: u32) -> (Scratch, PathBuf) {
    let scratch = place();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    chown(&path, Some(uid), Some(gid)).expect("chown");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    (scratch, path)
}

/// A process of this user and group.
fn user(uid: u32, gid: u32) -> Agent {
    let mut agent = Agent::start();
    assert_eq!(agent.ask("umask 077"), "done");
    assert_eq!(agent.ask(&format!("euid {uid} {gid}")), "done");
    agent
}

#[test]
fn promise_8_objects_have_owner_group_and_mode_of_the_file() {
    // The original's objects had the first user's owner and 0644 or 0666: whoever else could write the file was shut out, or
    // everybody was let in. Fails if owner, group or mode of an object is not the file's, whatever the umask.
    if !is_root("owner, group and mode") {
        return;
    }
    for (uid, gid, mode) in [
        (0, 0, 0o644),
        (0, 0, 0o600),
        (ALICE, TEAM, 0o660),
        (ALICE, TEAM, 0o640),
        (ALICE, TEAM, 0o666),
        (0, TEAM, 0o664),
    ] {
        let (_scratch, path) = place_of(uid, gid, mode);
        let mut agent = Agent::start();
        assert_eq!(agent.ask("umask 077"), "done");
        let told = agent.ask(&format!("job objects-of {}", path.display()));
        let wanted = format!("{uid}:{gid}:{mode:o}");
        assert_eq!(
            told,
            format!("-shm-info {wanted} -ht {wanted} -cache {wanted}")
        );
    }
}

/// In the agent: opens the database, makes a cache as the middleware does, and looks at the objects.
pub fn objects_of(path: &str) -> String {
    let path = Path::new(path);
    let handle = Handle::opened(path, ffi::RDWR, SETTINGS).expect("open");
    let name =
        std::ffi::CString::new(handle.plain().cache_name().expect("a name")).expect("a name");
    let mut made = 0;
    // SAFETY: the name lives through the call, made is ours.
    let fd = unsafe { ffi::kdbShmemOpen(name.as_ptr(), 4096, &mut made) };
    let told = ["-shm-info", "-ht", "-cache"].map(|tail| {
        let m = fs::metadata(object(path, tail)).expect("the object");
        format!("{tail} {}:{}:{:o}", m.uid(), m.gid(), m.mode() & 0o7777)
    });
    // SAFETY: the cache's descriptor and name.
    unsafe { ffi::kdbShmemClose(fd, name.as_ptr()) };
    assert_eq!(handle.close(), 0);
    told.join(" ")
}

#[test]
fn failure_21_two_files_of_two_owners_whose_objects_have_one_name() {
    // On the disk: `a.db` of one user and `a_db` of another, each for its owner alone. The names of their shared objects are
    // the same, and who may not write a file may not open its object: the second one to come was refused with -7. Fails
    // if either is, or if the users of one file do not share one state.
    if !is_root("two owners") {
        return;
    }
    let (scratch, dot) = place_of(ALICE, ALICE, 0o600);
    let bar = scratch.db("a_db");
    make(&bar, SETTINGS, &[("/b", b"2")]);
    chown(&bar, Some(BOB), Some(BOB)).expect("chown");
    fs::set_permissions(&bar, fs::Permissions::from_mode(0o600)).expect("chmod");
    for turn in 0..4 {
        let mut users = [(ALICE, &dot, "/a"), (BOB, &bar, "/b")]
            .into_iter()
            .cycle()
            .take(4)
            .map(|(uid, path, own)| (user(uid, uid), path, own))
            .collect::<Vec<_>>();
        // The other owner first, and last, in every second turn.
        users.rotate_left(turn % 2);
        for (user, path, _) in &mut users {
            let answer = user.ask_quickly(&format!("open h RDWR {}", path.display()));
            assert_eq!(answer, "0", "turn {turn}, {}", path.display());
        }
        for (n, (user, _, own)) in users.iter_mut().enumerate() {
            assert_eq!(user.ask(&format!("put h {own} {turn}{n}")), "0");
        }
        for (n, (user, _, own)) in users.iter_mut().enumerate() {
            // The later one of the two users of a file was the last to put.
            let last = n % 2 + 2;
            assert_eq!(user.ask(&format!("get h {own}")), format!("{turn}{last}"));
            assert_eq!(user.ask("keys h"), *own, "turn {turn}");
        }
        for (user, _, _) in &mut users {
            assert_eq!(user.ask_quickly("close h"), "0", "turn {turn}");
        }
        for path in [&dot, &bar] {
            let bytes = fs::read(path).expect("the file");
            assert_eq!(check::check(&bytes, true), [""; 0], "turn {turn}");
        }
        assert_eq!(scratch.objects(), [""; 0], "turn {turn}");
    }
}

#[test]
fn promise_8_who_may_write_the_file_may_share_it() {
    // Several users work with one database at the same time, by the file's group or by its mode; each of them comes first
    // once and goes last once. Fails if one is refused, or they do not share one state. /dev/shm is sticky: nobody
    // but its owner, the file's owner's or root can remove an object, and the last user may be somebody else.
    if !is_root("sharing by several users") {
        return;
    }
    for (mode, gids) in [
        (0o666, [ALICE, BOB, CAROL]),
        (0o660, [TEAM; 3]),
        (0o664, [TEAM; 3]),
    ] {
        let (scratch, path) = place_of(ALICE, TEAM, mode);
        let mut users = [
            user(ALICE, gids[0]),
            user(BOB, gids[1]),
            user(CAROL, gids[2]),
        ];
        for turn in 0..6 {
            let order = [
                [0, 1, 2],
                [1, 2, 0],
                [2, 0, 1],
                [2, 1, 0],
                [1, 0, 2],
                [0, 2, 1],
            ][turn];
            for n in order {
                let answer = users[n].ask_quickly(&format!("open h RDWR {}", path.display()));
                assert_eq!(
                    answer, "0",
                    "mode {mode:o}, turn {turn}, user {n}, order {order:?}"
                );
            }
            for n in order {
                assert_eq!(users[n].ask(&format!("put h /user{n} {turn}")), "0");
                for m in order {
                    assert_eq!(users[m].ask(&format!("get h /user{n}")), turn.to_string());
                }
            }
            for n in order {
                assert_eq!(
                    users[n].ask_quickly("close h"),
                    "0",
                    "mode {mode:o}, turn {turn}"
                );
            }
            let bytes = fs::read(&path).expect("the file");
            assert_eq!(
                check::check(&bytes, true),
                [""; 0],
                "mode {mode:o}, turn {turn}"
            );
        }
        drop(scratch);
    }
}

#[test]
fn promise_8_a_death_among_several_users() {
    // The same with deaths: the object of the dead one is there, and not everybody may remove it. Fails as above.
    if !is_root("a death among several users") {
        return;
    }
    let (_scratch, path) = place_of(ALICE, TEAM, 0o666);
    for (dead, next) in [
        (ALICE, BOB),
        (BOB, ALICE),
        (BOB, CAROL),
        (CAROL, BOB),
        (0, BOB),
        (BOB, 0),
    ] {
        let mut dies = user(dead, dead);
        assert_eq!(
            dies.ask_quickly(&format!("open h RDWR {}", path.display())),
            "0",
            "{dead}"
        );
        assert_eq!(dies.ask(&format!("put h /a {dead}")), "0");
        dies.kill();
        let mut lives = user(next, next);
        let answer = lives.ask_quickly(&format!("open h RDWR {}", path.display()));
        assert_eq!(answer, "0", "{next} after the death of {dead}");
        assert_eq!(lives.ask("get h /a"), dead.to_string());
        assert_eq!(lives.ask_quickly("close h"), "0");
    }
}

#[test]
fn promise_8_objects_of_strangers_are_not_trusted() {
    // Somebody who may not write the file puts an object under the name of its shared state, garbage or one that looks right,
    // to be given the data, or to crash whoever opens the database. Fails if the object is used, changed or
    // removed, or if the database cannot be opened.
    if !is_root("strangers") {
        return;
    }
    let (scratch, path) = place_of(0, 0, 0o644);
    let db = open(&path);
    let info = object(&path, "-shm-info");
    let looks_right = fs::read(&info).expect("the object");
    close(&db);
    let names = ["-shm-info", "-ht"];
    for (what, bytes) in [
        ("right", looks_right.clone()),
        ("noise", vec![0x5A; looks_right.len()]),
        ("empty", Vec::new()),
    ] {
        for tails in [&names[..1], &names[1..], &names[..]] {
            for tail in tails {
                let name = object(&path, tail);
                fs::write(&name, &bytes).expect("an object");
                chown(&name, Some(BOB), Some(BOB)).expect("chown");
                fs::set_permissions(&name, fs::Permissions::from_mode(0o666)).expect("chmod");
            }
            for door in ["open", "middle", "middle19"] {
                let what = format!("{what}, {tails:?}, {door}");
                let (mut first, mut second) = (Agent::start(), Agent::start());
                for agent in [&mut first, &mut second] {
                    let answer = agent.ask_quickly(&format!("{door} h RDWR {}", path.display()));
                    assert_eq!(answer, "0", "{what}");
                }
                assert_eq!(first.ask("put h /b 2"), "0", "{what}");
                assert_eq!(second.ask("get h /b"), "2", "{what}: two states");
                assert_eq!(first.ask_quickly("close h"), "0", "{what}");
                assert_eq!(second.ask_quickly("close h"), "0", "{what}");
                for tail in tails.iter().filter(|&&t| t == "-shm-info") {
                    let after = fs::read(object(&path, tail)).expect("the stranger's object");
                    assert!(after == bytes, "{what}: {tail} was written to");
                }
            }
            scratch.wipe_objects();
        }
    }
}

#[test]
fn promise_8_the_cache_of_a_stranger_is_not_trusted() {
    // The same with the caller's own -cache, which it opens through kdbShmemOpen: what lies there is written into the
    // database at the last close. Fails if an object of somebody who may not write the file is handed out, or
    // one that is too short for what the caller is going to map: its first touch would be SIGBUS.
    if !is_root("a stranger's cache") {
        return;
    }
    let (_scratch, path) = place_of(0, 0, 0o644);
    let handle = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let name = handle.plain().cache_name().expect("a name");
    let file = Path::new("/dev/shm").join(name.trim_start_matches('/'));
    let name = std::ffi::CString::new(name).expect("a name");
    let mut made = 0;
    // SAFETY: the name lives through the calls, made is ours.
    let mut open_it = || unsafe { ffi::kdbShmemOpen(name.as_ptr(), 8192, &mut made) };
    fs::write(&file, vec![0x5A; 8192]).expect("an object");
    chown(&file, Some(BOB), Some(BOB)).expect("chown");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
    let strangers = open_it();
    fs::remove_file(&file).expect("the object");
    fs::write(&file, vec![0x5A; 100]).expect("an object");
    let short = open_it();
    // A new one in its place is as good as a refusal.
    let room = fs::metadata(&file).map(|m| m.len());
    let _ = fs::remove_file(&file);
    assert_eq!(handle.close(), 0);
    assert_eq!(strangers, -1, "a descriptor of a stranger's cache");
    assert!(
        short == -1 || room.is_ok_and(|n| n >= 8192),
        "a descriptor of one that is too short"
    );
}

#[test]
fn promise_8_a_reader_who_may_not_write() {
    // A user who may read the file and not write it. To be refused while others use it is an answer. Fails if its coming or
    // going disturbs a writer, or if what it reads is wrong.
    if !is_root("a reader who may not write") {
        return;
    }
    let (scratch, path) = place_of(0, 0, 0o644);
    let mut reader = user(BOB, BOB);
    let mut writer = Agent::start();
    for turn in 0..2 {
        let first = reader.ask_quickly(&format!("open h RDONLY {}", path.display()));
        assert_eq!(first, "0", "turn {turn}: nobody else is there");
        assert_eq!(reader.ask("get h /a"), "1");
        assert_eq!(
            writer.ask_quickly(&format!("middle h RDWR {}", path.display())),
            "0",
            "turn {turn}"
        );
        for n in 0..20 {
            assert_eq!(writer.ask(&format!("put h /k{n} {turn}")), "0");
            assert_eq!(writer.ask(&format!("put h /a {n}")), "0");
            let seen = reader.ask("get h /a");
            assert_eq!(seen, n.to_string(), "turn {turn}");
        }
        assert_eq!(reader.ask_quickly("close h"), "0");
        let again = reader.ask(&format!("open h RDONLY {}", path.display()));
        assert!(
            ["0", "-1", "-5", "-7"].contains(&&*again),
            "turn {turn}: {again}"
        );
        if again == "0" {
            assert_eq!(reader.ask("get h /a"), "19");
            assert_eq!(reader.ask_quickly("close h"), "0");
        }
        assert_eq!(writer.ask("put h /a 1"), "0");
        assert_eq!(writer.ask_quickly("close h"), "0", "turn {turn}");
        let bytes = fs::read(&path).expect("the file");
        assert_eq!(check::check(&bytes, true), [""; 0], "turn {turn}");
    }
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn promise_8_a_reader_sees_what_writers_do() {
    // A user who may read the file and not write it had an object of his own, and believed what it said of the tables: keys in
    // a table that a writer appended later were absent for him. And if a writer was first, he was refused (-7).
    if !is_root("a reader beside writers") {
        return;
    }
    let (scratch, path) = place_of(0, 0, 0o644);
    let mut reader = user(BOB, BOB);
    let open_reader = format!("open h RDONLY {}", path.display());
    let open_writer = format!("open h RDWR {}", path.display());
    let same_slot = super::build::names_in_slot("k", 7, 510, 5);
    assert_eq!(
        reader.ask_quickly(&open_reader),
        "0",
        "nobody else is there"
    );
    for turn in 0..3 {
        let mut writer = Agent::start();
        assert_eq!(writer.ask_quickly(&open_writer), "0");
        let mut late = user(CAROL, CAROL);
        assert_eq!(late.ask_quickly(&open_reader), "0", "a writer is there");
        for key in &same_slot {
            for change in ["put", "put", "delete", "put"] {
                let (ask, wanted) = match change {
                    "put" => (format!("put h {key} {turn}{key}"), format!("{turn}{key}")),
                    _ => (format!("delete h {key}"), "!1".to_owned()),
                };
                assert_eq!(writer.ask(&ask), "0", "{ask}");
                for who in [&mut reader, &mut late] {
                    assert_eq!(who.ask(&format!("get h {key}")), wanted, "{ask}");
                }
            }
        }
        let keys = writer.ask("keys h");
        assert!(
            same_slot.iter().all(|k| keys.contains(k.as_str())),
            "{keys}"
        );
        assert_eq!(reader.ask("keys h"), keys);
        match turn {
            // It dies; then nobody is there who could recover the file.
            1 => writer.kill(),
            _ => assert_eq!(writer.ask_quickly("close h"), "0"),
        }
        for who in [&mut reader, &mut late] {
            assert_eq!(who.ask("keys h"), keys, "turn {turn}, after the writer");
            let key = &same_slot[4];
            assert_eq!(who.ask(&format!("get h {key}")), format!("{turn}{key}"));
        }
        assert_eq!(late.ask_quickly("close h"), "0");
    }
    assert_eq!(reader.ask_quickly("close h"), "0");
    let bytes = fs::read(&path).expect("the file");
    assert_eq!(check::check(&bytes, true), [""; 0]);
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn promise_8_a_reader_beside_writers_of_a_damaged_file() {
    // Both copies of a pair of a closed file are damaged. What a user saw who may not write the file: that there is no
    // such setting (1), where everybody else was told that it is damaged (-4). Fails if it is so, or if the answer takes long.
    // Once a writer changes the file, such a pair may be a put under way for those who do not share his state.
    if !is_root("a reader of a damaged file") {
        return;
    }
    let (scratch, path) = place_of(ALICE, TEAM, 0o644);
    let mut image = Image::with(SETTINGS, &[("/a", b"1"), ("/b", b"2")]);
    let pair = image.find("/b").2;
    image.ruin(pair).save(&path);
    let mut writer = user(ALICE, TEAM);
    assert_eq!(writer.ask(&format!("open h RDWR {}", path.display())), "0");
    let mut reader = user(BOB, BOB);
    assert_eq!(
        reader.ask(&format!("open h RDONLY {}", path.display())),
        "0"
    );
    let damaged = format!("!{}", ffi::ERROR_CORRUPT_DBFILE);
    for who in [&mut reader, &mut writer] {
        assert_eq!(who.ask_quickly("get h /b"), damaged);
        assert_eq!(who.ask("get h /a"), "1");
    }
    assert_eq!(writer.ask("put h /c 3"), "0");
    assert_eq!(writer.ask("get h /b"), damaged);
    assert_eq!(reader.ask_quickly("get h /b"), "!1");
    assert_eq!(reader.ask("get h /c"), "3");
    assert_eq!(reader.ask("close h"), "0");
    assert_eq!(writer.ask("close h"), "0");
    assert_eq!(scratch.objects(), [""; 0]);
}

/// Keys that are there all the time while [`writes_beside`] runs, some of them in one slot.
fn steady_keys() -> Vec<String> {
    let mut keys = super::build::names_in_slot("steady", 7, 510, 3);
    keys.extend((0..5).map(|n| format!("/steady/{n}")));
    keys
}

/// Every word of a value is its number.
fn steady_value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(1 + n as usize % 400)
}

/// In an agent: changes everything again and again, closes and opens in between.
pub fn writes_beside(path: &str, milliseconds: &str) -> String {
    let until = deadline(milliseconds);
    let (mut n, mut lives) = (0, 0);
    while std::time::Instant::now() < until {
        let db = opened(Path::new(path), ffi::RDWR, SETTINGS);
        for round in 0..300 {
            for key in steady_keys() {
                n += 1;
                assert_eq!(db.put(key.as_bytes(), &steady_value(n)).0, 0);
            }
            let comes = format!("/comes/{}", round % 7);
            match round % 2 {
                0 => assert_eq!(db.put(comes.as_bytes(), &steady_value(n)).0, 0),
                _ => drop(db.delete(comes.as_bytes())),
            }
        }
        close(&db);
        lives += 1;
    }
    format!("{n} puts in {lives} lives")
}

/// In an agent: reads all the time, and says what was wrong.
pub fn reads_beside(path: &str, milliseconds: &str) -> String {
    let until = deadline(milliseconds);
    let db = opened(Path::new(path), ffi::RDONLY, SETTINGS);
    let keys = steady_keys();
    let mut newest = vec![0; keys.len()];
    let mut reads = 0;
    // A loaded machine takes its time.
    while reads < 300 || std::time::Instant::now() < until {
        for (key, newest) in keys.iter().zip(&mut newest) {
            let value = match db.get(key.as_bytes()) {
                Ok(value) => value,
                Err(rc) => return format!("{key}: {rc} after {reads} reads"),
            };
            let n = u64::from_le_bytes(value[..8].try_into().expect("8 bytes"));
            if value != steady_value(n) || n < *newest {
                return format!("{key}: {n} after {newest}, {} bytes", value.len());
            }
            *newest = n;
            reads += 1;
        }
        let mut found = match db.keys() {
            Ok(found) => found,
            Err(rc) => return format!("iterate: {rc}"),
        };
        found.retain(|k| k.starts_with(b"/steady") || k.starts_with(b"steady"));
        found.sort();
        let mut wanted: Vec<_> = keys.iter().map(|k| k.clone().into_bytes()).collect();
        wanted.sort();
        if found != wanted {
            return format!("the iterator gave {} keys of {}", found.len(), wanted.len());
        }
    }
    close(&db);
    "right".into()
}

fn deadline(milliseconds: &str) -> std::time::Instant {
    let n = milliseconds.parse().expect("a number");
    std::time::Instant::now() + std::time::Duration::from_millis(n)
}

#[test]
fn promise_8_a_reader_beside_busy_writers() {
    // The same reader, while a writer changes what he reads, begins and ends lives, and no lock is shared: an answer is the
    // old value or the new one, never a mixture, never older than the one before, never that a key is not there.
    if !is_root("a reader beside busy writers") {
        return;
    }
    let (scratch, path) = place_of(0, 0, 0o644);
    let db = open(&path);
    for key in steady_keys() {
        assert_eq!(db.put(key.as_bytes(), &steady_value(0)).0, 0);
    }
    close(&db);
    let mut writers = [Agent::start()];
    let mut readers = [user(BOB, BOB), user(CAROL, CAROL)];
    for writer in &mut writers {
        writer.tell(&format!("job writes-beside {} 1500", path.display()));
    }
    for reader in &mut readers {
        reader.tell(&format!("job reads-beside {} 1300", path.display()));
    }
    let limit = std::time::Duration::from_secs(60);
    for reader in &mut readers {
        assert_eq!(reader.hear(limit).as_deref(), Some("right"));
    }
    for writer in &mut writers {
        let told = writer.hear(limit).expect("an answer");
        assert!(told.ends_with("lives"), "{told}");
    }
    let bytes = fs::read(&path).expect("the file");
    assert_eq!(check::check(&bytes, true), [""; 0]);
    assert_eq!(scratch.objects(), [""; 0]);
}
