//! The small linear program behind the cutting planes: the best mixture of known plans.
//!
//! min sum(w_k cost_k) + price * z   subject to   sum(w_k excess_k[i]) <= z for every row i,   sum(w_k) = 1,   w, z >=
//! 0.
//!
//! Its dual variables are the multipliers of the rows; their sum is at most `price`.

/// Known plans: cost, and the excess over every row.
pub(super) struct Column {
    pub cost: f64,
    pub excess: Vec<f64>,
}

/// The optimum of the program.
pub(super) struct Mixture {
    pub value: f64,
    pub multipliers: Vec<f64>,
    /// The share of every plan.
    pub shares: Vec<f64>,
}

const TINY: f64 = 1e-11;

/// Solves by the primal simplex method on a dense tableau, starting from the first column.
pub(super) fn mix(columns: &[Column], rows: usize, price: f64) -> Mixture {
    // Columns: plans, z, slacks, right-hand side. Rows: one per constraint, convexity; below them the costs.
    let (z, slack) = (columns.len(), columns.len() + 1);
    let width = slack + rows + 1;
    let rhs = width - 1;
    let mut tableau = vec![vec![0.0; width]; rows + 2];
    for (k, column) in columns.iter().enumerate() {
        tableau.iter_mut().zip(&column.excess[..rows]).for_each(|(row, excess)| row[k] = *excess);
        tableau[rows][k] = 1.0;
        tableau[rows + 1][k] = column.cost;
    }
    for (i, row) in tableau.iter_mut().take(rows).enumerate() {
        (row[z], row[slack + i]) = (-1.0, 1.0);
    }
    tableau[rows + 1][z] = price;
    tableau[rows][rhs] = 1.0;
    let mut basis: Vec<usize> = (slack..slack + rows).chain([0]).collect();
    pivot(&mut tableau, &mut basis, rows, 0);
    let worst = (0..rows).min_by(|a, b| tableau[*a][rhs].total_cmp(&tableau[*b][rhs]));
    if let Some(worst) = worst.filter(|i| tableau[*i][rhs] < 0.0) {
        pivot(&mut tableau, &mut basis, worst, z);
    }
    let limit = 50 * (width + rows);
    for iteration in 0..limit {
        let costs = &tableau[rows + 1];
        // The steepest column, later the first one so that no cycle can last.
        let entering = if iteration < limit / 2 {
            (0..rhs).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).filter(|j| costs[*j] < -TINY)
        } else {
            (0..rhs).find(|j| costs[*j] < -TINY)
        };
        let Some(entering) = entering else { break };
        let ratio = |i: &usize| tableau[*i][rhs].max(0.0) / tableau[*i][entering];
        let candidates = (0..=rows).filter(|i| tableau[*i][entering] > TINY);
        let leaving = candidates.min_by(|a, b| ratio(a).total_cmp(&ratio(b)).then(basis[*a].cmp(&basis[*b])));
        let Some(leaving) = leaving else { break };
        pivot(&mut tableau, &mut basis, leaving, entering);
    }
    let costs = &tableau[rows + 1];
    let multipliers = (0..rows).map(|i| costs[slack + i].max(0.0)).collect();
    let mut shares = vec![0.0; columns.len()];
    for (row, column) in basis.iter().enumerate().filter(|(_, column)| **column < columns.len()) {
        shares[*column] = tableau[row][rhs].max(0.0);
    }
    Mixture { value: -costs[rhs], multipliers, shares }
}

fn pivot(tableau: &mut [Vec<f64>], basis: &mut [usize], row: usize, column: usize) {
    let scale = tableau[row][column];
    tableau[row].iter_mut().for_each(|value| *value /= scale);
    let source = tableau[row].clone();
    for (_, target) in tableau.iter_mut().enumerate().filter(|(i, _)| *i != row) {
        let factor = target[column];
        if factor != 0.0 {
            target.iter_mut().zip(&source).for_each(|(t, s)| *t -= factor * s);
            target[column] = 0.0;
        }
    }
    basis[row] = column;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_programs() {
        let column = |cost, excess: &[f64]| Column { cost, excess: excess.to_vec() };
        let cases = [
            // Half of each: the line from (1, 0) to (-1, 2) crosses 0 at cost 1 with slope 1.
            (vec![column(0.0, &[1.0]), column(2.0, &[-1.0])], 1, 100.0, 1.0, vec![1.0]),
            // Too dear a multiplier: the excess is paid for.
            (vec![column(0.0, &[1.0]), column(2.0, &[-1.0])], 1, 0.5, 0.5, vec![0.5]),
            // A matrix game: rock, paper, scissors has the value 0 at equal multipliers.
            (
                vec![column(0.0, &[0.0, 1.0, -1.0]), column(0.0, &[-1.0, 0.0, 1.0]), column(0.0, &[1.0, -1.0, 0.0])],
                3,
                1.0,
                0.0,
                vec![],
            ),
            // Infeasible by 0.25 at least.
            (vec![column(0.0, &[0.5, 0.0]), column(0.0, &[0.0, 0.5])], 2, 1.0, 0.25, vec![0.5, 0.5]),
        ];
        for (columns, rows, price, value, multipliers) in cases {
            let found = mix(&columns, rows, price);
            assert!((found.value - value).abs() < 1e-9, "{} for {value}", found.value);
            for (a, b) in found.multipliers.iter().zip(&multipliers) {
                assert!((a - b).abs() < 1e-9, "{:?} for {multipliers:?}", found.multipliers);
            }
        }
    }
}
