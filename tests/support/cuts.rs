//! Power cuts, enumerated: every state that a medium can be in after one is made, opened and checked.
//!
//! - [`scenario`]: what a caller does, and what that stores, word for word.
//! - [`history`]: which states each key may be found in, at every instant of it.
//! - [`epoch`]: what the medium may hold between two syncs, one [`epoch::Choice`] for each state.
//! - [`strategy`]: which of those states are tried.
//! - [`replay`]: opens a state and says what is wrong with it.
//! - [`run`]: all of it on every core, with a budget, and the way back from a failure.
//!
//! # The model
//!
//! The medium is a length and a row of 512-byte sectors. At a cut each sector holds what it had after
//! some prefix of the 8-byte stores made into it since the last sync, independent of all others; the
//! length is any that the file had since then. What lies behind a shorter length is gone. A state
//! that needs nothing later than some instant is judged by what was permitted at that instant, so
//! that enumerating at the end of an epoch covers all earlier cuts of it as sharply.

#[path = "cuts/epoch.rs"]
pub mod epoch;
#[path = "cuts/history.rs"]
pub mod history;
#[path = "cuts/replay.rs"]
pub mod replay;
#[path = "cuts/run.rs"]
pub mod run;
#[path = "cuts/scenario.rs"]
pub mod scenario;
#[path = "cuts/strategy.rs"]
pub mod strategy;

/// A small generator of random numbers (splitmix64): the same everywhere for the same seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same numbers for the same seeds.
    pub fn new(seeds: &[u64]) -> Self {
        let mut rng = Self(0x243F_6A88_85A3_08D3);
        for &s in seeds {
            rng.0 ^= s;
            rng.0 = rng.next();
        }
        rng
    }

    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of 0..n; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A number that belongs to a text, for seeds.
pub fn number_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}
