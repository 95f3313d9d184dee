//! What a file must be like, as a list of what can be wrong with it.

use std::fmt;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Allowed, and worth knowing.
    Note,
    /// Against a rule of the format; everything is served all the same.
    Fault,
    /// Keys or values are lost, or can't be found as the file stands.
    Damage,
}

/// What a repair does about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// It mends it, and nothing is lost.
    Yes,
    /// It brings the file in order, but this value or key is lost.
    Lost,
    /// It can't.
    No,
}

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident, $name:literal, $weight:ident, $mended:ident;)*) => {
        /// A rule of the format that can be broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// A name that does not change.
            pub fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// How much it weighs.
            pub fn weight(self) -> Weight {
                match self { $(Self::$rule => Weight::$weight,)* }
            }

            /// What a repair does about it.
            pub fn mended(self) -> Mended {
                match self { $(Self::$rule => Mended::$mended,)* }
            }
        }
    };
}

rules! {
    /// The file is not a database, or nothing of its header and records can be recognised.
    NotADatabase, "not-a-database", Damage, No;
    /// The header is damaged: magic, version or sizes. The records say which sizes they have.
    Header, "header", Damage, Yes;
    /// Less than a header; a creation that was cut off.
    HeaderCut, "header-cut", Fault, Yes;
    /// Something stands where the header must be 0.
    HeaderStray, "header-stray", Fault, Yes;
    /// closeFailed and closeOk contradict each other, or are no flags.
    Flags, "flags", Fault, Yes;
    /// The last user did not close the file.
    NotClosed, "not-closed", Fault, Yes;
    /// The length is no multiple of 4096.
    Length, "length", Fault, Yes;
    /// There is something behind the header, but no table.
    NoTable, "no-table", Damage, Yes;
    /// A table lacks a delimiter.
    TableDelimiter, "table-delimiter", Fault, Yes;
    /// The checksum of a table is wrong.
    TableChecksum, "table-checksum", Fault, Yes;
    /// A table is all zero although there are records.
    TableZero, "table-zero", Damage, Yes;
    /// The link to the next table leads nowhere.
    Link, "link", Damage, Yes;
    /// With fewer than 510 slots the link stands in two places, which differ.
    LinkTwice, "link-twice", Fault, Yes;
    /// A table is to lie behind the end of the file, wholly or in part: it was cut off.
    TableBehindEnd, "table-behind-end", Damage, Lost;
    /// A table to which no link leads.
    LooseTable, "loose-table", Damage, Yes;
    /// A slot leads to no place where a pair can be.
    SlotOffset, "slot-offset", Damage, Yes;
    /// A slot leads behind the end of the file, and what is left of its record is not whole: it was cut off.
    SlotBehindEnd, "slot-behind-end", Damage, Lost;
    /// A slot leads to a pair at an odd offset. The original leaves such after a power cut.
    OddPair, "odd-pair", Fault, Yes;
    /// Two things lie in one place.
    Overlap, "overlap", Damage, Yes;
    /// The third word of a slot is neither 0 nor 1 in a closed file.
    SlotWord, "slot-word", Fault, Yes;
    /// A slot says live and its pair deleted, or the other way round.
    SlotKind, "slot-kind", Fault, Yes;
    /// An unused slot in front of a used one: the original finds nothing behind it.
    Hole, "hole", Damage, Yes;
    /// Both copies of a record are damaged.
    RecordLost, "record-lost", Damage, Lost;
    /// One copy of a record is damaged; the other one serves.
    CopyDamaged, "copy-damaged", Fault, Yes;
    /// The delimiters of a copy are missing or contradict each other.
    Delimiters, "delimiters", Fault, Yes;
    /// The two copies hold different keys.
    KeysDiffer, "keys-differ", Fault, Yes;
    /// A key in a slot that is not its own: nobody finds it.
    WrongSlot, "wrong-slot", Damage, Yes;
    /// A record names another table than the one whose slot leads to it.
    TableNumber, "table-number", Fault, Yes;
    /// A key stands twice in its chain. The first counts.
    Duplicate, "duplicate", Fault, Yes;
    /// A record with a value to which no slot leads.
    LooseRecord, "loose-record", Damage, Yes;
    /// The two copies hold different values; the slot says which counts.
    CopiesDiffer, "copies-differ", Note, Yes;
    /// Remains of longer old values behind a value.
    ValueRemains, "value-remains", Note, Yes;
    /// Remains of an older key behind a key.
    KeyRemains, "key-remains", Note, Yes;
    /// The value of a deleted key is still there.
    DeletedRemains, "deleted-remains", Note, Yes;
    /// Space that nothing leads to and that holds old records or anything else.
    Leaked, "leaked", Note, Yes;
    /// Zeros that are in use for nothing.
    Unused, "unused", Note, Yes;
}

/// A rule that is broken, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// Where, in bytes from the start of the file.
    pub offset: u64,
    /// The key that it is about, as far as it can be read.
    pub key: Option<Vec<u8>>,
    /// What is wrong, in a few words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}
