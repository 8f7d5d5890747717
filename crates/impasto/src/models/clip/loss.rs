//! What a [`Clip`] is trained on: distinguishing a batch's pairs from all its other combinations.

use burn::tensor::{Int, Tensor, activation};
use serde::{Deserialize, Serialize};

use super::Clip;
use crate::nn::ops;

/// A loss of the logits of all pictures against all captions of a batch, of which the diagonal are pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContrastiveLoss {
    /// CLIP's: the mean over both directions of −log exp(s(x, y)/τ) / Σᵢ exp(s(xᵢ, y)/τ)
    /// (arXiv:2103.00020, figure 3).
    #[default]
    InfoNce,
    /// SigLIP's: each combination is a question of its own, −log σ(±(s/τ + b)), summed over a picture's
    /// captions (arXiv:2303.15343, algorithm 1).
    Sigmoid,
}

impl ContrastiveLoss {
    /// Where the scale's logarithm and the bias begin in the papers: 1/τ = 1/0.07; and 10, −10.
    pub fn initial(self) -> (f32, f32) {
        match self {
            ContrastiveLoss::InfoNce => ((1.0f32 / 0.07).ln(), 0.0),
            ContrastiveLoss::Sigmoid => (10f32.ln(), -10.0),
        }
    }

    /// The loss of a batch.
    ///
    /// # Shapes
    /// - `logits`: `[rows, rows]`
    /// - returns: `[1]`
    pub fn of(self, logits: Tensor<2>) -> Tensor<1> {
        let [rows, columns] = logits.dims();
        assert_eq!(rows, columns, "as many captions as pictures");
        let device = logits.device();
        match self {
            ContrastiveLoss::InfoNce => {
                let diagonal = Tensor::<1, Int>::arange(0..rows as i64, &device.inner());
                let captions = ops::cross_entropy(logits.clone(), diagonal.clone());
                let pictures = ops::cross_entropy(logits.transpose(), diagonal);
                (captions.mean() + pictures.mean()).div_scalar(2.0)
            }
            ContrastiveLoss::Sigmoid => {
                let sign = Tensor::<2>::eye(rows, &device)
                    .mul_scalar(2.0)
                    .sub_scalar(1.0);
                activation::log_sigmoid(logits * sign)
                    .sum()
                    .div_scalar(-(rows as f32))
            }
        }
    }
}

impl Clip {
    /// The loss of a batch's embeddings.
    ///
    /// # Shapes
    /// - `image`, `text`: `[rows, projection_width]`, row by row a pair
    /// - returns: `[1]`
    pub fn contrastive_loss(
        &self,
        image: Tensor<2>,
        text: Tensor<2>,
        loss: ContrastiveLoss,
    ) -> Tensor<1> {
        loss.of(self.logits(image, text))
    }
}
