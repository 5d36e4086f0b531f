//! Fast paths: rows over threads, inner loops over channels.

use rayon::prelude::*;

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight};
use crate::graph::op::CpuCall;

/// Weights `[N, C/g, kh, kw]` as `[g][kh][kw][C/g][N/g]`, so that results are contiguous.
fn transpose_weight(w: &[f32], shape: &[usize], groups: usize) -> Vec<f32> {
    let [n, cg, kh, kw] = shape[..] else { unreachable!("infer checked") };
    let ng = n / groups;
    let mut out = vec![0.0; w.len()];
    for o in 0..n {
        let (g, j) = (o / ng, o % ng);
        for c in 0..cg {
            for t in 0..kh * kw {
                out[((g * kh * kw + t) * cg + c) * ng + j] = w[(o * cg + c) * kh * kw + t];
            }
        }
    }
    out
}

pub(super) fn forward(op: &Conv2d, mut call: CpuCall) -> Result<(), String> {
    let types: Vec<_> = call.inputs.iter().map(|i| i.ty).collect();
    let d = op.dims(&types)?;
    let s = op.sources;
    let wt = transpose_weight(call.inputs[s].f32(), &call.inputs[s].ty.shape, op.spec.groups);
    let bias = op.bias.then(|| call.inputs[s + 1].f32());
    let residual = op.epilogue.residual.then(|| call.inputs.last().expect("infer checked"));
    let residual = residual.filter(|r| !r.in_output()).map(|r| r.f32());
    let sources: Vec<_> = call.inputs[..s]
        .iter()
        .map(|x| (x.f32(), x.layout.as_rows().expect("accepts checked").2, x.ty.last()))
        .collect();
    let [kh, kw] = d.kernel;
    let (cg, ng) = (d.cin / op.spec.groups, d.cout / op.spec.groups);
    let up = op.upsample;
    let row = d.out[1] * d.cout;
    call.outputs[0].f32().par_chunks_mut(row.max(1)).enumerate().for_each(|(r, y)| {
        let (b, oy) = (r / d.out[0], r % d.out[0]);
        let mut sum = vec![0.0f32; d.cout];
        for ox in 0..d.out[1] {
            sum.fill(0.0);
            for ky in 0..kh {
                let Some(iy) = op.spec.source(0, oy, ky, d.height * up) else { continue };
                for kx in 0..kw {
                    let Some(ix) = op.spec.source(1, ox, kx, d.width * up) else { continue };
                    let pixel = (b * d.height + iy / up) * d.width + ix / up;
                    let mut c = 0;
                    for &(x, step, channels) in &sources {
                        for &a in &x[pixel * step..pixel * step + channels] {
                            let (g, k) = (c / cg, c % cg);
                            let w = &wt[((g * kh * kw + ky * kw + kx) * cg + k) * ng..][..ng];
                            sum[g * ng..][..ng].iter_mut().zip(w).for_each(|(s, &w)| *s += a * w);
                            c += 1;
                        }
                    }
                }
            }
            for (n, s) in sum.iter().enumerate() {
                let at = ox * d.cout + n;
                let v = s + bias.map_or(0.0, |b| b[n]);
                let res = residual.map_or(y[at], |v| v[r * row + at]);
                y[at] = op.epilogue.apply(v, res);
            }
        }
    });
    Ok(())
}

pub(super) fn grad_input(op: &Conv2dGradInput, mut call: CpuCall) {
    let dy = call.inputs[0].f32();
    let w = call.inputs[1].f32();
    let [_, oh, ow, n] = call.inputs[0].ty.shape[..] else { unreachable!("infer checked") };
    let [_, cg, kh, kw] = call.inputs[1].ty.shape[..] else { unreachable!("infer checked") };
    let [height, width] = op.size;
    let c = cg * op.spec.groups;
    let ng = n / op.spec.groups;
    // Weights as [kh][kw][N][C/g], so that dx is contiguous.
    let mut wt = vec![0.0f32; w.len()];
    for (i, &v) in w.iter().enumerate() {
        let (t, rest) = (i % (kh * kw), i / (kh * kw));
        wt[(t * n + rest / cg) * cg + rest % cg] = v;
    }
    call.outputs[0].f32().par_chunks_mut((width * c).max(1)).enumerate().for_each(|(r, dx)| {
        dx.fill(0.0);
        let (b, iy) = (r / height, r % height);
        for oy in 0..oh {
            for ky in 0..kh {
                if op.spec.source(0, oy, ky, height) != Some(iy) {
                    continue;
                }
                for ox in 0..ow {
                    let dy = &dy[((b * oh + oy) * ow + ox) * n..][..n];
                    for kx in 0..kw {
                        let Some(ix) = op.spec.source(1, ox, kx, width) else { continue };
                        for (o, &g) in dy.iter().enumerate() {
                            let to = &mut dx[ix * c + o / ng * cg..][..cg];
                            let w = &wt[((ky * kw + kx) * n + o) * cg..][..cg];
                            to.iter_mut().zip(w).for_each(|(d, &w)| *d += g * w);
                        }
                    }
                }
            }
        }
    });
}

pub(super) fn grad_weight(op: &Conv2dGradWeight, mut call: CpuCall) {
    let (x, dy) = (call.inputs[0].f32(), call.inputs[1].f32());
    let [batch, height, width, c] = call.inputs[0].ty.shape[..] else { unreachable!("infer checked") };
    let [_, oh, ow, n] = call.inputs[1].ty.shape[..] else { unreachable!("infer checked") };
    let [kh, kw] = op.kernel;
    let cg = c / op.spec.groups;
    let ng = n / op.spec.groups;
    call.outputs[0].f32().par_chunks_mut((cg * kh * kw).max(1)).enumerate().for_each(|(o, dw)| {
        let mut sum = vec![0.0f32; cg * kh * kw]; // [kh][kw][C/g]
        let first = o / ng * cg;
        for b in 0..batch {
            for oy in 0..oh {
                for ky in 0..kh {
                    let Some(iy) = op.spec.source(0, oy, ky, height) else { continue };
                    for ox in 0..ow {
                        let g = dy[((b * oh + oy) * ow + ox) * n + o];
                        for kx in 0..kw {
                            let Some(ix) = op.spec.source(1, ox, kx, width) else { continue };
                            let x = &x[((b * height + iy) * width + ix) * c + first..][..cg];
                            let to = &mut sum[(ky * kw + kx) * cg..][..cg];
                            to.iter_mut().zip(x).for_each(|(s, &x)| *s += g * x);
                        }
                    }
                }
            }
        }
        for k in 0..cg {
            for t in 0..kh * kw {
                dw[k * kh * kw + t] = sum[t * cg + k];
            }
        }
    });
}
