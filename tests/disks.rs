//! Real file systems of the kernel, on devices that lose their power or are full. `make test-disks`, as root.
//!
//! What happened: power went while programs stored settings, and what the kernel had written by then, in its own order,
//! was all there was; or other files took all the room there is. What the user must never see: a value that is older than one that
//! was synced (with power: than the last one that was stored), a key that is gone, or half a value.
//!
//! Power: the device is a file on btrfs, so that a clone of it is the medium at one instant. Writers put
//! and delete keys of their own, sync, close and open again; the kernel writes pages back all the time (its settings for that are changed, and
//! put back at the end). Each clone is mounted, which replays the journal of its file system, and the database in it is judged: by
//! the library, by its bytes after a close, and by the model of the original.
//!
//! Room: a file takes all there is, or leaves a little, while changes go on; what is refused is an answer, and all the rest stays.
//!
//! `KISSDB_DISK_SECONDS` says how long on each file system in each shape, 10 unless told; `KISSDB_SEED` which changes: a run prints both.

#[path = "support/procs.rs"]
mod procs;
mod support;

use procs::{Atomics, Mapped, Rng, Running, mix, number};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::ffi::{Plain, RDWR, RWCREAT, SETTINGS, Sizes};
use support::{Scratch, check, original};

const CHILD: &str = "KISSDB_DISK_CHILD";

/// A file system: its name, what makes it, options of its mounts.
const FILE_SYSTEMS: [(&str, &[&str], &str); 4] = [
    ("ext4", &["mkfs.ext4", "-q", "-F"], "loop"),
    (
        "ext4, data=writeback",
        &["mkfs.ext4", "-q", "-F"],
        "loop,data=writeback",
    ),
    (
        "ext4, nodelalloc",
        &["mkfs.ext4", "-q", "-F"],
        "loop,nodelalloc",
    ),
    ("xfs", &["mkfs.xfs", "-q", "-f"], "loop,nouuid"),
];

/// Keys, and slots of a table.
const SHAPES: [(u64, u16); 3] = [(600, 510), (60, 510), (40, 2)];
const KEYS: usize = 600;
/// Cuts of one database; the next ones are of a new file system.
const CUTS: usize = 12;

/// Versions of each key: 0 is none, and of all others the number says whether it is a value and which.
#[repr(C)]
struct Board {
    /// Begun.
    started: [AtomicU64; KEYS],
    /// On the medium.
    synced: [AtomicU64; KEYS],
    /// There when a clean close ended.
    closed: [AtomicU64; KEYS],
}

// SAFETY: atomics only.
unsafe impl Atomics for Board {}

fn read(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|w| w.load(SeqCst)).collect()
}

fn key(k: u64) -> Vec<u8> {
    format!("/disk/cuts/{k}").into_bytes()
}

/// What a version of a key is: a value that tells both, or nothing.
fn value(k: u64, version: u64) -> Option<Vec<u8>> {
    let mut rng = Rng(mix(version << 20 | k));
    if version == 0 || rng.one_in(8) {
        return None;
    }
    let len = [0, 16, 48, 48, 200, 400, 1000, 3000, 8012][rng.below(9) as usize];
    let sparse = rng.one_in(3);
    let mut value = [version.to_le_bytes(), k.to_le_bytes()].concat();
    value.extend((0..len).map(|i| match sparse {
        true => u8::from(i % 97 == 0),
        false => rng.next() as u8,
    }));
    Some(value)
}

// ---------------------------------------------------------------- the writers

/// Whoever writes the keys k with k % writers == me.
struct Writer {
    path: PathBuf,
    board: Mapped<Board>,
    rng: Rng,
    me: u64,
    writers: u64,
    keys: u64,
    slots: u16,
}

impl Writer {
    fn new(work: &str) -> Writer {
        let mut words = work.split('\n');
        let mut next = || words.next().expect("a word");
        let (path, board) = (PathBuf::from(next()), PathBuf::from(next()));
        let mut next = || next().parse().expect("a number");
        Writer {
            path,
            board: Mapped::open(&board).expect("the board"),
            rng: Rng(next()),
            me: next(),
            writers: next(),
            keys: next(),
            slots: next() as u16,
        }
    }

    fn mine(&self) -> impl Iterator<Item = usize> {
        (self.me as usize..self.keys as usize).step_by(self.writers as usize)
    }

    fn run(&mut self) -> ! {
        let sizes = Sizes {
            table: self.slots,
            ..SETTINGS
        };
        loop {
            let db = Plain::opened(&self.path, RWCREAT, sizes).expect("opens");
            for _ in 0..1 + self.rng.below(20) {
                self.change(&db);
                if !self.rng.one_in(3) {
                    // SAFETY: an open descriptor.
                    assert_eq!(unsafe { libc::fdatasync(db.fd()) }, 0);
                    self.note(&self.board.synced);
                }
            }
            assert_eq!(db.close(), 0);
            if self.writers == 1 {
                self.note(&self.board.synced);
                self.note(&self.board.closed);
            }
        }
    }

    /// Changes some keys, mostly a few of them again and again.
    fn change(&mut self, db: &Plain) {
        let n = match self.rng.one_in(4) {
            true => 400,
            false => 40,
        };
        let hot = match self.rng.one_in(2) {
            true => self.keys,
            false => 1 + self.keys / 20,
        };
        for _ in 0..self.rng.below(n) {
            let k = self.rng.below(hot);
            let k = k - k % self.writers + self.me;
            if k >= self.keys {
                continue;
            }
            let started = &self.board.started[k as usize];
            let version = started.load(SeqCst) + 1;
            started.store(version, SeqCst);
            match value(k, version) {
                Some(value) => assert_eq!(db.put(&key(k), &value).0, 0),
                None => {
                    let was_there = value(k, version - 1).is_some();
                    assert_eq!(db.delete(&key(k)).0, i32::from(!was_there));
                }
            }
        }
    }

    fn note(&self, words: &[AtomicU64]) {
        for k in self.mine() {
            words[k].store(self.board.started[k].load(SeqCst), SeqCst);
        }
    }
}

#[test]
fn child() {
    // Not a test: a writer. Returns at once in an ordinary run.
    if let Ok(work) = std::env::var(CHILD) {
        procs::die_with_the_driver();
        Writer::new(&work).run();
    }
}

// ---------------------------------------------------------------- the judge

/// What the board said around a cut: `before` of what was synced and closed, behind it of what was begun.
struct Bounds {
    started: Vec<u64>,
    synced: Vec<u64>,
    closed: Vec<u64>,
}

impl Bounds {
    /// Whether a key may be found so, from this version on. The original may find an older value, but no key that was deleted.
    fn judge(&self, k: u64, found: Option<&[u8]>, oldest: u64) -> Result<(), String> {
        let (synced, started) = (self.synced[k as usize], self.started[k as usize]);
        let permitted = match found {
            None => (synced..=started).any(|v| value(k, v).is_none()),
            Some(found) => {
                let word = found.get(..8).and_then(|b| b.try_into().ok());
                let version = word.map_or(0, u64::from_le_bytes);
                let old = version < synced && value(k, synced).is_none();
                (oldest..=started).contains(&version)
                    && !old
                    && value(k, version).as_deref() == Some(found)
            }
        };
        let begins = |bytes: &[u8]| bytes[..bytes.len().min(16)].escape_ascii().to_string();
        permitted.then_some(()).ok_or_else(|| {
            format!(
                "key {k}: found {:?}, synced {synced}, oldest {oldest}, begun {started}",
                found.map(begins)
            )
        })
    }
}

/// The database of a medium after a cut: what the original finds in it, what this library finds, and what it leaves.
fn judge(path: &Path, bounds: &Bounds, keys: u64) -> Result<u64, String> {
    let Ok(bytes) = fs::read(path) else {
        return match bounds.synced.iter().all(|&v| v == 0) {
            true => Ok(0),
            false => Err("no file".into()),
        };
    };
    let model = original::recover(&bytes);
    if model.crashes && bytes.len() > 4096 {
        return Err("the original crashes".into());
    }
    for k in 0..keys {
        let found = model.pairs.get(&key(k)).map(|v| &v[..]);
        let oldest = bounds.closed[k as usize];
        bounds
            .judge(k, found, oldest)
            .map_err(|e| format!("the original: {e}"))?;
    }
    let db = match Plain::opened(path, RDWR, SETTINGS) {
        Ok(db) => db,
        Err(_) if bounds.synced.iter().all(|&v| v == 0) => return Ok(0),
        Err(rc) => return Err(format!("open: {rc}")),
    };
    let mut found = BTreeMap::new();
    for k in 0..keys {
        let got = match db.get(&key(k)) {
            Ok(value) => Some(value),
            Err(1) => None,
            Err(rc) => return Err(format!("get of key {k}: {rc}")),
        };
        bounds.judge(k, got.as_deref(), bounds.synced[k as usize])?;
        found.extend(got.map(|value| (key(k), value)));
    }
    let mut listed = db.keys().map_err(|rc| format!("iteration: {rc}"))?;
    listed.sort();
    if !listed.iter().eq(found.keys()) {
        return Err("an iteration finds something else".into());
    }
    if db.close() != 0 {
        return Err("close".into());
    }
    let closed = fs::read(path).map_err(|e| e.to_string())?;
    if let Some(finding) = check::check(&closed, true).first() {
        return Err(format!("the closed file: {finding}"));
    }
    if check::pairs(&closed) != found {
        return Err("the closed file holds something else".into());
    }
    Ok(found.len() as u64)
}

// ---------------------------------------------------------------- the devices

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A mounted file system, until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: PathBuf, options: &str) -> Mount {
        fs::create_dir_all(&at).expect("a directory");
        run("mount", &["-o", options, text(image), text(&at)]);
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A setting of the kernel, until it is dropped.
struct Setting(&'static str, String);

impl Setting {
    fn new(path: &'static str, value: &str) -> Setting {
        let old = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        fs::write(path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
        Setting(path, old)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

fn image(path: &Path, size: u64, make: &[&str]) {
    let _ = fs::remove_file(path);
    let file = fs::File::create(path).expect("an image");
    file.set_len(size).expect("an image");
    let args: Vec<&str> = make[1..].iter().copied().chain([text(path)]).collect();
    run(make[0], &args);
}

/// One database on a new file system, from its first open on: the cuts and the values found after them.
fn cut(at: &Path, system: (&str, &[&str], &str), shape: (u64, u16), seed: u64) -> (usize, u64) {
    let (name, make, options) = system;
    let (keys, slots) = shape;
    let mut rng = Rng(seed);
    let (disk, clone, board) = (at.join("disk"), at.join("clone"), at.join("board"));
    image(&disk, 400 << 20, make);
    let mount = Mount::new(&disk, at.join("live"), options);
    let words: Mapped<Board> = Mapped::create(&board).expect("a board");
    let writers = [1, 3][rng.below(2) as usize];
    let start = |me: u64| {
        let path = mount.0.join("a.db");
        let seed = mix(seed ^ me);
        let work = format!(
            "{}\n{}\n{seed}\n{me}\n{writers}\n{keys}\n{slots}",
            path.display(),
            board.display()
        );
        Running::start(&mut procs::child(CHILD, work))
    };
    let mut running: Vec<Running> = (0..writers).map(start).collect();
    let mut found = 0;
    for n in 0..CUTS {
        let most = [20, 100, 400, 800][rng.below(4) as usize];
        std::thread::sleep(Duration::from_millis(rng.below(most)));
        for writer in &mut running {
            assert!(writer.ended().is_none(), "a writer ended");
        }
        let (synced, closed) = (read(&words.synced), read(&words.closed));
        let _ = fs::remove_file(&clone);
        run("cp", &["--reflink=always", text(&disk), text(&clone)]);
        let bounds = Bounds {
            synced,
            closed,
            started: read(&words.started),
        };
        let medium = Mount::new(&clone, at.join("cut"), options);
        let path = medium.0.join("a.db");
        let before = fs::read(&path).unwrap_or_default();
        match judge(&path, &bounds, keys) {
            Ok(n) => found += n,
            Err(e) => {
                let kept = std::env::temp_dir().join(format!("kissdb-disk-cut-{seed}-{n}.db"));
                let _ = fs::write(&kept, before);
                panic!(
                    "{name}, {shape:?}, seed {seed}, cut {n}: {e}; the file: {}",
                    kept.display()
                );
            }
        }
    }
    (CUTS, found)
}

#[test]
#[ignore = "needs root, loop devices and btrfs: make test-disks"]
fn what_was_synced_is_on_a_medium_that_is_cut_off() {
    let (seed, seconds) = (
        procs::seed("KISSDB_SEED"),
        number("KISSDB_DISK_SECONDS", 10),
    );
    println!("KISSDB_SEED={seed} KISSDB_DISK_SECONDS={seconds}");
    let scratch = Scratch::below(procs::fast_directory());
    image(&scratch.db("btrfs"), 4 << 30, &["mkfs.btrfs", "-q"]);
    let outer = Mount::new(&scratch.db("btrfs"), scratch.db("outer"), "loop");
    let _interval = Setting::new("/proc/sys/vm/dirty_writeback_centisecs", "3");
    let _age = Setting::new("/proc/sys/vm/dirty_expire_centisecs", "5");
    let mut seeds = Rng(seed);
    for system in FILE_SYSTEMS {
        for shape in SHAPES {
            let (until, mut cuts, mut found) =
                (Instant::now() + Duration::from_secs(seconds), 0, 0);
            while Instant::now() < until {
                let more = cut(&outer.0, system, shape, seeds.next());
                (cuts, found) = (cuts + more.0, found + more.1);
            }
            println!(
                "{}, {} keys, {} slots: {cuts} cuts, {found} values found",
                system.0, shape.0, shape.1
            );
        }
    }
}

// ---------------------------------------------------------------- room

/// File systems that are filled: name, what makes it, whether it makes room at the first store into a page.
const FILLED: [(&str, &[&str], bool); 4] = [
    ("btrfs", &["mkfs.btrfs", "-q"], true),
    ("ext2", &["mkfs.ext2", "-q", "-F", "-m", "0"], false),
    ("ext4", &["mkfs.ext4", "-q", "-F", "-m", "0"], false),
    ("xfs", &["mkfs.xfs", "-q", "-f"], false),
];

/// A file that takes the room of others.
struct Filler(fs::File);

impl Filler {
    /// Until there is none left, whatever is asked for.
    fn fill(&mut self) {
        let bytes = vec![1; 1 << 20];
        for n in [1 << 20, 1 << 16, 1 << 12] {
            for _ in 0..3 {
                while self.0.write_all(&bytes[..n]).is_ok() {}
                let _ = self.0.sync_all();
            }
        }
    }

    /// Leaves some of it.
    fn leave(&mut self, bytes: u64) {
        let len = self.0.metadata().expect("a length").len();
        self.0.set_len(len.saturating_sub(bytes)).expect("shorter");
        self.0.sync_all().expect("is synced");
    }
}

/// What each key has, as far as calls were answered.
#[derive(Default)]
struct Model {
    values: BTreeMap<u64, Vec<u8>>,
    /// What else the next recovery may find, as documented for file systems that make room late: from before and behind the
    /// changes that were refused.
    refused: BTreeMap<u64, Vec<Option<Vec<u8>>>>,
}

impl Model {
    fn set(&mut self, k: u64, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.values.insert(k, value),
            None => self.values.remove(&k),
        };
    }

    /// One change; whether it was refused: then what a get finds is what the key has from now on, the old value or the new one.
    fn change(&mut self, db: &Plain, k: u64, version: u64) -> Result<bool, String> {
        let new = value(k, version);
        let rc = match &new {
            Some(value) => db.put(&key(k), value).0,
            None => db.delete(&key(k)).0,
        };
        let old = self.values.get(&k).cloned();
        match rc {
            0 => {}
            1 if new.is_none() && old.is_none() => {}
            -1 => {
                let found = get(db, k)?;
                if found != old && found != new {
                    return Err(format!("key {k} was refused and has neither value"));
                }
                self.refused.entry(k).or_default().extend([old, new]);
                self.set(k, found);
                return Ok(true);
            }
            rc => return Err(format!("a change of key {k}: {rc}")),
        }
        self.refused.remove(&k);
        self.set(k, new);
        Ok(false)
    }

    /// Whether a handle finds what there has to be. `late`: some changes that were refused may have been decided since.
    fn judge(&mut self, db: &Plain, keys: u64, late: bool) -> Result<(), String> {
        for k in 0..keys {
            let found = get(db, k)?;
            if late
                && let Some(values) = self.refused.remove(&k)
                && values.contains(&found)
            {
                self.set(k, found.clone());
            }
            let version = |v: &Vec<u8>| v.first_chunk().map(|&v| u64::from_le_bytes(v));
            let (found, want) = (found.as_ref(), self.values.get(&k));
            if found != want {
                let (found, want) = (found.and_then(version), want.and_then(version));
                return Err(format!("key {k}: version {found:?} instead of {want:?}"));
            }
        }
        let n = db.keys().map_err(|rc| format!("iteration: {rc}"))?.len();
        match n == self.values.len() {
            true => Ok(()),
            false => Err(format!("{n} keys instead of {}", self.values.len())),
        }
    }
}

fn get(db: &Plain, k: u64) -> Result<Option<Vec<u8>>, String> {
    match db.get(&key(k)) {
        Ok(value) => Ok(Some(value)),
        Err(1) => Ok(None),
        Err(rc) => Err(format!("get of key {k}: {rc}")),
    }
}

/// Reads through a handle, without its lock, while others change the file: each value is one that was put, and the key
/// `steady` is always there.
fn reads(db: &Plain, steady: u64, stop: &AtomicBool) -> Result<(), String> {
    while !stop.load(SeqCst) {
        for k in 0..=steady {
            let Some(found) = get(db, k).map_err(|e| format!("a reader: {e}"))? else {
                match k == steady {
                    true => return Err("a reader: the steady key is gone".into()),
                    false => continue,
                }
            };
            let version = found.first_chunk().map(|&v| u64::from_le_bytes(v));
            if version.and_then(|version| value(k, version)) != Some(found) {
                return Err(format!("a reader: key {k} has what nobody has put"));
            }
        }
        let keys = db.keys().map_err(|rc| format!("a reader iterates: {rc}"))?;
        let times = keys.iter().filter(|&k| *k == key(steady)).count();
        if times != 1 {
            return Err(format!(
                "a reader iterates: the steady key came {times} times"
            ));
        }
    }
    Ok(())
}

/// How many descriptors this process has of a file.
fn descriptors(path: &Path) -> Result<usize, String> {
    let fds = fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())?;
    let fds = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(fds.filter(|to| to == path).count())
}

/// A life that meets the end of the room, one without any, and one behind it; how many changes were refused.
/// `late`: the file system makes room at the first store into a page.
fn fill_up(at: &Path, late: bool, seed: u64) -> Result<u64, String> {
    let mut rng = Rng(seed);
    let (path, room) = (at.join("a.db"), at.join("filler"));
    let (keys, slots) = SHAPES[rng.below(3) as usize];
    let sizes = Sizes {
        table: slots,
        ..SETTINGS
    };
    let open = |when: &str| {
        Plain::opened(&path, RWCREAT, sizes).map_err(|rc| format!("open {when}: {rc}"))
    };
    let (mut model, mut version, mut refused) = (Model::default(), 0, 0);
    let mut change = |db: &Plain, model: &mut Model, rng: &mut Rng| {
        version += 1;
        model.change(db, rng.below(keys), version)
    };
    let mut filler = Filler(fs::File::create(&room).map_err(|e| e.to_string())?);
    let mut db = open("with room")?;
    let sync = |db: &Plain| {
        // SAFETY: an open descriptor. An error is the disk's.
        unsafe { libc::fdatasync(db.fd()) };
    };
    let some = (1..).find(|&version| value(keys, version).is_some());
    if model.change(&db, keys, some.unwrap_or(1))? {
        return Err("refused while there was room".into());
    }
    for _ in 0..rng.below(3 * keys) {
        if change(&db, &mut model, &mut rng)? {
            return Err("refused while there was room".into());
        }
    }
    if rng.one_in(2) && db.close() == 0 {
        db = open("with room")?;
    }
    for life in 0..1 + rng.below(4) {
        sync(&db);
        filler.fill();
        let stop = AtomicBool::new(false);
        let mut changes = |rng: &mut Rng| -> Result<(), String> {
            for _ in 0..rng.below(60) {
                if rng.one_in(8) {
                    sync(&db);
                }
                if rng.one_in(12) {
                    filler.leave(rng.below(16) << 12);
                }
                refused += u64::from(change(&db, &mut model, rng)?);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| reads(&db, keys, &stop));
            let changed = changes(&mut rng);
            stop.store(true, SeqCst);
            changed.and(reader.join().expect("the reader"))
        })
        .map_err(|e| format!("life {life}: {e}"))?;
        let kept = descriptors(&path)?;
        if kept > 8 {
            return Err(format!("life {life}: {kept} descriptors of one handle"));
        }
        let judged = model.judge(&db, keys, false);
        judged.map_err(|e| format!("life {life}: {e}"))?;
        // It may be unable to make a clean file.
        db.close();
        db = open("without room")?;
        let judged = model.judge(&db, keys, late);
        judged.map_err(|e| format!("opened without room in life {life}: {e}"))?;
    }
    drop(filler);
    fs::remove_file(&room).map_err(|e| e.to_string())?;
    // SAFETY: no precondition.
    unsafe { libc::sync() };
    if rng.one_in(2) {
        db.close();
        db = open("behind it")?;
        let judged = model.judge(&db, keys, late);
        judged.map_err(|e| format!("opened behind it: {e}"))?;
    }
    for _ in 0..60 {
        if change(&db, &mut model, &mut rng)? {
            return Err("refused although there is room again".into());
        }
    }
    let judged = model.judge(&db, keys, false);
    judged.map_err(|e| format!("behind it: {e}"))?;
    if db.close() != 0 {
        return Err("close".into());
    }
    let closed = fs::read(&path).map_err(|e| e.to_string())?;
    if let Some(finding) = check::check(&closed, true).first() {
        return Err(format!("the closed file: {finding}"));
    }
    let values: BTreeMap<_, _> = model.values.into_iter().map(|(k, v)| (key(k), v)).collect();
    if check::pairs(&closed) != values {
        return Err("the closed file holds something else".into());
    }
    fs::remove_file(&path).map_err(|e| e.to_string())?;
    Ok(refused)
}

#[test]
#[ignore = "needs root and loop devices: make test-disks"]
fn a_full_disk_refuses_changes_and_loses_nothing() {
    // What happened: the disk was full, of a file system that makes room at the first store into a page: the store was a SIGBUS,
    // zeros stood in for the page, and the call went on with them. What the user saw: a clean database without a key.
    let (seed, seconds) = (
        procs::seed("KISSDB_SEED"),
        number("KISSDB_DISK_SECONDS", 10),
    );
    println!("KISSDB_SEED={seed} KISSDB_DISK_SECONDS={seconds}");
    let scratch = Scratch::below(procs::fast_directory());
    let mut seeds = Rng(seed);
    for (name, make, late) in FILLED {
        let disk = scratch.db(name);
        image(&disk, 400 << 20, make);
        let mount = Mount::new(&disk, scratch.db("live"), "loop");
        let until = Instant::now() + Duration::from_secs(3 * seconds);
        let (mut rounds, mut refused) = (0, 0);
        while Instant::now() < until {
            let seed = seeds.next();
            match fill_up(&mount.0, late, seed) {
                Ok(n) => (rounds, refused) = (rounds + 1, refused + n),
                Err(e) => panic!("{name}, seed {seed}: {e}"),
            }
        }
        println!("{name}: {rounds} rounds, {refused} changes refused");
        assert!(refused > 0, "{name} was never full");
    }
}
