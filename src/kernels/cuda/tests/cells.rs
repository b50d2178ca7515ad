//! The table of chosen cells against a loop over all of them.

use super::super::{CellPlanes, CellTable, MAX_CHOSEN, MAX_LEVELS, emulated};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Outputs of random levels in a memory of their own, and the table behind them.
struct Scene {
    table: CellTable,
    memory: Vec<f32>,
}

/// Few different values, so that many equal the threshold; some are no numbers.
fn value(rng: &mut StdRng) -> f32 {
    match rng.random_range(0..40) {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => rng.random_range(-20..20) as f32 / 4.0,
    }
}

impl Scene {
    fn new(rng: &mut StdRng, largest: usize) -> Self {
        let planes = [rng.random_range(1..20), rng.random_range(1..30), rng.random_range(0..10)];
        let mut end = 0;
        let mut level = || {
            let area = rng.random_range(1..largest);
            let at = planes.map(|planes| {
                let at = end;
                end += (planes * area).next_multiple_of(16);
                4 * at
            });
            CellPlanes { at, area }
        };
        let levels: Vec<CellPlanes> = (0..1 + largest % MAX_LEVELS).map(|_| level()).collect();
        let cells: usize = levels.iter().map(|level| level.area).sum();
        let columns = (cells / 4).clamp(1, MAX_CHOSEN);
        let mut table = CellTable { levels, planes, columns, least: 0, bits: 0, table: 4 * end };
        table.bits = table.table + 4 * table.table_len();
        table.least = table.bits + 4 * table.bits_len();
        let memory = (0..table.least / 4 + 1).map(|_| value(rng)).collect();
        Self { table, memory }
    }

    /// Of every cell the greatest class.
    fn best(&self) -> Vec<f32> {
        let of = |level: &CellPlanes, cell: usize| {
            let class = |class: usize| self.memory[level.at[1] / 4 + class * level.area + cell];
            (0..self.table.planes[1]).map(class).fold(f32::MIN, f32::max)
        };
        self.table.levels.iter().flat_map(|level| (0..level.area).map(move |cell| of(level, cell))).collect()
    }

    /// The values of a cell, output after output.
    fn values(&self, cell: usize) -> Vec<f32> {
        let mut first = 0;
        for level in &self.table.levels {
            if cell < first + level.area {
                let value =
                    |which: usize, plane: usize| self.memory[level.at[which] / 4 + plane * level.area + cell - first];
                return (0..3)
                    .flat_map(|which| (0..self.table.planes[which]).map(move |plane| value(which, plane)))
                    .collect();
            }
            first += level.area;
        }
        panic!("there is no cell {cell}")
    }

    /// The memory after both launches.
    fn run(&mut self, least: f32) -> Option<Vec<f32>> {
        let mut device = emulated::device()?;
        self.memory[self.table.least / 4] = least;
        device.reserve(self.memory.len()).unwrap();
        device.upload(0, &self.memory).unwrap();
        device.launch(&self.table.find()).unwrap();
        device.launch(&self.table.take()).unwrap();
        let mut found = self.memory.clone();
        device.download(0, &mut found).unwrap();
        Some(found)
    }

    /// Whether the table has the cells above a threshold, and nothing else has changed.
    fn check(&mut self, case: &str, least: f32) -> Option<usize> {
        let found = self.run(least)?;
        let best = self.best();
        let wanted: Vec<usize> = (0..best.len()).filter(|cell| best[*cell] > least).collect();
        let (at, columns) = (self.table.table / 4, self.table.columns);
        let mut expected = self.memory.clone();
        expected[at] = f32::from_bits(wanted.len() as u32);
        if wanted.len() <= columns {
            for (column, cell) in wanted.iter().enumerate() {
                expected[at + 1 + column] = f32::from_bits(*cell as u32);
                for (row, value) in self.values(*cell).into_iter().enumerate() {
                    expected[at + 1 + (1 + row) * columns + column] = value;
                }
            }
        }
        let bits = self.table.bits / 4..self.table.least / 4;
        for (i, (found, wanted)) in found.iter().zip(&expected).enumerate().filter(|(i, _)| !bits.contains(i)) {
            assert!(found.to_bits() == wanted.to_bits(), "{case}: value {i} is {found}, expected {wanted}");
        }
        Some(wanted.len())
    }
}

#[test]
fn the_table_has_the_cells_above_the_threshold_and_no_others() {
    let mut rng = StdRng::seed_from_u64(1);
    let (mut fit, mut full) = (0, 0);
    for case in 0..120 {
        let mut scene = Scene::new(&mut rng, [60, 3001, 33, 514][case % 4]);
        let mut best = scene.best();
        best.sort_by(f32::total_cmp);
        // None, those above the value of a cell, whose equals do not count, and all.
        let about = best.len() - rng.random_range(1..=best.len().min(2 * scene.table.columns));
        for least in [f32::INFINITY, best[best.len() - 1], best[about], f32::MIN, f32::NEG_INFINITY, f32::NAN] {
            let Some(passed) = scene.check(&format!("case {case}, above {least}"), least) else { return };
            assert!(passed == 0 || least < best[best.len() - 1], "case {case}, above {least}: {passed}");
            match passed <= scene.table.columns {
                true => fit += 1,
                false => full += 1,
            }
        }
    }
    assert!(fit > 100 && full > 100, "{fit} tables, {full} times too many");
}

#[test]
fn a_table_names_what_it_reads_and_writes() {
    let scene = Scene::new(&mut StdRng::seed_from_u64(2), 50);
    let (find, take) = (scene.table.find(), scene.table.take());
    assert_eq!([find.name(), take.name()], ["find_cells", "take_cells"]);
    assert!(take.depends_on(&find));
    let bytes = 4 * scene.memory.len();
    assert!([&find, &take].iter().all(|launch| launch.in_bounds(bytes) && !launch.in_bounds(bytes - 1)));
    for level in &scene.table.levels {
        let first = |which: usize| level.at[which]..level.at[which] + 1;
        assert!(find.reads_from(first(1)) && (0..2).all(|which| take.reads_from(first(which))));
    }
    assert_eq!(take.traffic(), 8 * scene.table.table_len() as u64);
}
