//! shm: the shared objects under /dev/shm.

use crate::args::Shm;
use crate::fail::{Result, Status, said};
use crate::out::{self, Out};
use kissdb::shared::{self, Role, Shared, User};
use serde_json::{Value, json};
use std::path::Path;

/// The name of a process's program, where it can be seen.
fn command(pid: u32) -> Option<String> {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(out::text(comm.trim_ascii_end()))
}

/// The living users of a file but for this process.
pub fn users_of(path: &Path) -> Vec<User> {
    shared::list()
        .into_iter()
        .filter(|s| s.is_of(path))
        .flat_map(|s| s.users)
        .filter(|u| u.alive && u.pid != std::process::id())
        .collect()
}

pub fn user_text(u: &User) -> String {
    let name = match (u.alive, command(u.pid)) {
        (false, _) => console::style("dead").red().to_string(),
        (true, Some(name)) => name,
        (true, None) => "?".into(),
    };
    let mut more = vec![if u.writes {
        "reads and writes"
    } else {
        "reads"
    }];
    if u.with_semaphore {
        more.push("with semaphore");
    }
    if u.moving {
        more.push("inside open or close");
    }
    format!("{} {name}, {}", u.pid, more.join(", "))
}

pub fn user_json(u: &User) -> Value {
    json!({
        "pid": u.pid,
        "command": command(u.pid).filter(|_| u.alive),
        "alive": u.alive,
        "writes": u.writes,
        "with_semaphore": u.with_semaphore,
        "moving": u.moving,
    })
}

fn role(r: Role) -> &'static str {
    match r {
        Role::Info => "users and locks",
        Role::Tables => "tables",
        Role::Cache => "callers' cache",
        Role::Semaphore => "callers' semaphore",
    }
}

fn state(s: &Shared) -> &'static str {
    match (&s.file, s.is_used(), s.cached) {
        (None, _, _) => "unknown",
        (_, true, _) => "in use",
        (_, false, true) => "left behind, with cached changes that the next opener writes",
        (_, false, false) => "left behind",
    }
}

pub fn shm(a: &Shm, out: &mut Out) -> Result<Status> {
    let all: Vec<Shared> = shared::list()
        .into_iter()
        .filter(|s| a.file.as_ref().is_none_or(|f| s.is_of(f)))
        .collect();
    let mut status = Status::Fine;
    let mut stay = Vec::new();
    for s in &all {
        let cleaned = a.clean.then(|| s.clean());
        if let Some(Err(why)) = &cleaned
            && !s.is_used()
        {
            let name = s.objects.first().map(|o| o.path.display().to_string());
            stay.push(format!("{}: stays: {why}", name.unwrap_or_default()));
            status = Status::Found;
        }
        let removed = matches!(cleaned, Some(Ok(())));
        if out.json {
            out.object(&object(s, removed))?;
        } else {
            show(s, removed, out)?;
        }
    }
    if all.is_empty() && !out.json {
        crate::out::complain!(
            "kissdb: no shared objects{}",
            match &a.file {
                Some(f) => format!(" of {}: nobody has it open", f.display()),
                None => String::new(),
            }
        );
    }
    for line in stay {
        crate::out::complain!("kissdb: {line}");
    }
    if a.file.as_ref().is_some_and(|f| !f.exists()) && all.is_empty() {
        return said(format!(
            "{}: no such file, and no objects of it",
            a.file
                .as_ref()
                .map_or(String::new(), |f| f.display().to_string())
        ));
    }
    Ok(status)
}

fn object(s: &Shared, removed: bool) -> Value {
    json!({
        "file": s.file.as_ref().map(|f| f.display().to_string()),
        "device": s.ident.0,
        "inode": s.ident.1,
        "state": state(s),
        "removed": removed,
        "users": s.users.iter().map(user_json).collect::<Vec<_>>(),
        "locks": s.locks.iter().map(|l| json!({
            "name": l.name,
            "pid": l.holder.map(|u| u.pid),
            "alive": l.holder.map(|u| u.alive),
        })).collect::<Vec<_>>(),
        "ref_count": s.ref_count,
        "cached": s.cached,
        "objects": s.objects.iter().map(|o| json!({
            "path": o.path.display().to_string(),
            "role": role(o.role),
            "length": o.len,
            "uid": o.uid,
            "gid": o.gid,
            "mode": format!("{:04o}", o.mode),
            "value": o.value,
        })).collect::<Vec<_>>(),
    })
}

fn show(s: &Shared, removed: bool, out: &mut Out) -> Result<()> {
    let Some(file) = &s.file else {
        let names = s.objects.iter().filter(|o| o.role == Role::Info);
        for o in names {
            out.line(format!(
                "{}: not of this library, or may not be read",
                console::style(o.path.display()).bold()
            ))?;
        }
        return Ok(());
    };
    let title = out::text(file.as_os_str().as_encoded_bytes());
    let gone =
        s.file.is_some() && std::fs::metadata(s.file.as_deref().unwrap_or("".as_ref())).is_err();
    let mut state = state(s).to_string();
    if gone {
        state += ", the file is gone or was given relative to another directory";
    }
    if removed {
        state += ", removed";
    }
    out.line(format!("{}: {state}", console::style(title).bold()))?;
    for u in &s.users {
        out.line(format!("  user  {}", user_text(u)))?;
    }
    for l in &s.locks {
        let Some(u) = l.holder else { continue };
        let free = if u.alive {
            ""
        } else {
            ", who is dead: the next one takes it"
        };
        out.line(format!("  lock  {} held by {}{free}", l.name, u.pid))?;
    }
    if s.ref_count > 0 {
        out.line(format!("  count {} by the callers", s.ref_count))?;
    }
    for o in &s.objects {
        let value = o.value.map_or(String::new(), |v| format!(", value {v}"));
        out.line(format!(
            "  file  {} {:04o} {}:{} {}, {}{value}",
            o.path.display(),
            o.mode,
            o.uid,
            o.gid,
            out::bytes(o.len),
            role(o.role)
        ))?;
    }
    Ok(())
}
