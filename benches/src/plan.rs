//! What is measured: databases (shapes) and operations.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    Tmpfs,
    Disk,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    pub medium: Medium,
    pub keys: usize,
    /// Length of a key in bytes, without its NUL.
    pub key: usize,
    /// Length of a value in bytes.
    pub value: usize,
    /// All keys in one slot.
    pub collide: bool,
    /// Each put is made durable before it answers.
    pub durable: bool,
}

impl Shape {
    pub fn new(medium: Medium, keys: usize) -> Self {
        Shape {
            medium,
            keys,
            key: 20,
            value: 64,
            collide: false,
            durable: false,
        }
    }

    pub fn title(&self) -> String {
        let medium = match self.medium {
            Medium::Tmpfs => "tmpfs",
            Medium::Disk => "disk",
        };
        let mut title = format!(
            "{medium}, {} keys of {} bytes, values of {}",
            self.keys, self.key, self.value
        );
        if self.collide {
            title.push_str(", all in one slot");
        }
        if self.durable {
            title.push_str(", each put made durable");
        }
        title
    }
}

/// What a worker is told to do; one may give several figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// get of a key that is there: random, warm
    Get,
    /// get of a key that is not there
    Absent,
    /// put over each key once, in random order, after a sync
    Once,
    /// put over random keys again and again, without a sync
    Repeat,
    /// delete of each key, then put into the deleted slots
    Delete,
    /// all keys, without and with values
    Iterate,
    /// a new database with all keys
    New,
    /// open and close of a clean database, with and without a first get
    Open,
    /// open after the death of a process that had put the last tenth of the keys
    Crash,
    /// last close after a put over every key
    Close,
    /// 1, 2, 4 processes and 2 threads: nine gets and one put in ten calls
    Together,
    /// put, made durable, over random keys
    Durable,
    /// resident and shared memory, size of the file
    Memory,
}

impl Op {
    pub const PLAIN: [Op; 10] = [
        Op::Get,
        Op::Absent,
        Op::Iterate,
        Op::Once,
        Op::Repeat,
        Op::Delete,
        Op::Close,
        Op::Open,
        Op::New,
        Op::Crash,
    ];

    /// Measured in memory that is near the processor, as far as the database fits.
    pub fn is_warm(self, medium: Medium) -> bool {
        let quick = [
            Op::Get,
            Op::Absent,
            Op::Once,
            Op::Repeat,
            Op::Delete,
            Op::Iterate,
        ];
        medium == Medium::Tmpfs && quick.contains(&self)
    }

    /// Writes whole new files.
    pub fn is_big(self) -> bool {
        matches!(self, Op::New | Op::Crash)
    }
}

/// Operations on one database.
#[derive(Clone, Debug)]
pub struct Cell {
    pub shape: Shape,
    pub ops: Vec<Op>,
}

/// Everything that docs/performance.md speaks of.
pub fn full() -> Vec<Cell> {
    let tmpfs = |keys| Shape::new(Medium::Tmpfs, keys);
    let disk = |keys| Shape::new(Medium::Disk, keys);
    let plain_and = |more: &[Op]| [&Op::PLAIN, more].concat();
    let mut cells = vec![
        cell(tmpfs(1), &plain_and(&[Op::Memory])),
        cell(tmpfs(500), &plain_and(&[Op::Together, Op::Memory])),
        cell(tmpfs(20_000), &plain_and(&[Op::Together, Op::Memory])),
        cell(tmpfs(200_000), &plain_and(&[Op::Memory])),
    ];
    let kinds = [
        Op::Get,
        Op::Absent,
        Op::Iterate,
        Op::Once,
        Op::Repeat,
        Op::Delete,
        Op::New,
    ];
    for value in [8, 1000, 8028] {
        let mut shape = tmpfs(20_000);
        shape.value = value;
        cells.push(cell(shape, &kinds));
    }
    let mut long = tmpfs(20_000);
    long.key = 120;
    cells.push(cell(long, &kinds));
    let mut slot = tmpfs(300);
    slot.collide = true;
    cells.push(cell(slot, &kinds));
    let on_disk = [
        Op::Once,
        Op::Repeat,
        Op::Delete,
        Op::Close,
        Op::Open,
        Op::New,
        Op::Crash,
    ];
    cells.push(cell(disk(500), &on_disk));
    cells.push(cell(disk(20_000), &on_disk));
    cells.extend([1, 500, 20_000].map(durable));
    cells
}

/// Some of the targets, in some minutes.
pub fn quick() -> Vec<Cell> {
    vec![
        cell(Shape::new(Medium::Tmpfs, 500), &Op::PLAIN),
        cell(Shape::new(Medium::Tmpfs, 20_000), &Op::PLAIN),
        cell(
            Shape::new(Medium::Disk, 20_000),
            &[Op::Once, Op::Repeat, Op::New],
        ),
        durable(500),
    ]
}

fn cell(shape: Shape, ops: &[Op]) -> Cell {
    Cell {
        shape,
        ops: ops.to_vec(),
    }
}

fn durable(keys: usize) -> Cell {
    let mut shape = Shape::new(Medium::Disk, keys);
    shape.durable = true;
    cell(shape, &[Op::Durable])
}

/// How long one engine may take for one operation of one round.
pub const BUDGET: Duration = Duration::from_millis(400);
