//! A change under way is noted in [`State`], so that whoever takes the lock after a death finishes or
//! undoes it.

use super::{Engine, Outcome, Place, State, Storage};
use crate::error::Result;
use crate::format::PAGE;
use crate::format::block::{PAIR, RawBlock, Side};
use crate::format::key::Key;
use crate::format::slot::{self, Word};
use crate::format::table;
use std::sync::atomic::Ordering::{Relaxed, Release};

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    pub(super) fn begin_intent(&self, slot: u64, pair: u64, delete: bool) {
        let st = self.st();
        st.intent_pair.store(pair, Relaxed);
        st.intent_delete.store(u64::from(delete), Relaxed);
        st.intent.store(slot, Release);
    }

    pub(super) fn end_intent(&self) {
        self.st().intent.store(0, Release);
    }

    /// Finishes or undoes the change that a process was making when it died, or that failed.
    pub(super) fn finish_dead(&mut self) -> Result<()> {
        let st = self.st();
        let at = st.intent.load(Relaxed);
        let (pair, delete) = (
            st.intent_pair.load(Relaxed),
            st.intent_delete.load(Relaxed) != 0,
        );
        self.tell_unfinished(at, pair);
        self.rearrange();
        // Tables first: the count may be behind the links.
        self.tables = self.chain()?.0;
        self.st().tables.store(self.tables.len() as u64, Relaxed);
        let inside = self.tables.iter().enumerate().find_map(|(t, &o)| {
            let i = at.checked_sub(table::slot_offset(o, 0))? / slot::SIZE;
            (i < u64::from(self.sizes.slots)).then_some((t, i as u16))
        });
        if pair != 0
            && let Some((t, i)) = inside
        {
            let place = self.place(t, i)?;
            if place.pair == pair {
                self.finish_pair(&place, delete)?;
            } else if pair % PAGE == 0 && pair + PAIR <= self.store.len()? {
                // Not committed: the place is as empty as before.
                self.erase(pair, PAIR)?;
            }
        }
        self.st().surveyed.store(0, Relaxed);
        self.survey_once()?;
        let end = self.st().end.load(Relaxed);
        let rest = self
            .store
            .len()?
            .saturating_sub(end)
            .min(table::SIZE + PAIR);
        self.erase(end, rest)?;
        self.end_intent();
        Ok(())
    }

    /// A delete goes on; a put into a deleted pair goes on if it counts already, else it is undone.
    fn finish_pair(&mut self, place: &Place, delete: bool) -> Result<()> {
        let pair = self.pair_of(place)?;
        if delete {
            let side = place.slot.word.side();
            return self.write_deleted(place, pair.verdict(side).sum);
        }
        if !place.slot.is_deleted() {
            // An overwrite: the slot decides. From now on it also says that the pair was changed, so
            // that the close mends the copy that was being written.
            if let Outcome::Live(side) = pair.outcome(Some(place.slot.word)) {
                let word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
                self.store.store(place.at + 16, word.0)?;
            }
            return Ok(());
        }
        let outcome = pair.outcome(Some(place.slot.word));
        let b = pair.outcome_of(Side::B);
        let (side, live) = match outcome {
            Outcome::Live(side) => (side, true),
            Outcome::Deleted(side) => (side, false),
            Outcome::Damaged => return self.drop_pair(place),
        };
        let mut block = pair.block(side).clone();
        if let Outcome::Deleted(_) = b {
            // B has not been touched, and is on the medium: it stays until A is there as well.
            return match live {
                true => self.commit_for_the_dead(place, &block),
                false => self.finish(&pair, outcome),
            };
        }
        let other = side.other();
        let v = pair.verdict(other);
        if !v.good
            || v.sum != block.sum(self.sizes)
            || pair.block(other).delimiters().0 != other.delimiters(live).0
        {
            block.set_delimiters(other, live);
            self.write_copy(place.pair, other, &block, !live)?;
        }
        if live {
            return self.commit_for_the_dead(place, &block);
        }
        Ok(())
    }

    /// The pair is looked at when it is next touched: we have not seen what the dead one knew of it.
    fn commit_for_the_dead(&mut self, place: &Place, block: &RawBlock) -> Result<()> {
        if let Some(key) = Key::new(block.key()) {
            self.commit(place, &key, block.sum(self.sizes))?;
            self.set_checked(place.pair, false);
        }
        Ok(())
    }
}
