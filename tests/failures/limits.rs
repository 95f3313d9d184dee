//! Running out: 29 and 30.

use super::agent::{Agent, Mount};
use super::build::{self, FIRST_TABLE, PAIR_BYTES, Sparse, pair, table};
use super::support::check::{BLOCK, TABLE, slot_of};
use super::support::ffi::{self, SETTINGS, Sizes};
use super::*;
use std::os::unix::fs::MetadataExt;

const GIB: u64 = 1 << 30;

/// A place on a disk with room for files that look long; says so and answers nothing where there is none.
fn roomy(test: &str) -> Option<Scratch> {
    let scratch = Scratch::new();
    let path = std::ffi::CString::new(scratch.path().to_str()?).ok()?;
    // SAFETY: all zero is a valid statvfs, the path is a C string.
    let free = unsafe {
        let mut st: libc::statvfs = std::mem::zeroed();
        libc::statvfs(path.as_ptr(), &mut st);
        st.f_bavail as u64 * st.f_frsize as u64
    };
    if free < 12 * GIB {
        println!("{test}: passed over, because there are {free} bytes free");
        return None;
    }
    Some(scratch)
}

/// A long file: header, table 0 in its place, pairs at these offsets, and perhaps a second table that is linked.
struct Long {
    sparse: Sparse,
    slots: Vec<(usize, i64, i64, u64)>,
}

impl Long {
    fn create(path: &Path, len: u64) -> Long {
        let sparse = Sparse::create(path, len).expect("a sparse file");
        sparse
            .write(0, &build::header(SETTINGS, 0, 1))
            .expect("write");
        Long {
            sparse,
            slots: Vec::new(),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.sparse.write(at, bytes).expect("write");
    }

    fn slot(key: &str, at: u64) -> (usize, i64, i64, u64) {
        let at = at as i64;
        (slot_of(key.as_bytes(), 510), at, at + BLOCK as i64, 0)
    }

    /// A pair of table 0.
    fn pair(&mut self, at: u64, key: &str, value: &[u8]) {
        self.write(at, &pair(SETTINGS, true, key.as_bytes(), value, 0));
        self.slots.push(Self::slot(key, at));
    }

    /// Table 1, with one pair.
    fn second_table(&mut self, at: u64, pair_at: u64, key: &str, value: &[u8]) {
        self.write(at, &table(&[Self::slot(key, pair_at)], 0));
        self.write(pair_at, &pair(SETTINGS, true, key.as_bytes(), value, 1));
        self.write(FIRST_TABLE, &table(&self.slots, at));
    }

    fn done(self) {
        self.write(FIRST_TABLE, &table(&self.slots, 0));
    }
}

#[test]
fn failure_29_offsets_of_two_gibibytes_and_more() {
    // On the disk: pairs and a table behind 2 GiB and behind 4 GiB. The original kept offsets in 32 bits here and there: it read
    // other places of the file, and wrote there. Fails if such a key is not found, or a change of it is not there later.
    let Some(scratch) = roomy("offsets of 2 GiB") else {
        return;
    };
    // Before a change the library looks through all that is free, here some gibibytes of zeros: one of them is enough.
    for (at, change) in [
        (2 * GIB - 4096, true),
        (2 * GIB, false),
        (3 * GIB, false),
        (4 * GIB - 12288, false),
        (4 * GIB, false),
        (5 * GIB, false),
    ] {
        let path = scratch.db("a.db");
        let len = at + TABLE as u64 + 2 * PAIR_BYTES;
        let mut long = Long::create(&path, len);
        long.pair(16384, CHAIN[0], b"low");
        long.pair(at + TABLE as u64 + PAIR_BYTES, "/high", b"high");
        long.second_table(at, at + TABLE as u64, CHAIN[1], b"chain");
        let mut wanted = model(&[(CHAIN[0], b"low"), ("/high", b"high"), (CHAIN[1], b"chain")]);
        for mode in [ffi::RDONLY, ffi::RDWR] {
            let db = opened(&path, mode, SETTINGS);
            finds(&format!("{at:#x}, mode {mode}"), &db, &wanted);
            close(&db);
        }
        if !change {
            continue;
        }
        let db = open(&path);
        put(&db, "/high", b"higher");
        put(&db, CHAIN[1], b"changed");
        delete(&db, CHAIN[0]);
        put(&db, CHAIN[2], b"again");
        wanted = model(&[
            ("/high", b"higher"),
            (CHAIN[1], b"changed"),
            (CHAIN[2], b"again"),
        ]);
        finds(&format!("{at:#x}, changed"), &db, &wanted);
        close(&db);
        let db = open(&path);
        finds(&format!("{at:#x}, reopened"), &db, &wanted);
        close(&db);
    }
}

#[test]
fn failure_29_growth_past_two_gibibytes_needs_permission() {
    // The original would destroy such a file, so this library makes none unless it is told that the original will never see
    // it. Fails if the file grows past 2^31 without KISSDB_LARGE_FILES=1, if anything is lost by the refusal, or if
    // it cannot grow with it.
    let Some(scratch) = roomy("growth past 2 GiB") else {
        return;
    };
    let path = scratch.db("a.db");
    let end = 2 * GIB;
    let mut long = Long::create(&path, end);
    long.pair(16384, CHAIN[0], b"low");
    long.pair(end - PAIR_BYTES, "/last", b"last");
    long.done();
    let mut agent = Agent::start();
    assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
    // New pairs may go into the hole in the middle as long as the library knows of room there.
    let mut taken = Vec::new();
    for n in 0..400 {
        match &*agent.ask(&format!("put h /new{n} {n}")) {
            "0" => taken.push(n),
            "-1" => break,
            answer => panic!("{answer}"),
        }
    }
    assert!(taken.len() < 400, "never refused");
    let refused = taken.len();
    assert_eq!(agent.ask(&format!("put h /new{refused} x")), "-1");
    assert_eq!(agent.ask(&format!("get h /new{refused}")), "!1");
    assert_eq!(
        agent.ask(&format!("put h {} chain", CHAIN[1])),
        "-1",
        "a table more"
    );
    assert_eq!(agent.ask("put h /last changed"), "0", "no growth is needed");
    assert_eq!(agent.ask(&format!("delete h {}", CHAIN[0])), "0");
    assert_eq!(agent.ask(&format!("put h {} again", CHAIN[0])), "0");
    assert_eq!(agent.ask("close h"), "0");
    assert_eq!(fs::metadata(&path).expect("the file").len(), end);
    let mut large = Agent::start_as(|command| {
        command.env("KISSDB_LARGE_FILES", "1");
    });
    assert_eq!(large.ask(&format!("open h RDWR {}", path.display())), "0");
    for n in 0..100 {
        assert_eq!(large.ask(&format!("put h /large{n} {n}")), "0");
    }
    assert_eq!(large.ask(&format!("put h {} chain", CHAIN[1])), "0");
    assert_eq!(large.ask("close h"), "0");
    let len = fs::metadata(&path).expect("the file").len();
    assert!(len > end, "{len}");
    // Whoever has no permission to make it longer may use what is there.
    assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
    for n in 0..100 {
        assert_eq!(agent.ask(&format!("get h /large{n}")), n.to_string());
    }
    for n in taken {
        assert_eq!(agent.ask(&format!("get h /new{n}")), n.to_string());
    }
    assert_eq!(agent.ask("get h /last"), "changed");
    assert_eq!(agent.ask(&format!("get h {}", CHAIN[0])), "again");
    assert_eq!(agent.ask(&format!("get h {}", CHAIN[1])), "chain");
    assert_eq!(agent.ask("put h /large99 changed"), "0");
    assert_eq!(agent.ask("close h"), "0");
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "reads half a gigabyte several times: seconds with --release"
)]
fn failure_29_more_tables_than_65536() {
    // The number of a table was kept in 16 bits: with 65536 tables it began anew, and table 65536 was written over table 0.
    // Tables of one slot here, so that each key needs one. Fails if a key in the last one is not found, or a new
    // one not after it.
    let scratch = place();
    let path = scratch.db("a.db");
    let sizes = Sizes {
        table: 1,
        ..SETTINGS
    };
    let tables: u64 = 65537;
    let end = 4096 + tables * TABLE as u64;
    let sparse = Sparse::create(&path, end + PAIR_BYTES).expect("a sparse file");
    sparse.write(0, &build::header(sizes, 0, 1)).expect("write");
    for n in 0..tables {
        let at = 4096 + n * TABLE as u64;
        let next = if n + 1 < tables { at + TABLE as u64 } else { 0 };
        let (a, b) = (end as i64, (end + BLOCK as u64) as i64);
        let slots = [(0, a, b, 0), (1, next as i64, 0, 0)];
        let bytes = table(&slots[usize::from(next != 0)..][..1], next);
        // The page in the middle is zero.
        sparse.write(at, &bytes[..4096]).expect("write");
        sparse.write(at + 8192, &bytes[8192..]).expect("write");
    }
    sparse
        .write(end, &pair(sizes, true, b"/last", b"1", tables - 1))
        .expect("write");
    for mode in [ffi::RDONLY, ffi::RDWR] {
        let db = opened(&path, mode, sizes);
        assert_eq!(db.get(b"/last"), Ok(b"1".to_vec()));
        assert_eq!(db.keys(), Ok(vec![b"/last".to_vec()]));
        close(&db);
    }
    let db = opened(&path, ffi::RDWR, sizes);
    put(&db, "/last", b"changed");
    put(&db, "/another", b"2");
    put(&db, "/a third one", b"3");
    close(&db);
    let db = opened(&path, ffi::RDWR, sizes);
    let wanted = model(&[
        ("/last", b"changed"),
        ("/another", b"2"),
        ("/a third one", b"3"),
    ]);
    finds("reopened", &db, &wanted);
    close(&db);
}

/// Fills a database until there is no more room, and shows that nothing was lost by it: what was answered with 0 is there,
/// what was refused is not, what needs no room can be done, and what is freed can be used.
#[track_caller]
fn fill_up(agent: &mut Agent, what: &str, path: &Path) -> u64 {
    assert_eq!(
        agent.ask(&format!("middle h RWCREAT {}", path.display())),
        "0",
        "{what}"
    );
    let mut full = 0;
    while full < 500 {
        match &*agent.ask(&format!("fill h /key{full} {full} 5000")) {
            "0" => full += 1,
            "-1" => break,
            answer => panic!("{what}: {answer}"),
        }
    }
    assert!((2..500).contains(&full), "{what}: full after {full} pairs");
    assert_eq!(
        agent.ask(&format!("get h /key{full}")),
        "!1",
        "{what}: refused, and there"
    );
    for turn in 0..3 {
        assert_eq!(agent.ask(&format!("put h /other{turn} x")), "-1", "{what}");
    }
    let (mut a, b) = (0, 1);
    assert_eq!(
        agent.ask(&format!("fill h /key{a} 77 8028")),
        "0",
        "{what}: an overwrite"
    );
    assert_eq!(
        agent.ask(&format!("delete h /key{b}")),
        "0",
        "{what}: a delete"
    );
    assert_eq!(
        agent.ask(&format!("fill h /key{b} {b} 5000")),
        "0",
        "{what}: into a deleted one"
    );
    assert_eq!(
        agent.ask(&format!("fill h /key{a} {a} 5000")),
        "0",
        "{what}"
    );
    assert_eq!(agent.ask_quickly("close h"), "0", "{what}");
    assert_eq!(
        agent.ask(&format!("middle h RDWR {}", path.display())),
        "0",
        "{what}"
    );
    while a < full {
        let value = super::support::value(a, 5000).escape_ascii().to_string();
        assert_eq!(
            agent.ask(&format!("get h /key{a}")),
            value,
            "{what}: /key{a}"
        );
        a += 1;
    }
    assert_eq!(agent.ask("put h /other x"), "-1", "{what}");
    full
}

#[test]
fn failure_30_the_disk_is_full() {
    // On the disk: the longer file, without the room for what should be in it. The original had only set its length; the first
    // touch of the new place was SIGBUS, under the lock, so that everybody else hung as well. Fails if the process
    // dies, if a put that was answered is gone, or if one that was refused has left anything.
    if !is_root("the disk is full") {
        return;
    }
    let scratch = place();
    let full = scratch.db("full");
    fs::create_dir(&full).expect("a directory");
    for size in [100 << 10, 300 << 10, 1 << 20] {
        let mut agent = Agent::start_with_mounts(&[Mount::Memory(&full, size)]);
        let path = full.join("a.db");
        let n = fill_up(&mut agent, &format!("{size} bytes"), &path);
        assert_eq!(agent.ask_quickly("close h"), "0");
        let out = scratch.db("copied.db");
        fs::copy(
            format!("/proc/{}/root{}", agent.pid(), path.display()),
            &out,
        )
        .expect("a copy");
        let wanted = (0..n).map(|n| {
            (
                format!("/key{n}").into_bytes(),
                super::support::value(n, 5000),
            )
        });
        is_clean("full", &out, &wanted.collect());
        assert_eq!(agent.end(), "exit 0");
        assert_eq!(scratch.objects(), [""; 0]);
    }
}

#[test]
fn failure_30_a_file_with_holes_on_a_full_disk() {
    // The same with a file that has holes, as copies may have: a put into a record whose place is a hole needs room as
    // well. Fails if the process dies of it.
    if !is_root("holes") {
        return;
    }
    let scratch = place();
    let full = scratch.db("full");
    fs::create_dir(&full).expect("a directory");
    // Holes: the middle page of the table, and the places of three pairs that were lost.
    let mut image = build::Image::with(SETTINGS, &[("/a", b"1")]);
    image.append(&vec![0; 3 * PAIR_BYTES as usize]);
    image.put("/z", b"2");
    let source = scratch.db("source.db");
    image.save(&source);
    for (room, answer) in [(12 << 12, "-1"), (16 << 12, "-1"), (64 << 12, "0")] {
        let mut agent = Agent::start_with_mounts(&[Mount::Memory(&full, room)]);
        let path = full.join("a.db");
        let told = agent.ask(&format!(
            "job copy-with-holes {} {}",
            source.display(),
            path.display()
        ));
        assert_eq!(told, "done");
        assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
        for (n, call) in ["put h /a new", "put h /new 3", "delete h /z"]
            .iter()
            .enumerate()
        {
            assert_eq!(agent.ask(call), answer, "{room}: {call}");
            let wanted = [["1", "!1", "2"], ["new", "3", "!1"]][usize::from(answer == "0")][n];
            let key = ["/a", "/new", "/z"][n];
            assert_eq!(agent.ask(&format!("get h {key}")), wanted, "{room}: {call}");
        }
        assert_eq!(agent.ask("close h"), "0");
        let after =
            fs::read(format!("/proc/{}/root{}", agent.pid(), path.display())).expect("the file");
        if answer == "-1" {
            assert!(after == image.bytes, "{room}: changed all the same");
        } else {
            assert_eq!(
                check::pairs(&after),
                model(&[("/a", b"new"), ("/new", b"3")])
            );
        }
        assert_eq!(agent.end(), "exit 0");
    }
}

/// In the agent: a copy in which zero pages are holes.
pub fn copy_with_holes(from: &str, to: &str) -> String {
    let bytes = fs::read(from).expect("the file");
    let sparse = Sparse::create(Path::new(to), bytes.len() as u64).expect("a file");
    for (n, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|&b| b != 0) && sparse.write(n as u64 * 4096, page).is_err() {
            return format!("full at page {n}");
        }
    }
    "done".into()
}

#[test]
fn failure_30_the_limit_of_a_files_size() {
    // The same with RLIMIT_FSIZE, at which the kernel sends a signal that ends the process. Fails if it does.
    let scratch = place();
    for limit in [300_000, 500_000] {
        let path = scratch.db(&format!("{limit}.db"));
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("file-limit {limit}")), "done");
        let n = fill_up(&mut agent, &format!("limit {limit}"), &path);
        // Somebody without that limit goes on.
        let mut other = Agent::start();
        assert_eq!(other.ask(&format!("middle h RDWR {}", path.display())), "0");
        assert_eq!(other.ask(&format!("fill h /key{n} {n} 5000")), "0");
        assert_eq!(other.ask("close h"), "0");
        assert_eq!(agent.ask_quickly("close h"), "0");
        let wanted = (0..=n).map(|n| {
            (
                format!("/key{n}").into_bytes(),
                super::support::value(n, 5000),
            )
        });
        is_clean("limited", &path, &wanted.collect());
        assert_eq!(agent.end(), "exit 0");
    }
    // Not even a header fits, or the shared object, which counts as a file.
    for limit in [1, 1000, 4096, 70_000] {
        let path = scratch.db("none.db");
        let mut agent = Agent::start();
        assert_eq!(agent.ask(&format!("file-limit {limit}")), "done");
        for door in ["open", "middle", "middle19"] {
            let answer = agent.ask(&format!("{door} h RWCREAT {}", path.display()));
            assert!(
                ["-1", "-10"].contains(&&*answer),
                "limit {limit}, {door}: {answer}"
            );
        }
        assert_eq!(agent.end(), "exit 0");
        assert_eq!(scratch.objects(), [""; 0]);
        let db = opened(&path, ffi::RWCREAT, SETTINGS);
        put(&db, "/a", b"1");
        close(&db);
        is_clean("afterwards", &path, &model(&[("/a", b"1")]));
        fs::remove_file(&path).expect("the file");
    }
}

#[test]
fn failure_30_no_room_for_shared_objects() {
    // /dev/shm is full: -10, and the database as it was. Fails if the process dies, the answer is another one, or a file
    // that was there is changed.
    if !is_root("no room for shared objects") {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let before = (
        fs::read(&path).expect("the file"),
        fs::metadata(&path).expect("the file").mtime_nsec(),
    );
    let mut answers = Vec::new();
    for size in [4096, 8192, 16384, 32768, 1 << 20] {
        let mut agent = Agent::start_with_mounts(&[Mount::Memory(Path::new("/dev/shm"), size)]);
        let answer = agent.ask_quickly(&format!("open h RDWR {}", path.display()));
        if answer == "0" {
            assert_eq!(agent.ask("get h /a"), "1", "{size}");
            assert_eq!(agent.ask_quickly("close h"), "0", "{size}");
        }
        let after = (
            fs::read(&path).expect("the file"),
            fs::metadata(&path).expect("the file").mtime_nsec(),
        );
        assert!(after == before, "{size}: changed");
        assert_eq!(agent.end(), "exit 0", "{size}");
        answers.push(answer);
    }
    assert_eq!(answers[0], "-10", "{answers:?}");
    assert_eq!(answers[4], "0", "{answers:?}");
    assert!(
        answers.iter().all(|a| a == "-10" || a == "0"),
        "{answers:?}"
    );
}

#[test]
fn failure_30_no_descriptors_left() {
    // A process that may open no more files. Fails if an open leaves descriptors behind, crashes, or changes the file.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let before = fs::read(&path).expect("the file");
    let mut agent = Agent::start();
    let told = agent.ask(&format!("job few-descriptors {}", path.display()));
    assert_eq!(told, "fine");
    assert!(fs::read(&path).expect("the file") == before, "changed");
    assert_eq!(scratch.objects(), [""; 0]);
}

/// In the agent: opens with ever more descriptors allowed, until that works.
pub fn few_descriptors(path: &str) -> String {
    let count = || {
        // SAFETY: no memory is involved.
        (0..64)
            .filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0)
            .count()
    };
    // SAFETY: all zero is a valid rlimit, and the buffers are rlimits.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let whole = limit.rlim_cur;
    let before = count();
    for n in 3..40 {
        limit.rlim_cur = n;
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        let db = Plain::new();
        let rc = db.open(Path::new(path), ffi::RDWR, ffi::WT, SETTINGS);
        let read = (rc == 0).then(|| db.get(b"/a"));
        let closed = if rc == 0 { db.close() } else { 0 };
        limit.rlim_cur = whole;
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        if count() != before {
            return format!(
                "{n} allowed, answer {rc}: {before} descriptors before, {} after",
                count()
            );
        }
        if rc == 0 {
            let fine = read == Some(Ok(b"1".to_vec())) && closed == 0;
            return if fine {
                "fine".into()
            } else {
                format!("{n}: {read:?}, {closed}")
            };
        }
        if ![-1, -7].contains(&rc) {
            return format!("{n} allowed: answer {rc}");
        }
    }
    "never opened".into()
}

#[test]
fn failure_30_no_address_space_left() {
    // A process that may map no more. Fails if it dies, or if the open succeeds and does not work.
    let scratch = place();
    let path = scratch.db("a.db");
    make(&path, SETTINGS, &[("/a", b"1")]);
    let mut agent = Agent::start();
    let told = agent.ask(&format!("job little-memory {}", path.display()));
    assert_eq!(told, "fine");
    assert_eq!(agent.end(), "exit 0");
    assert_eq!(scratch.objects(), [""; 0]);
}

/// In the agent: the same with address space. Some of the heap stays free for small things.
pub fn little_memory(path: &str) -> String {
    let heap: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 1000]).collect();
    drop(heap);
    let statm = fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    // SAFETY: all zero is a valid rlimit.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is an rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    let whole = limit.rlim_cur;
    let mut refused = 0;
    for more in [0, 16, 128, 512, 1024, 4096, 1 << 16] {
        limit.rlim_cur = (pages * 4096 + more * 1024).min(whole);
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        let db = Plain::new();
        let rc = db.open(Path::new(path), ffi::RDWR, ffi::WT, SETTINGS);
        let read = (rc == 0).then(|| db.get(b"/a"));
        let closed = if rc == 0 { db.close() } else { 0 };
        limit.rlim_cur = whole;
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        match (rc, read) {
            (0, Some(Ok(value))) if value == b"1" && closed == 0 => {}
            (-1 | -2 | -7 | -9, None) => refused += 1,
            (rc, read) => return format!("{more} KiB: {rc}, {read:?}, {closed}"),
        }
    }
    if refused > 0 {
        "fine".into()
    } else {
        "never refused".into()
    }
}
