//! What the machine itself takes for the same bytes, without any store: the limit.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result, ensure};

use crate::keys;
use crate::plan::{Op, Shape};
use crate::worker::{CALLS, Clock, Figure, Meter, Runner, Unfit, warmed_up};

/// Two blocks, as the file format has them.
const PAIR: usize = 16384;
const BLOCK: usize = 8192;
const KEY: usize = 16;
const VALUE: usize = 148;
const VALUE_SIZE: usize = 8028;
const KEY_SIZE: usize = 128;
/// Header and first table; a further table, and how many pairs there are to each with 20000 keys.
const FIRST: usize = 16384;
const TABLE: usize = 12288;
const PAIRS: usize = 322;

/// Where a pair lies in a file of the format. That matters: the kernel keeps pages in groups that are made when they
/// are written, and most pairs do not begin at a multiple of their size.
#[inline]
fn place(at: usize) -> usize {
    FIRST + at * PAIR + at / PAIRS * TABLE
}

/// A file of pairs, mapped.
pub struct Bare {
    shape: Shape,
    file: PathBuf,
    map: Map,
    value: Vec<u8>,
}

struct Map {
    at: *mut u8,
    length: usize,
    file: File,
}

impl Map {
    /// Maps a file of that many bytes, all of them allocated.
    fn new(path: &Path, length: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: our own file, which nobody cuts off.
        unsafe {
            ensure!(
                libc::posix_fallocate(descriptor, 0, length as i64) == 0,
                "posix_fallocate"
            );
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(
                ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                descriptor,
                0,
            );
            ensure!(at != libc::MAP_FAILED, "mmap");
            Ok(Map {
                at: at.cast(),
                length,
                file,
            })
        }
    }

    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) {
        // SAFETY: offsets are those of pairs inside the map.
        unsafe { ptr::copy_nonoverlapping(self.at.add(offset), into.as_mut_ptr(), into.len()) };
    }

    #[inline]
    fn word(&self, offset: usize) -> usize {
        // SAFETY: as in `read`; volatile, so that it is really read.
        unsafe { self.at.add(offset).cast::<usize>().read_volatile() }
    }

    #[inline]
    fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.at.add(offset), from.len()) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// A live pair, but for delimiters and checksums.
fn pair(shape: &Shape, value: &[u8]) -> Vec<u8> {
    let mut pair = vec![0; PAIR];
    for block in [0, BLOCK] {
        pair[block] = 0xAA;
        pair[block + KEY..][..shape.key].fill(b'k');
        pair[block + VALUE..][..value.len()].copy_from_slice(value);
        pair[block + BLOCK - 8] = 0x55;
    }
    pair
}

impl Bare {
    pub fn load(shape: Shape, file: PathBuf) -> Result<Self> {
        let _ = fs::remove_file(&file);
        let value = keys::value(shape.value, 1);
        let pair = pair(&shape, &value);
        // As a database comes to be.
        let new = File::create(&file)?;
        for at in 0..shape.keys {
            new.write_all_at(&pair, place(at) as u64)?;
        }
        let map = Map::new(&file, place(shape.keys))?;
        Ok(Bare {
            shape,
            file,
            map,
            value,
        })
    }

    fn read_all(&self) {
        let mut front = vec![0; VALUE + self.shape.value];
        for at in 0..self.shape.keys {
            self.map.read(place(at), &mut front);
            black_box(&front);
        }
    }

    /// Reads key and value of random pairs.
    fn reads(&self, round: u64) -> Vec<Figure> {
        let order = keys::random(round, self.shape.keys, CALLS);
        let mut key = vec![0; self.shape.key];
        let mut value = vec![0; self.shape.value];
        let (mut loose, mut chained) = (
            Meter::new(Clock::of(&self.shape)),
            Meter::new(Clock::of(&self.shape)),
        );
        loose.batch(CALLS, |at| {
            let offset = place(order[at] as usize);
            self.map.read(offset + KEY, &mut key);
            self.map.read(offset + VALUE, &mut value);
            black_box((&key, &value));
        });
        let mut zero = 0;
        chained.batch(CALLS, |at| {
            let offset = place(order[at] as usize) + zero;
            self.map.read(offset + KEY, &mut key);
            self.map.read(offset + VALUE, &mut value);
            black_box((&key, &value));
            // The zeros behind the key lie in the cache line of the value's beginning.
            zero = self.map.word(offset + KEY + KEY_SIZE - 8) & 0xFF;
        });
        vec![
            loose.figure("bare-read"),
            chained.figure("bare-read-dependent"),
        ]
    }

    /// Stores value and checksum of one block a key.
    fn stores(&self, order: &[u32], limited: bool, name: &str) -> Vec<Figure> {
        let mut meter = Meter::new(Clock::of(&self.shape));
        let store = |at: usize| {
            let offset = place(order[at] as usize);
            self.map
                .write(offset + 8, &self.value[..8.min(self.value.len())]);
            self.map.write(offset + VALUE, &self.value);
        };
        while meter.wants_more() {
            // Clean pages first, as for the stores.
            let _ = self.map.file.sync_data();
            if limited {
                meter.batch(order.len(), store);
            } else {
                meter.time(|| {
                    (0..order.len()).for_each(store);
                    order.len()
                });
            }
        }
        vec![meter.figure(name)]
    }

    fn new_file(&self) -> Result<Vec<Figure>> {
        let path = self.file.with_extension("new");
        let pair = pair(&self.shape, &self.value);
        let (mut writes, mut stores) = (
            Meter::new(Clock::of(&self.shape)),
            Meter::new(Clock::of(&self.shape)),
        );
        let mut times = 0;
        while times < 20 && writes.wants_more() {
            times += 1;
            let _ = fs::remove_file(&path);
            let file = File::create(&path)?;
            let mut good = true;
            writes.time(|| {
                (0..self.shape.keys)
                    .for_each(|at| good &= file.write_all_at(&pair, place(at) as u64).is_ok());
                self.shape.keys
            });
            ensure!(good, "a write failed");
            fs::remove_file(&path)?;
            let mut map = None;
            stores.time(|| {
                let fresh = map.insert(Map::new(&path, place(self.shape.keys)));
                if let Ok(fresh) = fresh {
                    (0..self.shape.keys).for_each(|at| fresh.write(place(at), &pair));
                }
                self.shape.keys
            });
            map.context("set above")??;
        }
        fs::remove_file(&path)?;
        Ok(vec![
            writes.figure("bare-write-new"),
            stores.figure("bare-store-new"),
        ])
    }

    /// Copies keys and values out of the map, in file order, with zeros behind the value.
    fn iterate(&self) -> Vec<Figure> {
        let (mut key, mut value) = ([0; KEY_SIZE], [0; VALUE_SIZE]);
        let (mut bare, mut full) = (
            Meter::new(Clock::of(&self.shape)),
            Meter::new(Clock::of(&self.shape)),
        );
        let keys = self.shape.keys;
        let times = (500 / keys).max(1);
        while bare.wants_more() {
            bare.time(|| {
                for at in (0..times).flat_map(|_| 0..keys) {
                    self.map.read(place(at) + KEY, &mut key);
                    black_box(&key);
                }
                times * keys
            });
        }
        while full.wants_more() {
            full.time(|| {
                for at in (0..times).flat_map(|_| 0..keys) {
                    self.map.read(place(at) + KEY, &mut key);
                    let (used, rest) = value.split_at_mut(self.shape.value);
                    self.map.read(place(at) + VALUE, used);
                    rest.fill(0);
                    black_box((&key, &value));
                }
                times * keys
            });
        }
        vec![
            bare.figure("bare-iterate"),
            full.figure("bare-iterate-values"),
        ]
    }

    /// Writes the changed bytes of both blocks of each pair, then syncs: by stores, by calls.
    fn close(&self, round: u64) -> Result<Vec<Figure>> {
        let order = keys::each_once(round, self.shape.keys);
        let (mut stores, mut writes) = (
            Meter::new(Clock::of(&self.shape)),
            Meter::new(Clock::of(&self.shape)),
        );
        let mut good = true;
        self.map.file.sync_data()?;
        stores.time(|| {
            for &at in &order {
                for block in [0, BLOCK] {
                    let offset = place(at as usize) + block;
                    self.map
                        .write(offset + 8, &self.value[..8.min(self.value.len())]);
                    self.map.write(offset + VALUE, &self.value);
                }
            }
            good &= self.map.file.sync_data().is_ok();
            1
        });
        writes.time(|| {
            for &at in &order {
                for block in [0, BLOCK] {
                    let offset = (place(at as usize) + block) as u64;
                    good &= self
                        .map
                        .file
                        .write_all_at(&self.value, offset + VALUE as u64)
                        .is_ok();
                }
            }
            good &= self.map.file.sync_data().is_ok();
            1
        });
        ensure!(good, "a write failed");
        Ok(vec![
            stores.figure("bare-store-sync"),
            writes.figure("bare-write-sync"),
        ])
    }

    /// One block's bytes and one sync a put.
    fn durable(&self, round: u64) -> Result<Vec<Figure>> {
        let order = keys::random(round, self.shape.keys, CALLS);
        let mut meter = Meter::default();
        let mut good = true;
        self.map.file.sync_data()?;
        meter.batch(CALLS, |at| {
            self.map
                .write(place(order[at] as usize) + VALUE, &self.value);
            good &= self.map.file.sync_data().is_ok();
        });
        ensure!(good, "a sync failed");
        Ok(vec![meter.figure("bare-store-durable")])
    }
}

impl Runner for Bare {
    fn run(&mut self, op: Op, round: u64) -> Result<Vec<Figure>> {
        let keys = self.shape.keys;
        let has_twin = !matches!(op, Op::Absent | Op::Delete);
        if has_twin && op.is_warm(self.shape.medium) {
            warmed_up(|| self.read_all());
        }
        match op {
            Op::Get => Ok(self.reads(round)),
            Op::Once => Ok(self.stores(&keys::each_once(round, keys), false, "bare-store-once")),
            Op::Repeat => {
                Ok(self.stores(&keys::random(round, keys, CALLS), true, "bare-store-repeat"))
            }
            Op::Iterate => Ok(self.iterate()),
            Op::New => self.new_file(),
            Op::Close => self.close(round),
            Op::Durable => self.durable(round),
            Op::Absent | Op::Delete | Op::Open | Op::Crash | Op::Together | Op::Memory => {
                Err(Unfit::nothing_to_compare().into())
            }
        }
    }

    fn leave(self: Box<Self>) -> Result<()> {
        fs::remove_file(&self.file)?;
        Ok(())
    }
}
