//! Finding or making what a handle needs: the file, its header, the shared object.

use super::{Mode, Request, own_flags};
use crate::error::{Error, Result};
use crate::format::Sizes;
use crate::format::header::{self, Header};
use crate::sys::file::{self, File, Ident, Owner};
use crate::sys::names;
use crate::sys::shm::{Opened, Shm};
use std::sync::Arc;
use std::time::Duration;

/// Holds a lock of the shared object and gives it back, also when a call panics.
pub(super) struct Held {
    shm: Arc<Shm>,
    ticket: u32,
    gate: bool,
}

impl Held {
    pub(super) fn gate(shm: &Arc<Shm>, me: u32) -> Self {
        let ticket = shm.users().ticket(me);
        shm.gate()
            .lock(ticket, |t, ask| t == ticket || shm.users().holds(t, ask));
        Self::gate_held(shm, me)
    }

    /// The gate, which is held already.
    fn gate_held(shm: &Arc<Shm>, me: u32) -> Self {
        Self {
            shm: shm.clone(),
            ticket: shm.users().ticket(me),
            gate: true,
        }
    }

    pub(super) fn engine(shm: &Arc<Shm>, me: u32) -> Self {
        let ticket = shm.users().ticket(me);
        shm.engine()
            .lock(ticket, |t, ask| t == ticket || shm.users().holds(t, ask));
        Self {
            shm: shm.clone(),
            ticket,
            gate: false,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let lock = if self.gate {
            self.shm.gate()
        } else {
            self.shm.engine()
        };
        lock.unlock(self.ticket);
    }
}

/// Opens or makes the file; whether it was made.
pub(super) fn open_file(request: &Request) -> Result<(File, bool)> {
    let writable = request.mode != Mode::ReadOnly;
    let mut path = request.path.to_owned();
    for _ in 0..ATTEMPTS {
        match File::open(&path, writable) {
            Ok(f) => return Ok((f, false)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && request.mode >= Mode::Create => {
                new_sizes(request)?;
                match File::create(&path) {
                    Ok(f) => return Ok((f, true)),
                    // Somebody was faster, or a link leads to where nothing is yet.
                    Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                        path = names::link_target(&path).unwrap_or(path);
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Err(std::io::Error::from_raw_os_error(libc::ELOOP).into())
}

/// A file that comes and goes is tried so often, and so many links are followed.
const ATTEMPTS: u32 = 100;

pub(super) fn new_sizes(request: &Request) -> Result<Sizes> {
    let (slots, key, value) = request.sizes;
    Sizes::new(slots, key, value).ok_or(Error::Invalid("sizes of a new database"))
}

/// Sees to it that the file has a header.
pub(super) fn prepare_header(request: &Request, file: &File, created: bool) -> Result<()> {
    let mut bytes = [0; header::SIZE];
    let n = file.read_start(&mut bytes)?;
    let whole = n == header::SIZE && (file.len()? > n as u64 || bytes.iter().any(|&b| b != 0));
    if whole && request.mode != Mode::Replace {
        Header::parse(&bytes)?;
        if !created {
            return Ok(());
        }
    } else {
        let sizes = if request.mode == Mode::Replace {
            new_sizes(request)?
        } else {
            match Header::cut_off(&bytes[..n])? {
                _ if request.mode == Mode::ReadOnly => {
                    return Err(std::io::Error::from_raw_os_error(libc::ENODATA).into());
                }
                Some(sizes) => sizes,
                None => new_sizes(request)?,
            }
        };
        file.replace(&Header { sizes, clean: true }.bytes())?;
    }
    // Who made the file may have died before this, or somebody else was faster with the header; who has not made it may not be
    // allowed to read its directory.
    match file::sync_directory_of(request.path) {
        Err(e) if created || e.kind() != std::io::ErrorKind::PermissionDenied => Err(e.into()),
        _ => Ok(()),
    }
}

/// An object for this reader alone, who may not write the file: an object that he has made would be of
/// no use to writers, and in their way.
fn beside(
    request: &Request,
    file: &File,
    ident: Ident,
    owner: Owner,
) -> Result<(Arc<Shm>, u32, Held)> {
    let (stem, flags) = (request.path.to_bytes(), own_flags(request));
    let shm = Shm::create(None, stem, ident, owner, flags)?;
    let shm = Arc::new(shm.ok_or(Error::Access("no object for a reader"))?);
    let _ = file.lock_as_user();
    let gate = Held::gate_held(&shm, 0);
    Ok((shm, 0, gate))
}

/// Finds or makes the shared object of the file; answers it with our user record, the gate held.
pub(super) fn join(request: &Request, file: &File, owner: Owner) -> Result<(Arc<Shm>, u32, Held)> {
    let ident = file.ident()?;
    let flags = own_flags(request);
    let reads_only = request.mode == Mode::ReadOnly;
    if reads_only && !owner.lets_write(request.path) {
        return beside(request, file, ident, owner);
    }
    let mut stem = request.path.to_bytes().to_vec();
    let mut plain = true;
    // Who has the file open, but no object that can be found, is about to close it, or out of reach.
    for _ in 0..500 {
        let name = names::shm_name(names::INFO, &stem);
        let mut found = match Shm::open(&name, ident, owner) {
            Err(Error::OpenShm(e)) if e.raw_os_error() == Some(libc::EACCES) => {
                if reads_only {
                    return beside(request, file, ident, owner);
                }
                // Who may write this file may open its object.
                Opened::NotOurs
            }
            found => found?,
        };
        if matches!(found, Opened::NotOurs) {
            if !plain {
                return Err(Error::OpenShm(std::io::Error::from_raw_os_error(
                    libc::EEXIST,
                )));
            }
            plain = false;
            stem = names::other_stem(request.path.to_bytes(), ident.dev, ident.ino);
            continue;
        }
        if matches!(found, Opened::Absent) && file.has_other_users().unwrap_or(false) {
            match Shm::find(ident, owner, None) {
                Some(shm) => {
                    shm.add_name(&name);
                    found = Opened::Ours(shm);
                }
                // Of somebody who can only read nothing has to be known: and he may hold his lock
                // for as long as he likes.
                None if file.has_other_writers().unwrap_or(true) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                None => {}
            }
        }
        if let Opened::Ours(shm) = found {
            let shm = Arc::new(shm);
            // A leftover's records are in the way of nobody: the dead hold no locks.
            let me = shm.claim(flags)?;
            let gate = Held::gate(&shm, me);
            if !shm.is_retired() {
                let _ = file.lock_as_user();
                return Ok((shm, me, gate));
            }
            // Its last user died between the two steps of removing it, or is about to end them, or
            // may not remove it.
            shm.retire();
            if shm.has_name() {
                shm.revive();
                let _ = file.lock_as_user();
                return Ok((shm, me, gate));
            }
            drop(gate);
            shm.users().release(me);
            continue;
        }
        if let Some(shm) = Shm::create(Some(&name), &stem, ident, owner, flags)? {
            // Where a file system has no locks a second path of the file is not recognised.
            let _ = file.lock_as_user();
            let shm = Arc::new(shm);
            let gate = Held::gate_held(&shm, 0);
            // Somebody may have made one under another path at the same time. Of two at least one
            // sees the other and gives way.
            let rival = file.has_other_users().unwrap_or(false)
                && Shm::find(ident, owner, Some(shm.number())).is_some();
            if !rival {
                return Ok((shm, 0, gate));
            }
            file.unlock_as_user();
            shm.retire();
        }
    }
    Err(Error::Access("in use under another name"))
}
