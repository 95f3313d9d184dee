//! Names of shared objects, and the question whether a path leads through a link.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where the system keeps POSIX shared memory.
pub const SHM_DIR: &str = "/dev/shm";
/// Tail of the object that this library keeps its state in.
pub const INFO: &[u8] = b"-shm-info";
/// Tail of the object of the original's hash tables.
pub const HT: &[u8] = b"-ht";
/// Tail of the caller's write cache.
pub const CACHE: &[u8] = b"-cache";
/// Tail of the caller's semaphore.
pub const SEM: &[u8] = b"-sem";

/// `/`, then `path` with every byte that is not an ASCII letter or digit replaced by `_`, then `tail`.
pub fn shm_name(tail: &[u8], path: &[u8]) -> Vec<u8> {
    let clean = |&b: &u8| if b.is_ascii_alphanumeric() { b } else { b'_' };
    let mut name = Vec::with_capacity(1 + path.len() + tail.len());
    name.push(b'/');
    name.extend(path.iter().map(clean));
    name.extend_from_slice(tail);
    name
}

/// The stem of the names for a file whose plain name belongs to another file.
pub fn other_stem(path: &[u8], dev: u64, ino: u64) -> Vec<u8> {
    let mut stem = path.to_vec();
    stem.extend_from_slice(format!("-{dev:x}-{ino:x}").as_bytes());
    stem
}

/// What stands before a semaphore's name under [`SHM_DIR`].
pub const SEM_FILE: &[u8] = b"sem.";

/// The file under [`SHM_DIR`] of a shared object's name.
pub fn shm_path(name: &[u8]) -> Option<CString> {
    let file = name.strip_prefix(b"/").unwrap_or(name);
    if file.is_empty() || file.contains(&b'/') || file.len() > libc::NAME_MAX as usize {
        return None;
    }
    CString::new([SHM_DIR.as_bytes(), b"/", file].concat()).ok()
}

/// Where a symbolic link leads, if `path` is one.
pub fn link_target(path: &CStr) -> Option<CString> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let target = std::fs::read_link(path).ok()?;
    let target = path.parent()?.join(target);
    CString::new(target.as_os_str().as_bytes()).ok()
}

/// If the directory part of `path` is a symbolic link: `path` with that link resolved. A relative
/// link text counts from the directory that holds the link.
pub fn resolve_link(path: &[u8]) -> Option<Vec<u8>> {
    let cut = path.iter().rposition(|&b| b == b'/')?;
    let (dir, file) = (&path[..cut], &path[cut..]);
    // With a slash at its end it would be what the link leads to.
    let slashes = dir.iter().rev().take_while(|&&b| b == b'/').count();
    let dir = &dir[..dir.len() - slashes];
    if dir.is_empty() {
        return None;
    }
    let target = std::fs::read_link(Path::new(std::ffi::OsStr::from_bytes(dir))).ok()?;
    let target = target.as_os_str().as_bytes();
    let mut out = Vec::new();
    if !target.starts_with(b"/")
        && let Some(up) = dir.iter().rposition(|&b| b == b'/')
    {
        out.extend_from_slice(&dir[..=up]);
    }
    out.extend_from_slice(target);
    out.extend_from_slice(file);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(shm_name(INFO, b"/tmp/a.db"), b"/_tmp_a_db-shm-info");
        assert_eq!(shm_name(SEM, b"x\xc3\xa4"), b"/x__-sem");
        assert!(shm_path(&shm_name(INFO, &[b'x'; 246])).is_some());
        assert!(shm_path(&shm_name(INFO, &[b'x'; 247])).is_none());
        assert_eq!(resolve_link(b"//x"), None);
        assert!(shm_path(b"/").is_none() && shm_path(b"/a/b").is_none());
    }
}
