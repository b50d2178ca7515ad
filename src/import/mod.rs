//! Checkpoints of others become a [`crate::model::Model`].
