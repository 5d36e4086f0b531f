//! The scale of the loss where gradients are computed in f16: as large as it may be without an overflow.

use crate::tensor::HostTensor;

/// Halved by every overflow, doubled after a while without one (Micikevicius et al., ICLR 2018; the numbers are
/// those of `torch.amp.GradScaler`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LossScale {
    pub now: f32,
    /// Updates since it last changed.
    calm: u32,
}

impl LossScale {
    /// Updates without an overflow after which it grows.
    const PATIENCE: u32 = 2000;
    /// It never grows beyond this, so that it stays a finite number.
    const MOST: f32 = 16_777_216.0;

    /// After an update.
    pub fn adapt(&mut self, overflowed: bool) {
        self.calm += 1;
        if overflowed {
            *self = LossScale { now: (self.now / 2.0).max(1.0), calm: 0 };
        } else if self.calm == Self::PATIENCE {
            *self = LossScale { now: (self.now * 2.0).min(Self::MOST), calm: 0 };
        }
    }

    /// As a tensor.
    pub fn state(&self) -> HostTensor {
        HostTensor::from_f32([2], vec![self.now, self.calm as f32])
    }

    /// From [`LossScale::state`].
    pub fn of(state: &HostTensor) -> Self {
        let state = state.to_f32();
        LossScale { now: state[0], calm: state[1] as u32 }
    }
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { now: 65_536.0, calm: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shrinks_at_once_and_grows_slowly() {
        let mut scale = LossScale::default();
        scale.adapt(true);
        assert_eq!(scale, LossScale { now: 32_768.0, calm: 0 });
        for _ in 0..LossScale::PATIENCE - 1 {
            scale.adapt(false);
        }
        assert_eq!(LossScale::of(&scale.state()), scale);
        assert_eq!(scale.now, 32_768.0);
        scale.adapt(false);
        assert_eq!(scale, LossScale::default());
        for _ in 0..100 {
            scale.adapt(true);
        }
        assert_eq!(scale.now, 1.0);
    }
}
