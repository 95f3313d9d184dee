//! The KISSDB 2.3 key-value file: a store of settings that loses nothing and hangs nobody.
//!
//! Two doors lead to one engine: the C interface of the original library ([`capi`]), and
//! [`Database`] for Rust. Any number of processes, threads and handles may use one file, through
//! either.
//!
//! Source, from the bytes up: [`mod@format`] says what a file looks like, [`engine`] changes and
//! recovers it over a small storage trait, `sys` talks to the operating system, `session` puts them
//! together for one open handle.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod capi;
mod database;
pub mod engine;
pub mod error;
pub mod format;
pub mod inspect;
pub mod log;
mod session;
pub mod shared;
#[allow(unsafe_code)]
mod sys;

pub use database::{Database, Iter, OpenOptions};
pub use error::{Error, Result};
