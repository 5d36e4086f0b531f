//! Text: what the image shows, in words, on its way to the text encoder.
//!
//! [`vlm`] asks a vision-language model for a caption and [`clean`] brings any caption into the
//! form the networks were trained on.

pub mod clean;
pub mod vlm;
