//! A change under way is noted in [`State`], so that whoever takes the lock after a death finishes or
//! undoes it. The slot is the commit point: who has read before that has gone by the slot alone.

use super::index::print_of;
use super::state::intent;
use super::{Engine, Outcome, Place, State, Storage};
use crate::error::Result;
use crate::format::PAGE;
use crate::format::block::{PAIR, Side};
use crate::format::slot::{Slot, Word};
use crate::format::{hash, table};
use std::sync::atomic::Ordering::{Relaxed, Release};

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    pub(super) fn begin_intent(&self, slot: u64, pair: u64, kind: u64) {
        let st = self.st();
        st.intent_pair.store(pair, Relaxed);
        st.intent_kind.store(kind, Relaxed);
        st.intent.store(slot, Release);
    }

    pub(super) fn end_intent(&self) {
        self.st().intent.store(0, Release);
    }

    /// Finishes or undoes the change that a process was making when it died, or that failed.
    pub(super) fn finish_dead(&mut self) -> Result<()> {
        let st = self.st();
        let at = st.intent.load(Relaxed);
        let (pair, kind) = (st.intent_pair.load(Relaxed), st.intent_kind.load(Relaxed));
        self.tell_unfinished(at, pair);
        self.rearrange();
        // Tables first: the count may be behind the links.
        self.tables = self.chain()?.0;
        self.st().tables.store(self.tables.len() as u64, Relaxed);
        if pair == 0 {
            // The last table may have one of its two links.
            if let [.., from, to] = self.tables[..] {
                self.set_link(from, to)?;
            }
        } else if let Some((t, i)) = self.slot_at(at) {
            let place = self.place(t, i)?;
            if kind == intent::RECORD {
                self.finish_record(&place, pair)?;
            } else if place.pair == pair {
                self.finish_pair(&place, kind == intent::DELETE)?;
            } else if pair % PAGE == 0 && pair + PAIR <= self.store.len()? {
                // Not committed: the place is as empty as before.
                self.erase(pair, PAIR)?;
            }
        }
        self.st().surveyed.store(0, Relaxed);
        self.survey_once()?;
        let end = self.st().end.load(Relaxed);
        let stop = match self.st().log.load(Relaxed) {
            0 => self.store.len()?,
            log => log,
        };
        let rest = stop.saturating_sub(end).min(table::SIZE + PAIR);
        self.erase(end, rest)?;
        self.end_intent();
        Ok(())
    }

    /// Whoever reads without finishing anything has gone by the slot, by the sign of its first offset: so do we. A delete
    /// goes on from there, a put into a deleted pair that did not get there is undone.
    fn finish_pair(&mut self, place: &Place, delete: bool) -> Result<()> {
        if place.slot.record().is_some() {
            return self.fold_pair(place);
        }
        let pair = self.pair_of(place)?;
        let outcome = pair.outcome(Some(place.slot.word));
        if !place.slot.is_deleted() {
            // From now on the slot also says that the pair was changed, so that the close mends the copy that was being
            // written.
            if let Outcome::Live(side) = outcome {
                let turned = place.slot.word.is_turned();
                let mut word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
                if place.slot.word.is_of_both() && pair.holds(place.slot.word) {
                    word = word.of_both();
                }
                let word = word.turned(turned);
                let print = print_of(hash::djb2(pair.block(side).key()));
                self.write_slot(place, Slot::live(place.pair, word), print)?;
            }
            return Ok(());
        }
        if delete {
            let named = pair.verdict(place.slot.word.side());
            return self.write_deleted(place, named.sum);
        }
        match outcome {
            Outcome::Damaged => return self.drop_pair(place),
            // B has not been touched, and is on the medium.
            _ if matches!(pair.outcome_of(Side::B), Outcome::Deleted(_)) => {
                let good = if pair.verdict(Side::A).good {
                    Side::A
                } else {
                    Side::B
                };
                self.finish(&pair, Outcome::Deleted(good))?;
            }
            // A has not.
            Outcome::Deleted(side) => {
                let mut block = pair.block(side).clone();
                block.set_delimiters(side.other(), false);
                self.write_copy(place.pair, side.other(), &block, true)?;
            }
            Outcome::Live(side) => {
                // A may still be what was deleted before, and begin as a live one: that would come back. With the same in
                // both copies, on the medium, it is a delete like any other.
                let (other, sum) = (side.other(), pair.verdict(side).sum);
                let same = pair.verdict(other).good && pair.verdict(other).sum == sum;
                if !same {
                    // That A begins as a live one has to be on the medium before the rest of it changes.
                    self.sync()?;
                }
                self.finish(&pair, outcome)?;
                if !same {
                    let mut block = pair.block(side).clone();
                    block.set_delimiters(other, true);
                    self.write_copy(place.pair, other, &block, false)?;
                }
                self.sync()?;
            }
        }
        let sum = self.pair_of(place)?.verdict(Side::A).sum;
        let place = Place {
            slot: Slot::deleted(place.pair, Word::clean(Side::A)),
            ..*place
        };
        self.write_deleted(&place, sum)
    }
}
