//! The inert values that a pickle describes.
//!
//! All values live in one [`Heap`] and refer to each other by position, as a pickle's memo does: sharing costs four
//! bytes, a cycle cannot leak, and nothing recurses when the heap is dropped. Texts that several values need (names of
//! classes, keys of storages) are shared, never copied.

use std::sync::Arc;

/// Position of a value in its [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ref(pub(super) u32);

/// One value.
#[derive(Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; larger ones than 64 bits become a float.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text.
    Str(Arc<str>),
    /// Bytes, which are not kept.
    Bytes,
    /// A list, tuple or set.
    List(Vec<Ref>),
    /// A dictionary in file order; a key may come twice, the last one counts.
    Dict(Vec<(Ref, Ref)>),
    /// A class or function of the allow-list, never called.
    Global(Box<Global>),
    /// An instance of an allowed class, or the result that calling it would have had.
    Object(Box<Object>),
    /// A storage that lies beside the pickle.
    Storage(Box<Storage>),
    /// A view of a storage.
    Tensor(Box<TensorView>),
}

/// A name that the pickle asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Module.
    pub module: Arc<str>,
    /// Name in it.
    pub name: Arc<str>,
    /// What applying it means.
    pub(super) kind: Kind,
}

/// What applying an allowed name to arguments gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An empty ordered dictionary.
    Dict,
    /// The items of its first argument.
    Items,
    /// A tensor.
    Tensor,
    /// Its first argument.
    First,
    /// Names a storage's element type.
    Storage(Dtype),
    /// An inert object.
    Class,
}

/// What is left of an instance when nothing is run.
#[derive(Debug)]
pub struct Object {
    /// Its class, a [`Value::Global`].
    pub class: Ref,
    /// Its attributes, as `BUILD` gave them.
    pub state: Option<Ref>,
}

/// Element types of storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    BF16,
    /// Integers and booleans, of this many bytes.
    Int(usize),
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Int(bytes) => bytes,
        }
    }
}

/// A storage: an entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Element type.
    pub dtype: Dtype,
    /// Name of the entry below `data/`.
    pub key: Arc<str>,
    /// Number of elements.
    pub len: u64,
}

/// Part of a storage, seen as a tensor.
#[derive(Debug)]
pub struct TensorView {
    /// Where the elements are.
    pub storage: Storage,
    /// First element.
    pub offset: u64,
    /// Sizes.
    pub shape: Vec<u64>,
    /// Elements from one position to the next, per axis.
    pub strides: Vec<u64>,
}

impl Value {
    /// Bytes that the value takes; references of lists and dictionaries are counted when they are added.
    pub(super) fn bytes(&self) -> usize {
        let beside = match self {
            Self::Str(text) => text.len(),
            Self::Global(_) => size_of::<Global>(),
            Self::Object(_) => size_of::<Object>(),
            Self::Storage(_) => size_of::<Storage>(),
            Self::Tensor(view) => size_of::<TensorView>() + 8 * (view.shape.len() + view.strides.len()),
            _ => 0,
        };
        size_of::<Self>() + beside
    }
}

/// Every value of one pickle.
#[derive(Debug, Default)]
pub struct Heap {
    pub(super) values: Vec<Value>,
}

impl Heap {
    /// The value at a position.
    pub fn at(&self, at: Ref) -> &Value {
        // Every `Ref` comes from this heap, which only grows.
        &self.values[at.0 as usize]
    }

    /// The text at a position, if there is one.
    pub fn text(&self, at: Ref) -> Option<&str> {
        match self.at(at) {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The text at a position as it is shared, if there is one.
    pub(super) fn shared_text(&self, at: Ref) -> Option<&Arc<str>> {
        match self.at(at) {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The integer at a position, if there is one.
    pub fn int(&self, at: Ref) -> Option<i64> {
        match self.at(at) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number at a position, if there is one.
    pub fn number(&self, at: Ref) -> Option<f64> {
        match self.at(at) {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The items of a list, tuple or set.
    pub fn list(&self, at: Ref) -> Option<&[Ref]> {
        match self.at(at) {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub fn dict(&self, at: Ref) -> Option<&[(Ref, Ref)]> {
        match self.at(at) {
            Value::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The class of an instance.
    pub fn class(&self, at: Ref) -> Option<&Global> {
        match self.at(at) {
            Value::Object(object) => match self.at(object.class) {
                Value::Global(global) => Some(global),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a value is, for messages.
    pub fn describe(&self, at: Ref) -> String {
        match self.at(at) {
            Value::None => "None".into(),
            Value::Bool(_) => "a boolean".into(),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Str(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
            Value::Bytes => "bytes".into(),
            Value::List(_) => "a list".into(),
            Value::Dict(_) => "a dictionary".into(),
            Value::Global(global) => format!("the name `{}.{}`", global.module, global.name),
            Value::Object(_) => match self.class(at) {
                Some(class) => format!("a `{}.{}`", class.module, class.name),
                None => "an object".into(),
            },
            Value::Storage(_) => "a storage".into(),
            Value::Tensor(_) => "a tensor".into(),
        }
    }
}
