//! From the tensors of either form to parameters of ours, with an account of it.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::flax::FlaxArray;
use crate::checkpoint::stored::{Element, StoredTensor};
use crate::checkpoint::weights::{LazyTensor, Precision};
use crate::error::Reason;
use crate::import::{ImportReport, Misshapen};

/// The tensors of one of the two forms.
pub enum Source<'a> {
    /// Matrices are `[in, out]`, convolutions `[height, width, in, out]`.
    Flax(BTreeMap<String, FlaxArray<'a>>),
    /// Matrices are `[out, in]`, convolutions as ours.
    Torch(BTreeMap<String, StoredTensor<'a>>),
}

impl<'a> Source<'a> {
    pub fn is_flax(&self) -> bool {
        matches!(self, Source::Flax(_))
    }

    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Source::Flax(arrays) => arrays.get(name).map(FlaxArray::shape),
            Source::Torch(tensors) => tensors.get(name).map(StoredTensor::shape),
        }
    }

    pub fn names(&self) -> Vec<&str> {
        match self {
            Source::Flax(arrays) => arrays.keys().map(String::as_str).collect(),
            Source::Torch(tensors) => tensors.keys().map(String::as_str).collect(),
        }
    }

    fn tensor(&self, part: &Part) -> Option<Result<StoredTensor<'a>, Reason>> {
        match self {
            Source::Flax(arrays) => arrays.get(&part.name).map(|array| match part.layer {
                Some(layer) => array.layer(layer.index, layer.count),
                None => array.tensor(),
            }),
            Source::Torch(tensors) => tensors.get(&part.name).map(|tensor| Ok(tensor.clone())),
        }
    }
}

/// A tensor of the file, or one of the layers that it is a stack of.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: String,
    pub layer: Option<Layer>,
}

/// Which of how many layers.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub index: usize,
    pub count: usize,
}

/// How a parameter of ours lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As ours.
    Same,
    /// A matrix of a linear layer, or several of one input that ours has side by side.
    Matrix,
    /// A convolution.
    Kernel,
}

/// Where a parameter of ours comes from.
pub struct Entry {
    pub ours: String,
    /// Our shape.
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
    pub layout: Layout,
}

/// What becomes of the tensors of `source`.
pub fn collect<'a>(
    source: &Source<'a>,
    entries: Vec<Entry>,
) -> (Vec<LazyTensor<'a>>, ImportReport) {
    let mut report = ImportReport::default();
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        let flax = source.is_flax();
        let expected = theirs(&entry, flax);
        let mut parts = Vec::with_capacity(entry.parts.len());
        for part in &entry.parts {
            used.insert(part.name.clone());
            // Of a stack every layer is looked at, and its name reported once.
            let first = seen.insert(part.name.clone());
            match source.tensor(part) {
                None if first => report.missing.push(part.name.clone()),
                None => {}
                Some(Ok(tensor)) if tensor.shape() == expected && tensor.element().is_float() => {
                    if first {
                        report.applied.push(part.name.clone());
                    }
                    parts.push(tensor);
                }
                Some(_) if first => {
                    let layers = part.layer.map(|layer| layer.count);
                    report.misshapen.push(Misshapen {
                        name: part.name.clone(),
                        expected: layers.into_iter().chain(expected.clone()).collect(),
                        found: source.shape(&part.name).unwrap_or_default().to_vec(),
                    });
                }
                Some(_) => {}
            }
        }
        if parts.len() == entry.parts.len() {
            tensors.push(lazy(entry, parts, flax));
        }
    }
    report.unused = source
        .names()
        .into_iter()
        .filter(|name| !used.contains(*name))
        .map(str::to_owned)
        .collect();
    (tensors, report)
}

/// The shape of each part in the file.
fn theirs(entry: &Entry, flax: bool) -> Vec<usize> {
    match (entry.layout, &entry.shape[..]) {
        (Layout::Matrix, &[inputs, outputs]) => {
            let part = outputs / entry.parts.len().max(1);
            if flax {
                vec![inputs, part]
            } else {
                vec![part, inputs]
            }
        }
        (Layout::Kernel, &[outputs, inputs, height, width]) if flax => {
            vec![height, width, inputs, outputs]
        }
        (_, shape) => shape.to_vec(),
    }
}

fn lazy<'a>(entry: Entry, parts: Vec<StoredTensor<'a>>, flax: bool) -> LazyTensor<'a> {
    let wide = |element: Element| matches!(element, Element::F32 | Element::F64 | Element::Bf16);
    let precision = match parts.iter().any(|part| wide(part.element())) {
        true => Precision::F32,
        false => Precision::F16,
    };
    let Entry {
        ours,
        shape,
        layout,
        ..
    } = entry;
    let lay = shape.clone();
    LazyTensor::new(ours, precision, shape, move || match (layout, &lay[..]) {
        (Layout::Matrix, &[inputs, outputs]) => side_by_side(&parts, inputs, outputs, flax),
        (Layout::Kernel, &[outputs, inputs, height, width]) if flax => {
            kernel(&parts[0].floats(), [outputs, inputs, height * width])
        }
        _ => parts[0].floats(),
    })
}

/// `[inputs, outputs]` of parts that have a share of the outputs each.
fn side_by_side(parts: &[StoredTensor<'_>], inputs: usize, outputs: usize, flax: bool) -> Vec<f32> {
    let mut whole = vec![0.0; inputs * outputs];
    let part = outputs / parts.len().max(1);
    for (i, tensor) in parts.iter().enumerate() {
        if !flax {
            tensor.transpose_into(inputs, &mut whole, outputs, i * part);
            continue;
        }
        let values = tensor.floats();
        let rows = whole.chunks_exact_mut(outputs.max(1));
        for (row, values) in rows.zip(values.chunks_exact(part.max(1))) {
            row[i * part..][..part].copy_from_slice(values);
        }
    }
    whole
}

/// `[place, in, out]` → `[out, in, place]`.
fn kernel(values: &[f32], [outputs, inputs, places]: [usize; 3]) -> Vec<f32> {
    // Some outputs at a time: one of the two is always walked across memory.
    const AT_ONCE: usize = 16;
    let mut turned = vec![0.0; values.len()];
    let length = inputs * places;
    let blocks = turned.par_chunks_mut((AT_ONCE * length).max(1));
    blocks.enumerate().for_each(|(block, turned)| {
        let first = block * AT_ONCE;
        for place in 0..places {
            for input in 0..inputs {
                let row = &values[(place * inputs + input) * outputs + first..];
                for (to, &value) in turned.chunks_exact_mut(length).zip(row) {
                    to[input * places + place] = value;
                }
            }
        }
    });
    turned
}
