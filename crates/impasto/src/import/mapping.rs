//! From a file's tensors to a model's parameters, one by one, with an account of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::Serialize;

use super::weights::Tensors;
use crate::checkpoint::stored::{StoredTensor, transpose};
use crate::checkpoint::weights::{self, LazyTensor, Precision};
use crate::hub::edit_distance;
use crate::models::parameters;
use crate::nn::ops::packed::WeightFormat;
use crate::{Error, Result};

/// What became of a file's tensors, by the file's names.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ImportReport {
    /// Those that the model took.
    pub applied: Vec<String>,
    /// Those that the model needs and the file lacks.
    pub missing: Vec<String>,
    /// Those that belong nowhere.
    pub unused: Vec<String>,
    /// Those that were expected to be there and of no use: positions counted from zero, masks.
    pub ignored: Vec<String>,
    /// Those of another shape.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of another shape than the model's.
#[derive(Clone, Debug, Serialize)]
pub struct Misshapen {
    /// The file's name of it.
    pub name: String,
    /// The model's shape, in the file's layout.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

impl ImportReport {
    /// Whether everything fitted.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }

    /// One line about what did not fit.
    pub fn summary(&self) -> String {
        let mut parts = vec![format!("{} tensors fit", self.applied.len())];
        if let Some(first) = self.misshapen.first() {
            parts.push(format!(
                "{} has shape {:?}, expected {:?}{}",
                first.name,
                first.found,
                first.expected,
                more(self.misshapen.len(), "others have wrong shapes")
            ));
        }
        let lists = [
            ("missing", &self.missing),
            ("belonging nowhere", &self.unused),
        ];
        for (what, names) in lists {
            if let Some(first) = names.first() {
                parts.push(format!("{what}: {first}{}", more(names.len(), "more")));
            }
        }
        if let Some(missing) = self.missing.first()
            && let Some(meant) = nearest(missing, &self.unused)
        {
            parts.push(format!("perhaps {meant} is {missing}"));
        }
        parts.join("; ")
    }
}

/// The name that may be another spelling of `name`.
fn nearest<'a>(name: &str, among: &'a [String]) -> Option<&'a str> {
    // Names are long: a file with tens of thousands of strange ones is strange enough without it.
    let among = among.iter().take(2048);
    let near = among.map(|other| (edit_distance(other, name), other.as_str()));
    let (distance, other) = near.min()?;
    (distance <= name.len() / 4).then_some(other)
}

fn more(count: usize, what: &str) -> String {
    match count {
        1 => String::new(),
        _ => format!(" and {} {what}", count - 1),
    }
}

/// Gives tensors our names and layouts.
pub struct Mapping<'a> {
    path: PathBuf,
    tensors: Tensors<'a>,
    expected: BTreeMap<String, Vec<usize>>,
    parameters: Vec<LazyTensor<'a>>,
    report: ImportReport,
}

impl<'a> Mapping<'a> {
    /// From the tensors of `path` to the parameters of `module`.
    pub fn new<M: Module>(path: &Path, tensors: Tensors<'a>, module: &M) -> Self {
        Mapping {
            path: path.to_owned(),
            tensors,
            expected: parameters::shapes(module),
            parameters: Vec::new(),
            report: ImportReport::default(),
        }
    }

    /// A parameter of the same layout, whose shape may differ in how it is grouped: a convolution over
    /// patches is a matrix.
    pub fn same(&mut self, ours: &str, theirs: &str) -> Result<()> {
        let expected = self.expected(ours)?;
        if let Some(tensor) = self.take(theirs, &expected) {
            self.check_floats(theirs, &tensor)?;
            self.set(ours, expected, move || tensor.floats());
        }
        Ok(())
    }

    /// A parameter of the same layout after dimensions of one, which ours has not got.
    pub fn reshaped(&mut self, ours: &str, theirs: &str) -> Result<()> {
        let expected = self.expected(ours)?;
        let Some(tensor) = self.tensors.remove(theirs) else {
            self.report.missing.push(theirs.to_owned());
            return Ok(());
        };
        let wide = |shape: &[usize]| -> Vec<usize> {
            shape.iter().copied().filter(|&size| size != 1).collect()
        };
        if wide(tensor.shape()) != wide(&expected) {
            self.report.misshapen.push(Misshapen {
                name: theirs.to_owned(),
                expected,
                found: tensor.shape().to_vec(),
            });
            return Ok(());
        }
        self.report.applied.push(theirs.to_owned());
        self.check_floats(theirs, &tensor)?;
        self.set(ours, expected, move || tensor.floats());
        Ok(())
    }

    /// A matrix that lies the other way: ours is `[in, out]`, PyTorch's layers' is `[out, in]`.
    pub fn transposed(&mut self, ours: &str, theirs: &str) -> Result<()> {
        self.side_by_side(ours, &[theirs])
    }

    /// A parameter that the file has no tensor for, because it is zero.
    pub fn zeros(&mut self, ours: &str) -> Result<()> {
        let expected = self.expected(ours)?;
        let numbers = expected.iter().product();
        self.set(ours, expected, move || vec![0.0; numbers]);
        Ok(())
    }

    /// Several of PyTorch's matrices or biases of one input, as one.
    pub fn side_by_side(&mut self, ours: &str, theirs: &[&str]) -> Result<()> {
        let expected = self.expected(ours)?;
        let (inputs, outputs) = self.matrix(ours, &expected)?;
        let (rows, part) = (inputs.unwrap_or(1), outputs / theirs.len());
        let parts = self.take_parts(theirs, inputs, part)?;
        if parts.len() == theirs.len() {
            self.set(ours, expected, move || {
                let mut whole = vec![0.0f32; rows * outputs];
                for (i, tensor) in parts.iter().enumerate() {
                    tensor.transpose_into(rows, &mut whole, outputs, i * part);
                }
                whole
            });
        }
        Ok(())
    }

    /// [`Mapping::side_by_side`] where the outputs stand in another order: ours number `i` is theirs number `order(i)`.
    pub fn sorted(
        &mut self,
        ours: &str,
        theirs: &[&str],
        order: impl Fn(usize) -> usize + 'a,
    ) -> Result<()> {
        let expected = self.expected(ours)?;
        let (inputs, outputs) = self.matrix(ours, &expected)?;
        let (rows, part) = (inputs.unwrap_or(1), outputs / theirs.len());
        let parts = self.take_parts(theirs, inputs, part)?;
        if parts.len() == theirs.len() {
            self.set(ours, expected, move || {
                let floats: Vec<f32> = parts.iter().flat_map(|tensor| tensor.floats()).collect();
                let sorted = (0..outputs).flat_map(|i| {
                    let theirs = order(i) * rows;
                    floats[theirs..theirs + rows].iter().copied()
                });
                let sorted: Vec<f32> = sorted.collect();
                let mut whole = vec![0.0f32; rows * outputs];
                transpose(&sorted, |x| x, rows, &mut whole, outputs, 0);
                whole
            });
        }
        Ok(())
    }

    /// Inputs and outputs of a matrix; a bias is one without its input.
    fn matrix(&self, ours: &str, shape: &[usize]) -> Result<(Option<usize>, usize)> {
        match *shape {
            [inputs, outputs] => Ok((Some(inputs), outputs)),
            [outputs] => Ok((None, outputs)),
            _ => Err(self.bad(format!("parameter {ours} is no matrix"))),
        }
    }

    /// Takes PyTorch's matrices or biases of `part` outputs each; fewer, if some are not there.
    fn take_parts(
        &mut self,
        theirs: &[&str],
        inputs: Option<usize>,
        part: usize,
    ) -> Result<Vec<StoredTensor<'a>>> {
        let shape: Vec<usize> = [part].into_iter().chain(inputs).collect();
        let mut parts = Vec::with_capacity(theirs.len());
        for name in theirs {
            if let Some(tensor) = self.take(name, &shape) {
                self.check_floats(name, &tensor)?;
                parts.push(tensor);
            }
        }
        Ok(parts)
    }

    /// [`Mapping::transposed`] for a matrix whose outputs come in two halves, of which ours has the second one first.
    pub fn halves_swapped(&mut self, ours: &str, theirs: &str) -> Result<()> {
        let expected = self.expected(ours)?;
        let [inputs, outputs] = expected[..] else {
            return Err(self.bad(format!("parameter {ours} is no matrix")));
        };
        if let Some(tensor) = self.take(theirs, &[outputs, inputs]) {
            self.check_floats(theirs, &tensor)?;
            self.set(ours, expected, move || {
                let mut whole = vec![0.0f32; inputs * outputs];
                let floats = tensor.floats();
                let (first, second) = floats.split_at(inputs * (outputs / 2));
                transpose(second, |x| x, inputs, &mut whole, outputs, 0);
                let half = outputs - outputs / 2;
                transpose(first, |x| x, inputs, &mut whole, outputs, half);
                whole
            });
        }
        Ok(())
    }

    /// The names of the tensors that are left.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// A tensor that says nothing the model does not know, if it is there.
    pub fn ignore(&mut self, theirs: &str) {
        if self.tensors.remove(theirs).is_some() {
            self.report.ignored.push(theirs.to_owned());
        }
    }

    /// Sets the parameters of the module that this was made for; the error says what did not fit.
    pub fn finish<M: Module>(self, module: M) -> Result<(M, ImportReport)> {
        self.finish_in(module, WeightFormat::F32)
    }

    /// [`Mapping::finish`] with the weights of linear layers held in `format`: one tensor at a time is read.
    pub fn finish_in<M: Module>(
        mut self,
        module: M,
        format: WeightFormat,
    ) -> Result<(M, ImportReport)> {
        self.report.unused = self.tensors.keys().cloned().collect();
        if !self.report.is_complete() {
            return Err(self.bad(format!("does not fit: {}", self.report.summary())));
        }
        let module = weights::load_lazily(module, &self.path, self.parameters, format)?;
        Ok((module, self.report))
    }

    fn bad(&self, reason: String) -> Error {
        Error::bad_file(&self.path, reason)
    }

    fn expected(&self, ours: &str) -> Result<Vec<usize>> {
        let shape = self.expected.get(ours).cloned();
        shape.ok_or_else(|| self.bad(format!("the model has no parameter {ours}")))
    }

    /// Takes a tensor out, unless it is not there or has another shape.
    fn take(&mut self, theirs: &str, expected: &[usize]) -> Option<StoredTensor<'a>> {
        let Some(tensor) = self.tensors.remove(theirs) else {
            self.report.missing.push(theirs.to_owned());
            return None;
        };
        let found = tensor.shape();
        let numbers = |shape: &[usize]| shape.iter().product::<usize>();
        // Groups may differ, the first and the number of all may not.
        let fits = found == expected
            || (numbers(found) == numbers(expected)
                && (found.first() == expected.first() || found.is_empty()));
        if !fits {
            self.report.misshapen.push(Misshapen {
                name: theirs.to_owned(),
                expected: expected.to_vec(),
                found: found.to_vec(),
            });
            return None;
        }
        self.report.applied.push(theirs.to_owned());
        Some(tensor)
    }

    fn check_floats(&self, theirs: &str, tensor: &StoredTensor<'_>) -> Result<()> {
        match tensor.element() {
            element if element.is_float() => Ok(()),
            element => Err(self.bad(format!(
                "tensor {theirs} holds {element:?}, expected floats"
            ))),
        }
    }

    fn set(&mut self, ours: &str, shape: Vec<usize>, values: impl Fn() -> Vec<f32> + 'a) {
        let tensor = LazyTensor::new(ours.to_owned(), Precision::F32, shape, values);
        self.parameters.push(tensor);
    }
}
