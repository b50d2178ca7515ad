//! How far keypoints may lie off before they count as missed.

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
