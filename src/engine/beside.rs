//! Reading beside writers with whom neither a lock nor a [`State`] is shared.
//!
//! Nothing that was remembered is believed: before each look tables and fingerprints are forgotten. An
//! answer counts if the slots that it rests on are the same before and after. They change with every change of
//! a pair, at last, and what a slot names is not written to before that: an overwrite writes the other
//! copy, and a pair is changed at most once an epoch, which the slot's word tells.

use super::state::phase;
use super::{Engine, State, Storage};
use crate::error::Result;
use crate::format::{PAGE, hash, header, slot, table};
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;

/// What the file looks like to somebody who may not recover it.
enum Condition {
    /// Closed, or never changed.
    Clean,
    /// In the middle of a life; if nobody lives it, it must be recovered.
    Marked,
    /// To be recovered, or somebody is about to end that.
    Unclean,
}

/// What one look has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<R> {
    /// An answer that was right at some moment during the look.
    Sure(R),
    /// Somebody has changed meanwhile what this rests on, or there was nothing to compare with yet.
    Doubtful(R),
    /// Nothing can be said of a file in this condition.
    Unrecovered,
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// An engine that only looks, and recovers nothing. `state` is its own.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_beside(store: S, state: H) -> Result<Self> {
        let words = state.as_ref();
        words.phase.store(phase::CHANGED, Relaxed);
        Self::open(store, state, false, false)
    }

    /// Runs `f` and looks whether its answer can be believed. `slots`: those that an answer rests on;
    /// `None`, if they can't be told before there is one, which is `last` then. `written`: whether somebody
    /// has the file open who may write it.
    ///
    /// # Errors
    /// Those of `f` and of the storage.
    pub fn look<R>(
        &mut self,
        written: bool,
        last: Option<&R>,
        f: impl FnOnce(&mut Self) -> Result<R>,
        slots: impl Fn(&Self, Option<&R>) -> Option<Range<u64>>,
    ) -> Result<Look<R>> {
        let under_way = match self.condition()? {
            Condition::Clean => false,
            Condition::Marked if written => true,
            _ => return Ok(Look::Unrecovered),
        };
        // Who changes the file has mended what it touches, and a torn record is a put under way. In a closed file it
        // is damage.
        self.st().recovered.store(under_way.into(), Relaxed);
        let witness = |engine: &Self, last: Option<&R>| {
            let slots = slots(engine, last);
            slots.map(|s| engine.witness(s)).transpose()
        };
        let before = witness(self, last)?;
        fence(SeqCst);
        // Nothing that was read before counts any more.
        self.st().layout.fetch_add(1, Relaxed);
        let answer = f(self)?;
        fence(SeqCst);
        let after = witness(self, Some(&answer))?;
        Ok(match before.is_some() && before == after {
            true => Look::Sure(answer),
            false => Look::Doubtful(answer),
        })
    }

    /// What can be said of the file now.
    fn condition(&mut self) -> Result<Condition> {
        let flags = self.flags()?;
        if self.store.len()? >= PAGE + table::SIZE
            && self.store.load(PAGE + table::CHECKSUM)? == table::MARK
        {
            return Ok(Condition::Marked);
        }
        if flags == [0, 1] && self.read_clean_tables()? {
            return Ok(Condition::Clean);
        }
        Ok(Condition::Unclean)
    }

    fn flags(&self) -> Result<[u64; 2]> {
        let failed = self.store.load(header::CLOSE_FAILED)?;
        Ok([failed, self.store.load(header::CLOSE_OK)?])
    }

    /// The slots of a key, for [`Engine::witness`].
    pub fn slots_of(&self, key: &[u8]) -> Range<u64> {
        let n = u64::from(hash::slot(key, self.sizes.slots));
        n..n + 1
    }

    /// What an answer rests on that was found in these slots of the tables.
    ///
    /// # Errors
    /// Those of the storage; [`crate::Error::Memory`].
    pub fn witness(&self, slots: Range<u64>) -> Result<Vec<u64>> {
        let mut words = Vec::new();
        let (tables, _) = self.chain()?;
        let slots = slots.start..slots.end.min(u64::from(self.sizes.slots));
        let each = 1 + (slot::SIZE / 8 * slots.end.saturating_sub(slots.start)) as usize;
        words
            .try_reserve_exact(3 + tables.len() * each)
            .map_err(|_| crate::Error::Memory)?;
        words.extend(self.flags()?);
        words.push(self.store.load(PAGE + table::CHECKSUM)?);
        for t in tables {
            words.push(t);
            for i in slots.clone() {
                let at = table::slot_offset(t, i as u16);
                for n in 0..slot::SIZE / 8 {
                    words.push(self.store.load(at + n * 8)?);
                }
            }
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::{Event, Memory};
    use crate::engine::{Engine, Position};
    use crate::format::Sizes;
    use crate::format::header::Header;
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    type Writer = Engine<Memory, State>;
    type Step<'a> = (&'a dyn Fn(&mut Writer), Option<u8>);

    /// A file that changes while it is read: at certain reads so many of a writer's stores are made.
    struct Moving {
        file: Memory,
        events: RefCell<VecDeque<Event>>,
        made: Cell<usize>,
        reads: Cell<u64>,
        plan: Vec<(u64, usize)>,
        /// The writer ends what it has begun.
        late: Cell<bool>,
    }

    impl Moving {
        fn tick(&self) {
            let n = self.reads.get();
            self.reads.set(n + 1);
            let rest = self.late.get().then_some(&(0, usize::MAX));
            for (_, count) in self.plan.iter().filter(|p| p.0 == n).chain(rest) {
                for _ in 0..*count {
                    let Some(event) = self.events.borrow_mut().pop_front() else {
                        return;
                    };
                    self.made.set(self.made.get() + 1);
                    match event {
                        Event::Store(at, word) => self.file.store(at, word).expect("stores"),
                        Event::Length(n) if n > self.file.known_len() => {
                            self.file.grow(n).expect("grows");
                        }
                        Event::Length(n) => self.file.truncate(n).expect("shrinks"),
                        Event::Sync | Event::SyncRange(..) | Event::Mark(_) => {}
                    }
                }
            }
        }
    }

    impl Storage for Moving {
        fn len(&self) -> Result<u64> {
            self.file.len()
        }
        fn known_len(&self) -> u64 {
            self.file.known_len()
        }
        fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            // A long read is not of one moment.
            for (n, part) in buf.chunks_mut(64).enumerate() {
                self.tick();
                self.file.read(at + 64 * n as u64, part)?;
            }
            Ok(())
        }
        fn store(&self, _: u64, _: u64) -> Result<()> {
            unreachable!("it only reads")
        }
        fn grow(&self, _: u64) -> Result<()> {
            unreachable!("it only reads")
        }
        fn truncate(&self, _: u64) -> Result<()> {
            unreachable!("it only reads")
        }
        fn fill_holes(&self) -> Result<()> {
            unreachable!("it only reads")
        }
        fn sync(&self) -> Result<()> {
            unreachable!("it only reads")
        }
        fn is_file(&self) -> bool {
            true
        }
    }

    fn value(n: u8) -> Vec<u8> {
        vec![n; 100 + 900 * usize::from(n % 3)]
    }

    fn put(key: &'static [u8], n: u8) -> impl Fn(&mut Writer) {
        move |w| w.put(key, &value(n)).expect("puts")
    }

    fn delete(key: &'static [u8]) -> impl Fn(&mut Writer) {
        move |w| assert!(w.delete(key).expect("deletes"))
    }

    /// Looks at [`KEY`] while a writer makes these steps, in many interleavings. Each step says what the key
    /// has afterwards. Counts the answers that a reader who believes every look would have got wrong.
    fn interleave(before: &[Step], steps: &[Step], plans: u64) -> usize {
        let sizes = Sizes::new(510, 128, 8028).expect("in range");
        let bytes = Header { sizes, clean: true }.bytes().to_vec();
        let mut writer =
            Engine::open(Memory::new(bytes), State::default(), true, false).expect("opens");
        for (step, _) in before {
            step(&mut writer);
        }
        writer.store().take_log();
        let bytes = writer.store().bytes();
        let (mut events, mut ends) = (VecDeque::new(), vec![0]);
        let mut had = vec![before.last().expect("a step").1];
        for (step, has) in steps {
            step(&mut writer);
            events.extend(writer.store().take_log());
            ends.push(events.len());
            had.push(*has);
        }
        let mut seed = 1_u64;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % n.max(1)
        };
        let mut hasty = 0;
        for _ in 0..plans {
            let plan = (0..1 + below(4)).map(|_| {
                let few = below(2) == 0;
                let count = below(if few { 40 } else { events.len() });
                (below(900) as u64, count)
            });
            let file = Moving {
                file: Memory::new(bytes.clone()),
                events: RefCell::new(events.clone()),
                made: Cell::new(0),
                reads: Cell::new(0),
                plan: plan.collect(),
                late: Cell::new(false),
            };
            let plan = file.plan.clone();
            let mut reader = Engine::open_beside(file, State::default()).expect("opens");
            // What the key had while so many of the stores were made; a step under way has both.
            let right = |from: usize, to: usize, got: &Option<Vec<u8>>| {
                (0..had.len()).any(|n| {
                    let until = ends.get(n + 1).copied().unwrap_or(usize::MAX);
                    let has = had[n].map(value);
                    ends[n.saturating_sub(1)] <= to && from <= until && *got == has
                })
            };
            let mut attempts = 0;
            loop {
                attempts += 1;
                assert!(attempts < 100, "nothing sure, {plan:?}");
                reader.store().late.set(attempts > 50);
                let from = reader.store().made.get();
                let get = |e: &mut Engine<Moving, State>| {
                    let mut buf = vec![0; 8028];
                    let size = e.get(KEY, &mut buf)?;
                    Ok(size.map(|n| buf[..n].to_vec()))
                };
                let look = reader.look(true, None, get, |e, _| Some(e.slots_of(KEY)));
                let to = reader.store().made.get();
                match look.expect("reads") {
                    Look::Sure(got) => {
                        assert!(
                            right(from, to, &got),
                            "{:?}, {plan:?}",
                            got.map(|v| v.len())
                        );
                        break;
                    }
                    Look::Doubtful(got) => hasty += usize::from(!right(from, to, &got)),
                    Look::Unrecovered => {}
                }
            }
            // The iterator, from where the stores have got to: what is there throughout comes once.
            reader.store().reads.set(0);
            let (mut pos, mut seen) = (Position::default(), 0);
            let mut last: Option<(Option<Vec<u8>>, Position)> = None;
            loop {
                let from = pos;
                let next = |e: &mut Engine<Moving, State>| {
                    let mut pos = from;
                    Ok((e.next(&mut pos, None)?, pos))
                };
                let slots = |_: &Engine<_, _>, answer: Option<&(_, Position)>| {
                    answer.map(|(_, to)| match to.table == from.table {
                        true => from.slot..to.slot,
                        false => 0..u64::MAX,
                    })
                };
                match reader
                    .look(true, last.as_ref(), next, slots)
                    .expect("reads")
                {
                    Look::Sure((Some(key), to)) => {
                        seen += usize::from(key.starts_with(STAYS));
                        (pos, last) = (to, None);
                    }
                    Look::Sure((None, _)) => break,
                    Look::Doubtful(answer) => last = Some(answer),
                    Look::Unrecovered => reader.store().late.set(true),
                }
            }
            assert_eq!(seen, 1, "the iterator, {plan:?}");
        }
        hasty
    }

    // Four keys of one slot, and one that stays as it is.
    const KEY: &[u8] = b"/a";
    const OTHERS: [&[u8]; 2] = [b"/a-twin/439", b"/a-twin/516"];
    const STAYS: &[u8] = b"/stays";

    #[test]
    fn keys_collide() {
        assert!(
            OTHERS
                .iter()
                .all(|k| hash::slot(k, 510) == hash::slot(KEY, 510))
        );
    }

    #[test]
    fn a_look_gives_the_old_value_or_the_new_one() {
        // A reader has no lock in common with the writer: whatever part of a change he sees, his answer is
        // what the key had at some moment of the look.
        let close = |w: &mut Writer| w.settle().expect("closes");
        let before: [Step; 3] = [
            (&put(STAYS, 9), None),
            (&put(OTHERS[0], 3), None),
            (&put(KEY, 1), Some(1)),
        ];
        let hasty = interleave(
            &before,
            &[
                (&put(KEY, 2), Some(2)),
                (&put(KEY, 3), Some(3)),
                (&put(OTHERS[1], 4), Some(3)),
                (&put(KEY, 5), Some(5)),
                (&close, Some(5)),
                (&put(KEY, 7), Some(7)),
                (&put(KEY, 8), Some(8)),
            ],
            3000,
        );
        assert!(hasty > 0, "nothing came in between: this proves nothing");
        // So often that the log goes on in its other half, and there again: no room for a longer one.
        let full = |w: &mut Writer| w.store().full_at(Some(192 << 10));
        let before: [Step; 4] = [(&full, None), before[0], before[1], before[2]];
        let puts: Vec<_> = (0..60).map(|n| (put(KEY, 3 * n + 2), 3 * n + 2)).collect();
        let steps: Vec<Step> = puts
            .iter()
            .map(|(put, n)| (put as &dyn Fn(&mut Writer), Some(*n)))
            .collect();
        let hasty = interleave(&before, &steps, 1000);
        assert!(hasty > 0, "nothing came in between: this proves nothing");
        let before = [before[1], before[2], before[3]];
        // It moves to the slot in the table before, and back.
        let hasty = interleave(
            &before,
            &[
                (&delete(OTHERS[0]), Some(1)),
                (&delete(KEY), None),
                (&put(KEY, 2), Some(2)),
                (&put(OTHERS[0], 3), Some(2)),
                (&delete(KEY), None),
                (&close, None),
                (&put(KEY, 4), Some(4)),
                (&close, Some(4)),
            ],
            3000,
        );
        assert!(hasty > 0, "nothing came in between: this proves nothing");
    }
}
