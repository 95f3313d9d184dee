//! Deaths: 17 and 18. Every single point at which a process may die is tried in tests/kill_points.rs; here are those
//! that users met.

use super::agent::{Agent, ONE_SECOND};
use super::support::ffi::{self, Handle, SETTINGS};
use super::*;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// The doors of the two generations.
const MIDDLE: [&str; 2] = ["middle", "middle19"];

#[test]
fn failure_17_two_crashed_users() {
    // Not on the disk: the tables, which the original wrote when its user count came down to 0. Two users crashed: the
    // count stayed too high by two for ever, -14 was answered, the last close never came, and with the next
    // reboot everything put since was gone. Fails if the count is not right for the next users, or if the last
    // close does not leave a clean file.
    for door in MIDDLE {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut agents = [Agent::start(), Agent::start()];
        for (n, agent) in agents.iter_mut().enumerate() {
            assert_eq!(agent.ask(&format!("{door} h RDWR {}", path.display())), "0");
            assert_eq!(agent.ask(&format!("put h /user{n} {n}")), "0");
        }
        assert_eq!(agents[0].ask("count h"), "2");
        agents.into_iter().for_each(Agent::kill);
        for turn in 0..2 {
            let mut next = Agent::start();
            assert_eq!(
                next.ask_quickly(&format!("{door} h RDWR {}", path.display())),
                "0"
            );
            assert_eq!(next.ask_quickly("count h"), "1", "{door}, turn {turn}");
            assert_eq!(next.ask_quickly("keys h"), "/a /user0 /user1");
            assert_eq!(next.ask_quickly("close h"), "0");
            assert_eq!(scratch.objects(), [""; 0], "{door}, turn {turn}");
            let wanted = model(&[("/a", b"1"), ("/user0", b"0"), ("/user1", b"1")]);
            is_clean(door, &path, &wanted);
        }
    }
}

#[test]
fn failure_17_users_crash_while_another_one_stays() {
    // The same while a third one has the database open: it must be the last one when it closes. Fails if it is not.
    for door in MIDDLE {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut stays = Agent::start();
        assert_eq!(stays.ask(&format!("{door} h RDWR {}", path.display())), "0");
        for n in 0..2 {
            let mut agent = Agent::start();
            assert_eq!(agent.ask(&format!("{door} h RDWR {}", path.display())), "0");
            assert_eq!(agent.ask(&format!("put h /user{n} {n}")), "0");
            agent.kill();
        }
        assert_eq!(stays.ask_quickly("close h"), "0");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
        is_clean(
            door,
            &path,
            &model(&[("/a", b"1"), ("/user0", b"0"), ("/user1", b"1")]),
        );
    }
}

#[test]
fn failure_18_death_while_holding_the_lock() {
    // Not on the disk: nothing matters. A process died between Kdb_wrlock and Kdb_unlock: every other one waited for
    // that lock until the next reboot. Fails if anybody who was there before, or comes later, waits longer than a second.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut stays = Agent::start();
        assert_eq!(stays.ask(&format!("{door} h RDWR {}", path.display())), "0");
        let mut dies = Agent::start();
        assert_eq!(dies.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(dies.ask("lock h"), "done");
        // It is a lock: the other one waits as long as the holder lives.
        stays.tell("lock h");
        assert_eq!(
            stays.hear(Duration::from_millis(300)),
            None,
            "{door}: no lock at all"
        );
        let since = Instant::now();
        dies.kill();
        assert_eq!(stays.hear(ONE_SECOND), Some("done".into()), "{door}: hangs");
        assert!(
            since.elapsed() < ONE_SECOND,
            "{door}: {:?}",
            since.elapsed()
        );
        // And holds it now: somebody new waits for it in turn.
        let mut new = Agent::start();
        assert_eq!(
            new.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        new.tell("lock h");
        assert_eq!(
            new.hear(Duration::from_millis(100)),
            None,
            "{door}: two holders"
        );
        assert_eq!(stays.ask("unlock h"), "done");
        assert_eq!(new.hear(ONE_SECOND), Some("done".into()));
        assert_eq!(new.ask("unlock h"), "done");
        assert_eq!(stays.ask_quickly("put h /b 2"), "0");
        assert_eq!(stays.ask_quickly("close h"), "0");
        assert_eq!(new.ask_quickly("close h"), "0");
        is_clean(door, &path, &model(&[("/a", b"1"), ("/b", b"2")]));
    }
}

#[test]
fn failure_18_everybody_dies_while_holding_the_lock() {
    // The same without anybody left: the next one finds the lock taken in an object of dead users. Fails if it waits.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let path = scratch.db("a.db");
        let mut dies = Agent::start();
        assert_eq!(
            dies.ask(&format!("{door} h RWCREAT {}", path.display())),
            "0"
        );
        assert_eq!(dies.ask("put h /a 1"), "0");
        assert_eq!(dies.ask("lock h"), "done");
        dies.kill();
        let mut next = Agent::start();
        assert_eq!(
            next.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(next.ask_quickly("lock h"), "done");
        assert_eq!(next.ask_quickly("unlock h"), "done");
        assert_eq!(next.ask_quickly("get h /a"), "1");
        assert_eq!(next.ask_quickly("close h"), "0");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
        is_clean(door, &path, &model(&[("/a", b"1")]));
    }
}

#[test]
fn failure_18_death_between_the_semaphore_and_the_call() {
    // The semaphore of the database stands at 0: its holder died inside open or close. Every other open and close of the
    // middleware timed out after 5 s and failed, until the next reboot. Fails if the next opener does not get in within
    // a second, or somebody who is there already cannot close.
    for door in MIDDLE {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut stays = Agent::start();
        assert_eq!(stays.ask(&format!("{door} h RDWR {}", path.display())), "0");
        let mut dies = Agent::start();
        assert_eq!(dies.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(dies.ask("wait h"), "done");
        assert_eq!(stays.ask("semaphore h"), "0");
        dies.kill();
        let mut next = Agent::start();
        assert_eq!(
            next.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(next.ask("count h"), "2", "{door}");
        assert_eq!(next.ask_quickly("get h /a"), "1");
        assert_eq!(next.ask_quickly("close h"), "0");
        assert_eq!(stays.ask_quickly("close h"), "0");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

#[test]
fn failure_18_the_semaphore_is_left_at_0_and_nobody_is_there() {
    // The same after the only user has died. Fails as above.
    for door in MIDDLE {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut dies = Agent::start();
        assert_eq!(dies.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(dies.ask("wait h"), "done");
        dies.kill();
        let mut next = Agent::start();
        assert_eq!(
            next.ask_quickly(&format!("{door} h RDWR {}", path.display())),
            "0"
        );
        assert_eq!(next.ask_quickly("semaphore h"), "1");
        assert_eq!(next.ask_quickly("count h"), "1");
        assert_eq!(next.ask_quickly("close h"), "0");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

#[test]
fn failure_18_live_users_post_the_semaphore_with_their_next_calls() {
    // The same when no opener comes: somebody who works with the database frees it by its own calls, so that nobody who
    // is in the middle of a wait times out. Fails if the semaphore is still at 0 after a second of calls.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let works = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let mut dies = Agent::start();
    assert_eq!(dies.ask(&format!("middle h RDWR {}", path.display())), "0");
    assert_eq!(dies.ask("wait h"), "done");
    dies.kill();
    let since = Instant::now();
    while works.semaphore() == Some(0) && since.elapsed() < ONE_SECOND {
        assert_eq!(works.get(b"/a"), Ok(b"1".to_vec()));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(works.semaphore(), Some(1), "after {:?}", since.elapsed());
    assert_eq!(works.close(), 0);
}

#[test]
fn failure_18_a_semaphore_that_somebody_alive_holds_is_left_alone() {
    // The other side: a closer who is slow keeps what it holds. Fails if the library posts a semaphore of the living.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let works = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let mut slow = Agent::start();
    assert_eq!(slow.ask(&format!("middle h RDWR {}", path.display())), "0");
    // As in a close of the middleware: the semaphore, then the lock.
    assert_eq!(slow.ask("wait h"), "done");
    assert_eq!(slow.ask("lock h"), "done");
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(700) {
        assert_eq!(works.plain().get(b"/a"), Ok(b"1".to_vec()));
        assert_eq!(
            works.semaphore(),
            Some(0),
            "posted after {:?}",
            since.elapsed()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(slow.ask("unlock h"), "done");
    assert_eq!(slow.ask("post h"), "done");
    assert_eq!(slow.ask("close h"), "0");
    assert_eq!(works.close(), 0);
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_18_death_inside_open_and_close() {
    // A process is killed at some moment of a long row of opens and closes; the next one must get in within a second, by
    // either door, and find everything. Fails if anybody waits, gets an error, or finds a key missing.
    let _half_made = HalfMade::new();
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut rng = procs::Rng(18);
    for turn in 0..24 {
        let door = ["open", "middle", "middle19"][turn % 3];
        let mut agent = Agent::start();
        agent.tell(&format!("job open-and-close {door} {}", path.display()));
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        agent.kill();
        let mut next = Agent::start();
        let answer = next.ask_quickly(&format!("{door} h RDWR {}", path.display()));
        assert_eq!(answer, "0", "turn {turn}");
        if door != "open" {
            assert_eq!(next.ask_quickly("count h"), "1", "turn {turn}");
        }
        assert_eq!(next.ask_quickly("get h /a"), "1", "turn {turn}");
        assert_eq!(next.ask_quickly("close h"), "0", "turn {turn}");
        let left = scratch.objects();
        // Whoever comes by the bare calls has no semaphore to remove.
        let left: Vec<_> = left.iter().filter(|n| !n.starts_with("sem.")).collect();
        assert_eq!(left, [""; 0], "turn {turn}");
        assert_eq!(
            check::check(&fs::read(&path).expect("the file"), true),
            [""; 0]
        );
    }
}

/// The C library makes a semaphore under a name of six letters and then renames it; who dies in between leaves it behind.
/// Removes what has come so since the beginning.
struct HalfMade {
    before: BTreeSet<OsString>,
}

impl HalfMade {
    fn new() -> HalfMade {
        HalfMade {
            before: Self::there(),
        }
    }

    fn there() -> BTreeSet<OsString> {
        let is_one = |name: &OsString| {
            let letters = name.to_str().and_then(|n| n.strip_prefix("sem."));
            letters.is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_alphanumeric()))
        };
        let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        entries.map(|e| e.file_name()).filter(is_one).collect()
    }
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        for name in Self::there().difference(&self.before) {
            let path = Path::new("/dev/shm").join(name);
            // One that is being made now gets its real name within microseconds.
            let age = fs::metadata(&path).and_then(|m| m.modified());
            let old = age.is_ok_and(|t| t.elapsed().is_ok_and(|e| e > Duration::from_millis(500)));
            if old {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// In the agent, until it is killed.
pub fn open_and_close(door: &str, path: &str) -> String {
    let path = Path::new(path);
    for n in 0u64.. {
        let generation = match door {
            "open" => {
                let db = opened(path, ffi::RDWR, SETTINGS);
                put(&db, "/n", &n.to_le_bytes());
                close(&db);
                continue;
            }
            "middle" => ffi::Generation::Y2015,
            _ => ffi::Generation::Y2019,
        };
        let handle = Handle::new(path).generation(generation);
        assert_eq!(handle.open(ffi::RDWR, ffi::WT, SETTINGS), 0);
        assert_eq!(handle.put(b"/n", &n.to_le_bytes()).0, 0);
        assert_eq!(handle.close(), 0);
    }
    "never".into()
}
