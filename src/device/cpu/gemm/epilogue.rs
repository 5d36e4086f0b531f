//! What is done to a tile between the registers and memory.

use crate::device::cpu::math;
use crate::device::cpu::simd::simd_fn;

/// A function applied to each element of a result.
#[derive(Clone, Copy, Debug, Default)]
pub enum Activation<'a> {
    /// None.
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// x where positive, else slope·x.
    LeakyRelu(f32),
    /// Leaky ReLU with one slope a column.
    Prelu(&'a [f32]),
    /// GELU by the error function.
    GeluErf,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// x·sigmoid(x)
    Silu,
    /// 1/(1 + e^−x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// x limited to an interval.
    Clamp(f32, f32),
    /// Anything else, one value at a time.
    Function(fn(f32) -> f32),
}

/// What is added last.
#[derive(Clone, Copy, Debug, Default)]
pub enum Residual<'a> {
    /// Nothing.
    #[default]
    None,
    /// The old contents of the output: accumulation in place.
    Output,
    /// Another matrix of the output's shape, with its own distance between rows in values.
    Matrix(&'a [f32], usize),
}

/// Factors that differ from column to column and from one run of rows to the next.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    /// One factor a column; those of the next run of rows `step` further on.
    pub values: &'a [f32],
    /// Values between the factors of two runs of rows; 0: all rows have the same.
    pub step: usize,
    /// Rows of a run.
    pub rows: usize,
}

/// The rest of the work on a result: `out = gate · alpha · activation(product + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Added to each row: one value a column.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation<'a>,
    /// Multiplied after the activation.
    pub alpha: f32,
    /// Multiplied after alpha.
    pub gate: Option<Gate<'a>>,
    /// Added last.
    pub residual: Residual<'a>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue {
            bias: None,
            activation: Activation::Identity,
            alpha: 1.0,
            gate: None,
            residual: Residual::None,
        }
    }
}

/// An epilogue whose residual is an address: where the output is written, the residual is read.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation<'a>,
    pub alpha: f32,
    pub gate: Option<Gate<'a>>,
    /// First value and distance between rows.
    pub residual: Option<(*const f32, usize)>,
}

// SAFETY: the residual is only read, element by element, by the task that writes the same
// element of the output.
unsafe impl Send for Finish<'_> {}
// SAFETY: as above.
unsafe impl Sync for Finish<'_> {}

impl<'a> Epilogue<'a> {
    /// Checks the lengths against an output of `rows` × `columns` and fixes the residual's address.
    ///
    /// # Panics
    /// If the bias, the slopes, the gate or the residual are too short.
    pub(crate) fn resolve(&self, rows: usize, columns: usize, out: *const f32, ldo: usize) -> Finish<'a> {
        if let Some(bias) = self.bias {
            assert!(bias.len() >= columns, "bias of {} values for {columns} columns", bias.len());
        }
        if let Activation::Prelu(slopes) = self.activation {
            assert!(slopes.len() >= columns, "{} slopes for {columns} columns", slopes.len());
        }
        if let Some(Gate { values, step, rows: run }) = self.gate {
            assert!(values.len() >= extent(rows.div_ceil(run), columns, step), "gate too short");
        }
        let residual = match self.residual {
            Residual::None => None,
            Residual::Output => Some((out, ldo)),
            Residual::Matrix(x, stride) => {
                assert!(x.len() >= extent(rows, columns, stride), "residual too short");
                Some((x.as_ptr(), stride))
            }
        };
        Finish { bias: self.bias, activation: self.activation, alpha: self.alpha, gate: self.gate, residual }
    }
}

/// Values spanned by a matrix of `rows` × `columns` whose rows are `stride` apart.
pub(crate) fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns }
}

/// Where a tile lands in the output.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// First element.
    pub out: *mut f32,
    /// Distance between rows.
    pub ldo: usize,
    /// Elements between the start of the whole output's residual and this tile's.
    pub residual_offset: usize,
    /// First row (for the gate) and how many there are.
    pub row: usize,
    pub rows: usize,
    /// First column (for bias, slopes and gate) and how many of the tile's columns are real.
    pub column: usize,
    pub columns: usize,
}

/// Applies `f` to each value of a tile.
macro_rules! map {
    ($tile:ident, $f:expr) => {
        for x in $tile.iter_mut() {
            *x = $f(*x);
        }
    };
}

simd_fn! {
    /// Finishes a tile (rows of `width`, in cache) and writes it to its place. The tile's values
    /// are spoiled.
    ///
    /// The caller vouches for the addresses in `place` and in the residual.
    pub(crate) fn finish_tile(tile: &mut [f32], width: usize, place: Place, finish: Finish) {
        let Place { out, ldo, residual_offset, row: first_row, rows, column, columns } = place;
        let tile = &mut tile[..rows * width];
        if let Some(bias) = finish.bias {
            let bias = &bias[column..column + columns];
            for row in tile.chunks_exact_mut(width) {
                for (x, b) in row[..columns].iter_mut().zip(bias) {
                    *x += b;
                }
            }
        }
        match finish.activation {
            Activation::Identity => {}
            // Comparisons, not max: NaN must come out as NaN.
            Activation::Relu => map!(tile, |x: f32| if x < 0.0 { 0.0 } else { x }),
            Activation::LeakyRelu(slope) => map!(tile, |x: f32| if x < 0.0 { x * slope } else { x }),
            Activation::Prelu(slopes) => {
                let slopes = &slopes[column..column + columns];
                for row in tile.chunks_exact_mut(width) {
                    for (x, slope) in row[..columns].iter_mut().zip(slopes) {
                        *x = if *x < 0.0 { *x * slope } else { *x };
                    }
                }
            }
            Activation::GeluErf => map!(tile, math::gelu_erf),
            Activation::GeluTanh => map!(tile, math::gelu_tanh),
            Activation::Silu => map!(tile, math::silu),
            Activation::Sigmoid => map!(tile, math::sigmoid),
            Activation::Tanh => map!(tile, math::tanh),
            Activation::Clamp(lo, hi) => map!(tile, |x: f32| {
                let x = if x < lo { lo } else { x };
                if x > hi { hi } else { x }
            }),
            Activation::Function(f) => map!(tile, f),
        }
        let alpha = finish.alpha;
        for (r, row) in tile.chunks_exact_mut(width).enumerate() {
            let row = &mut row[..columns];
            if alpha != 1.0 {
                row.iter_mut().for_each(|x| *x *= alpha);
            }
            if let Some(Gate { values, step, rows }) = finish.gate {
                let gate = &values[(first_row + r) / rows * step + column..][..columns];
                row.iter_mut().zip(gate).for_each(|(x, g)| *x *= g);
            }
            // SAFETY: the caller vouches for the addresses. Residual and output may be the same
            // memory: the row's residual is read completely before the row is written.
            unsafe {
                if let Some((residual, stride)) = finish.residual {
                    let residual = std::slice::from_raw_parts(residual.add(residual_offset + r * stride), columns);
                    row.iter_mut().zip(residual).for_each(|(x, y)| *x += y);
                }
                out.add(r * ldo).copy_from_nonoverlapping(row.as_ptr(), columns);
            }
        }
    }
}
