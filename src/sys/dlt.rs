//! Messages for DLT, the log of GENIVI systems. Only with the feature `dlt`.
//!
//! The context is registered at the first message of a process, and once more by a fork child that
//! has a message: what libdlt made in the parent does not work there.

use super::current::Current;
use super::fork;
use crate::log::Level;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_int};

const CONTEXT: &std::ffi::CStr = c"KDB";
const DESCRIPTION: &std::ffi::CStr = c"kissdb: recovery and damage of databases";

/// `DltContext`, of which only libdlt knows the fields: 32 bytes, with room for newer versions.
#[repr(C, align(16))]
struct Context([u8; 256]);

#[link(name = "dlt")]
unsafe extern "C" {
    fn dlt_get_appid(appid: *mut c_char) -> c_int;
    fn dlt_register_app(apid: *const c_char, description: *const c_char) -> c_int;
    fn dlt_register_context(
        handle: *mut Context,
        contextid: *const c_char,
        description: *const c_char,
    ) -> c_int;
    fn dlt_log_string(handle: *mut Context, loglevel: c_int, text: *const c_char) -> c_int;
}

struct Registered {
    /// See [`fork::generation`].
    process: u64,
    context: UnsafeCell<Context>,
}

// SAFETY: only libdlt touches the context, which it allows from any thread.
unsafe impl Sync for Registered {}

static REGISTERED: Current<Box<Registered>> = Current::new();

fn registered() -> Option<&'static Registered> {
    let process = fork::generation();
    if let Some(r) = REGISTERED.get().filter(|r| r.process == process) {
        return Some(&**r);
    }
    // The program's own registration comes first; without one there would be no log.
    let mut app = [0; 8];
    // SAFETY: writes 4 bytes.
    let known = unsafe { dlt_get_appid(app.as_mut_ptr()) } == 0 && app[0] != 0;
    // SAFETY: C strings.
    if !known && unsafe { dlt_register_app(CONTEXT.as_ptr(), DESCRIPTION.as_ptr()) } != 0 {
        return None;
    }
    let r = Box::new(Registered {
        process,
        context: UnsafeCell::new(Context([0; 256])),
    });
    // SAFETY: room for a context that stays where it is, and C strings.
    let done =
        unsafe { dlt_register_context(r.context.get(), CONTEXT.as_ptr(), DESCRIPTION.as_ptr()) };
    if done != 0 {
        return None;
    }
    // Two threads may do this at the same time: libdlt knows the context by its name.
    REGISTERED.set(r);
    REGISTERED.get().map(|r| &**r)
}

/// Sends a message. Nothing happens without a daemon.
pub fn send(level: Level, text: &str) {
    let level = match level {
        Level::Error => 2,
        Level::Warning => 3,
        Level::Info => 4,
    };
    if let (Some(r), Ok(text)) = (registered(), CString::new(text)) {
        // SAFETY: a registered context and a C string.
        unsafe { dlt_log_string(r.context.get(), level, text.as_ptr()) };
    }
}
