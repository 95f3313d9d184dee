//! Files that this library wrote, in every state that it can leave them in: closed, left open, killed at any store.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test program uses a part of it

use super::procs::Rng;
use kissdb::engine::storage::{Event, Memory};
use kissdb::engine::{Engine, State};
use kissdb::format::Sizes;
use kissdb::format::header::Header;

/// Table size, key size, value size: the two in the field, small tables, and sizes that nobody uses.
pub const SIZES: [(u64, u64, u64); 8] = [
    (510, 128, 8028),
    (510, 64, 212),
    (3, 128, 8028),
    (3, 64, 212),
    (1, 128, 8028),
    (7, 100, 1000),
    (2, 16, 8028),
    (5, 128, 600),
];

type Mem = Engine<Memory, State>;

pub fn open(bytes: Vec<u8>) -> Mem {
    Engine::open(Memory::new(bytes), State::default(), true, false).expect("opens what it wrote")
}

/// A value, empty, short, long, or one that holds what delimits a table where the original looks for it.
pub fn value(rng: &mut Rng, room: usize) -> Vec<u8> {
    let size = match rng.below(10) {
        0 => 0,
        1 => 1,
        2 => room,
        3 => rng.below(room as u64 + 1) as usize,
        4 if room >= 3956 => 4000,
        _ => rng.below(room.min(200) as u64 + 1) as usize,
    };
    let (b, fill) = (rng.next() as u8, rng.below(3));
    let mut v: Vec<u8> = (0..size)
        .map(|i| match fill {
            0 => 0,
            1 => b,
            _ => (i as u8).wrapping_mul(b | 1),
        })
        .collect();
    if size == 4000 {
        let (at, w) = if rng.one_in(2) {
            (3948, 0x3333_3333u64)
        } else {
            (3940, 0xCCCC_CCCC)
        };
        v[at..at + 8].copy_from_slice(&w.to_le_bytes());
    }
    v
}

/// One of `keys` names.
pub fn key(rng: &mut Rng, keys: u64) -> Vec<u8> {
    match rng.below(keys) {
        0 => vec![b'x'; 127],
        1 => vec![b'y'; 64],
        // These three share a slot of 510.
        2 => b"/k176".to_vec(),
        3 => b"/k253".to_vec(),
        4 => b"/k330".to_vec(),
        n => format!("/key/{n}").into_bytes(),
    }
}

/// A file after a random history of one or more lives; what it is called tells how it ended.
pub fn file(rng: &mut Rng) -> (String, Vec<u8>) {
    let (slots, key_size, room) = SIZES[rng.below(SIZES.len() as u64) as usize];
    let sizes = Sizes::new(slots, key_size, room).expect("in range");
    let mut e = open(Header { sizes, clean: true }.bytes().to_vec());
    let keys = 2 + rng.below(9);
    let mut before;
    let lives = 1 + rng.below(3);
    for life in 1..=lives {
        let ops = 1 + rng.below(12);
        e.store().take_log();
        before = e.store().bytes();
        for _ in 0..ops {
            let k = key(rng, keys);
            let room = if rng.one_in(3) { room } else { room.min(300) };
            if rng.one_in(4) {
                e.delete(&k).expect("deletes");
            } else {
                e.put(&k, &value(rng, room as usize)).expect("puts");
            }
        }
        let how = rng.below(3);
        if how == 0 || life < lives && how == 1 {
            e.settle().expect("closes");
            if life == lives {
                let name = format!("ours {slots}/{key_size}/{room}, closed");
                return (name, e.store().bytes());
            }
        }
        if how == 2 {
            // Killed at some store, of the close perhaps.
            if rng.one_in(2) {
                e.settle().expect("closes");
            }
            let log = e.store().take_log();
            let n = rng.below(log.len() as u64 + 1) as usize;
            for event in &log[..n] {
                match *event {
                    Event::Store(at, w) => {
                        before[at as usize..at as usize + 8].copy_from_slice(&w.to_le_bytes());
                    }
                    Event::Length(len) => before.resize(len as usize, 0),
                    Event::Sync | Event::SyncRange(..) | Event::Mark(_) => {}
                }
            }
            if life == lives {
                let name = format!("ours {slots}/{key_size}/{room}, killed at {n}");
                return (name, before);
            }
            e = open(before);
            continue;
        }
        if life < lives {
            e = open(e.store().bytes());
        }
    }
    (
        format!("ours {slots}/{key_size}/{room}, left open"),
        e.store().bytes(),
    )
}
