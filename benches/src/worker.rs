//! One engine in a process of its own: reads requests from its standard input, answers with
//! figures. The driver lets the workers take turns.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::bare::Bare;
use crate::counters;
use crate::engines::{Engine, Gdbm, Kissdb, Lmdb, Sqlite, Tdb, Tokyo};
use crate::keys::{self, Keys};
use crate::plan::{BUDGET, Medium, Op, Shape};

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a database in this directory, with every key in it.
    Load {
        shape: Shape,
        directory: PathBuf,
    },
    Run {
        op: Op,
        round: u64,
    },
    /// Close it and remove its files.
    Leave,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Figures(Vec<Figure>),
    /// This engine can't do that.
    Skipped(String),
    Failed(String),
}

/// What one operation cost in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    /// Nanoseconds an operation; bytes for memory.
    pub value: f64,
    pub syncs: Option<f64>,
    pub bytes: Option<f64>,
}

/// What a worker can be told.
pub trait Runner {
    fn run(&mut self, op: Op, round: u64) -> Result<Vec<Figure>>;
    fn leave(self: Box<Self>) -> Result<()>;
}

/// What "skipped" answers are made from.
#[derive(Debug)]
pub struct Unfit(&'static str);

impl Unfit {
    pub fn nothing_to_compare() -> Self {
        Unfit("nothing to compare with")
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Unfit {}

pub fn serve(engine: &str) -> Result<()> {
    let mut runner: Option<Box<dyn Runner>> = None;
    for line in stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Load { shape, directory } => load(engine, shape, &directory).map(|made| {
                runner = Some(made);
                Vec::new()
            }),
            Request::Run { op, round } => runner.as_mut().context("nothing loaded")?.run(op, round),
            Request::Leave => match runner.take() {
                Some(runner) => runner.leave().map(|()| Vec::new()),
                None => Ok(Vec::new()),
            },
        };
        let answer = match answer {
            Ok(figures) => Answer::Figures(figures),
            Err(error) if error.is::<Unfit>() => Answer::Skipped(error.to_string()),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn load(engine: &str, shape: Shape, directory: &Path) -> Result<Box<dyn Runner>> {
    fs::create_dir_all(directory)?;
    let file = directory.join(engine);
    Ok(match engine {
        "kissdb" | "compare" => Box::new(Worker::<Kissdb>::load(shape, file)?),
        "lmdb" => Box::new(Worker::<Lmdb>::load(shape, file)?),
        "tokyo" => Box::new(Worker::<Tokyo>::load(shape, file)?),
        "tdb" => Box::new(Worker::<Tdb>::load(shape, file)?),
        "gdbm" => Box::new(Worker::<Gdbm>::load(shape, file)?),
        "sqlite" => Box::new(Worker::<Sqlite>::load(shape, file)?),
        "bare" => Box::new(Bare::load(shape, file)?),
        _ => bail!("no such engine: {engine}"),
    })
}

/// The version of an engine's library; empty if it can't be loaded.
pub fn version(engine: &str) -> String {
    match engine {
        "kissdb" | "compare" => Kissdb::version(),
        "lmdb" => Lmdb::version(),
        "tokyo" => format!("Tokyo Cabinet {}", Tokyo::version()),
        "tdb" => Tdb::version(),
        "gdbm" => Gdbm::version(),
        "sqlite" => format!("SQLite {}", Sqlite::version()),
        _ => engine.into(),
    }
}

/// What time is.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Clock {
    /// What has passed, waiting included.
    #[default]
    Wall,
    /// What this thread has used, in the kernel too. Where nothing waits for a device, that is the
    /// same on an idle machine, and does not change on one that is shared.
    Thread,
}

impl Clock {
    /// For single calls: those on a disk may wait.
    pub fn of(shape: &Shape) -> Self {
        match shape.medium {
            Medium::Tmpfs => Clock::Thread,
            Medium::Disk => Clock::Wall,
        }
    }

    fn now(self) -> u64 {
        let clock = match self {
            Clock::Wall => libc::CLOCK_MONOTONIC,
            Clock::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
        };
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a place for the answer.
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Adds up time and what was asked of the system.
#[derive(Default)]
pub struct Meter {
    clock: Clock,
    time: Duration,
    count: u64,
    syncs: u64,
    bytes: u64,
}

impl Meter {
    pub fn new(clock: Clock) -> Self {
        Meter {
            clock,
            ..Meter::default()
        }
    }

    /// Times one piece of work that answers how many operations it was.
    pub fn time(&mut self, work: impl FnOnce() -> usize) {
        let (syncs, bytes) = (counters::syncs(), counters::written_bytes());
        let start = self.clock.now();
        let count = work();
        self.time += Duration::from_nanos(self.clock.now() - start);
        self.count += count as u64;
        self.syncs += counters::syncs() - syncs;
        self.bytes += counters::written_bytes() - bytes;
    }

    /// Does up to `most` operations; looks at the clock now and then, and stops when the budget is
    /// used up.
    pub fn batch(&mut self, most: usize, mut work: impl FnMut(usize)) {
        self.time(|| {
            let start = Instant::now();
            let mut done = 0;
            while done < most && (done == 0 || start.elapsed() < BUDGET) {
                let next = most.min(done + 64);
                (done..next).for_each(&mut work);
                done = next;
            }
            done
        });
    }

    /// Small databases are done again, so that there is something to measure.
    pub fn wants_more(&self) -> bool {
        self.count < 2000 && self.time < BUDGET / 4
    }

    pub fn figure(&self, name: &str) -> Figure {
        let each = |total: f64| total / self.count.max(1) as f64;
        Figure {
            name: name.into(),
            value: each(self.time.as_nanos() as f64),
            syncs: Some(each(self.syncs as f64)),
            bytes: Some(each(self.bytes as f64)),
        }
    }
}

pub fn plain_figure(name: &str, value: f64) -> Figure {
    Figure {
        name: name.into(),
        value,
        syncs: None,
        bytes: None,
    }
}

/// Reads all there is until what belongs to others has left the memory near the processor, and a core that has slept
/// while they had their turn is as fast as it was.
pub fn warmed_up(mut read_all: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        read_all();
    }
}

/// Calls a round where every key is used about as often.
pub const CALLS: usize = 50_000;

/// A value that is another one each time: some stores skip a put that changes nothing.
#[derive(Clone)]
struct Value {
    bytes: Vec<u8>,
    turn: u64,
}

impl Value {
    fn new(length: usize) -> Self {
        Value {
            bytes: keys::value(length, 1),
            turn: 0,
        }
    }

    fn clone_for(&self, round: u64) -> Self {
        Value {
            bytes: self.bytes.clone(),
            turn: round << 32,
        }
    }

    #[inline]
    fn next(&mut self) -> &[u8] {
        self.turn += 1;
        self.bytes[..8].copy_from_slice(&self.turn.to_le_bytes());
        &self.bytes
    }
}

struct Worker<E: Engine> {
    shape: Shape,
    file: PathBuf,
    present: Keys,
    absent: Keys,
    db: Option<E>,
    buffer: Vec<u8>,
    value: Value,
}

const MEMORY: [&str; 3] = ["VmRSS:", "RssFile:", "RssShmem:"];

impl<E: Engine> Worker<E> {
    fn load(shape: Shape, file: PathBuf) -> Result<Self> {
        ensure!(!E::version().is_empty(), Unfit("not installed"));
        clear::<E>(&file);
        let mut worker = Worker {
            present: Keys::present(&shape),
            absent: Keys::absent(&shape),
            db: None,
            buffer: vec![0; 8192],
            value: Value::new(shape.value),
            shape,
            file,
        };
        let mut fast = worker.shape.clone();
        fast.durable = false;
        let mut db = E::open(&worker.file, &fast)?;
        worker.fill(&mut db, 0..worker.present.len())?;
        db.close()?;
        let mut db = E::open(&worker.file, &worker.shape)?;
        // Warm: each key has been read several times.
        for _ in 0..3 {
            for at in 0..worker.present.len() {
                let size = db.get(worker.present.get(at), &mut worker.buffer);
                ensure!(
                    size == Some(worker.shape.value),
                    "key {at} is not there after the load"
                );
            }
        }
        worker.db = Some(db);
        Ok(worker)
    }

    fn fill(&self, db: &mut E, range: std::ops::Range<usize>) -> Result<()> {
        let mut value = self.value.clone();
        for at in range {
            ensure!(
                db.put(self.present.get(at), value.next()),
                "put of key {at}"
            );
        }
        Ok(())
    }

    fn clock(&self) -> Clock {
        Clock::of(&self.shape)
    }

    fn db(&mut self) -> &mut E {
        self.db.as_mut().expect("open between operations")
    }

    fn close(&mut self) -> Result<()> {
        self.db.take().map_or(Ok(()), E::close)
    }

    fn reopen(&mut self) -> Result<()> {
        self.db = Some(E::open(&self.file, &self.shape)?);
        Ok(())
    }

    /// Random keys; the order follows from operation and round.
    fn order(&self, round: u64) -> Vec<u32> {
        keys::random(round, self.present.len(), CALLS)
    }

    fn read_all(&mut self, op: Op) {
        let keys = match op {
            Op::Absent => &self.absent,
            Op::Iterate => {
                black_box(self.db().iterate(false));
                return;
            }
            _ => &self.present,
        };
        for at in 0..keys.len() {
            let key = keys.get(at);
            // Not through `db()`, which borrows all of `self`.
            let db = self.db.as_mut().expect("open between operations");
            black_box(db.get(key, &mut self.buffer));
        }
    }

    fn get(&mut self, round: u64) -> Result<Vec<Figure>> {
        let sequence = self.present.in_order(&self.order(round));
        let mut buffer = std::mem::take(&mut self.buffer);
        let clock = self.clock();
        let db = self.db();
        let mut meter = Meter::new(clock);
        let mut found = 0;
        let mut tried = 0;
        meter.batch(CALLS, |at| {
            tried += 1;
            found += usize::from(db.get(sequence.get(at), &mut buffer).is_some());
        });
        black_box(&buffer);
        self.buffer = buffer;
        ensure!(
            found == tried,
            "{} of {tried} keys not found",
            tried - found
        );
        Ok(vec![meter.figure("get")])
    }

    fn absent(&mut self, round: u64) -> Result<Vec<Figure>> {
        let sequence = self.absent.in_order(&self.order(round));
        let mut buffer = std::mem::take(&mut self.buffer);
        let clock = self.clock();
        let db = self.db();
        let mut meter = Meter::new(clock);
        let mut found = 0;
        meter.batch(CALLS, |at| {
            found += usize::from(db.get(sequence.get(at), &mut buffer).is_some());
        });
        self.buffer = buffer;
        ensure!(found == 0, "{found} keys found that are not there");
        Ok(vec![meter.figure("absent")])
    }

    fn once(&mut self, round: u64) -> Result<Vec<Figure>> {
        let sequence = self
            .present
            .in_order(&keys::each_once(round, self.present.len()));
        let mut value = self.value.clone_for(round);
        let file = self.file.clone();
        let clock = self.clock();
        let db = self.db();
        let mut meter = Meter::new(clock);
        let mut good = true;
        while meter.wants_more() {
            db.sync(&file)?;
            meter.time(|| {
                (0..sequence.len()).for_each(|at| good &= db.put(sequence.get(at), value.next()));
                sequence.len()
            });
        }
        ensure!(good, "a put failed");
        Ok(vec![meter.figure("once")])
    }

    fn repeat(&mut self, round: u64, each_synced: bool) -> Result<Meter> {
        let sequence = self.present.in_order(&self.order(round));
        let mut value = self.value.clone_for(round);
        let file = self.file.clone();
        let clock = self.clock();
        let db = self.db();
        db.sync(&file)?;
        let mut meter = Meter::new(clock);
        let mut good = true;
        meter.batch(CALLS, |at| {
            good &= db.put(sequence.get(at), value.next());
            if each_synced {
                good &= db.sync(&file).is_ok();
            }
        });
        ensure!(good, "a put failed");
        Ok(meter)
    }

    /// Put and sync, with what the device did.
    fn durable(&mut self, round: u64) -> Result<Vec<Figure>> {
        counters::watch_writes(true);
        let before = counters::device_flushes(&self.file);
        let meter = self.repeat(round, true)?;
        let after = counters::device_flushes(&self.file);
        counters::watch_writes(false);
        let durable = meter.figure("durable");
        let syncs = durable.syncs.unwrap_or_default();
        let mut figures = vec![durable, plain_figure("durable-syncs", syncs)];
        if let (Some(before), Some(after)) = (before, after) {
            let flushes = (after - before) as f64 / meter.count as f64;
            figures.push(plain_figure("durable-device-flushes", flushes));
        }
        Ok(figures)
    }

    fn delete(&mut self, round: u64) -> Result<Vec<Figure>> {
        // On a disk each put may wait for it.
        let most = if self.shape.medium == Medium::Disk {
            1000
        } else {
            20_000
        };
        let count = self.present.len().min(most);
        let mut order = keys::each_once(round, self.present.len());
        order.truncate(count);
        let away = self.present.in_order(&order);
        fastrand::Rng::with_seed(round).shuffle(&mut order);
        let back = self.present.in_order(&order);
        let mut value = self.value.clone_for(round);
        let file = self.file.clone();
        let clock = self.clock();
        let db = self.db();
        let (mut deletes, mut puts) = (Meter::new(clock), Meter::new(clock));
        let mut good = true;
        while deletes.wants_more() {
            db.sync(&file)?;
            deletes.time(|| {
                (0..count).for_each(|at| good &= db.delete(away.get(at)));
                count
            });
            db.sync(&file)?;
            puts.time(|| {
                (0..count).for_each(|at| good &= db.put(back.get(at), value.next()));
                count
            });
        }
        ensure!(good, "a delete or put failed");
        Ok(vec![deletes.figure("delete"), puts.figure("put-deleted")])
    }

    fn iterate(&mut self) -> Result<Vec<Figure>> {
        let expected = self.present.len();
        let clock = self.clock();
        let db = self.db();
        let (mut bare, mut full) = (Meter::new(clock), Meter::new(clock));
        let mut good = true;
        // Together, so that the clock is not what is measured where there is little to iterate.
        let times = (500 / expected).max(1);
        // One behind the other: values fill the memory near the processor.
        for (meter, values) in [(&mut bare, false), (&mut full, true)] {
            while meter.wants_more() {
                meter.time(|| {
                    (0..times).for_each(|_| good &= db.iterate(values) == expected);
                    times * expected
                });
            }
        }
        ensure!(good, "an iteration did not give {expected} keys");
        Ok(vec![bare.figure("iterate"), full.figure("iterate-values")])
    }

    /// A file beside the one that is loaded.
    fn other_file(&self) -> PathBuf {
        self.file.with_extension("new")
    }

    fn new_database(&mut self) -> Result<Vec<Figure>> {
        let file = self.other_file();
        let mut meter = Meter::new(self.clock());
        let mut good = true;
        let mut times = 0;
        while times < 20 && meter.wants_more() {
            clear::<E>(&file);
            let mut db = E::open(&file, &self.shape)?;
            let mut value = self.value.clone();
            meter.time(|| {
                (0..self.present.len())
                    .for_each(|at| good &= db.put(self.present.get(at), value.next()));
                self.present.len()
            });
            db.close()?;
            times += 1;
        }
        clear::<E>(&file);
        ensure!(good, "a put failed");
        Ok(vec![meter.figure("new")])
    }

    fn open(&mut self) -> Result<Vec<Figure>> {
        self.close()?;
        let (mut open, mut first, mut close) =
            (Meter::default(), Meter::default(), Meter::default());
        for at in 0..7 {
            let mut db = None;
            open.time(|| {
                db = Some(E::open(&self.file, &self.shape));
                1
            });
            let mut db = db.expect("set above")?;
            let key = self.present.get(at % self.present.len());
            first.time(|| {
                black_box(db.get(key, &mut self.buffer));
                1
            });
            let mut closed = Ok(());
            close.time(|| {
                closed = db.close();
                1
            });
            closed?;
        }
        self.reopen()?;
        Ok(vec![
            open.figure("open"),
            first.figure("open-first-get"),
            close.figure("close-unchanged"),
        ])
    }

    /// A process puts the last tenth of the keys and is killed; what does the next open cost?
    fn crash(&mut self) -> Result<Vec<Figure>> {
        self.close()?;
        let file = self.other_file();
        clear::<E>(&file);
        let many = self.present.len();
        let kept = many - many.div_ceil(10);
        let mut db = E::open(&file, &self.shape)?;
        self.fill(&mut db, 0..kept)?;
        db.close()?;
        in_child(|| {
            let Ok(mut db) = E::open(&file, &self.shape) else {
                return 1;
            };
            if self.fill(&mut db, kept..many).is_err() {
                return 2;
            }
            // SAFETY: ends this process, as asked.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            3
        })?;
        let mut meter = Meter::default();
        let mut db = None;
        meter.time(|| {
            db = Some(E::open(&file, &self.shape));
            1
        });
        let mut db = db.expect("set above")?;
        let lost = (0..many)
            .filter(|&at| db.get(self.present.get(at), &mut self.buffer) != Some(self.shape.value))
            .count();
        db.close()?;
        clear::<E>(&file);
        self.reopen()?;
        Ok(vec![
            meter.figure("open-crashed"),
            plain_figure("open-crashed-lost-keys", lost as f64),
        ])
    }

    fn close_changed(&mut self, round: u64) -> Result<Vec<Figure>> {
        let many = self.present.len();
        self.close()?;
        let mut meter = Meter::new(self.clock());
        let sequence = self.present.in_order(&keys::each_once(round, many));
        let mut db = E::open(&self.file, &self.shape)?;
        let mut value = self.value.clone_for(round);
        for at in 0..many {
            ensure!(db.put(sequence.get(at), value.next()), "a put failed");
        }
        let mut closed = Ok(());
        meter.time(|| {
            closed = db.close();
            1
        });
        closed?;
        self.reopen()?;
        Ok(vec![meter.figure("close-changed")])
    }

    fn together(&mut self, round: u64) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        self.close()?;
        for processes in [1, 2, 4] {
            if processes == 1 || E::PROCESSES {
                figures.push(plain_figure(
                    &format!("together-{processes}-processes"),
                    self.processes(round, processes)?,
                ));
            }
        }
        self.reopen()?;
        if let Some(time) = self.threads(round, 2) {
            figures.push(plain_figure("together-2-threads", time));
        }
        Ok(figures)
    }

    /// Time of all calls together, divided by their number.
    fn processes(&self, round: u64, processes: usize) -> Result<f64> {
        let board = Board::new()?;
        let mut children = Vec::new();
        for number in 0..processes {
            children.push(start_child(|| {
                let Ok(mut db) = E::open(&self.file, &self.shape) else {
                    return 1;
                };
                let (sequence, mut buffer) = self.mixed(round, number);
                board.wait(processes);
                let start = Clock::Wall.now();
                self.mix(&mut db, &sequence, &mut buffer);
                board.note(number, start, Clock::Wall.now());
                i32::from(db.close().is_err())
            })?);
        }
        for child in children {
            ensure!(wait_for(child)? == 0, "a process failed");
        }
        Ok(board.span(processes) as f64 / (CALLS * processes) as f64)
    }

    fn threads(&mut self, round: u64, threads: usize) -> Option<f64> {
        let mut views = Vec::new();
        for _ in 0..threads {
            views.push(Holder(self.db.as_ref()?.share()?));
        }
        let barrier = Barrier::new(threads);
        let me = &*self;
        let me = Shared(me);
        let spans: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let running: Vec<_> = views
                .into_iter()
                .enumerate()
                .map(|(number, view)| {
                    let (me, barrier) = (&me, &barrier);
                    scope.spawn(move || {
                        let (me, mut view) = (me.get(), view);
                        let (sequence, mut buffer) = me.mixed(round, number);
                        barrier.wait();
                        let start = Clock::Wall.now();
                        me.mix(&mut view.get().0, &sequence, &mut buffer);
                        (start, Clock::Wall.now())
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("no panics there"))
                .collect()
        });
        let start = spans.iter().map(|span| span.0).min()?;
        let end = spans.iter().map(|span| span.1).max()?;
        Some((end - start) as f64 / (CALLS * threads) as f64)
    }

    fn mixed(&self, round: u64, number: usize) -> (Keys, Vec<u8>) {
        let order = keys::random(round * 100 + number as u64, self.present.len(), CALLS);
        (self.present.in_order(&order), vec![0; 8192])
    }

    /// Nine gets, one put.
    fn mix(&self, db: &mut E, sequence: &Keys, buffer: &mut [u8]) {
        let mut value = self.value.clone();
        for at in 0..sequence.len() {
            if at % 10 == 9 {
                db.put(sequence.get(at), value.next());
            } else {
                black_box(db.get(sequence.get(at), buffer));
            }
        }
    }

    fn memory(&mut self) -> Result<Vec<Figure>> {
        self.close()?;
        let before: HashMap<_, _> = MEMORY
            .map(|name| (name, counters::status_bytes(name)))
            .into();
        let heap = heap_bytes();
        self.reopen()?;
        let opened = counters::status_bytes("VmRSS:");
        for _ in 0..2 {
            self.read_all(Op::Memory);
        }
        let grown = |name: &str| counters::status_bytes(name).saturating_sub(before[name]) as f64;
        let mut figures = vec![
            plain_figure(
                "memory-open",
                opened.saturating_sub(before["VmRSS:"]) as f64,
            ),
            plain_figure("memory-resident", grown("VmRSS:")),
            plain_figure("memory-heap", heap_bytes().saturating_sub(heap) as f64),
            plain_figure("memory-file", grown("RssFile:") + grown("RssShmem:")),
        ];
        let beside: u64 = E::beside(&self.file).iter().map(|path| used(path)).sum();
        figures.push(plain_figure("memory-beside", beside as f64));
        figures.push(plain_figure("file-bytes", used(&self.file) as f64));
        Ok(figures)
    }
}

impl<E: Engine> Runner for Worker<E> {
    fn run(&mut self, op: Op, round: u64) -> Result<Vec<Figure>> {
        if op.is_warm(self.shape.medium) {
            warmed_up(|| self.read_all(op));
        }
        match op {
            Op::Get => self.get(round),
            Op::Absent => self.absent(round),
            Op::Once => self.once(round),
            Op::Repeat => Ok(vec![self.repeat(round, false)?.figure("repeat")]),
            Op::Delete => self.delete(round),
            Op::Iterate => self.iterate(),
            Op::New => self.new_database(),
            Op::Open => self.open(),
            Op::Crash => self.crash(),
            Op::Close => self.close_changed(round),
            Op::Together => self.together(round),
            Op::Durable => self.durable(round),
            Op::Memory => self.memory(),
        }
    }

    fn leave(mut self: Box<Self>) -> Result<()> {
        let closed = self.close();
        clear::<E>(&self.file);
        closed
    }
}

fn clear<E: Engine>(file: &Path) {
    // Most of them are not there.
    let _ = fs::remove_file(file);
    for path in E::beside(file) {
        let _ = fs::remove_file(path);
    }
}

/// What was asked of malloc and not given back.
fn heap_bytes() -> usize {
    // SAFETY: answers numbers.
    let found = unsafe { libc::mallinfo2() };
    found.uordblks + found.hblkhd
}

/// Space that a file takes.
fn used(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

/// Runs `work` in a child process, whose exit code is its answer.
fn start_child(work: impl FnOnce() -> i32) -> Result<libc::pid_t> {
    // SAFETY: workers have one thread when they get here.
    match unsafe { libc::fork() } {
        -1 => bail!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let answer = work();
            // SAFETY: nothing of the parent's is to be cleaned up here.
            unsafe { libc::_exit(answer) }
        }
        child => Ok(child),
    }
}

/// Its exit code, or minus the signal that ended it.
fn wait_for(child: libc::pid_t) -> Result<i32> {
    let mut status = 0;
    // SAFETY: a child of ours, a place for the answer.
    let ended = unsafe { libc::waitpid(child, &mut status, 0) };
    ensure!(ended == child, "waitpid");
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    })
}

/// Runs a child that is to be killed.
fn in_child(work: impl FnOnce() -> i32) -> Result<()> {
    let answer = wait_for(start_child(work)?)?;
    ensure!(
        answer == -libc::SIGKILL,
        "the process that was to be killed ended with {answer}"
    );
    Ok(())
}

/// Memory that children share: a counter to start together, and their times.
struct Board {
    cells: &'static [AtomicU64],
}

const BOARD: usize = 64;

impl Board {
    fn new() -> Result<Self> {
        // SAFETY: fresh memory, zeros, never unmapped.
        let cells = unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                BOARD * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            ensure!(at != libc::MAP_FAILED, "mmap");
            std::slice::from_raw_parts(at.cast::<AtomicU64>(), BOARD)
        };
        Ok(Board { cells })
    }

    fn wait(&self, many: usize) {
        self.cells[0].fetch_add(1, SeqCst);
        while self.cells[0].load(SeqCst) < many as u64 {
            std::thread::yield_now();
        }
    }

    fn note(&self, number: usize, start: u64, end: u64) {
        self.cells[1 + number * 2].store(start, SeqCst);
        self.cells[2 + number * 2].store(end, SeqCst);
    }

    fn span(&self, many: usize) -> u64 {
        let times =
            |first: usize| (0..many).map(move |number| self.cells[first + number * 2].load(SeqCst));
        times(2).max().unwrap_or(0) - times(1).min().unwrap_or(0)
    }
}

/// A view of the database for one thread.
struct Holder<E>(E);

// SAFETY: `Engine::share` gives views that may be used in another thread, one thread each.
unsafe impl<E> Send for Holder<E> {}

impl<E> Holder<E> {
    /// A method, so that closures take the whole holder.
    fn get(&mut self) -> &mut Self {
        self
    }
}

/// The worker, of which threads use keys and values only.
struct Shared<'a, E: Engine>(&'a Worker<E>);

// SAFETY: `mixed` and `mix` read keys and values, which nobody changes meanwhile.
unsafe impl<E: Engine> Sync for Shared<'_, E> {}

impl<'a, E: Engine> Shared<'a, E> {
    fn get(&self) -> &'a Worker<E> {
        self.0
    }
}
