//! Iterations without the lock, while others work.

use super::several::Several;
use super::*;
use crate::format::slot;

#[test]
fn a_slot_that_a_walk_has_freed_for_a_moment() {
    // A walk of another process moves pairs from one slot to another: a slot may look deleted, or unused, until its pair has
    // come back. An iteration without the lock met it in that moment, passed over it, and only then saw that nothing it had
    // remembered held any more. It went on behind the slot, under the lock: a key that was there throughout was missing.
    for freed in [0, -16384i64] {
        let file = Several::new();
        let mut writer = file.writer(|_| ());
        writer.put(b"key", b"value").expect("puts");
        let mut e = file.reader();
        e.get(b"key", &mut []).expect("reads");
        let index = hash::slot(b"key", 510);
        let at = table::slot_offset(4096, index);
        let stored = file.new_layout();
        e.store().before_slots(move |slot| {
            if slot == at {
                stored(at, freed as u64);
                stored(at + slot::B, freed as u64);
            }
        });
        let mut pos = Position {
            table: 0,
            slot: index.into(),
        };
        let answer = reader(&e).next(&mut pos, &mut [0; 128], None);
        assert_eq!(answer, None, "{freed}");
        assert_eq!(pos.slot, index.into(), "{freed}");
    }
}
