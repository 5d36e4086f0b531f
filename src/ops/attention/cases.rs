//! Registry rows and cases.

use super::{Attention, AttentionGrad};
use crate::ops::{Case, CaseInput, OpEntry};

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "attention",
        family: "attention",
        about: "softmax(scale·QKᵀ + bias)·V with key lengths and causal mask, tiled",
        cases: forward_cases,
    },
    OpEntry {
        name: "attention_grad",
        family: "attention",
        about: "gradients of attention, weights recomputed tile by tile",
        cases: backward_cases,
    },
];

/// Extents and options of a case, for both directions.
#[derive(Clone, Copy)]
struct Setup {
    name: &'static str,
    /// Batch, queries, keys, heads, depth.
    extents: [usize; 5],
    causal: bool,
    /// Leading extents of the bias.
    bias: Option<[usize; 2]>,
    lengths: Option<&'static [i64]>,
    /// Entry of k and v for each entry of q, and how many entries there are.
    kv_rows: Option<(&'static [usize], usize)>,
}

const fn plain(name: &'static str, extents: [usize; 5]) -> Setup {
    Setup { name, extents, causal: false, bias: None, lengths: None, kv_rows: None }
}

const SMALL: &[Setup] = &[
    plain("one_token", [1, 1, 1, 1, 5]),
    plain("depth_30", [2, 13, 13, 2, 30]),
    plain("depth_64", [1, 65, 65, 2, 64]),
    plain("depth_72", [1, 50, 70, 2, 72]),
    plain("depth_512", [1, 20, 9, 1, 512]),
    plain("depth_130", [1, 4, 5, 1, 130]),
    plain("whole_tiles", [1, 128, 128, 1, 8]),
    plain("more_tiles", [1, 193, 10, 1, 40]),
    plain("one_query", [2, 1, 130, 2, 8]),
    plain("one_key", [1, 65, 1, 2, 3]),
    plain("many_blocks", [1, 600, 13, 1, 4]),
    Setup { causal: true, ..plain("causal", [2, 70, 70, 1, 16]) },
    Setup { causal: true, ..plain("causal_72", [1, 130, 66, 1, 72]) },
    Setup { causal: true, ..plain("causal_fewer_keys", [1, 100, 65, 1, 8]) },
    Setup { causal: true, ..plain("causal_more_keys", [1, 13, 80, 2, 8]) },
    Setup { lengths: Some(&[5, 0, 70, 99]), ..plain("lengths", [4, 17, 70, 2, 12]) },
    Setup { bias: Some([1, 2]), ..plain("bias_per_head", [2, 20, 67, 2, 12]) },
    Setup { bias: Some([3, 1]), ..plain("bias_per_sample", [3, 13, 9, 2, 6]) },
    Setup { bias: Some([1, 1]), ..plain("bias_shared", [2, 300, 5, 2, 6]) },
    Setup {
        causal: true,
        bias: Some([2, 2]),
        lengths: Some(&[60, 33]),
        ..plain("everything", [2, 65, 66, 2, 10])
    },
];

/// Forward only.
const SHARED: &[Setup] = &[
    Setup { bias: Some([1, 1]), lengths: Some(&[35]), ..plain("depth_264", [1, 40, 40, 1, 264]) },
    Setup { causal: true, ..plain("causal_512", [1, 66, 33, 1, 512]) },
    Setup { kv_rows: Some((&[1, 0, 1], 2)), ..plain("kv_rows", [3, 13, 70, 2, 8]) },
    Setup { kv_rows: Some((&[0, 0, 0, 0], 1)), ..plain("kv_rows_one", [4, 5, 9, 1, 12]) },
    Setup {
        kv_rows: Some((&[2, 2], 3)),
        lengths: Some(&[1, 2, 60]),
        bias: Some([2, 1]),
        ..plain("kv_rows_lengths", [2, 500, 66, 2, 10])
    },
];

const MODELS: &[Setup] = &[
    plain("pixart_1024_self", [1, 4096, 4096, 16, 72]),
    Setup { lengths: Some(&[77]), ..plain("pixart_1024_cross", [1, 4096, 120, 16, 72]) },
    plain("sdxl_self", [1, 4096, 4096, 10, 64]),
    plain("vae_mid", [1, 4096, 4096, 1, 512]),
    Setup { bias: Some([1, 64]), lengths: Some(&[120]), ..plain("t5", [1, 120, 120, 64, 64]) },
    Setup { causal: true, ..plain("clip_text", [1, 77, 77, 12, 64]) },
];

impl Setup {
    fn op(&self) -> Attention {
        Attention {
            scale: (self.extents[4] as f32).sqrt().recip(),
            causal: self.causal,
            bias: self.bias.is_some(),
            key_lengths: self.lengths.is_some(),
            kv_rows: self.kv_rows.map(|(rows, _)| rows.into()),
        }
    }

    fn operands(&self) -> Vec<CaseInput> {
        let [batch, queries, keys, heads, depth] = self.extents;
        let kv_batch = self.kv_rows.map_or(batch, |(_, entries)| entries);
        let q = CaseInput::normal([batch, queries, heads, depth]);
        let kv = CaseInput::normal([kv_batch, keys, heads, depth]);
        let bias = self.bias.map(|[b, h]| CaseInput::normal([b, h, queries, keys]));
        let lengths = self.lengths.map(|l| CaseInput::i64([kv_batch], l));
        [q, kv.clone(), kv].into_iter().chain(bias).chain(lengths).collect()
    }

    /// With every extra result and operand that applies. Log-sum-exps are drawn near those of real
    /// scores; the formula holds for any.
    fn gradient(&self) -> (AttentionGrad, Vec<CaseInput>) {
        let [batch, queries, keys, heads, depth] = self.extents;
        let op = AttentionGrad { forward: self.op(), d_lse: self.causal, d_bias: self.bias.is_some() };
        let near = ((keys + 1) as f64).ln() + 0.5;
        let lse = CaseInput::uniform([batch, heads, queries], near, near + 1.0);
        let like_q = CaseInput::normal([batch, queries, heads, depth]);
        let mut operands = self.operands();
        operands.extend([like_q.clone(), lse.clone(), like_q]);
        operands.extend(op.d_lse.then_some(lse));
        (op, operands)
    }
}

fn forward_cases() -> Vec<Case> {
    let small = SMALL.iter().chain(SHARED).map(|s| Case::test(s.name, s.op(), s.operands()));
    small.chain(MODELS.iter().map(|s| Case::bench(s.name, s.op(), s.operands()))).collect()
}

fn backward_cases() -> Vec<Case> {
    let case = |s: &Setup, bench| {
        let (op, operands) = s.gradient();
        Case { bench, ..Case::test(s.name, op, operands) }
    };
    SMALL.iter().map(|s| case(s, false)).chain(MODELS.iter().map(|s| case(s, true))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::graph::{Op, TensorType};
    use crate::ops::Fill;
    use crate::ops::case::to_host;
    use crate::ops::check::{Arrangement, run_fast};

    #[test]
    fn rows_that_see_nothing_are_zero() {
        let setup = Setup { bias: Some([1, 1]), ..plain("hidden", [1, 2, 70, 1, 4]) };
        let hide = |operands: &mut Vec<CaseInput>| {
            let bias = (0..140).map(|i| if i < 70 { f64::NEG_INFINITY } else { 0.0 }).collect();
            operands[3].fill = Fill::Values(bias);
        };
        let device = CpuDevice::new(2).unwrap();
        let run = |op: Case| {
            let inputs: Vec<_> =
                op.draw(1).iter().zip(&op.inputs).map(|(a, i)| to_host(a, i.ty.dtype)).collect();
            run_fast(&op, &inputs, Arrangement::Dense, &device).unwrap()
        };
        let mut operands = setup.operands();
        hide(&mut operands);
        let results = run(Case::test("hidden", setup.op(), operands));
        assert_eq!(results[0].to_f32()[..4], [0.0; 4]);
        assert_eq!(results[1].to_f32()[0], 0.0);
        assert!(results.iter().all(|r| r.to_f32().iter().all(|x| x.is_finite())));

        let (op, mut operands) = setup.gradient();
        hide(&mut operands);
        let results = run(Case::test("hidden", op, operands));
        assert_eq!(results[0].to_f32()[..4], [0.0; 4], "dq");
        assert!(results.iter().all(|r| r.to_f32().iter().all(|x| x.is_finite())));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused_with_their_shapes() {
        let op = Setup { bias: Some([1, 1]), lengths: Some(&[1]), ..plain("", [1, 1, 1, 1, 1]) }.op();
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        let good = [f32(&[2, 5, 3, 8]), f32(&[2, 7, 3, 8]), f32(&[2, 7, 3, 8]), f32(&[1, 3, 5, 7])];
        let lengths = TensorType::new(crate::tensor::DType::I64, [2]);
        let infer = |at: usize, bad: TensorType| {
            let mut all = good.to_vec();
            all.push(lengths.clone());
            all[at] = bad;
            op.infer(&all.iter().collect::<Vec<_>>())
        };
        assert!(infer(0, good[0].clone()).is_ok());
        for (at, bad, said) in [
            (0, f32(&[2, 5, 24]), "q must be [batch, tokens, heads, depth]"),
            (1, f32(&[2, 7, 3, 9]), "batch, heads and depth must be equal"),
            (2, f32(&[2, 6, 3, 8]), "v must be like k"),
            (3, f32(&[2, 3, 7, 5]), "bias must be [2 or 1, 3 or 1, 5, 7]"),
            (4, f32(&[2]), "key lengths must be i64 [2]"),
        ] {
            let message = infer(at, bad).unwrap_err();
            assert!(message.contains(said), "{message}");
        }
        let plain = Setup::op(&plain("", [2, 5, 7, 3, 8]));
        for (rows, said) in [
            (&[0, 1, 1][..], "kv_rows has 3 entries for the batch of 2 of q"),
            (&[0, 2], "kv_rows asks for entry 2 of k, which has 2"),
        ] {
            let op = Attention { kv_rows: Some(rows.into()), ..plain.clone() };
            assert_eq!(op.infer(&good[..3].iter().collect::<Vec<_>>()).unwrap_err(), said);
        }
    }
}
