//! A machine for pickles that executes nothing.
//!
//! Pickle (Python's `pickletools.py` documents every opcode) is a language for a stack machine whose
//! programs may call any function by name. This machine knows the opcodes that PyTorch's writers use and the
//! few names in [`Global`]; a call to one of those builds plain data here, and any other name ends the
//! reading with that name. What it builds lies in one place and refers to itself by number, so that a
//! structure that contains itself costs nothing; every step is charged to a budget, so that a short file can
//! not ask for much memory.

mod calls;

pub use calls::Global;

use crate::checkpoint::stored::Element;
use crate::error::Reason;

/// A value of a pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    None,
    /// True or false.
    Bool(bool),
    /// An integer of up to 64 bits.
    Integer(i64),
    /// A float.
    Float(f64),
    /// Bytes of the pickle: text, or bytes.
    Text {
        /// Where it begins.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Something larger, by its number in [`Pickle::nodes`].
    Node(usize),
    /// A name of code.
    Global(Global),
}

/// What is built.
#[derive(Clone, Debug)]
pub enum Node {
    /// Items in order.
    List(Vec<Value>),
    /// Items in order, of a fixed number.
    Tuple(Vec<Value>),
    /// Keys and values in order.
    Dict(Vec<(Value, Value)>),
    /// An object of a class: its state, once it is set.
    Object(Value),
    /// Numbers outside of the pickle.
    Storage {
        /// Their kind.
        element: Element,
        /// By which name they are found.
        key: Value,
        /// How many there are.
        count: usize,
    },
    /// A view of a storage.
    Tensor {
        /// The storage's node.
        storage: usize,
        /// The first element.
        offset: usize,
        /// A tuple of integers.
        shape: Vec<usize>,
        /// A tuple of integers, counted in elements.
        strides: Vec<usize>,
    },
}

/// A whole pickle.
#[derive(Debug)]
pub struct Pickle {
    /// All that was built.
    pub nodes: Vec<Node>,
    /// The value that the pickle stands for.
    pub root: Value,
    /// Where the next thing after the pickle begins.
    pub end: usize,
}

/// Runs the pickle that begins at `start`. `classes` are beginnings of the names of classes whose objects are
/// read as plain data; `budget` is the memory that may be used, in bytes.
pub fn run(bytes: &[u8], start: usize, classes: &[&str], budget: usize) -> Result<Pickle, Reason> {
    let mut machine = Machine {
        bytes,
        at: start,
        classes,
        budget,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        nodes: Vec::new(),
    };
    let root = machine.run()?;
    Ok(Pickle {
        nodes: machine.nodes,
        root,
        end: machine.at,
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    classes: &'a [&'a str],
    budget: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    nodes: Vec<Node>,
}

type Step<T> = Result<T, Reason>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                // PROTO, FRAME
                0x80 => {
                    let protocol = self.byte()?;
                    if protocol > 5 {
                        return Err(
                            format!("has pickle protocol {protocol}, expected 5 or less").into(),
                        );
                    }
                }
                0x95 => {
                    self.take(8)?;
                }
                b'.' => return self.pop(),
                b'(' => {
                    self.charge(8)?;
                    self.marks.push(self.stack.len());
                }
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.push(top)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()))?;
                }
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Integer(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()))?;
                }
                // LONG1, LONG4
                0x8a => {
                    let length = self.byte()?.into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.long(length)?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(value))?;
                }
                // SHORT_BINUNICODE, SHORT_BINSTRING, SHORT_BINBYTES
                0x8c | b'U' | b'C' => {
                    let length = self.byte()?.into();
                    self.text(length)?;
                }
                // BINUNICODE, BINSTRING, BINBYTES
                b'X' | b'T' | b'B' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.text(length)?;
                }
                // BINUNICODE8, BINBYTES8
                0x8d | 0x8e => {
                    let length = u64::from_le_bytes(self.array()?);
                    let length = usize::try_from(length).map_err(|_| ended())?;
                    self.text(length)?;
                }
                b']' => self.build(Node::List(Vec::new()))?,
                b'}' => self.build(Node::Dict(Vec::new()))?,
                b')' => self.build(Node::Tuple(Vec::new()))?,
                b'l' => {
                    let items = self.pop_mark()?;
                    self.build(Node::List(items))?;
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.build(Node::Tuple(items))?;
                }
                // TUPLE1 to TUPLE3
                0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    let from = self.stack.len().checked_sub(count);
                    let from = from
                        .filter(|&from| from >= self.floor())
                        .ok_or_else(empty)?;
                    let items = self.stack.split_off(from);
                    self.build(Node::Tuple(items))?;
                }
                b'd' => {
                    let items = pairs(self.pop_mark()?)?;
                    self.build(Node::Dict(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![(key, value)])?;
                }
                b'u' => {
                    let items = pairs(self.pop_mark()?)?;
                    self.set_items(items)?;
                }
                // Memory: BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
                b'q' => {
                    let index = self.byte()?.into();
                    self.remember(index)?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?) as usize;
                    self.remember(index)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let index = self.byte()?.into();
                    self.recall(index)?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?) as usize;
                    self.recall(index)?;
                }
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    let global = self.global(module, name)?;
                    self.push(Value::Global(global))?;
                }
                // STACK_GLOBAL
                0x93 => {
                    let name = self.pop()?;
                    let module = self.pop()?;
                    let global = self.global(self.slice(module)?, self.slice(name)?)?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.call()?,
                // NEWOBJ
                0x81 => {
                    self.pop()?;
                    match self.pop()? {
                        Value::Global(Global::Class) => self.build(Node::Object(Value::None))?,
                        Value::Global(Global::OrderedDict) => self.build(Node::Dict(Vec::new()))?,
                        _ => return Err("makes an object of something that is no class".into()),
                    }
                }
                b'b' => self.set_state()?,
                _ => {
                    return Err(format!(
                        "has the pickle opcode 0x{opcode:02x} at byte {}, which PyTorch does not write",
                        self.at - 1
                    ).into());
                }
            }
        }
    }

    fn charge(&mut self, bytes: usize) -> Step<()> {
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or("describes more than its size can account for")?;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(ended)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(ended)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| ended())
    }

    fn byte(&mut self) -> Step<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Bytes up to a line's end, as a range.
    fn line(&mut self) -> Step<Range> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .take(MAX_NAME + 1)
            .position(|&byte| byte == b'\n')
            .ok_or("names something over many lines")?;
        let start = self.at;
        self.at += length + 1;
        Ok((start, start + length))
    }

    fn push(&mut self, value: Value) -> Step<()> {
        self.charge(size_of::<Value>())?;
        self.stack.push(value);
        Ok(())
    }

    fn build(&mut self, node: Node) -> Step<()> {
        // Its items were charged when they were pushed; growing doubles.
        self.charge(2 * size_of::<Node>())?;
        self.nodes.push(node);
        self.push(Value::Node(self.nodes.len() - 1))
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Value> {
        if self.stack.len() <= self.floor() {
            return Err(empty());
        }
        self.stack.pop().ok_or_else(empty)
    }

    fn top(&self) -> Step<Value> {
        self.stack.last().copied().ok_or_else(empty)
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let from = self.marks.pop().ok_or_else(empty)?;
        Ok(self.stack.split_off(from))
    }

    fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Err(format!("has an integer of {length} bytes, expected 8 at most").into());
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Integer(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, length: usize) -> Step<()> {
        let start = self.at;
        self.take(length)?;
        let end = self.at;
        self.push(Value::Text { start, end })
    }

    fn slice(&self, value: Value) -> Step<Range> {
        match value {
            Value::Text { start, end } => Ok((start, end)),
            _ => Err("names something by what is no text".into()),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Step<()> {
        let target = self.top()?;
        self.charge(2 * size_of::<Value>() * items.len())?;
        match self.node_mut(target)? {
            Node::List(list) => list.extend(items),
            _ => return Err("appends to something that is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<(Value, Value)>) -> Step<()> {
        let target = self.top()?;
        self.charge(4 * size_of::<Value>() * items.len())?;
        match self.node_mut(target)? {
            Node::Dict(dict) => dict.extend(items),
            _ => return Err("sets items of something that is no dictionary".into()),
        }
        Ok(())
    }

    fn node_mut(&mut self, value: Value) -> Step<&mut Node> {
        match value {
            Value::Node(index) => self.nodes.get_mut(index).ok_or_else(empty),
            _ => Err("changes something that can't be changed".into()),
        }
    }

    fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    fn tuple(&self, value: Value) -> Step<Vec<Value>> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Ok(items.clone()),
            _ => Err("calls something with what is no tuple".into()),
        }
    }

    fn remember(&mut self, index: usize) -> Step<()> {
        let value = self.top()?;
        if index >= self.memo.len() {
            self.charge(2 * size_of::<Option<Value>>() * (index + 1 - self.memo.len()))?;
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(value);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Step<()> {
        let value = self.memo.get(index).copied().flatten();
        self.push(value.ok_or("recalls what it never stored")?)
    }
}

type Range = (usize, usize);

/// The longest name of code that is read.
const MAX_NAME: usize = 1024;

fn pairs(items: Vec<Value>) -> Step<Vec<(Value, Value)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("has a key without a value".into());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

fn ended() -> Reason {
    "ends in the middle of its pickle".into()
}

fn empty() -> Reason {
    "takes more from its pickle's stack than is there".into()
}
