//! Token shift: some channels of a token are those of tokens before it. Of words half of them come from the word
//! before; of image tokens a quarter from the token above and a quarter from the one to the left, zeros beyond
//! the picture's border.

use burn::tensor::{Int, Tensor, TensorData};

/// The first channels of the image tokens of one row back, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Shift {
    /// `[batch, grid, 2 · quarter]`; none before the first token.
    past: Option<Tensor<3>>,
    /// Those of the last word, `[batch, 1, half]`.
    word: Option<Tensor<3>>,
}

/// Quarters are rounded up, as PyTorch's `chunk` does; the last one has what is left.
fn quarter(width: usize) -> usize {
    width.div_ceil(4)
}

impl Shift {
    /// Of the start and words after others.
    pub fn of_text(&mut self, x: Tensor<3>) -> Tensor<3> {
        let [batch, n, width] = x.dims();
        let half = width.div_ceil(2);
        let before = self
            .word
            .take()
            .unwrap_or_else(|| Tensor::zeros([batch, 1, half], &x.device()));
        let shifted = Tensor::cat(vec![before, x.clone().narrow(2, 0, half)], 1);
        self.word = Some(shifted.clone().narrow(1, n, 1));
        let rest = x.narrow(2, half, width - half);
        Tensor::cat(vec![shifted.narrow(1, 0, n), rest], 2)
    }

    /// Of image tokens after `n_before` others.
    pub fn of_image(&mut self, x: Tensor<3>, n_before: usize, grid: usize) -> Tensor<3> {
        let [batch, n, width] = x.dims();
        let device = x.device();
        let quarter = quarter(width);
        let past = self
            .past
            .take()
            .unwrap_or_else(|| Tensor::zeros([batch, grid, 2 * quarter], &device));
        let all = Tensor::cat(vec![past, x.clone().narrow(2, 0, 2 * quarter)], 1);
        let above = all.clone().narrow(1, 0, n).narrow(2, 0, quarter);
        let left = all
            .clone()
            .narrow(1, grid - 1, n)
            .narrow(2, quarter, quarter);
        let inside: Vec<f32> = (n_before..n_before + n)
            .map(|at| f32::from(u8::from(at % grid != 0)))
            .collect();
        let inside = Tensor::<3>::from_data(TensorData::new(inside, [1, n, 1]), &device);
        self.past = Some(all.narrow(1, n, grid));
        let rest = x.narrow(2, 2 * quarter, width - 2 * quarter);
        Tensor::cat(vec![above, left * inside, rest], 2)
    }

    /// The rows of the batch at `rows`.
    pub fn select_rows(&mut self, rows: &[usize]) {
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        for kept in [&mut self.past, &mut self.word] {
            *kept = kept.take().map(|kept| {
                let indices = TensorData::new(rows.clone(), [rows.len()]);
                let indices = Tensor::<1, Int>::from_data(indices, &kept.device());
                kept.select(0, indices)
            });
        }
    }
}
