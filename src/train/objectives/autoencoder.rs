//! The autoencoder: how far pictures come back changed, and how far latents are from a normal distribution
//! (Rombach et al., CVPR 2022, without its perceptual and adversarial terms).

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::models::Shapes;
use crate::models::vae::{AutoencoderKl, record};
use crate::tensor::DType;
use crate::train::objective::{Distance, Objective, Recorded, Reduction};

/// Bounds of the logarithm of a latent's variance, as diffusers' `DiagonalGaussianDistribution` has them.
const LOG_VARIANCE: [f32; 2] = [-30.0, 20.0];

/// mean |decode(μ + σ·noise) − x| + `kl_weight`·KL, where KL = ½ Σ (μ² + σ² − 1 − ln σ²) is summed over a sample's
/// latent and averaged over the batch: diffusers' `latent_dist.kl().mean()`.
///
/// Inputs of a batch: `x`, pictures, f32 `[B, C, H, W]` in −1..1, and `noise`, normal, `[B, L, H / f, W / f]`,
/// where f is the autoencoder's factor.
#[derive(Clone, Debug)]
pub struct AutoencoderObjective {
    /// The network.
    pub network: AutoencoderKl,
    /// Height and width of the pictures, multiples of the factor.
    pub size: [usize; 2],
    /// Factor of the KL term; 1e-6 where latents are to carry a picture.
    pub kl_weight: f64,
}

impl Objective for AutoencoderObjective {
    fn parameters(&self) -> Result<Shapes> {
        let mut b = GraphBuilder::new();
        // Any size shows all parameters.
        let side = 2 * self.network.factor();
        AutoencoderObjective { size: [side, side], ..self.clone() }.record(&mut b, 1)?;
        Ok(b.finish().param_shapes().into_iter().collect())
    }

    fn record(&self, b: &mut GraphBuilder, batch: usize) -> Result<Recorded> {
        let (net, [h, w]) = (&self.network, self.size);
        let (groups, factor, latent) = (net.norm_num_groups, net.factor(), net.latent_channels);
        if h == 0 || w == 0 || !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
            let message = format!("expected pictures whose sides are multiples of {factor}, found {h}x{w}");
            return Err(b.error("autoencoder", message));
        }
        let x = b.input("x", DType::F32, [batch, net.in_channels, h, w])?;
        let x = b.permute(x, [0, 2, 3, 1])?;
        let noise = b.input("noise", DType::F32, [batch, latent, h / factor, w / factor])?;
        let noise = b.permute(noise, [0, 2, 3, 1])?;
        let moments = record(b, &net.encoder(), groups, x)?;
        let mean = b.slice(moments, 3, 0, latent)?;
        let log_variance = b.slice(moments, 3, latent, latent)?;
        let log_variance = b.clamp(log_variance, LOG_VARIANCE[0], LOG_VARIANCE[1])?;
        let half = b.scale(log_variance, 0.5)?;
        let deviation = b.exp(half)?;
        let z = b.mul(deviation, noise)?;
        let z = b.add(mean, z)?;
        let y = record(b, &net.decoder(), groups, z)?;
        let l1 = Distance::L1.record(b, y, x, Reduction::Mean)?;
        let kl = divergence(b, mean, log_variance, batch)?;
        let weighted = b.scale(kl, self.kl_weight as f32)?;
        let loss = b.add(l1, weighted)?;
        Ok(Recorded { loss, terms: vec![("l1", l1), ("kl", kl)] })
    }
}

/// From the standard normal distribution.
fn divergence(b: &mut GraphBuilder, mean: ValueId, log_variance: ValueId, batch: usize) -> Result<ValueId> {
    let variance = b.exp(log_variance)?;
    let square = b.mul(mean, mean)?;
    let sum = b.add(square, variance)?;
    let one = b.scalar(1.0);
    let sum = b.sub(sum, one)?;
    let sum = b.sub(sum, log_variance)?;
    let sum = b.sum(sum, &[0, 1, 2, 3], false)?;
    b.scale(sum, 0.5 / batch as f32)
}
