//! KISSDB 2.3.
