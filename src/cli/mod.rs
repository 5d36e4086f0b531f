//! cli
pub mod convert;
pub mod fetch;
pub mod inspect;
