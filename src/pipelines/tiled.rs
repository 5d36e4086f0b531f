//! One picture network over pictures of any size: tiles within a memory budget, run and joined.

use super::device_image::DeviceImage;
use crate::bench::predict;
use crate::cancel::Cancel;
use crate::data::pixels::FloatImage;
use crate::data::tiles::{Canvas, Join, crop, pad_reflect};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Executable, Plan, Workspace};
use crate::models::load::Loaded;
use crate::tensor::HostTensor;

/// Overlap of neighbouring tiles in input pixels of the network, unless the user says otherwise.
const DEFAULT_OVERLAP: usize = 32;
/// Sides of tiles that are tried, largest first.
const TILE_SIDES: [usize; 12] = [2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 256, 192, 128];

/// How a picture of one size is cut, and what that takes.
#[derive(Clone, Debug)]
pub struct Tiling {
    /// The picture as padded to the network's grid.
    pub padded: (usize, usize),
    /// Tile height and width.
    pub tile: (usize, usize),
    /// Overlap of neighbouring tiles.
    pub overlap: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Whether the overlap covers the receptive field, so that tiles change nothing.
    pub exact: bool,
    /// Arena of one tile, bytes.
    pub arena: usize,
    /// Weights as the plan binds them, bytes.
    pub weights: usize,
    /// Operations of the whole picture.
    pub flops: f64,
}

impl Tiling {
    /// A sentence for the report, if there is more than one tile.
    pub fn note(&self) -> Option<String> {
        let (height, width) = self.tile;
        let text = || format!("{} tiles of {width}×{height} with an overlap of {}", self.tiles, self.overlap);
        (self.tiles > 1).then(text)
    }
}

/// Who is told how far a stage is, and asked whether to go on.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Checked between steps.
    pub cancel: &'a Cancel,
    /// Told the finished share, 0..=1.
    pub progress: &'a (dyn Fn(f32) + Sync),
}

/// A picture network, its weights, and the tiles that the user or the memory asks for.
pub struct TiledNetwork {
    /// The network with its weights.
    pub model: Loaded,
    /// Tile side in pixels that the network sees; `None` picks the largest that fits `memory`.
    pub tile: Option<usize>,
    /// Overlap of neighbouring tiles, in the same pixels.
    pub overlap: Option<usize>,
    /// Working memory for a tile, in bytes; a device that has less gets smaller tiles.
    pub memory: usize,
    device: Device,
    workspace: Workspace,
    /// The executable of the last tile size: pictures of one job are often alike.
    ready: Option<((usize, usize), Executable)>,
}

impl TiledNetwork {
    /// Checks that the weights fit the network.
    pub fn new(
        model: Loaded,
        tile: Option<usize>,
        overlap: Option<usize>,
        memory: usize,
        device: Device,
        workspace: Workspace,
    ) -> Result<Self> {
        let side = model.network.multiple().max(8);
        // A learned position embedding only fits its own size; pictures have no use for it.
        let graph = model.network.graph(1, side, side, false)?;
        model.check(&graph)?;
        Ok(TiledNetwork { model, tile, overlap, memory, device, workspace, ready: None })
    }

    fn plan(&self, (height, width): (usize, usize)) -> Result<Plan> {
        Plan::new(self.model.network.graph(1, height, width, false)?, &self.device)
    }

    /// Chooses tiles for a picture of this size.
    pub fn tiling(&self, (height, width): (usize, usize)) -> Result<Tiling> {
        let net = &*self.model.network;
        let m = net.multiple();
        let padded = (height.next_multiple_of(m), width.next_multiple_of(m));
        let (tile, overlap, plan) = self.choose_tile(padded)?;
        let canvas = Canvas::new(padded, tile, overlap, 1, 1, Join::Exact)?;
        let tiles = canvas.len();
        Ok(Tiling {
            padded,
            tile: canvas.tile_size(),
            overlap,
            tiles,
            exact: tiles == 1 || net.receptive_radius().is_some_and(|r| overlap >= 2 * r),
            arena: plan.arena_bytes,
            weights: plan.param_bytes(),
            flops: plan.cost().flops * tiles as f64,
        })
    }

    /// The largest tile whose plan fits the memory (or the user's), evened out over the picture.
    fn choose_tile(&self, padded: (usize, usize)) -> Result<(usize, usize, Plan)> {
        let m = self.model.network.multiple();
        let overlap = self.overlap.unwrap_or(DEFAULT_OVERLAP).next_multiple_of(m);
        let longest = padded.0.max(padded.1);
        let size = |side: usize| (side.min(padded.0), side.min(padded.1));
        if let Some(tile) = self.tile {
            let tile = tile.next_multiple_of(m);
            let overlap = if tile >= longest { overlap.min(tile - 1) } else { overlap };
            return Ok((tile, overlap, self.plan(size(tile))?));
        }
        let sides = std::iter::once(longest).chain(TILE_SIDES.into_iter().filter(|&s| s < longest));
        let mut smallest = None;
        let memory = self.memory.min(self.room());
        for side in sides.map(|s| s.next_multiple_of(m)) {
            // Estimates grow with the area; plan only what has a chance.
            if size(side).0 * size(side).1 > memory / 64 {
                continue;
            }
            if side < longest && side <= 2 * overlap {
                break;
            }
            let plan = self.plan(size(side))?;
            if plan.arena_bytes <= memory {
                let even = even_tile(longest, side, overlap).next_multiple_of(m);
                if even >= side {
                    return Ok((side, overlap.min(side - 1), plan));
                }
                return Ok((even, overlap, self.plan(size(even))?));
            }
            smallest = Some((side, plan.arena_bytes));
        }
        let (side, need) = smallest.unwrap_or((2 * overlap, usize::MAX));
        Err(Error::Usage(format!(
            "the smallest tile ({side} pixels) needs {} MiB of working memory; {} {} MiB",
            need >> 20,
            if memory < self.memory { "beside the weights the device has" } else { "--memory allows" },
            memory >> 20
        )))
    }

    /// What the device has for a tile, beside the weights.
    fn room(&self) -> usize {
        self.device.room().map_or(usize::MAX, |bytes| bytes.saturating_sub(self.model.weights.bytes()))
    }

    /// Gives up what it has made ready, and the working memory.
    pub fn forget(&mut self) {
        self.ready = None;
        self.workspace.release();
    }

    /// Predicted seconds for a picture cut like this, if the device is a GPU or stands for one.
    pub fn seconds(&self, tiling: &Tiling) -> Result<Option<f64>> {
        let tile = predict::seconds(&self.plan(tiling.tile)?, &self.device)?;
        Ok(tile.map(|s| s * tiling.tiles as f64))
    }

    fn executable(&mut self, tile: (usize, usize)) -> Result<&mut Executable> {
        if self.ready.as_ref().is_none_or(|(size, _)| *size != tile) {
            self.ready = None; // give the old arena back first
            let plan = self.plan(tile)?;
            let weights = &self.model.weights;
            let device = self.device.clone();
            let exe =
                Executable::in_workspace(plan, device, |key| weights.get(key).cloned(), &self.workspace)?;
            self.ready = Some((tile, exe));
        }
        Ok(&mut self.ready.as_mut().expect("just set").1)
    }

    /// Whether a picture of this size runs as it is on a device that takes kernels: in one tile that needs no
    /// border.
    pub fn runs_on_device(&self, layout: &Tiling, size: (usize, usize)) -> bool {
        self.device.as_kernels().is_some()
            && self.model.network.scale() == 1
            && (layout.padded, layout.tile, layout.tiles) == (size, size, 1)
    }

    /// [`TiledNetwork::run`] from device memory to device memory, where [`TiledNetwork::runs_on_device`]; the
    /// device may still be busy when this returns.
    pub fn run_on_device(
        &mut self,
        image: &DeviceImage,
        layout: &Tiling,
        watch: Watch,
    ) -> Result<DeviceImage> {
        let [h, w, channels] = image.size();
        let device = self.device.as_kernels().expect("a device that takes kernels").device.clone();
        let out = DeviceImage::new(&device, h, w, channels)?;
        let exe = self.executable(layout.tile)?;
        let name = exe.graph().outputs[0].0.clone();
        exe.run_on_device(&[("x", image.operand())], &[(name.as_str(), out.result())], |_, _| {
            watch.cancel.check()
        })?;
        Ok(out)
    }

    /// Runs the network on a whole picture, tile by tile.
    pub fn run(&mut self, image: FloatImage, layout: &Tiling, watch: Watch) -> Result<FloatImage> {
        let net = &*self.model.network;
        let (m, scale, channels) = (net.multiple(), net.scale(), net.channels());
        let (height, width) = (image.height, image.width);
        let padded = pad_reflect(&image, m);
        drop(image);
        let tile = layout.tile.0.max(layout.tile.1);
        let join = if layout.exact { Join::Exact } else { Join::Blend };
        let mut canvas =
            Canvas::new((padded.height, padded.width), tile, layout.overlap, scale, channels, join)?;
        let count = canvas.len();
        let exe = self.executable(canvas.tile_size())?;
        let whole: f64 = exe.plan().steps.iter().map(|s| s.cost.bytes + s.cost.flops).sum();
        for i in 0..count {
            let part = canvas.crop(&padded, i);
            let x = HostTensor::from_f32([1, part.height, part.width, channels], part.data);
            let mut done = 0.0;
            let mut out = exe.run_observed(&[("x", x)], |step, _| {
                done += step.cost.bytes + step.cost.flops;
                (watch.progress)((i as f64 + done / whole) as f32 / count as f32);
                watch.cancel.check()
            })?;
            let (_, y) = out.swap_remove(0);
            let (h, w) = (y.shape()[1], y.shape()[2]);
            canvas.place(i, &FloatImage::new(h, w, channels, y.to_f32().into_owned()))?;
        }
        let joined = canvas.into_output();
        if (joined.height, joined.width) == (height * scale, width * scale) {
            return Ok(joined);
        }
        Ok(crop(&joined, 0..height * scale, 0..width * scale))
    }
}

/// The smallest tile that needs no more tiles along `length` than `side` does.
fn even_tile(length: usize, side: usize, overlap: usize) -> usize {
    if side >= length {
        return side;
    }
    let count = (length - side).div_ceil(side - overlap) + 1;
    (length + (count - 1) * overlap).div_ceil(count)
}

#[cfg(test)]
mod tests {
    use super::even_tile;

    #[test]
    fn even_tiles_cover_with_no_more_tiles() {
        assert_eq!(even_tile(2048, 416, 32), 368); // six tiles either way
        assert_eq!(even_tile(500, 512, 32), 512);
        for (length, side) in [(1000, 300), (2048, 512), (777, 128)] {
            let count = |t: usize| (length - t.min(length)).div_ceil(t - 32) + 1;
            let even = even_tile(length, side, 32);
            assert!(even <= side && count(even) == count(side));
        }
    }
}
