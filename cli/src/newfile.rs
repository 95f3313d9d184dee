//! New files that come into being whole: written beside their place, synced, then renamed.

use crate::fail::{About, Fail, Result, said};
use crate::interrupt;
use crate::progress::Progress;
use crate::shm;
use kissdb::engine::Snapshot;
use kissdb::format::Sizes;
use kissdb::{Database, Error, OpenOptions};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// So often a file that others change in between is read again.
const TRIES: u32 = 5;

/// A file that is removed again unless it is put in its place.
pub struct NewFile {
    temp: TempPath,
    place: PathBuf,
}

impl NewFile {
    /// An empty file in the directory of `place`, for nobody else to read yet.
    pub fn beside(place: &Path) -> Result<Self> {
        Self::with_mode(place, 0o600)
    }

    /// The same with the permissions that any program gives its files: what the umask leaves.
    pub fn of_usual_mode(place: &Path) -> Result<Self> {
        Self::with_mode(place, 0o666)
    }

    fn with_mode(place: &Path, mode: u32) -> Result<Self> {
        let name = place.file_name().unwrap_or(place.as_os_str());
        let temp = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".new")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(directory(place))
            .about(&directory(place))?;
        Ok(Self {
            temp: temp.into_temp_path(),
            place: place.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Makes it a database with these entries, closed and on the medium.
    pub fn fill<'a>(
        &self,
        sizes: Sizes,
        entries: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<()> {
        interrupt::watch();
        let mut db = OpenOptions::new()
            .create(true)
            .sizes(sizes.slots, sizes.key, sizes.value)
            .open(self.path())
            .about(&self.place)?;
        let mut progress = Progress::new("writing");
        let all = entries.len() as u64;
        for (n, (key, value)) in (0..).zip(entries) {
            progress.at(n, all);
            interrupt::check()?;
            db.put(key, value).about(&self.place)?;
        }
        db.close().about(&self.place)?;
        interrupt::check()
    }

    /// Gives it owner and permissions of another file.
    pub fn rights_of(&self, other: &Metadata) -> Result<()> {
        let mine = fs::metadata(self.path()).about(self.path())?;
        if (mine.uid(), mine.gid()) != (other.uid(), other.gid()) {
            let owner = (Some(other.uid()), Some(other.gid()));
            if std::os::unix::fs::chown(self.path(), owner.0, owner.1).is_err() {
                return said(format!(
                    "{}: belongs to user {} and group {}, which must stay so; run this as that user or as root",
                    self.place.display(),
                    other.uid(),
                    other.gid()
                ));
            }
        }
        self.mode_of(other)
    }

    /// Gives it the permissions of another file.
    pub fn mode_of(&self, other: &Metadata) -> Result<()> {
        let mode = fs::Permissions::from_mode(other.mode() & 0o7777);
        fs::set_permissions(self.path(), mode).about(self.path())
    }

    /// Makes the file and all about it durable, before it gets its name.
    fn sync(&self) -> io::Result<()> {
        File::open(self.path())?.sync_all()
    }

    /// Puts it in its place, where nothing may be unless `force`.
    pub fn put(self, force: bool) -> Result<()> {
        self.sync().about(&self.place)?;
        let put = if force {
            self.temp.persist(&self.place)
        } else {
            self.temp.persist_noclobber(&self.place)
        };
        put.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => taken(&self.place),
            _ => Fail::Said(format!(
                "{}: {}",
                self.place.display(),
                crate::fail::plain(&e.error)
            )),
        })?;
        sync_directory(&self.place).about(&self.place)
    }

    /// Puts it in the place of the database `db`, which nobody else may have open; `false` if that is no
    /// longer as in `snapshot`. `before` is called when that is certain.
    pub fn replace(
        &self,
        db: &mut Database,
        snapshot: &mut Snapshot,
        before: impl FnOnce() -> io::Result<()>,
    ) -> Result<bool> {
        self.sync().about(&self.place)?;
        let replaced = db.replace(snapshot, || {
            before()?;
            fs::rename(self.path(), &self.place)?;
            sync_directory(&self.place)
        });
        match replaced {
            Err(Error::Access(_)) => in_use(&self.place),
            r => r.about(&self.place),
        }
    }

    /// The same where no database can be opened.
    pub fn replace_unopened(&self, before: impl FnOnce() -> io::Result<()>) -> Result<()> {
        self.sync()
            .and_then(|()| before())
            .and_then(|()| fs::rename(self.path(), &self.place))
            .and_then(|()| sync_directory(&self.place))
            .about(&self.place)
    }
}

/// Repeats `attempt` until it answers something; `None`: others have changed the file meanwhile.
pub fn repeat<T>(path: &Path, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..TRIES {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
    }
    said(format!(
        "{}: others change it again and again; end them first",
        path.display()
    ))
}

pub fn taken(path: &Path) -> Fail {
    Fail::Said(format!(
        "{}: is there already; remove it first, or give another name",
        path.display()
    ))
}

/// The answer where others have a database open that must not be replaced under them.
pub fn in_use<T>(path: &Path) -> Result<T> {
    let users = shm::users_of(path);
    let users: Vec<String> = users.iter().map(|u| u.pid.to_string()).collect();
    let who = match &users[..] {
        [] => "others".into(),
        [one] => format!("process {one}"),
        many => format!("processes {}", many.join(", ")),
    };
    said(format!(
        "{}: in use by {who}; end them first",
        path.display()
    ))
}

/// The file itself, not a link to it: it is to be replaced.
pub fn place_of(path: &Path) -> Result<(PathBuf, Metadata)> {
    let place = if path.is_symlink() {
        fs::canonicalize(path).about(path)?
    } else {
        path.to_owned()
    };
    let meta = fs::metadata(&place).about(path)?;
    if meta.is_file() && meta.nlink() > 1 {
        return said(format!(
            "{}: has {} names (hard links), and only this one would get the new file; remove the others, or copy it",
            path.display(),
            meta.nlink()
        ));
    }
    Ok((place, meta))
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => ".".into(),
    }
}

/// Makes the entries of the directory of `path` durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(directory(path))?.sync_all() {
        // Some file systems can't, and need not.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        r => r,
    }
}
