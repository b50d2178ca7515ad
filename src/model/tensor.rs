//! A dense f32 tensor in row-major order.

use std::collections::BTreeMap;

/// Tensors by key.
pub type Weights = BTreeMap<String, Tensor>;

/// Values with a shape, row-major. The element count always equals the product of the shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of values.
    ///
    /// # Panics
    /// If the number of values is not the product of the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape {shape:?}");
        Self { shape, data }
    }

    /// A tensor of one repeated value.
    pub fn filled(shape: impl Into<Vec<usize>>, value: f32) -> Self {
        let shape = shape.into();
        let len = shape.iter().product();
        Self { shape, data: vec![value; len] }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values alone.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The same values in another shape.
    ///
    /// # Panics
    /// If the element count differs.
    pub fn reshape(self, shape: impl Into<Vec<usize>>) -> Self {
        Self::new(shape, self.data)
    }

    /// The entries of one axis in the given order: `select(1, &[0, 2])` keeps columns 0 and 2.
    ///
    /// # Panics
    /// If the axis or an index is out of range.
    pub fn select(&self, axis: usize, indices: &[usize]) -> Self {
        if indices.iter().copied().eq(0..self.shape[axis]) {
            return self.clone();
        }
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let mut data = Vec::with_capacity(outer * indices.len() * inner);
        for o in 0..outer {
            for i in indices {
                assert!(*i < self.shape[axis], "index {i} of axis {axis} in {:?}", self.shape);
                let at = (o * self.shape[axis] + i) * inner;
                data.extend_from_slice(&self.data[at..at + inner]);
            }
        }
        let mut shape = self.shape.clone();
        shape[axis] = indices.len();
        Self { shape, data }
    }
}
