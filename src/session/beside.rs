//! A reader who may not write the file, and so may not share the writers' object: he reads beside
//! them, with an object of his own that has no name.

use super::medium::{Medium, Words};
use crate::engine::{Engine, Look};
use crate::error::{Error, Result};
use std::ops::Range;
use std::time::{Duration, Instant};

type Reader = Engine<Medium, Words>;

/// So long a reader waits for a writer who is recovering the file, or for an answer that
/// nobody changes while it is found.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this many tries others get a core in between.
const EAGER: u32 = 50;
/// How often a record that is damaged in both copies is read again.
const DOUBTS: u32 = 20;

/// What such a reader remembers between calls.
#[derive(Default)]
pub(super) struct Beside {
    /// A file that nobody recovers, recovered in memory, and what it was found to be.
    recovered: Option<(Vec<u64>, Reader)>,
}

/// The engine that looks at the file as it is.
pub(super) fn open_engine(medium: Medium) -> Result<Reader> {
    Engine::open_beside(medium, Words::Private(Box::default()))
}

/// Whether somebody has the file open who may write it.
fn is_written(engine: &Reader) -> bool {
    match engine.store() {
        Medium::File(map) => map.file().has_other_writers().unwrap_or(true),
        Medium::Memory(_) => false,
    }
}

impl Beside {
    /// Runs `f` until nobody has changed meanwhile what its answer rests on: what is in the slots that
    /// `slots` names, for the last answer or before there is one. `None`: an answer is needed first.
    pub(super) fn read<R>(
        &mut self,
        engine: &mut Reader,
        mut f: impl FnMut(&mut Reader) -> Result<R>,
        slots: impl Fn(&Reader, Option<&R>) -> Option<Range<u64>>,
    ) -> Result<R> {
        let start = Instant::now();
        let mut last = None;
        for attempt in 0.. {
            if attempt > EAGER {
                std::thread::sleep(Duration::from_micros(100));
            }
            let late = start.elapsed() > PATIENCE;
            let written = is_written(engine);
            match engine.look(written, last.as_ref(), &mut f, &slots) {
                Ok(Look::Sure(answer)) => return Ok(answer),
                Ok(Look::Doubtful(answer)) => last = Some(answer),
                // Who has it open is about to recover it.
                Ok(Look::Unrecovered) if written && !late => {}
                Ok(Look::Unrecovered) => {
                    let found = engine.witness(0..u64::MAX)?;
                    let answer = f(self.recover(&found, engine)?);
                    let same = engine.witness(0..u64::MAX)? == found && !is_written(engine);
                    if same || late {
                        return answer;
                    }
                }
                Err(Error::Corrupt(_)) if attempt < DOUBTS => {}
                Err(e) => return Err(e),
            }
            if late {
                break;
            }
        }
        Err(std::io::Error::from_raw_os_error(libc::EAGAIN).into())
    }

    /// An engine that has recovered in memory what was `found` in the file.
    fn recover(&mut self, found: &[u64], engine: &Reader) -> Result<&mut Reader> {
        let known = self.recovered.take().filter(|(of, _)| of == found);
        let reader = match (known, engine.store()) {
            (Some((_, reader)), _) => reader,
            (None, Medium::File(map)) => super::medium::open_in_memory(map.file().reopen(false)?)?,
            (None, Medium::Memory(_)) => return Err(Error::Access("nothing to recover")),
        };
        Ok(&mut self.recovered.insert((found.to_vec(), reader)).1)
    }
}
