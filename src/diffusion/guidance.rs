//! Classifier-free guidance (Ho and Salimans, 2022).

/// Which channels of the predicted noise are guided. Variance channels never are: they are the
/// conditional half's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guided {
    /// The first three, as in the official `forward_with_cfg`, which inherited the rule from a
    /// model of RGB pictures; of a latent with four channels the last is left as the conditional
    /// half predicts it.
    FirstThree,
    /// All of them, as the official code does with DPM-Solver and SA-Solver.
    All,
}

impl Guided {
    /// How many of `channels` noise channels are guided.
    pub fn count(self, channels: usize) -> usize {
        match self {
            Guided::FirstThree => channels.min(3),
            Guided::All => channels,
        }
    }
}

/// Moves the conditional network output away from the unconditional one, in place:
/// eps ← uncond + `scale`·(eps − uncond) on the guided channels.
///
/// `cond` and `uncond` are outputs for one latent, planar `[channels, height, width]` (more
/// channels may follow: variances, which stay as they are); `channels` is the latent's number.
///
/// # Panics
/// If lengths differ or are no whole number of planes, or hold fewer than `channels`.
pub fn combine(cond: &mut [f32], uncond: &[f32], plane: usize, channels: usize, scale: f32, guided: Guided) {
    assert_eq!(cond.len(), uncond.len(), "both halves have one shape");
    assert!(
        plane > 0 && cond.len().is_multiple_of(plane) && cond.len() / plane >= channels,
        "whole planes of the latent"
    );
    let n = guided.count(channels) * plane;
    for (c, &u) in cond[..n].iter_mut().zip(&uncond[..n]) {
        *c = u + scale * (*c - u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guides_what_the_rule_says_and_nothing_else() {
        // Four noise and four variance channels of two pixels.
        let cond: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let uncond = vec![1.0f32; 16];
        for (rule, guided) in [(Guided::FirstThree, 6), (Guided::All, 8)] {
            let mut out = cond.clone();
            combine(&mut out, &uncond, 2, 4, 4.5, rule);
            for (i, (out, c)) in out.into_iter().zip(&cond).enumerate() {
                let expected = if i < guided { 1.0 + 4.5 * (c - 1.0) } else { *c };
                assert_eq!(out, expected, "{rule:?} at {i}");
            }
        }
    }

    #[test]
    fn scale_one_is_the_conditional_half_up_to_rounding() {
        let mut out = vec![0.3f32, -0.7, 2.0, 9.0];
        combine(&mut out, &[0.1, 0.2, 0.3, 0.4], 1, 4, 1.0, Guided::All);
        for (a, b) in out.iter().zip([0.3f32, -0.7, 2.0, 9.0]) {
            assert!((a - b).abs() <= 1e-6 * b.abs());
        }
    }
}
