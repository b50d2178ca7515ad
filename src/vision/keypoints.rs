//! How far keypoints may lie off before they count as missed, and which of them belong together.

/// How much annotators differ, per keypoint of COCO, as a share of an object's size (Ronchi and Perona, "Benchmarking
/// and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017).
pub const COCO_SIGMAS: [f64; 17] = [
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
];

/// The deviation of every keypoint: COCO's for its 17 points with visibility, else the same for all, which sum up to 1.
pub fn sigmas(keypoints: usize, dims: usize) -> Vec<f64> {
    if (keypoints, dims) == (17, 3) { COCO_SIGMAS.to_vec() } else { vec![1.0 / keypoints.max(1) as f64; keypoints] }
}

/// The limbs of COCO's 17 points, as its annotations list them, from 0.
const COCO_LIMBS: [[usize; 2]; 19] = [
    [15, 13],
    [13, 11],
    [16, 14],
    [14, 12],
    [11, 12],
    [5, 11],
    [6, 12],
    [5, 6],
    [5, 7],
    [6, 8],
    [7, 9],
    [8, 10],
    [1, 2],
    [0, 1],
    [0, 2],
    [1, 3],
    [2, 4],
    [3, 5],
    [4, 6],
];

/// Pairs of keypoints that a line connects: the limbs of a person for COCO's 17 points, else none.
pub fn skeleton(keypoints: usize) -> &'static [[usize; 2]] {
    if keypoints == 17 { &COCO_LIMBS } else { &[] }
}
