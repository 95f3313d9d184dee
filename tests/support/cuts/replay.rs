//! Opens a state and says what is wrong with it.

use super::history::{Bytes, Permit, Permits};
use super::scenario::{iterate, read_all, read_known};
use crate::check;
use crate::original::{self, Reading};
use crate::reader;
use kissdb::engine::storage::{Memory, Overlay};
use kissdb::engine::{Engine, Position, State, Storage};
use std::collections::{BTreeMap, BTreeSet};

/// Those that begin or end a copy, live or deleted.
const DELIMITERS: [u64; 8] = [
    reader::LIVE[0].0,
    reader::LIVE[0].1,
    reader::LIVE[1].0,
    reader::LIVE[1].1,
    reader::DEAD[0].0,
    reader::DEAD[0].1,
    reader::DEAD[1].0,
    reader::DEAD[1].1,
];

type Model = BTreeMap<Vec<u8>, Bytes>;

/// A state to be checked.
pub struct Case<'a> {
    pub image: &'a [u8],
    pub permits: &'a Permits,
    /// The file was never in other hands: nothing may lie behind a value.
    pub ours: bool,
    /// Varies what is done with the opened file.
    pub seed: u64,
}

/// What is wrong; nothing if all is well. With the name of the promise that is broken.
pub fn check(case: &Case) -> Result<(), String> {
    originals(case).map_err(|e| format!("P3: {e}"))?;
    ours(case).map_err(|e| format!("P2: {e}"))
}

/// The same of a file that was damaged before: what no damage has touched is as permitted, and stays so. Of the rest
/// nothing is known.
pub fn check_damaged(case: &Case) -> Result<(), String> {
    let mut engine = open(Memory::new(case.image.to_vec()), true)?;
    if case.seed & 1 != 0 {
        look_at_everything(&mut engine)?;
    }
    let mut model = read_known(&mut engine, case.permits.keys())?;
    permitted(case.permits, &model)?;
    if case.seed & 2 != 0 {
        look_at_everything(&mut engine)?;
    }
    change(case, &mut engine, &mut model)?;
    let keys: Vec<_> = model.keys().chain(case.permits.keys()).cloned().collect();
    let found = read_known(&mut engine, keys.iter())?;
    same("behind a change", &found, &model)?;
    engine.settle().map_err(|e| format!("close: {e}"))?;
    let mut again = open(Memory::new(engine.store().bytes()), true)?;
    let found = read_known(&mut again, keys.iter())?;
    same("behind the close", &found, &model)
}

fn look_at_everything<S: Storage>(engine: &mut Engine<S, State>) -> Result<(), String> {
    let mut pos = Position::default();
    loop {
        match engine.next(&mut pos, None) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(e) => return Err(format!("the iterator: {e}")),
        }
    }
}

fn open<S: Storage>(store: S, writable: bool) -> Result<Engine<S, State>, String> {
    Engine::open(store, State::default(), writable, false).map_err(|e| format!("open: {e}"))
}

fn ours(case: &Case) -> Result<(), String> {
    let stranger = b"/nobody/ever/put/this".to_vec();
    let keys = || case.permits.keys().chain([&stranger]);
    let mut engine = open(Memory::new(case.image.to_vec()), true)?;
    // The first touch of a pair may mend it: by key or by the iterator.
    if case.seed & 1 != 0 {
        iterate(&mut engine)?;
    }
    let mut model = read_all(&mut engine, keys())?;
    permitted(case.permits, &model)?;

    if case.seed & 2 != 0 {
        // Whoever may only read recovers in memory, and sees the same.
        let below = Memory::new(case.image.to_vec());
        let overlay = Overlay::new(below).map_err(|e| format!("overlay: {e}"))?;
        let mut reader = open(overlay, false)?;
        same("read-only", &read_all(&mut reader, keys())?, &model)?;
        if reader.store().below().bytes() != case.image {
            return Err("a read-only open changed the file".into());
        }
    }
    if case.seed & 4 != 0 {
        // Nobody closed, everything reached the medium: the next life finds nothing more to mend.
        let mut next = open(Memory::new(engine.store().bytes()), true)?;
        same("a second recovery", &read_all(&mut next, keys())?, &model)?;
        let settled = next.store().bytes();
        let mut third = open(Memory::new(settled.clone()), true)?;
        same("a third recovery", &read_all(&mut third, keys())?, &model)?;
        if let Some(at) = first_difference(&third.store().bytes(), &settled) {
            return Err(format!(
                "the third recovery still changes the file at {at:#x}"
            ));
        }
        if case.seed & 8 != 0 {
            engine = next;
        }
    }

    change(case, &mut engine, &mut model)?;
    let all = || model.keys().chain(keys()).cloned().collect::<Vec<_>>();
    same(
        "behind a change",
        &read_all(&mut engine, all().iter())?,
        &model,
    )?;
    engine.settle().map_err(|e| format!("close: {e}"))?;
    let closed = engine.store().bytes();
    // What was closed and damaged before, and not changed since, stays as it was.
    if (case.ours || closed != case.image)
        && let Some(finding) = check::check(&closed, case.ours).first()
    {
        return Err(format!("the closed file: {finding}"));
    }
    let original = original::recover(&closed);
    let found = original.pairs.into_iter().map(|(k, v)| (k, v.into()));
    same("the original behind the close", &found.collect(), &model)?;

    let mut again = open(Memory::new(closed), true)?;
    same(
        "behind the close",
        &read_all(&mut again, all().iter())?,
        &model,
    )?;
    again.settle().map_err(|e| format!("second close: {e}"))?;
    match again.store().take_log().first() {
        Some(event) => Err(format!("a life without a change made one: {event:x?}")),
        None => Ok(()),
    }
}

/// One call that changes something: the database is good for more than looking at.
fn change<S: Storage>(
    case: &Case,
    engine: &mut Engine<S, State>,
    model: &mut Model,
) -> Result<(), String> {
    let max = usize::from(engine.sizes().value);
    let value: Bytes = vec![0x5A; (case.seed >> 8) as usize % 700 % (max + 1)].into();
    let nth = |n: u64| {
        let n = n as usize % case.permits.len().max(1);
        case.permits.keys().nth(n).cloned()
    };
    let some = nth(case.seed >> 16);
    let key = match (case.seed >> 4 & 3, some) {
        (0, Some(key)) => {
            let was = model.remove(&key).is_some();
            return match engine.delete(&key) {
                Ok(found) if found == was => Ok(()),
                answer => Err(format!("delete {}: {answer:?}", key.escape_ascii())),
            };
        }
        (1, Some(key)) => key,
        (2, Some(key)) => neighbour(&key, u64::from(engine.sizes().slots), case.seed >> 20),
        _ => b"/new".to_vec(),
    };
    engine
        .put(&key, &value)
        .map_err(|e| format!("put {}: {e}", key.escape_ascii()))?;
    model.insert(key, value);
    Ok(())
}

/// Another key of the same slot; which one depends on `n`.
pub fn neighbour(key: &[u8], slots: u64, n: u64) -> Vec<u8> {
    let slots = slots.max(1) as usize;
    let slot = check::slot_of(key, slots);
    let names = (n * 4096..).map(|i| format!("/c{i}").into_bytes());
    let mut fitting = names.filter(|k| check::slot_of(k, slots) == slot && k != key);
    fitting.next().unwrap_or_default()
}

fn permitted(permits: &Permits, found: &Model) -> Result<(), String> {
    for (key, permit) in permits {
        let state = found.get(key).cloned();
        if !permit.ours(&state) {
            return Err(format!(
                "{} is {}, permitted {}",
                key.escape_ascii(),
                text(state.as_ref()),
                list(permit.states.iter().map(Option::as_ref))
            ));
        }
    }
    strangers(permits, found)
}

fn strangers(permits: &Permits, found: &Model) -> Result<(), String> {
    match found.keys().find(|k| !permits.contains_key(*k)) {
        Some(key) => Err(format!(
            "a key that nobody put: {:?}",
            key.escape_ascii().to_string()
        )),
        None => Ok(()),
    }
}

fn same(what: &str, found: &Model, model: &Model) -> Result<(), String> {
    let keys = found.keys().chain(model.keys());
    for key in keys {
        if found.get(key) != model.get(key) {
            return Err(format!(
                "{what}: {} is {}, was {}",
                key.escape_ascii(),
                text(found.get(key)),
                text(model.get(key))
            ));
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    let n = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    Some(n)
}

/// A value for people: its length and a few bytes.
fn text(value: Option<&Bytes>) -> String {
    match value {
        None => "absent".into(),
        Some(v) => format!("{} bytes {:02x?}", v.len(), &v[..v.len().min(4)]),
    }
}

fn list<'a>(states: impl Iterator<Item = Option<&'a Bytes>>) -> String {
    let texts: Vec<_> = states.map(text).collect();
    format!("[{}]", texts.join(" | "))
}

/// What the original makes of it.
fn originals(case: &Case) -> Result<(), String> {
    if !case.image.len().is_multiple_of(4096) {
        return Err(format!("length {}", case.image.len()));
    }
    let out = original::recover(case.image);
    original_finds(case, &out)?;
    if !out.undecided.is_empty() {
        let other = original::recover_reading(case.image, Reading::StartDecides);
        original_finds(case, &other).map_err(|e| format!("{e} ({:x?})", other.undecided))?;
    }
    Ok(())
}

/// Docs/design.md, Limits: a value with a block delimiter where the page behind its first one begins is an empty record for
/// the original, if power goes before its first sync: the key without a value, or a record without a key as well.
fn has_a_doubtful_value(permit: &Permit) -> bool {
    let marked = |v: &Bytes| {
        let word = v.get(3948..3956)?;
        let word = u64::from_le_bytes(word.try_into().ok()?);
        Some(DELIMITERS.contains(&word))
    };
    permit.states.len() > 1
        && permit
            .states
            .iter()
            .flatten()
            .any(|v| marked(v) == Some(true))
}

/// Docs/design.md, Limits: the original knows a value by its checksum only, and that of one with a long run of one byte can be the
/// same where a part of it is missing.
fn is_taken_for_permitted(
    image: &[u8],
    key: &[u8],
    permit: &Permit,
    found: &Option<Bytes>,
) -> bool {
    // With small sizes it covers less than key, size, value and table number.
    let covered = (reader::word(image, 40) + reader::word(image, 48)) as usize + 4 + 8;
    let checksums = |v: &Bytes| {
        let mut block = key.to_vec();
        block.resize(128, 0);
        block.extend_from_slice(&(v.len() as u32).to_le_bytes());
        block.extend_from_slice(v);
        block.resize(128 + 4 + 8028, 0);
        let tables = (0..4u64).map(|table| [&block[..], &table.to_le_bytes()[..]].concat());
        tables
            .map(|all| check::checksum(&all[..covered.min(all.len())]))
            .collect::<BTreeSet<_>>()
    };
    let long = |v: &&Bytes| v.len() > 364;
    let mut values = permit.states.iter().flatten().chain(&permit.older);
    let is_part = |v: &Bytes, found: &Bytes| {
        let same_size = v.len() == found.len();
        same_size && found[..364] == v[..364] && !checksums(v).is_disjoint(&checksums(found))
    };
    let Some(found) = found else {
        return false;
    };
    values.any(|v| long(&v) && is_part(v, found))
}

fn original_finds(case: &Case, out: &original::Outcome) -> Result<(), String> {
    if !out.opens || out.crashes {
        return Err(format!("opens {}, crashes {}", out.opens, out.crashes));
    }
    if !out.clean && out.tables == 0 {
        return Err("an unclean file without a table".into());
    }
    let mut found: Model = out
        .pairs
        .iter()
        .map(|(k, v)| (k.clone(), v.as_slice().into()))
        .collect();
    if case.permits.values().any(has_a_doubtful_value) {
        found.retain(|key, value| !key.is_empty() || !value.is_empty());
    }
    for (key, permit) in case.permits {
        let state = found.get(key).cloned();
        let excused = state.as_ref().is_some_and(|v| v.is_empty()) && has_a_doubtful_value(permit);
        if !permit.originals(&state)
            && !excused
            && !is_taken_for_permitted(case.image, key, permit, &state)
        {
            return Err(format!(
                "{} is {}, permitted {} or {} (clean {}, rebuilt {}, tables {}, wiped {:x?}, displaced {}, unreachable {})",
                key.escape_ascii(),
                text(state.as_ref()),
                list(permit.states.iter().map(Option::as_ref)),
                list(
                    permit
                        .older
                        .iter()
                        .map(Some)
                        .chain(permit.alien.iter().map(Option::as_ref))
                ),
                out.clean,
                out.rebuilt,
                out.tables,
                out.wiped,
                out.displaced,
                out.unreachable,
            ));
        }
    }
    strangers(case.permits, &found)
}
