//! Limits of a pickle, so that a hostile one takes bounded memory however it repeats itself.

/// The longest pickle that is read, bytes.
pub const MAX_PICKLE: usize = 32 << 20;

/// The most values, and the most references between them, in one pickle.
pub const MAX_VALUES: usize = 2 << 20;

/// The most bytes that all values and their references may take.
pub const MAX_BYTES: usize = 256 << 20;

/// The longest name of a module, a class, a storage or a tensor, bytes.
pub const MAX_NAME: usize = 200;

/// The most axes of a tensor.
pub(super) const MAX_AXES: usize = 8;
