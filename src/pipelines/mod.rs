//! What users ask for: whole jobs from image files to image files.

pub mod batch;
pub mod compare;
pub mod degrade;
pub mod device_image;
pub mod dreamclear;
pub mod journal;
pub mod naming;
pub mod quality;
pub mod report;
pub mod restore;
pub mod tiled;
pub mod vae;

mod progress;
