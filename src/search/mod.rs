//! Widths that meet the budgets at the least loss.
