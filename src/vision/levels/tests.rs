//! Outputs of some cells against whole ones.

use super::super::{Extra, FindBuffers, NmsOptions, find, find_with, least_logit};
use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Sides of an image, of which the strides are no divisors.
const SIZE: (usize, usize) = (45, 58);

/// A head of every task whose cells can be chosen.
fn heads() -> [Head; 5] {
    let strides = vec![4, 8, 16];
    [
        Head::Detect { nc: 5, reg_max: 4, strides: strides.clone() },
        Head::Detect { nc: 1, reg_max: 1, strides: strides.clone() },
        Head::Segment { nc: 3, reg_max: 4, strides: strides.clone(), masks: 6 },
        Head::Pose { nc: 2, reg_max: 2, strides: strides.clone(), keypoints: 3, dims: 3 },
        Head::Obb { nc: 4, reg_max: 4, strides },
    ]
}

/// Rows and cells of every output that belongs to cells, in the graph's order.
fn shapes(head: &Head) -> Vec<(usize, Range<usize>)> {
    let Boxes { nc, reg_max, strides } = head.boxes().unwrap();
    let mut end = 0;
    let ranges: Vec<Range<usize>> = strides
        .iter()
        .map(|stride| {
            let first = end;
            end += SIZE.0.div_ceil(*stride) * SIZE.1.div_ceil(*stride);
            first..end
        })
        .collect();
    let pairs = ranges.iter().flat_map(|cells| [(4 * reg_max, cells.clone()), (nc, cells.clone())]);
    let extra = ranges.iter().filter(|_| head.extra() > 0).map(|cells| (head.extra(), cells.clone()));
    pairs.chain(extra).collect()
}

/// Values of few kinds, so that scores are equal here and there; some are no numbers.
fn value(rng: &mut StdRng) -> f32 {
    match rng.random_range(0..60) {
        0 => f32::NAN,
        _ => rng.random_range(-30..10) as f32 / 8.0,
    }
}

fn slices(outputs: &[Vec<f32>]) -> Vec<&[f32]> {
    outputs.iter().map(Vec::as_slice).collect()
}

/// An output as values of the cells alone, and something else behind each row's last.
fn chosen(whole: &[f32], (rows, cells): &(usize, Range<usize>), numbers: &[u32], columns: usize) -> Vec<f32> {
    let mut values = vec![9.0; rows * columns];
    for (column, number) in numbers.iter().enumerate().filter(|(_, number)| cells.contains(&(**number as usize))) {
        for row in 0..*rows {
            values[row * columns + column] = whole[row * cells.len() + *number as usize - cells.start];
        }
    }
    values
}

#[test]
fn chosen_cells_lead_to_the_detections_of_whole_outputs() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut objects = 0;
    for case in 0..60 {
        let head = heads()[case % 5].clone();
        let shapes = shapes(&head);
        let whole: Vec<Vec<f32>> =
            shapes.iter().map(|(rows, cells)| (0..rows * cells.len()).map(|_| value(&mut rng)).collect()).collect();
        let score = [0.9, 0.6, 0.5, 0.2][case % 4];
        let options =
            NmsOptions { score, multi_label: case % 3 == 0, agnostic: case % 7 == 0, ..NmsOptions::default() };
        let wanted = find(&head, SIZE, &slices(&whole), &options);
        let of_level = |level: &Level| -> Vec<u32> {
            let best =
                |cell: usize| (0..level.classes()).map(|class| level.logit(class, cell)).fold(f32::MIN, f32::max);
            let passes = (0..level.area).filter(|cell| best(*cell) > least_logit(score));
            passes.map(|cell| level.cell(cell) as u32).collect()
        };
        let numbers: Vec<u32> = levels(&head, SIZE, &slices(&whole)[..]).flat_map(|level| of_level(&level)).collect();
        // Exactly so many columns, and more.
        for columns in [numbers.len(), numbers.len() + 7] {
            let own: Vec<Vec<f32>> =
                whole.iter().zip(&shapes).map(|(whole, shape)| chosen(whole, shape, &numbers, columns)).collect();
            let (values, mut found) = (slices(&own), Vec::<(_, Extra)>::new());
            let outputs = Outputs { values: &values, cells: Some(Cells { numbers: &numbers, columns }) };
            find_with(&head, SIZE, outputs, &options, &mut FindBuffers::default(), |detection, extra| {
                found.push((detection, extra.clone()));
            });
            // As text, in which what is no number equals itself.
            assert_eq!(format!("{found:?}"), format!("{wanted:?}"), "case {case}, {columns} columns");
            objects += found.len();
        }
    }
    assert!(objects > 300, "{objects} objects");
}

#[test]
fn a_cell_without_values_has_no_column() {
    let head = &heads()[1];
    let (numbers, columns) = ([3, 5, 200], 4);
    let values: Vec<Vec<f32>> = [4, 1, 4, 1, 4, 1].map(|rows| vec![0.0; rows * columns]).to_vec();
    let values = slices(&values);
    let outputs = Outputs { values: &values, cells: Some(Cells { numbers: &numbers, columns }) };
    let found: Vec<Vec<Option<usize>>> =
        levels(head, SIZE, outputs).map(|level| [3, 4, 5, 200].map(|cell| level.column(cell)).to_vec()).collect();
    // The finest level has 180 cells, the next 48.
    assert_eq!(found[0], [Some(0), None, Some(1), None]);
    assert_eq!(found[1], [None, None, None, Some(0)]);
    assert_eq!(found[2], [None; 4]);
}
