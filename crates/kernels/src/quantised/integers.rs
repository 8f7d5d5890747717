//! Activations in eight bits, by groups: see [`super::Activations::Int8`].

use super::GROUP;
use crate::gemm::Matrix;
use crate::shared::{SharedPtr, for_rows, with_scratch};
use crate::vector::vectorised;

/// Rows of integers, filled up with zeros to whole blocks of inputs.
#[derive(Clone, Copy)]
pub(super) struct Integers<'a> {
    pub(super) rows: usize,
    /// Four a word, in ascending order.
    pub(super) words: &'a [i32],
    /// Where the words of [`Arrangement::Rows`] go on with the next row.
    pub(super) stride: usize,
    /// What the products of each group begin at: its sum by how much the weights' integers are moved,
    /// taken off.
    pub(super) starts: &'a [i32],
    /// Of each group.
    pub(super) scales: &'a [f32],
    /// Filled up.
    pub(super) inputs: usize,
}

/// How integers lie in memory.
#[derive(Clone, Copy)]
pub(super) enum Arrangement {
    /// Row after row, as tiles load them: rows of words with a gap between them, and whole tiles of rows, of which those
    /// that do not exist are any numbers.
    Rows,
    /// Blocks of as many rows as the function takes of those that are left; within a block the rows' words, starts and
    /// scales take turns. A kernel reads them one after the other.
    Turns(fn(usize) -> usize),
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
    arrangement: Arrangement,
    work: impl FnOnce(Integers) -> R,
) -> R {
    let rows = x.rows();
    let (words, groups) = (inputs / 4, inputs / GROUP);
    let (stride, padded) = match arrangement {
        Arrangement::Rows => (words + GAP, rows.next_multiple_of(TILE_ROWS)),
        Arrangement::Turns(_) => (words, rows),
    };
    let padded = padded * stride;
    // One piece of memory for all three, and some lines of floats for each thread.
    with_scratch(padded + rows * 2 * groups, |memory| {
        let (word_memory, rest) = memory.split_at_mut(padded);
        let (start_memory, scales) = rest.split_at_mut(rows * groups);
        let (word_memory, starts) = (as_integers(word_memory), as_integers(start_memory));
        let shared = (
            SharedPtr::new(word_memory.as_mut_ptr()),
            SharedPtr::new(starts.as_mut_ptr()),
            SharedPtr::new(scales.as_mut_ptr()),
        );
        for_rows(rows, inputs, |first, count| {
            with_scratch(inputs + words + 2 * groups, |lines| {
                let (line, rest) = lines.split_at_mut(inputs);
                let (line_words, rest) = rest.split_at_mut(words);
                let (line_starts, line_scales) = rest.split_at_mut(groups);
                let (line_words, line_starts) = (as_integers(line_words), as_integers(line_starts));
                for row in first..first + count {
                    x.copy_row(row, line);
                    round(line_words, line_starts, line_scales, line, offset);
                    let Place { block, height } = match arrangement {
                        Arrangement::Rows => Place {
                            block: row,
                            height: 1,
                        },
                        Arrangement::Turns(height) => Place::of(row, rows, height),
                    };
                    // SAFETY: each task has rows of its own, within the memory above.
                    unsafe {
                        let turn = row - block;
                        let to = shared.0.get().add(block * stride + turn);
                        scatter(line_words, to, height);
                        let to = shared.1.get().add(block * groups + turn);
                        scatter(line_starts, to, height);
                        let to = shared.2.get().add(block * groups + turn);
                        scatter(line_scales, to, height);
                    }
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

/// The block that a row is in.
struct Place {
    /// Its first row.
    block: usize,
    /// Its rows.
    height: usize,
}

impl Place {
    fn of(row: usize, rows: usize, height: fn(usize) -> usize) -> Self {
        let mut block = 0;
        loop {
            let own = height(rows - block);
            if row < block + own {
                return Place { block, height: own };
            }
            block += own;
        }
    }
}

/// Integers in the place of floats.
fn as_integers(floats: &mut [f32]) -> &mut [i32] {
    // SAFETY: same size and alignment, and any bits are both.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast::<i32>(), floats.len()) }
}

/// Writes `from` to every `step`-th place.
///
/// # Safety
/// These places exist, and nobody else uses them.
unsafe fn scatter<T: Copy>(from: &[T], to: *mut T, step: usize) {
    for (i, &value) in from.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { to.add(i * step).write(value) };
    }
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

    /// The integers, starts and scales row by row.
    type Rows = Vec<(Vec<i8>, Vec<i32>, Vec<u32>)>;

    fn rounded(x: Matrix, inputs: usize, offset: i32, height: Option<fn(usize) -> usize>) -> Rows {
        let arrangement = height.map_or(Arrangement::Rows, Arrangement::Turns);
        with_integers(x, inputs, offset, arrangement, |integers| {
            let of_row = |row: usize| {
                let Place { block, height } = match height {
                    Some(height) => Place::of(row, integers.rows, height),
                    None => Place {
                        block: row,
                        height: 1,
                    },
                };
                let (turn, groups) = (row - block, inputs / GROUP);
                let at = |stride: usize, i: usize| block * stride + i * height + turn;
                let words = (0..inputs / 4).map(|i| integers.words[at(integers.stride, i)]);
                let bytes = words.flat_map(i32::to_le_bytes).map(|q| q as i8);
                let starts = (0..groups).map(|i| integers.starts[at(groups, i)]);
                let scales = (0..groups).map(|i| integers.scales[at(groups, i)].to_bits());
                (bytes.collect(), starts.collect(), scales.collect())
            };
            (0..integers.rows).map(of_row).collect()
        })
    }

    #[test]
    fn integers_stand_for_their_activations() {
        let (rows, cols) = (5, 77);
        let mut x = numbers(rows * cols, 3);
        x[cols..][..40].fill(0.0);
        x[2 * cols + 7] = f32::NEG_INFINITY;
        x[3 * cols + 40] = f32::NAN;
        x.iter_mut().skip(4 * cols).for_each(|x| *x *= 1e-37);
        let found = rounded(Matrix::new(&x, rows, cols), 128, 3, None);
        for (row, (integers, starts, scales)) in found.into_iter().enumerate() {
            assert_eq!(integers.len(), 128);
            for group in 0..4 {
                let scale = f32::from_bits(scales[group]);
                if (row, group) == (2, 0) || (row, group) == (3, 1) {
                    assert!(scale.is_nan());
                    continue;
                }
                let mut sum = 0;
                for input in group * GROUP..(group + 1) * GROUP {
                    let q = integers[input];
                    assert_ne!(q, -128);
                    sum += i32::from(q);
                    let exact = if input < cols {
                        x[row * cols + input]
                    } else {
                        0.0
                    };
                    // Half a step, of which there are 127 up to the largest magnitude below one.
                    let error = (f32::from(q) * scale - exact).abs();
                    assert!(
                        error <= scale * 0.50001 || error < 1e-36,
                        "{exact} {q} {scale}"
                    );
                }
                assert_eq!(starts[group], -3 * sum);
            }
        }
    }

    #[test]
    fn rows_that_take_turns_are_the_same() {
        let (rows, cols) = (13, 77);
        let x = numbers(rows * cols, 3);
        let x = Matrix::new(&x, rows, cols);
        let eight_four_one: fn(usize) -> usize = |left| match left {
            8.. => 8,
            4.. => 4,
            _ => 1,
        };
        assert_eq!(
            rounded(x, 128, 3, Some(eight_four_one)),
            rounded(x, 128, 3, None)
        );
    }
}
