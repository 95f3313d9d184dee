//! KISSDB 2.3.
pub mod engine;
pub mod error;
pub mod format;
pub use error::{Error, Result};
