//! Which states of an epoch are tried when there are too many to try all.

use super::Rng;
use super::epoch::{Choice, Epoch, PAGE, SECTOR};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Up to so many states, all of them are tried.
pub const ALL: u128 = 4096;

/// The states that one epoch's share of the budget buys, each once.
pub struct States<'a> {
    epoch: &'a Epoch,
    seen: HashSet<u64>,
    rng: Rng,
}

type Make<'a> = Box<dyn Fn(u128, &mut Rng) -> Choice + 'a>;

/// Numbered candidates.
struct Strategy<'a> {
    count: u128,
    make: Make<'a>,
}

fn strategy(count: u128, make: Make<'_>) -> Strategy<'_> {
    Strategy {
        count: count.max(1),
        make,
    }
}

impl<'a> States<'a> {
    /// `seed`: which of the states that are picked at random.
    pub fn new(epoch: &'a Epoch, seed: u64) -> Self {
        Self {
            epoch,
            seen: HashSet::new(),
            rng: Rng::new(&[seed]),
        }
    }

    /// Calls `f` with at most `quota` states. Ends early if `f` says `false`.
    pub fn each(&mut self, quota: u64, mut f: impl FnMut(Choice) -> bool) {
        let epoch = self.epoch;
        if epoch.states() <= u128::from(quota) {
            for n in 0..epoch.states() {
                if !self.offer(epoch.numbered(n), &mut f) {
                    return;
                }
            }
            return;
        }
        let mut strategies = strategies(epoch);
        strategies.sort_by_key(|s| s.count);
        let mut left = quota;
        let mut ahead = strategies.len() as u64;
        for s in &strategies {
            let share = left / ahead;
            ahead -= 1;
            let made = self.seen.len();
            // Many candidates of one strategy are the same state: some more tries than the share.
            for k in 0..u128::from(share).saturating_mul(2) {
                if (self.seen.len() - made) as u64 >= share {
                    break;
                }
                let index = if s.count <= u128::from(share) {
                    if k >= s.count {
                        break;
                    }
                    k
                } else {
                    let dice = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
                    dice % s.count
                };
                let choice = (s.make)(index, &mut self.rng);
                if !self.offer(choice, &mut f) {
                    return;
                }
            }
            left = left.saturating_sub((self.seen.len() - made) as u64);
        }
    }

    fn offer(&mut self, choice: Choice, f: &mut impl FnMut(Choice) -> bool) -> bool {
        let choice = self.epoch.canonical(choice);
        let mut hasher = DefaultHasher::new();
        choice.hash(&mut hasher);
        !self.seen.insert(hasher.finish()) || f(choice)
    }
}

fn strategies(epoch: &Epoch) -> Vec<Strategy<'_>> {
    let sectors = epoch.sectors.len() as u128;
    let events = epoch.events.len() as u128;
    let lengths = epoch.lengths.len() as u128;
    let stores: Vec<(usize, u32)> = epoch
        .sectors
        .iter()
        .enumerate()
        .flat_map(|(i, s)| (0..s.versions()).map(move |n| (i, n)))
        .collect();
    let total = stores.len() as u128;
    let mut by_page: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, s) in epoch.sectors.iter().enumerate() {
        by_page.entry(s.number * SECTOR / PAGE).or_default().push(i);
    }
    let pages: Vec<Vec<usize>> = by_page.into_values().collect();
    let pick = move |n: &mut u128, base: u128| {
        let d = *n % base.max(1);
        *n /= base.max(1);
        d as usize
    };
    let old = || Choice {
        length: 0,
        upto: vec![0; epoch.sectors.len()],
    };
    let new = || Choice {
        length: epoch.last_length(),
        upto: epoch.sectors.iter().map(|s| s.versions()).collect(),
    };
    let (stores1, stores2, pages1, pages2) = (stores.clone(), stores, pages.clone(), pages);
    let pages3 = pages2.clone();
    vec![
        // Every prefix in program order, with each length.
        strategy(
            events * (lengths + 1),
            Box::new(move |mut n, _| {
                let mut c = epoch.prefix(epoch.events[pick(&mut n, events)]);
                if n > 0 {
                    c.length = n as u16 - 1;
                }
                c
            }),
        ),
        // Nothing but one sector, up to each of its stores.
        strategy(
            total * lengths,
            Box::new(move |mut n, _| {
                let (i, k) = stores1[pick(&mut n, total)];
                let mut c = old();
                c.upto[i] = k + 1;
                c.length = n as u16;
                c
            }),
        ),
        // Everything but one sector, or but the end of it.
        strategy(
            total * lengths,
            Box::new(move |mut n, _| {
                let (i, k) = stores2[pick(&mut n, total)];
                let mut c = new();
                c.upto[i] = k;
                c.length = n as u16;
                c
            }),
        ),
        // Whole pages, new or old: all subsets of up to ten, random ones of more.
        strategy(
            (1 << pages1.len().min(100)) * lengths,
            Box::new(move |mut n, _| {
                let mut c = old();
                c.length = pick(&mut n, lengths) as u16;
                for page in &pages1 {
                    if n & 1 != 0 {
                        for &i in page {
                            c.upto[i] = epoch.sectors[i].versions();
                        }
                    }
                    n >>= 1;
                }
                c
            }),
        ),
        // Whole pages, each as it was at an instant of its own.
        strategy(
            u128::MAX,
            Box::new(move |_, rng| {
                let mut c = old();
                c.length = rng.below(lengths as u64) as u16;
                let still = rng.chance(50);
                for page in &pages2 {
                    let at = match rng.below(if still { 3 } else { 4 }) {
                        0 => continue,
                        1 => usize::MAX,
                        _ => {
                            let one = page[rng.below(page.len() as u64) as usize];
                            let s = &epoch.sectors[one];
                            s.event(rng.below(u64::from(s.versions())) as u32)
                        }
                    };
                    for &i in page {
                        c.upto[i] = epoch.sectors[i].upto(at);
                    }
                }
                c
            }),
        ),
        // At an instant, one earlier sector has not got as far; in the other half nothing but the last store's page
        // has got anywhere.
        strategy(
            events * sectors * 2,
            Box::new(move |mut n, rng| {
                let at = epoch.events[pick(&mut n, events)];
                let i = pick(&mut n, sectors);
                let mut c = epoch.prefix(at);
                if n == 0 {
                    c.upto[i] = rng.below(u64::from(c.upto[i]).max(1)) as u32;
                    if rng.chance(50) {
                        c.upto[i] = 0;
                    }
                } else {
                    let keep = pages3.iter().find(|p| p.contains(&i));
                    for (k, upto) in c.upto.iter_mut().enumerate() {
                        if !keep.is_some_and(|p| p.contains(&k)) {
                            *upto = 0;
                        }
                    }
                }
                c
            }),
        ),
        // A later sector is new, an earlier one old; the others are old, new or either.
        strategy(
            sectors * sectors * 3,
            Box::new(move |mut n, rng| {
                let (i, j) = (pick(&mut n, sectors), pick(&mut n, sectors));
                let mut c = match n {
                    0 => old(),
                    1 => new(),
                    _ => mixed(epoch, 50, rng),
                };
                c.length = epoch.last_length();
                let (i, j) = (i.min(j), i.max(j));
                c.upto[j] = epoch.sectors[j].versions();
                c.upto[i] = 0;
                c
            }),
        ),
        // At random.
        strategy(
            u128::MAX,
            Box::new(move |_, rng| {
                let density = [10, 50, 90][rng.below(3) as usize];
                let mut c = mixed(epoch, density, rng);
                c.length = rng.below(lengths as u64) as u16;
                c
            }),
        ),
    ]
}

/// Each sector is new with a probability of `density` percent, else old; one in four is in between.
fn mixed(epoch: &Epoch, density: u64, rng: &mut Rng) -> Choice {
    // Half of them as at an earlier instant.
    let at = if rng.chance(50) {
        usize::MAX
    } else {
        epoch.events[rng.below(epoch.events.len() as u64) as usize]
    };
    let between = rng.chance(50);
    let upto = epoch.sectors.iter().map(|s| {
        let all = s.upto(at);
        if between && rng.chance(25) {
            rng.below(u64::from(all) + 1) as u32
        } else if rng.chance(density) {
            all
        } else {
            0
        }
    });
    Choice {
        upto: upto.collect(),
        length: epoch.last_length(),
    }
}
