//! What the layers of a [`Dalle`] attend to: for explaining pictures, not for drawing them.

use burn::tensor::{Device, Tensor};

use super::{Dalle, DalleBatch, Part, image_part, raster};
use crate::Result;
use crate::nn::recorded::{LayerAttention, recording};
use crate::nn::rope::Rotation;

impl Dalle {
    /// The attention of every layer in one pass over a caption and the image after it in raster order. With
    /// `gradient` also the gradient of ln p(image | caption): the net is then copied to a device that records operations.
    ///
    /// The sequence has the text ids and one image input for each position, the input number `i` of which
    /// predicts position `i`.
    pub fn attention(
        &self,
        text_ids: &[u32],
        image_ids: &[u32],
        gradient: bool,
    ) -> Result<Vec<LayerAttention>> {
        Ok(self.attended(text_ids, image_ids, gradient)?.1)
    }

    /// [`Self::attention`], and the final states, `[1, sequence, width]`.
    fn attended(
        &self,
        text_ids: &[u32],
        image_ids: &[u32],
        gradient: bool,
    ) -> Result<(Tensor<3>, Vec<LayerAttention>)> {
        if gradient && !self.device().is_autodiff() {
            return recording(self).attended(text_ids, image_ids, true);
        }
        let device = self.device();
        let (positions, length) = (self.config.image_length(), text_ids.len());
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
            let (next, recorded) = block.forward_with_attention(x, &own, &target, gradient);
            x = next;
            layers.push(recorded);
        }
        let states = self.final_norm.forward(x);
        let gradients = gradient.then(|| {
            let states = states.clone().narrow(1, length, positions);
            self.image_nll(states, &batch, 1).sum().neg().backward()
        });
        let layers = layers
            .into_iter()
            .map(|recorded| LayerAttention::of(recorded, gradients.as_ref()));
        Ok((states, layers.collect()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::to_host;
    use crate::models::DalleConfig;
    use crate::nn::Init;
    use crate::nn::block::AttentionMask;

    const TEXT: [u32; 5] = [1, 7, 8, 2, 0];
    const IMAGE: [u32; 4] = [3, 0, 6, 2];

    fn tiny() -> Dalle {
        let config = DalleConfig {
            text_vocab_size: 300,
            text_length: TEXT.len(),
            padded_text: true,
            codebook_size: 7,
            grid: 2,
            width: 16,
            n_layers: 2,
            n_heads: 2,
            hidden: 24,
            contrastive_width: None,
        };
        config.init(&mut Init::new(3, &Device::flex()))
    }

    /// Written out once more, attention has to be the one that the net draws with.
    #[test]
    fn states_are_those_of_the_usual_pass() {
        let net = tiny();
        let parts = [
            Part::Text {
                ids: TEXT.to_vec(),
                start: 0,
            },
            image_part(&[IMAGE.to_vec()], &[raster(4)], 7, false),
        ];
        let usual = to_host(net.forward(&parts, 1, None, AttentionMask::Causal)).unwrap();
        for gradient in [false, true] {
            let (states, layers) = net.attended(&TEXT, &IMAGE, gradient).unwrap();
            let states = to_host(states).unwrap();
            assert_eq!((states.len(), layers.len()), (usual.len(), 2));
            for (a, b) in states.iter().zip(&usual) {
                assert!((a - b).abs() < 1e-4, "{a} and {b}");
            }
        }
    }

    #[test]
    fn attention_is_a_causal_mean_and_its_gradient_the_images() {
        let layers = tiny().attention(&TEXT, &IMAGE, true).unwrap();
        let sequence = TEXT.len() + IMAGE.len();
        for (number, layer) in layers.into_iter().enumerate() {
            assert_eq!(layer.weights.dims(), [2, sequence, sequence]);
            let weights = to_host(layer.weights).unwrap();
            for (place, row) in weights.chunks(sequence).enumerate() {
                let query = place % sequence;
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert!(row[query + 1..].iter().all(|&weight| weight == 0.0));
            }
            let gradient = to_host(layer.gradient.unwrap()).unwrap();
            for (place, row) in gradient.chunks(sequence).enumerate() {
                let is_image = place % sequence >= TEXT.len();
                // What the last layer does to the text is seen by no image id.
                if number == 1 {
                    assert_eq!(row.iter().any(|&slope| slope != 0.0), is_image);
                }
            }
        }
    }
}
