//! The page for people: one self-contained file.
