//! Plain formulas.

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight, ConvSpec, InputNorm};
use crate::graph::{Array, Real, Reference};
use crate::ops::activation::Kind;
use crate::ops::activation::reference::value;
use crate::ops::case::to_host;
use crate::tensor::DType;

/// Visits every product of a convolution: (batch, y, x of the input, channel; y, x of the result,
/// channel; tap y, tap x).
fn each_product(
    spec: &ConvSpec,
    x: [usize; 4],
    y: [usize; 4],
    kernel: [usize; 2],
    mut f: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let (cg, ng) = (x[3] / spec.groups, y[3] / spec.groups);
    for b in 0..y[0] {
        for oy in 0..y[1] {
            for ox in 0..y[2] {
                for n in 0..y[3] {
                    for ky in 0..kernel[0] {
                        let Some(iy) = spec.source(0, oy, ky, x[1]) else { continue };
                        for kx in 0..kernel[1] {
                            let Some(ix) = spec.source(1, ox, kx, x[2]) else { continue };
                            for c in 0..cg {
                                f([b, iy, ix, n / ng * cg + c], [b, oy, ox, n], [n, c, ky, kx]);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn four<T>(a: &Array<T>) -> [usize; 4] {
    a.shape[..].try_into().expect("infer checked")
}

/// Inputs side by side in their channels, each pixel repeated.
fn gather<T: Real>(inputs: &[Array<T>], repeat: usize) -> Array<T> {
    let [b, h, w, _] = four(&inputs[0]);
    let channels: usize = inputs.iter().map(|x| x.shape[3]).sum();
    Array::from_fn([b, h * repeat, w * repeat, channels], |i| {
        let mut c = i[3];
        for x in inputs {
            if c < x.shape[3] {
                return x.at(&[i[0], i[1] / repeat, i[2] / repeat, c]);
            }
            c -= x.shape[3];
        }
        unreachable!("channel in range")
    })
}

impl Conv2d {
    /// The input as the products see it.
    fn seen<T: Real>(&self, inputs: &[Array<T>]) -> Array<T> {
        let mut x = gather(&inputs[..self.sources], self.upsample);
        if let Some(InputNorm { silu }) = self.norm {
            let [_, h, w, c] = four(&x);
            for (i, v) in x.data.iter_mut().enumerate() {
                let (sample, channel) = (i / (h * w * c), i % c);
                let z = *v * inputs[1].at(&[sample, 0, channel]) + inputs[1].at(&[sample, 1, channel]);
                *v = if silu { value(Kind::Silu, z) } else { z };
            }
        }
        x
    }

    /// The result of the input as the products see it.
    fn convolve<T: Real>(&self, x: &Array<T>, inputs: &[Array<T>]) -> Array<T> {
        let w = &inputs[self.weight()];
        let [b, h, wd, _] = four(x);
        let [n, _, kh, kw] = four(w);
        let out = |axis, size, k| self.spec.extent(axis, size, k).expect("infer checked");
        let shape = [b, out(0, h, kh), out(1, wd, kw), n];
        let mut y = Array::zeros(shape);
        each_product(&self.spec, four(x), shape, [kh, kw], |i, o, k| *y.at_mut(&o) += x.at(&i) * w.at(&k));
        for (i, v) in y.data.iter_mut().enumerate() {
            if let Some(k) = self.bias() {
                *v += inputs[k].data[i % n];
            }
            let r = self.residual().map_or(T::zero(), |k| inputs[k].data[i]);
            *v = self.epilogue.apply(*v, T::one(), r);
        }
        y
    }

    /// All results, given the first.
    fn results<T: Real>(&self, y: Array<T>, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let k = self.before_affine();
        let affine =
            self.affine.map(|norm| norm.eval(&[y.clone(), inputs[k].clone(), inputs[k + 1].clone()]));
        [y].into_iter().chain(affine.into_iter().flatten()).collect()
    }
}

impl Reference for Conv2d {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        self.results(self.convolve(&self.seen(inputs), inputs), inputs)
    }
}

/// With the input as the products see it and the result rounded to `dtype`.
pub(super) fn stored_in(op: &Conv2d, inputs: &[Array<f64>], dtype: DType) -> Vec<Array<f64>> {
    let rounded = |a: Array<f64>| Array::from_host(&to_host(&a, dtype));
    let y = op.convolve(&rounded(op.seen(inputs)), inputs);
    op.results(rounded(y), inputs)
}

impl Reference for Conv2dGradInput {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [dy, w] = inputs else { unreachable!("infer takes two operands") };
        let [_, cg, kh, kw] = four(w);
        let shape = [dy.shape[0], self.size[0], self.size[1], cg * self.spec.groups];
        let mut dx = Array::zeros(shape);
        each_product(&self.spec, shape, four(dy), [kh, kw], |i, o, k| *dx.at_mut(&i) += dy.at(&o) * w.at(&k));
        vec![dx]
    }
}

impl Reference for Conv2dGradWeight {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, dy] = inputs else { unreachable!("infer takes two operands") };
        let shape = [dy.shape[3], x.shape[3] / self.spec.groups, self.kernel[0], self.kernel[1]];
        let mut dw = Array::zeros(shape);
        each_product(&self.spec, four(x), four(dy), self.kernel, |i, o, k| {
            *dw.at_mut(&k) += x.at(&i) * dy.at(&o)
        });
        vec![dw]
    }
}
