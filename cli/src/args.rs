//! What can be said on the command line. Help, man pages and completions are made from it.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

const STATUS: &str = "\
Exit status: 0 fine; 1 there are findings, a difference, no such key, or records were left out because both copies are damaged; 2 wrong use, or the file could not be read or written.

Colours are used on a terminal only; NO_COLOR turns them off.";

/// Look into, check, repair, compare and move KISSDB databases.
///
/// Databases may be in use: nothing that only reads ever writes to a file or keeps its users
/// waiting for more than a moment.
#[derive(Debug, Parser)]
#[command(name = "kissdb", version, after_help = STATUS, after_long_help = STATUS, max_term_width = 100)]
pub struct Cli {
    /// Print JSON: one object, or one object a line where there are many
    #[arg(long, global = true)]
    pub json: bool,
    /// Whether to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a database is, what is in it, and who has it open
    Info(Info),
    /// List keys and values, ordered by key
    List(List),
    /// Print the value of a key
    Get(Get),
    /// Set the value of a key; it is durable when the command ends
    Put(Put),
    /// Delete keys
    Delete(Delete),
    /// Write all keys and values as JSON lines, ordered by key
    Dump(Dump),
    /// Put the keys and values of a dump into a database: all of them or none
    ///
    /// Keys that are not in the dump stay as they are, unless --replace is given. The new contents are
    /// written to a file beside the database, which then takes its place; a database that does not
    /// exist is made. While others have the database open this is refused, because they would go on
    /// with the old file. With --in-place they may go on: the keys are changed one after the other, and
    /// if one fails, the ones before it get their old values back. The old values are also kept in
    /// FILE.undo-load until it is done: after a power cut, load that file in place.
    Load(Load),
    /// Look for everything that is not as it should be; writes nothing, also works on a file in use
    ///
    /// Prints a line for each finding: its offset, how much it weighs, the key, what it means, and
    /// whether `kissdb repair` mends it. Damage: keys or values are lost or can't be found. Fault:
    /// against a rule of the format, but everything is served. Notes (remains behind values, unused
    /// space) are only counted, unless --notes is given, and are no reason for status 1.
    Check(Check),
    /// Mend a damaged database, keep a copy of it, and tell what was lost
    ///
    /// Works on a copy, by the library's own recovery: all records that lie in the file are found
    /// again, whatever its tables say. Only if every key that could be read before can be read
    /// afterwards, with the same value, does the copy take the place of the database, which is kept as
    /// FILE.before-repair. With --output the database is not touched.
    Repair(Repair),
    /// Compare two databases; status 1 if they differ
    Diff(Diff),
    /// Copy a database as it is at one moment, while others write
    ///
    /// The copy has all keys and values, and nothing else of the file: no deleted records, no unused
    /// space. Two databases with the same contents have the same copy, byte by byte.
    Copy(Copy),
    /// Rewrite a database without deleted records and unused space
    ///
    /// The new file is written beside the database and then takes its place; owner and permissions
    /// stay. Refused while others have it open.
    Compact(Compact),
    /// Make an empty database
    Create(Create),
    /// Draw which parts of the file are in use for what, and how long the chains are
    Map(Map),
    /// Show the shared objects in /dev/shm: whose, who uses them, which locks are held
    Shm(Shm),
    /// Print completions for a shell
    Completions(Completions),
    /// Write the man pages to a directory
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    pub db: Database,
}

#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    pub db: Database,
    /// The dump; with `-`, or without it, standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub input: Option<PathBuf>,
    /// Delete all keys that are not in the dump
    #[arg(long)]
    pub replace: bool,
    /// Change the keys one after the other, also while others have the database open
    #[arg(long)]
    pub in_place: bool,
    /// Sizes of a new database, where the dump does not tell them
    #[arg(long, value_name = "KIND")]
    pub kind: Option<Kind>,
}

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub db: Database,
    /// A line for each note, too
    #[arg(long, short)]
    pub notes: bool,
    /// Nothing but the exit status
    #[arg(long, short, conflicts_with = "notes")]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    pub db: Database,
    /// Write the repaired database to this new file and leave the damaged one as it is
    #[arg(long, short, value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The sizes, where the header is damaged and the records do not show them
    #[arg(long, value_name = "KIND")]
    pub kind: Option<Kind>,
}

#[derive(Debug, Args)]
pub struct Diff {
    #[arg(value_hint = ValueHint::FilePath)]
    pub a: PathBuf,
    #[arg(value_hint = ValueHint::FilePath)]
    pub b: PathBuf,
    /// Values in hexadecimal
    #[arg(long)]
    pub hex: bool,
}

#[derive(Debug, Args)]
pub struct Copy {
    #[command(flatten)]
    pub db: Database,
    /// The copy
    #[arg(value_hint = ValueHint::FilePath)]
    pub new: PathBuf,
    /// Replace a file that is there already
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Compact {
    #[command(flatten)]
    pub db: Database,
}

#[derive(Debug, Args)]
pub struct Map {
    #[command(flatten)]
    pub db: Database,
    /// Write the picture to this SVG file
    #[arg(long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Shm {
    /// Only the objects of this database
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Remove what no living process uses
    #[arg(long)]
    pub clean: bool,
}

#[derive(Debug, Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    #[arg(value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
pub struct Database {
    /// The database
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub db: Database,
    /// Only keys that begin with this
    pub prefix: Option<OsString>,
    /// Values in hexadecimal
    #[arg(long)]
    pub hex: bool,
    /// Only the keys
    #[arg(long, short, conflicts_with = "hex")]
    pub keys: bool,
}

#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    pub db: Database,
    pub key: OsString,
    /// The value in hexadecimal
    #[arg(long)]
    pub hex: bool,
    /// The bytes of the value and nothing else
    #[arg(long, conflicts_with_all = ["hex", "json"])]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub db: Database,
    pub key: OsString,
    /// The value; with `-`, or without it, all of standard input
    #[arg(allow_hyphen_values = true)]
    pub value: Option<OsString>,
    /// The value is given in hexadecimal
    #[arg(long)]
    pub hex: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    pub db: Database,
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub db: Database,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Create {
    /// The new file; it must not exist
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// settings (510/128/8028), resources (510/64/212), or SLOTS/KEY/VALUE
    #[arg(long, default_value = "settings")]
    pub kind: Kind,
}

/// The sizes of a database: slots of a table, bytes of a key, bytes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u16, pub u16, pub u16);

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "settings" => return Ok(Self::SETTINGS),
            "resources" => return Ok(Self::RESOURCES),
            _ => {}
        }
        let advice = || "settings, resources, or three numbers such as 510/128/8028".to_string();
        let numbers: Vec<u64> = s.split('/').flat_map(str::parse).collect();
        let &[slots, key, value] = numbers.as_slice() else {
            return Err(advice());
        };
        kissdb::format::Sizes::new(slots, key, value)
            .map(|s| Self(s.slots, s.key, s.value))
            .ok_or("at most 510 slots, keys of 128 and values of 8028 bytes".into())
    }
}

impl Kind {
    pub const SETTINGS: Self = Self(510, 128, 8028);
    pub const RESOURCES: Self = Self(510, 64, 212);
}
