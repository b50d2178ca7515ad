//! Re-estimation and reconstruction after the cut.
