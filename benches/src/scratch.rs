//! A run leaves nothing behind, also when a worker fails, is killed, or the run is interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Result, ensure};

use crate::engines::shared_name;

/// A directory for databases. Goes away with all that is in it, and with what databases in it have left in /dev/shm.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed stays: a measurement is not lost for that.
        let _ = fs::remove_dir_all(&self.0);
        let own = shared_name(&self.0) + "_";
        for object in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = object.file_name();
            let name = name.to_string_lossy();
            if name.strip_prefix("sem.").unwrap_or(&name).starts_with(&own) {
                let _ = fs::remove_file(object.path());
            }
        }
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    INTERRUPTED.store(true, Relaxed);
}

/// From now on the first of these signals does not end the process, [`go_on`] does.
pub fn note_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is a whole one, and the handler only stores into an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// # Errors
/// The run was interrupted.
pub fn go_on() -> Result<()> {
    ensure!(!INTERRUPTED.load(Relaxed), "interrupted");
    Ok(())
}
