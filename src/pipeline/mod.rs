//! The whole job.

mod problem;
