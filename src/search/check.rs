//! Refuses problems that contradict themselves, and says where.

use super::{Factor, Problem, SearchError};

/// Checks all sizes, and that all numbers are finite and of the right sign.
pub(super) fn check(problem: &Problem) -> Result<(), SearchError> {
    let sizes: Vec<usize> = problem.variables.iter().map(|v| v.widths.len()).collect();
    for (index, variable) in problem.variables.iter().enumerate() {
        let place = || format!("variable {index} ({})", variable.name);
        if variable.widths.is_empty() {
            return invalid(place(), "has no levels".into());
        }
        if variable.loss.len() != variable.widths.len() {
            let (losses, widths) = (variable.loss.len(), variable.widths.len());
            return invalid(place(), format!("has {losses} losses for {widths} widths"));
        }
        if variable.widths.windows(2).any(|pair| pair[0] >= pair[1]) {
            return invalid(place(), "its widths do not ascend".into());
        }
        numbers(&place, "loss", &variable.loss)?;
    }
    for (kind, factors) in [("latency factor", &problem.factors), ("weight factor", &problem.weight_factors)] {
        for (index, one) in factors.iter().enumerate() {
            factor(&|| named(kind, index, one, problem), one, &sizes)?;
        }
    }
    for (index, step) in problem.memory.iter().enumerate() {
        let place = || format!("memory step {index}");
        numbers(&place, "constant", &[step.constant])?;
        if let Some((variable, _)) = step.terms.iter().find(|(variable, _)| *variable >= sizes.len()) {
            return invalid(place(), format!("names variable {variable} of {}", sizes.len()));
        }
        let bytes: Vec<f64> = step.terms.iter().map(|(_, bytes)| *bytes).collect();
        numbers(&place, "bytes per channel", &bytes)?;
    }
    for (name, budget) in [("latency", problem.budget.latency_ms), ("memory", problem.budget.memory_bytes)] {
        if let Some(value) = budget.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return invalid(format!("{name} budget"), format!("is {value}, expected a finite number above 0"));
        }
    }
    Ok(())
}

fn factor(place: &dyn Fn() -> String, factor: &Factor, sizes: &[usize]) -> Result<(), SearchError> {
    if let Some(variable) = factor.scope.iter().find(|variable| **variable >= sizes.len()) {
        return invalid(place(), format!("names variable {variable} of {}", sizes.len()));
    }
    let twice = factor.scope.iter().enumerate().find(|(i, variable)| factor.scope[..*i].contains(variable));
    if let Some((_, variable)) = twice {
        return invalid(place(), format!("names variable {variable} twice"));
    }
    let entries = factor.scope.iter().try_fold(1usize, |product, v| product.checked_mul(sizes[*v]));
    if entries != Some(factor.table.len()) {
        let expected = entries.map_or("too many".into(), |n| n.to_string());
        return invalid(place(), format!("has {} entries, expected {expected}", factor.table.len()));
    }
    numbers(place, "entry", &factor.table)
}

fn named(kind: &str, index: usize, factor: &Factor, problem: &Problem) -> String {
    let name = |v: &usize| problem.variables.get(*v).map_or("?", |variable| variable.name.as_str());
    format!("{kind} {index} ({})", factor.scope.iter().map(name).collect::<Vec<_>>().join(", "))
}

fn numbers(place: &dyn Fn() -> String, what: &str, values: &[f64]) -> Result<(), SearchError> {
    match values.iter().position(|value| !(value.is_finite() && *value >= 0.0)) {
        Some(i) => invalid(place(), format!("{what} {i} is {}, expected a finite number of at least 0", values[i])),
        None => Ok(()),
    }
}

fn invalid(place: String, problem: String) -> Result<(), SearchError> {
    Err(SearchError::InvalidProblem { place, problem })
}
