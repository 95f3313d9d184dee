//! Ctrl-C and the like: what was begun is undone first. The second time the command ends at once.

use crate::fail::{Result, said};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on somebody asks [`check`].
pub fn watch() {
    CAME.get_or_init(|| {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the second one finds the flag set. Where it can't be, the first one ends it.
            if flag::register_conditional_default(signal, came.clone()).is_ok() {
                let _ = flag::register(signal, came.clone());
            }
        }
        came
    });
}

/// Whether a signal came.
pub fn came() -> bool {
    CAME.get().is_some_and(|c| c.load(Relaxed))
}

/// An error if a signal came.
pub fn check() -> Result<()> {
    match came() {
        true => said("interrupted; nothing was changed"),
        false => Ok(()),
    }
}
