//! Peak memory of a plan.
