//! Which kernels of `cuda/conv2d.cu`, `cuda/conv2d_halo.cu` and `cuda/conv2d_sm90.cu` run, and with what.

use super::{Conv2d, ConvSpec};
use crate::device::kernel::{Launch, Swizzle, TensorMapSpec};
use crate::ffi;
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::graph::{Layout, TensorType};
use crate::ops::group_norm;
use crate::tensor::DType;

/// Threads of the kernels that give each thread its own result.
pub(super) const THREADS: usize = 128;
/// Pixels of a tile of the forward kernels.
const BM: usize = 128;
/// Channels of a tile and depth of a slice, general form.
const SIMT_BN: usize = 64;
const SIMT_BK: usize = 16;
/// Depth of a slice on tensor cores.
const TENSOR_BK: usize = 32;
/// Rows and columns of a tile of pixels that all taps read.
const HALO_TILE: [usize; 2] = [8, 16];
const WARPGROUP_TILE: [usize; 2] = [16, 16];
/// Channels of a block of warpgroups.
const WARPGROUP_BN: usize = 128;
/// Blocks that keep an A100 busy for two rounds or more: what the gradient of the weight is split into. Not of the
/// device at hand, so that results do not depend on it.
pub(super) const BLOCKS: usize = 432;

/// A convolution as the forward kernels see it: the op itself, or the gradient of its input.
pub(super) struct Problem {
    pub geometry: ffi::ConvGeometry,
    /// Of each input.
    pub channels: Vec<usize>,
    pub groups: usize,
    /// Input and output channels of a group.
    pub cin: usize,
    pub cout: usize,
    /// Elements of the weight between groups, output channels, input channels.
    pub weight_steps: [usize; 3],
    /// The last tap of the weight comes first.
    pub turned: bool,
}

/// What multiplies.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// f32 arithmetic, any layout.
    Simt,
    /// Tensor cores, channels in multiples of `vector`, `bn` of them a block.
    Tensor { bn: usize, vector: usize },
    /// The same, and all taps read one tile of pixels.
    Halo { bn: usize, vector: usize },
    /// A larger tile, for Hopper's warpgroups.
    Warpgroups,
}

impl Form {
    /// In the kernel's name.
    fn name(self) -> String {
        let v = |vector| if vector == 4 { "_v4" } else { "" };
        match self {
            Form::Simt => "simt_128x64x16".into(),
            Form::Tensor { bn, vector } => format!("128x{bn}x32{}", v(vector)),
            Form::Halo { bn, vector } => format!("halo_128x{bn}x32{}", v(vector)),
            Form::Warpgroups => "halo_256x128x32".into(),
        }
    }

    /// Channels of a block.
    fn bn(self) -> usize {
        match self {
            Form::Simt => SIMT_BN,
            Form::Tensor { bn, .. } | Form::Halo { bn, .. } => bn,
            Form::Warpgroups => WARPGROUP_BN,
        }
    }

    /// Rows and columns of pixels that all taps read from one tile.
    fn tile(self) -> Option<[usize; 2]> {
        match self {
            Form::Simt | Form::Tensor { .. } => None,
            Form::Halo { .. } => Some(HALO_TILE),
            Form::Warpgroups => Some(WARPGROUP_TILE),
        }
    }
}

/// Geometry of the op's forward; `repeat` copies of each input pixel.
pub(super) fn geometry(
    spec: &ConvSpec,
    batch: usize,
    input: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    repeat: usize,
) -> Result<ffi::ConvGeometry, String> {
    let result = ffi::ConvGeometry {
        height: input[0] as i32,
        width: input[1] as i32,
        reach_y: (input[0] * repeat) as i32,
        reach_x: (input[1] * repeat) as i32,
        out_h: out[0] as i32,
        out_w: out[1] as i32,
        kernel_h: kernel[0] as i32,
        kernel_w: kernel[1] as i32,
        stride_y: spec.stride[0] as i32,
        stride_x: spec.stride[1] as i32,
        pad_y: spec.pad[0] as i32,
        pad_x: spec.pad[2] as i32,
        dilation_y: spec.dilation[0] as i32,
        dilation_x: spec.dilation[1] as i32,
        repeat_y: repeat as i32,
        repeat_x: repeat as i32,
        shift_y: repeat.ilog2() as i32,
        shift_x: repeat.ilog2() as i32,
        stuffed: 0,
        pixels: (batch * out[0] * out[1]) as i32,
    };
    let largest = (batch * out[0] * out[1]).max(batch * input[0] * input[1] * repeat * repeat);
    if largest > 1 << 30 {
        return Err(format!(
            "kernels count up to 2^30 pixels, found {largest}; split the batch or the picture"
        ));
    }
    Ok(result)
}

pub(super) fn four(t: &TensorType) -> [usize; 4] {
    t.shape[..].try_into().expect("infer checked")
}

impl Problem {
    fn forward(op: &Conv2d, inputs: &[&TensorType]) -> Result<Self, String> {
        if op.sources > ffi::CONV2D_SOURCES as usize {
            return Err(format!("kernels read up to {} inputs, found {}", ffi::CONV2D_SOURCES, op.sources));
        }
        let ([batch, height, width, _], [cout, cin, kh, kw]) = (four(inputs[0]), four(inputs[op.weight()]));
        let extent = |axis, n: usize, k| op.spec.extent(axis, n * op.upsample, k).expect("infer checked");
        let (kernel, out) = ([kh, kw], [extent(0, height, kh), extent(1, width, kw)]);
        let (groups, taps) = (op.spec.groups, kh * kw);
        if cin == 0 {
            return Err("kernels need at least one input channel, found none".into());
        }
        Ok(Problem {
            geometry: geometry(&op.spec, batch, [height, width], out, kernel, op.upsample)?,
            channels: inputs[..op.sources].iter().map(|t| t.last()).collect(),
            groups,
            cin,
            cout: cout / groups,
            weight_steps: [cout / groups * cin * taps, cin * taps, taps],
            turned: false,
        })
    }

    fn taps(&self) -> usize {
        (self.geometry.kernel_h * self.geometry.kernel_w) as usize
    }

    /// Slices of the depth on tensor cores.
    fn slices(&self) -> usize {
        self.channels.iter().map(|c| c.div_ceil(TENSOR_BK)).sum::<usize>() * self.taps()
    }

    /// Channels of a block on tensor cores: the tile that does the least work, a wide tile's being the quickest;
    /// narrower where there are too few tiles for a GPU and each is long.
    fn bn(&self) -> usize {
        let time = |bn: usize, slowness: usize| self.cout.next_multiple_of(bn) * slowness;
        let (mut bn, _) = [(128, 20), (64, 23), (32, 30)]
            .into_iter()
            .min_by_key(|&(bn, slowness)| time(bn, slowness))
            .expect("three tiles");
        let blocks = |bn: usize| (self.geometry.pixels as usize).div_ceil(BM) * self.cout.div_ceil(bn);
        if bn == 128 && blocks(bn) < BLOCKS / 4 && self.slices() >= 16 {
            bn = 64;
        }
        bn
    }

    /// Whether all taps may read tiles like this, and they fit the picture: at most an eighth more of them than of
    /// as many pixels in a row.
    fn tiled(&self, tile: [usize; 2]) -> bool {
        let g = &self.geometry;
        let shape = [g.kernel_h, g.kernel_w, g.stride_y, g.stride_x, g.dilation_y, g.dilation_x];
        let fewest = (g.pixels as usize).div_ceil(tile[0] * tile[1]);
        shape == [3, 3, 1, 1, 1, 1] && self.tiles(tile) * 8 <= fewest * 9
    }

    /// Tiles of all pictures.
    fn tiles(&self, tile: [usize; 2]) -> usize {
        let [h, w] = [self.geometry.out_h as usize, self.geometry.out_w as usize];
        self.geometry.pixels as usize / (h * w).max(1) * h.div_ceil(tile[0]) * w.div_ceil(tile[1])
    }

    /// Whether Hopper's form fits: three quarters of its channels are there, and its tiles fill most of a card. One
    /// or two blocks take no time worth a choice: that much of a picture is what tests can simulate.
    fn fills_warpgroups(&self) -> bool {
        let padded = self.cout.next_multiple_of(WARPGROUP_BN);
        let blocks = self.tiles(WARPGROUP_TILE) * (padded / WARPGROUP_BN);
        self.tiled(WARPGROUP_TILE) && self.cout * 4 >= padded * 3 && (blocks >= 96 || blocks <= 2)
    }

    /// What runs for inputs of this element type whose pixels can be read in vectors as `vectors` says.
    fn form(&self, x: DType, hopper: bool, vectors: impl Fn(usize) -> bool) -> Form {
        let g = &self.geometry;
        let shifts = [g.repeat_y, g.repeat_x].iter().all(|r| (*r as u32).is_power_of_two());
        if x == DType::F32 || self.groups > 1 || !shifts {
            return Form::Simt;
        }
        let (bn, vector) = match () {
            () if vectors(8) => (self.bn(), 8),
            // Worth it where a slice is mostly filled.
            () if vectors(4) && self.channels.iter().all(|&c| c >= 24) => (64, 4),
            () => return Form::Simt,
        };
        match self.tiled(HALO_TILE) {
            true if hopper && vector == 8 && self.fills_warpgroups() => Form::Warpgroups,
            true => Form::Halo { bn, vector },
            false => Form::Tensor { bn, vector },
        }
    }

    /// Whether dense inputs of this element type are read by a kernel that can normalise them and take moments.
    fn normalises(&self, x: DType) -> bool {
        let form = self.form(x, false, |n| self.channels.iter().all(|c| c.is_multiple_of(n)));
        matches!(form, Form::Halo { vector: 8, .. })
    }

    /// Bytes of the packed weights for a form.
    fn packed(&self, form: Form) -> usize {
        match form {
            Form::Simt => {
                let depth = (self.taps() * self.cin).next_multiple_of(SIMT_BK);
                self.groups * depth * self.cout.next_multiple_of(SIMT_BN) * 4
            }
            _ => self.slices() * TENSOR_BK * self.cout.next_multiple_of(form.bn()) * 2,
        }
    }

    /// Bytes of the packed weights, whatever runs.
    pub(super) fn scratch(&self, x: DType) -> usize {
        let mut forms = vec![Form::Simt];
        if x != DType::F32 {
            let tensor = [(self.bn(), 8), (64, 4)].map(|(bn, vector)| Form::Tensor { bn, vector });
            forms.extend(tensor.into_iter().chain([Form::Warpgroups]));
        }
        forms.into_iter().map(|form| self.packed(form)).max().unwrap_or(0)
    }

    /// The form for these inputs on this call's device.
    fn form_of(&self, x: &[CudaOperand], call: &CudaCall) -> Form {
        self.form(x[0].ty.dtype, call.device.hopper, |n| x.iter().all(|x| x.vectors(n)))
    }

    /// The launches: weights to the call's scratch in the order of the kernel that runs, and the kernel.
    pub(super) fn launches(
        &self,
        call: &CudaCall,
        x: &[CudaOperand],
        w: &CudaOperand,
        epilogue: ffi::Epilogue,
        fused: Fused,
    ) -> Result<Vec<Launch>, String> {
        let form = self.form_of(x, call);
        let y = &call.outputs[0];
        let cout_padded = self.cout.next_multiple_of(form.bn());
        let dtype = x[0].ty.dtype;
        let mut channels = [0; ffi::CONV2D_SOURCES as usize];
        let mut source = [ffi::ConvSource::default(); ffi::CONV2D_SOURCES as usize];
        for (k, x) in x.iter().enumerate() {
            channels[k] = self.channels[k] as i32;
            source[k] = ffi::ConvSource {
                x: x.address,
                step: x.layout.as_rows().expect("accepts() asks for rows").2 as i64,
                channels: channels[k],
                reserved: 0,
            };
        }
        let pieces = self.packed(form) / 16 / if form == Form::Simt { 1 } else { self.taps() };
        let pack = ffi::Conv2dPack {
            w: w.address,
            packed: call.scratch,
            group_step: self.weight_steps[0] as i64,
            cout_step: self.weight_steps[1] as i64,
            cin_step: self.weight_steps[2] as i64,
            pieces: pieces as i64,
            channels,
            sources: x.len() as i32,
            taps: self.taps() as i32,
            turned: self.turned.into(),
            taps_inside: form.tile().is_some().into(),
            cin: self.cin as i32,
            cout: self.cout as i32,
            cout_padded: cout_padded as i32,
            depth_padded: (self.taps() * self.cin).next_multiple_of(SIMT_BK) as i32,
        };
        let pack_kernel = match form {
            Form::Simt => format!("conv2d_pack_simt_{}", w.ty.dtype),
            _ => "conv2d_pack_tensor_b16".into(),
        };
        let conv = ffi::Conv2dFwd {
            source,
            w: call.scratch,
            y: y.address,
            norm: fused.norm,
            moments: fused.moments,
            epilogue,
            geometry: self.geometry,
            sources: x.len() as i32,
            groups: self.groups as i32,
            cin: self.cin as i32,
            cout: self.cout as i32,
            cout_padded: cout_padded as i32,
            y_is_f32: (y.ty.dtype == DType::F32).into(),
            norm_silu: fused.silu.into(),
            reserved: 0,
        };
        let pixels = self.geometry.pixels as usize;
        let tiles = form.tile().map_or(pixels.div_ceil(BM), |tile| self.tiles(tile));
        let grid = [(tiles * (cout_padded / form.bn())) as u32, 1, self.groups as u32];
        let kernel = format!("conv2d_fwd_{}_{dtype}", form.name());
        let forward = if form == Form::Warpgroups {
            let spec = TensorMapSpec {
                address: call.scratch,
                dtype,
                extents: vec![TENSOR_BK, self.slices() * cout_padded],
                strides: vec![TENSOR_BK * dtype.size()],
                boxed: vec![TENSOR_BK, WARPGROUP_BN],
                swizzle: Swizzle::None, // packed as they lie in shared memory
            };
            let weights = (call.tensor_map)(&spec)?;
            Launch::new(
                format!("{kernel}_sm90"),
                grid,
                &ffi::Conv2dFwdSm90 { weights, conv, reserved: [0; 12] },
            )
        } else {
            Launch::new(kernel, grid, &conv)
        };
        Ok(vec![Launch::new(pack_kernel, [pieces.div_ceil(THREADS) as u32, 1, 1], &pack), forward])
    }
}

/// What forms with tiles of pixels do besides; zeros are nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Fused {
    /// Address of the scale and shift of the input's channels.
    norm: u64,
    silu: bool,
    /// Address for the moments of the result.
    moments: u64,
}

/// Where things are in the scratch of a forward convolution: packed weights at its start.
struct Scratch {
    /// The normalised input, where no kernel normalises what it reads.
    seen: usize,
    /// Moments of the result.
    moments: usize,
    bytes: usize,
}

impl Scratch {
    /// `x` and `y` as they are in memory.
    fn new(op: &Conv2d, problem: &Problem, x: &TensorType, y: &TensorType) -> Self {
        let aligned = |n: usize| n.next_multiple_of(256);
        let halo = problem.normalises(x.dtype);
        let seen = aligned(problem.scratch(x.dtype));
        let moments = seen + if op.norm.is_some() && !halo { aligned(x.bytes()) } else { 0 };
        let partials = op.affine.map_or(0, |norm| {
            group_norm::partials_bytes(norm.groups, y).max(problem.tiles(HALO_TILE) * problem.cout * 8)
        });
        Scratch { seen, moments, bytes: moments + partials }
    }
}

pub(super) fn reads_tiles(op: &Conv2d, inputs: &[&TensorType]) -> bool {
    Problem::forward(op, inputs).is_ok_and(|p| p.normalises(DType::BF16))
}

pub(super) fn forward_scratch(op: &Conv2d, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
    Problem::forward(op, inputs).map_or(0, |p| Scratch::new(op, &p, inputs[0], outputs[0]).bytes)
}

pub(super) fn forward(op: &Conv2d, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let types: Vec<_> = call.inputs.iter().map(|i| &i.ty).collect();
    let problem = Problem::forward(op, &types)?;
    let at = Scratch::new(op, &problem, types[0], &y.ty);
    let halo = problem.normalises(types[0].dtype);
    let [bias, residual] = [op.bias(), op.residual()].map(|k| k.map(|k| &call.inputs[k]));
    let epilogue = op.epilogue.on_cuda(bias, residual);
    let mut x: Vec<_> = call.inputs[..op.sources].to_vec();
    let mut fused = Fused::default();
    let mut launches = Vec::new();
    if let Some(norm) = op.norm {
        let affine = &call.inputs[1];
        if !halo {
            let seen = call.scratch + at.seen as u64;
            launches.push(group_norm::rescale_launch(&x[0], affine, seen, norm.silu)?);
            x[0].address = seen; // dense, as the input is
        } else if problem.form_of(&x, call).tile().is_some() {
            fused = Fused { norm: affine.address, silu: norm.silu, ..fused };
        } else {
            let found = x[0].address;
            return Err(format!(
                "kernels that normalise need x at a multiple of 16 bytes, found it at {found:#x}"
            ));
        }
    }
    // Moments are taken of whole vectors.
    let whole = problem.cout.is_multiple_of(8) && (epilogue.bias | epilogue.residual).is_multiple_of(16);
    let tile = problem.form_of(&x, call).tile().filter(|_| halo && whole && op.affine.is_some());
    let moments = call.scratch + at.moments as u64;
    if tile.is_some() {
        fused.moments = moments;
    }
    launches.extend(problem.launches(call, &x, &call.inputs[op.weight()], epilogue, fused)?);
    if let Some(norm) = op.affine {
        let layout = Layout::dense(&y.ty.shape);
        let pieces = if let Some(tile) = tile {
            ffi::GroupNormPieces {
                height: problem.geometry.out_h,
                width: problem.geometry.out_w,
                piece_h: tile[0] as i32,
                piece_w: tile[1] as i32,
                channels: problem.cout as i32,
                groups: norm.groups as i32,
            }
        } else {
            let result = CudaOperand { ty: y.ty.clone(), layout: &layout, address: y.address };
            let (launch, pieces) = group_norm::moments_launch(norm.groups, &result, moments)?;
            launches.push(launch);
            pieces
        };
        let weights = (&call.inputs[op.before_affine()], &call.inputs[op.before_affine() + 1]);
        launches.push(group_norm::affine_launch(&norm, moments, pieces, weights, &call.outputs[1]));
    }
    Ok(launches)
}
