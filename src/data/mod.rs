//! Photos in and out: files, pixels, resizing, tiles, and which inputs a job has.

pub mod color_fix;
pub mod degrade;
pub mod encode;
pub mod image;
pub mod inputs;
pub mod pixels;
pub mod resize;
mod resize_torch;
pub mod shard;
pub mod tiles;
