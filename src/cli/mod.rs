//! The command line: one file a command.

pub mod bench;
pub mod convert;
pub mod fetch;
pub mod inspect;
