//! What a caller does with a database, and the record of what that stored.

use super::history::{Baseline, Bytes, State as KeyState};
use super::{Rng, number_of};
use crate::reader;
use kissdb::Result;
use kissdb::engine::storage::{Event, Memory};
use kissdb::engine::{Engine, Position, State, Storage};
use kissdb::format::Sizes;
use kissdb::format::header::Header;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// One call of the scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put(Vec<u8>, Bytes),
    Delete(Vec<u8>),
    /// Every key that the scenario knows is read, and the database iterated.
    Read,
    /// The caller's fdatasync, of which the engine learns nothing.
    Sync,
    /// The last user closes; the next call is in a new life.
    Close,
    /// The process dies between two calls; the next call is in a new life. What it stored is in
    /// the page cache, not on the medium.
    Kill,
    /// The next call is made by another user of the same life; this one makes no more.
    Join,
    /// The process dies in the next call, after this many stores, lengths and syncs of it; the call behind
    /// is made by another user of the same life.
    Die(u64),
}

impl Op {
    pub fn text(&self) -> String {
        match self {
            Op::Put(k, v) => format!("put {} {} bytes", k.escape_ascii(), v.len()),
            Op::Delete(k) => format!("delete {}", k.escape_ascii()),
            op => format!("{op:?}").to_lowercase(),
        }
    }
}

/// A database and what is done with it.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    /// The file at the beginning.
    pub image: Vec<u8>,
    /// What may be found in it, and might have been found earlier.
    pub baseline: Baseline,
    pub ops: Vec<Op>,
    /// The file was never in other hands.
    pub ours: bool,
    /// The file was damaged before: only of the keys of `baseline` and of those in `ops` is anything known.
    pub damaged: bool,
    /// How the medium deceives the engine.
    pub fault: Fault,
    /// It has room for a file of so many bytes.
    pub room: Option<u64>,
}

/// How a medium may break its word, to show that the enumerator notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// The engine's own syncs answer at once and do nothing; the caller's work.
    SyncsDoNothing,
    /// Within a sector the last store reaches the medium first.
    Reversed,
}

/// A scenario in the making.
pub struct Script {
    name: String,
    sizes: (u64, u64, u64),
    prelude: Vec<Op>,
    ops: Vec<Op>,
    rng: Rng,
    room: Option<u64>,
}

impl Script {
    /// `sizes`: slots, key, value.
    pub fn new(name: &str, sizes: (u64, u64, u64)) -> Self {
        Self {
            name: name.to_owned(),
            sizes,
            prelude: Vec::new(),
            ops: Vec::new(),
            rng: Rng::new(&[number_of(name)]),
            room: None,
        }
    }

    /// The medium has room for a file of so many bytes.
    pub fn room(mut self, bytes: u64) -> Self {
        self.room = Some(bytes);
        self
    }

    /// What was done so far lies in the past: it was closed cleanly before the scenario begins.
    pub fn before(mut self) -> Self {
        self.prelude.append(&mut self.ops);
        self
    }

    /// A value of `len` bytes that no other put has: random ones, or, which the file's checksum can't tell so well from a part
    /// of it, one byte again and again, or random ones and a run of the last one.
    pub fn put(mut self, key: &str, len: usize) -> Self {
        let mut value: Vec<u8> = (0..len).map(|_| self.rng.next() as u8).collect();
        let from = match self.rng.below(4) {
            0 => 0,
            1 => self.rng.below(len as u64) as usize,
            _ => len,
        };
        if let Some(&last) = value.last() {
            value[from..].fill(last);
        }
        self.put_value(key, &value)
    }

    /// The same, mostly zeros.
    pub fn put_sparse(self, key: &str, len: usize) -> Self {
        self.put_with(
            key,
            len,
            |rng, i| {
                if i % 97 == 0 { rng.next() as u8 } else { 0 }
            },
        )
    }

    /// The same, one byte again and again.
    pub fn put_run(mut self, key: &str, len: usize) -> Self {
        let byte = self.rng.next() as u8;
        self.put_value(key, &vec![byte; len])
    }

    /// As the value before, but for one byte.
    pub fn put_changed(mut self, key: &str, byte: usize) -> Self {
        let old = self.prelude.iter().chain(&self.ops).rev();
        let mut value = old
            .filter_map(|op| match op {
                Op::Put(k, v) if k == key.as_bytes() => Some(v.to_vec()),
                _ => None,
            })
            .next()
            .unwrap_or_default();
        if let Some(b) = value.get_mut(byte) {
            *b = b.wrapping_add(1 + self.rng.below(250) as u8);
        }
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// This value.
    pub fn put_value(self, key: &str, value: &[u8]) -> Self {
        self.op(Op::Put(key.into(), value.into()))
    }

    /// These values, one after the other.
    pub fn put_values(self, key: &str, values: &[&str]) -> Self {
        let put = |s: Self, value: &&str| s.put_value(key, value.as_bytes());
        values.iter().fold(self, put)
    }

    fn put_with(mut self, key: &str, len: usize, byte: impl Fn(&mut Rng, usize) -> u8) -> Self {
        let value: Vec<u8> = (0..len).map(|i| byte(&mut self.rng, i)).collect();
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    pub fn delete(self, key: &str) -> Self {
        self.op(Op::Delete(key.into()))
    }

    pub fn read(self) -> Self {
        self.op(Op::Read)
    }

    pub fn sync(self) -> Self {
        self.op(Op::Sync)
    }

    pub fn close(self) -> Self {
        self.op(Op::Close)
    }

    pub fn kill(self) -> Self {
        self.op(Op::Kill)
    }

    pub fn join(self) -> Self {
        self.op(Op::Join)
    }

    pub fn die(self, after: u64) -> Self {
        self.op(Op::Die(after))
    }

    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Calls `f` for each of `range`.
    pub fn each(self, range: std::ops::Range<usize>, f: impl Fn(Self, usize) -> Self) -> Self {
        range.fold(self, f)
    }

    /// The same calls on a file that somebody else left. `found`: what the original finds in it; `judge` fails if what
    /// this library finds is not what is there.
    pub fn on(
        self,
        image: Vec<u8>,
        found: &BTreeMap<Vec<u8>, Bytes>,
        judge: impl Fn(&BTreeMap<Vec<u8>, Bytes>),
    ) -> Scenario {
        let memory = Memory::new(image.clone());
        let mut engine = Engine::open(memory, State::default(), true, false).expect("opens");
        let ours = iterate(&mut engine).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        judge(&ours);
        let mut baseline = Baseline::certain(ours);
        baseline.or_else(found);
        let was_left_open = reader::word(&image, 16) != 0;
        if was_left_open {
            baseline.or_older(&reader::read(&image).good);
        }
        Scenario {
            name: self.name,
            image,
            baseline,
            ops: self.ops,
            ours: false,
            damaged: false,
            fault: Fault::None,
            room: None,
        }
    }

    /// The same calls on a damaged file. `known`: what no damage has touched.
    pub fn on_damaged(self, image: Vec<u8>, known: BTreeMap<Vec<u8>, Bytes>) -> Scenario {
        Scenario {
            name: self.name,
            image,
            baseline: Baseline::certain(known),
            ops: self.ops,
            ours: false,
            damaged: true,
            fault: Fault::None,
            room: None,
        }
    }

    pub fn finish(self) -> Scenario {
        let (slots, key, value) = self.sizes;
        let sizes = Sizes::new(slots, key, value).expect("sizes in range");
        let header = Header { sizes, clean: true };
        let mut image = header.bytes().to_vec();
        let mut baseline = Baseline::default();
        if !self.prelude.is_empty() {
            let mut prelude = self.prelude;
            prelude.push(Op::Close);
            let past = Scenario {
                name: self.name.clone(),
                image,
                baseline,
                ops: prelude,
                ours: true,
                damaged: false,
                fault: Fault::None,
                room: None,
            };
            let record = past.record();
            image = record.last;
            baseline = Baseline::certain(record.model);
        }
        Scenario {
            name: self.name,
            image,
            baseline,
            ops: self.ops,
            ours: true,
            damaged: false,
            fault: Fault::None,
            room: self.room,
        }
    }
}

/// What happened when a scenario was played.
#[derive(Debug, Clone)]
pub struct Record {
    /// Begin and answer of call n are the marks 2n and 2n+1.
    pub log: Vec<Event>,
    pub calls: Vec<Call>,
    /// The file at the end.
    pub last: Vec<u8>,
    /// What was in it at the end, as its user saw it.
    pub model: BTreeMap<Vec<u8>, Bytes>,
}

/// What a call changes, for the history.
#[derive(Debug, Clone)]
pub struct Call {
    pub text: String,
    pub effect: Effect,
}

#[derive(Debug, Clone)]
pub enum Effect {
    None,
    Change(Vec<u8>, KeyState),
    /// A change by somebody who died in it: done or not done.
    Perhaps(Vec<u8>, KeyState),
    /// The database was found to hold exactly this.
    Seen(BTreeMap<Vec<u8>, Bytes>),
    Close,
}

/// The medium as the engine sees it.
struct Medium {
    memory: Rc<Memory>,
    fault: Fault,
}

impl Storage for Medium {
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }
    fn known_len(&self) -> u64 {
        self.memory.known_len()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.memory.read(at, buf)
    }
    fn store(&self, at: u64, word: u64) -> Result<()> {
        self.memory.store(at, word)
    }
    fn grow(&self, len: u64) -> Result<()> {
        self.memory.grow(len)
    }
    fn truncate(&self, len: u64) -> Result<()> {
        self.memory.truncate(len)
    }
    fn fill_holes(&self) -> Result<()> {
        self.memory.fill_holes()
    }
    fn sync(&self) -> Result<()> {
        match self.fault {
            Fault::SyncsDoNothing => Ok(()),
            _ => self.memory.sync(),
        }
    }
    fn sync_range(&self, at: u64, len: u64) -> Result<()> {
        match self.fault {
            Fault::SyncsDoNothing => Ok(()),
            _ => self.memory.sync_range(at, len),
        }
    }
    fn is_file(&self) -> bool {
        true
    }
}

struct Player<'a> {
    scenario: &'a Scenario,
    memory: Rc<Memory>,
    life: Option<(Engine<Medium, Rc<State>>, Rc<State>)>,
    calls: Vec<Call>,
    keys: BTreeSet<Vec<u8>>,
    /// What its user knows to be there, if `certain`.
    model: BTreeMap<Vec<u8>, Bytes>,
    certain: bool,
}

impl Scenario {
    /// Every key that is ever in the database.
    pub fn keys(&self) -> BTreeSet<Vec<u8>> {
        let mut keys: BTreeSet<_> = self.baseline.keys().cloned().collect();
        for op in &self.ops {
            if let Op::Put(k, _) | Op::Delete(k) = op {
                keys.insert(k.clone());
            }
        }
        keys
    }

    /// Plays it. Panics if a call does not answer as it should.
    pub fn record(&self) -> Record {
        let mut player = Player {
            scenario: self,
            memory: Rc::new(Memory::new(self.image.clone())),
            life: None,
            calls: Vec::new(),
            keys: self.keys(),
            model: self.baseline.only_states(),
            certain: self.baseline.is_certain(),
        };
        player.memory.full_at(self.room);
        player.open();
        if !player.certain {
            // Which of the states that each key may be in it really is, the first reader learns.
            player.play(&Op::Read);
        }
        let mut ops = self.ops.iter();
        while let Some(op) = ops.next() {
            if let Op::Die(after) = op {
                let next = ops.next().expect("a call to die in");
                player.die(*after, next);
            } else {
                player.play(op);
            }
        }
        Record {
            log: player.memory.take_log(),
            calls: player.calls,
            last: player.memory.bytes(),
            model: player.model,
        }
    }
}

impl Player<'_> {
    fn begin(&mut self, text: String, effect: Effect) {
        self.memory.mark(2 * self.calls.len() as u64);
        self.calls.push(Call { text, effect });
    }

    fn answer(&mut self) {
        self.memory.mark(2 * self.calls.len() as u64 - 1);
    }

    fn open(&mut self) {
        self.open_with(Rc::new(State::default()));
    }

    fn open_with(&mut self, state: Rc<State>) {
        self.begin("open".into(), Effect::None);
        let medium = Medium {
            memory: Rc::clone(&self.memory),
            fault: self.scenario.fault,
        };
        let engine = Engine::open(medium, Rc::clone(&state), true, false).expect("opens");
        self.answer();
        self.life = Some((engine, state));
    }

    fn engine(&mut self) -> &mut Engine<Medium, Rc<State>> {
        if self.life.is_none() {
            self.open();
        }
        &mut self.life.as_mut().expect("just opened").0
    }

    fn play(&mut self, op: &Op) {
        self.engine();
        let effect = match op {
            Op::Put(k, v) => Effect::Change(k.clone(), Some(v.clone())),
            Op::Delete(k) => Effect::Change(k.clone(), None),
            Op::Close => Effect::Close,
            _ => Effect::None,
        };
        match op {
            Op::Kill => {
                self.life = None;
                return;
            }
            Op::Join => {
                if let Some((_, state)) = self.life.take() {
                    self.open_with(state);
                }
                return;
            }
            _ => {}
        }
        self.begin(op.text(), effect);
        let name = self.scenario.name.clone();
        let failed = |e: kissdb::Error| format!("{name}: {}: {e}", op.text());
        match op {
            Op::Put(k, v) => {
                self.engine()
                    .put(k, v)
                    .map_err(failed)
                    .unwrap_or_else(|e| panic!("{e}"));
                self.model.insert(k.clone(), v.clone());
            }
            Op::Delete(k) => {
                let was = self.model.remove(k).is_some();
                let found = self
                    .engine()
                    .delete(k)
                    .map_err(failed)
                    .unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(found, was, "{name}: {}", op.text());
            }
            Op::Read => {
                let keys = self.keys.clone();
                let seen = match self.scenario.damaged {
                    true => read_known(self.engine(), keys.iter()),
                    false => read_all(self.engine(), keys.iter()),
                };
                let seen = seen.unwrap_or_else(|e| panic!("{name}: {e}"));
                if self.certain {
                    assert!(seen == self.model, "{name}: read something else");
                } else if let Some(key) = self.scenario.baseline.contradicts(&seen) {
                    panic!(
                        "{name}: read what is not permitted of {}",
                        key.escape_ascii()
                    );
                }
                self.certain = true;
                self.model.clone_from(&seen);
                if let Some(call) = self.calls.last_mut() {
                    call.effect = Effect::Seen(seen);
                }
            }
            Op::Sync => self
                .memory
                .sync()
                .map_err(failed)
                .unwrap_or_else(|e| panic!("{e}")),
            Op::Close => {
                self.engine()
                    .settle()
                    .map_err(failed)
                    .unwrap_or_else(|e| panic!("{e}"));
            }
            Op::Kill | Op::Join | Op::Die(_) => {}
        }
        self.answer();
        if *op == Op::Close {
            self.life = None;
        }
    }

    /// `op` is begun and dies, then its handle with it; another one of the same life goes on.
    fn die(&mut self, after: u64, op: &Op) {
        self.engine();
        let effect = match op {
            Op::Put(k, v) => Effect::Perhaps(k.clone(), Some(v.clone())),
            Op::Delete(k) => Effect::Perhaps(k.clone(), None),
            _ => Effect::None,
        };
        self.begin(format!("die in {} after {after}", op.text()), effect);
        self.memory.fail_after(Some(after));
        let engine = self.engine();
        let _dies = match op {
            Op::Put(k, v) => engine.put(k, v),
            Op::Delete(k) => engine.delete(k).map(drop),
            Op::Close => engine.settle(),
            _ => Ok(()),
        };
        self.memory.fail_after(None);
        self.answer();
        if let Some((_, state)) = self.life.take() {
            // A dead process does not poison a sync as a failed one does.
            state
                .poisoned
                .store(0, std::sync::atomic::Ordering::Relaxed);
            self.open_with(state);
        }
        let keys = self.keys.clone();
        self.begin("read after a death".into(), Effect::None);
        let seen = read_all(self.engine(), keys.iter()).expect("reads");
        self.model.clone_from(&seen);
        if let Some(call) = self.calls.last_mut() {
            call.effect = Effect::Seen(seen);
        }
        self.answer();
    }
}

/// What `get` finds of `keys` and, the same once more, what the iterator yields.
pub fn read_all<'k, S: Storage, H: AsRef<State>>(
    engine: &mut Engine<S, H>,
    keys: impl Iterator<Item = &'k Vec<u8>>,
) -> std::result::Result<BTreeMap<Vec<u8>, Bytes>, String> {
    let found = read_known(engine, keys)?;
    let listed = iterate(engine)?;
    if listed != found {
        let only = |a: &BTreeMap<Vec<u8>, Bytes>, b: &BTreeMap<Vec<u8>, Bytes>| {
            let names = a.iter().filter(|(k, v)| b.get(*k) != Some(v));
            names
                .map(|(k, v)| format!("{} ({})", k.escape_ascii(), v.len()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        return Err(format!(
            "the iterator disagrees with get: it has [{}], get has [{}]",
            only(&listed, &found),
            only(&found, &listed)
        ));
    }
    Ok(found)
}

/// What `get` finds of `keys`.
pub fn read_known<'k, S: Storage, H: AsRef<State>>(
    engine: &mut Engine<S, H>,
    keys: impl Iterator<Item = &'k Vec<u8>>,
) -> std::result::Result<BTreeMap<Vec<u8>, Bytes>, String> {
    let mut found = BTreeMap::new();
    for key in keys {
        if let Some(value) = read_one(engine, key)? {
            found.insert(key.clone(), value);
        }
    }
    Ok(found)
}

fn read_one<S: Storage, H: AsRef<State>>(
    engine: &mut Engine<S, H>,
    key: &[u8],
) -> std::result::Result<KeyState, String> {
    let mut buf = [0xA5; 8028];
    match engine.get(key, &mut buf) {
        Ok(size) => match size.map(|n| buf.get(..n)) {
            Some(None) => Err(format!("get {}: size out of range", key.escape_ascii())),
            Some(Some(value)) => Ok(Some(value.into())),
            None => Ok(None),
        },
        Err(e) => Err(format!("get {}: {e}", key.escape_ascii())),
    }
}

const ZEROS: [u8; 8028] = [0; 8028];

/// What the iterator yields: each key once, and an end.
pub fn iterate<S: Storage, H: AsRef<State>>(
    engine: &mut Engine<S, H>,
) -> std::result::Result<BTreeMap<Vec<u8>, Bytes>, String> {
    let mut pos = Position::default();
    let mut listed = BTreeMap::new();
    let mut names = Vec::new();
    let mut buf = vec![0; engine.sizes().value as usize];
    while let Some(field) = engine
        .next(&mut pos, Some(&mut buf))
        .map_err(|e| format!("the iterator: {e}"))?
    {
        let n = field.iter().position(|&b| b == 0).unwrap_or(field.len());
        names.push((field[..n].to_vec(), buf.clone()));
        if names.len() > 100_000 {
            return Err("the iterator does not end".into());
        }
    }
    for (name, buf) in names {
        let value = read_one(engine, &name)?;
        let text = name.escape_ascii().to_string();
        let Some(value) = value else {
            return Err(format!("the iterator yields {text}, get does not find it"));
        };
        if !buf.starts_with(&value) || buf[value.len()..] != ZEROS[..buf.len() - value.len()] {
            return Err(format!(
                "the iterator yields another value of {text} than get"
            ));
        }
        if listed.insert(name, value).is_some() {
            return Err(format!("the iterator yields {text} twice"));
        }
    }
    Ok(listed)
}
