//! Operations of drawing without gradients: on LibTorch they are others than with gradients.

use burn::tensor::Tensor;

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::Values;
use crate::nn::ops::{self, Turns};

/// All of them, at the sizes of a token.
pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    for [rows, width, outputs] in [[3, 6, 10], [2, 34, 50], [2, 1024, 2730], [1, 2730, 64]] {
        let shapes = format!("{rows}x1x{width}");
        let mut add = |name: &str, kind, function: fn(&mut Room, Tensor<3>, usize) -> Tensor<3>| {
            let mut check = forward(name, shapes.clone(), kind, move |room| {
                let x = room.input([rows, 1, width]) * 3.0;
                let mut values = Values::default();
                values.add("value", function(room, x, outputs))?;
                Ok(values)
            });
            check.bf16 = true;
            all.push(check);
        };
        add("drawing/linear", Kind::Product, |room, x, outputs| {
            let [_, _, width] = x.dims();
            ops::linear(x, room.input([width, outputs]), None)
        });
        add("drawing/linear, bias", Kind::Product, |room, x, outputs| {
            let [_, _, width] = x.dims();
            let w = room.input([width, outputs]);
            ops::linear(x, w, Some(room.input([outputs])))
        });
        add("drawing/layer_norm", Kind::Pointwise, |room, x, _| {
            let [_, _, width] = x.dims();
            let weight = room.input([width]);
            ops::layer_norm(x, weight, room.input([width]), 1e-5)
        });
        add(
            "drawing/layer_norm, shifted",
            Kind::Pointwise,
            |room, x, _| {
                let [_, _, width] = x.dims();
                ops::layer_norm_shifted(x, room.input([width]), 1e-5)
            },
        );
        add("drawing/rms_norm", Kind::Pointwise, |room, x, _| {
            let [_, _, width] = x.dims();
            ops::rms_norm(x, room.input([width]), 1e-6)
        });
        add("drawing/gelu", Kind::Pointwise, |_, x, _| ops::gelu(x));
        add("drawing/gelu_gate", Kind::Pointwise, |_, x, _| {
            ops::gelu_gate(x)
        });
        add("drawing/swiglu", Kind::Pointwise, |_, x, _| ops::swiglu(x));
    }
    for [batch, length, heads, dim] in [[1, 3, 2, 6], [2, 1, 16, 64], [2, 7, 3, 128]] {
        let mut check = forward(
            "drawing/rotate_heads",
            format!("{batch}x{length}x{heads}x{dim}"),
            Kind::Pointwise,
            move |room| {
                let qkv = room.input([batch, length, 3 * heads * dim]);
                let angles = (0..batch * length * dim / 2).map(|i| (i as f32 * 0.37) % 6.0);
                let turns = angles.map(|angle| [angle.cos(), angle.sin()]);
                let turns = Turns::new(turns, [batch, dim / 2], &room.device);
                let mut values = Values::default();
                // What else holds the projection keeps it as it was.
                values.add("turned", ops::rotate_heads(qkv.clone(), &turns, heads))?;
                values.add("as it was", qkv)?;
                Ok(values)
            },
        );
        check.bf16 = true;
        all.push(check);
    }
    for [batch, heads, keys, dim] in [
        [1, 2, 5, 8],
        [1, 16, 20, 64],
        [2, 16, 257, 64],
        [1, 3, 600, 128],
    ] {
        let mut check = forward(
            "drawing/attention",
            format!("{batch}x{heads}x1x{dim} to {keys}"),
            Kind::Attention,
            move |room| {
                let mut heads = |length: usize| {
                    let joint: Tensor<4> = room.input([batch, length, heads, dim]);
                    joint.swap_dims(1, 2)
                };
                let (q, k, v) = (heads(1), heads(keys), heads(keys));
                let mut values = Values::default();
                values.add("value", ops::attention(q * 3.0, k, v, false))?;
                Ok(values)
            },
        );
        check.bf16 = true;
        all.push(check);
    }
    for [rows, heads, dim, capacity] in [[1, 2, 8, 20], [2, 16, 64, 90], [4, 3, 128, 40]] {
        let mut check = forward(
            "drawing/extend",
            format!("{rows}x{heads}x{dim} to {capacity}"),
            Kind::Attention,
            move |room| extended(room, [rows, heads, dim, capacity]),
        );
        check.bf16 = true;
        all.push(check);
    }
    all
}

/// Caches as nets have them, after a prefix and some tokens: those of half of the rows and of the others.
fn extended(room: &mut Room, [rows, heads, dim, capacity]: [usize; 4]) -> crate::Result<Values> {
    let parts = match rows {
        1 => vec![1],
        _ => vec![rows / 2, rows - rows / 2],
    };
    let mut held: Vec<ops::Held> = Vec::new();
    for rows in parts {
        let place = (&room.device, room.dtype());
        held.push(ops::Held {
            keys: ops::room_for_keys([rows, heads, dim, capacity], place),
            values: Tensor::zeros([rows, heads, capacity, dim], place),
            known: 0,
        });
    }
    let mut values = Values::default();
    for length in [capacity - 5, 1, 1, 1] {
        let qkv: Tensor<3> = room.input([rows, length, 3 * heads * dim]);
        let known = held[0].known;
        let (seen, extended) = ops::extend(qkv, None, held, 1e-5);
        values.add(format!("heads after {known}"), seen)?;
        held = extended;
    }
    for one in held {
        values.add("keys", one.keys)?;
        values.add("values", one.values)?;
    }
    Ok(values)
}
