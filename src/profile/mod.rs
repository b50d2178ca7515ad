//! Device profiles and budgets.
