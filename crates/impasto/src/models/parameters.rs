//! A model's parameters by name: read out, set, counted. Names are the field names joined by dots.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::nn::ops::packed;

/// What the walk over a module calls [`crate::nn::Linear`].
pub const LINEAR: &str = "Struct:Linear";
/// What it calls [`crate::nn::VocabularyEmbedding`].
pub const TABLE: &str = "Struct:VocabularyEmbedding";

/// Host copies of all parameters, f32, by name.
pub type Parameters = BTreeMap<String, TensorData>;

/// Reads all parameters out.
pub fn export<M: Module>(module: &M) -> Parameters {
    let mut visitor = Export {
        path: Vec::new(),
        parameters: BTreeMap::new(),
    };
    module.visit(&mut visitor);
    visitor.parameters
}

/// Names and shapes of all parameters, without copying them.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut visitor = Shapes {
        path: Vec::new(),
        shapes: BTreeMap::new(),
    };
    module.visit(&mut visitor);
    visitor.shapes
}

/// What did not fit when parameters were set.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Parameters that were set.
    pub applied: usize,
    /// Parameters of the model that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the model lacks.
    pub unused: Vec<String>,
    /// Name, expected and found shape.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Whether everything fitted.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }

    /// One line about the first misfits.
    pub fn summary(&self) -> String {
        let mut lines = Vec::new();
        if let Some((name, expected, found)) = self.misshapen.first() {
            lines.push(format!(
                "tensor {name} has shape {found:?}, expected {expected:?}"
            ));
        }
        let list = |names: &[String]| match names {
            [] => String::new(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        if !self.missing.is_empty() {
            lines.push(format!("missing tensors: {}", list(&self.missing)));
        }
        if !self.unused.is_empty() {
            lines.push(format!("unexpected tensors: {}", list(&self.unused)));
        }
        lines.join("; ")
    }
}

/// Sets the parameters of `module`; those that don't fit stay as they are and are reported.
pub fn load<M: Module>(module: M, mut parameters: Parameters) -> (M, LoadReport) {
    let (module, mut report) = load_each(module, |place| {
        parameters.remove(place.name).map(Value::Data)
    });
    report.unused = parameters.into_keys().collect();
    (module, report)
}

/// A parameter that waits for its value.
#[derive(Debug)]
pub struct ParameterSlot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Where its value has to be.
    pub device: &'a Device,
    /// Whether it is the weight of a linear layer, which may be packed.
    pub is_linear: bool,
    /// Whether it is the table of a large vocabulary, which may be in bfloat16.
    pub is_table: bool,
}

/// A parameter's value.
#[derive(Debug)]
pub enum Value {
    /// Numbers.
    Data(TensorData),
    /// A packed weight (see [`packed`]) of a linear layer.
    Packed(Tensor<2>),
    /// None: what there is has this shape.
    Misshapen(Vec<usize>),
}

/// Sets each parameter of `module` to what `parameter` gives for it, one after the other.
pub fn load_each<M: Module>(
    module: M,
    mut parameter: impl FnMut(&ParameterSlot<'_>) -> Option<Value>,
) -> (M, LoadReport) {
    let mut mapper = Load {
        path: Vec::new(),
        containers: Vec::new(),
        parameter: &mut parameter,
        report: LoadReport::default(),
    };
    let module = module.map(&mut mapper);
    (module, mapper.report)
}

struct Export {
    path: Vec<String>,
    parameters: Parameters,
}

impl ModuleVisitor for Export {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameters
            .insert(self.path.join("."), numbers(param.val()));
    }
}

struct Shapes {
    path: Vec<String>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes
            .insert(self.path.join("."), param.val().dims().to_vec());
    }
}

/// A parameter's numbers, those of a packed weight as they are multiplied.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> TensorData {
    match matrix(&tensor).filter(packed::is_packed) {
        Some(weight) => packed::numbers(&weight),
        None => tensor.into_data().convert_dtype(DType::F32),
    }
}

/// The tensor itself, if it has two dimensions.
pub fn matrix<const D: usize>(tensor: &Tensor<D>) -> Option<Tensor<2>> {
    (D == 2).then(|| Tensor::from_dispatch(tensor.clone().into_dispatch()))
}

/// What gives parameters is no type parameter: the walk is compiled once for each module, not for each caller.
struct Load<'a> {
    path: Vec<String>,
    containers: Vec<String>,
    parameter: &'a mut dyn FnMut(&ParameterSlot<'_>) -> Option<Value>,
    report: LoadReport,
}

impl Load<'_> {
    /// The value of the parameter where the walk is, if there is one that fits.
    fn value(&mut self, expected: &[usize], device: &Device) -> Option<Value> {
        let name = self.path.join(".");
        let is_weight_of = |container: &str| {
            self.containers.last().is_some_and(|of| of == container)
                && self.path.last().is_some_and(|name| name == "weight")
        };
        let place = ParameterSlot {
            name: &name,
            shape: expected,
            device,
            is_linear: is_weight_of(LINEAR),
            is_table: is_weight_of(TABLE),
        };
        let Some(value) = (self.parameter)(&place) else {
            self.report.missing.push(name);
            return None;
        };
        let found: Vec<usize> = match &value {
            Value::Data(data) => data.shape().to_vec(),
            Value::Packed(weight) => weight.dims().to_vec(),
            Value::Misshapen(found) => found.clone(),
        };
        if found != expected || matches!(value, Value::Misshapen(_)) {
            self.report.misshapen.push((name, expected.to_vec(), found));
            return None;
        }
        self.report.applied += 1;
        Some(value)
    }
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let old = param.val();
        let device = old.device();
        let Some(value) = self.value(&old.dims(), &device) else {
            return param;
        };
        param.map(|old| {
            let tensor = match value {
                Value::Data(data) => {
                    let dtype = data.dtype();
                    Tensor::from_data(data, (&device, dtype))
                }
                Value::Packed(weight) => return Tensor::from_dispatch(weight.into_dispatch()),
                Value::Misshapen(_) => return old,
            };
            if old.is_require_grad() {
                tensor.require_grad()
            } else {
                tensor
            }
        })
    }
}
