//! What the medium may hold between two syncs.

use super::history::{Permits, Steps};
use super::scenario::{Fault, Record, Scenario};
use kissdb::engine::storage::Event;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// What a medium writes whole or not at all.
pub const SECTOR: usize = 512;
/// What a file system writes back in one piece, mostly.
pub const PAGE: usize = 4096;

/// A change of one sector.
#[derive(Debug, Clone, Copy)]
enum Patch {
    Word { at: u16, word: u64 },
    ZeroFrom { at: u16 },
}

impl Patch {
    fn apply(self, sector: &mut [u8]) {
        match self {
            Patch::Word { at, word } => {
                let at = usize::from(at);
                sector[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            Patch::ZeroFrom { at } => sector[usize::from(at)..].fill(0),
        }
    }
}

/// A sector that was stored into.
#[derive(Debug)]
pub struct Sector {
    /// Number of the sector in the file.
    pub number: usize,
    /// Event and change, in order.
    changes: Vec<(usize, Patch)>,
}

impl Sector {
    /// How many states it can be in, but for its first one.
    pub fn versions(&self) -> u32 {
        self.changes.len() as u32
    }

    /// The event of store `n`.
    pub fn event(&self, n: u32) -> usize {
        self.changes[n as usize].0
    }

    /// How many of its stores were made up to an event.
    pub fn upto(&self, event: usize) -> u32 {
        self.changes.partition_point(|(e, _)| *e <= event) as u32
    }
}

/// From one sync (or the beginning) to the next (or the end).
#[derive(Debug)]
pub struct Epoch {
    /// The event before its first one.
    pub start: usize,
    /// On the medium at its beginning, as long as the longest file in it.
    image: Vec<u8>,
    pub sectors: Vec<Sector>,
    /// Event and length; the first is the one at the beginning.
    pub lengths: Vec<(usize, usize)>,
    /// The events that change something, in order.
    pub events: Vec<usize>,
    pub steps: Steps,
}

/// One state that the medium may be in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Which of the epoch's lengths.
    pub length: u16,
    /// For each of its sectors, how many stores reached it.
    pub upto: Vec<u32>,
}

impl Epoch {
    /// How many states there are.
    pub fn states(&self) -> u128 {
        let one = |s: &Sector| u128::from(s.versions()) + 1;
        let product = self.sectors.iter().map(one);
        product.fold(self.lengths.len() as u128, u128::saturating_mul)
    }

    /// All stores up to an event, and the length of that instant.
    pub fn prefix(&self, event: usize) -> Choice {
        Choice {
            length: (self.lengths.partition_point(|(e, _)| *e <= event).max(1) - 1) as u16,
            upto: self.sectors.iter().map(|s| s.upto(event)).collect(),
        }
    }

    /// State number `n` of [`Epoch::states`].
    pub fn numbered(&self, mut n: u128) -> Choice {
        let mut digit = |base: u128| {
            let d = n % base;
            n /= base;
            d
        };
        Choice {
            length: digit(self.lengths.len() as u128) as u16,
            upto: self
                .sectors
                .iter()
                .map(|s| digit(u128::from(s.versions()) + 1) as u32)
                .collect(),
        }
    }

    pub fn last_length(&self) -> u16 {
        (self.lengths.len() - 1) as u16
    }

    /// Drops what lies behind the chosen length: two choices of one image become equal.
    pub fn canonical(&self, mut choice: Choice) -> Choice {
        let len = self.lengths[usize::from(choice.length)].1;
        for (s, upto) in self.sectors.iter().zip(&mut choice.upto) {
            if s.number * SECTOR >= len {
                *upto = 0;
            }
        }
        if let Some(n) = self.lengths.iter().position(|(_, l)| *l == len) {
            choice.length = n as u16;
        }
        choice
    }

    /// The last event that this state needs.
    pub fn instant(&self, choice: &Choice) -> usize {
        let length = self.lengths[usize::from(choice.length)].0;
        let stores = self.sectors.iter().zip(&choice.upto);
        stores
            .filter(|(_, n)| **n > 0)
            .map(|(s, n)| s.event(n - 1))
            .fold(length.max(self.start), usize::max)
    }

    pub fn permits(&self, choice: &Choice) -> &Arc<Permits> {
        self.steps.at(self.instant(choice))
    }

    /// The bytes of this state.
    pub fn image(&self, choice: &Choice) -> Vec<u8> {
        let len = self.lengths[usize::from(choice.length)].1;
        let mut image = self.image[..len].to_vec();
        for (s, n) in self.sectors.iter().zip(&choice.upto) {
            let at = s.number * SECTOR;
            if *n == 0 || at >= len {
                continue;
            }
            // A file may end in the middle of its last sector.
            let mut sector = [0; SECTOR];
            let there = (len - at).min(SECTOR);
            sector[..there].copy_from_slice(&image[at..at + there]);
            for (_, patch) in &s.changes[..*n as usize] {
                patch.apply(&mut sector);
            }
            image[at..at + there].copy_from_slice(&sector[..there]);
        }
        image
    }

    /// What reached the medium, for people.
    pub fn describe(&self, choice: &Choice) -> String {
        let mut text = String::new();
        let all = self.lengths.iter().map(|(_, l)| l).collect::<Vec<_>>();
        let len = self.lengths[usize::from(choice.length)].1;
        let _ = writeln!(text, "  length {len} of {all:?}");
        // Rows of whole sectors in one line: old, new, or how far it got and what would have come next.
        let how = |i: usize| match (choice.upto[i], self.sectors[i].versions()) {
            (0, _) => "old".to_owned(),
            (n, of) if n == of => "new".to_owned(),
            (n, of) => {
                let next = self.sectors[i].changes[n as usize].1;
                format!("{n} of {of} stores, the next would be {next:x?}")
            }
        };
        let mut i = 0;
        while i < self.sectors.len() {
            let from = self.sectors[i].number;
            let word = how(i);
            let mut n = 1;
            while i + n < self.sectors.len()
                && self.sectors[i + n].number == from + n
                && how(i + n) == word
            {
                n += 1;
            }
            let to = (from + n) * SECTOR;
            let _ = writeln!(text, "  {:#x}..{to:#x} {word}", from * SECTOR);
            i += n;
        }
        text
    }
}

impl Choice {
    /// For an environment variable: `length:upto,upto*repeated,...`.
    pub fn encode(&self) -> String {
        let mut text = format!("{}:", self.length);
        let mut rest = self.upto.as_slice();
        while let [first, ..] = rest {
            let n = rest.iter().take_while(|v| *v == first).count();
            let _ = write!(text, "{first}");
            if n > 1 {
                let _ = write!(text, "*{n}");
            }
            rest = &rest[n..];
            if !rest.is_empty() {
                text.push(',');
            }
        }
        text
    }

    pub fn decode(text: &str) -> Option<Self> {
        let (length, list) = text.split_once(':')?;
        let mut upto = Vec::new();
        for item in list.split(',').filter(|i| !i.is_empty()) {
            let (value, n) = item.split_once('*').unwrap_or((item, "1"));
            let n: usize = n.parse().ok()?;
            let value: u32 = value.parse().ok()?;
            upto.extend(std::iter::repeat_n(value, n));
        }
        Some(Self {
            length: length.parse().ok()?,
            upto,
        })
    }
}

/// Cuts a record into its epochs. Those in which nothing is stored are left out; each keeps its number. Where a part was
/// synced there is one for the time before, and one for all of the time in which that part stays.
pub fn epochs(scenario: &Scenario, record: &Record) -> Vec<(usize, Epoch)> {
    let steps = super::history::permits(&scenario.baseline, &record.log, &record.calls);
    let mut image = scenario.image.clone();
    let (mut out, mut number, mut from) = (Vec::new(), 0, 0);
    for steps in steps {
        let events = record.log[from..].iter();
        let to = from + events.take_while(|e| **e != Event::Sync).count();
        let before = image.clone();
        let part = |n: &usize| matches!(record.log[*n], Event::SyncRange(..));
        let mut parts = Vec::new();
        for end in (from..to).filter(part).chain([to]) {
            image.clone_from(&before);
            let events = Events {
                log: &record.log,
                from,
                to: end,
                parts: &parts,
            };
            let epoch = one_epoch(&mut image, &events, steps.clone());
            if let Some(mut epoch) = epoch {
                if scenario.fault == Fault::Reversed {
                    epoch.reverse();
                }
                out.push((number, epoch));
            }
            number += 1;
            parts.push(end);
        }
        from = to + 1;
    }
    out
}

/// Some events of a record, and which of them are syncs of a part.
struct Events<'a> {
    log: &'a [Event],
    from: usize,
    to: usize,
    parts: &'a [usize],
}

impl Events<'_> {
    /// Whether what event `n` stored at this offset was synced with a part.
    fn is_synced(&self, n: usize, at: usize) -> bool {
        self.parts.iter().any(|&part| match self.log[part] {
            Event::SyncRange(start, len) => n < part && (start..start + len).contains(&(at as u64)),
            _ => false,
        })
    }
}

/// `image`: the file at the sync before; becomes that at its end.
fn one_epoch(image: &mut Vec<u8>, events: &Events, steps: Steps) -> Option<Epoch> {
    let &Events {
        log,
        from,
        to,
        parts,
    } = events;
    let whole = parts.last().copied().unwrap_or(0);
    let is_synced = |n, at| events.is_synced(n, at);
    let start = from.saturating_sub(1);
    let mut before = image.clone();
    let mut lengths = vec![(start, image.len())];
    let mut sectors: BTreeMap<usize, Vec<(usize, Patch)>> = BTreeMap::new();
    let mut events = Vec::new();
    for (n, event) in log.iter().enumerate().take(to).skip(from) {
        match *event {
            Event::Store(at, word) => {
                let at = at as usize;
                if image[at..at + 8] == word.to_le_bytes() {
                    continue;
                }
                image[at..at + 8].copy_from_slice(&word.to_le_bytes());
                if is_synced(n, at) {
                    before[at..at + 8].copy_from_slice(&word.to_le_bytes());
                    continue;
                }
                let patch = Patch::Word {
                    at: (at % SECTOR) as u16,
                    word,
                };
                sectors.entry(at / SECTOR).or_default().push((n, patch));
                events.push(n);
            }
            Event::Length(len) => {
                let len = len as usize;
                for at in (len / SECTOR * SECTOR..image.len()).step_by(SECTOR) {
                    let gone = at.max(len)..(at + SECTOR).min(image.len());
                    if image[gone].iter().any(|&b| b != 0) {
                        let at_in = len.saturating_sub(at).min(SECTOR) as u16;
                        let patch = Patch::ZeroFrom { at: at_in };
                        sectors.entry(at / SECTOR).or_default().push((n, patch));
                    }
                }
                image.resize(len, 0);
                before.resize(before.len().max(len), 0);
                if n < whole {
                    lengths.clear();
                }
                lengths.push((n, len));
                events.push(n);
            }
            Event::Sync | Event::SyncRange(..) | Event::Mark(_) => {}
        }
    }
    if events.is_empty() {
        return None;
    }
    // What was cut off and never grown again is only a shorter length.
    let longest_after = |n: usize| lengths.iter().filter(|(e, _)| *e > n).map(|l| l.1).max();
    for (number, changes) in &mut sectors {
        changes.retain(|(n, p)| match p {
            Patch::ZeroFrom { .. } => longest_after(*n).is_some_and(|l| l > *number * SECTOR),
            Patch::Word { .. } => true,
        });
    }
    sectors.retain(|_, changes| !changes.is_empty());
    before.resize(lengths.iter().map(|l| l.1).max().unwrap_or(0), 0);
    let sector = |(number, changes)| Sector { number, changes };
    Some(Epoch {
        start,
        image: before,
        sectors: sectors.into_iter().map(sector).collect(),
        lengths,
        events,
        steps,
    })
}

impl Epoch {
    /// The last store of a sector comes first: a medium, or a writer, that breaks its word.
    fn reverse(&mut self) {
        for s in &mut self.sectors {
            let mut last: BTreeMap<u16, (usize, Patch)> = BTreeMap::new();
            for &(n, patch) in &s.changes {
                if let Patch::Word { at, .. } = patch {
                    last.insert(at, (n, patch));
                }
            }
            let mut changes: Vec<_> = last.into_values().collect();
            changes.sort_by_key(|c| std::cmp::Reverse(c.0));
            // The order has changed, the instants have not.
            let mut events: Vec<_> = changes.iter().map(|c| c.0).collect();
            events.sort_unstable();
            for (change, event) in changes.iter_mut().zip(events) {
                change.0 = event;
            }
            s.changes = changes;
        }
    }
}
