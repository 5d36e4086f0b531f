//! Philox 4x32-10, the counter-based generator behind everything random here.
//!
//! It maps a counter and a key to 128 random bits (Salmon et al., "Parallel Random Numbers: As Easy as
//! 1, 2, 3", 2011). Counters are made of what the bits belong to (an image, a step, an element), so results
//! are the same bytes whatever the batch, the order, the threads or the machine.

/// The 128 bits of a counter under a key: Philox 4x32 with ten rounds.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [a, b, c, d] = philox_lanes::<1>(counter.map(|x| [x]), key);
    [a[0], b[0], c[0], d[0]]
}

/// Philox of `N` counters at once, word by word: `counters[w][n]` is word `w` of counter `n`, and so is the
/// result. Loops over lanes become vector code inside [`simd_fn!`](crate::device::cpu::simd).
#[inline(always)]
pub fn philox_lanes<const N: usize>(mut counters: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        let [x0, x1, x2, x3] = &mut counters;
        for n in 0..N {
            let first = u64::from(x0[n]) * 0xD251_1F53;
            let second = u64::from(x2[n]) * 0xCD9E_8D57;
            x0[n] = (second >> 32) as u32 ^ x1[n] ^ key[0];
            x2[n] = (first >> 32) as u32 ^ x3[n] ^ key[1];
            x1[n] = second as u32;
            x3[n] = first as u32;
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counters
}

/// The two 32-bit halves of a number, low one first: how keys and counters take 64 bits.
#[inline(always)]
pub fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that Random123 publishes for `philox4x32 10`.
    #[test]
    fn gives_the_published_answers() {
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn lanes_are_single_calls_side_by_side() {
        let counters = [[1, 2, 3], [40, 50, 60], [7, 7, 7], [0, u32::MAX, 9]];
        let lanes = philox_lanes(counters, [11, 13]);
        for n in 0..3 {
            assert_eq!(lanes.map(|w| w[n]), philox(counters.map(|w| w[n]), [11, 13]));
        }
    }
}
