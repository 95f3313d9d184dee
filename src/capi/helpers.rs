//! Helpers that callers link besides the database functions.
#![allow(non_camel_case_types, non_snake_case)]

use super::handles;
use super::types::*;
use super::{guard, memory};
use crate::format::checksum;
use crate::log::{self, Level};
use crate::sys::{callers, names, sem};
use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr;

/// Bytes of the buffer that checkIsLink fills.
const LINK_BUFFER: usize = 256;

/// A NUL-terminated copy in malloc memory; NULL without memory.
pub(super) fn malloc_name(name: &[u8]) -> *mut c_char {
    // SAFETY: a plain allocation.
    let p: *mut u8 = unsafe { libc::malloc(name.len() + 1) }.cast();
    if !p.is_null() {
        // SAFETY: just allocated, one byte longer than the name.
        unsafe {
            ptr::copy_nonoverlapping(name.as_ptr(), p, name.len());
            p.add(name.len()).write(0);
        }
    }
    p.cast()
}

/// The name of a shared object: `/`, the path with every byte that is no ASCII letter or digit
/// replaced by `_`, and `tail` ("-shm-info", "-ht", "-cache", "-sem").
///
/// Answers malloc memory, which the caller frees; NULL if an argument is NULL or without memory.
/// Asked for "-sem", which callers do right before they wait for that semaphore, it waits itself as
/// long as the semaphore is taken by somebody alive (3 s at most), and posts it if its holder died.
///
/// # Safety
/// `tail` and `path` are C strings or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdbGetShmName(tail: *const c_char, path: *const c_char) -> *mut c_char {
    guard(ptr::null_mut(), || {
        if tail.is_null() || path.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        let (tail, path) = unsafe { (CStr::from_ptr(tail), CStr::from_ptr(path)) };
        if tail.to_bytes() == names::SEM {
            sem::rescue_before_wait(path);
        }
        malloc_name(&names::shm_name(tail.to_bytes(), path.to_bytes()))
    })
}

/// Opens a shared object of `length` bytes, and makes it if there is none.
///
/// `shmCreator`: receives Kdb_true if it was made now. Answers its descriptor, which the caller
/// closes with kdbShmemClose; -1 on an error.
///
/// # Safety
/// `name` is a C string, `shmCreator` points to a Kdb_bool; NULL is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdbShmemOpen(
    name: *const c_char,
    length: usize,
    shmCreator: *mut Kdb_bool,
) -> c_int {
    guard(-1, || {
        if name.is_null() || shmCreator.is_null() {
            return -1;
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) };
        let owner = handles::owner_of(name.to_bytes());
        match callers::open_object(name, length, owner) {
            Ok((fd, made)) => {
                // SAFETY: the caller's promise.
                unsafe { shmCreator.write(if made { Kdb_true } else { Kdb_false }) };
                fd
            }
            Err(e) => {
                crate::sys::set_errno(e.raw_os_error().unwrap_or(libc::EIO));
                -1
            }
        }
    })
}

/// Maps `length` bytes of a shared object for reading and writing; (void*)-1 on an error.
///
/// # Safety
/// `shmem` is a descriptor of kdbShmemOpen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getKdbShmemPtr(shmem: c_int, length: usize) -> *mut c_void {
    callers::map(shmem, length)
}

/// Unmaps what getKdbShmemPtr answered. Kdb_true or Kdb_false.
///
/// # Safety
/// `shmem_ptr` and `length` are those of a getKdbShmemPtr, and nobody uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn freeKdbShmemPtr(shmem_ptr: *mut c_void, length: usize) -> Kdb_bool {
    // SAFETY: the caller's promise.
    if unsafe { callers::unmap(shmem_ptr, length) } {
        Kdb_true
    } else {
        Kdb_false
    }
}

/// Closes a shared object and removes its name. Kdb_true or Kdb_false.
///
/// # Safety
/// `shmem` is a descriptor of kdbShmemOpen that is not used afterwards; `shmName` is its name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdbShmemClose(shmem: c_int, shmName: *const c_char) -> Kdb_bool {
    guard(Kdb_false, || {
        if shmName.is_null() {
            return Kdb_false;
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(shmName) };
        // SAFETY: the caller's promise.
        if unsafe { callers::close_object(shmem, name) } {
            Kdb_true
        } else {
            Kdb_false
        }
    })
}

/// Takes the lock for writing. For shared->rwlock of an open database a dead owner is found out and
/// the lock taken from it; any other lock is treated as a plain pthread_rwlock_t.
///
/// # Safety
/// `lock` is NULL, shared->rwlock of an open database, or an initialised pthread_rwlock_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn Kdb_wrlock(lock: *mut libc::pthread_rwlock_t) {
    guard((), || {
        if lock.is_null() {
            return;
        }
        match by_lock(lock) {
            Some(handle) => drop(handle.map(|h| h.lock.write())),
            // SAFETY: the caller's promise.
            None => drop(unsafe { libc::pthread_rwlock_wrlock(lock) }),
        }
    });
}

/// Takes the lock for reading, like Kdb_wrlock.
///
/// # Safety
/// As Kdb_wrlock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn Kdb_rdlock(lock: *mut libc::pthread_rwlock_t) {
    guard((), || {
        if lock.is_null() {
            return;
        }
        match by_lock(lock) {
            Some(handle) => drop(handle.map(|h| h.lock.read())),
            // SAFETY: the caller's promise.
            None => drop(unsafe { libc::pthread_rwlock_rdlock(lock) }),
        }
    });
}

/// Gives the lock back.
///
/// # Safety
/// As Kdb_wrlock; the caller holds the lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn Kdb_unlock(lock: *mut libc::pthread_rwlock_t) {
    guard((), || {
        if lock.is_null() {
            return;
        }
        match by_lock(lock) {
            Some(handle) => drop(handle.map(|h| h.lock.unlock())),
            // SAFETY: the caller's promise.
            None => drop(unsafe { libc::pthread_rwlock_unlock(lock) }),
        }
    });
}

/// The open database whose shared->rwlock this is; `Some(None)` if it can't be used here.
fn by_lock(lock: *mut libc::pthread_rwlock_t) -> Option<Option<handles::Inside>> {
    let offset = std::mem::offset_of!(Shared_Data_s, rwlock);
    handles::enter_by_shared((lock as usize).checked_sub(offset)?)
}

/// Whether the directory part of `path` is a symbolic link: 1, and the path with the link resolved
/// in `linkBuffer` (256 bytes); else, or if the answer is too long, -1.
///
/// # Safety
/// `path` is a C string or NULL, `linkBuffer` has 256 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkIsLink(path: *const c_char, linkBuffer: *mut c_char) -> c_int {
    guard(-1, || {
        if path.is_null() || linkBuffer.is_null() {
            return -1;
        }
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) };
        match names::resolve_link(path.to_bytes()) {
            Some(to) if to.len() < LINK_BUFFER => {
                // SAFETY: the caller's promise: 256 bytes, and `to` with its NUL is not longer.
                unsafe {
                    ptr::copy_nonoverlapping(to.as_ptr(), linkBuffer.cast(), to.len());
                    linkBuffer.add(to.len()).write(0);
                }
                1
            }
            _ => -1,
        }
    })
}

/// The checksum of the file format over `theSize` bytes, continuing from `crc` (0 to begin). It is
/// not CRC-32.
///
/// # Safety
/// `buf` points to `theSize` bytes; NULL counts as none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcoCrc32(crc: c_uint, buf: *const c_uchar, theSize: usize) -> c_uint {
    if buf.is_null() {
        return crc;
    }
    // SAFETY: the caller's promise.
    checksum::checksum(crc, unsafe { std::slice::from_raw_parts(buf, theSize) })
}

/// Receives a message: `context` as it was given, KISSDB_LOG_*, and one line of text without an end
/// of line, which the library frees when the callback returns.
pub type kissdb_log_callback =
    Option<unsafe extern "C" fn(context: *mut c_void, level: c_int, message: *const c_char)>;

/// What kissdb_set_log was given.
struct Receiver {
    callback: unsafe extern "C" fn(*mut c_void, c_int, *const c_char),
    context: *mut c_void,
}

// SAFETY: the caller of kissdb_set_log promises that any thread may call it with this context.
unsafe impl Send for Receiver {}
// SAFETY: as above.
unsafe impl Sync for Receiver {}

impl Receiver {
    fn receive(&self, level: Level, message: &str) {
        if let Ok(message) = CString::new(message) {
            // SAFETY: the promise of kissdb_set_log, and a C string.
            unsafe { (self.callback)(self.context, level as c_int, message.as_ptr()) };
        }
    }
}

/// Tells a callback of recovery and damage, in all databases of this process; without one the
/// library is silent.
///
/// `callback`: takes the place of the one before; NULL for silence. `context`: handed to it. `level`:
/// KISSDB_LOG_ERROR, WARNING or INFO: that and the more important ones.
///
/// A message is the file's path and what happened, with the offset in bytes and the key where they
/// are known. The callback runs in the thread whose call met it, right before that call returns; it
/// may use the library, which is not logged then, but what its caller holds, such as Kdb_wrlock, is
/// held. It may not throw or jump out. At a call of this function another thread may be inside the
/// old callback or about to enter it. Each call keeps some 60 bytes until the process ends.
///
/// Answers 0; INVALID_PARAMETERS for another level; MALLOC.
///
/// # Safety
/// `callback` may be called from any thread with `context` until the process ends or no other
/// thread uses the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kissdb_set_log(
    callback: kissdb_log_callback,
    context: *mut c_void,
    level: c_int,
) -> c_int {
    guard(KISSDB_ERROR_MALLOC, || {
        let Some(callback) = callback else {
            log::clear();
            return 0;
        };
        let Some(level) = Level::from_number(level) else {
            return KISSDB_ERROR_INVALID_PARAMETERS;
        };
        if memory().is_err() {
            return KISSDB_ERROR_MALLOC;
        }
        let receiver = Receiver { callback, context };
        log::set(level, move |level, message| {
            receiver.receive(level, message)
        });
        0
    })
}
