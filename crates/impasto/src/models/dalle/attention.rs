//! What the layers of a [`Dalle`] attend to: for explaining pictures, not for drawing them.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};

use super::{Dalle, DalleBatch, Part, image_part, raster};
use crate::Result;
use crate::nn::rope::Rotation;

/// Attention of one layer in a pass over a caption and an image, and its gradient.
#[derive(Clone, Debug)]
pub struct LayerAttention {
    /// Softmax of the scores, `[heads, sequence, sequence]`: of each query over the keys.
    pub weights: Tensor<3>,
    /// Derivative of the image's log-likelihood by them, of the same shape.
    pub gradient: Option<Tensor<3>>,
}

/// Has all operations with a net's weights recorded.
struct Recording;

impl ModuleMapper for Recording {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(Tensor::autodiff)
    }
}

impl Dalle {
    /// The attention of every layer in one pass over a padded caption and the image after it in raster order. With
    /// `gradient` also the gradient of ln p(image | caption): the net is then copied to a device that records operations.
    ///
    /// The sequence has `text_length` text ids and one image input for each position, the input number `i` of which
    /// predicts position `i`.
    pub fn attention(
        &self,
        text_ids: &[u32],
        image_ids: &[u32],
        gradient: bool,
    ) -> Result<Vec<LayerAttention>> {
        if gradient && !self.device().is_autodiff() {
            let recording = self.clone().map(&mut Recording);
            return recording.attention(text_ids, image_ids, true);
        }
        let device = self.device();
        let (positions, length) = (self.config.image_length(), self.config.text_length);
        let batch = DalleBatch {
            text_ids: vec![text_ids.to_vec()],
            image_ids: vec![image_ids.to_vec()],
            orders: vec![raster(positions)],
            captioned: 0,
        };
        let text = Part::Text {
            ids: text_ids.to_vec(),
            start: 0,
        };
        let image = image_part(
            &batch.image_ids,
            &batch.orders,
            self.config.codebook_size,
            false,
        );
        let (own, target) = self.places(&[text.clone(), image.clone()], &device);
        let mut x = Tensor::cat(
            vec![
                self.embed(&text, 1, &device),
                self.embed(&image, 1, &device),
            ],
            1,
        );
        if let Some(block) = self.blocks.first() {
            x = block.like_weights(x);
        }
        let mut layers = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (next, weights, leaf) = block.forward_with_attention(x, &own, &target, gradient);
            x = next;
            layers.push((weights, leaf));
        }
        let states = self.final_norm.forward(x).narrow(1, length, positions);
        let gradients = gradient.then(|| self.image_nll(states, &batch, 1).sum().neg().backward());
        let layers = layers.into_iter().map(|(weights, leaf)| {
            let [_, heads, queries, keys] = weights.dims();
            let gradient = gradients
                .as_ref()
                .zip(leaf)
                .and_then(|(gradients, leaf)| leaf.grad(gradients));
            LayerAttention {
                weights: weights.reshape([heads, queries, keys]),
                gradient: gradient.map(|gradient| gradient.reshape([heads, queries, keys])),
            }
        });
        Ok(layers.collect())
    }

    /// The rotations of the tokens' own places and of their target ones, for one row.
    fn places(&self, parts: &[Part], device: &Device) -> (Rotation, Rotation) {
        let nowhere = self.config.image_length() as u32;
        let (mut own, mut target) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text { ids, .. } => {
                    own.extend(ids.iter().map(|_| nowhere));
                    target.extend(ids.iter().map(|_| nowhere));
                }
                Part::Image {
                    own: part_own,
                    target: part_target,
                    ..
                } => {
                    own.extend(part_own);
                    target.extend(part_target);
                }
            }
        }
        let rotation = |places: &[u32]| self.rope.rotation(places, 1, device);
        (rotation(&own), rotation(&target))
    }
}
