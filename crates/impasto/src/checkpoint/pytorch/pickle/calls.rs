//! What the names in a pickle mean: the few that are known build plain data; any other ends the reading with
//! that name.

use super::{MAX_NAME, Machine, Node, Range, Step, Value};
use crate::checkpoint::stored::Element;

/// The names that a pickle may import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.XStorage`: numbers of one kind.
    Storage(Element),
    /// `torch.Size`.
    Size,
    /// `torch.device`.
    Device,
    /// `torch.float32` and its like.
    Dtype,
    /// `torch.jit._pickle.build_intlist` and its like: the list itself.
    SameList,
    /// A class whose objects are read as plain data.
    Class,
}

impl Machine<'_> {
    /// What a name stands for.
    pub(super) fn global(&self, module: Range, name: Range) -> Step<Global> {
        let text = |(start, end): Range| {
            let bytes = &self.bytes[start..end];
            if bytes.len() > MAX_NAME {
                return Err("names something over many lines".to_owned());
            }
            std::str::from_utf8(bytes).map_err(|_| "names something that is no text".to_owned())
        };
        let (module, name) = (text(module)?, text(name)?);
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            ("torch.jit._pickle", list) if list.starts_with("build_") => Global::SameList,
            ("torch" | "torch.storage", "FloatStorage") => Global::Storage(Element::F32),
            ("torch" | "torch.storage", "DoubleStorage") => Global::Storage(Element::F64),
            ("torch" | "torch.storage", "HalfStorage") => Global::Storage(Element::F16),
            ("torch" | "torch.storage", "BFloat16Storage") => Global::Storage(Element::Bf16),
            ("torch" | "torch.storage", "LongStorage") => Global::Storage(Element::I64),
            ("torch" | "torch.storage", "IntStorage") => Global::Storage(Element::I32),
            ("torch" | "torch.storage", "ShortStorage") => Global::Storage(Element::I16),
            ("torch" | "torch.storage", "CharStorage") => Global::Storage(Element::I8),
            ("torch" | "torch.storage", "ByteStorage") => Global::Storage(Element::U8),
            ("torch" | "torch.storage", "BoolStorage") => Global::Storage(Element::Bool),
            ("torch", "float64" | "float32" | "float16" | "bfloat16" | "int64" | "bool") => {
                Global::Dtype
            }
            _ => {
                let whole = format!("{module}.{name}");
                if !self.classes.iter().any(|class| whole.starts_with(class)) {
                    // Shown in one line whatever it holds.
                    return Err(format!(
                        "imports {}, which is no part of weights; nothing in a file is executed",
                        whole.escape_debug()
                    )
                    .into());
                }
                Global::Class
            }
        })
    }

    /// BINPERSID: a tuple ("storage", class, key, location, count, …).
    pub(super) fn persistent(&mut self) -> Step<()> {
        let id = self.pop()?;
        let items = self.tuple(id)?;
        // ("module", class, file, source), as files before 1.6 mark the classes of modules.
        if let [kind, class @ Value::Global(Global::Class), _, _] = items[..] {
            let (start, end) = self.slice(kind)?;
            if &self.bytes[start..end] == b"module" {
                return self.push(class);
            }
        }
        let [kind, class, key, _, count, ..] = items[..] else {
            return Err("refers to something outside of it that is no storage".into());
        };
        let (start, end) = self.slice(kind)?;
        let (Value::Global(Global::Storage(element)), b"storage") =
            (class, &self.bytes[start..end])
        else {
            return Err("refers to something outside of it that is no storage".into());
        };
        let count = whole(count)?;
        self.build(Node::Storage {
            element,
            key,
            count,
        })
    }

    pub(super) fn call(&mut self) -> Step<()> {
        let arguments = self.pop()?;
        let arguments = self.tuple(arguments)?;
        let function = self.pop()?;
        let Value::Global(function) = function else {
            return Err("calls something that is no function".into());
        };
        match function {
            Global::RebuildTensor => {
                let [storage, offset, shape, strides, ..] = arguments[..] else {
                    return Err("describes a tensor without its shape".into());
                };
                let (Value::Node(index), Some(Node::Storage { .. })) =
                    (storage, self.node(storage))
                else {
                    return Err("describes a tensor without its storage".into());
                };
                let wholes = |value: Value| -> Step<Vec<usize>> {
                    self.tuple(value)?.into_iter().map(whole).collect()
                };
                let (shape, strides) = (wholes(shape)?, wholes(strides)?);
                self.charge(size_of::<usize>() * (shape.len() + strides.len()))?;
                self.build(Node::Tensor {
                    storage: index,
                    offset: whole(offset)?,
                    shape,
                    strides,
                })
            }
            Global::RebuildParameter => {
                let first = arguments.first().copied();
                match first.map(|value| (value, self.node(value))) {
                    Some((value, Some(Node::Tensor { .. }))) => self.push(value),
                    _ => Err("describes a parameter without its tensor".into()),
                }
            }
            Global::OrderedDict => match arguments.first().copied() {
                // Protocol 2 gives the pairs after the call; older writers as a list of lists.
                None => self.build(Node::Dict(Vec::new())),
                Some(list) => {
                    let Some(Node::List(items)) = self.node(list) else {
                        return Err("makes an OrderedDict of something that is no list".into());
                    };
                    let items = items.clone();
                    self.charge(2 * size_of::<Value>() * items.len())?;
                    let mut dict = Vec::with_capacity(items.len());
                    for item in items {
                        match self.node(item) {
                            Some(Node::List(pair) | Node::Tuple(pair)) if pair.len() == 2 => {
                                dict.push((pair[0], pair[1]));
                            }
                            _ => return Err("makes an OrderedDict of what are no pairs".into()),
                        }
                    }
                    self.build(Node::Dict(dict))
                }
            },
            Global::Size | Global::SameList => match arguments.first().copied() {
                Some(list) => self.push(list),
                None => Err("calls something without what it needs".into()),
            },
            Global::Device => self.push(arguments.first().copied().unwrap_or(Value::None)),
            Global::Class => self.build(Node::Object(Value::None)),
            Global::Storage(_) | Global::Dtype => Err("calls something that is no function".into()),
        }
    }

    /// BUILD: the state of an object.
    pub(super) fn set_state(&mut self) -> Step<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match self.node_mut(target)? {
            Node::Object(slot) => *slot = state,
            // An OrderedDict's attributes: a state dict has its versions there.
            Node::Dict(_) => {}
            _ => return Err("sets the state of something that has none".into()),
        }
        Ok(())
    }
}

fn whole(value: Value) -> Step<usize> {
    match value {
        Value::Integer(value) => usize::try_from(value)
            .map_err(|_| format!("has a size of {value}, expected 0 or more").into()),
        _ => Err("has a size that is no integer".into()),
    }
}
