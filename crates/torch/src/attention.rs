//! Attention of drawing: one query a row and head, keys and values in a cache that is written in the same launch.

use tch::{Device, Kind, Tensor};

use super::blocks;
use super::module::{Argument, Kernels, Module};

/// Threads of a block: eight warps.
const THREADS: u32 = 256;

/// The kernels for heads of a width, where there are any.
fn kernels(tensor: &Tensor, dim: i64) -> Option<&'static Module> {
    let is_bf16 = match tensor.kind() {
        Kind::BFloat16 => true,
        Kind::Float => false,
        _ => return None,
    };
    let fits = tensor.device() == Device::Cuda(0) && (dim == 64 || dim == 128);
    match fits {
        true => Module::get(Kernels::Attention { dim, is_bf16 }),
        false => None,
    }
}

/// Whether pairs of a tensor's last dimension, each of which lies side by side, can be read at once.
fn in_pairs(tensor: &Tensor) -> bool {
    let (strides, bytes) = (tensor.stride(), tensor.kind().elt_size_in_bytes());
    let (last, others) = match strides.split_last() {
        Some((last, others)) => (*last, others),
        None => return false,
    };
    last == 1
        && others.iter().all(|stride| stride % 2 == 0)
        && (tensor.data_ptr() as usize).is_multiple_of(2 * bytes)
}

/// Keys and values as a kernel reads them.
struct Stored<'a> {
    /// `[rows, heads, positions, dim]` each, of the same strides.
    keys: &'a Tensor,
    values: &'a Tensor,
}

impl Stored<'_> {
    fn fits(&self, like: &Tensor) -> bool {
        let of = |tensor: &Tensor| {
            tensor.kind() == like.kind() && tensor.device() == like.device() && in_pairs(tensor)
        };
        of(self.keys) && of(self.values) && self.keys.stride() == self.values.stride()
    }
}

/// Attention of the position after `known` ones, whose keys and values are written into the caches first.
///
/// # Shapes
/// - `qkv`: `[rows, 1, 3 · heads · dim]`, contiguous, in f32 or bf16; `dim` 64 or 128
/// - `keys`, `values`: `[rows, heads, capacity, dim]`, of the same strides, with room after `known` positions
/// - returns: `[rows, 1, heads · dim]`; none, and nothing is written, where it does not apply
pub fn extend(qkv: &Tensor, keys: &Tensor, values: &Tensor, known: i64) -> Option<Tensor> {
    let (size, cache) = (qkv.size(), keys.size());
    let (&[rows, 1, joint], &[of_rows, heads, capacity, dim]) = (&size[..], &cache[..]) else {
        return None;
    };
    let module = kernels(qkv, dim)?;
    let width = heads * dim;
    let stored = Stored { keys, values };
    let fits = rows == of_rows
        && joint == 3 * width
        && values.size() == cache
        && (0..capacity.min(i64::from(i32::MAX))).contains(&known)
        && rows > 0
        && qkv.is_contiguous()
        && stored.fits(qkv);
    if !fits {
        return None;
    }
    let out = Tensor::empty([rows, 1, width], (qkv.kind(), qkv.device()));
    // The keys follow the queries, the values the keys.
    let added = qkv.narrow(2, width, width);
    let queries = Queries {
        first: qkv,
        row_stride: joint,
        rows,
        heads,
        dim,
    };
    attend(
        module,
        &queries,
        Some((&added, width)),
        &stored,
        &out,
        known + 1,
    )?;
    Some(out)
}

/// Attention of queries that see all keys.
///
/// # Shapes
/// - `q`: `[1, heads, queries, dim]`, a query's heads side by side; `dim` 64 or 128
/// - `keys`, `values`: `[1, heads, positions, dim]`, of the same strides
/// - returns: `[1, heads, queries, dim]`, a query's heads side by side; none where it does not apply
pub fn attention(q: &Tensor, keys: &Tensor, values: &Tensor) -> Option<Tensor> {
    let (size, seen) = (q.size(), keys.size());
    let (&[1, heads, queries, dim], &[1, of_heads, positions, of_dim]) = (&size[..], &seen[..])
    else {
        return None;
    };
    // With many queries the matrix units are quicker.
    if queries > 64 {
        return None;
    }
    let module = kernels(q, dim)?;
    let strides = q.stride();
    let stored = Stored { keys, values };
    let fits = heads == of_heads
        && dim == of_dim
        && values.size() == seen
        && (1..i64::from(i32::MAX)).contains(&positions)
        && queries > 0
        && strides[3] == 1
        && (heads == 1 || strides[1] == dim)
        && stored.fits(q);
    if !fits {
        return None;
    }
    let out = Tensor::empty([1, queries, heads, dim], (q.kind(), q.device()));
    // Queries are what rows are in the kernel: all of one row of keys.
    let of_rows = Queries {
        first: q,
        row_stride: strides[2],
        rows: queries,
        heads,
        dim,
    };
    attend(module, &of_rows, None, &stored, &out, positions)?;
    Some(out.transpose(1, 2))
}

/// Queries of rows, the heads of each side by side.
struct Queries<'a> {
    first: &'a Tensor,
    row_stride: i64,
    rows: i64,
    heads: i64,
    dim: i64,
}

/// Launches the kernel; `added` are the keys that are written first, and how many numbers after them their values are.
fn attend(
    module: &Module,
    queries: &Queries<'_>,
    added: Option<(&Tensor, i64)>,
    stored: &Stored<'_>,
    out: &Tensor,
    count: i64,
) -> Option<()> {
    let strides = stored.keys.stride();
    let row_stride = match added {
        Some(_) => strides[0],
        None => 0,
    };
    let (added, added_width) = match added {
        Some((added, width)) => (Argument::of(added), width),
        None => (Argument::Pointer(0), 0),
    };
    let arguments = [
        Argument::of(queries.first),
        Argument::Long(queries.row_stride),
        added,
        Argument::Long(added_width),
        Argument::of(stored.keys),
        Argument::of(stored.values),
        Argument::Long(row_stride),
        Argument::Long(strides[1]),
        Argument::Long(strides[2]),
        Argument::of(out),
        Argument::Int(count as i32),
        Argument::Float((1.0 / (queries.dim as f64).sqrt()) as f32),
    ];
    let blocks = [
        u32::try_from(queries.heads).ok()?,
        u32::try_from(queries.rows).ok()?,
    ];
    module.launch_threads("attend", (blocks, THREADS), &arguments)
}

/// Rotates the pairs `(i, i + dim / 2)` of the queries' and keys' heads of a joint projection in place.
///
/// # Shapes
/// - `qkv`: `[batch, length, 3 · heads · dim]`, contiguous, in f32 or bf16; `dim` 64 or 128
/// - `cos`, `sin`: `[batch, length, 1, dim]`, contiguous, in f32: cosines twice, and sines with their signs
/// - returns: none, and nothing is changed, where it does not apply
pub fn rotate_heads(qkv: &Tensor, cos: &Tensor, sin: &Tensor, heads: i64) -> Option<()> {
    let size = qkv.size();
    let &[batch, length, joint] = &size[..] else {
        return None;
    };
    let dim = joint / 3 / heads.max(1);
    let module = kernels(qkv, dim)?;
    let of_table = |table: &Tensor| {
        table.size() == [batch, length, 1, dim]
            && table.kind() == Kind::Float
            && table.device() == qkv.device()
            && table.is_contiguous()
    };
    let fits = joint == 3 * heads * dim
        && batch * length > 0
        && qkv.is_contiguous()
        && of_table(cos)
        && of_table(sin);
    if !fits {
        return None;
    }
    let tokens = batch * length;
    let pairs = tokens * heads * dim;
    let arguments = [
        Argument::of(qkv),
        Argument::of(cos),
        Argument::of(sin),
        Argument::Long(tokens),
        Argument::Int(heads as i32),
    ];
    module.launch(
        "rotate",
        [blocks(pairs, i64::from(super::THREADS)), 1],
        &arguments,
    )
}
