#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Distribution};

use super::*;
use crate::models::{Dalle, DalleConfig};
use crate::nn::Init;

fn dalle() -> Dalle {
    let config = DalleConfig {
        text_vocab_size: 30,
        text_length: 6,
        padded_text: true,
        codebook_size: 24,
        grid: 4,
        width: 32,
        n_layers: 2,
        n_heads: 2,
        hidden: 64,
        contrastive_width: None,
    };
    config.init(&mut Init::new(11, &Device::flex().autodiff()))
}

fn gradients(model: &Dalle, step: u64) -> NamedGradients {
    let device = Device::flex();
    device.seed(step);
    let by_name = parameters(model).into_iter().map(|parameter| {
        let normal = Distribution::Normal(0.0, 1.0);
        let gradient = Tensor::random(parameter.values.dims(), normal, &device);
        (parameter.name, gradient)
    });
    NamedGradients {
        by_name: by_name.collect(),
    }
}

fn distance(a: &Tensor<1>, b: &Tensor<1>) -> f32 {
    let of = |x: Tensor<1>| -> f32 { x.square().sum().sqrt().into_scalar() };
    of(a.clone() - b.clone()) / of(b.clone()).max(1e-12)
}

/// Parameters that are moved in one operation go where each goes alone. Muon's products are in bf16 together, so
/// there the step alone is compared, and not to the last digits.
#[test]
fn parameters_move_together_as_alone() {
    let config = RunConfig {
        optimizer: OptimizerKind::Muon,
        weight_decay: 0.1,
        ema_decay: 0.9,
        ..RunConfig::default()
    };
    let optimizer = |together| Optimizer {
        together,
        ..Optimizer::new(&config)
    };
    let (mut alone, mut together) = (optimizer(false), optimizer(true));
    let (mut one, mut all) = (dalle(), dalle());
    for step in 0..3 {
        one = alone.step(one.clone(), gradients(&one, step), 0.01, 0.5, step);
        all = together.step(all.clone(), gradients(&all, step), 0.01, 0.5, step);
    }
    let start: BTreeMap<String, Tensor<1>> = parameters(&dalle())
        .into_iter()
        .map(|parameter| (parameter.name, parameter.values))
        .collect();
    let (mut by_muon, mut by_adamw) = (0, 0);
    for (one, all) in parameters(&one).into_iter().zip(parameters(&all)) {
        let name = &one.name;
        assert_eq!(*name, all.name);
        let (moments, expected) = (&together.moments[name], &alone.moments[name]);
        assert!(distance(&moments.first, &expected.first) < 1e-6, "{name}");
        let of = |to: &Tensor<1>| to.clone() - start[name].clone();
        let moved = distance(&of(&all.values), &of(&one.values));
        let averaged = distance(&of(&together.ema[name]), &of(&alone.ema[name]));
        if alone.uses_adamw(name) {
            by_adamw += 1;
            let (second, expected) = (moments.second.as_ref(), expected.second.as_ref());
            assert!(
                distance(second.unwrap(), expected.unwrap()) < 1e-6,
                "{name}"
            );
            assert!(
                moved < 1e-4 && averaged < 1e-4,
                "{name}: {moved}, {averaged}"
            );
        } else {
            by_muon += 1;
            assert!(moved < 0.1 && averaged < 0.1, "{name}: {moved}, {averaged}");
        }
    }
    assert!(by_muon >= 8 && by_adamw >= 8, "{by_muon}, {by_adamw}");
}
