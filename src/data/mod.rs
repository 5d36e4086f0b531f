//! Photos in and out: files, pixels, resizing, tiles, which inputs a job has, and training data.

pub mod color_fix;
pub mod dataset;
pub mod degrade;
pub mod encode;
pub mod image;
pub mod inputs;
pub mod pixels;
pub mod random;
pub mod resize;
mod resize_torch;
pub mod shard;
pub mod tiles;
