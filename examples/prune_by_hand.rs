//! The stages of a pruning job as library calls: load, groups, rank, search, cut, repair, export. Prunes the embedded
//! demo detector to 60 % of its estimated latency, without fine-tuning, and writes it as ONNX and as a model file.
//!
//!     cargo run --release --example prune_by_hand -- [FOLDER]

use secateurs::data::demo::{self, SIDE};
use secateurs::engine::Device;
use secateurs::importance::{Criterion, Sampling, Statistics, covariances, measure, rank};
use secateurs::latency::{Speed, estimate};
use secateurs::ranks::Ranks;
use secateurs::repair::{Calibration, Method, repair};
use secateurs::search::{self, Factor, Problem, Variable};
use secateurs::{emit::onnx, group, import, model, pipeline, surgery, vision::Preprocess};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("prune-by-hand"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;

    // 1. Load the model, and draw images for calibration.
    let baseline = import::from_bytes(Path::new("demo.safetensors"), pipeline::DEMO_MODEL)?;
    let preprocess = Preprocess::new(&baseline)?;
    let input = |index| {
        let mut input = vec![0.0; preprocess.channels() * SIDE * SIDE];
        preprocess.write(&demo::draw(demo::SEED, index, SIDE).0, SIDE, &mut input);
        input
    };
    let data: Vec<Vec<f32>> = (0..32).map(input).collect();
    let (ranks, sensitivity) = (Ranks::default(), None);
    let calibration = Calibration {
        images: &data,
        height: SIDE,
        width: SIDE,
        ridge: 1e-3,
        seed: 0,
        sensitivity,
        ranks,
        device: Device::Cpu,
    };

    // 2. Channels that can only be pruned together.
    let groups = group::groups(&baseline.graph);

    // 3. Which channels of a group are removed first, and what each width of a group costs.
    let covariances = covariances(&baseline, &calibration)?;
    let statistics = Statistics { covariances: Some((covariances.clone(), calibration.ridge)), ..Default::default() };
    let ranking = rank(Criterion::Reconstruction, &baseline, &groups, &statistics)?;
    let sampling = Sampling { shares: vec![0.75, 0.5, 0.25], grid: 4, images: 8, device: Device::Cpu };
    let curves = measure(&baseline, &groups, &ranking, &covariances, &calibration, &sampling, &mut |_, _| {})?;

    // 4. The widths that lose least within the budget.
    let table = estimate(&baseline.graph, (SIDE, SIDE), &Speed { gflops: 50.0, bandwidth: 10.0 }, "example")?;
    let variable = |(id, group): (usize, &group::Group)| {
        let mut widths = sampling.widths(group);
        widths.reverse();
        widths.push(group.width());
        let loss = widths.iter().map(|width| curves.loss(id, *width, group.width())).collect();
        Variable { name: group.name.clone(), widths, loss }
    };
    let variables: Vec<Variable> = groups.groups.iter().enumerate().map(variable).collect();
    let factor = |term: secateurs::latency::Term| {
        let scope: Vec<usize> = term.scope.iter().map(|group| group.index()).collect();
        let entries = |scope: &[usize]| scope.iter().map(|v| variables[*v].widths.len()).product::<usize>();
        // The last group of the scope runs fastest.
        let width = |entry: usize, group: group::GroupId| {
            let at = scope.iter().position(|v| *v == group.index()).unwrap_or_default();
            let widths = &variables[group.index()].widths;
            widths[entry / entries(&scope[at + 1..]) % widths.len()]
        };
        let table = (0..entries(&scope)).map(|entry| term.millis(|group| width(entry, group))).collect();
        Factor { table, scope }
    };
    let factors = table.terms(&baseline.graph, &groups).into_iter().map(factor).collect();
    let mut problem = Problem { variables, factors, ..Problem::default() };
    let full: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
    problem.budget.latency_ms = Some(0.6 * search::evaluate(&problem, &full).latency_ms);
    let solution = search::solve(&problem, &search::Options::default(), &mut |_| {})?;
    let widths: Vec<usize> =
        problem.variables.iter().zip(&solution.levels).map(|(v, level)| v.widths[*level]).collect();

    // 5. Cut, repair by least squares, export.
    let selection = ranking.select(&widths);
    let cut = surgery::cut(&baseline, &groups, &selection)?;
    let pruned = repair(&baseline, &groups, &selection, &cut, Method::LeastSquares, &calibration, &mut |_, _| {})?;
    for (name, model) in [("baseline", &baseline), ("pruned", &pruned)] {
        println!("{name}: {:.1} million MACs", model.graph.cost(SIDE, SIDE)?.macs as f64 / 1e6);
    }
    model::save(&pruned, &folder.join("pruned.safetensors"))?;
    std::fs::write(folder.join("pruned.onnx"), onnx::export(&pruned, SIDE, SIDE)?)?;
    println!("written to {}", folder.display());
    Ok(())
}
