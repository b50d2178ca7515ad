//! Box decoding as ONNX operators.

use super::{Writer, int, ints, window};
use crate::graph::{Boxes, Head, Shape};

impl Writer {
    /// Boxes, scores and the task's rows from the raw levels; the shapes of the outputs.
    pub(super) fn decode(&mut self, head: &Head, boxes: Boxes, outputs: &[(&str, Shape)]) -> Vec<Vec<usize>> {
        let (levels, head, plain) = (boxes.strides.len(), head.branch(), boxes.reg_max == 1);
        let (pairs, extras) = outputs.split_at(2 * levels);
        let (mut centres, mut pixels) = ([Vec::new(), Vec::new()], Vec::new());
        for (pair, stride) in pairs.chunks(2).zip(boxes.strides) {
            let shape = pair[0].1;
            for i in 0..shape.area() {
                centres[0].push((i % shape.w) as f32 + 0.5);
                centres[1].push((i / shape.w) as f32 + 0.5);
                pixels.push(*stride as f32);
            }
        }
        let anchors = pixels.len();
        let corners: Vec<f32> = centres.concat().iter().map(|v| v - 0.5).collect();
        let middles = centres.concat();
        let centres = self.floats("decode/anchors".into(), &[1, 2, anchors], middles.clone());
        let strides = self.floats("decode/strides".into(), &[1, 1, anchors], pixels.clone());

        let distances = self.distances(pairs, boxes.reg_max, anchors);
        self.slice("decode/lt", &distances, 1, 0, 2);
        self.slice("decode/rb", &distances, 1, 2, 2);
        let half = self.floats("decode/half".into(), &[], vec![0.5]);
        let (shift, angle) = match head {
            Head::Obb { .. } => {
                let (shift, angle) = self.rotated(&extras[..levels], &half, plain);
                (shift, Some(angle))
            }
            _ => {
                let shift = self.step("Sub", "decode", "difference", &["decode/rb", "decode/lt"], vec![]);
                (self.step("Mul", "decode", "shift", &[&shift, &half], vec![]), None)
            }
        };
        let centre = self.step("Add", "decode", "centre", &[&centres, &shift], vec![]);
        let size = self.step("Add", "decode", "size", &["decode/lt", "decode/rb"], vec![]);
        let cells = self.step("Concat", "decode", "cells", &[&centre, &size], vec![int("axis", 1)]);
        let bboxes = self.step("Mul", "decode", "pixels", &[&cells, &strides], vec![]);
        let classes = self.joined("classes", pairs.iter().skip(1).step_by(2));
        let scores = self.step("Sigmoid", "decode", "scores", &[&classes], vec![]);

        let mut rows = vec![bboxes, scores];
        let mut shapes = vec![vec![self.batch, 4 + boxes.nc + head.extra(), anchors]];
        match head {
            Head::Detect { .. } | Head::Classify { .. } | Head::EndToEnd { .. } => {}
            Head::Obb { .. } => rows.extend(angle),
            Head::Pose { keypoints, dims, .. } => {
                let size = [*keypoints, *dims, anchors];
                let places = if plain { middles } else { corners };
                rows.push(self.keypoints(&extras[..levels], size, (places, plain), pixels));
            }
            Head::Segment { .. } => {
                rows.push(self.joined("coefficients", extras[..levels].iter()));
                let (prototypes, shape) = extras[levels];
                self.node("Identity", "output1", &[prototypes], vec![]);
                shapes.push(vec![self.batch, shape.c, shape.h, shape.w]);
            }
        }
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        self.node("Concat", "output0", &rows, vec![int("axis", 1)]);
        shapes
    }

    /// One output per level as one tensor `[batch, rows, anchors]`.
    fn joined<'a>(&mut self, what: &str, levels: impl Iterator<Item = &'a (&'a str, Shape)>) -> String {
        let mut flat = Vec::new();
        for (level, (name, shape)) in levels.enumerate() {
            flat.push(format!("decode/{what}.{level}"));
            self.reshape(&flat[level], name, &[self.batch, shape.c, shape.area()]);
        }
        let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
        self.step("Concat", "decode", what, &flat, vec![int("axis", 2)])
    }

    /// Expected distance per side: softmax over the bins, then their mean as a convolution with 0, 1, 2, …; with one bin
    /// the number itself.
    fn distances(&mut self, pairs: &[(&str, Shape)], reg_max: usize, anchors: usize) -> String {
        let boxes = self.joined("boxes", pairs.iter().step_by(2));
        if reg_max == 1 {
            return boxes;
        }
        self.reshape("decode/sides", &boxes, &[self.batch, 4, reg_max, anchors]);
        let bins = self.step("Transpose", "decode", "bins", &["decode/sides"], vec![ints("perm", &[0, 2, 1, 3])]);
        let shares = self.step("Softmax", "decode", "shares", &[&bins], vec![int("axis", 1)]);
        let counts = self.floats("decode/counts".into(), &[1, reg_max, 1, 1], (0..reg_max).map(|b| b as f32).collect());
        let mean = self.step("Conv", "decode", "mean", &[&shares, &counts], window(1, 1, 0));
        self.reshape("decode/distances", &mean, &[self.batch, 4, anchors]);
        "decode/distances".into()
    }

    /// From the cell's centre to the centre of a rotated box, `[batch, 2, anchors]`, and the angle
    /// `[batch, 1, anchors]`.
    fn rotated(&mut self, levels: &[(&str, Shape)], half: &str, plain: bool) -> (String, String) {
        let logits = self.joined("angles", levels.iter());
        let angle = if plain { logits } else { self.angle(&logits) };
        let cos = self.step("Cos", "decode", "cos", &[&angle], vec![]);
        let sin = self.step("Sin", "decode", "sin", &[&angle], vec![]);
        let difference = self.step("Sub", "decode", "difference", &["decode/rb", "decode/lt"], vec![]);
        let along = self.step("Mul", "decode", "along", &[&difference, half], vec![]);
        self.slice("decode/x", &along, 1, 0, 1);
        self.slice("decode/y", &along, 1, 1, 1);
        let mut product = |what: &str, a: &str, b: &str| self.step("Mul", "decode", what, &[a, b], vec![]);
        let [xc, ys, xs, yc] = [
            product("xc", "decode/x", &cos),
            product("ys", "decode/y", &sin),
            product("xs", "decode/x", &sin),
            product("yc", "decode/y", &cos),
        ];
        let x = self.step("Sub", "decode", "across", &[&xc, &ys], vec![]);
        let y = self.step("Add", "decode", "down", &[&xs, &yc], vec![]);
        (self.step("Concat", "decode", "shift", &[&x, &y], vec![int("axis", 1)]), angle)
    }

    /// Angles in radians from their logits.
    fn angle(&mut self, logits: &str) -> String {
        let turn = self.step("Sigmoid", "decode", "turn", &[logits], vec![]);
        let quarter = self.floats("decode/quarter".into(), &[], vec![0.25]);
        let turn = self.step("Sub", "decode", "turned", &[&turn, &quarter], vec![]);
        let pi = self.floats("decode/pi".into(), &[], vec![std::f32::consts::PI]);
        self.step("Mul", "decode", "angle", &[&turn, &pi], vec![])
    }

    /// Keypoints in pixels, `[batch, keypoints * dims, anchors]`.
    fn keypoints(
        &mut self,
        levels: &[(&str, Shape)],
        [keypoints, dims, anchors]: [usize; 3],
        (origins, plain): (Vec<f32>, bool),
        pixels: Vec<f32>,
    ) -> String {
        let raw = self.joined("raw-keypoints", levels.iter());
        self.reshape("decode/keypoints", &raw, &[self.batch, keypoints, dims, anchors]);
        self.slice("decode/places", "decode/keypoints", 2, 0, 2);
        let places = match plain {
            true => "decode/places".to_owned(),
            false => {
                let two = self.floats("decode/two".into(), &[], vec![2.0]);
                self.step("Mul", "decode", "doubled", &["decode/places", &two], vec![])
            }
        };
        let origins = self.floats("decode/corners".into(), &[1, 1, 2, anchors], origins);
        let places = self.step("Add", "decode", "placed", &[&places, &origins], vec![]);
        let strides = self.floats("decode/keypoint-strides".into(), &[1, 1, 1, anchors], pixels);
        let mut rows = self.step("Mul", "decode", "keypoint-pixels", &[&places, &strides], vec![]);
        if dims == 3 {
            self.slice("decode/visible", "decode/keypoints", 2, 2, 1);
            let visible = self.step("Sigmoid", "decode", "visibility", &["decode/visible"], vec![]);
            rows = self.step("Concat", "decode", "keypoint-rows", &[&rows, &visible], vec![int("axis", 2)]);
        }
        self.reshape("decode/all-keypoints", &rows, &[self.batch, keypoints * dims, anchors]);
        "decode/all-keypoints".into()
    }
}
