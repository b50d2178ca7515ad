//! Tests of engine_props.
