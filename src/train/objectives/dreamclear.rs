//! DreamClear as it is officially trained: the noise is predicted, and its variance learned by the variational
//! bound (`GaussianDiffusion.training_losses` with `LossType.MSE` and learned variances; Nichol and Dhariwal, ICML
//! 2021).

use crate::diffusion::Schedule;
use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::models::Shapes;
use crate::models::controlformer::{DreamClear, Inputs};
use crate::models::network::Network;
use crate::models::pixart_names::{BASE, NULL_CAPTION};
use crate::tensor::{DType, HostTensor};
use crate::train::objective::{Distance, Objective, Recorded, Reduction};

/// Half a level of 8-bit pixels in −1..1. The official code has it for latents as well.
const HALF_BIN: f32 = 1.0 / 255.0;
/// Beyond this a bin of the discretised distribution is open.
const EDGE: f32 = 0.999;
/// No probability is below this.
const LEAST: f32 = 1e-12;

/// Which samples attend to each other in the cross-attention of the branches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossDeScope {
    /// All of a batch, as in the official code: what a sample becomes depends on the others.
    #[default]
    Batch,
    /// Each by itself.
    Sample,
}

/// mean (noise − ε)² + vb.
///
/// Inputs of a batch: `x_start`, clean latents, and `noise`, normal, f32 `[B, C, H, W]`; `timestep`, i64 `[B]` in
/// 0..1000; `c_lq` and `c_pre`, latents of the degraded picture and of its reference, like `x_start`; `y`, caption
/// tokens, f32 `[B, L, caption_channels]`, the valid ones first, and `lengths`, how many these are, i64 `[B]`;
/// `img_hw` `[B, 2]` and `aspect_ratio` `[B, 1]`, f32; with `class_dropout` `drop`, f32 `[B]`: 1 where the tokens of
/// the null caption take the place of y (of which `lengths` still says how many are seen), else 0.
#[derive(Clone, Debug)]
pub struct DreamClearObjective {
    /// The network; it predicts variances (`pred_sigma`).
    pub network: DreamClear,
    /// Height and width of the latents.
    pub size: [usize; 2],
    /// Tokens of a caption; with `class_dropout` as many as the null caption has.
    pub tokens: usize,
    /// Whether captions are dropped.
    pub class_dropout: bool,
    /// Which samples attend to each other.
    pub scope: CrossDeScope,
    /// Whether the base is trained, too. Officially it is not: it has learned from other data before.
    pub train_base: bool,
}

impl Objective for DreamClearObjective {
    fn parameters(&self) -> Result<Shapes> {
        Network::parameters(&self.network)
    }

    fn trainable(&self, key: &str) -> bool {
        self.train_base || !key.starts_with(BASE)
    }

    fn record(&self, b: &mut GraphBuilder, batch: usize) -> Result<Recorded> {
        let (base, [h, w]) = (&self.network.base, self.size);
        if !base.pred_sigma {
            return Err(b.error("dreamclear", "expected a network that predicts variances (pred_sigma)"));
        }
        let latent = [batch, base.in_channels, h, w];
        let mut input = |name: &str, dtype, shape: &[usize]| b.input(name, dtype, shape);
        let x_start = input("x_start", DType::F32, &latent)?;
        let noise = input("noise", DType::F32, &latent)?;
        let timestep = input("timestep", DType::I64, &[batch])?;
        let mut y = input("y", DType::F32, &[batch, self.tokens, base.caption_channels])?;
        let lengths = input("lengths", DType::I64, &[batch])?;
        let (c_lq, c_pre) = (input("c_lq", DType::F32, &latent)?, input("c_pre", DType::F32, &latent)?);
        let img_hw = input("img_hw", DType::F32, &[batch, 2])?;
        let aspect_ratio = input("aspect_ratio", DType::F32, &[batch, 1])?;
        if self.class_dropout {
            let drop = b.input("drop", DType::F32, [batch])?;
            y = self.drop_captions(b, y, drop)?;
        }
        let at = Levels::at(b, timestep)?;
        let x_t = at.noised(b, x_start, noise)?;
        let scope = if self.scope == CrossDeScope::Batch { batch } else { 1 };
        let timestep = b.reshape(at.timestep, [batch])?;
        let kv_rows = (0..batch).collect();
        let inputs =
            Inputs { x: x_t, timestep, y, lengths, kv_rows, img_hw, aspect_ratio, c_lq, c_pre, scope };
        let out = self.network.build(b, &inputs)?;
        let eps = b.slice(out, 1, 0, base.in_channels)?;
        let variance = b.slice(out, 1, base.in_channels, base.in_channels)?;
        let mse = Distance::Mse.record(b, noise, eps, Reduction::Mean)?;
        // The bound teaches the variance alone.
        let eps = b.detach(eps)?;
        let vb = at.bound(b, x_start, x_t, eps, variance)?;
        let loss = b.add(mse, vb)?;
        Ok(Recorded { loss, terms: vec![("mse", mse), ("vb", vb)] })
    }
}

impl DreamClearObjective {
    /// The null caption's tokens where `drop` is 1.
    fn drop_captions(&self, b: &mut GraphBuilder, y: ValueId, drop: ValueId) -> Result<ValueId> {
        let base = &self.network.base;
        if self.tokens != base.model_max_length {
            let (tokens, null) = (self.tokens, base.model_max_length);
            let message =
                format!("expected captions of {null} tokens, as the null caption has, found {tokens}");
            return Err(b.error("class dropout", message));
        }
        let key = format!("{BASE}{NULL_CAPTION}");
        let null = b.param(&key, [base.model_max_length, base.caption_channels])?;
        let batch = b.shape(drop)[0];
        let drop = b.reshape(drop, [batch, 1, 1])?;
        let one = b.scalar(1.0);
        let keep = b.sub(one, drop)?;
        let (kept, dropped) = (b.mul(y, keep)?, b.mul(null, drop)?);
        b.add(kept, dropped)
    }
}

/// The schedule's numbers at the timestep of each sample, `[B, 1, 1, 1]` each and rounded to f32 from f64, as
/// `_extract_into_tensor` has them.
struct Levels {
    timestep: ValueId,
    /// √ᾱ and √(1 − ᾱ).
    signal: ValueId,
    sigma: ValueId,
    /// √(1/ᾱ) and √(1/ᾱ − 1): x_0 from x_t and noise.
    recip: ValueId,
    recip_less: ValueId,
    /// Mean of the posterior: how much of x_0 and of x_t.
    of_start: ValueId,
    of_noisy: ValueId,
    /// Logarithms of the least and the largest variance: the posterior's (at 0 that of 1) and β.
    least: ValueId,
    most: ValueId,
    /// 1 at timestep 0, else 0.
    last: ValueId,
}

impl Levels {
    fn at(b: &mut GraphBuilder, timestep: ValueId) -> Result<Self> {
        const COLUMNS: usize = 10;
        let schedule = Schedule::dreamclear();
        let bar = &schedule.alphas_cumprod;
        let before = |t: usize| if t == 0 { 1.0 } else { bar[t - 1] };
        let posterior = |t: usize| schedule.betas[t] * (1.0 - before(t)) / (1.0 - bar[t]);
        let row = |t: usize| -> [f64; COLUMNS] {
            let (beta, bar) = (schedule.betas[t], bar[t]);
            [
                t as f64,
                bar.sqrt(),
                (1.0 - bar).sqrt(),
                (1.0 / bar).sqrt(),
                (1.0 / bar - 1.0).sqrt(),
                beta * before(t).sqrt() / (1.0 - bar),
                (1.0 - before(t)) * (1.0 - beta).sqrt() / (1.0 - bar),
                posterior(t.max(1)).ln(),
                beta.ln(),
                if t == 0 { 1.0 } else { 0.0 },
            ]
        };
        let values = (0..schedule.len()).flat_map(row).map(|x| x as f32).collect();
        let table = b.constant(HostTensor::from_f32([schedule.len(), COLUMNS], values));
        let rows = b.embedding(table, timestep)?;
        let batch = b.shape(rows)[0];
        let mut column = 0;
        let mut next = || {
            let x = b.slice(rows, 1, column, 1)?;
            column += 1;
            b.reshape(x, [batch, 1, 1, 1])
        };
        Ok(Levels {
            timestep: next()?,
            signal: next()?,
            sigma: next()?,
            recip: next()?,
            recip_less: next()?,
            of_start: next()?,
            of_noisy: next()?,
            least: next()?,
            most: next()?,
            last: next()?,
        })
    }

    /// `q_sample`.
    fn noised(&self, b: &mut GraphBuilder, x: ValueId, noise: ValueId) -> Result<ValueId> {
        combine(b, (self.signal, x), (self.sigma, noise))
    }

    /// `_vb_terms_bpd`, averaged over the batch: bits per element of KL(q(x_{t−1} | x_t, x_0) ‖ p), at timestep 0
    /// of −ln p(x_0).
    fn bound(
        &self,
        b: &mut GraphBuilder,
        x_start: ValueId,
        x_t: ValueId,
        eps: ValueId,
        variance: ValueId,
    ) -> Result<ValueId> {
        let (one, half) = (b.scalar(1.0), b.scalar(0.5));
        // −1..1 stands for the least to the largest variance.
        let above = b.add(variance, one)?;
        let share = b.mul(above, half)?;
        let rest = b.sub(one, share)?;
        let log_variance = combine(b, (share, self.most), (rest, self.least))?;
        let (signal, noise) = (b.mul(self.recip, x_t)?, b.mul(self.recip_less, eps)?);
        let predicted = b.sub(signal, noise)?;
        let mean = combine(b, (self.of_start, predicted), (self.of_noisy, x_t))?;
        let true_mean = combine(b, (self.of_start, x_start), (self.of_noisy, x_t))?;

        let difference = b.sub(log_variance, self.least)?;
        let minus = b.scale(difference, -1.0)?;
        let ratio = b.exp(minus)?;
        let off = b.sub(true_mean, mean)?;
        let off = b.mul(off, off)?;
        let minus = b.scale(log_variance, -1.0)?;
        let precision = b.exp(minus)?;
        let off = b.mul(off, precision)?;
        let kl = b.sub(difference, one)?;
        let kl = b.add(kl, ratio)?;
        let kl = b.add(kl, off)?;
        let kl = b.mul(kl, half)?;
        let kl = b.mean(kl, &[1, 2, 3], true)?;

        let log_scale = b.mul(log_variance, half)?;
        let likelihood = log_likelihood(b, x_start, mean, log_scale)?;
        let likelihood = b.mean(likelihood, &[1, 2, 3], true)?;
        let nll = b.scale(likelihood, -1.0)?;
        let nats = combine_by(b, self.last, nll, kl)?;
        let bits = b.scale(nats, std::f32::consts::LOG2_E)?;
        b.mean(bits, &[0, 1, 2, 3], false)
    }
}

/// a·x + b·y.
fn combine(b: &mut GraphBuilder, (f, x): (ValueId, ValueId), (g, y): (ValueId, ValueId)) -> Result<ValueId> {
    let (x, y) = (b.mul(f, x)?, b.mul(g, y)?);
    b.add(x, y)
}

/// x where `choice` is 1, y where it is 0.
fn combine_by(b: &mut GraphBuilder, choice: ValueId, x: ValueId, y: ValueId) -> Result<ValueId> {
    let one = b.scalar(1.0);
    let other = b.sub(one, choice)?;
    combine(b, (choice, x), (other, y))
}

/// `discretized_gaussian_log_likelihood` in nats.
fn log_likelihood(b: &mut GraphBuilder, x: ValueId, mean: ValueId, log_scale: ValueId) -> Result<ValueId> {
    let (one, bin, edge) = (b.scalar(1.0), b.scalar(HALF_BIN), b.scalar(EDGE));
    let minus = b.scale(log_scale, -1.0)?;
    let inverse = b.exp(minus)?;
    let centred = b.sub(x, mean)?;
    let (above, below) = (b.add(centred, bin)?, b.sub(centred, bin)?);
    let (above, below) = (b.mul(inverse, above)?, b.mul(inverse, below)?);
    let (above, below) = (normal_cdf(b, above)?, normal_cdf(b, below)?);
    let log = |b: &mut GraphBuilder, p| {
        let p = b.clamp(p, LEAST, f32::INFINITY)?;
        b.ln(p)
    };
    let within = b.sub(above, below)?;
    let within = log(b, within)?;
    let below = b.sub(one, below)?;
    let (low, high) = (log(b, above)?, log(b, below)?);
    // 1 beyond an edge, else 0: the least step of an f32 there is 6e-8.
    let beyond = |b: &mut GraphBuilder, x, sign: f32| {
        let x = b.scale(x, sign)?;
        let over = b.sub(x, edge)?;
        let over = b.scale(over, 1e30)?;
        b.clamp(over, 0.0, 1.0)
    };
    let (at_low, at_high) = (beyond(b, x, -1.0)?, beyond(b, x, 1.0)?);
    let high = combine_by(b, at_high, high, within)?;
    combine_by(b, at_low, low, high)
}

/// `approx_standard_normal_cdf`.
fn normal_cdf(b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
    let square = b.mul(x, x)?;
    let cube = b.mul(square, x)?;
    let cube = b.scale(cube, 0.044715)?;
    let sum = b.add(x, cube)?;
    let scaled = b.scale(sum, (2.0 / std::f64::consts::PI).sqrt() as f32)?;
    let tanh = b.tanh(scaled)?;
    let one = b.scalar(1.0);
    let sum = b.add(tanh, one)?;
    b.scale(sum, 0.5)
}
