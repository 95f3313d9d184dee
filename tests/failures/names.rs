//! One file under two names, two files under one: 21, and the hard cases of sharing (P5).

use super::agent::{Agent, Mount, ONE_SECOND};
use super::build::Image;
use super::support::ffi::{self, Handle, SETTINGS};
use super::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn failure_21_two_files_whose_objects_have_one_name() {
    // On the disk: two databases, `a.db` and `a_db`. The names of their shared objects are the same: `.` becomes `_`. The
    // second user joined the objects of the other file: it wrote the tables and the length of the one into the other,
    // one of them shrank, its users got SIGBUS. Fails if a key of one file is found in the other, or one is lost.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let (dot, bar) = (scratch.db("a.db"), scratch.db("a_db"));
        make(&dot, SETTINGS, &[("/dot", b"1")]);
        make(&bar, SETTINGS, &[("/bar", b"2")]);
        let mut agent = Agent::start();
        let mut other = Agent::start();
        assert_eq!(
            agent.ask(&format!("{door} dot RDWR {}", dot.display())),
            "0"
        );
        assert_eq!(
            other.ask_quickly(&format!("{door} bar RDWR {}", bar.display())),
            "0"
        );
        assert_eq!(
            agent.ask_quickly(&format!("{door} bar RDWR {}", bar.display())),
            "0"
        );
        assert_eq!(agent.ask("keys dot"), "/dot");
        assert_eq!(other.ask("keys bar"), "/bar");
        for n in 0..40 {
            assert_eq!(agent.ask(&format!("fill dot /dot{n} {n} 100")), "0");
        }
        assert_eq!(other.ask("put bar /late 3"), "0");
        assert_eq!(
            agent.ask("get bar /late"),
            "3",
            "the second file has two users"
        );
        assert_eq!(agent.ask("get dot /late"), "!1");
        if door != "open" {
            assert_eq!(agent.ask("count dot"), "1");
            assert_eq!(agent.ask("count bar"), "2");
        }
        // Whose name it is goes first; the other one stays.
        assert_eq!(agent.ask("close dot"), "0");
        assert_eq!(other.ask("put bar /later 4"), "0");
        assert_eq!(
            agent.ask_quickly(&format!("{door} dot RDWR {}", dot.display())),
            "0"
        );
        assert_eq!(agent.ask("get dot /dot"), "1");
        assert_eq!(agent.ask("close bar"), "0");
        assert_eq!(other.ask("close bar"), "0");
        assert_eq!(agent.ask("close dot"), "0");
        let bars = model(&[("/bar", b"2"), ("/late", b"3"), ("/later", b"4")]);
        is_clean("a_db", &bar, &bars);
        let mut dots = model(&[("/dot", b"1")]);
        for n in 0..40 {
            dots.insert(format!("/dot{n}").into_bytes(), support::value(n, 100));
        }
        is_clean("a.db", &dot, &dots);
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

#[test]
fn failure_21_the_leftover_of_a_dead_user_of_the_other_file() {
    // The same with a dead user of `a.db`, whose object, and perhaps the cache with what it had not written yet, is still
    // there when `a_db` is opened. Fails if it is taken for that file's, or removed: the next user of `a.db` needs it.
    let scratch = place();
    let (dot, bar) = (scratch.db("a.db"), scratch.db("a_db"));
    make(&dot, SETTINGS, &[("/dot", b"1")]);
    make(&bar, SETTINGS, &[("/bar", b"2")]);
    let mut dies = Agent::start();
    let cached = dies.ask(&format!("job cache-and-die {}", dot.display()));
    assert_eq!(cached, "done");
    dies.kill();
    let other = Handle::opened(&bar, ffi::RDWR, SETTINGS).expect("open");
    assert!(!other.cache_created(), "the cache of a.db");
    assert_eq!(other.get(b"/bar"), Ok(b"2".to_vec()));
    let names = [other.plain().cache_name(), ffi::shm_name("-cache", &bar)];
    assert_ne!(
        names[0], names[1],
        "the cache of a_db would be that of a.db"
    );
    assert_eq!(other.put(b"/late", b"3"), (0, 1));
    assert_eq!(other.close(), 0);
    is_clean("a_db", &bar, &model(&[("/bar", b"2"), ("/late", b"3")]));
    let next = Handle::opened(&dot, ffi::RDWR, SETTINGS).expect("open");
    assert!(next.cache_created(), "the cache of a.db is forgotten");
    assert_eq!(next.get(b"/dot"), Ok(b"1".to_vec()));
    next.set_cache_created(false);
    assert_eq!(next.close(), 0);
}

/// In the agent: a user of the middleware that has made a cache.
pub fn cache_and_die(path: &str) -> String {
    let handle = Handle::opened(Path::new(path), ffi::RDWR, SETTINGS).expect("open");
    handle.set_cache_created(true);
    handle.leak();
    "done".into()
}

/// A file and its second names: through `.`, through `..`, a symbolic link to it and to its directory, a hard link.
fn spellings(scratch: &Scratch) -> (PathBuf, Vec<PathBuf>) {
    let dir = scratch.db("dir");
    fs::create_dir(&dir).expect("a directory");
    let path = dir.join("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let (link, to_dir, hard) = (
        scratch.db("link.db"),
        scratch.db("linked"),
        scratch.db("hard.db"),
    );
    symlink(&path, &link).expect("a link");
    symlink("dir", &to_dir).expect("a link");
    fs::hard_link(&path, &hard).expect("a link");
    let names = vec![
        scratch.path().join("./dir/a.db"),
        dir.join("../dir/a.db"),
        PathBuf::from(format!("{}//a.db", dir.display())),
        link,
        to_dir.join("a.db"),
        hard,
    ];
    (path, names)
}

#[test]
fn failure_21_two_spellings_of_one_path() {
    // On the disk: one database. Two users spell its path differently, or one comes through a link: for the original these
    // were two databases with two states; each wrote its own tables at its close, and the keys of the other were gone.
    // Fails if the second one does not see what the first one puts, or if either loses a key.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let (path, names) = spellings(&scratch);
        let mut agents: Vec<Agent> = Vec::new();
        let mut first = Agent::start();
        assert_eq!(first.ask(&format!("{door} h RDWR {}", path.display())), "0");
        for (n, name) in names.iter().enumerate() {
            scratch.also(name);
            let mut agent = Agent::start();
            let answer = agent.ask_quickly(&format!("{door} h RDWR {}", name.display()));
            assert_eq!(answer, "0", "{}", name.display());
            assert_eq!(first.ask(&format!("put h /first{n} {n}")), "0");
            assert_eq!(agent.ask(&format!("get h /first{n}")), n.to_string());
            assert_eq!(agent.ask(&format!("put h /agent{n} {n}")), "0");
            assert_eq!(first.ask(&format!("get h /agent{n}")), n.to_string());
            if door != "open" {
                assert_eq!(
                    first.ask("count h"),
                    (n + 2).to_string(),
                    "{}",
                    name.display()
                );
            }
            // One lock for all.
            assert_eq!(first.ask("lock h"), "done");
            agent.tell("lock h");
            assert_eq!(
                agent.hear(Duration::from_millis(50)),
                None,
                "{}",
                name.display()
            );
            assert_eq!(first.ask("unlock h"), "done");
            assert_eq!(agent.hear(ONE_SECOND), Some("done".into()));
            assert_eq!(agent.ask("unlock h"), "done");
            agents.push(agent);
        }
        // The first one, whose name the objects have, goes first.
        assert_eq!(first.ask("close h"), "0");
        let mut wanted = model(&[("/a", b"1")]);
        for n in 0..names.len() {
            for who in ["first", "agent"] {
                wanted.insert(
                    format!("/{who}{n}").into_bytes(),
                    n.to_string().into_bytes(),
                );
            }
        }
        for agent in &mut agents {
            let keys: Vec<_> = wanted
                .keys()
                .map(|k| k.escape_ascii().to_string())
                .collect();
            assert_eq!(agent.ask("keys h"), keys.join(" "));
            assert_eq!(agent.ask_quickly("close h"), "0");
        }
        is_clean(door, &path, &wanted);
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

/// Removes all objects whose names begin so.
struct Objects(String);

impl Drop for Objects {
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .strip_prefix("sem.")
                .unwrap_or(&name)
                .starts_with(&self.0)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[test]
fn failure_21_a_relative_path() {
    // The same with a path that counts from the current directory: another process with the same relative path means
    // another file.
    let scratch = place();
    let (one, two) = (scratch.db("one"), scratch.db("two"));
    for dir in [&one, &two] {
        fs::create_dir(dir).expect("a directory");
        make(
            &dir.join("a.db"),
            SETTINGS,
            &[(
                dir.file_name().and_then(|n| n.to_str()).expect("a name"),
                b"1",
            )],
        );
    }
    // A name of this test's own, because the objects of `a.db` would be everybody's.
    let name = format!(
        "{}.db",
        scratch
            .path()
            .file_name()
            .and_then(|n| n.to_str())
            .expect("a name")
    );
    scratch.also(&name);
    let _both = Objects(support::object_name(Path::new(&name), ""));
    for dir in [&one, &two] {
        fs::rename(dir.join("a.db"), dir.join(&name)).expect("rename");
    }
    let mut agents = [Agent::start(), Agent::start()];
    for (agent, dir) in agents.iter_mut().zip([&one, &two]) {
        assert_eq!(agent.ask(&format!("cd {}", dir.display())), "done");
        assert_eq!(agent.ask_quickly(&format!("middle h RDWR {name}")), "0");
    }
    let mut whole = Agent::start();
    assert_eq!(
        whole.ask_quickly(&format!("middle h RDWR {}", one.join(&name).display())),
        "0"
    );
    assert_eq!(whole.ask("put h /whole 2"), "0");
    assert_eq!(agents[0].ask("keys h"), "/whole one");
    assert_eq!(agents[1].ask("keys h"), "two");
    assert_eq!(agents[1].ask("put h /b 3"), "0");
    for agent in &mut agents {
        assert_eq!(agent.ask_quickly("close h"), "0");
    }
    assert_eq!(whole.ask("keys h"), "/whole one");
    assert_eq!(whole.ask_quickly("close h"), "0");
    is_clean(
        "one",
        &one.join(&name),
        &model(&[("one", b"1"), ("/whole", b"2")]),
    );
    is_clean(
        "two",
        &two.join(&name),
        &model(&[("two", b"1"), ("/b", b"3")]),
    );
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn a_new_file_by_its_bare_name() {
    // A program makes a database in the directory that it works in. Fails if that does not work, or if it is not the file that others
    // know by its whole path.
    let scratch = place();
    let dir = scratch.path().file_name().and_then(|n| n.to_str());
    let name = format!("{}.db", dir.expect("a name"));
    scratch.also(&name);
    let path = scratch.db(&name);
    let mut agent = Agent::start();
    assert_eq!(
        agent.ask(&format!("cd {}", scratch.path().display())),
        "done"
    );
    assert_eq!(agent.ask(&format!("open h RWCREAT {name}")), "0");
    assert_eq!(agent.ask("put h /a 1"), "0");
    let db = open(&path);
    finds("by the whole path", &db, &model(&[("/a", b"1")]));
    close(&db);
    assert_eq!(agent.ask("close h"), "0");
    is_clean("both", &path, &model(&[("/a", b"1")]));
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_21_the_file_is_replaced_while_it_is_open() {
    // On the disk: another file under the same name, put there by a restore while the database was open. The next user
    // joined the state of the old file with the new one: tables of the one, pairs of the other. Fails if the new file
    // is not served as it is, if the old user is disturbed, or if its close touches the new file.
    for door in ["open", "middle"] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/old", b"1")]);
        let mut old = Agent::start();
        assert_eq!(old.ask(&format!("{door} h RDWR {}", path.display())), "0");
        for n in 0..10 {
            assert_eq!(old.ask(&format!("fill h /old{n} {n} 1000")), "0");
        }
        let restored = scratch.db("restored.db");
        let image = Image::with(SETTINGS, &[("/new", b"2")]);
        image.save(&restored);
        fs::rename(&restored, &path).expect("rename");
        let mut new = Agent::start();
        assert_eq!(
            new.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(new.ask("keys h"), "/new");
        assert_eq!(old.ask("get h /old"), "1");
        assert_eq!(old.ask("put h /old x"), "0");
        assert_eq!(new.ask("put h /newer 3"), "0");
        assert_eq!(new.ask("get h /old"), "!1");
        assert_eq!(old.ask_quickly("close h"), "0");
        assert_eq!(new.ask("keys h"), "/new /newer");
        assert_eq!(new.ask_quickly("close h"), "0");
        is_clean(door, &path, &model(&[("/new", b"2"), ("/newer", b"3")]));
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

#[test]
fn failure_21_the_file_is_cut_off_while_it_is_open() {
    // The same in place: somebody truncates the file, or copies a shorter one over it. The original's users got SIGBUS at
    // the next touch. Fails if the process dies; -1 and -4 are answers, and so is what is still there. After the close
    // the next one must be able to open what is left.
    for len in [0, 100, 4096, 8192, 16384, 16384 + 4096] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1"), ("/b", b"2")]);
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("middle h RDWR {}", path.display())), "0");
        assert_eq!(agent.ask("put h /c 3"), "0");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        file.set_len(len).expect("cut off");
        for call in [
            "get h /a",
            "put h /d 4",
            "keys h",
            "delete h /b",
            "get h /c",
            "put h /k0 5",
        ] {
            let answer = agent.ask(call);
            let known = ["0", "1", "3", "!1", "!-1", "!-4", "-1", "-4"];
            let fine = known.contains(&&*answer) || call == "keys h";
            assert!(fine, "{len}: {call}: {answer}");
        }
        agent.ask_quickly("close h");
        assert_eq!(scratch.objects(), [""; 0], "{len}");
        let mut next = Agent::start();
        let answer = next.ask_quickly(&format!("middle h RWCREAT {}", path.display()));
        assert!(["0", "-4"].contains(&&*answer), "{len}: {answer}");
        if answer == "0" {
            assert_eq!(next.ask("put h /e 6"), "0", "{len}");
            assert_eq!(next.ask("get h /e"), "6", "{len}");
            assert_eq!(next.ask("close h"), "0", "{len}");
            let left = check::pairs(&fs::read(&path).expect("the file"));
            assert_eq!(
                left.get(&b"/e"[..]).map(Vec::as_slice),
                Some(&b"6"[..]),
                "{len}"
            );
        }
        assert_eq!(next.end(), "exit 0", "{len}");
        assert_eq!(agent.end(), "exit 0", "{len}");
    }
}

/// Two processes open one file under two names at the same moment, many times.
fn meet(scratch: &Scratch, names: [&Path; 2], agents: &mut [Agent; 2]) {
    let path = names[0];
    let mut wanted = Model::new();
    for turn in 0..40 {
        let door = ["open", "middle", "middle19"][turn % 3];
        for (agent, name) in agents.iter_mut().zip(names) {
            agent.tell(&format!("{door} h RDWR {}", name.display()));
        }
        for (n, agent) in agents.iter_mut().enumerate() {
            // The two orders of the later middleware can stall each other (the caller's own defect).
            let limit = if door == "middle19" {
                ONE_SECOND * 12
            } else {
                ONE_SECOND
            };
            assert_eq!(
                agent.hear(limit),
                Some("0".into()),
                "turn {turn}, agent {n}"
            );
        }
        for n in 0..2 {
            let key = format!("/agent{n}turn{turn}");
            assert_eq!(agents[n].ask(&format!("put h {key} {turn}")), "0");
            let seen = agents[1 - n].ask(&format!("get h {key}"));
            assert_eq!(
                seen,
                turn.to_string(),
                "turn {turn}: two states of one file"
            );
            wanted.insert(key.into_bytes(), turn.to_string().into_bytes());
        }
        if door != "open" {
            assert_eq!(agents[turn % 2].ask("count h"), "2", "turn {turn}");
        }
        for agent in agents.iter_mut() {
            agent.tell("close h");
        }
        for agent in agents.iter_mut() {
            assert_eq!(agent.hear(ONE_SECOND * 12), Some("0".into()), "turn {turn}");
        }
        is_clean(&format!("turn {turn}"), path, &wanted);
        assert_eq!(scratch.objects(), [""; 0], "turn {turn}");
    }
}

#[test]
fn failure_21_two_names_at_the_same_moment() {
    // Two processes come at once, each under a name of its own: neither finds an object yet, and each could make one. Fails
    // if they do not share one state, or one of them is refused.
    let scratch = place();
    let (path, hard) = (scratch.db("a.db"), scratch.db("hard.db"));
    make(&path, SETTINGS, &[]);
    fs::hard_link(&path, &hard).expect("a link");
    let mut agents = [Agent::start(), Agent::start()];
    meet(&scratch, [&path, &hard], &mut agents);
}

#[test]
fn failure_21_the_second_mount_of_a_partition() {
    // The normal case in the field: one partition, mounted at two places, and users at both. Device and inode number are
    // the same, the paths have nothing in common. Fails as with two spellings.
    if !is_root("the second mount") {
        return;
    }
    let scratch = place();
    let (one, two) = (scratch.db("one"), scratch.db("two"));
    for dir in [&one, &two] {
        fs::create_dir(dir).expect("a directory");
    }
    let path = one.join("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let there = two.join("a.db");
    let mut first = Agent::start();
    let mut second = Agent::start_with_mounts(&[Mount::Bind(&one, &two)]);
    assert_eq!(first.ask(&format!("middle h RDWR {}", path.display())), "0");
    assert_eq!(
        second.ask_quickly(&format!("middle h RDWR {}", there.display())),
        "0"
    );
    assert_eq!(second.ask("count h"), "2");
    assert_eq!(first.ask("put h /first 2"), "0");
    assert_eq!(second.ask("get h /first"), "2");
    assert_eq!(second.ask("put h /second 3"), "0");
    assert_eq!(first.ask("get h /second"), "3");
    // The first one dies: the second one, and whoever comes under either name, goes on.
    first.kill();
    assert_eq!(second.ask_quickly("put h /late 4"), "0");
    let mut third = Agent::start();
    assert_eq!(
        third.ask_quickly(&format!("middle h RDWR {}", path.display())),
        "0"
    );
    assert_eq!(third.ask("keys h"), "/a /first /late /second");
    assert_eq!(third.ask("count h"), "2");
    assert_eq!(second.ask_quickly("close h"), "0");
    assert_eq!(third.ask_quickly("close h"), "0");
    let wanted = [
        ("/a", b"1"),
        ("/first", b"2"),
        ("/second", b"3"),
        ("/late", b"4"),
    ];
    let wanted = wanted.map(|(k, v)| (k, &v[..]));
    is_clean("two mounts", &path, &model(&wanted));
    assert_eq!(scratch.objects(), [""; 0]);

    fs::remove_file(&path).expect("the file");
    make(&path, SETTINGS, &[]);
    let mut agents = [Agent::start(), second];
    meet(&scratch, [&path, &there], &mut agents);
}

#[test]
fn failure_21_the_cache_of_the_first_name_serves_both() {
    // The middleware's write cache of a database that is open under two names: both must mean the same object. Fails if the
    // second user would make one of its own: what it cached would be lost.
    let scratch = place();
    let (path, hard) = (scratch.db("a.db"), scratch.db("hard.db"));
    make(&path, SETTINGS, &[]);
    fs::hard_link(&path, &hard).expect("a link");
    let first = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let second = Handle::opened(&hard, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(first.plain().cache_name(), ffi::shm_name("-cache", &path));
    assert_eq!(second.plain().cache_name(), first.plain().cache_name());
    first.set_cache_created(true);
    assert!(second.cache_created());
    first.set_cache_created(false);
    // The name of the semaphore is each caller's own, and both are gone in the end.
    assert_eq!(first.close(), 0);
    assert_eq!(second.close(), 0);
    assert_eq!(scratch.objects(), [""; 0]);
}
