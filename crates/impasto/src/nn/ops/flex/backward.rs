//! The same operations where gradients are kept, with hand-written backward passes.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Shape;
use impasto_kernels as kernels;
use impasto_kernels::adamw::AdamW;
use impasto_kernels::conv2d::Conv2d;
use impasto_kernels::group_norm::GroupNorm;
use impasto_kernels::self_attention::{Saved, Sizes};

use super::super::packed;
use super::KernelOps;
use super::forward::*;
use super::views::*;

/// Registers the gradients of the input and the weight.
fn linear_backward(
    x: Option<NodeId>,
    w: Option<NodeId>,
    dy: &FlexTensor,
    state: &(FlexTensor, FlexTensor),
    grads: &mut Gradients,
) {
    let (saved_x, saved_w) = state;
    if let Some(id) = x {
        let dx = packed::backward_input(rows(dy), saved_w)
            .unwrap_or_else(|| kernels::linear::backward_input(rows(dy), matrix(saved_w)));
        grads.register::<Flex>(id, tensor(dx, saved_x.layout().shape().clone()));
    }
    if let Some(id) = w {
        let dw = packed::backward_weight(rows(saved_x), rows(dy), saved_w)
            .unwrap_or_else(|| kernels::linear::backward_weight(rows(saved_x), rows(dy)));
        grads.register::<Flex>(id, tensor(dw, saved_w.layout().shape().clone()));
    }
}

/// Registers the gradients of the input and the weight.
fn conv2d_backward(
    x: Option<NodeId>,
    w: Option<NodeId>,
    dy: &FlexTensor,
    (saved_x, saved_w, conv): &(FlexTensor, FlexTensor, Conv2d),
    grads: &mut Gradients,
) {
    let in_bf16 = packed::kernels_in_bf16(saved_w);
    if let Some(id) = x {
        let dx = match &in_bf16 {
            Some((unit, w)) => kernels::conv2d::backward_input_bf16(*unit, floats(dy), w, conv),
            None => kernels::conv2d::backward_input(floats(dy), floats(saved_w), conv),
        };
        grads.register::<Flex>(id, tensor(dx, saved_x.layout().shape().clone()));
    }
    if let Some(id) = w {
        let (x, dy) = (floats(saved_x), floats(dy));
        let dw = match &in_bf16 {
            Some((unit, _)) => kernels::conv2d::backward_weight_bf16(*unit, x, dy, conv),
            None => kernels::conv2d::backward_weight(x, dy, conv),
        };
        grads.register::<Flex>(id, tensor(dw, saved_w.layout().shape().clone()));
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let [x, w] = ops.parents.map(|node| node.map(|node| node.id));
        linear_backward(x, w, &dy, &ops.state, grads);
    }
}

#[derive(Debug)]
struct LinearBiasBackward;

impl Backward<Flex, 3> for LinearBiasBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let [x, w, bias] = ops.parents.map(|node| node.map(|node| node.id));
        linear_backward(x, w, &dy, &ops.state, grads);
        if let Some(id) = bias {
            let outputs = last(&dy);
            let db = kernels::linear::backward_bias(floats(&dy), outputs);
            grads.register::<Flex>(id, tensor(db, Shape::from([outputs])));
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

/// What attention's backward pass needs.
#[derive(Clone, Debug)]
struct AttentionState {
    qkv: [FlexTensor; 3],
    out: FlexTensor,
    normalisers: Vec<f32>,
    causal: bool,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = heads_in_place(&grads.consume::<Flex>(&ops.node));
        let AttentionState {
            qkv: [q, k, v],
            out,
            normalisers,
            causal,
        } = ops.state;
        let shape = attention_shape(&q, &k, causal);
        let (dq, dk, dv) = kernels::attention::backward(
            heads(&dout),
            (heads(&q), heads(&k), heads(&v)),
            (out.storage::<f32>(), &normalisers),
            shape,
        );
        for ((node, floats), x) in ops.parents.into_iter().zip([dq, dk, dv]).zip([&q, &k, &v]) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, from_heads(floats, x.layout().shape().dims()));
            }
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let (x, weight, eps) = ops.state;
        let (dx, dw) =
            kernels::rms_norm::backward(floats(&dy), floats(&x), floats(&weight), eps as f32);
        for ((node, floats), x) in ops.parents.into_iter().zip([dx, dw]).zip([&x, &weight]) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(floats, x.layout().shape().clone()));
            }
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl Backward<Flex, 1> for SwigluBackward {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let x = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            let dx = kernels::swiglu::backward(floats(&dy), floats(&x), last(&x) / 2);
            grads.register::<Flex>(node.id, tensor(dx, x.layout().shape().clone()));
        }
    }
}

#[derive(Debug)]
struct GeluBackward;

impl Backward<Flex, 1> for GeluBackward {
    /// The input, and whether its second half is the gated one.
    type State = (FlexTensor, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let (x, gated) = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            let dx = match gated {
                true => kernels::gelu::gate_backward(floats(&dy), floats(&x), last(&x) / 2),
                false => kernels::gelu::backward(floats(&dy), floats(&x)),
            };
            grads.register::<Flex>(node.id, tensor(dx, x.layout().shape().clone()));
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 1> for CrossEntropyBackward {
    type State = (FlexTensor, Vec<usize>, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradients = contiguous(&grads.consume::<Flex>(&ops.node));
        let (logits, ids, normalisers) = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            let d = kernels::cross_entropy::backward(
                floats(&gradients),
                floats(&logits),
                &normalisers,
                &ids,
                last(&logits),
            );
            grads.register::<Flex>(node.id, tensor(d, logits.layout().shape().clone()));
        }
    }
}

#[derive(Debug)]
struct Conv2dBackward;

impl Backward<Flex, 2> for Conv2dBackward {
    type State = (FlexTensor, FlexTensor, Conv2d);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let [x, w] = ops.parents.map(|node| node.map(|node| node.id));
        conv2d_backward(x, w, &dy, &ops.state, grads);
    }
}

#[derive(Debug)]
struct Conv2dBiasBackward;

impl Backward<Flex, 3> for Conv2dBiasBackward {
    type State = (FlexTensor, FlexTensor, Conv2d);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let [x, w, bias] = ops.parents.map(|node| node.map(|node| node.id));
        conv2d_backward(x, w, &dy, &ops.state, grads);
        if let Some(id) = bias {
            let conv = &ops.state.2;
            let db = kernels::conv2d::backward_bias(floats(&dy), conv);
            grads.register::<Flex>(id, tensor(db, Shape::from([conv.outputs])));
        }
    }
}

#[derive(Debug)]
struct GroupNormBackward;

impl Backward<Flex, 3> for GroupNormBackward {
    type State = ([FlexTensor; 3], GroupNorm);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(&grads.consume::<Flex>(&ops.node));
        let (inputs, norm) = ops.state;
        let [x, weight, bias] = inputs.each_ref().map(floats);
        let (dx, dw, db) = kernels::group_norm::backward(floats(&dy), x, weight, bias, &norm);
        for ((node, floats), x) in ops.parents.into_iter().zip([dx, dw, db]).zip(&inputs) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(floats, x.layout().shape().clone()));
            }
        }
    }
}

#[derive(Debug)]
struct SelfAttentionBackward;

/// What self-attention's backward pass needs.
#[derive(Clone, Debug)]
struct SelfAttentionState {
    qkv: FlexTensor,
    query: [FlexTensor; 3],
    key: [FlexTensor; 3],
    out: FlexTensor,
    saved: Saved,
    sizes: Sizes,
}

impl Backward<Flex, 3> for SelfAttentionBackward {
    type State = SelfAttentionState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = contiguous(&grads.consume::<Flex>(&ops.node));
        let SelfAttentionState {
            qkv,
            query,
            key,
            out,
            saved,
            sizes,
        } = ops.state;
        let (dqkv, dwq, dwk) = kernels::self_attention::backward(
            floats(&dout),
            floats(&qkv),
            (&turn(&query), &turn(&key)),
            (floats(&out), &saved),
            &sizes,
        );
        let inputs = [&qkv, &query[0], &key[0]];
        for ((node, floats), x) in ops.parents.into_iter().zip([dqkv, dwq, dwk]).zip(inputs) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(floats, x.layout().shape().clone()));
            }
        }
    }
}

impl<C: CheckpointStrategy> KernelOps for Autodiff<Flex, C> {
    fn kernel_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = LinearBackward
            .prepare::<C>([x.node(), w.node()])
            .compute_bound()
            .stateful();
        let (x, w) = (contiguous(x.primitive()), weight_in_place(w.primitive()));
        let y = linear(&x, &w, None);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_linear_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let prepared = LinearBiasBackward
            .prepare::<C>([x.node(), w.node(), bias.node()])
            .compute_bound()
            .stateful();
        let (x, w) = (contiguous(x.primitive()), weight_in_place(w.primitive()));
        let y = linear(&x, &w, Some(bias.primitive()));
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let prepared = AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let qkv = [q.primitive(), k.primitive(), v.primitive()].map(heads_in_place);
        let (out, normalisers) = attention(&qkv[0], &qkv[1], &qkv[2], causal);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = AttentionState {
                    qkv,
                    out: out.clone(),
                    normalisers,
                    causal,
                };
                prepared.finish(state, out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn kernel_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let prepared = RmsNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let (x, weight) = (contiguous(x.primitive()), contiguous(weight.primitive()));
        let y = Flex::kernel_rms_norm(x.clone(), weight.clone(), eps);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight, eps), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = SwigluBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful();
        let x = contiguous(x.primitive());
        let y = Flex::kernel_swiglu(x.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(x, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GeluBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful();
        let x = contiguous(x.primitive());
        let y = Flex::kernel_gelu(x.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, false), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_gelu_gate(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GeluBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful();
        let x = contiguous(x.primitive());
        let y = Flex::kernel_gelu_gate(x.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, true), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let prepared = CrossEntropyBackward
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful();
        let (logits, ids) = (contiguous(logits.primitive()), ids(&targets));
        let (losses, normalisers) = cross_entropy(&logits, &ids);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((logits, ids, normalisers), losses),
            OpsKind::UnTracked(prepared) => prepared.finish(losses),
        }
    }

    fn kernel_conv2d(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        let prepared = Conv2dBackward
            .prepare::<C>([x.node(), w.node()])
            .compute_bound()
            .stateful();
        let (x, w) = (contiguous(x.primitive()), contiguous(w.primitive()));
        let conv = conv_sizes(&x, &w, stride, padding);
        let y = conv2d(&x, &w, None, &conv);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w, conv), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_conv2d_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), w.node(), bias.node()];
        let prepared = Conv2dBiasBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let (x, w) = (contiguous(x.primitive()), contiguous(w.primitive()));
        let conv = conv_sizes(&x, &w, stride, padding);
        let y = conv2d(&x, &w, Some(bias.primitive()), &conv);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w, conv), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = GroupNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let inputs = [x.primitive(), weight.primitive(), bias.primitive()].map(contiguous);
        let norm = group_norm_sizes(&inputs[0], groups, eps, silu);
        let [x, weight, bias] = inputs.each_ref().map(floats);
        let y = kernels::group_norm::forward(x, weight, bias, &norm);
        let y = tensor(y, inputs[0].layout().shape().clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, norm), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn kernel_self_attention(
        qkv: FloatTensor<Self>,
        query_weight: FloatTensor<Self>,
        query_cos: FloatTensor<Self>,
        query_sin: FloatTensor<Self>,
        key_weight: FloatTensor<Self>,
        key_cos: FloatTensor<Self>,
        key_sin: FloatTensor<Self>,
        heads: usize,
        eps: f64,
        in_bf16: bool,
    ) -> FloatTensor<Self> {
        let nodes = [qkv.node(), query_weight.node(), key_weight.node()];
        let prepared = SelfAttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let own = |x: &FloatTensor<Self>| contiguous(x.primitive());
        let qkv = own(&qkv);
        let query = [&query_weight, &query_cos, &query_sin].map(own);
        let key = [&key_weight, &key_cos, &key_sin].map(own);
        let sizes = self_attention_sizes(&qkv, heads, eps, in_bf16);
        let (out, saved) = self_attention(&qkv, &query, &key, &sizes);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = SelfAttentionState {
                    qkv,
                    query,
                    key,
                    out: out.clone(),
                    saved,
                    sizes,
                };
                prepared.finish(state, out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    /// Without gradients: the results are new leaves.
    fn kernel_adamw(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        adam: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [param, gradient, first, second] =
            [param, gradient, first, second].map(|x| x.into_primitive());
        let (param, first, second) = Flex::kernel_adamw(param, gradient, first, second, adam);
        let [param, first, second] = [param, first, second].map(FloatTensor::<Self>::new);
        (param, first, second)
    }
}
