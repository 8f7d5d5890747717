//! What a token sees. Words see the words before them. Image tokens see all words, and of the picture what their
//! layer's kind says, themselves included.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::models::visibility::Visibility;

/// Which image tokens an image token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// All before it.
    Full,
    /// Those to its left.
    AxialRow,
    /// Those above it.
    AxialCol,
    /// Those up to four above and to the left of it.
    ConvLike,
}

/// The reference's window: its default, which no constructor option of `DALLE` changes.
const WINDOW: usize = 5;

impl AttentionKind {
    /// The reference's name of it.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "full" => AttentionKind::Full,
            "axial_row" => AttentionKind::AxialRow,
            "axial_col" => AttentionKind::AxialCol,
            "conv_like" => AttentionKind::ConvLike,
            _ => return None,
        })
    }

    /// Whether an image token sees another that is not after it.
    fn sees(self, from: usize, to: usize, grid: usize) -> bool {
        let ((row, column), (above, left)) = ((from / grid, from % grid), (to / grid, to % grid));
        to <= from
            && match self {
                AttentionKind::Full => true,
                AttentionKind::AxialRow => row == above,
                AttentionKind::AxialCol => column == left,
                AttentionKind::ConvLike => {
                    row - above < WINDOW && left <= column && column - left < WINDOW
                }
            }
    }

    /// Attention of image tokens after `n_before` others over all keys so far, `prefix` of which are the text's.
    ///
    /// # Shapes
    /// - `query`: `[batch, heads, n, head_width]`
    /// - `keys`, `values`: `[batch, heads, prefix + n_before + n, head_width]`
    pub(super) fn of_image(
        self,
        query: Tensor<4>,
        keys: Tensor<4>,
        values: Tensor<4>,
        [prefix, n_before, grid]: [usize; 3],
    ) -> Tensor<4> {
        let [_, _, n, _] = query.dims();
        let visible = match self {
            AttentionKind::Full => Visibility::Causal,
            _ => Visibility::new([n, prefix + n_before + n], &query.device(), |from, to| {
                to < prefix || self.sees(from - prefix, to - prefix, grid)
            }),
        };
        visible.attention(query, keys, values)
    }
}

/// Pairs of neighbouring channels are turned by angles of the token's place: of queries, keys and, unusually, of
/// values.
pub(super) struct RotaryAngles {
    /// `[1, 1, n, rotary_width]`.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RotaryAngles {
    /// # Shapes
    /// - `angles`: `[n, rotary_width]`
    pub fn new(angles: Tensor<2>) -> Self {
        let angles: Tensor<4> = angles.unsqueeze();
        RotaryAngles {
            cos: angles.clone().cos(),
            sin: angles.sin(),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, heads, n, head_width]`
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, n, head_width] = x.dims();
        let [_, _, _, width] = self.cos.dims();
        let turned = x.clone().narrow(3, 0, width);
        let pairs = turned.clone().reshape([batch, heads, n, width / 2, 2]);
        let (first, second) = (pairs.clone().narrow(4, 0, 1), pairs.narrow(4, 1, 1));
        let across = Tensor::cat(vec![second.neg(), first], 4).reshape([batch, heads, n, width]);
        let turned = turned * self.cos.clone() + across * self.sin.clone();
        match head_width - width {
            0 => turned,
            rest => Tensor::cat(vec![turned, x.narrow(3, width, rest)], 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: AttentionKind, from: usize) -> Vec<usize> {
        (0..36).filter(|&to| kind.sees(from, to, 6)).collect()
    }

    #[test]
    fn kinds_see_rows_columns_and_windows() {
        assert_eq!(seen(AttentionKind::Full, 7), (0..=7).collect::<Vec<_>>());
        assert_eq!(seen(AttentionKind::AxialRow, 14), [12, 13, 14]);
        assert_eq!(seen(AttentionKind::AxialCol, 14), [2, 8, 14]);
        // The fifth of a row in the sixth row: four to the left, four rows up, none to the right.
        let window = seen(AttentionKind::ConvLike, 34);
        assert_eq!(window.len(), 25);
        assert_eq!((window[0], window[24]), (6, 34));
        assert_eq!(seen(AttentionKind::ConvLike, 5), [1, 2, 3, 4, 5]);
    }
}
