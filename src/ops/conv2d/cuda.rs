//! Which kernels of `cuda/conv2d.cu` and `cuda/conv2d_halo.cu` run, and with what.

use super::{Conv2d, ConvSpec};
use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};
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
/// Rows and columns of a tile of the halo form.
const TILE: [usize; 2] = [8, 16];
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
    /// Tensor cores, channels in multiples of `vector`, `bn` of them a block; `halo`: all taps read one tile of pixels.
    Tensor { bn: usize, vector: usize, halo: bool },
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

    /// Whether all taps may read one tile of pixels, and tiles fit the picture: at most an eighth more of them than
    /// of 128 pixels in a row.
    fn tiled(&self) -> bool {
        let g = &self.geometry;
        let shape = [g.kernel_h, g.kernel_w, g.stride_y, g.stride_x, g.dilation_y, g.dilation_x];
        shape == [3, 3, 1, 1, 1, 1] && self.tiles() * 8 <= (g.pixels as usize).div_ceil(BM) * 9
    }

    /// Tiles of [`TILE`] pixels in all pictures.
    fn tiles(&self) -> usize {
        let [h, w] = [self.geometry.out_h as usize, self.geometry.out_w as usize];
        self.geometry.pixels as usize / (h * w).max(1) * h.div_ceil(TILE[0]) * w.div_ceil(TILE[1])
    }

    /// What runs for inputs of this element type whose pixels can be read in vectors as `vectors` says.
    fn form(&self, x: DType, vectors: impl Fn(usize) -> bool) -> Form {
        let g = &self.geometry;
        let shifts = [g.repeat_y, g.repeat_x].iter().all(|r| (*r as u32).is_power_of_two());
        if x == DType::F32 || self.groups > 1 || !shifts {
            return Form::Simt;
        }
        let halo = self.tiled();
        match () {
            () if vectors(8) => Form::Tensor { bn: self.bn(), vector: 8, halo },
            // Worth it where a slice is mostly filled.
            () if vectors(4) && self.channels.iter().all(|&c| c >= 24) => {
                Form::Tensor { bn: 64, vector: 4, halo }
            }
            () => Form::Simt,
        }
    }

    /// Whether dense inputs of this element type are read by a kernel that can normalise them and take moments.
    fn normalises(&self, x: DType) -> bool {
        let form = self.form(x, |n| self.channels.iter().all(|c| c.is_multiple_of(n)));
        matches!(form, Form::Tensor { halo: true, vector: 8, .. })
    }

    /// Bytes of the packed weights for a form.
    fn packed(&self, form: Form) -> usize {
        match form {
            Form::Simt => {
                let depth = (self.taps() * self.cin).next_multiple_of(SIMT_BK);
                self.groups * depth * self.cout.next_multiple_of(SIMT_BN) * 4
            }
            Form::Tensor { bn, .. } => self.slices() * TENSOR_BK * self.cout.next_multiple_of(bn) * 2,
        }
    }

    /// Bytes of the packed weights, whatever the layout of the inputs will be.
    pub(super) fn scratch(&self, x: DType) -> usize {
        let mut forms = vec![Form::Simt];
        if x != DType::F32 {
            forms.extend([(self.bn(), 8), (64, 4)].map(|(bn, vector)| Form::Tensor {
                bn,
                vector,
                halo: false,
            }));
        }
        forms.into_iter().map(|form| self.packed(form)).max().unwrap_or(0)
    }

    /// The launches: weights to `scratch` in the order of the kernel that runs, and the kernel.
    pub(super) fn launches(
        &self,
        x: &[CudaOperand],
        w: &CudaOperand,
        y: &CudaResult,
        epilogue: ffi::Epilogue,
        scratch: u64,
        fused: Fused,
    ) -> Vec<Launch> {
        let form = self.form(x[0].ty.dtype, |n| x.iter().all(|x| x.vectors(n)));
        let (tile, bn, halo) = match form {
            Form::Simt => ("simt_128x64x16".into(), SIMT_BN, false),
            Form::Tensor { bn, vector, halo } => {
                let (halo_, v4) = (if halo { "halo_" } else { "" }, if vector == 4 { "_v4" } else { "" });
                (format!("{halo_}128x{bn}x32{v4}"), bn, halo)
            }
        };
        let cout_padded = self.cout.next_multiple_of(bn);
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
        let pieces = match form {
            Form::Simt => self.packed(form) / 16,
            Form::Tensor { .. } => self.packed(form) / 16 / self.taps(),
        };
        let pack = ffi::Conv2dPack {
            w: w.address,
            packed: scratch,
            group_step: self.weight_steps[0] as i64,
            cout_step: self.weight_steps[1] as i64,
            cin_step: self.weight_steps[2] as i64,
            pieces: pieces as i64,
            channels,
            sources: x.len() as i32,
            taps: self.taps() as i32,
            turned: self.turned.into(),
            taps_inside: halo.into(),
            cin: self.cin as i32,
            cout: self.cout as i32,
            cout_padded: cout_padded as i32,
            depth_padded: (self.taps() * self.cin).next_multiple_of(SIMT_BK) as i32,
        };
        let pack_kernel = match form {
            Form::Simt => format!("conv2d_pack_simt_{}", w.ty.dtype),
            Form::Tensor { .. } => "conv2d_pack_tensor_b16".into(),
        };
        let forward = ffi::Conv2dFwd {
            source,
            w: scratch,
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
        let tiles = if halo { self.tiles() } else { (self.geometry.pixels as usize).div_ceil(BM) };
        vec![
            Launch::new(pack_kernel, [pieces.div_ceil(THREADS) as u32, 1, 1], &pack),
            Launch::new(
                format!("conv2d_fwd_{tile}_{dtype}"),
                [(tiles * (cout_padded / bn)) as u32, 1, self.groups as u32],
                &forward,
            ),
        ]
    }
}

/// What the halo form does besides; zeros are nothing.
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
            group_norm::partials_bytes(norm.groups, y).max(problem.tiles() * problem.cout * 8)
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
        if halo {
            fused = Fused { norm: affine.address, silu: norm.silu, ..fused };
        } else {
            let seen = call.scratch + at.seen as u64;
            launches.push(group_norm::rescale_launch(&x[0], affine, seen, norm.silu)?);
            x[0].address = seen; // dense, as the input is
        }
    }
    // Moments are taken of whole vectors.
    let whole = problem.cout.is_multiple_of(8) && (epilogue.bias | epilogue.residual).is_multiple_of(16);
    let aligned = x.iter().all(|x| x.vectors(8));
    let moments = call.scratch + at.moments as u64;
    if op.affine.is_some() && halo && aligned && whole {
        fused.moments = moments;
    }
    let w = &call.inputs[op.weight()];
    launches.extend(problem.launches(&x, w, y, epilogue, call.scratch, fused));
    if let Some(norm) = op.affine {
        let layout = Layout::dense(&y.ty.shape);
        let pieces = if fused.moments != 0 {
            ffi::GroupNormPieces {
                height: problem.geometry.out_h,
                width: problem.geometry.out_w,
                piece_h: TILE[0] as i32,
                piece_w: TILE[1] as i32,
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
