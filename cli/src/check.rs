//! info and check.

use crate::args::{Check, Info};
use crate::fail::{About, Result, Status};
use crate::out::{self, Out};
use crate::progress::Progress;
use crate::{resource, shm};
use kissdb::inspect::{Finding, Inspector, Life, Mended, Part, Report, Rule, Weight};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Looks at all of a file.
pub fn survey(path: &Path) -> Result<Report> {
    let mut progress = Progress::new("checking");
    let mut look = || -> kissdb::Result<Report> {
        Inspector::open(path)?.survey(|done, all| progress.at(done, all))
    };
    let mut report = look().about(path)?;
    if report.unsure && !report.findings.is_empty() {
        // A change that was under way is over by the second time.
        let again = look().about(path)?;
        report.findings.retain(|f| again.findings.contains(f));
    }
    Ok(report)
}

/// What a file is for, by its sizes.
fn kind(report: &Report) -> String {
    let Some(s) = report.sizes else {
        return "not a database".into();
    };
    let name = match (s.key, s.value) {
        (128, 8028) => "settings",
        _ if resource::is_table(s) => "resource table",
        _ => "of sizes nobody uses",
    };
    format!(
        "{name}, keys of {}, values of {} bytes, {} slots",
        s.key, s.value, s.slots
    )
}

fn state(report: &Report) -> &'static str {
    match (report.life, report.in_use) {
        _ if report.sizes.is_none() => "unknown",
        (Life::Closed, _) => "closed cleanly",
        (Life::Open, true) => "changed by its users, not closed yet",
        (Life::Open, false) => "not closed: the next open recovers it",
        (Life::Stale, _) => {
            "not closed by the original, or recovery cut off: the next open recovers it"
        }
    }
}

pub fn info(a: &Info, out: &mut Out) -> Result<Status> {
    let path = &a.db.file;
    let report = survey(path)?;
    let users = shm::users_of(path);
    let longest = report.chains.iter().map(|c| c.length).max().unwrap_or(0);
    // What a log takes the next close gives back.
    let used = [Part::Header, Part::Table, Part::Live, Part::Log];
    let used: u64 = used.into_iter().map(|p| report.bytes_of(p)).sum();
    let wasted = report.len.saturating_sub(used);
    let by_weight = |w: Weight| {
        report
            .findings
            .iter()
            .filter(|f| f.rule.weight() == w)
            .count() as u64
    };
    let (damage, faults) = (by_weight(Weight::Damage), by_weight(Weight::Fault));
    let status = match damage + faults {
        0 => Status::Fine,
        _ => Status::Found,
    };
    if out.json {
        let sizes = report
            .sizes
            .map(|s| json!({"slots": s.slots, "key": s.key, "value": s.value}));
        out.object(&json!({
            "file": path.display().to_string(),
            "kind": kind(&report),
            "sizes": sizes,
            "length": report.len,
            "keys": report.live,
            "deleted": report.deleted,
            "tables": report.tables.len(),
            "longest_chain": longest,
            "payload_bytes": report.payload,
            "used_bytes": used,
            "wasted_bytes": wasted,
            "state": state(&report),
            "closed": report.life == Life::Closed,
            "close_failed": report.header.close_failed,
            "close_ok": report.header.close_ok,
            "in_use": report.in_use,
            "users": users.iter().map(shm::user_json).collect::<Vec<_>>(),
            "damage": damage,
            "faults": faults,
        }))?;
        return Ok(status);
    }
    let mut row = |name: &str, value: String| {
        out.line(format!(
            "{} {value}",
            console::style(format!("{name:<9}")).dim()
        ))
    };
    row(
        "file",
        format!("{}, {}", path.display(), out::bytes(report.len)),
    )?;
    row("kind", kind(&report))?;
    row("state", state(&report).into())?;
    if report.sizes.is_some() {
        row(
            "keys",
            format!(
                "{}, {} deleted, {} of keys and values",
                report.live,
                report.deleted,
                out::bytes(report.payload)
            ),
        )?;
        row(
            "tables",
            format!(
                "{}, the longest chain goes through {longest}",
                report.tables.len()
            ),
        )?;
        row(
            "space",
            format!(
                "{} in use, {} could be won by `kissdb compact`",
                out::bytes(used),
                out::bytes(wasted)
            ),
        )?;
    }
    match &users[..] {
        [] if report.in_use => row("users", "some that can't be seen from here".into())?,
        [] => row("users", "none".into())?,
        users => {
            for u in users {
                row("users", shm::user_text(u))?;
            }
        }
    }
    if damage + faults > 0 {
        let text = format!(
            "{}, {}; see `kissdb check {}`",
            out::count(damage, "damage"),
            out::count(faults, "fault"),
            path.display()
        );
        row("findings", console::style(text).red().to_string())?;
    }
    Ok(status)
}

fn mended(f: &Finding) -> &'static str {
    match f.rule.mended() {
        Mended::Yes => "repair mends it",
        Mended::Lost => "repair tidies up, the value is lost",
        Mended::No => "repair can't mend it",
    }
}

fn weight(rule: Rule) -> &'static str {
    match rule.weight() {
        Weight::Damage => "damage",
        Weight::Fault => "fault",
        Weight::Note => "note",
    }
}

pub fn finding_json(f: &Finding) -> Value {
    let mut o = Map::new();
    o.insert("offset".into(), json!(f.offset));
    o.insert("weight".into(), json!(weight(f.rule)));
    o.insert("rule".into(), json!(f.rule.name()));
    if let Some(key) = &f.key {
        out::put_bytes(&mut o, "key", key);
    }
    o.insert("meaning".into(), json!(f.detail));
    o.insert(
        "repair".into(),
        json!(match f.rule.mended() {
            Mended::Yes => "mends",
            Mended::Lost => "loses",
            Mended::No => "no",
        }),
    );
    Value::Object(o)
}

pub fn finding_text(f: &Finding) -> String {
    let tag = format!("{:<6}", weight(f.rule));
    let tag = match f.rule.weight() {
        Weight::Damage => console::style(tag).red(),
        Weight::Fault => console::style(tag).yellow(),
        Weight::Note => console::style(tag).dim(),
    };
    let key = f.key.as_ref().map_or(String::new(), |k| {
        format!("{}: ", console::style(out::text(k)).cyan())
    });
    format!(
        "{:#010x} {tag} {key}{} ({}) {}",
        f.offset,
        f.detail,
        mended(f),
        console::style(format!("[{}]", f.rule.name())).dim()
    )
}

pub fn check(a: &Check, out: &mut Out) -> Result<Status> {
    let report = survey(&a.db.file)?;
    let notes = report
        .findings
        .iter()
        .filter(|f| f.rule.weight() == Weight::Note);
    let notes = notes.count() as u64;
    let bad = report.findings.len() as u64 - notes;
    let status = if bad == 0 {
        Status::Fine
    } else {
        Status::Found
    };
    if a.quiet {
        return Ok(status);
    }
    if out.json {
        let findings: Vec<Value> = report.findings.iter().map(finding_json).collect();
        out.object(&json!({
            "file": a.db.file.display().to_string(),
            "in_use": report.in_use,
            "unsure": report.unsure,
            "state": state(&report),
            "findings": findings,
        }))?;
        return Ok(status);
    }
    if report.unsure {
        crate::out::complain!(
            "kissdb: {}: its users can't be asked to pause (run this as its owner or as root): what they change meanwhile may show as a finding",
            a.db.file.display()
        );
    }
    for f in &report.findings {
        if a.notes || f.rule.weight() != Weight::Note {
            out.line(finding_text(f))?;
        }
    }
    let mut summary = match bad {
        0 => console::style(format!("{}: fine", a.db.file.display()))
            .green()
            .to_string(),
        _ => format!("{}: {}", a.db.file.display(), out::count(bad, "finding")),
    };
    summary += &format!(", {}", out::count(report.live, "key"));
    if report.in_use {
        summary += ", in use";
    }
    if notes > 0 && !a.notes {
        summary += &format!("; {}, see --notes", out::count(notes, "note"));
    }
    out.line(summary)?;
    Ok(status)
}
