//! Every operation of [`crate::nn::ops`], and those of Burn that the models use beside them.

use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions, PadMode};
use burn::tensor::{Bool, Int, Tensor, TensorData, activation, module};

use super::Kind;
use super::check::{Check, Room, forward, with_gradients};
use super::compare::Values;
use crate::models::vqgan::{shuffle, unshuffle};
use crate::nn::ops::{self, AdamW, QkNormRope};

/// All of them, at two or three shapes each.
pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    linear(&mut all);
    attention(&mut all);
    norms_and_gates(&mut all);
    pictures(&mut all);
    burn_products(&mut all);
    burn_rows(&mut all);
    burn_moves(&mut all);
    adamw(&mut all);
    all
}

fn linear(all: &mut Vec<Check>) {
    for [b, t, inputs, outputs] in [[1, 1, 5, 3], [2, 7, 33, 50], [4, 65, 256, 384]] {
        let shapes = format!("{b}x{t}x{inputs} · {inputs}x{outputs}");
        all.push(with_gradients(
            "ops/linear",
            shapes.clone(),
            Kind::Product,
            move |room| {
                let (x, w) = (room.input([b, t, inputs]), room.input([inputs, outputs]));
                ops::linear(x, w, Some(room.input([outputs])))
            },
        ));
        // As for tied embeddings, with the rows of x apart in memory.
        all.push(with_gradients(
            "ops/linear, transposed",
            shapes,
            Kind::Product,
            move |room| {
                let x = room.input([t, b, inputs]).swap_dims(0, 1);
                ops::linear(x, room.input([outputs, inputs]).transpose(), None)
            },
        ));
    }
}

/// Cosines and sines of some angles.
fn turn(room: &mut Room, batch: usize, length: usize, dim: usize) -> QkNormRope {
    let count = batch * length * dim / 2;
    let angles: Vec<f32> = (0..count).map(|i| i as f32 * 0.37 % 6.0).collect();
    let of = |function: fn(f32) -> f32| {
        let values = angles.iter().map(|&angle| function(angle)).collect();
        room.place(values, [batch, length, 1, dim / 2])
    };
    let (cos, sin) = (of(f32::cos), of(f32::sin));
    QkNormRope {
        weight: room.input([dim]),
        cos,
        sin,
    }
}

fn attention(all: &mut Vec<Check>) {
    for [b, h, queries, keys, dim] in [[2, 3, 5, 9, 8], [2, 2, 110, 110, 16], [1, 4, 65, 130, 64]] {
        for causal in [false, true] {
            let name = match causal {
                true => "ops/attention, causal",
                false => "ops/attention",
            };
            let shapes = format!("{b}x{h}x{queries}x{dim} to {keys}");
            all.push(with_gradients(name, shapes, Kind::Attention, move |room| {
                // Heads as slices of one projection.
                let mut heads = |length: usize| {
                    let joint: Tensor<4> = room.input([b, length, h, dim + 3]);
                    joint.narrow(3, 2, dim).swap_dims(1, 2)
                };
                let (q, k, v) = (heads(queries), heads(keys), heads(keys));
                ops::attention(q * 3.0, k * 3.0, v, causal)
            }));
        }
    }
    for [batch, length, heads, dim] in [[1, 3, 1, 6], [2, 9, 3, 8], [2, 110, 2, 64]] {
        all.push(with_gradients(
            "ops/self_attention",
            format!("{batch}x{length}x{heads}x{dim}"),
            Kind::Attention,
            move |room| {
                let qkv = room.input([batch, length, 3 * heads * dim]);
                let query = turn(room, batch, length, dim);
                let key = turn(room, batch, length, dim);
                ops::self_attention(qkv, query, key, heads, 1e-5, false)
            },
        ));
    }
    for [batch, heads, dim, capacity] in [[2, 3, 8, 12], [1, 2, 64, 79]] {
        for turned in [true, false] {
            let name = match turned {
                true => "ops/extend, turned",
                false => "ops/extend",
            };
            let mut check = forward(
                name,
                format!("{batch}x{heads}x{dim} to {capacity}"),
                Kind::Attention,
                move |room| extended(room, [batch, heads, dim, capacity], turned),
            );
            check.bf16 = true;
            all.push(check);
        }
    }
}

/// A cache that is filled in three steps.
fn extended(
    room: &mut Room,
    [batch, heads, dim, capacity]: [usize; 4],
    turned: bool,
) -> crate::Result<Values> {
    let zeros = |shape: [usize; 4]| room.place(vec![0.0; shape.iter().product()], shape);
    let mut held = vec![ops::Held {
        keys: zeros([batch, heads, dim, capacity]),
        values: zeros([batch, heads, capacity, dim]),
        known: 0,
    }];
    let mut values = Values::default();
    for length in [5, 1, capacity - 6] {
        let qkv: Tensor<3> = room.input([batch, length, 3 * heads * dim]);
        let turns = turned.then(|| {
            let query = turn(room, batch, length, dim);
            (query, turn(room, batch, length, dim))
        });
        let known = held[0].known;
        let (seen, extended) = ops::extend(qkv, turns, held, 1e-5);
        values.add(format!("heads after {known}"), seen)?;
        held = extended;
    }
    for one in held {
        values.add("keys", one.keys)?;
        values.add("values", one.values)?;
    }
    Ok(values)
}

fn norms_and_gates(all: &mut Vec<Check>) {
    for [rows, width] in [[3, 6], [7, 34], [75, 192]] {
        let shapes = format!("{rows}x2x{width}");
        let mut add = |name: &str, function: fn(&mut Room, Tensor<3>, usize) -> Tensor<3>| {
            let kind = Kind::Pointwise;
            let run = move |room: &mut Room| {
                let x = room.input([rows, 2, width]) * 3.0;
                function(room, x, width)
            };
            all.push(with_gradients(name, shapes.clone(), kind, run));
        };
        add("ops/rms_norm", |room, x, width| {
            ops::rms_norm(x, room.input([width]), 1e-6)
        });
        add("ops/layer_norm", |room, x, width| {
            let weight = room.input([width]);
            ops::layer_norm(x, weight, room.input([width]), 1e-5)
        });
        add("ops/gelu", |_, x, _| ops::gelu(x));
        add("ops/quick_gelu", |_, x, _| ops::quick_gelu(x));
        add("ops/tanh_gelu", |_, x, _| ops::tanh_gelu(x));
        add("ops/gelu_gate", |_, x, _| ops::gelu_gate(x));
        add("ops/swiglu", |_, x, _| ops::swiglu(x));
    }
    for [rows, vocabulary] in [[5, 3], [7, 34], [70, 1025]] {
        all.push(with_gradients(
            "ops/cross_entropy",
            format!("{rows}x{vocabulary}"),
            Kind::Pointwise,
            move |room| {
                let logits = room.input([rows, vocabulary]) * 9.0;
                let targets = room.ids(rows, vocabulary);
                ops::cross_entropy(logits, room.place_ids(&targets))
            },
        ));
    }
}

fn pictures(all: &mut Vec<Check>) {
    for [batch, inputs, outputs, side, kernel, stride, padding] in [
        [2, 5, 7, 9, 3, 1, 1],
        [2, 32, 40, 16, 3, 1, 1],
        [2, 12, 20, 7, 1, 1, 0],
        [2, 6, 8, 16, 4, 2, 1],
        [1, 3, 32, 13, 7, 1, 3],
    ] {
        all.push(with_gradients(
            "ops/conv2d",
            format!("{batch}x{inputs}x{side}x{side} {kernel}x{kernel}/{stride} to {outputs}"),
            Kind::Product,
            move |room| {
                // Channels last in memory, as after attention.
                let x: Tensor<4> = room.input([batch, side, side, inputs]);
                let w = room.input([outputs, inputs, kernel, kernel]);
                let bias = Some(room.input([outputs]));
                ops::conv2d(x.permute([0, 3, 1, 2]), w, bias, stride, padding)
            },
        ));
    }
    for [batch, inputs, outputs, side] in [[1, 3, 5, 3], [2, 16, 24, 7]] {
        all.push(with_gradients(
            "ops/conv_transpose2d",
            format!("{batch}x{inputs}x{side}x{side} 4x4/2 to {outputs}"),
            Kind::Product,
            move |room| {
                let x = room.input([batch, inputs, side, side]);
                let w = room.input([inputs, outputs, 4, 4]);
                ops::conv_transpose2d(x, w, Some(room.input([outputs])), 2, 1)
            },
        ));
    }
    for [batch, channels, groups, side] in [[1, 2, 1, 3], [2, 32, 8, 9], [2, 64, 32, 16]] {
        let shapes = format!("{batch}x{channels}x{side}x{side} in {groups}");
        for (name, silu) in [("ops/group_norm", false), ("ops/group_norm_silu", true)] {
            all.push(with_gradients(
                name,
                shapes.clone(),
                Kind::Pointwise,
                move |room| {
                    let x = room.input([batch, channels, side, side]);
                    let (weight, bias) = (room.input([channels]), room.input([channels]));
                    let norm = match silu {
                        true => ops::group_norm_silu,
                        false => ops::group_norm,
                    };
                    norm(x, groups, weight, bias, 1e-6)
                },
            ));
        }
    }
    for side in [3, 8] {
        let shapes = format!("2x12x{side}x{side}");
        all.push(with_gradients(
            "ops/upsample2",
            shapes.clone(),
            Kind::Pointwise,
            move |room| ops::upsample2(room.input([2, 12, side, side])),
        ));
        all.push(with_gradients(
            "ops/shuffle, unshuffle",
            shapes,
            Kind::Moved,
            move |room| unshuffle(shuffle(room.input([2, 12, side, side]), 2), side),
        ));
    }
}

fn burn_products(all: &mut Vec<Check>) {
    for [batch, rows, inner, columns] in [[1, 3, 5, 2], [6, 17, 64, 33]] {
        all.push(with_gradients(
            "burn/matmul",
            format!("{batch}x{rows}x{inner} · {inner}x{columns}"),
            Kind::Product,
            move |room| {
                let left: Tensor<3> = room.input([batch, rows, inner]);
                left.matmul(room.input([batch, columns, inner]).transpose())
            },
        ));
    }
    for [rows, width] in [[1, 7], [33, 250]] {
        let shapes = format!("{rows}x{width}");
        let mut add = |name: &str, function: fn(Tensor<2>) -> Tensor<2>| {
            let run = move |room: &mut Room| function(room.input([rows, width]) * 4.0);
            all.push(with_gradients(name, shapes.clone(), Kind::Pointwise, run));
        };
        add("burn/softmax", |x| activation::softmax(x, 1));
        add("burn/log_softmax", |x| activation::log_softmax(x, 1));
        add("burn/sigmoid", activation::sigmoid);
        add("burn/log_sigmoid", activation::log_sigmoid);
        add("burn/silu", activation::silu);
        add("burn/relu", activation::relu);
        add("burn/leaky_relu", |x| activation::leaky_relu(x, 0.2));
        add("burn/exp, log, erf, sqrt", |x| {
            let positive = x.clone().square().add_scalar(0.5);
            positive.clone().log() + positive.sqrt() + x.clone().erf() + (x * 0.5).exp()
        });
        add("burn/abs, clamp", |x| {
            x.clone().abs() + x.clone().clamp(-1.0, 2.0) + x.clone().clamp_min(0.5) * x
        });
    }
}

fn burn_rows(all: &mut Vec<Check>) {
    for [batch, rows, width] in [[1, 3, 5], [2, 35, 130]] {
        let shapes = format!("{batch}x{rows}x{width}");
        let mut add = |name: &str, function: fn(Tensor<3>) -> Tensor<3>| {
            let run = move |room: &mut Room| function(room.input([batch, rows, width]));
            all.push(with_gradients(name, shapes.clone(), Kind::Pointwise, run));
        };
        add("burn/sum_dim, mean_dim, sum", |x| {
            // Of squares: sums of signs that cancel have no digits left.
            let x = x.square();
            x.clone().sum_dim(1)
                + x.clone().mean_dim(2)
                + x.clone().mean_dim(0)
                + x.sum().unsqueeze::<3>()
        });
        add("burn/max_dim", |x| x.clone().max_dim(2) + x.max_dim(1));
    }
    for side in [6, 14] {
        let shapes = format!("2x3x{side}x{side}");
        all.push(with_gradients(
            "burn/max_pool2d",
            shapes.clone(),
            Kind::Pointwise,
            move |room| {
                let options = MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
                module::max_pool2d(room.input([2, 3, side, side]), options)
            },
        ));
        all.push(with_gradients(
            "burn/avg_pool2d",
            shapes,
            Kind::Pointwise,
            move |room| {
                let options = AvgPoolOptions::new([2, 2]).with_stride([2, 2]);
                module::avg_pool2d(room.input([2, 3, side, side]), options)
            },
        ));
    }
}

fn burn_moves(all: &mut Vec<Check>) {
    for [rows, width, count] in [[3, 2, 7], [37, 65, 90]] {
        let shapes = format!("{count} of {rows}x{width}");
        // Rows come more than once: their gradients are sums.
        all.push(with_gradients(
            "burn/embedding",
            shapes.clone(),
            Kind::Pointwise,
            move |room| {
                let table: Tensor<2> = room.input([rows, width]);
                let ids = room.ids(count, rows);
                table.select(0, room.place_ids(&ids))
            },
        ));
        all.push(with_gradients(
            "burn/gather",
            shapes.clone(),
            Kind::Pointwise,
            move |room| {
                let table: Tensor<2> = room.input([count, width]);
                let ids = room.ids(count, width);
                table.gather(1, room.place_ids(&ids).reshape([count, 1]))
            },
        ));
        all.push(forward(
            "burn/argmax, sort",
            shapes,
            Kind::Moved,
            move |room| {
                let x: Tensor<2> = room.input([rows, width]);
                let mut values = Values::default();
                values.add_ints("argmax", x.clone().argmax(1))?;
                values.add_ints("argsort", x.clone().argsort(1))?;
                values.add("sort", x.sort(1))?;
                Ok(values)
            },
        ));
    }
    for [a, b, c] in [[2, 3, 5], [4, 33, 18]] {
        let shapes = format!("{a}x{b}x{c}");
        let mut add = |name: &str, function: fn(&mut Room, Tensor<3>) -> Tensor<3>| {
            let run = move |room: &mut Room| {
                let x = room.input([a, b, c]);
                function(room, x)
            };
            // What is seen more than once has a sum for its gradient.
            let kind = match name {
                "burn/expand, repeat" => Kind::Pointwise,
                _ => Kind::Moved,
            };
            all.push(with_gradients(name, shapes.clone(), kind, run));
        };
        add("burn/permute, narrow, cat", |_, x| {
            let [a, b, c] = x.dims();
            let left = x.clone().narrow(1, 1, b - 1).permute([2, 0, 1]);
            let right = x.narrow(1, 0, 1).permute([2, 0, 1]);
            Tensor::cat(vec![left, right], 2).reshape([c, b, a])
        });
        add("burn/slice_assign", |room, x| {
            let [a, b, c] = x.dims();
            x.slice_assign([0..a, 1..b, 1..c - 1], room.input([a, b - 1, c - 2]))
        });
        add("burn/expand, repeat", |_, x| {
            let [a, b, c] = x.dims();
            let row = x.clone().narrow(1, 0, 1).expand([a, b, c]);
            Tensor::cat(vec![row, x.repeat_dim(1, 2)], 1)
        });
        add("burn/pad", |_, x| {
            let [a, b, c] = x.dims();
            let picture = x.reshape([1, a, b, c]);
            let padded = picture.pad((0, 1, 0, 1), PadMode::Constant(0.0));
            padded.reshape([a, b + 1, c + 1])
        });
        add("burn/mask_fill", |room, x| {
            let [_, b, c] = x.dims();
            let hidden = Tensor::<2, Bool>::tril_mask([b, c], 1, &room.device);
            x.mask_fill(hidden.unsqueeze(), -7.5)
        });
    }
    all.push(forward(
        "burn/arange, eye, mask",
        "19".to_owned(),
        Kind::Moved,
        |room| {
            let device = &room.device;
            let mut values = Values::default();
            values.add_ints("arange", Tensor::<1, Int>::arange(0..19, device))?;
            values.add("eye", Tensor::<2>::eye(19, device))?;
            let mask = TensorData::new(vec![true, false, true], [3]);
            let mask = Tensor::<1, Bool>::from_data(mask, device);
            values.add("bool to float", mask.float())?;
            Ok(values)
        },
    ));
}

fn adamw(all: &mut Vec<Check>) {
    for count in [7, 5000] {
        all.push(forward(
            "ops/adamw",
            count.to_string(),
            Kind::Pointwise,
            move |room| {
                let [param, gradient, first] = [(); 3].map(|()| room.constant::<1>([count]));
                let second = room.constant::<1>([count]).abs();
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
                let (param, first, second) = ops::adamw(param, gradient, first, second, &adam);
                let mut values = Values::default();
                values.add("parameter", param)?;
                values.add("first moment", first)?;
                values.add("second moment", second)?;
                Ok(values)
            },
        ));
    }
}
