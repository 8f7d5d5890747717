//! Our models against the same written in PyTorch: `reference/write_native_goldens.py` made the files.

#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

use super::DalleConfig;
use super::dalle::{DalleBatch, LossWeights, Part, image_part};
use super::parameters::{self, Parameters};
use super::vqgan::VqganConfig;
use crate::nn::Init;
use crate::nn::block::AttentionMask;

struct Golden(&'static [u8]);

impl Golden {
    fn config<C: DeserializeOwned>(&self) -> C {
        let (_, metadata) = SafeTensors::read_metadata(self.0).unwrap();
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["config"]).unwrap()
    }

    fn bytes(&self, name: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
        let file = SafeTensors::deserialize(self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let (words, rest) = view.data().as_chunks::<4>();
        assert!(rest.is_empty());
        (view.shape().to_vec(), words.to_vec())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let (_, words) = self.bytes(name);
        words.into_iter().map(f32::from_le_bytes).collect()
    }

    /// Rows of a matrix of ids.
    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, words) = self.bytes(name);
        let ids: Vec<u32> = words.into_iter().map(u32::from_le_bytes).collect();
        ids.chunks(shape[1]).map(<[u32]>::to_vec).collect()
    }

    fn fill<M: Module>(&self, module: M) -> M {
        let file = SafeTensors::deserialize(self.0).unwrap();
        let weights: Parameters = file
            .names()
            .into_iter()
            .filter_map(|name| Some((name, name.strip_prefix("model.")?)))
            .map(|(name, own)| {
                let (shape, _) = self.bytes(name);
                (own.to_owned(), TensorData::new(self.floats(name), shape))
            })
            .collect();
        let (module, report) = parameters::load(module, weights);
        assert!(report.is_complete(), "{}", report.summary());
        module
    }
}

/// Within `relative` of the largest expected value: sums in another order, in f32.
fn assert_close(found: TensorData, expected: &[f32], relative: f32, what: &str) {
    let found: Vec<f32> = found.try_into_vec().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(
            apart <= relative * scale,
            "{what}[{i}]: {found}, PyTorch has {expected}"
        );
    }
}

fn check_dalle(golden: Golden) {
    let config: DalleConfig = golden.config();
    let device = Device::flex().autodiff();
    let model = golden.fill(config.init(&mut Init::empty(&device)));
    let batch = DalleBatch {
        text_ids: golden.ids("text_ids"),
        image_ids: golden.ids("image_ids"),
        orders: golden.ids("orders"),
        captioned: 3,
    };
    let rows = batch.text_ids.len();
    let text = Part::Text {
        ids: batch.text_ids.concat(),
        start: 0,
    };
    let image = image_part(&batch.image_ids, &batch.orders, config.codebook_size, false);
    let states = model.forward(&[text, image], rows, None, AttentionMask::Causal);
    let length = config.text_length;
    let text_logits = model.text_logits(states.clone().narrow(1, 0, length));
    let image_logits = model.image_logits(states.narrow(1, length, config.image_length()));
    let logits = [(text_logits, "text_logits"), (image_logits, "image_logits")];
    for (found, name) in logits {
        assert_close(found.into_data(), &golden.floats(name), 1e-5, name);
    }
    let weights = LossWeights {
        contrastive: 0.1,
        ..LossWeights::default()
    };
    let losses = model.losses(&batch, &weights);
    let found: Vec<Tensor<1>> = [
        Some(losses.total.clone()),
        Some(losses.text),
        Some(losses.image),
        losses.caption,
        losses.contrastive,
    ]
    .into_iter()
    .flatten()
    .collect();
    let found = Tensor::cat(found, 0).into_data();
    assert_close(found, &golden.floats("losses"), 1e-5, "losses");

    let gradients = losses.total.backward();
    struct Norms<'a> {
        path: Vec<String>,
        gradients: &'a burn::tensor::Gradients,
        golden: &'a Golden,
        seen: usize,
    }
    impl burn::module::ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            let name = format!("gradient_norm.{}", self.path.join("."));
            let gradient = param.val().grad(self.gradients).unwrap();
            let norm = gradient.square().sum().sqrt().into_data();
            assert_close(norm, &self.golden.floats(&name), 1e-4, &name);
            self.seen += 1;
        }
    }
    let mut norms = Norms {
        path: Vec::new(),
        gradients: &gradients,
        golden: &golden,
        seen: 0,
    };
    model.visit(&mut norms);
    assert!(norms.seen > 20);
}

fn check_vqgan(golden: Golden) {
    let config: VqganConfig = golden.config();
    let device = Device::flex();
    let model = golden.fill(config.init(&mut Init::empty(&device)));
    let ids = golden.ids("ids");
    let size = config.picture_size;
    let pixels = TensorData::new(golden.floats("pixels"), [ids.len(), 3, size, size]);
    let pixels = Tensor::<4>::from_data(pixels, &device);
    let vectors = model.encode_vectors(pixels.clone()).into_data();
    assert_close(vectors, &golden.floats("vectors"), 1e-5, "vectors");
    let found = model.encode(pixels).into_data().convert::<u32>();
    assert_eq!(found.try_into_vec::<u32>().unwrap(), ids.concat());
    let decoded = model.decode(&ids).into_data();
    assert_close(decoded, &golden.floats("decoded"), 1e-5, "decoded");
}

#[test]
fn dalle_computes_what_pytorch_does_forward_and_backward() {
    check_dalle(Golden(include_bytes!("goldens/dalle_square.safetensors")));
    check_dalle(Golden(include_bytes!("goldens/dalle_odd.safetensors")));
}

#[test]
fn vqgan_computes_what_pytorch_does() {
    check_vqgan(Golden(include_bytes!(
        "goldens/vqgan_two_levels.safetensors"
    )));
    check_vqgan(Golden(include_bytes!(
        "goldens/vqgan_three_levels.safetensors"
    )));
}
