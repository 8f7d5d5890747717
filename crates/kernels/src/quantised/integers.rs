//! Activations in eight bits, by groups: see [`super::Activations::Int8`].

use super::GROUP;
use crate::gemm::Matrix;
use crate::shared::{SharedPtr, for_rows, with_scratch};
use crate::vector::vectorised;

/// Rows of integers, filled up with zeros to whole blocks.
#[derive(Clone, Copy)]
pub(super) struct Integers<'a> {
    pub(super) rows: usize,
    /// Four a word, in ascending order. Whole tiles of rows: those that do not exist are any numbers.
    pub(super) words: &'a [i32],
    /// From a row to the next, in words.
    pub(super) stride: usize,
    /// What the products of each group begin at: its sum by how much the weights' integers are moved,
    /// taken off.
    pub(super) starts: &'a [i32],
    /// Of each group.
    pub(super) scales: &'a [f32],
    /// Filled up.
    pub(super) inputs: usize,
}

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Words between the rows: without them, rows of a power of two would push each other out of the cache.
const GAP: usize = 16;

/// Rounds the rows of `x`, filled up to `inputs` columns, to be multiplied with integers that stand
/// `offset` above their values.
pub(super) fn with_integers<R>(
    x: Matrix,
    inputs: usize,
    offset: i32,
    work: impl FnOnce(Integers) -> R,
) -> R {
    let rows = x.rows();
    let (words, groups) = (inputs / 4, inputs / GROUP);
    let stride = words + GAP;
    let padded = rows.next_multiple_of(TILE_ROWS) * stride;
    // One piece of memory for all three, and a line of floats for each row where x has gaps.
    with_scratch(padded + rows * 2 * groups, |memory| {
        let (word_memory, rest) = memory.split_at_mut(padded);
        let (start_memory, scales) = rest.split_at_mut(rows * groups);
        let integers = |floats: &mut [f32]| {
            // SAFETY: integers take the place of floats: same size and alignment, and any bits are both.
            unsafe {
                std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast::<i32>(), floats.len())
            }
        };
        let (word_memory, starts) = (integers(word_memory), integers(start_memory));
        let shared = (
            SharedPtr::new(word_memory.as_mut_ptr()),
            SharedPtr::new(starts.as_mut_ptr()),
            SharedPtr::new(scales.as_mut_ptr()),
        );
        for_rows(rows, inputs, |first, count| {
            with_scratch(inputs, |line| {
                for row in first..first + count {
                    x.copy_row(row, line);
                    // SAFETY: each task has rows of its own, within the memory above.
                    let (words, starts, scales) = unsafe {
                        (
                            std::slice::from_raw_parts_mut(shared.0.get().add(row * stride), words),
                            std::slice::from_raw_parts_mut(
                                shared.1.get().add(row * groups),
                                groups,
                            ),
                            std::slice::from_raw_parts_mut(
                                shared.2.get().add(row * groups),
                                groups,
                            ),
                        )
                    };
                    round(words, starts, scales, line, offset);
                }
            });
        });
        work(Integers {
            rows,
            words: word_memory,
            stride,
            starts,
            scales,
            inputs,
        })
    })
}

vectorised! {
    fn round(words: &mut [i32], starts: &mut [i32], scales: &mut [f32], x: &[f32], offset: i32) {
        // Not fused: the integers are the same everywhere.
        let _ = FUSED;
        /// Adding it to a small number rounds that to an integer, ties to even, in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let (groups, _) = x.as_chunks::<GROUP>();
        let (words, _) = words.as_chunks_mut::<{ GROUP / 4 }>();
        for (((x, words), start), scale) in groups.iter().zip(words).zip(starts).zip(scales) {
            // Magnitudes compare like their bits, and NaN is larger than all.
            let mut largest = 0;
            for x in x {
                largest = largest.max(x.to_bits() & 0x7FFF_FFFF);
            }
            let largest = f32::from_bits(largest);
            let mut integers = [0i32; GROUP];
            *scale = if !largest.is_finite() {
                f32::NAN
            } else if largest < 1e-36 {
                // Its reciprocal is too large.
                0.0
            } else {
                let per_step = 127.0 / largest;
                for (q, x) in integers.iter_mut().zip(x) {
                    *q = (x * per_step + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
                }
                largest / 127.0
            };
            *start = -offset * integers.iter().sum::<i32>();
            let bytes = integers.map(|q| q as u8);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = i32::from_le_bytes(*bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn integers_stand_for_their_activations() {
        let (rows, cols) = (5, 77);
        let mut x = numbers(rows * cols, 3);
        x[cols..][..40].fill(0.0);
        x[2 * cols + 7] = f32::NEG_INFINITY;
        x[3 * cols + 40] = f32::NAN;
        x.iter_mut().skip(4 * cols).for_each(|x| *x *= 1e-37);
        with_integers(Matrix::new(&x, rows, cols), 128, 3, |integers| {
            assert_eq!(integers.stride, 32 + GAP);
            assert_eq!(integers.words.len(), 16 * integers.stride);
            for row in 0..rows {
                for group in 0..4 {
                    let scale = integers.scales[4 * row + group];
                    if (row, group) == (2, 0) || (row, group) == (3, 1) {
                        assert!(scale.is_nan());
                        continue;
                    }
                    let mut sum = 0;
                    for i in 0..GROUP {
                        let input = group * GROUP + i;
                        let word = integers.words[integers.stride * row + input / 4];
                        let q = word.to_le_bytes()[input % 4] as i8;
                        assert_ne!(q, -128);
                        sum += q as i32;
                        let exact = if input < cols {
                            x[row * cols + input]
                        } else {
                            0.0
                        };
                        // Half a step, of which there are 127 up to the largest magnitude below one.
                        let error = (q as f32 * scale - exact).abs();
                        assert!(
                            error <= scale * 0.50001 || error < 1e-36,
                            "{exact} {q} {scale}"
                        );
                    }
                    assert_eq!(integers.starts[4 * row + group], -3 * sum);
                }
            }
        });
    }
}
