//! The kernels as an extension of Burn's Flex backend, with hand-written backward passes for its
//! autodiff decorator. Tensors are read and made in place: a view is copied only where a kernel wants
//! contiguous rows.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Shape};
use impasto_kernels as kernels;
use impasto_kernels::adamw::AdamW;
use impasto_kernels::attention::Heads;
use impasto_kernels::conv2d::Conv2d;
use impasto_kernels::gemm::Matrix;
use impasto_kernels::group_norm::GroupNorm;
use impasto_kernels::self_attention::{QkNormRope, Saved, Sizes};

use super::packed;

/// The operations that have kernels; meaning and shapes: see [`super`].
#[backend_extension(Autodiff, Flex)]
pub trait KernelOps: Backend {
    /// `x · w`.
    fn kernel_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x · w + bias`.
    fn kernel_linear_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Attention.
    fn kernel_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self>;
    /// RMS normalisation.
    fn kernel_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// The SwiGLU gate.
    fn kernel_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x · Φ(x)`.
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `a · Φ(a) · b`.
    fn kernel_gelu_gate(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Cross-entropy per row.
    fn kernel_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Convolution.
    fn kernel_conv2d(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
    /// Convolution with a bias.
    fn kernel_conv2d_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
    /// Group normalisation, with SiLU after it or without.
    fn kernel_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// Self-attention; a turn is weight, cosines, sines.
    #[allow(clippy::too_many_arguments)]
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
    ) -> FloatTensor<Self>;
    /// A step of AdamW: parameter, first and second moment.
    fn kernel_adamw(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        adam: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// A new tensor of these floats.
pub(super) fn tensor(floats: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(floats),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// The tensor with its elements contiguous, the same one where they are.
pub(super) fn contiguous(x: &FlexTensor) -> FlexTensor {
    if x.is_contiguous() {
        x.clone()
    } else {
        x.to_contiguous()
    }
}

/// A contiguous tensor's elements.
pub(super) fn floats(x: &FlexTensor) -> &[f32] {
    let start = x.layout().start_offset();
    &x.storage::<f32>()[start..start + x.layout().num_elements()]
}

/// A tensor in place, whatever its strides, unless they are negative.
fn in_place(x: &FlexTensor) -> FlexTensor {
    if x.layout().strides().iter().all(|&stride| stride >= 0) {
        x.clone()
    } else {
        contiguous(x)
    }
}

/// A weight in place; in bfloat16 its elements are contiguous.
fn weight_in_place(w: &FlexTensor) -> FlexTensor {
    match w.dtype() {
        DType::BF16 => contiguous(w),
        _ => in_place(w),
    }
}

/// The view of [`in_place`]'s result.
fn matrix(x: &FlexTensor) -> Matrix<'_> {
    let layout = x.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    let data = &x.storage::<f32>()[layout.start_offset()..];
    Matrix::with_strides(
        data,
        shape[0],
        shape[1],
        strides[0] as usize,
        strides[1] as usize,
    )
}

/// A contiguous tensor as a matrix whose columns are the last dimension.
fn rows(x: &FlexTensor) -> Matrix<'_> {
    let cols = last(x);
    Matrix::new(floats(x), x.layout().num_elements() / cols.max(1), cols)
}

/// The last dimension.
pub(super) fn last(x: &FlexTensor) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}

/// The shape with another last dimension.
pub(super) fn with_last(x: &FlexTensor, size: usize) -> Shape {
    let mut shape = x.layout().shape().clone();
    let dims = shape.num_dims();
    shape[dims - 1] = size;
    shape
}

fn linear(x: &FlexTensor, w: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    let (x, bias) = (contiguous(x), bias.map(contiguous));
    let bias = bias.as_ref().map(floats);
    let w = &weight_in_place(w);
    let y = packed::forward(rows(&x), w, bias)
        .unwrap_or_else(|| kernels::linear::forward(rows(&x), matrix(w), bias));
    tensor(y, with_last(&x, last(w)))
}

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

/// `[batch, heads, length, dim]` in place where `dim` is contiguous.
fn heads_in_place(x: &FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|&stride| stride >= 0) {
        x.clone()
    } else {
        x.to_contiguous()
    }
}

fn heads(x: &FlexTensor) -> Heads<'_> {
    let strides = x.layout().strides();
    Heads {
        data: &x.storage::<f32>()[x.layout().start_offset()..],
        batch_stride: strides[0] as usize,
        head_stride: strides[1] as usize,
        row_stride: strides[2] as usize,
        dim_stride: strides[3] as usize,
    }
}

/// A result in memory order `[batch, length, heads, dim]` as the tensor `[batch, heads, length, dim]`,
/// so that joining the heads after it moves nothing.
fn from_heads(floats: Vec<f32>, [batch, heads, length, dim]: [usize; 4]) -> FlexTensor {
    let strides = [length * heads * dim, dim, heads * dim, 1].map(|stride| stride as isize);
    let layout = Layout::new(
        Shape::from([batch, heads, length, dim]),
        strides.to_vec(),
        0,
    );
    FlexTensor::new(Bytes::from_elems(floats), layout, DType::F32)
}

fn attention_shape(q: &FlexTensor, k: &FlexTensor, causal: bool) -> kernels::attention::Shape {
    let [batch, heads, queries, dim] = q.layout().shape().dims();
    let keys = k.layout().shape()[2];
    let scale = 1.0 / (dim as f32).sqrt();
    kernels::attention::Shape {
        batch,
        heads,
        queries,
        keys,
        dim,
        causal,
        scale,
        unit: None,
    }
}

/// The output, and the normalisers.
fn attention(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    causal: bool,
) -> (FlexTensor, Vec<f32>) {
    let shape = attention_shape(q, k, causal);
    let (out, normalisers) = kernels::attention::forward(heads(q), heads(k), heads(v), shape);
    (from_heads(out, q.layout().shape().dims()), normalisers)
}

fn ids(targets: &FlexTensor) -> Vec<usize> {
    let targets = contiguous(targets);
    let range = targets.layout().start_offset()..;
    let len = targets.layout().num_elements();
    match targets.dtype() {
        DType::I64 => targets.storage::<i64>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::I32 => targets.storage::<i32>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::U32 => targets.storage::<u32>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::U8 => targets.storage::<u8>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        other => panic!("target ids of type {other:?}"),
    }
}

fn cross_entropy(logits: &FlexTensor, ids: &[usize]) -> (FlexTensor, Vec<f32>) {
    let (losses, normalisers) = kernels::cross_entropy::forward(floats(logits), ids, last(logits));
    (tensor(losses, Shape::from([ids.len()])), normalisers)
}

/// The sizes of a convolution of contiguous tensors.
fn conv_sizes(x: &FlexTensor, w: &FlexTensor, stride: usize, padding: usize) -> Conv2d {
    let [batch, inputs, height, width] = x.layout().shape().dims();
    let [outputs, _, kernel_height, kernel_width] = w.layout().shape().dims();
    let kernel = [kernel_height, kernel_width];
    Conv2d {
        batch,
        inputs,
        height,
        width,
        outputs,
        kernel,
        stride,
        padding,
    }
}

fn conv2d(x: &FlexTensor, w: &FlexTensor, bias: Option<&FlexTensor>, conv: &Conv2d) -> FlexTensor {
    let bias = bias.map(contiguous);
    let bias = bias.as_ref().map(floats);
    let y = match packed::kernels_in_bf16(w) {
        Some((unit, w)) => kernels::conv2d::forward_bf16(unit, floats(x), &w, bias, conv),
        None => kernels::conv2d::forward(floats(x), floats(w), bias, conv),
    };
    let [height, width] = conv.output();
    tensor(y, Shape::from([conv.batch, conv.outputs, height, width]))
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

fn group_norm_sizes(x: &FlexTensor, groups: usize, eps: f64, silu: bool) -> GroupNorm {
    let [_, _, height, width] = x.layout().shape().dims();
    GroupNorm {
        groups,
        pixels: height * width,
        eps: eps as f32,
        silu,
    }
}

/// The sizes, of a projection `[batch, length, 3 · width]`.
fn self_attention_sizes(qkv: &FlexTensor, heads: usize, eps: f64, in_bf16: bool) -> Sizes {
    let [batch, length, joint] = qkv.layout().shape().dims();
    Sizes {
        batch,
        length,
        heads,
        dim: joint / 3 / heads,
        eps: eps as f32,
        unit: if in_bf16 { packed::matrix_unit() } else { None },
    }
}

/// Weight, cosines and sines of contiguous tensors.
pub(super) fn turn([weight, cos, sin]: &[FlexTensor; 3]) -> QkNormRope<'_> {
    QkNormRope {
        weight: floats(weight),
        cos: floats(cos),
        sin: floats(sin),
    }
}

/// The output, and what the backward pass needs.
fn self_attention(
    qkv: &FlexTensor,
    query: &[FlexTensor; 3],
    key: &[FlexTensor; 3],
    sizes: &Sizes,
) -> (FlexTensor, Saved) {
    let (query, key) = (turn(query), turn(key));
    let (out, saved) = kernels::self_attention::forward(floats(qkv), &query, &key, sizes);
    (tensor(out, with_last(qkv, sizes.heads * sizes.dim)), saved)
}

/// The tensor with contiguous elements that nothing else holds, to be changed in place.
pub(super) fn own(x: FlexTensor) -> FlexTensor {
    let whole = x.is_contiguous()
        && x.layout().start_offset() == 0
        && x.storage::<f32>().len() == x.layout().num_elements();
    if whole { x } else { x.to_contiguous() }
}

impl KernelOps for Flex {
    fn kernel_linear(x: FlexTensor, w: FlexTensor) -> FlexTensor {
        linear(&x, &w, None)
    }

    fn kernel_linear_bias(x: FlexTensor, w: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear(&x, &w, Some(&bias))
    }

    fn kernel_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, causal: bool) -> FlexTensor {
        let (q, k, v) = (heads_in_place(&q), in_place(&k), in_place(&v));
        attention(&q, &k, &v, causal).0
    }

    fn kernel_rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (contiguous(&x), contiguous(&weight));
        let y = kernels::rms_norm::forward(floats(&x), floats(&weight), eps as f32);
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_swiglu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let hidden = last(&x) / 2;
        tensor(
            kernels::swiglu::forward(floats(&x), hidden),
            with_last(&x, hidden),
        )
    }

    fn kernel_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let y = kernels::gelu::forward(floats(&x));
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_gelu_gate(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let hidden = last(&x) / 2;
        tensor(
            kernels::gelu::gate(floats(&x), hidden),
            with_last(&x, hidden),
        )
    }

    fn kernel_cross_entropy(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
        cross_entropy(&contiguous(&logits), &ids(&targets)).0
    }

    fn kernel_conv2d(x: FlexTensor, w: FlexTensor, stride: usize, padding: usize) -> FlexTensor {
        let (x, w) = (contiguous(&x), contiguous(&w));
        conv2d(&x, &w, None, &conv_sizes(&x, &w, stride, padding))
    }

    fn kernel_conv2d_bias(
        x: FlexTensor,
        w: FlexTensor,
        bias: FlexTensor,
        stride: usize,
        padding: usize,
    ) -> FlexTensor {
        let (x, w) = (contiguous(&x), contiguous(&w));
        conv2d(&x, &w, Some(&bias), &conv_sizes(&x, &w, stride, padding))
    }

    fn kernel_group_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FlexTensor {
        let [x, weight, bias] = [&x, &weight, &bias].map(contiguous);
        let norm = group_norm_sizes(&x, groups, eps, silu);
        let y = kernels::group_norm::forward(floats(&x), floats(&weight), floats(&bias), &norm);
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_self_attention(
        qkv: FlexTensor,
        query_weight: FlexTensor,
        query_cos: FlexTensor,
        query_sin: FlexTensor,
        key_weight: FlexTensor,
        key_cos: FlexTensor,
        key_sin: FlexTensor,
        heads: usize,
        eps: f64,
        in_bf16: bool,
    ) -> FlexTensor {
        let qkv = contiguous(&qkv);
        let query = [&query_weight, &query_cos, &query_sin].map(contiguous);
        let key = [&key_weight, &key_cos, &key_sin].map(contiguous);
        let sizes = self_attention_sizes(&qkv, heads, eps, in_bf16);
        self_attention(&qkv, &query, &key, &sizes).0
    }

    fn kernel_adamw(
        param: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        adam: AdamW,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let gradient = contiguous(&gradient);
        let [mut param, mut first, mut second] = [param, first, second].map(own);
        kernels::adamw::step(
            param.storage_mut(),
            floats(&gradient),
            first.storage_mut(),
            second.storage_mut(),
            &adam,
        );
        (param, first, second)
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
