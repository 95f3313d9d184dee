//! repair: by the library's own recovery, on a copy, which takes the place of the file only if it is better.

use crate::args::Repair;
use crate::check::{finding_json, finding_text, survey};
use crate::data::open_to_read;
use crate::fail::{About, Result, Status, said};
use crate::newfile::{NewFile, in_use, place_of, taken};
use crate::out::{self, Out};
use crate::progress::Progress;
use kissdb::OpenOptions;
use kissdb::engine::Snapshot;
use kissdb::format::Sizes;
use kissdb::format::header::{self, Header};
use kissdb::inspect::{Finding, Mended, Report, Rule, Weight};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub fn repair(a: &Repair, out: &mut Out) -> Result<Status> {
    let path = &a.db.file;
    if let Some(new) = &a.output
        && new.symlink_metadata().is_ok()
    {
        return Err(taken(new));
    }
    let before = survey(path)?;
    if before.in_use {
        return in_use(path);
    }
    let bad = |r: &Report| r.findings.iter().any(|f| f.rule.weight() > Weight::Note);
    if !bad(&before) {
        if a.output.is_some() {
            return said(format!(
                "{0}: nothing to repair; `kissdb copy {0}` copies it",
                path.display()
            ));
        }
        return tell(out, path, None, None, &[], &[], &before);
    }
    let asked = a.kind.map(|k| Sizes {
        slots: k.0,
        key: k.1,
        value: k.2,
    });
    let Some(sizes) = before.sizes.or(asked).or_else(|| cut_off(path)) else {
        let why = before
            .findings
            .first()
            .map_or(String::new(), |f| f.detail.clone());
        return said(format!(
            "{}: can't be repaired: {why}; if you know its sizes, give them with --kind",
            path.display()
        ));
    };
    let (place, meta) = place_of(path)?;
    let new = NewFile::beside(a.output.as_deref().unwrap_or(&place))?;
    make_good(path, &new, sizes)?;

    // Everything that could be read must be there afterwards.
    let mut opened = open_to_read(path).ok();
    let read = match opened.as_mut() {
        Some(db) => {
            let mut progress = Progress::new("reading");
            db.snapshot(|done, all| progress.at(done, all)).ok()
        }
        None => None,
    };
    let mut repaired = open_to_read(new.path())?;
    let (after, report) = {
        let mut progress = Progress::new("comparing");
        let after = repaired
            .snapshot(|done, all| progress.at(done, all))
            .about(path)?;
        drop(progress);
        repaired.close().about(path)?;
        (after, survey(new.path())?)
    };
    let (found, missing) = compare(read.as_ref(), &after);
    if !missing.is_empty() {
        return said(format!(
            "{}: not repaired: {} would be gone or have another value, the first is {}; `kissdb dump` saves what there is",
            path.display(),
            out::count(missing.len() as u64, "key"),
            out::text(&missing[0])
        ));
    }
    if report
        .findings
        .iter()
        .any(|f| f.rule.weight() == Weight::Damage)
    {
        return said(format!(
            "{}: not repaired: the result would be damaged, too; `kissdb dump` saves what there is",
            path.display()
        ));
    }
    let entries = after.entries();
    let lost: Vec<&Finding> = before
        .findings
        .iter()
        .filter(|f| f.rule.mended() == Mended::Lost)
        .filter(|f| f.key.as_ref().is_none_or(|k| !entries.contains_key(&k[..])))
        .collect();
    new.rights_of(&meta)
        .or_else(|e| if a.output.is_some() { Ok(()) } else { Err(e) })?;
    let kept = match &a.output {
        Some(_) => {
            new.put(false)?;
            None
        }
        None => Some(replace(&new, &place, opened.zip(read))?),
    };
    tell(
        out,
        a.output.as_deref().unwrap_or(path),
        kept.as_deref(),
        Some(&before),
        &found,
        &lost,
        &report,
    )
}

/// The sizes of a database whose creation was cut off, if it got that far.
fn cut_off(path: &Path) -> Option<Sizes> {
    let short = fs::metadata(path).is_ok_and(|m| m.len() <= header::SIZE as u64);
    let bytes = short.then(|| fs::read(path).ok()).flatten()?;
    Header::cut_off(&bytes).ok().flatten()
}

/// Makes `new` a copy of the file with a good header, then recovers it.
fn make_good(path: &Path, new: &NewFile, sizes: Sizes) -> Result<()> {
    fs::copy(path, new.path()).about(path)?;
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    fs::set_permissions(new.path(), mode).about(path)?;
    let mut header = Header { sizes, clean: true }.bytes();
    // The flags stay, whatever they are: recovery goes by them.
    let flags = header::CLOSE_FAILED as usize..header::CLOSE_FAILED as usize + 16;
    let file = File::options()
        .read(true)
        .write(true)
        .open(new.path())
        .about(path)?;
    if file.metadata().about(path)?.len() >= header.len() as u64 {
        file.read_exact_at(&mut header[flags], header::CLOSE_FAILED)
            .about(path)?;
    }
    file.write_all_at(&header, 0).about(path)?;
    drop(file);
    let mut db = OpenOptions::new().open(new.path()).about(path)?;
    db.rebuild().about(path)?;
    db.close().about(path)
}

/// Keys that are there only now, and keys that are not there any more or have another value.
fn compare(before: Option<&Snapshot>, after: &Snapshot) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let old = before.map_or_else(BTreeMap::new, Snapshot::entries);
    let now = after.entries();
    let found = now.keys().filter(|k| !old.contains_key(*k));
    let missing = old.iter().filter(|(k, v)| now.get(*k) != Some(*v));
    (
        found.map(|k| k.to_vec()).collect(),
        missing.map(|(k, _)| k.to_vec()).collect(),
    )
}

/// Puts the repaired file in the place of the damaged one, which keeps its bytes under another name.
fn replace(
    new: &NewFile,
    place: &Path,
    opened: Option<(kissdb::Database, Snapshot)>,
) -> Result<PathBuf> {
    let mut kept = PathBuf::new();
    let mut keep = || -> io::Result<()> {
        for n in 1.. {
            let mut name = place.as_os_str().to_owned();
            name.push(".before-repair");
            if n > 1 {
                name.push(format!(".{n}"));
            }
            kept = name.into();
            match fs::hard_link(place, &kept) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                // A file system without hard links.
                Err(_) => {
                    let mut to = match File::create_new(&kept) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                        r => r?,
                    };
                    io::copy(&mut File::open(place)?, &mut to)?;
                    return to.sync_all();
                }
                Ok(()) => return Ok(()),
            }
        }
        Ok(())
    };
    match opened {
        Some((mut db, mut snapshot)) => {
            if !new.replace(&mut db, &mut snapshot, keep)? {
                return said(format!(
                    "{}: somebody changed it meanwhile; repeat when nobody uses it",
                    place.display()
                ));
            }
        }
        None => new.replace_unopened(&mut keep)?,
    }
    Ok(kept)
}

fn tell(
    out: &mut Out,
    path: &Path,
    kept: Option<&Path>,
    before: Option<&Report>,
    found: &[Vec<u8>],
    lost: &[&Finding],
    after: &Report,
) -> Result<Status> {
    let status = if lost.is_empty() {
        Status::Fine
    } else {
        Status::Found
    };
    if out.json {
        let keys = |keys: &[Vec<u8>]| -> Vec<Value> {
            let object = |k: &Vec<u8>| {
                let mut o = Map::new();
                out::put_bytes(&mut o, "key", k);
                Value::Object(o)
            };
            keys.iter().map(object).collect()
        };
        out.object(&json!({
            "file": path.display().to_string(),
            "repaired": before.is_some(),
            "kept": kept.map(|k| k.display().to_string()),
            "keys": after.live,
            "found_again": keys(found),
            "lost": lost.iter().map(|f| finding_json(f)).collect::<Vec<_>>(),
        }))?;
        return Ok(status);
    }
    let Some(before) = before else {
        out.line(format!(
            "{}: nothing to repair, {}",
            path.display(),
            out::count(after.live, "key")
        ))?;
        return Ok(status);
    };
    for f in before
        .findings
        .iter()
        .filter(|f| f.rule.weight() > Weight::Note)
    {
        out.line(finding_text(f))?;
    }
    for key in found {
        out.line(format!(
            "{} {}",
            console::style("found again").green(),
            out::text(key)
        ))?;
    }
    for f in lost {
        let key = match &f.key {
            Some(key) => out::text(key),
            None if f.rule == Rule::TableBehindEnd => "a table and the keys in it".into(),
            None => "a record whose key can't be read".into(),
        };
        out.line(format!(
            "{} {key}: {}",
            console::style("lost").red(),
            f.detail
        ))?;
    }
    out.line(format!(
        "{}: repaired, {}, {}",
        path.display(),
        out::count(after.live, "key"),
        match lost.len() {
            0 => "nothing lost".into(),
            n => format!("{n} lost"),
        }
    ))?;
    if let Some(kept) = kept {
        out.line(format!("the damaged file is kept as {}", kept.display()))?;
    }
    Ok(status)
}
