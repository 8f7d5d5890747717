//! A model's parameters by name: read out, set, counted. Names are the field names joined by dots.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

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
    let (module, mut report) = load_each(module, |name| parameters.remove(name));
    report.unused = parameters.into_keys().collect();
    (module, report)
}

/// Sets each parameter of `module` to what `parameter` gives for its name, one after the other.
pub fn load_each<M: Module>(
    module: M,
    parameter: impl FnMut(&str) -> Option<TensorData>,
) -> (M, LoadReport) {
    let mut mapper = Load {
        path: Vec::new(),
        parameter,
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
        let data = param.val().into_data().convert_dtype(DType::F32);
        self.parameters.insert(self.path.join("."), data);
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

struct Load<F> {
    path: Vec<String>,
    parameter: F,
    report: LoadReport,
}

impl<F: FnMut(&str) -> Option<TensorData>> ModuleMapper for Load<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(data) = (self.parameter)(&name) else {
            self.report.missing.push(name);
            return param;
        };
        let expected = param.val().dims();
        let found: Vec<usize> = data.shape().to_vec();
        if found != expected {
            self.report.misshapen.push((name, expected.to_vec(), found));
            return param;
        }
        self.report.applied += 1;
        param.map(|old| {
            let tensor = Tensor::from_data(data, &old.device());
            if old.is_require_grad() {
                tensor.require_grad()
            } else {
                tensor
            }
        })
    }
}
