//! The graph on candle tensors.
