//! The kernels against Burn's own operations: values, and gradients through autodiff.
#![allow(clippy::unwrap_used)]

use super::*;
use burn::tensor::{Distribution, TensorData, Tolerance};

fn random<const D: usize>(dims: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(dims, Distribution::Uniform(-1.0, 1.0), device)
}

/// Sums of some hundred products of numbers below one, in another order.
fn close<const D: usize>(what: &str, ours: Tensor<D>, theirs: Tensor<D>) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (ours.into_data(), theirs.into_data());
    ours.assert_approx_eq::<f32>(&theirs, Tolerance::rel_abs(2e-5, 2e-5));
}

/// Asserts that two functions of the tensors have the same values and gradients, weighed at random.
fn same<const D: usize>(
    ours: impl Fn(&mut Leaves) -> Tensor<D>,
    theirs: impl Fn(&mut Leaves) -> Tensor<D>,
) {
    let device = Device::flex().autodiff();
    device.seed(7);
    let mut leaves = Leaves {
        device: device.clone(),
        made: vec![],
        next: None,
    };
    let y = ours(&mut leaves);
    let weights = random(y.dims(), &device);
    let gradients = (y.clone() * weights.clone()).sum().backward();
    let mut again = Leaves {
        device,
        made: leaves.made.clone(),
        next: Some(0),
    };
    let y2 = theirs(&mut again);
    close("value", y, y2.clone());
    let gradients2 = (y2 * weights).sum().backward();
    for (i, (a, b)) in leaves.made.iter().zip(&again.made).enumerate() {
        let what = format!("gradient {i}");
        close(
            &what,
            a.grad(&gradients).unwrap(),
            b.grad(&gradients2).unwrap(),
        );
    }
}

/// Makes leaves at random, then the same ones again. They are flat: functions shape them, so that views
/// are part of what is tested.
struct Leaves {
    device: Device,
    made: Vec<Tensor<1>>,
    next: Option<usize>,
}

impl Leaves {
    fn get<const D: usize>(&mut self, dims: [usize; D]) -> Tensor<D> {
        let leaf = match &mut self.next {
            Some(next) => {
                let data = self.made[*next].to_data();
                let leaf = Tensor::<1>::from_data(data, &self.device).require_grad();
                self.made[*next] = leaf.clone();
                *next += 1;
                leaf
            }
            None => {
                let leaf = random([dims.iter().product()], &self.device).require_grad();
                self.made.push(leaf.clone());
                leaf
            }
        };
        leaf.reshape(dims)
    }
}

#[test]
fn linear_equals_burns() {
    for (b, t, inputs, outputs) in [(1, 1, 5, 3), (2, 7, 33, 50), (3, 50, 64, 130)] {
        same(
            |l| linear(l.get([b, t, inputs]), l.get([inputs, outputs]), None),
            |l| plain::linear(l.get([b, t, inputs]), l.get([inputs, outputs]), None),
        );
        same(
            |l| {
                linear(
                    l.get([b, t, inputs]),
                    l.get([inputs, outputs]),
                    Some(l.get([outputs])),
                )
            },
            |l| {
                plain::linear(
                    l.get([b, t, inputs]),
                    l.get([inputs, outputs]),
                    Some(l.get([outputs])),
                )
            },
        );
        // Transposed weight (as for tied embeddings) and a strided input.
        same(
            |l| {
                linear(
                    l.get([t, b, inputs]).swap_dims(0, 1),
                    l.get([outputs, inputs]).transpose(),
                    None,
                )
            },
            |l| {
                let x = l.get([t, b, inputs]).swap_dims(0, 1);
                plain::linear(x, l.get([outputs, inputs]).transpose(), None)
            },
        );
    }
}

/// Training in bf16 on a CPU that multiplies it: results and all gradients are f32, near those of f32.
#[test]
fn a_linear_layer_with_weights_in_bf16_is_near_that_in_f32() {
    if impasto_kernels::bf16::unit().is_none() {
        return;
    }
    let device = Device::flex().autodiff();
    device.seed(3);
    for (b, t, inputs, outputs) in [(1, 1, 5, 3), (2, 7, 33, 50), (3, 50, 64, 130)] {
        let leaf = || random([b, t, inputs], &device).require_grad();
        let (x, again) = (leaf(), leaf());
        let w = random([inputs, outputs], &device).require_grad();
        let bias = random([outputs], &device).require_grad();
        let weigh = random([b, t, outputs], &device);
        let in_precision = |dtype| {
            // A transposed view as well, which is cast as it is.
            let y = linear(x.clone(), w.clone().cast(dtype), Some(bias.clone()))
                + linear(
                    again.clone(),
                    w.clone().transpose().cast(dtype).transpose(),
                    None,
                );
            let gradients = (y.clone() * weigh.clone()).sum().backward();
            let gradients = [x.grad(&gradients), again.grad(&gradients)]
                .map(|gradient| gradient.unwrap().into_data())
                .into_iter()
                .chain([
                    w.grad(&gradients).unwrap().into_data(),
                    bias.grad(&gradients).unwrap().into_data(),
                ])
                .collect::<Vec<_>>();
            (y.into_data(), gradients)
        };
        let (y, gradients) = in_precision(FloatDType::BF16);
        let (exact, exact_gradients) = in_precision(FloatDType::F32);
        let lengths = [2 * inputs, outputs, outputs, 2 * b * t, 0];
        let found = std::iter::once(y).chain(gradients);
        let expected = std::iter::once(exact).chain(exact_gradients);
        for ((found, expected), length) in found.zip(expected).zip(lengths) {
            assert_eq!(found.dtype(), DType::F32);
            // Each product of two numbers below one is off by up to 2⁻⁸ of itself, as good as independently: 4 times
            // what they add up to in the mean square.
            let tolerance = 4.0 * (length as f32).sqrt() / 256.0 / 3.0 + 1e-5;
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(tolerance));
        }
    }
}

#[test]
fn attention_equals_burns() {
    for (b, h, queries, keys, dim, causal) in [
        (1, 1, 1, 1, 4, true),
        (2, 3, 5, 9, 8, false),
        (2, 3, 5, 9, 8, true),
        (2, 2, 110, 110, 16, true),
    ] {
        // Heads as slices of one projection, in memory order [batch, length, heads, dim].
        let make = |l: &mut Leaves, length: usize| {
            l.get([b, length, h, dim + 3])
                .narrow(3, 2, dim)
                .swap_dims(1, 2)
        };
        same(
            |l| attention(make(l, queries), make(l, keys), make(l, keys), causal),
            |l| plain::attention(make(l, queries), make(l, keys), make(l, keys), causal),
        );
    }
}

#[test]
fn self_attention_equals_burns() {
    for (batch, length, heads, dim) in [(1, 1, 1, 2), (2, 9, 3, 8), (2, 110, 2, 16)] {
        let turn = |l: &mut Leaves| {
            let angles = Tensor::<1>::from_data(
                TensorData::new(
                    (0..batch * length * dim / 2)
                        .map(|i| i as f32 * 0.37)
                        .collect(),
                    [batch * length * dim / 2],
                ),
                &l.device,
            )
            .reshape([batch, length, 1, dim / 2]);
            QkNormRope {
                weight: l.get([dim]),
                cos: angles.clone().cos(),
                sin: angles.sin(),
            }
        };
        let run = |l: &mut Leaves, ours: bool| {
            let qkv = l.get([batch, length, 3 * heads * dim]);
            let (query, key) = (turn(l), turn(l));
            if ours {
                self_attention(qkv, query, key, heads, 1e-5, false)
            } else {
                plain::self_attention(qkv, query, key, heads, 1e-5)
            }
        };
        same(|l| run(l, true), |l| run(l, false));
    }
}

#[test]
fn adamw_equals_burns_and_leaves_shared_tensors_alone() {
    let device = Device::flex();
    let [param, gradient, first] = [(); 3].map(|()| random([70, 3], &device));
    let second = random([70, 3], &device).abs();
    let adam = AdamW {
        learning_rate: 0.01,
        gradient_scale: 0.7,
        beta1: 0.9,
        beta2: 0.99,
        correction1: 0.3,
        correction2: 0.2,
        eps: 1e-8,
        decay: 0.99,
    };
    let held = param.clone();
    let before = held.to_data();
    let args = || {
        (
            param.clone(),
            gradient.clone(),
            first.clone(),
            second.clone(),
        )
    };
    let (p, g, m, v) = args();
    let ours = adamw(p, g, m, v, &adam);
    let (p, g, m, v) = args();
    let theirs = plain::adamw(p, g, m, v, &adam);
    close("parameter", ours.0, theirs.0);
    close("first moment", ours.1, theirs.1);
    close("second moment", ours.2, theirs.2);
    held.into_data().assert_eq(&before, true);
}

#[test]
fn norm_gate_and_loss_equal_burns() {
    for (rows, width) in [(1, 2), (7, 34), (150, 192)] {
        same(
            |l| rms_norm(l.get([rows, 2, width]), l.get([width]), 1e-6),
            |l| plain::rms_norm(l.get([rows, 2, width]), l.get([width]), 1e-6),
        );
        same(
            |l| swiglu(l.get([rows, 2, width]) * 5.0),
            |l| plain::swiglu(l.get([rows, 2, width]) * 5.0),
        );
        same(
            |l| gelu(l.get([rows, 2, width]) * 5.0),
            |l| plain::gelu(l.get([rows, 2, width]) * 5.0),
        );
        same(
            |l| gelu_gate(l.get([rows, 2, width]) * 5.0),
            |l| plain::gelu_gate(l.get([rows, 2, width]) * 5.0),
        );
        let targets = |device: &Device| {
            let ids: Vec<i64> = (0..rows as i64).map(|i| i * 5 % width as i64).collect();
            Tensor::<1, Int>::from_data(&ids[..], device)
        };
        same(
            |l| cross_entropy(l.get([rows, width]) * 9.0, targets(&l.device)),
            |l| plain::cross_entropy(l.get([rows, width]) * 9.0, targets(&l.device)),
        );
    }
}

#[test]
fn convolution_equals_burns() {
    for (batch, inputs, outputs, side, kernel, stride, padding) in [
        (1, 1, 1, 3, 1, 1, 0),
        (2, 5, 7, 9, 3, 1, 1),
        (2, 16, 40, 16, 3, 1, 1),
        (2, 12, 20, 8, 1, 1, 0),
        (2, 6, 8, 16, 4, 2, 1),
        (1, 3, 4, 6, 3, 1, 4),
    ] {
        let run = |l: &mut Leaves, ours: bool, biased: bool| {
            let x = l.get([batch, side, side, inputs]).permute([0, 3, 1, 2]);
            let w = l.get([outputs, inputs, kernel, kernel]);
            let bias = biased.then(|| l.get([outputs]));
            if ours {
                conv2d(x, w, bias, stride, padding)
            } else {
                plain::conv2d(x, w, bias, stride, padding)
            }
        };
        for biased in [false, true] {
            same(|l| run(l, true, biased), |l| run(l, false, biased));
        }
    }
}

#[test]
fn group_norm_and_doubling_equal_burns() {
    for (batch, channels, groups, side) in [(1, 2, 1, 3), (2, 32, 8, 9), (3, 64, 16, 16)] {
        let size = [batch, channels, side, side];
        same(
            |l| {
                group_norm(
                    l.get(size),
                    groups,
                    l.get([channels]),
                    l.get([channels]),
                    1e-6,
                )
            },
            |l| {
                plain::group_norm(
                    l.get(size),
                    groups,
                    l.get([channels]),
                    l.get([channels]),
                    1e-6,
                )
            },
        );
        same(
            |l| {
                group_norm_silu(
                    l.get(size),
                    groups,
                    l.get([channels]),
                    l.get([channels]),
                    1e-6,
                )
            },
            |l| {
                plain::group_norm_silu(
                    l.get(size),
                    groups,
                    l.get([channels]),
                    l.get([channels]),
                    1e-6,
                )
            },
        );
    }
    let device = Device::flex();
    let x = Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]]]], &device);
    let doubled = [
        [1., 1., 2., 2.],
        [1., 1., 2., 2.],
        [3., 3., 4., 4.],
        [3., 3., 4., 4.],
    ];
    upsample2(x)
        .into_data()
        .assert_eq(&TensorData::from([[doubled]]), false);
}

#[test]
fn without_autodiff_the_values_are_the_same_bits() {
    let device = Device::flex();
    let (x, w) = (random([3, 20, 32], &device), random([32, 50], &device));
    let plain_device = linear(x.clone(), w.clone(), None).into_data();
    let tracked = linear(x.autodiff(), w.autodiff().require_grad(), None);
    assert_eq!(tracked.into_data(), plain_device);
}

#[test]
fn an_untracked_input_gets_no_gradient_and_harms_none() {
    let device = Device::flex().autodiff();
    let x = random([4, 8], &device);
    let w = random([8, 3], &device).require_grad();
    let gradients = linear(x.clone(), w.clone(), None).sum().backward();
    assert!(x.grad(&gradients).is_none());
    let exact = x.sum_dim(0).transpose().expand([8, 3]);
    close("weight", w.grad(&gradients).unwrap(), exact.inner());
}

#[test]
fn forward_kernels_equal_burns_operations() {
    let device = Device::flex();
    device.seed(5);
    let x: Tensor<3> = random([2, 5, 96], &device) * 4.0;
    let (weight, bias) = (random([96], &device), random([96], &device));
    close(
        "layer norm",
        layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5),
        {
            let centred = x.clone() - x.clone().mean_dim(2);
            plain::rms_norm(centred, weight, 1e-5) + bias.unsqueeze()
        },
    );
    close("gelu", gelu(x.clone()), plain::gelu(x.clone()));
    close(
        "quick gelu",
        quick_gelu(x.clone()),
        plain::quick_gelu(x.clone()),
    );
    close(
        "tanh gelu",
        tanh_gelu(x.clone()),
        plain::tanh_gelu(x.clone()),
    );
    close("gate", gelu_gate(x.clone()), plain::gelu_gate(x));
    let x: Tensor<4> = random([2, 5, 7, 9], &device);
    let slopes = random([5], &device);
    let expected = plain::prelu(x.clone(), slopes.clone());
    close("prelu", prelu(x.clone(), slopes.clone()), expected.clone());
    // A part of a larger tensor, which must not change.
    let wide = Tensor::cat(vec![x.clone(), x.clone() + 1.0], 1);
    let part = prelu(wide.clone().narrow(1, 0, 5), slopes);
    close("prelu of a part", part, expected);
    close("the whole", wide.narrow(1, 0, 5), x.clone());
    close(
        "upsample2",
        upsample2(x.clone()),
        plain::upsample2(x.clone()),
    );
    let turned = x.permute([1, 0, 3, 2]);
    close(
        "upsample2 of a view",
        upsample2(turned.clone()),
        plain::upsample2(turned),
    );
}

#[test]
fn caches_that_are_extended_equal_burns() {
    let device = Device::flex();
    device.seed(3);
    let (heads, dim, capacity) = (3, 8, 12);
    for turned in [true, false] {
        let held = |rows: usize, known: usize| Held {
            keys: random([rows, heads, dim, capacity], &device),
            values: random([rows, heads, capacity, dim], &device),
            known,
        };
        for rows in [&[(2, 0)][..], &[(1, 4), (3, 0), (2, 5)]] {
            let start: Vec<Held> = rows
                .iter()
                .map(|&(rows, known)| held(rows, known))
                .collect();
            let batch = rows.iter().map(|&(rows, _)| rows).sum();
            let (mut ours, mut theirs) = (start.clone(), start);
            for length in [5, 1, 1] {
                let qkv: Tensor<3> = random([batch, length, 3 * heads * dim], &device);
                let turn = || QkNormRope {
                    weight: random([dim], &device),
                    cos: random([batch, length, 1, dim / 2], &device),
                    sin: random([batch, length, 1, dim / 2], &device),
                };
                let turns = turned.then(|| (turn(), turn()));
                let (seen, held) = extend(qkv.clone(), turns.clone(), ours, 1e-5);
                let plain = plain::extend(qkv, turns, theirs, 1e-5);
                close("seen", seen, plain.0);
                for (one, plain) in held.iter().zip(&plain.1) {
                    assert_eq!(one.known, plain.known);
                    close("keys", one.keys.clone(), plain.keys.clone());
                    close("values", one.values.clone(), plain.values.clone());
                }
                (ours, theirs) = (held, plain.1);
            }
        }
    }
}
