//! From a file's tensors to a model's parameters, one by one, with an account of it.

use serde::Serialize;

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
        parts.join("; ")
    }
}

fn more(count: usize, what: &str) -> String {
    match count {
        1 => String::new(),
        _ => format!(" and {} {what}", count - 1),
    }
}
