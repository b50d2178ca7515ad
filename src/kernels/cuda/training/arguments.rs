//! The structs that the kernels of a training step are called with.

/// A tensor of a batch of images, pixel after pixel. The same layout as `Batch` in `train/tensors.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Batch {
    pub(in crate::kernels::cuda) at: i64,
    pub(in crate::kernels::cuda) pitch: i32,
    pub(in crate::kernels::cuda) c: i32,
    pub(in crate::kernels::cuda) n: i32,
    pub(in crate::kernels::cuda) h: i32,
    pub(in crate::kernels::cuda) w: i32,
    pub(in crate::kernels::cuda) unused: i32,
}

/// The arguments of a kernel. The same layout as `Training` in `train/tensors.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::kernels::cuda) struct Training {
    pub(in crate::kernels::cuda) x: Batch,
    pub(in crate::kernels::cuda) y: Batch,
    pub(in crate::kernels::cuda) z: Batch,
    pub(in crate::kernels::cuda) arrays: [i64; 8],
    pub(in crate::kernels::cuda) count: i64,
    pub(in crate::kernels::cuda) kernel: i32,
    pub(in crate::kernels::cuda) stride: i32,
    pub(in crate::kernels::cuda) padding: i32,
    pub(in crate::kernels::cuda) act: i32,
    pub(in crate::kernels::cuda) factor: i32,
    pub(in crate::kernels::cuda) heads: i32,
    pub(in crate::kernels::cuda) key_dim: i32,
    pub(in crate::kernels::cuda) head_dim: i32,
    pub(in crate::kernels::cuda) areas: i32,
    pub(in crate::kernels::cuda) add: i32,
    pub(in crate::kernels::cuda) splits: i32,
    pub(in crate::kernels::cuda) rows: i32,
    pub(in crate::kernels::cuda) has_bias: i32,
    pub(in crate::kernels::cuda) rule: i32,
    pub(in crate::kernels::cuda) scale: f32,
    pub(in crate::kernels::cuda) eps: f32,
    pub(in crate::kernels::cuda) momentum: f32,
    pub(in crate::kernels::cuda) decay: f32,
    pub(in crate::kernels::cuda) shrink: f32,
    pub(in crate::kernels::cuda) given: i32,
    pub(in crate::kernels::cuda) height: i32,
    pub(in crate::kernels::cuda) width: i32,
    pub(in crate::kernels::cuda) cells: i32,
    pub(in crate::kernels::cuda) first: i32,
    pub(in crate::kernels::cuda) objects: i32,
    pub(in crate::kernels::cuda) bins: i32,
    pub(in crate::kernels::cuda) top: i32,
    pub(in crate::kernels::cuda) keep: i32,
    pub(in crate::kernels::cuda) taught: i32,
    pub(in crate::kernels::cuda) unused: i32,
}
