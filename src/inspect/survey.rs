//! The way through the file: header, tables, chains, and what nothing leads to.

use super::judge::{ChainSeen, Judge, Placed, Seen};
use super::{Finding, Inspector, Life, Part, Region, Report, Rule};
use crate::engine::{Outcome, Pair};
use crate::error::{Error, Result};
use crate::format::block::{PAIR, Side};
use crate::format::header::{self, Fields, Header};
use crate::format::slot::Slot;
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, Sizes};
use std::collections::HashMap;

/// So many pairs of a chain are read while others stand still.
const TOGETHER: usize = 64;

/// So many surveys are begun while others go on.
const LOOKS: u32 = 5;

/// What is read at the start, at one moment.
struct Base {
    len: u64,
    bytes: [u8; header::SIZE],
    sizes: Option<Sizes>,
    tables: Vec<Table>,
    link: Option<Finding>,
}

/// What is remembered of a table; a file can be full of them.
struct Table {
    at: u64,
    /// How many delimiters are there.
    delimiters: usize,
    /// Its checksum field.
    mark: u64,
    /// Whether that is its checksum.
    right: bool,
    zero: bool,
    /// The link in the original's place, and in the other place of tables with fewer slots.
    links: (u64, u64),
    /// Where the redo log begins, if this is the first table of a file that is being changed.
    log: u64,
}

impl Table {
    fn new(at: u64, raw: &RawTable, sizes: Sizes) -> Self {
        let link = |i: u16| raw.slot(i).a as u64;
        let last = table::SLOTS as u16;
        Self {
            at,
            delimiters: raw.delimiters(),
            mark: raw.mark(),
            right: raw.checksum() == raw.mark(),
            zero: raw.is_zero(),
            links: (link(last), link(sizes.slots.min(last))),
            log: raw.slot(last).b as u64,
        }
    }
}

impl Inspector {
    /// Goes through the whole file. `progress` is called with what is done and what there is to do.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Memory`]. A file that is no database is not an error but a finding.
    pub fn survey(&mut self, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
        for _ in 0..LOOKS {
            let before = self.moment()?;
            if before.is_some() {
                let mut report = self.look(&mut progress)?;
                if self.moment()? == before {
                    report.unsure = report.in_use && self.user.is_none();
                    return Ok(report);
                }
            }
            // From now on we can ask them to stand still.
            *self = Self::begin(self.path.clone(), true)?;
        }
        // They come and go faster than that. Now they wait for one survey.
        let mut report = self.still(|me| me.look(&mut |_, _| ()))?;
        report.unsure = self.user.is_none();
        Ok(report)
    }

    fn look(&mut self, progress: &mut impl FnMut(u64, u64)) -> Result<Report> {
        let base = self.still(|me| me.base())?;
        let header = Fields::read(&base.bytes);
        let header_good = base.len >= PAGE && Header::parse(&base.bytes).is_ok();
        let mut report = Report {
            len: base.len,
            header,
            sizes: base.sizes,
            header_good,
            life: life(&header, &base.tables),
            in_use: self.in_use,
            unsure: false,
            tables: base.tables.iter().map(|t| t.at).collect(),
            chains: Vec::new(),
            live: 0,
            deleted: 0,
            payload: 0,
            regions: Vec::new(),
            findings: Vec::new(),
        };
        let Some(sizes) = base.sizes else {
            no_database(&base, &mut report);
            return Ok(report);
        };
        let mut judge = Judge {
            sizes,
            life: report.life,
            tables: base.tables.len(),
            findings: Vec::new(),
            placed: vec![Placed {
                at: 0,
                len: PAGE,
                part: Part::Header,
            }],
            keys: HashMap::new(),
            deleted: 0,
            payload: 0,
        };
        judge.header(&report);
        if report.life == Life::Stale {
            // Its slots are of an older time: only what lies in the file counts.
            report.tables.clear();
            report.chains = vec![super::Chain::default(); usize::from(sizes.slots)];
        } else {
            judge.findings.extend(base.link.clone());
            for (n, t) in base.tables.iter().enumerate() {
                judge.table(n, t);
            }
            self.chains(&base, &mut judge, &mut report, progress)?;
            judge
                .placed
                .extend(log(&base).filter(|_| report.life == Life::Open));
        }
        self.parts(&mut judge, &mut report, progress)?;
        self.confirm(&mut judge, sizes, report.in_use)?;
        if judge.findings.iter().any(|f| f.rule == Rule::LooseTable) {
            // The table is there, and only the link to it is wrong.
            let links = judge.findings.iter_mut();
            links
                .filter(|f| f.rule == Rule::TableBehindEnd)
                .for_each(|f| f.rule = Rule::Link);
        }
        if report.tables.is_empty()
            && report.life == Life::Closed
            && report.regions.iter().any(|r| r.part == Part::Loose)
        {
            judge.find(
                Rule::NoTable,
                PAGE,
                None,
                "records, but no table: neither of its delimiters is there",
            );
        }
        if let [only] = &base.tables[..]
            && only.zero
            && judge.findings.iter().any(|f| f.rule == Rule::LooseRecord)
        {
            judge.find(
                Rule::TableZero,
                only.at,
                None,
                "the table is all zero although there are records",
            );
        }
        if report.life == Life::Stale {
            for key in judge.keys.keys() {
                let chain = crate::format::hash::slot(key, sizes.slots);
                if let Some(c) = report.chains.get_mut(usize::from(chain)) {
                    c.live += 1;
                    c.length += 1;
                }
            }
        }
        report.live = judge.keys.len() as u64;
        report.deleted = judge.deleted;
        report.payload = judge.payload;
        report.findings = judge.findings;
        report.findings.sort_by_key(|f| (f.offset, f.rule));
        Ok(report)
    }

    fn base(&self) -> Result<Base> {
        let len = self.len()?;
        let bytes = self.header()?;
        let sizes = match Header::parse(&bytes) {
            Ok(header) if len >= PAGE => Some(header.sizes),
            _ => self.guess_sizes(len, &Fields::read(&bytes))?,
        };
        let mut base = Base {
            len,
            bytes,
            sizes,
            tables: Vec::new(),
            link: None,
        };
        if let Some(sizes) = sizes {
            self.follow_links(sizes, &mut base)?;
        }
        Ok(base)
    }

    /// The tables, by their links; the last link if it leads nowhere.
    fn follow_links(&self, sizes: Sizes, base: &mut Base) -> Result<()> {
        let (mut at, mut from) = (PAGE, 0);
        loop {
            let last = base.tables.last().map(|t| t.at);
            let inside = at
                .checked_add(table::SIZE)
                .is_some_and(|end| end <= base.len);
            let wrong = if !inside {
                Some((Rule::TableBehindEnd, "behind the end of the file"))
            } else if !at.is_multiple_of(PAGE) {
                Some((Rule::Link, "to no multiple of 4096"))
            } else if last.is_some_and(|last| at <= last) {
                Some((Rule::Link, "back, to where the chain was before"))
            } else {
                let raw = self.table(at)?;
                let none = raw.delimiters() == 0;
                if !none {
                    base.tables.try_reserve(1).map_err(|_| Error::Memory)?;
                    base.tables.push(Table::new(at, &raw, sizes));
                }
                none.then_some((Rule::Link, "to something that is no table"))
            };
            if let Some((rule, wrong)) = wrong {
                // The first table is not reached by a link.
                if last.is_none() {
                    base.link = self.first_cut_off(inside)?;
                } else {
                    base.link = Some(Finding {
                        rule,
                        offset: from,
                        key: None,
                        detail: format!(
                            "the link of table {} leads {wrong}: {at:#x}",
                            base.tables.len() - 1
                        ),
                    });
                }
                return Ok(());
            }
            let Some(here) = base.tables.last() else {
                return Ok(());
            };
            let (next, other) = here.links;
            from = table::slot_offset(here.at, table::SLOTS as u16);
            at = if next == 0 { other } else { next };
            if at == 0 {
                return Ok(());
            }
        }
    }

    /// The first table, if the file ends in the middle of one that was closed. One that was being made had no checksum yet.
    fn first_cut_off(&self, inside: bool) -> Result<Option<Finding>> {
        let cut = !inside && !matches!(self.table(PAGE)?.mark(), 0 | table::MARK);
        Ok(cut.then(|| Finding {
            rule: Rule::TableBehindEnd,
            offset: PAGE,
            key: None,
            detail: "the first table goes on behind the end of the file".into(),
        }))
    }

    /// Every slot of every table with what it leads to.
    fn chains(
        &mut self,
        base: &Base,
        judge: &mut Judge,
        report: &mut Report,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<()> {
        let sizes = judge.sizes;
        let tables = report.tables.clone();
        let closed = report.life == Life::Closed;
        for index in 0..sizes.slots {
            progress(u64::from(index), u64::from(sizes.slots) + 1);
            let mut chain = ChainSeen::default();
            for (first, part) in (0..).step_by(TOGETHER).zip(tables.chunks(TOGETHER)) {
                let seen = self.still(|me| {
                    let len = me.len()?.max(base.len);
                    let mut seen = Vec::with_capacity(part.len());
                    for (n, &at) in part.iter().enumerate() {
                        let slot = me.slot(at, index)?;
                        let pair = slot
                            .pair(len)
                            .or_else(|| odd_pair(slot, len).filter(|_| closed));
                        let read = |at| Ok::<_, Error>((at, me.blocks(at)?));
                        let blocks = pair.filter(|_| !slot.is_unused()).map(read);
                        let rest = slot.pair(i64::MAX as u64).filter(|_| pair.is_none());
                        let logged = slot.record().map(|front| me.value_size(front));
                        seen.push(Seen {
                            table: first + n,
                            at,
                            slot,
                            len,
                            blocks: blocks.transpose()?,
                            rest: rest.map(read).transpose()?,
                            logged: logged.transpose()?,
                        });
                    }
                    Ok(seen)
                })?;
                for slot in seen {
                    judge.slot(index, &mut chain, slot);
                }
            }
            report.chains.push(chain.chain);
        }
        Ok(())
    }

    /// All of the file in its order, and what nothing leads to.
    fn parts(
        &mut self,
        judge: &mut Judge,
        report: &mut Report,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<()> {
        let mut placed = std::mem::take(&mut judge.placed);
        placed.sort_by_key(|p| (p.at, p.part));
        let mut end = 0;
        for p in placed {
            if p.at < end {
                let detail = format!(
                    "a {} begins inside another part of the file",
                    name_of(p.part)
                );
                judge.find(Rule::Overlap, p.at, None, detail);
            }
            if p.at > end {
                self.loose(end, p.at.min(report.len), judge, report, progress)?;
            }
            let at = p.at.max(end).min(report.len);
            let stop = (p.at + p.len).min(report.len);
            if stop > at {
                report.regions.push(Region {
                    at,
                    len: stop - at,
                    part: p.part,
                });
            }
            end = end.max(p.at + p.len);
        }
        self.loose(end, report.len, judge, report, progress)
    }

    /// A range that no table and no slot leads to.
    fn loose(
        &mut self,
        from: u64,
        to: u64,
        judge: &mut Judge,
        report: &mut Report,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<()> {
        let mut at = from;
        while at < to {
            let mut end = at;
            while end < to && self.is_zero(end, page_rest(end, to))? {
                end += page_rest(end, to);
            }
            if end > at {
                if report.life == Life::Closed {
                    let detail = format!("{} bytes that are in use for nothing", end - at);
                    judge.find(Rule::Unused, at, None, detail);
                }
                report.push(at, end - at, Part::Unused);
                at = end;
                continue;
            }
            progress(at, report.len);
            let (len, part) = self.loose_thing(at, to, judge, report)?;
            report.push(at, len, part);
            at += len;
        }
        Ok(())
    }

    /// What lies at a place that nothing leads to: how long it is, and what.
    fn loose_thing(
        &self,
        at: u64,
        to: u64,
        judge: &mut Judge,
        report: &mut Report,
    ) -> Result<(u64, Part)> {
        let stale = report.life == Life::Stale;
        let raw = self.table(at)?;
        if at + table::SIZE <= to && raw.delimiters() == 2 {
            if stale {
                report.tables.push(at);
                return Ok((table::SIZE, Part::Table));
            }
            judge.find(Rule::LooseTable, at, None, "a table to which no link leads");
            return Ok((table::SIZE, Part::Loose));
        }
        let room = to - at;
        let pair = Pair::check(at, self.blocks(at)?, judge.sizes);
        let delimiters: u8 = pair.verdicts.iter().map(|v| v.delimiters).sum();
        let outcome = pair.outcome(None);
        let good = !matches!(outcome, Outcome::Damaged);
        if delimiters == 0 || (!good && delimiters < 2) || (room < PAIR && !good) {
            if !stale {
                judge.find(
                    Rule::Leaked,
                    at,
                    None,
                    "bytes that nothing leads to and that are no record",
                );
            }
            return Ok((page_rest(at, to), Part::Damaged));
        }
        let len = PAIR.min(room);
        let block = |side: Side| pair.block(side);
        match outcome {
            Outcome::Live(side) if stale => {
                judge.copies(&pair, side, true);
                let key = block(side).key().to_vec();
                if judge.keys.insert(key, at).is_none() {
                    let size = block(side).key().len() + block(side).value(judge.sizes).len();
                    judge.payload += size as u64;
                }
                Ok((len, Part::Live))
            }
            Outcome::Deleted(_) if stale => {
                judge.deleted += 1;
                Ok((len, Part::Deleted))
            }
            Outcome::Live(side) => {
                let key = block(side).key().to_vec();
                if judge.keys.contains_key(&key) {
                    let detail = "an old record of a key that lives elsewhere; nothing leads to it";
                    judge.find(Rule::Leaked, at, Some(&key), detail);
                } else {
                    let detail = "a record to which no slot leads";
                    judge.find(Rule::LooseRecord, at, Some(&key), detail);
                }
                Ok((len, Part::Loose))
            }
            Outcome::Deleted(side) => {
                let key = block(side).key().to_vec();
                let detail = "a deleted record to which no slot leads";
                judge.find(Rule::Leaked, at, Some(&key), detail);
                Ok((len, Part::Loose))
            }
            // The original's recovery leaves the delimiters of what it gives up.
            Outcome::Damaged
                if pair
                    .blocks
                    .iter()
                    .all(|b| b.key().is_empty() && b.value_is_zero()) =>
            {
                judge.find(
                    Rule::Leaked,
                    at,
                    None,
                    "an empty record that a recovery has given up",
                );
                Ok((len, Part::Loose))
            }
            Outcome::Damaged => {
                judge.lost(&pair);
                Ok((len, Part::Damaged))
            }
        }
    }

    /// What was found between chains while others changed them is looked at once more.
    fn confirm(&mut self, judge: &mut Judge, sizes: Sizes, in_use: bool) -> Result<()> {
        let between = |f: &Finding| {
            matches!(
                f.rule,
                Rule::Overlap | Rule::LooseTable | Rule::LooseRecord | Rule::Leaked | Rule::Unused
            )
        };
        if !in_use || !judge.findings.iter().any(between) {
            return Ok(());
        }
        let taken = self.still(|me| {
            let mut base = Base {
                len: me.len()?,
                bytes: [0; header::SIZE],
                sizes: Some(sizes),
                tables: Vec::new(),
                link: None,
            };
            me.follow_links(sizes, &mut base)?;
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for t in &base.tables {
                let raw = me.table(t.at)?;
                taken.push((t.at, table::SIZE));
                let slots = (0..sizes.slots).map(|i| raw.slot(i));
                taken.extend(slots.filter_map(|s| s.pair(base.len)).map(|at| (at, PAIR)));
            }
            Ok(taken)
        })?;
        judge.findings.retain(|f| {
            let here = |&&(at, len): &&(u64, u64)| (at..at + len).contains(&f.offset);
            match f.rule {
                Rule::Overlap => taken.iter().filter(here).count() > 1,
                _ if between(f) => taken.iter().find(here).is_none(),
                _ => true,
            }
        });
        Ok(())
    }
}

impl Report {
    fn push(&mut self, at: u64, len: u64, part: Part) {
        match self.regions.last_mut() {
            Some(r) if r.part == part && part == Part::Unused && r.at + r.len == at => r.len += len,
            _ => self.regions.push(Region { at, len, part }),
        }
    }
}

/// Bytes from `at` to the end of its page, or to `to`.
fn page_rest(at: u64, to: u64) -> u64 {
    (PAGE - at % PAGE).min(to - at)
}

/// The redo log goes on to the end of the file.
fn log(base: &Base) -> Option<Placed> {
    let at = base.tables.first()?.log;
    let len = base.len.checked_sub(at)?;
    (at.is_multiple_of(PAGE) && at > PAGE && len > 0).then_some(Placed {
        at,
        len,
        part: Part::Log,
    })
}

fn odd_pair(slot: Slot, len: u64) -> Option<u64> {
    let at = u64::try_from(slot.a).ok()?;
    let agrees = slot.b == slot.a.checked_add(PAIR as i64 / 2)?;
    (agrees && at > PAGE && at.checked_add(PAIR)? <= len).then_some(at)
}

fn life(header: &Fields, tables: &[Table]) -> Life {
    match tables.first().map(|t| t.mark) {
        Some(table::MARK) => Life::Open,
        Some(table::REBUILDING | table::REBUILDING_SOME | table::REBUILDING_FIRST) => Life::Stale,
        _ if header.is_closed() || !(header.magic && header.version) => Life::Closed,
        // A header alone that nobody closed has nothing stale in it, but nothing else either.
        _ => Life::Stale,
    }
}

fn name_of(part: Part) -> &'static str {
    match part {
        Part::Table => "table",
        Part::Deleted => "deleted pair",
        _ => "pair",
    }
}

/// A file that has no usable header and no record that says what it is.
fn no_database(base: &Base, report: &mut Report) {
    let cut = base.len <= PAGE && Header::cut_off(&base.bytes[..base.len as usize]).is_ok();
    let (rule, detail) = if base.len == 0 {
        (
            Rule::HeaderCut,
            "the file is empty; the first open for writing makes a database of it",
        )
    } else if cut {
        (
            Rule::HeaderCut,
            "a creation that was cut off; the next open for writing ends it",
        )
    } else if base.len < PAGE {
        (
            Rule::NotADatabase,
            "shorter than a header, and not the start of one",
        )
    } else if report.header.magic && !report.header.version {
        (
            Rule::NotADatabase,
            "a KISSDB file of another version than 2.3",
        )
    } else if report.header.magic {
        (
            Rule::NotADatabase,
            "the sizes in the header are out of range, and there is no record that shows them",
        )
    } else {
        (
            Rule::NotADatabase,
            "it does not begin with KdB, and there is no record that shows what it is",
        )
    };
    report.findings.push(Finding {
        rule,
        offset: 0,
        key: None,
        detail: detail.into(),
    });
    if base.len > 0 {
        report.push(0, base.len, Part::Damaged);
    }
}

impl Judge {
    fn header(&mut self, report: &Report) {
        let h = &report.header;
        if !report.header_good {
            let [slots, key, value] = h.sizes;
            let what = if !h.magic {
                "it does not begin with KdB".to_string()
            } else if !h.version {
                "its version is not 2.3".to_string()
            } else {
                format!("its sizes {slots}/{key}/{value} are out of range")
            };
            let Sizes { slots, key, value } = self.sizes;
            let detail =
                format!("the header is damaged: {what}; the records are of {slots}/{key}/{value}");
            self.find(Rule::Header, 0, None, detail);
        }
        if let Some(at) = h.stray {
            self.find(
                Rule::HeaderStray,
                at,
                None,
                "something stands where the header must be 0",
            );
        }
        if !report.len.is_multiple_of(PAGE) {
            let detail = format!("the length {} is no multiple of {PAGE}", report.len);
            self.find(Rule::Length, report.len / PAGE * PAGE, None, detail);
        }
        let flags = (h.close_failed, h.close_ok);
        if !matches!(flags, (0, 1) | (1, 0)) {
            let detail = format!("closeFailed is {}, closeOk is {}", flags.0, flags.1);
            self.find(Rule::Flags, header::CLOSE_FAILED, None, detail);
        }
        if report.in_use || report.life == Life::Closed {
            return;
        }
        let detail = match (report.life, flags) {
            (Life::Open, (0, 1)) => "the last close was cut off at its end",
            (Life::Open, _) => {
                "the last user of this library died, or power went; the next open recovers"
            }
            _ if report.len == PAGE => "a header alone, and not closed",
            _ => {
                "the original died, or a recovery was cut off: the tables say nothing; the next open goes by the records"
            }
        };
        self.find(Rule::NotClosed, header::CLOSE_FAILED, None, detail);
    }

    fn table(&mut self, n: usize, t: &Table) {
        self.placed.push(Placed {
            at: t.at,
            len: table::SIZE,
            part: Part::Table,
        });
        if t.delimiters != 2 {
            let detail = format!("a delimiter of table {n} is wrong");
            self.find(Rule::TableDelimiter, t.at, None, detail);
        }
        let (next, other) = t.links;
        if next != other {
            let detail = format!("table {n} has two links, {next:#x} and {other:#x}");
            self.find(Rule::LinkTwice, t.at, None, detail);
        }
        if self.life == Life::Closed && !t.right {
            let detail = format!("the checksum of table {n} is wrong");
            self.find(Rule::TableChecksum, t.at + table::CHECKSUM, None, detail);
        }
    }
}
