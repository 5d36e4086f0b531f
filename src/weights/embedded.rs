//! dreamclear-nano: the whole architecture in small, with its weights inside this program.
//!
//! What it was trained on, how, and how well it does: `assets/nano/README.md`.

use std::path::Path;

use super::bundle::Bundle;
use crate::Result;

/// Its name on the command line, which runs its degradation remover, and where messages say that its tensors come from.
pub const NANO: &str = "dreamclear-nano";
/// The name that runs all of its networks.
pub const NANO_DIFFUSION: &str = "dreamclear-nano-diffusion";

static BYTES: &[u8] = include_bytes!("../../assets/nano/dreamclear-nano.safetensors");

/// The networks of dreamclear-nano. Nothing is copied: tensors point into the program.
///
/// # Errors
/// If the program was built with a damaged file.
pub fn nano() -> Result<Bundle> {
    Bundle::from_static(Path::new(NANO), BYTES)
}
