//! The search against brute force, and on the groups of real networks.

#[path = "network.rs"]
mod network;

use network::network;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::search::{
    Evaluation, Factor, MemoryTerm, Options, Problem, SearchBudget, SearchError, Solution, Variable, certify, evaluate,
    solve,
};
use secateurs::zoo::yolo11::{Scale, detect};

/// How many random instances are compared with brute force: `SECATEURS_SEARCH_CASES`, or 10,000.
fn cases() -> u64 {
    std::env::var("SECATEURS_SEARCH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Up to twelve variables with losses and tables that need not be monotone; the more there are, the fewer levels they have.
fn random_problem(random: &mut StdRng) -> Problem {
    let count = if random.random_bool(0.9) { random.random_range(1..=6usize) } else { random.random_range(7..=12) };
    let most = [4, 3, 2][usize::from(count > 5) + usize::from(count > 7)];
    let variables: Vec<Variable> = (0..count)
        .map(|v| {
            let levels = random.random_range(1..=most);
            let mut loss: Vec<f64> = (0..levels).map(|_| f64::from(random.random_range(0..40u8)) / 4.0).collect();
            if random.random_bool(0.7) {
                loss.sort_by(|a, b| b.total_cmp(a));
                loss[levels - 1] = 0.0;
            }
            Variable { name: format!("g{v}"), widths: (1..=levels).map(|k| 8 * k).collect(), loss }
        })
        .collect();
    let factor = |random: &mut StdRng, most: f64| {
        let mut scope: Vec<usize> = (0..count).collect();
        (0..count).for_each(|i| scope.swap(i, random.random_range(0..count)));
        scope.truncate(random.random_range(0..=count.min(4)));
        let size: usize = scope.iter().map(|v| variables[*v].widths.len()).product();
        let smooth = random.random_bool(0.5);
        let table = (0..size).map(|entry| {
            let noise: f64 = random.random_range(0.0..most);
            if smooth { most * (entry + 1) as f64 / size as f64 + 0.1 * noise } else { noise }
        });
        Factor { scope, table: table.collect() }
    };
    let factors = (0..random.random_range(0..=2 * count)).map(|_| factor(random, 3.0)).collect();
    let weight_factors = (0..random.random_range(0..=count)).map(|_| factor(random, 200.0)).collect();
    let memory = (0..random.random_range(0..=6usize)).map(|_| {
        let terms =
            (0..random.random_range(0..=count)).map(|_| (random.random_range(0..count), random.random_range(0.0..9.0)));
        let terms = terms.collect::<Vec<_>>();
        MemoryTerm { constant: random.random_range(0.0..50.0), terms }
    });
    let memory = memory.collect();
    Problem { memory, factors, weight_factors, variables, budget: SearchBudget::default() }
}

/// All plans of a small problem.
fn all_plans(problem: &Problem) -> Vec<Vec<usize>> {
    problem.variables.iter().fold(vec![Vec::new()], |plans, variable| {
        let extend = |plan: &Vec<usize>| {
            let plan = plan.clone();
            (0..variable.widths.len()).map(move |level| plan.iter().copied().chain([level]).collect())
        };
        plans.iter().flat_map(extend).collect()
    })
}

fn check_solution(problem: &Problem, solution: &Solution, case: &str) {
    let evaluation = evaluate(problem, &solution.levels);
    let reported =
        Evaluation { loss: solution.loss, latency_ms: solution.latency_ms, memory_bytes: solution.memory_bytes };
    assert_eq!(evaluation, reported, "{case}");
    assert!(evaluation.fits(&problem.budget), "{case}: {evaluation:?} over {:?}", problem.budget);
    assert!(solution.lower_bound <= solution.loss, "{case}");
    let gap = (solution.loss - solution.lower_bound) / solution.loss.max(1e-12);
    assert!((solution.gap - gap).abs() < 1e-9, "{case}: gap {} for {gap}", solution.gap);
}

/// Plans that the search did not choose are certified by the least loss that there is, not by what they were made from.
#[test]
fn a_plan_from_elsewhere_is_certified_against_the_least_loss() {
    let (mut within, mut worse, mut beyond) = (0, 0, 0);
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut problem = random_problem(&mut random);
        let plans = all_plans(&problem);
        let all: Vec<Evaluation> = plans.iter().map(|plan| evaluate(&problem, plan)).collect();
        let other = &all[random.random_range(0..all.len())];
        problem.budget.latency_ms = Some(other.latency_ms).filter(|ms| *ms > 0.0);
        problem.budget.memory_bytes = Some(other.memory_bytes).filter(|bytes| *bytes > 0.0 && seed % 2 == 0);
        let chosen = random.random_range(0..plans.len());
        let found = certify(&problem, &plans[chosen], &Options::default()).unwrap();
        // Over a budget, it is compared with all that take as much.
        beyond += usize::from(!all[chosen].fits(&problem.budget));
        let budget = SearchBudget {
            latency_ms: problem.budget.latency_ms.map(|most| most.max(all[chosen].latency_ms)),
            memory_bytes: problem.budget.memory_bytes.map(|most| most.max(all[chosen].memory_bytes)),
        };
        let least = all.iter().filter(|e| e.fits(&budget)).map(|e| e.loss).fold(f64::INFINITY, f64::min);
        let (loss, case) = (all[chosen].loss, format!("case {seed}: {found:?}, least {least}"));
        assert_eq!((found.loss, found.latency_ms), (loss, all[chosen].latency_ms), "{case}");
        assert!((found.lower_bound - least).abs() <= 1e-6 * (1.0 + least), "{case}");
        assert!((found.gap - (loss - found.lower_bound) / loss.max(f64::MIN_POSITIVE)).abs() < 1e-12, "{case}");
        within += 1;
        worse += usize::from(found.gap > 0.01);
    }
    assert!(within > 100 && worse > 50 && beyond > 30, "{within} {worse} {beyond}");
    let problem = random_problem(&mut StdRng::seed_from_u64(1));
    assert!(certify(&problem, &[], &Options::default()).is_err());
    assert!(certify(&problem, &vec![99; problem.variables.len()], &Options::default()).is_err());
}

#[test]
fn small_instances_agree_with_brute_force() {
    let (mut feasible, mut proven) = (0, 0);
    for seed in 0..cases() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut problem = random_problem(&mut random);
        let all: Vec<Evaluation> = all_plans(&problem).iter().map(|plan| evaluate(&problem, plan)).collect();
        // Budgets between a little below the least and the most, now and then exactly a plan's own figure.
        let mut pick = |figure: &dyn Fn(&Evaluation) -> f64| {
            let (low, high) = all.iter().map(figure).fold((f64::MAX, 0.0f64), |(l, h), f| (l.min(f), h.max(f)));
            let exact = figure(&all[random.random_range(0..all.len())]);
            let share: f64 = random.random_range(-0.15..1.0);
            if random.random_bool(0.2) { exact } else { low + share * (high - low) }
        };
        let latency = Some(pick(&|e| e.latency_ms)).filter(|b| *b > 0.0);
        let memory = Some(pick(&|e| e.memory_bytes)).filter(|b| *b > 0.0);
        problem.budget = match seed % 3 {
            0 => SearchBudget { latency_ms: latency, memory_bytes: None },
            1 => SearchBudget { latency_ms: None, memory_bytes: memory },
            _ => SearchBudget { latency_ms: latency, memory_bytes: memory },
        };
        let fits = all.iter().filter(|e| e.fits(&problem.budget));
        let optimum = fits.map(|e| e.loss).min_by(f64::total_cmp);
        let case = format!("case {seed}");
        match (solve(&problem, &Options { alternatives: 3, ..Options::default() }, &mut |_| {}), optimum) {
            (Ok(solution), Some(optimum)) => {
                check_solution(&problem, &solution, &case);
                feasible += 1;
                let close = 1e-9 * (1.0 + optimum);
                assert!(solution.lower_bound <= optimum + close, "{case}: {} over {optimum}", solution.lower_bound);
                // So few plans are always searched to the end.
                assert!(solution.loss <= optimum + close, "{case}: {} for {optimum}", solution.loss);
                assert!(solution.gap <= 1e-6, "{case}: {}", solution.gap);
                let mut plans = vec![&solution.levels];
                for other in &solution.alternatives {
                    assert_eq!(evaluate(&problem, &other.levels), other.evaluation, "{case}");
                    assert!(other.evaluation.fits(&problem.budget), "{case}");
                    assert!(!plans.contains(&&other.levels), "{case}: the same plan twice");
                    plans.push(&other.levels);
                }
                assert!(solution.alternatives.is_sorted_by(|a, b| a.evaluation.loss <= b.evaluation.loss), "{case}");
            }
            (Err(SearchError::Infeasible(report)), None) => {
                proven += usize::from(report.proven);
                assert!(report.proven, "{case}: so few plans are always searched to the end");
                for (least, figure) in [
                    (&report.least_latency, (|e| e.latency_ms) as fn(&Evaluation) -> f64),
                    (&report.least_memory, |e| e.memory_bytes),
                ] {
                    let Some(least) = least else { continue };
                    let truth = all.iter().map(figure).fold(f64::MAX, f64::min);
                    assert_eq!(evaluate(&problem, &least.levels), least.evaluation, "{case}");
                    assert!(least.bound <= truth * (1.0 + 1e-9) + 1e-9, "{case}: {} over {truth}", least.bound);
                    assert!(figure(&least.evaluation) <= truth * 1.01 + 1e-9, "{case}: {least:?} for {truth}");
                }
                assert!(!report.relaxations.is_empty(), "{case}: {report:?}");
                for relaxation in &report.relaxations {
                    let budget = SearchBudget {
                        latency_ms: relaxation.latency_ms.or(problem.budget.latency_ms),
                        memory_bytes: relaxation.memory_bytes.or(problem.budget.memory_bytes),
                    };
                    assert_ne!(budget, problem.budget, "{case}");
                    check_solution(&Problem { budget, ..problem.clone() }, &relaxation.solution, &case);
                }
                assert!(report.to_string().contains("it fits with"), "{case}: {report}");
            }
            (found, optimum) => panic!("{case}: {found:?} for {optimum:?}"),
        }
    }
    // Every accepted plan was computed again, every piece of advice was followed and found good.
    println!("{feasible} feasible, {proven} infeasible");
    assert!(feasible >= cases() as usize / 10 && proven >= cases() as usize / 200, "{feasible} and {proven}");
}

#[test]
fn yolo11_is_solved_within_one_percent() {
    let cases: &[(char, f64, f64)] = &[
        ('n', 0.9, 0.0),
        ('n', 0.75, 0.0),
        ('n', 0.5, 0.0),
        ('n', 0.0, 0.7),
        ('n', 0.7, 0.7),
        ('s', 0.6, 0.0),
        ('m', 0.7, 0.0),
        ('l', 0.7, 0.0),
        ('x', 0.7, 0.0),
    ];
    for (letter, latency, memory) in cases {
        let graph = detect(Scale::of(*letter).unwrap(), 80).unwrap();
        let mut problem = network(&graph, 7);
        let baseline: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
        let baseline = evaluate(&problem, &baseline);
        problem.budget = SearchBudget {
            latency_ms: Some(latency * baseline.latency_ms).filter(|b| *b > 0.0),
            memory_bytes: Some(memory * baseline.memory_bytes).filter(|b| *b > 0.0),
        };
        let case = format!("yolo11{letter}, latency {latency}, memory {memory}");
        let start = std::time::Instant::now();
        let solution = solve(&problem, &Options::default(), &mut |_| {}).unwrap();
        check_solution(&problem, &solution, &case);
        println!(
            "{case}: {} groups, loss {:.4}, gap {:.3} %, {:.2} s",
            problem.variables.len(),
            solution.loss,
            100.0 * solution.gap,
            start.elapsed().as_secs_f64()
        );
        assert!(solution.gap <= 0.01, "{case}: {}", solution.gap);
    }
}

#[test]
fn the_same_problem_gives_the_same_answer() {
    let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
    let mut problem = network(&graph, 3);
    let baseline: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
    problem.budget.latency_ms = Some(0.8 * evaluate(&problem, &baseline).latency_ms);
    let options = Options { nodes: 2000, blocks: 20, alternatives: 4, ..Options::default() };
    let first = solve(&problem, &options, &mut |_| {}).unwrap();
    assert_eq!(first, solve(&problem, &options, &mut |_| {}).unwrap());
    assert_eq!(first.alternatives.len(), 4);
}

#[test]
fn the_dual_alone_bounds() {
    // Four searches each.
    for seed in 0..cases() / 20 {
        let mut random = StdRng::seed_from_u64(1_000_000 + seed);
        let mut problem = random_problem(&mut random);
        let all: Vec<Evaluation> = all_plans(&problem).iter().map(|plan| evaluate(&problem, plan)).collect();
        let mut within = |figure: &dyn Fn(&Evaluation) -> f64| {
            let (low, high) = all.iter().map(figure).fold((f64::MAX, 0.0f64), |(l, h), f| (l.min(f), h.max(f)));
            Some(low + random.random_range(0.05..0.9) * (high - low)).filter(|budget| *budget > 0.0)
        };
        problem.budget.latency_ms = within(&|e| e.latency_ms).filter(|_| seed % 3 != 1);
        problem.budget.memory_bytes = within(&|e| e.memory_bytes).filter(|_| seed % 3 != 0);
        let fits = all.iter().filter(|e| e.fits(&problem.budget));
        let optimum = fits.map(|e| e.loss).min_by(f64::total_cmp);
        let case = format!("case {seed}");
        // No search to the end, so that the bound is that of the dual; whole, split, and with branches.
        for (max_table, branches) in [(1 << 22, 0), (8, 0), (1 << 22, 20), (8, 20)] {
            let options = Options { max_table, branches, nodes: 0, gap: 0.0, ..Options::default() };
            match (solve(&problem, &options, &mut |_| {}), optimum) {
                (Ok(solution), Some(optimum)) => {
                    check_solution(&problem, &solution, &case);
                    let slack = 1e-9 * (1.0 + optimum);
                    assert!(solution.lower_bound <= optimum + slack, "{case}: {} over {optimum}", solution.lower_bound);
                    assert!(solution.loss >= optimum - slack, "{case}: {} under {optimum}", solution.loss);
                }
                // Without a search it may miss what fits, but must not call that proven.
                (Err(SearchError::Infeasible(report)), _) => {
                    assert!(!report.proven || optimum.is_none(), "{case}: {report}")
                }
                (found, optimum) => panic!("{case}: {found:?} for {optimum:?}"),
            }
        }
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    let good = || Problem {
        variables: vec![
            Variable { name: "stem".into(), widths: vec![8, 16], loss: vec![1.0, 0.0] },
            Variable { name: "neck".into(), widths: vec![8, 16], loss: vec![1.0, 0.0] },
        ],
        factors: vec![Factor { scope: vec![0, 1], table: vec![1.0, 2.0, 3.0, 4.0] }],
        memory: vec![MemoryTerm { constant: 1.0, terms: vec![(0, 4.0)] }],
        weight_factors: vec![Factor { scope: vec![1], table: vec![8.0, 16.0] }],
        budget: SearchBudget { latency_ms: Some(2.5), memory_bytes: Some(1000.0) },
    };
    assert_eq!(solve(&good(), &Options::default(), &mut |_| {}).unwrap().levels, [0, 1]);
    type Spoil = fn(&mut Problem);
    let cases: &[(Spoil, &str)] = &[
        (|p| p.variables[0].loss[0] = f64::NAN, "variable 0 (stem): loss 0 is NaN"),
        (|p| p.variables[1].loss[1] = f64::INFINITY, "variable 1 (neck): loss 1 is inf"),
        (|p| p.variables[1].loss[1] = -1.0, "variable 1 (neck): loss 1 is -1"),
        (|p| p.variables[1].loss = vec![], "variable 1 (neck): has 0 losses for 2 widths"),
        (|p| (p.variables[0].widths, p.variables[0].loss) = (vec![], vec![]), "variable 0 (stem): has no levels"),
        (|p| p.variables[0].widths = vec![8, 8], "variable 0 (stem): its widths do not ascend"),
        (|p| p.factors[0].table[3] = f64::NAN, "latency factor 0 (stem, neck): entry 3 is NaN"),
        (|p| p.factors[0].scope = vec![0], "latency factor 0 (stem): has 4 entries, expected 2"),
        (|p| p.factors[0].scope = vec![0, 0], "latency factor 0 (stem, stem): names variable 0 twice"),
        (|p| p.weight_factors[0].scope = vec![2], "weight factor 0 (?): names variable 2 of 2"),
        (|p| p.weight_factors[0].table[0] = -8.0, "weight factor 0 (neck): entry 0 is -8"),
        (|p| p.memory[0].constant = f64::NAN, "memory step 0: constant 0 is NaN"),
        (|p| p.memory[0].terms[0].0 = 9, "memory step 0: names variable 9 of 2"),
        (|p| p.memory[0].terms[0].1 = f64::NEG_INFINITY, "memory step 0: bytes per channel 0 is -inf"),
        (|p| p.budget.latency_ms = Some(f64::NAN), "latency budget: is NaN"),
        (|p| p.budget.memory_bytes = Some(0.0), "memory budget: is 0"),
    ];
    for (spoil, expected) in cases {
        let mut problem = good();
        spoil(&mut problem);
        let error = solve(&problem, &Options::default(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error} for {expected}");
    }
}

#[test]
fn an_impossible_budget_says_what_is_possible() {
    let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
    let mut problem = network(&graph, 7);
    let baseline: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
    let baseline = evaluate(&problem, &baseline);
    problem.budget =
        SearchBudget { latency_ms: Some(0.01 * baseline.latency_ms), memory_bytes: Some(0.5 * baseline.memory_bytes) };
    let Err(SearchError::Infeasible(report)) = solve(&problem, &Options::default(), &mut |_| {}) else {
        panic!("a hundredth of the time is possible")
    };
    assert!(report.proven && report.excess_bound > 0.0, "{report}");
    assert!(report.relaxations[0].latency_ms.is_some() && report.relaxations[0].memory_bytes.is_none(), "{report}");
}
