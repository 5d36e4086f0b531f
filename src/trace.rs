//! Ranges on a profiler's timeline: run > picture > stage > step > block > op.
//!
//! Built with the feature `nvtx`, they show in Nsight Systems (`nsys profile -t cuda,nvtx dreamclear …`);
//! built without it, everything here is empty and costs nothing.
//!
//! A GPU replays a plan as one recording, in which there are no ranges: its ranges end at the step. With
//! `DREAMCLEAR_NVTX=ops` plans are launched op by op instead, each inside a range of its own; launches then
//! wait for the host, so that times of small ops are the host's.

/// A range on the timeline of this thread, from its making to its drop.
#[must_use = "a range ends when it is dropped"]
pub struct Range {
    #[cfg(feature = "nvtx")]
    _range: nvtx::LocalRange,
}

/// Begins a range. `name` is asked only where ranges are seen.
#[cfg(feature = "nvtx")]
pub fn range<S: AsRef<str>>(name: impl FnOnce() -> S) -> Range {
    Range { _range: nvtx::LocalRange::new(nvtx::Str::from_str_lossy(name().as_ref())) }
}

/// Begins a range. `name` is asked only where ranges are seen.
#[cfg(not(feature = "nvtx"))]
pub fn range<S: AsRef<str>>(_name: impl FnOnce() -> S) -> Range {
    Range {}
}

/// Whether each op of a plan is to have a range of its own, also on a device that could replay a recording.
pub fn ops() -> bool {
    #[cfg(feature = "nvtx")]
    {
        static OPS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *OPS.get_or_init(|| std::env::var("DREAMCLEAR_NVTX").is_ok_and(|v| v == "ops"))
    }
    #[cfg(not(feature = "nvtx"))]
    false
}

/// Ranges of ops, and round them ranges of the blocks that they belong to.
#[derive(Default)]
pub struct Ops {
    block: Option<(String, Range)>,
}

impl Ops {
    /// Begins the range of an op at this path of the model, `blocks.3.attn.qkv`: inside that of `blocks.3`,
    /// which lasts while ops of the same block follow each other. The op's range must be dropped before the
    /// next begins.
    pub fn begin(&mut self, path: &str, op: &str) -> Option<Range> {
        if !ops() {
            return None;
        }
        let block = block_of(path);
        if self.block.as_ref().is_none_or(|(name, _)| name != block) {
            self.block = None; // one ends before the next begins
            self.block = Some((block.to_owned(), range(|| block)));
        }
        Some(range(|| format!("{op} {path}")))
    }
}

/// The block of a path: up to its first number, else its first part.
fn block_of(path: &str) -> &str {
    let ends = path.match_indices('.').map(|(i, _)| i).chain([path.len()]);
    let mut start = 0;
    let mut first = None;
    for end in ends {
        first.get_or_insert(end);
        if path[start..end].parse::<u32>().is_ok() {
            return &path[..end];
        }
        start = end + 1;
    }
    &path[..first.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        assert_eq!(block_of("blocks.3.attn.qkv"), "blocks.3");
        assert_eq!(block_of("blocks.12"), "blocks.12");
        assert_eq!(block_of("controlnet.blocks.0.mlp.fc1"), "controlnet.blocks.0");
        assert_eq!(block_of("x_embedder.proj"), "x_embedder");
        assert_eq!(block_of("conv_out"), "conv_out");
        assert_eq!(block_of(""), "");
    }
}
