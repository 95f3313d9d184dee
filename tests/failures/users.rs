//! Who uses a database: 15 and 16.

use super::agent::{Agent, ONE_SECOND};
use super::support::ffi::{self, Handle, SETTINGS};
use super::*;
use std::time::Instant;

#[test]
fn failure_15_a_second_open_of_an_open_handle() {
    // On the disk: what was there at the open. Not on the disk: what was put since. A caller opens a handle once more that
    // is open already, which the middleware does; the original read the tables from the file again, over those in
    // memory: every key put since the first open was gone, with the answer 0. Fails if a put is lost, if the handle
    // counts twice, or if one close is not enough.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut wanted = model(&[("/a", b"1")]);
    let db = open(&path);
    for (turn, mode) in [ffi::RDWR, ffi::RDONLY, ffi::RWCREAT, ffi::RWREPLACE, 99]
        .into_iter()
        .enumerate()
    {
        let key = format!("/unsaved{turn}");
        put(&db, &key, b"2");
        wanted.insert(key.into_bytes(), b"2".to_vec());
        assert_eq!(db.open(&path, mode, ffi::WT, SETTINGS), 0, "mode {mode}");
        finds(&format!("after an open in mode {mode}"), &db, &wanted);
    }
    close(&db);
    is_clean("after one close", &path, &wanted);
    assert_eq!(scratch.objects(), [""; 0]);
    assert_eq!(db.close(), ffi::ERROR_INVALID_PARAMETERS, "a second close");
}

#[test]
fn failure_15_the_same_with_the_middleware() {
    // There the second open goes through semaphore and count as well. Fails if the answer is not 0 or a key is lost.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let handle = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(handle.put(b"/unsaved", b"2"), (0, 1));
    assert_eq!(handle.open(ffi::RDWR, ffi::WT, SETTINGS), 0);
    assert_eq!(handle.get(b"/unsaved"), Ok(b"2".to_vec()));
    // The middleware has counted twice, and so uncounts twice or not at all; the library must bear both.
    assert_eq!(handle.close(), 0);
    is_clean(
        "after one close",
        &path,
        &model(&[("/a", b"1"), ("/unsaved", b"2")]),
    );
}

#[test]
fn failure_16_two_handles_in_one_process() {
    // On the disk: nothing of it yet. The original counted users by process id, in files that it wrote beside: a second
    // handle of one process was no second user. The first close removed the shared state under the other handle, whose
    // later puts were lost. Fails if a handle suffers from the close of the other one, or the count is wrong.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let first = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let second = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!((first.ref_count(), second.ref_count()), (2, 2));
    assert_eq!(first.put(b"/first", b"2"), (0, 1));
    assert_eq!(second.get(b"/first"), Ok(b"2".to_vec()));
    assert_eq!(second.put(b"/second", b"3"), (0, 1));
    assert_eq!(first.close(), 0);
    assert_eq!(second.ref_count(), 1);
    assert!(
        support::object_exists(&path, "-shm-info"),
        "torn down under the second handle"
    );
    assert_eq!(second.get(b"/first"), Ok(b"2".to_vec()));
    assert_eq!(second.put(b"/late", b"4"), (0, 1));
    let third = Handle::opened(&path, ffi::RDONLY, SETTINGS).expect("open");
    assert_eq!(third.get(b"/late"), Ok(b"4".to_vec()));
    assert_eq!(second.ref_count(), 2);
    assert_eq!(second.close(), 0);
    assert_eq!(third.close(), 0);
    assert_eq!(scratch.objects(), [""; 0]);
    let wanted = model(&[
        ("/a", b"1"),
        ("/first", b"2"),
        ("/second", b"3"),
        ("/late", b"4"),
    ]);
    is_clean("after the last close", &path, &wanted);
}

#[test]
fn failure_16_no_files_of_its_own_are_needed() {
    // The original's pid files could be missing, or be those of another boot. Fails if anything but the database is in
    // its directory while it is open.
    let scratch = place();
    let path = scratch.db("a.db");
    let handle = Handle::opened(&path, ffi::RWCREAT, SETTINGS).expect("open");
    assert_eq!(handle.put(b"/a", b"1"), (0, 1));
    let there: Vec<_> = fs::read_dir(scratch.path())
        .expect("the directory")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(there, ["a.db"]);
    assert_eq!(handle.close(), 0);
}

#[test]
fn failure_16_a_fork_child_with_an_inherited_handle() {
    // Not on the disk: all that parent and child put. The child of a fork has its parent's handle. For the original it was
    // the same user: when the child closed the handle, or exited, the shared state went away under the parent. Fails
    // if the count is not 2 while both use it, if one does not see the other's keys, or if anything is lost.
    for door in ["open", "middle", "middle19"] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(agent.ask("put h /parent 2"), "0");
        assert_eq!(agent.ask("fork"), "done");
        assert_eq!(agent.ask("get h /parent"), "2", "{door}: the child");
        assert_eq!(agent.ask("put h /child 3"), "0", "{door}: the child");
        if door != "open" {
            assert_eq!(agent.ask("count h"), "2", "{door}: with the child");
        }
        assert_eq!(agent.ask("close h"), "0", "{door}: the child");
        assert_eq!(agent.ask("parent"), "back");
        if door != "open" {
            assert_eq!(agent.ask("count h"), "1", "{door}: without the child");
        }
        assert!(
            support::object_exists(&path, "-shm-info"),
            "{door}: torn down under the parent"
        );
        assert_eq!(agent.ask("get h /child"), "3", "{door}: the parent");
        assert_eq!(agent.ask("put h /late 4"), "0", "{door}: the parent");
        let mut other = Agent::start();
        assert_eq!(other.ask(&format!("{door} h RDWR {}", path.display())), "0");
        assert_eq!(other.ask("get h /late"), "4", "{door}: another");
        assert_eq!(other.ask("close h"), "0");
        assert_eq!(agent.ask("close h"), "0", "{door}: the parent");
        assert_eq!(scratch.objects(), [""; 0], "{door}");
        let wanted = model(&[
            ("/a", b"1"),
            ("/parent", b"2"),
            ("/child", b"3"),
            ("/late", b"4"),
        ]);
        is_clean(door, &path, &wanted);
    }
}

#[test]
fn failure_16_a_fork_child_that_exits_without_a_word() {
    // The child never touches the handle and exits, as a shell command does. Fails if the parent's handle suffers.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut agent = Agent::start();
    assert_eq!(agent.ask(&format!("middle h RDWR {}", path.display())), "0");
    assert_eq!(agent.ask("put h /parent 2"), "0");
    assert_eq!(agent.ask("fork"), "done");
    assert_eq!(agent.ask("parent"), "back");
    assert_eq!(agent.ask("count h"), "1");
    assert_eq!(agent.ask("put h /late 3"), "0");
    assert_eq!(agent.ask("close h"), "0");
    is_clean(
        "the parent",
        &path,
        &model(&[("/a", b"1"), ("/parent", b"2"), ("/late", b"3")]),
    );
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_16_a_fork_child_that_outlives_its_parent() {
    // The parent dies; a child that has inherited descriptors and maps, and never used the database, lives on. For the
    // original, and for locks alone, the database was in use for ever. Fails if the next one is not the only user
    // within a second, or if the child cannot go on afterwards.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut agent = Agent::start();
    let answer = agent.ask(&format!("job orphan {}", path.display()));
    let child: i32 = answer.parse().unwrap_or_else(|_| panic!("{answer}"));
    agent.kill();
    let since = Instant::now();
    let handle = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(handle.ref_count(), 1, "the dead one is counted");
    assert_eq!(handle.get(b"/parent"), Ok(b"2".to_vec()));
    assert_eq!(handle.put(b"/next", b"3"), (0, 1));
    assert!(
        since.elapsed() < ONE_SECOND,
        "it took {:?}",
        since.elapsed()
    );
    assert_eq!(handle.close(), 0);
    let wanted = model(&[("/a", b"1"), ("/parent", b"2"), ("/next", b"3")]);
    let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    // SAFETY: a process that the agent has started for us and that sleeps.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert!(
        state.contains(" S ") || state.contains(" R "),
        "the child lived meanwhile: {state}"
    );
    is_clean("the next one", &path, &wanted);
    assert_eq!(scratch.objects(), [""; 0]);
}

/// In the agent: opens the database, puts something, and leaves a child that sleeps and does not die with it.
pub fn orphan(path: &str) -> String {
    let handle = Handle::opened(Path::new(path), ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(handle.put(b"/parent", b"2"), (0, 1));
    handle.leak();
    // SAFETY: the child only sleeps and exits.
    match unsafe { libc::fork() } {
        0 => {
            // No longer than any test may take, whatever happens to the driver.
            // SAFETY: no memory is involved.
            unsafe {
                libc::close(1);
                libc::sleep(20);
                libc::_exit(0)
            }
        }
        child => child.to_string(),
    }
}

/// In a fork child: what a user does with a handle that it has inherited, and a number for what was wrong.
fn goes_on(db: &Plain) -> i32 {
    let steps = [
        db.get(b"/parent") == Ok(b"2".to_vec()),
        db.put(b"/child", b"3") == (0, 1),
        db.get(b"/child") == Ok(b"3".to_vec()),
        db.close() == 0,
    ];
    steps
        .iter()
        .position(|&right| !right)
        .map_or(0, |n| n as i32 + 1)
}

#[test]
fn failure_16_a_fork_child_whose_parent_has_closed() {
    // The child makes its first call when the parent has closed and the shared objects are gone: alone in one turn, beside
    // a user who came after that in the other. The original's child went on in memory that nobody else saw. Fails if it does not
    // find what the parent has put, if what it puts is lost, or if it and the newcomer do not see each other.
    for other in [false, true] {
        let scratch = place();
        let path = scratch.db("a.db");
        make(&path, SETTINGS, &[("/a", b"1")]);
        let mut agent = Agent::start();
        let door = if other { "beside" } else { "alone" };
        assert_eq!(
            agent.ask(&format!("job outlived {door} {}", path.display())),
            "0"
        );
        let mut wanted = model(&[("/a", b"1"), ("/parent", b"2"), ("/child", b"3")]);
        if other {
            wanted.insert(b"/other".to_vec(), b"4".to_vec());
        }
        is_clean(door, &path, &wanted);
        assert_eq!(scratch.objects(), [""; 0], "{door}");
    }
}

/// In the agent: opens, puts, forks, closes; then the child goes on. Answers how it ended.
pub fn outlived(door: &str, path: &str) -> String {
    let path = Path::new(path);
    let db = opened(path, ffi::RDWR, SETTINGS);
    assert_eq!(db.put(b"/parent", b"2"), (0, 1));
    let mut pipe = [0; 2];
    // SAFETY: the buffer has room for two descriptors; the child goes on with the one thread that it has, and ends by
    // _exit.
    unsafe {
        assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let child = libc::fork();
        if child == 0 {
            procs::die_with_the_driver();
            let mut byte = 0u8;
            libc::read(pipe[0], (&raw mut byte).cast(), 1);
            libc::_exit(goes_on(&db));
        }
        assert_eq!(db.close(), 0);
        let other = (door == "beside").then(|| opened(path, ffi::RDWR, SETTINGS));
        if let Some(other) = &other {
            assert_eq!(other.put(b"/other", b"4"), (0, 1));
        }
        assert_eq!(libc::write(pipe[1], b"x".as_ptr().cast(), 1), 1);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        for fd in pipe {
            libc::close(fd);
        }
        if let Some(other) = other {
            assert_eq!(other.get(b"/child"), Ok(b"3".to_vec()));
            assert_eq!(other.close(), 0);
        }
        status.to_string()
    }
}

#[test]
fn failure_16_a_fork_child_goes_on_after_its_parents_death() {
    // The parent is killed with a change that it has not closed; then its child makes its first call. Nobody else is there:
    // what the shared object says is that of a dead life. Fails if the child does not find the change, or cannot
    // close the file.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let told = scratch.db("told");
    let mut agent = Agent::start();
    let work = format!("job outliving {} {}", path.display(), told.display());
    assert_eq!(agent.ask(&work), "done");
    agent.kill();
    let since = Instant::now();
    while !told.exists() && since.elapsed() < 10 * ONE_SECOND {
        std::thread::sleep(ONE_SECOND / 1000);
    }
    assert_eq!(fs::read_to_string(&told).ok().as_deref(), Some("0"));
    let wanted = model(&[("/a", b"1"), ("/parent", b"2"), ("/child", b"3")]);
    is_clean("the child", &path, &wanted);
    assert_eq!(scratch.objects(), [""; 0]);
}

/// In the agent: opens, puts, and leaves a child that goes on when this process has died, and then writes to `tells`.
pub fn outliving(path: &str, tells: &str) -> String {
    let db = opened(Path::new(path), ffi::RDWR, SETTINGS);
    assert_eq!(db.put(b"/parent", b"2"), (0, 1));
    // SAFETY: the child goes on with the one thread that it has, and ends by _exit.
    unsafe {
        let parent = libc::getpid();
        if libc::fork() == 0 {
            libc::close(1);
            // No longer than any test may take, whatever happens to the driver.
            libc::alarm(20);
            while libc::getppid() == parent {
                libc::usleep(1000);
            }
            let wrong = goes_on(&db).to_string();
            let before = format!("{tells}.new");
            let _ = fs::write(&before, wrong).and_then(|()| fs::rename(before, tells));
            libc::_exit(0);
        }
    }
    db.leak();
    "done".into()
}

#[test]
fn failure_16_the_lock_for_readers() {
    // Callers take the lock for reading around several calls, and again inside. Fails if a second reader waits, if a
    // writer does not wait for each of them, or waits longer than they stay.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let (mut one, mut two, mut writer) = (Agent::start(), Agent::start(), Agent::start());
    for agent in [&mut one, &mut two, &mut writer] {
        assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
    }
    for line in ["read h", "read h", "get h /a"] {
        let answer = if line == "get h /a" { "1" } else { "done" };
        assert_eq!(one.ask(line), answer);
        assert_eq!(two.ask(line), answer);
    }
    writer.tell("lock h");
    for agent in [&mut one, &mut two] {
        for _ in 0..2 {
            assert_eq!(writer.hear(ONE_SECOND / 20), None, "a reader has it");
            assert_eq!(agent.ask("unlock h"), "done");
        }
    }
    assert_eq!(writer.hear(ONE_SECOND).as_deref(), Some("done"));
    assert_eq!(writer.ask("unlock h"), "done");
    for agent in [&mut one, &mut two, &mut writer] {
        assert_eq!(agent.ask("close h"), "0");
    }
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn failure_17_a_reader_is_left_alone_with_the_changes_of_a_dead_writer() {
    // A writer is killed; the last one to close is a handle that was opened for reading, by somebody who may write the
    // file. Fails if that leaves an unclean file, or one without the change.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut writer = Agent::start();
    assert_eq!(writer.ask(&format!("open h RDWR {}", path.display())), "0");
    let reader = opened(&path, ffi::RDONLY, SETTINGS);
    assert_eq!(writer.ask("put h /b 2"), "0");
    writer.kill();
    assert_eq!(reader.get(b"/b"), Ok(b"2".to_vec()));
    assert_eq!(reader.close(), 0);
    is_clean("the reader", &path, &model(&[("/a", b"1"), ("/b", b"2")]));
    assert_eq!(scratch.objects(), [""; 0]);
}

#[test]
fn what_callers_have_cached_is_carried_out_by_a_last_closer_that_reads() {
    // The database was opened for writing, and callers keep changes in a cache. The last one to close carries them out, and
    // that may be a handle that was opened for reading. Fails if it is refused there, or if it is not without a cache.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let writer = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    let reader = Handle::opened(&path, ffi::RDONLY, SETTINGS).expect("open");
    assert_eq!(reader.put(b"/b", b"2").0, ffi::ERROR_ACCESS_VIOLATION);
    writer.set_cache_created(true);
    let cache = writer.plain().cache_name().expect("a name");
    let cache = std::ffi::CString::new(cache).expect("a name");
    for first in [ffi::Kdb_true, ffi::Kdb_false] {
        let mut made = 99;
        // SAFETY: the name lives through the call, made is ours, the descriptor as well.
        unsafe {
            let fd = ffi::kdbShmemOpen(cache.as_ptr(), 4096, &mut made);
            assert!(fd >= 0 && made == first);
            libc::close(fd);
        }
    }
    let shared = kissdb::shared::list();
    let ours = shared.iter().find(|s| s.is_of(&path)).expect("ours");
    let values: Vec<_> = ours.objects.iter().filter_map(|o| o.value).collect();
    assert_eq!((values, ours.cached), (vec![1], true));
    assert_eq!(writer.close(), 0);
    assert_eq!(reader.put(b"/b", b"2"), (0, 1));
    assert_eq!(reader.delete(b"/a").0, 0);
    assert_eq!(reader.close(), 0);
    is_clean("the reader", &path, &model(&[("/b", b"2")]));
    // The cache itself is the callers'.
    assert_eq!(scratch.objects(), [support::object_name(&path, "-cache")]);
}

#[test]
fn failure_16_descriptors_are_not_inherited_by_other_programs() {
    // A user starts another program (exec) and dies. The original's descriptors went along; with them went locks, and
    // maps of a file that was still held open. Fails if a descriptor that the library has opened lacks close-on-exec.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut agent = Agent::start();
    let told = agent.ask(&format!("job descriptors {}", path.display()));
    assert_eq!(told, "all close on exec");
}

/// In the agent, where no other thread opens anything: whether all new descriptors close on exec.
pub fn descriptors(path: &str) -> String {
    let open_ones = || -> Vec<i32> {
        (0..256)
            // SAFETY: no memory is involved.
            .filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0)
            .collect()
    };
    let before = open_ones();
    let handle = Handle::opened(Path::new(path), ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(handle.put(b"/b", b"2"), (0, 1));
    let cache = handle.plain().cache_name().expect("a name");
    let cache = std::ffi::CString::new(cache).expect("a name");
    let mut made = 0;
    // SAFETY: the name lives through the call, made is ours.
    let fd = unsafe { ffi::kdbShmemOpen(cache.as_ptr(), 4096, &mut made) };
    assert!(fd >= 0 && made == ffi::Kdb_true);
    let new: Vec<i32> = open_ones()
        .into_iter()
        .filter(|fd| !before.contains(fd))
        .collect();
    let stay: Vec<String> = new
        .iter()
        // SAFETY: no memory is involved.
        .filter(|&&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC == 0)
        .map(|fd| {
            let name = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            format!("{fd} {}", name.display())
        })
        .collect();
    // SAFETY: fd is the cache's.
    unsafe { ffi::kdbShmemClose(fd, cache.as_ptr()) };
    assert_eq!(handle.close(), 0);
    let left: Vec<i32> = open_ones()
        .into_iter()
        .filter(|fd| !before.contains(fd))
        .collect();
    match (new.len() > 2, stay.is_empty(), left.is_empty()) {
        (true, true, true) => "all close on exec".into(),
        (_, _, false) => format!("left open: {left:?}"),
        _ => format!("{} new ones; these stay: {stay:?}", new.len()),
    }
}

#[test]
fn failure_16_many_users_come_and_go() {
    // The count in a sequence as it is in the field: it must be right after each open and each close. Fails if it is not.
    let scratch = place();
    let path = scratch.db("a.db");
    let mut agents: Vec<Agent> = (0..3).map(|_| Agent::start()).collect();
    let first = Handle::opened(&path, ffi::RWCREAT, SETTINGS).expect("open");
    for (n, agent) in agents.iter_mut().enumerate() {
        assert_eq!(agent.ask(&format!("middle h RDWR {}", path.display())), "0");
        assert_eq!(usize::from(first.ref_count()), n + 2);
    }
    let dead = agents.pop().expect("an agent");
    dead.kill();
    let late = Handle::opened(&path, ffi::RDWR, SETTINGS).expect("open");
    assert_eq!(first.ref_count(), 4, "one has died, one has come");
    for (n, agent) in agents.iter_mut().enumerate() {
        assert_eq!(agent.ask(&format!("put h /agent{n} {n}")), "0");
        assert_eq!(agent.ask("close h"), "0");
        assert_eq!(usize::from(first.ref_count()), 3 - n);
    }
    assert_eq!(late.close(), 0);
    assert_eq!(first.ref_count(), 1);
    assert_eq!(first.close(), 0);
    assert_eq!(scratch.objects(), [""; 0]);
    is_clean(
        "in the end",
        &path,
        &model(&[("/agent0", b"0"), ("/agent1", b"1")]),
    );
}
