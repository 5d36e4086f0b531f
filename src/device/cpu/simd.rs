//! Which vector instructions this processor has, and how one loop is compiled for all of them.
//!
//! The binary is built for the baseline processor; `simd_fn!` compiles a function body three
//! times (AVX-512, AVX2 + FMA, baseline) and picks one at run time, so that plain loops are
//! vectorised with what the machine offers.

use std::sync::OnceLock;

/// A set of vector instructions that this processor is known to have.
///
/// Values come only from [`Level::best`] and [`Level::available`], which ask the processor: to
/// hold a `Level` is the proof that its instructions may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Level(Isa);

/// The instruction sets that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Isa {
    /// Whatever every processor of the target has (SSE2 on x86-64, NEON on AArch64).
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The level kernels run at: the best available one, unless the environment variable
    /// `DREAMCLEAR_SIMD` (`avx512`, `avx2` or `scalar`) asks for a lower one. Read once.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let available = Level::available();
            let asked = std::env::var("DREAMCLEAR_SIMD").ok();
            let found = asked.as_deref().and_then(|name| available.iter().find(|l| l.name() == name));
            if let (Some(name), None) = (&asked, found) {
                tracing::warn!("DREAMCLEAR_SIMD={name} is not available here and is ignored");
            }
            *found.unwrap_or(&available[0])
        })
    }

    /// Every level of this processor, best first; the last is always `scalar`.
    pub fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                levels.push(Level(Isa::Avx512));
            }
            if avx2 {
                levels.push(Level(Isa::Avx2));
            }
        }
        levels.push(Level(Isa::Scalar));
        levels
    }

    /// `avx512`, `avx2` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether kernels at this level multiply and add in one rounding.
    pub(crate) fn fuses(self) -> bool {
        self.0 != Isa::Scalar
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }
}

/// Defines functions whose bodies are compiled once per instruction set.
///
/// A [`Level`] becomes the first parameter of each. What the body calls should be
/// `#[inline(always)]`: only inlined code is compiled with the wider instructions. (A closure
/// handed in as an argument may not be inlined; use a trait with an inlined method instead.)
///
/// ```ignore
/// simd_fn! {
///     /// y += x
///     pub fn add(y: &mut [f32], x: &[f32]) {
///         y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
///     }
/// }
/// add(Level::best(), &mut y, &x);
/// ```
macro_rules! simd_fn {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$($generic:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($generic: $bound),+>)? (level: $crate::device::cpu::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($generic: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512 $(<$($generic: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($generic),+>)? ($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($generic: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($generic),+>)? ($($arg),*)
            }

            match level.isa() {
                // SAFETY: a Level exists only where its instructions do.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::simd::Isa::Avx512 => unsafe { avx512 $(::<$($generic),+>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::simd::Isa::Avx2 => unsafe { avx2 $(::<$($generic),+>)? ($($arg),*) },
                $crate::device::cpu::simd::Isa::Scalar => body $(::<$($generic),+>)? ($($arg),*),
            }
        }
    )*};
}
pub(crate) use simd_fn;

#[cfg(test)]
mod tests {
    use super::*;

    simd_fn! {
        fn sum<T: AsRef<[f32]>>(x: T) -> f32 {
            x.as_ref().iter().sum()
        }
    }

    #[test]
    fn every_level_runs_the_same_body() {
        for level in Level::available() {
            assert_eq!(sum(level, vec![1.0, 2.0, 3.0]), 6.0, "{}", level.name());
        }
        assert!(Level::available().contains(&Level::best()));
    }
}
