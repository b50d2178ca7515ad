//! Checks that a cached latency table fits a network.

use super::{LatencyTable, fit};
use crate::graph::Graph;
use crate::group::Groups;

/// Between these a frame's time over the sum of its layers' is possible, whatever the figures of a device say.
const FACTORS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// The longest frame that is accepted, milliseconds: a day.
const LONGEST: f64 = 8.64e7;

impl LatencyTable {
    /// Says what is wrong: one entry per layer, coefficients of at least 0, a tile that is fitted, a factor and a frame
    /// of possible size, errors in ascending order, and measured where it should be.
    ///
    /// # Errors
    /// Names the layer or the figure.
    pub fn check(&self, graph: &Graph, groups: &Groups, fingerprint: &str) -> Result<(), String> {
        if self.fingerprint != fingerprint {
            return Err(format!("is of {}, expected {fingerprint}", self.fingerprint));
        }
        if self.layers.len() != graph.nodes.len() {
            return Err(format!("has {} layers, the network has {}", self.layers.len(), graph.nodes.len()));
        }
        for (node, layer) in graph.nodes.iter().zip(&self.layers) {
            let Some(layer) = layer else { continue };
            if !fit::TILES.contains(&layer.tile) {
                return Err(format!("layer `{}`: a tile of {}", node.name, layer.tile));
            }
            if let Some(value) = layer.coefficients.iter().find(|c| !(c.is_finite() && **c >= 0.0)) {
                return Err(format!("layer `{}`: a coefficient of {value}", node.name));
            }
        }
        if !FACTORS.contains(&self.frame_factor) {
            return Err(format!("a frame takes {} times the sum of its layers", self.frame_factor));
        }
        let full: Vec<usize> = groups.groups.iter().map(|group| group.width()).collect();
        let frame = 0.0 + self.predict(graph, groups, &full);
        if !(frame > 0.0 && frame <= LONGEST) {
            return Err(format!("a frame takes {frame} ms"));
        }
        let errors = &self.held_out_errors;
        if errors.iter().any(|e| !(e.is_finite() && *e >= 0.0)) || !errors.is_sorted() {
            return Err("its errors are not finite numbers in ascending order".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::LayerTime;
    use super::*;
    use crate::group::groups;
    use crate::zoo::simple_cnn::simple_cnn;

    #[test]
    fn what_cannot_be_a_table_is_told() {
        let graph = simple_cnn(10).unwrap();
        let groups = groups(&graph);
        let layer = LayerTime { tile: 8, coefficients: [0.01, 0.0, 0.001, 0.0] };
        let table = LatencyTable {
            fingerprint: "here".into(),
            layers: vec![Some(layer); graph.nodes.len()],
            frame_factor: 1.02,
            held_out_errors: vec![0.01, 0.02],
        };
        assert_eq!(table.check(&graph, &groups, "here"), Ok(()));
        let cases: [(fn(&mut LatencyTable), &str); 11] = [
            (|t| t.fingerprint = "there".into(), "is of there"),
            (|t| t.layers.truncate(2), "layers"),
            (|t| t.layers.iter_mut().flatten().for_each(|l| l.tile = 0), "a tile of 0"),
            (|t| t.layers[1].as_mut().unwrap().coefficients[3] = -1.0, "a coefficient of -1"),
            (|t| t.layers[1].as_mut().unwrap().coefficients[0] = f64::NAN, "a coefficient of NaN"),
            (|t| t.frame_factor = 1e300, "times the sum"),
            (|t| t.frame_factor = -1.0, "times the sum"),
            (|t| t.layers.iter_mut().flatten().for_each(|l| l.coefficients = [1e20; 4]), "a frame takes"),
            (|t| t.layers = vec![None; t.layers.len()], "a frame takes 0 ms"),
            (|t| t.held_out_errors.reverse(), "ascending"),
            (|t| t.held_out_errors[1] = f64::INFINITY, "ascending"),
        ];
        for (harm, expected) in cases {
            let mut table = table.clone();
            harm(&mut table);
            let problem = table.check(&graph, &groups, "here").unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
