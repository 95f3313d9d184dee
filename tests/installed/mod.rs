//! The library as `make install` puts it into a scratch prefix, and C programs built against it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

/// The project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A scratch directory that every user may enter, and that takes the shared objects of databases in
/// it away, whatever happened to their users.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kissdb-c-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Names in /dev/shm of databases below this directory.
    pub fn shared_objects(&self) -> Vec<PathBuf> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let stem: String = self.path().to_str().unwrap().chars().map(plain).collect();
        let Ok(names) = fs::read_dir("/dev/shm") else {
            return Vec::new();
        };
        names
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                let name = p.file_name().and_then(OsStr::to_str).unwrap_or_default();
                name.strip_prefix("sem.")
                    .unwrap_or(name)
                    .starts_with(&format!("{stem}_"))
            })
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in self.shared_objects() {
            let _ = fs::remove_file(name);
        }
    }
}

/// A prefix that the library was installed into; it goes away with its last user.
pub struct Installed {
    dir: Scratch,
}

/// The installation that all tests of this process share.
pub fn installed() -> Arc<Installed> {
    static SHARED: Mutex<Weak<Installed>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let dir = Scratch::new();
        make("install", [format!("PREFIX={}", dir.path().display())]);
        let made = Arc::new(Installed { dir });
        *shared = Arc::downgrade(&made);
        made
    })
}

/// Runs make in the project, with nothing of the calling make in the environment.
pub fn make(target: &str, variables: impl IntoIterator<Item = String>) -> String {
    let mut make = Command::new("make");
    make.current_dir(root()).arg(target).args(variables);
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX"] {
        make.env_remove(inherited);
    }
    succeeds(&mut make)
}

/// Runs a command; answers what it printed.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(
        status.success(),
        "{command:?}: {status}\n--- stdout\n{out}\n--- stderr\n{err}"
    );
    out.into_owned()
}

impl Installed {
    pub fn prefix(&self) -> &Path {
        self.dir.path()
    }

    pub fn lib(&self) -> PathBuf {
        self.prefix().join("lib")
    }

    /// What pkg-config answers, as words.
    pub fn pkg_config(&self, options: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command
            .env("PKG_CONFIG_PATH", self.lib().join("pkgconfig"))
            .args(options)
            .arg("kissdb");
        succeeds(&mut command)
            .split_whitespace()
            .map(String::from)
            .collect()
    }

    /// Compiles with the strictest options that callers may use; answers the program.
    pub fn compile(&self, source: &Path, linking: Linking) -> PathBuf {
        self.compile_with(source, linking, &[])
    }

    /// The same with more options.
    pub fn compile_with(&self, source: &Path, linking: Linking, more: &[&str]) -> PathBuf {
        let name = source.file_stem().unwrap().to_str().unwrap();
        let program = self.prefix().join(match linking {
            Linking::Shared => name.to_string(),
            Linking::Static => format!("{name}-static"),
        });
        let mut compile = if source.extension() == Some(OsStr::new("cc")) {
            let mut cxx = Command::new(std::env::var_os("CXX").unwrap_or("g++".into()));
            cxx.args(["-std=c++17", "-Wpedantic", "-Wshadow", "-Wconversion"]);
            cxx
        } else {
            let mut cc = Command::new(std::env::var_os("CC").unwrap_or("gcc".into()));
            cc.args(["-std=c99", "-Wpedantic"]);
            cc
        };
        compile
            .args(["-Wall", "-Wextra", "-Werror", "-g", "-O1", "-o"])
            .args([&program, source])
            .args(more);
        match linking {
            Linking::Shared => {
                compile.args(self.pkg_config(&["--cflags", "--libs"]));
                compile.arg(format!("-Wl,-rpath,{}", self.lib().display()));
            }
            Linking::Static => {
                let flags = self.pkg_config(&["--static", "--cflags", "--libs"]);
                compile.args(
                    flags
                        .iter()
                        .map(|f| f.replace("-lkissdb", "-l:libkissdb.a")),
                );
            }
        }
        // A library of `make asan` wants this in the program.
        if let Some(runtime) = std::env::var_os("KISSDB_ASAN") {
            compile.args(["-rdynamic", "-Wl,--whole-archive"]);
            compile.arg(runtime).arg("-Wl,--no-whole-archive");
            compile.args(["-lm", "-ldl", "-lpthread", "-lrt", "-lresolv"]);
        }
        succeeds(&mut compile);
        program
    }
}

/// Which of the two libraries a program gets.
#[derive(Clone, Copy)]
pub enum Linking {
    Shared,
    Static,
}
