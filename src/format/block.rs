//! A block: 8192 bytes. A pair is block A and, right behind it, block B.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | start delimiter |
//! | 8 | 8 | checksum of keySize+4+valSize+8 bytes from 16 on, upper half 0 |
//! | 16 | 128 | key, a NUL behind it, rest 0 |
//! | 144 | 4 | size of the value |
//! | 148 | 8028 | value |
//! | 8176 | 8 | number of the table that holds the pair's slot |
//! | 8184 | 8 | end delimiter |
//!
//! | | A start | A end | B start | B end |
//! |---|---|---|---|---|
//! | live | 2AAAAAAA | 55555555 | E38E38E3 | AAAAAAA8 |
//! | deleted | AAAAAAAA | D5555555 | 7E07E07E | 81F81F81 |
//!
//! With sizes 128/8028 the checksum covers all from the key to the table number. With smaller ones
//! it covers less, down to a part of the value only: there a good checksum does not prove the rest.

use super::checksum::{self, checksum};
use super::sum::Sum;
use super::{Sizes, is_zero, put_u64, u64_at, word_of};

/// Bytes of a block.
pub const SIZE: usize = 8192;
/// Bytes of a pair.
pub const PAIR: u64 = 2 * SIZE as u64;
/// Offset of the checksum.
pub const CHECKSUM: usize = 8;
/// Offset of the key.
pub const KEY: usize = 16;
/// Bytes of the key field; the longest key is one shorter.
pub const KEY_LEN: usize = 128;
/// Offset of the size of the value.
pub const VALUE_SIZE: usize = 144;
/// Offset of the value.
pub const VALUE: usize = 148;
/// Bytes of the value field.
pub const VALUE_LEN: usize = 8028;
/// Offset of the table number.
pub const TABLE: usize = 8176;
/// Offset of the end delimiter.
pub const END: usize = 8184;
/// All but the value, and the beginning of that: what is worth fetching before it is read.
pub const FRONT: usize = 256;
/// In place of the checksum of a copy that is being written; no computed checksum equals it.
pub const WRITING: u64 = u64::MAX;

/// One of the two copies of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Block A.
    A,
    /// Block B.
    B,
}

impl Side {
    /// The other copy.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Where this copy of the pair at `pair` begins.
    #[inline(always)]
    pub fn offset(self, pair: u64) -> u64 {
        match self {
            Self::A => pair,
            Self::B => pair + SIZE as u64,
        }
    }

    /// Start and end delimiter of a live or deleted copy on this side.
    pub fn delimiters(self, live: bool) -> (u64, u64) {
        match (self, live) {
            (Self::A, true) => (0x2AAA_AAAA, 0x5555_5555),
            (Self::B, true) => (0xE38E_38E3, 0xAAAA_AAA8),
            (Self::A, false) => (0xAAAA_AAAA, 0xD555_5555),
            (Self::B, false) => (0x7E07_E07E, 0x81F8_1F81),
        }
    }
}

/// What the delimiters of a copy say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It holds a value.
    Live,
    /// It held one.
    Deleted,
    /// It has no delimiter at all.
    Nothing,
}

/// What could be said of a copy once its bytes were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Live, deleted or neither.
    pub kind: Kind,
    /// The checksum is right, the key and the size are in range, and there is something.
    pub good: bool,
    /// See [`Sums::ours`]; meaningful if `good`.
    pub sum: u32,
    /// How many of the four delimiters of its side it carries, 0..=2.
    pub delimiters: u8,
}

/// Word `i` of the field that begins with the size of this value.
#[inline]
pub fn value_word(value: &[u8], i: usize) -> u64 {
    match i {
        0 => value.len() as u64 | word_of(value, 0) << 32,
        i => word_of(value, 8 * i - 4),
    }
}

/// As many words of that field as there is room for, from word `i` on.
pub fn value_words(value: &[u8], i: usize, words: &mut [u64]) {
    let (words, at) = match (i, words) {
        (0, [first, words @ ..]) => {
            *first = value_word(value, 0);
            (words, 4)
        }
        (i, words) => (words, (8 * i).saturating_sub(4)),
    };
    let (whole, _) = value.get(at..).unwrap_or_default().as_chunks::<8>();
    for (word, bytes) in words.iter_mut().zip(whole) {
        *word = u64::from_le_bytes(*bytes);
    }
    if let [next, behind @ ..] = words.split_at_mut(whole.len().min(words.len())).1 {
        *next = word_of(value, at + 8 * whole.len());
        behind.fill(0);
    }
}

/// Both sums of a block that is tidy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// The block's checksum, where it covers all from the key to the table number.
    pub checksum: u32,
    /// What a slot's word remembers of the block: a part of a [`Sum`] of key, value and table number. Of a copy of which a sector is
    /// not there it is another one, where the checksum can be the same.
    pub ours: u32,
}

impl Sums {
    /// Of a block of these contents.
    pub fn of(key: &[u8], value: &[u8], table: u64) -> Self {
        Self {
            checksum: checksum::continued(0, Contents(key, value, table)),
            ours: sum_of(key, value, table),
        }
    }
}

/// [`Sums::ours`].
fn sum_of(key: &[u8], value: &[u8], table: u64) -> u32 {
    let mut sum = Sum::begin(table);
    for at in (0..key.len()).step_by(8) {
        sum.add(word_of(key, at));
    }
    sum.add_value(value);
    sum.value() as u32
}

/// The same of a copy, whose value is the first `size` bytes of these, which are one or more: an empty value that has a mark behind
/// it ([`RawBlock::mark_empty`]) is another one.
pub fn sum_of_copy(key: &[u8], field: &[u8], size: usize, table: u64) -> u32 {
    let sum = sum_of(key, &field[..size], table);
    let marked = size == 0 && field[0] != 0;
    if marked { !sum } else { sum }
}

/// What [`Sums::checksum`] is of: key, value, table.
struct Contents<'a>(&'a [u8], &'a [u8], u64);

impl checksum::Input for Contents<'_> {
    #[inline(always)]
    fn put_into(&self, state: &mut checksum::State<impl checksum::Steps>) {
        let &Self(key, value, table) = self;
        let words = key.len().div_ceil(8);
        for i in 0..words {
            state.word(word_of(key, 8 * i));
        }
        state.zeros(KEY_LEN.saturating_sub(8 * words));
        let words = (4 + value.len()).div_ceil(8);
        let mut zeros = 0;
        for i in 0..words {
            match value_word(value, i) {
                0 => zeros += 8,
                word => {
                    state.zeros(zeros);
                    state.word(word);
                    zeros = 0;
                }
            }
        }
        state.zeros((4 + VALUE_LEN + zeros).saturating_sub(8 * words));
        state.word(table);
    }
}

/// The key in a key field: the bytes before the first NUL.
pub fn key_in(field: &[u8]) -> &[u8] {
    let n = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..n]
}

/// Key, value and table number of a block into its zeros.
pub fn fill(zeros: &mut [u8], key: &[u8], value: &[u8], table: u64) {
    zeros[KEY..KEY + key.len()].copy_from_slice(key);
    zeros[VALUE_SIZE..VALUE].copy_from_slice(&(value.len() as u32).to_le_bytes());
    zeros[VALUE..VALUE + value.len()].copy_from_slice(value);
    put_u64(zeros, TABLE, table);
}

/// The bytes of a block, unchecked.
#[derive(Clone)]
pub struct RawBlock(pub Box<[u8; SIZE]>);

impl RawBlock {
    /// A block of zeros, to be read into.
    pub fn zeroed() -> Self {
        Self(Box::new([0; SIZE]))
    }

    /// A copy as this library writes it, with a right checksum.
    ///
    /// `key` is 1..=127 bytes, `value` not larger than the sizes allow.
    pub fn new(sizes: Sizes, side: Side, live: bool, key: &[u8], value: &[u8], table: u64) -> Self {
        let mut b = Self::zeroed();
        fill(&mut b.0[..], key, value, table);
        b.set_delimiters(side, live);
        b.seal(sizes);
        b
    }

    /// Whether everything behind the end of the key, up to the size, and behind the value is zero.
    pub fn is_tidy(&self) -> bool {
        let n = (self.value_size() as usize).min(VALUE_LEN);
        let rest = [KEY + self.key().len()..VALUE_SIZE, VALUE + n..TABLE];
        rest.into_iter().all(|r| is_zero(&self.0[r]))
    }

    /// Computes the checksum anew.
    pub fn seal(&mut self, sizes: Sizes) {
        let c = self.computed(sizes);
        put_u64(&mut self.0[..], CHECKSUM, u64::from(c));
    }

    fn computed(&self, sizes: Sizes) -> u32 {
        checksum(0, &self.0[KEY..KEY + sizes.covered()])
    }

    /// Start and end delimiter as they stand.
    pub fn delimiters(&self) -> (u64, u64) {
        (u64_at(&self.0[..], 0), u64_at(&self.0[..], END))
    }

    /// [`Sums::ours`].
    pub fn sum(&self) -> u32 {
        let n = (self.value_size() as usize).min(VALUE_LEN);
        sum_of_copy(self.key(), &self.0[VALUE..TABLE], n, self.table())
    }

    /// Gives the block the delimiters of a side and kind. The checksum does not cover them.
    pub fn set_delimiters(&mut self, side: Side, live: bool) {
        let (start, end) = side.delimiters(live);
        put_u64(&mut self.0[..], 0, start);
        put_u64(&mut self.0[..], END, end);
    }

    /// The number of the table that the block names. Only a good checksum over all of it proves it.
    pub fn table(&self) -> u64 {
        u64_at(&self.0[..], TABLE)
    }

    /// The key: the bytes before the first NUL of the key field.
    pub fn key(&self) -> &[u8] {
        key_in(&self.0[KEY..KEY + KEY_LEN])
    }

    /// The value; cut to what fits if the size is out of range.
    pub fn value(&self, sizes: Sizes) -> &[u8] {
        let n = (self.value_size() as usize).min(sizes.value as usize);
        &self.0[VALUE..VALUE + n]
    }

    fn value_size(&self) -> u32 {
        u64_at(&self.0[..], VALUE_SIZE) as u32
    }

    /// Whether it has no value, and nothing is left of one, as in a deleted record of a closed file.
    pub fn is_emptied(&self) -> bool {
        self.value_size() == 0 && self.value_is_zero()
    }

    /// Whether all of the value field is zero.
    pub fn value_is_zero(&self) -> bool {
        is_zero(&self.0[VALUE..TABLE])
    }

    /// Why [`RawBlock::check`] does not call it good; `None` if it does.
    pub fn complaint(&self, sizes: Sizes) -> Option<&'static str> {
        let key = self.key().len();
        let field = u64_at(&self.0[..], CHECKSUM);
        if key == 0 {
            Some("its key is empty")
        } else if key == KEY_LEN {
            Some("its key has no end")
        } else if self.value_size() > u32::from(sizes.value) {
            Some("its size is out of range")
        } else if field == WRITING {
            Some("it was being written")
        } else if field != u64::from(self.computed(sizes)) {
            Some("its checksum is wrong")
        } else {
            None
        }
    }

    /// Whether something other than zeros is left behind the end of the key, and of the value.
    pub fn remains(&self, sizes: Sizes) -> (bool, bool) {
        let some = |bytes: &[u8]| bytes.iter().any(|&b| b != 0);
        (
            some(&self.0[KEY + self.key().len()..VALUE_SIZE]),
            some(&self.0[VALUE + self.value(sizes).len()..TABLE]),
        )
    }

    /// An empty value must not be taken for a torn delete (a good copy of size 0 with zeros behind it
    /// and one deleted delimiter): until the close a byte behind it tells them apart.
    pub fn mark_empty(&mut self, sizes: Sizes) {
        if self.value_size() == 0 {
            self.0[VALUE] = 0xFF;
            self.seal(sizes);
        }
    }

    /// Whether start and end delimiter are those of a side and kind.
    pub fn is_delimited(&self, side: Side, live: bool) -> bool {
        self.delimiters() == side.delimiters(live)
    }

    /// Checks the block as the copy on `side`.
    pub fn check(&self, sizes: Sizes, side: Side) -> Verdict {
        let start = u64_at(&self.0[..], 0);
        let end = u64_at(&self.0[..], END);
        let live = side.delimiters(true);
        let dead = side.delimiters(false);
        let is_live = start == live.0 || end == live.1;
        let is_dead = start == dead.0 || end == dead.1;
        let field = u64_at(&self.0[..], CHECKSUM);
        let key = self.key().len();
        let good = field <= u64::from(u32::MAX)
            && (1..KEY_LEN).contains(&key)
            && self.value_size() <= u32::from(sizes.value)
            && self.computed(sizes) == field as u32;
        let kind = match (is_live, is_dead) {
            (false, false) => Kind::Nothing,
            (true, false) => Kind::Live,
            (false, true) => Kind::Deleted,
            // Torn between the two: only a whole delete is empty.
            (true, true) if good && self.is_emptied() => Kind::Deleted,
            (true, true) => Kind::Live,
        };
        Verdict {
            kind,
            good,
            sum: if good { self.sum() } else { 0 },
            delimiters: u8::from(start == live.0 || start == dead.0)
                + u8::from(end == live.1 || end == dead.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Sizes {
        Sizes::new(510, 128, 8028).expect("in range")
    }

    #[test]
    fn the_vector_of_a_whole_block() {
        let b = RawBlock::new(settings(), Side::A, true, b"key1", b"hello", 0);
        let v = b.check(settings(), Side::A);
        assert_eq!((v.kind, v.good), (Kind::Live, true));
        assert_eq!(u64_at(&b.0[..], CHECKSUM), 0xa62f_fa00);
        assert_eq!(b.check(settings(), Side::B).kind, Kind::Nothing);
    }

    #[test]
    fn words_of_a_value_one_by_one_and_at_once() {
        for size in 0..40 {
            let value: Vec<u8> = (1..=size).collect();
            for (from, n) in (0..8).flat_map(|from| (0..8).map(move |n| (from, n))) {
                let mut words = vec![u64::MAX; n];
                value_words(&value, from, &mut words);
                let one_by_one: Vec<_> = (from..from + n).map(|i| value_word(&value, i)).collect();
                assert_eq!(words, one_by_one, "{size} bytes, {n} from {from} on");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_checksum_without_the_block(
            key in proptest::collection::vec(1u8.., 1..KEY_LEN),
            value in proptest::collection::vec(proptest::num::u8::ANY, 0..=VALUE_LEN),
            table: u64,
        ) {
            let b = RawBlock::new(settings(), Side::A, true, &key, &value, table);
            let field = u64_at(&b.0[..], CHECKSUM) as u32;
            proptest::prop_assert_eq!(
                Sums::of(&key, &value, table),
                Sums { checksum: field, ours: b.sum() }
            );
            proptest::prop_assert!(b.is_tidy());
        }
    }

    #[test]
    fn a_zero_record_is_never_good() {
        let mut b = RawBlock::zeroed();
        b.set_delimiters(Side::A, true);
        assert!(!b.check(settings(), Side::A).good);
    }

    #[test]
    fn contradicting_delimiters() {
        let mut b = RawBlock::new(settings(), Side::A, true, b"k", b"v", 0);
        put_u64(&mut b.0[..], END, Side::A.delimiters(false).1);
        assert_eq!(b.check(settings(), Side::A).kind, Kind::Live);
        let mut b = RawBlock::new(settings(), Side::A, true, b"k", b"", 0);
        put_u64(&mut b.0[..], END, Side::A.delimiters(false).1);
        assert_eq!(b.check(settings(), Side::A).kind, Kind::Deleted);
        let sum = b.sum();
        b.mark_empty(settings());
        assert_ne!(b.sum(), sum);
        assert_eq!(b.check(settings(), Side::A).kind, Kind::Live);
        assert!(b.check(settings(), Side::A).good && b.value(settings()).is_empty());
    }

    #[test]
    fn sizes_and_keys_out_of_range_are_damage() {
        let mut b = RawBlock::new(settings(), Side::A, true, b"k", b"v", 0);
        b.0[VALUE_SIZE..VALUE].copy_from_slice(&8029u32.to_le_bytes());
        b.seal(settings());
        assert!(!b.check(settings(), Side::A).good);
        let mut b = RawBlock::new(settings(), Side::A, true, &[b'k'; 127], b"v", 0);
        b.0[KEY + 127] = b'k';
        b.seal(settings());
        assert!(!b.check(settings(), Side::A).good);
    }
}
