//! Messages for DLT, the log of GENIVI systems. Only with the feature `dlt`.
//!
//! The context is registered at the first message, never earlier: libdlt does nothing in a child of
//! a process that has used it before the fork, and what it would need is made again after an exec.

use super::published::Published;
use crate::log::Level;
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int};

const ID: &CStr = c"KDB";
const DESCRIPTION: &CStr = c"kissdb: recovery and damage of databases";

/// `DltContext`, of which only libdlt knows the fields: 32 bytes, with room for newer versions.
#[repr(C, align(16))]
struct Fields([u8; 256]);

#[link(name = "dlt")]
unsafe extern "C" {
    fn dlt_get_appid(appid: *mut c_char) -> c_int;
    fn dlt_register_app(apid: *const c_char, description: *const c_char) -> c_int;
    fn dlt_register_context(
        handle: *mut Fields,
        contextid: *const c_char,
        description: *const c_char,
    ) -> c_int;
    fn dlt_log_string(handle: *mut Fields, loglevel: c_int, text: *const c_char) -> c_int;
}

struct Context(UnsafeCell<Fields>);

// SAFETY: only libdlt touches the fields, and it may be called from any thread.
unsafe impl Sync for Context {}

static CONTEXT: Published<Box<Context>> = Published::new();

fn context() -> Option<&'static Context> {
    if let Some(c) = CONTEXT.get() {
        return Some(c);
    }
    // A program that uses DLT itself has registered by now; any other has no log without this.
    let mut app = [0; 8];
    // SAFETY: writes 4 bytes.
    let known = unsafe { dlt_get_appid(app.as_mut_ptr()) } == 0 && app[0] != 0;
    // SAFETY: C strings.
    if !known && unsafe { dlt_register_app(ID.as_ptr(), DESCRIPTION.as_ptr()) } != 0 {
        return None;
    }
    let c = Box::new(Context(UnsafeCell::new(Fields([0; 256]))));
    // SAFETY: room for a context that stays where it is, and C strings.
    if unsafe { dlt_register_context(c.0.get(), ID.as_ptr(), DESCRIPTION.as_ptr()) } != 0 {
        return None;
    }
    // Two threads may do this at the same time: libdlt knows the context by its name.
    CONTEXT.set(Some(c));
    CONTEXT.get().map(|c| &**c)
}

/// Sends a message. It is kept by libdlt until there is a daemon.
pub fn send(level: Level, text: &str) {
    let level = match level {
        Level::Error => 2,
        Level::Warning => 3,
        Level::Info => 4,
    };
    if let (Some(c), Ok(text)) = (context(), CString::new(text)) {
        // SAFETY: a registered context and a C string.
        unsafe { dlt_log_string(c.0.get(), level, text.as_ptr()) };
    }
}
