//! What the engine has to say to [`crate::log`]: the texts, in one place.

use super::{Engine, Outcome, Pair, State, Storage};
use crate::format::block::Side;
use crate::format::header;
use crate::log;

/// Where a pair is, and its key as far as one of the copies has it.
fn name(pair: &Pair) -> String {
    let key = [Side::A, Side::B]
        .into_iter()
        .max_by_key(|&side| (pair.verdict(side).good, side == Side::A))
        .map_or(&b""[..], |side| pair.block(side).key());
    if key.is_empty() {
        return format!("pair at {}", pair.at);
    }
    match std::str::from_utf8(key) {
        Ok(key) => format!("pair at {}, key {key:?}", pair.at),
        Err(_) => format!("pair at {}, key \"{}\"", pair.at, key.escape_ascii()),
    }
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    fn name_of(&self, pair: u64) -> String {
        self.read_pair(pair)
            .map_or_else(|_| format!("pair at {pair}"), |p| name(&p))
    }

    pub(crate) fn tell_recovery(&self, marked: bool) {
        log::info(|| {
            let closed = self.store.load(header::CLOSE_FAILED).is_ok_and(|w| w == 0)
                && self.store.load(header::CLOSE_OK).is_ok_and(|w| w == 1);
            let why = match (marked, closed) {
                (true, _) => "the file was not closed by this library",
                (false, false) => "the file was not closed by another library",
                (false, true) => "the file says that it was closed, but its tables are not whole",
            };
            format!("recovery begins: {why}")
        });
    }

    pub(crate) fn tell_recovered(&self, looked_at: usize) {
        log::info(|| {
            format!(
                "recovery ended: by the tables, {} of them, and {looked_at} deleted or torn slots",
                self.tables.len()
            )
        });
    }

    pub(crate) fn tell_lost_record(&self, pair: u64) {
        log::error(|| {
            let name = self.name_of(pair);
            format!("{name}: its value in the log is damaged, what the pair holds counts")
        });
    }

    pub(crate) fn tell_redone(&self, values: usize) {
        log::info(|| format!("{values} values were taken from the log"));
    }

    pub(crate) fn tell_walk(&self) {
        log::info(|| format!("whole walk over {} bytes begins", self.store.known_len()));
    }

    pub(crate) fn tell_walked(&self, pairs: usize, homeless: usize) {
        log::info(|| {
            format!(
                "recovery ended: by a whole walk, {} tables, {pairs} pairs, {homeless} of them with a new slot",
                self.tables.len()
            )
        });
    }

    /// `found`: whether table 0 is there; `tables`: how many are; `named`: by each pair.
    pub(crate) fn tell_tables(&self, found: bool, tables: usize, named: impl Iterator<Item = u64>) {
        if !found {
            log::warning(|| "table 0 is lost: it is made anew".into());
        }
        let lost = named.filter(|&t| t >= tables as u64).count();
        if lost > 0 {
            log::warning(|| format!("{lost} pairs name tables that are lost"));
        }
    }

    pub(crate) fn tell_lost(&self, pair: u64) {
        log::error(|| {
            format!(
                "{}: both copies are damaged, the record is lost (or a put that was never synced)",
                self.name_of(pair)
            )
        });
    }

    /// `pair`: the new one.
    pub(crate) fn tell_moved(&self, pair: u64) {
        log::warning(|| {
            let name = self.name_of(pair);
            format!(
                "{name}: one copy lay under something else, the other one was whole: moved here"
            )
        });
    }

    /// A pair in a closed file is not as it should be.
    pub(crate) fn tell_damage(&self, pair: &Pair, outcome: Outcome) {
        match outcome {
            Outcome::Damaged => log::error(|| format!("{}: both copies are damaged", name(pair))),
            Outcome::Live(side) if !pair.verdict(side.other()).good => log::warning(|| {
                format!(
                    "{}: copy {:?} is damaged, served from copy {side:?}",
                    name(pair),
                    side.other()
                )
            }),
            _ => {}
        }
    }

    pub(crate) fn tell_mended(&self, pair: &Pair, side: Side) {
        log::warning(|| {
            let other = side.other();
            format!(
                "{}: copy {other:?} is torn or older, copy {side:?} counts; mended",
                name(pair)
            )
        });
    }

    pub(crate) fn tell_unfinished(&self, slot: u64, pair: u64) {
        log::warning(|| {
            let what = match pair {
                0 => format!("table behind slot {slot}"),
                pair => self.name_of(pair),
            };
            format!("{what}: a change that a death or an error cut short is finished or undone")
        });
    }
}
