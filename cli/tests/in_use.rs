//! Two processes write while the command looks, copies and dumps: what it sees is of one moment, nothing that it
//! reports is their doing, and they are not in anybody's way. And what stays in /dev/shm when they are killed.

mod support;

use kissdb::Database;
use kissdb::inspect::{Inspector, Weight};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Dir, feed, run, settings};

/// This program, started again as a writer.
const WRITER: &str = "KISSDB_CLI_TEST_WRITER";
const KEYS: u64 = 300;

fn key(who: &str, n: u64) -> String {
    format!("/{who}/{n:04}")
}

/// Not a test of its own: gives all keys of one writer the number of its round, again and again.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER) else {
        return;
    };
    let who = std::env::var("WHO").expect("a name");
    let how = std::env::var("HOW").expect("a way");
    if how == "comes and goes" {
        return come_and_go(Path::new(&path), &who);
    }
    let since = Instant::now();
    let mut db = Database::open(&path).expect("opens");
    let mut round = 0u64;
    // Ends by itself should the test die.
    while since.elapsed() < Duration::from_secs(60)
        && Path::new(&path).with_extension("go").exists()
    {
        round += 1;
        for n in 0..KEYS {
            db.put(key(&who, n), round.to_string()).expect("puts");
            if n % 7 == 0 {
                db.put(key(&who, 10_000 + round % 5), "comes and goes")
                    .expect("puts");
                db.delete(key(&who, 10_000 + round % 5)).expect("deletes");
            }
        }
        if how == "closes" && round.is_multiple_of(3) {
            db.close().expect("closes");
            db = Database::open(&path).expect("opens");
        }
    }
}

/// As many short programs do: opens, changes a few keys and closes, again and again.
fn come_and_go(path: &Path, who: &str) {
    let since = Instant::now();
    let mut round = 0u64;
    while since.elapsed() < Duration::from_secs(60) && path.with_extension("go").exists() {
        round += 1;
        let mut db = Database::open(path).expect("opens");
        for n in 0..3 {
            let name = key(who, (7 * round + n) % KEYS);
            if (round + n).is_multiple_of(5) {
                db.delete(name).expect("deletes");
            } else {
                db.put(name, "x".repeat(round as usize % 600))
                    .expect("puts");
            }
        }
        db.close().expect("closes");
        // Sometimes nobody is there when a look begins.
        std::thread::sleep(Duration::from_micros(round * 619 % 4000));
    }
}

fn start(path: &Path, who: &str, how: &str) -> Child {
    let mut c = Command::new(std::env::current_exe().expect("a program"));
    c.args(["--exact", "writer", "--nocapture"])
        .env(WRITER, path)
        .env("WHO", who)
        .env("HOW", how)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts")
}

#[test]
fn two_writers_and_the_command() {
    let dir = Dir::new();
    let (path, go, new) = (dir.path("a.db"), dir.path("a.go"), dir.path("new.db"));
    let mut db = Database::open(&path).expect("opens");
    for who in ["x", "y"] {
        for n in 0..KEYS {
            db.put(key(who, n), "0").expect("puts");
        }
    }
    std::fs::write(&go, "").expect("writes");
    let mut writers = [start(&path, "x", "closes"), start(&path, "y", "closes")];
    // Meanwhile somebody always has it open.
    db.put("/here", "1").expect("puts");
    while db.get(key("y", KEYS - 1)).expect("reads").as_deref() == Some(b"0") {
        std::thread::sleep(Duration::from_millis(5));
    }
    for n in 0..6 {
        let check = run("check --notes", &[&path]).is(0);
        assert!(check.out.contains(", in use"), "{}", check.out);
        let dump = run("dump", &[&path]).is(0);
        for who in ["x", "y"] {
            let prefix = format!("/{who}/0");
            let rounds: Vec<u64> = dump
                .json_lines()
                .iter()
                .filter(|l| l["key"].as_str().is_some_and(|k| k.starts_with(&prefix)))
                .map(|l| {
                    l["value"]
                        .as_str()
                        .and_then(|v| v.parse().ok())
                        .expect("a number")
                })
                .collect();
            assert_eq!(rounds.len() as u64, KEYS);
            assert!(rounds.is_sorted_by(|a, b| a >= b), "{rounds:?}");
            assert!(rounds[0] - rounds[rounds.len() - 1] <= 1, "{rounds:?}");
        }
        run("copy --force", &[&path, &new]).is(0);
        run("check --notes", &[&new]).is(0);
        let info = run("info --json", &[&path]).is(0).json();
        let users = info["users"].as_array().expect("a list");
        let pids: Vec<u64> = users.iter().filter_map(|u| u["pid"].as_u64()).collect();
        assert!(pids.contains(&u64::from(std::process::id())), "{info}");
        run("compact", &[&path]).is(2).says("in use by process");
        let line = format!("{{\"key\":\"/load/{n}\",\"value\":\"1\"}}");
        feed("load --in-place", &[&path], line.as_bytes()).is(0);
    }
    let shm = run("shm --json", &[&path]).is(0).json();
    assert_eq!(shm["state"], "in use");
    // Who only looked has left nothing behind.
    let users = shm["users"].as_array().expect("a list");
    assert!(users.iter().all(|u| u["alive"] == true), "{shm}");
    run("shm --clean", &[&path]).is(0);
    assert_eq!(run("shm --json", &[&path]).is(0).json()["state"], "in use");
    std::fs::remove_file(&go).expect("removes");
    for w in &mut writers {
        assert!(w.wait().expect("ends").success());
    }
    db.close().expect("closes");
    run("check", &[&path]).is(0);
    assert_eq!(run("get", &[&path, &"/load/5"]).is(0).out, "1\n");
    assert!(dir.objects().is_empty(), "{:?}", dir.objects());
}

/// A sound file, which a program opens, changes and closes again and again: two of five checks reported faults that were not
/// there, because the file was closed when they began and in use when they went on, or the other way round.
#[test]
fn who_comes_and_goes_is_no_finding() {
    let dir = Dir::new();
    let (path, go) = (dir.path("a.db"), dir.path("a.go"));
    let mut db = Database::open(&path).expect("opens");
    for n in 0..KEYS {
        db.put(key("x", n), "0").expect("puts");
    }
    db.close().expect("closes");
    std::fs::write(&go, "").expect("writes");
    let mut writer = start(&path, "x", "comes and goes");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        let check = run("check --json", &[&path]).is(0);
        assert_eq!(check.err, "");
        assert_eq!(check.json()["unsure"], false, "{}", check.out);
        run("info", &[&path]).is(0);
    }
    std::fs::remove_file(&go).expect("removes");
    assert!(writer.wait().expect("ends").success());
    run("check", &[&path]).is(0);
    assert!(dir.objects().is_empty(), "{:?}", dir.objects());
}

/// Another file was put in the place of the one that was being opened for a check. It asked the old one, which nobody used, and read
/// the new one, which was in use: so that was "not closed".
#[test]
fn a_file_that_is_replaced_is_not_mixed_up_with_the_new_one() {
    let dir = Dir::new();
    let (path, used, closed) = (dir.path("a.db"), dir.path("used.db"), dir.path("closed.db"));
    settings(&closed, &[("/a", "one")]);
    let mut db = Database::open(&used).expect("opens");
    db.put("/a", "two").expect("puts");
    let put = |file: &Path| {
        let new = dir.path("new");
        std::fs::hard_link(file, &new).expect("links");
        std::fs::rename(&new, &path).expect("renames");
    };
    put(&closed);
    let since = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 0u64.. {
                put([&used, &closed][n as usize % 2]);
                std::thread::sleep(Duration::from_micros(n * 37 % 200));
                if since.elapsed() > Duration::from_secs(2) {
                    break;
                }
            }
        });
        while since.elapsed() < Duration::from_secs(2) {
            let report = Inspector::open(&path).and_then(|mut i| i.survey(|_, _| ()));
            let mut found = report.expect("looks").findings;
            found.retain(|f| f.rule.weight() > Weight::Note);
            assert_eq!(found, []);
        }
    });
    db.close().expect("closes");
}

/// Both writers are killed: the file says so, the objects are left, and `shm --clean` removes them, but not those of others.
#[test]
fn what_the_dead_leave() {
    let dir = Dir::new();
    let (path, other, go) = (dir.path("a.db"), dir.path("b.db"), dir.path("a.go"));
    std::fs::write(&go, "").expect("writes");
    let mut writers = [start(&path, "x", "stays"), start(&path, "y", "stays")];
    let mut living = Database::open(&other).expect("opens");
    living.put("k", "v").expect("puts");
    let wait = Instant::now();
    while wait.elapsed() < Duration::from_secs(20) && run("get", &[&path, &key("y", 5)]).status != 0
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    for w in &mut writers {
        w.kill().expect("kills");
        w.wait().expect("ends");
    }
    let check = run("check", &[&path]).is(1);
    assert!(check.out.contains("[not-closed]"), "{}", check.out);
    let shm = run("shm --json", &[&path]).is(0).json();
    assert_eq!(shm["state"], "left behind");
    assert_eq!(shm["users"][0]["alive"], false);
    // As if the middleware had died with changes in its cache: they are not thrown away.
    let info = dir.objects().into_iter().find(|o| {
        let name = o.to_string_lossy();
        name.contains("_a_db") && name.ends_with("-shm-info")
    });
    let info = File::options()
        .write(true)
        .open(info.expect("an object"))
        .expect("opens");
    let cache_created = |v: i16| info.write_all_at(&v.to_le_bytes(), 16).expect("writes");
    cache_created(-1);
    run("shm --clean", &[&path]).is(1);
    // Nor does anybody who only looks throw them away with the object when he leaves.
    run("list", &[&path]).is(0);
    run("info", &[&path]).is(1);
    assert_eq!(run("shm --json", &[&path]).is(0).json()["cached"], true);
    cache_created(0);
    assert!(!run("list", &[&path]).is(0).out.is_empty());
    // A look by the library gives the objects back by itself, or --clean does.
    run("shm --clean", &[&path]).is(0);
    let left: Vec<_> = dir.objects();
    assert!(
        left.iter().all(|o| o.to_string_lossy().contains("_b_db")) && !left.is_empty(),
        "{left:?}"
    );
    run("repair", &[&path]).is(0);
    run("check", &[&path]).is(0);
    drop(living);
    assert!(dir.objects().is_empty(), "{:?}", dir.objects());
}

/// The tests removed what was not theirs: each file under /dev/shm whose name had that of their directory anywhere in it.
#[test]
fn tests_clean_up_after_themselves_only() {
    let dir = Dir::new();
    let db = Database::open(dir.path("a.db")).expect("opens");
    let objects = dir.objects();
    assert_eq!(objects.len(), 2, "{objects:?}");
    let name = objects[0].file_name().expect("a name").to_string_lossy();
    let of_another = objects[0].with_file_name(format!("_other{name}"));
    std::fs::write(&of_another, "").expect("writes");
    let found = dir.objects();
    db.close().expect("closes");
    drop(dir);
    let stays = of_another.exists();
    let _ = std::fs::remove_file(&of_another);
    assert!(stays && found.len() == 2, "{found:?}");
}
