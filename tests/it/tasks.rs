//! What `detect` says for every task: the right fields, in pixels of the image, in JSON and in a picture.

use crate::support;
use secateurs::detector::Predictor;
use secateurs::engine::Options;
use secateurs::import;
use secateurs::vision::Image;
use serde_json::Value;

#[test]
fn every_task_has_its_own_answer() {
    let Some(photo) = support::data("images/000000303818.jpg") else { return };
    let image = Image::open(&photo).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (width, height) = (image.width() as f64, image.height() as f64);
    for task in ["seg", "pose", "obb", "cls"] {
        let Some(path) = support::data(&format!("golden/tasks/yolo11n-{task}-random.safetensors")) else { return };
        let model = import::load(&path).unwrap();
        let mut predictor = Predictor::new(&model, 160, &Options::default()).unwrap();
        // Random weights are sure of nothing, so that everything counts; few overlap this little.
        predictor.set_thresholds(0.0, 0.05);
        let found = predictor.find(&photo, &image, &model).unwrap();
        let json = serde_json::to_value(&found).unwrap();
        let saved = found.save(&mut image.clone(), folder.path()).unwrap();
        let drawn = Image::open(&saved).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (image.width(), image.height()), "{task}");
        assert!(found.to_string().lines().count() > 1, "{task}: {found}");

        if task == "cls" {
            let classes = json["classes"].as_array().unwrap();
            let scores: Vec<f64> = classes.iter().map(|c| c["score"].as_f64().unwrap()).collect();
            assert!(classes.len() == 5 && scores.is_sorted_by(|a, b| a >= b), "{json}");
            assert!(scores.iter().sum::<f64>() <= 1.0 + 1e-5 && json.get("detections").is_none());
            continue;
        }
        let detections = json["detections"].as_array().unwrap();
        assert!(!detections.is_empty() && json.get("classes").is_none(), "{task}");
        for d in detections {
            let fields: Vec<&str> =
                ["mask", "keypoints", "rotated"].into_iter().filter(|f| d.get(f).is_some()).collect();
            let numbers =
                |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
            let bbox = numbers(&d["bbox"]);
            assert!(bbox[0] >= 0.0 && bbox[2] <= width && bbox[1] >= 0.0 && bbox[3] <= height, "{task}: {bbox:?}");
            match task {
                "seg" => {
                    assert_eq!(fields, ["mask"]);
                    assert_eq!(numbers(&d["mask"]["size"]), [height, width]);
                    assert_eq!(numbers(&d["mask"]["counts"]).iter().sum::<f64>(), height * width);
                }
                "pose" => {
                    assert_eq!(fields, ["keypoints"]);
                    let points = d["keypoints"].as_array().unwrap();
                    assert!(points.len() == 17 && points.iter().all(|p| (0.0..=1.0).contains(&numbers(p)[2])));
                }
                _ => {
                    assert_eq!(fields, ["rotated"]);
                    let angle = d["rotated"]["angle"].as_f64().unwrap();
                    assert!((-0.79..2.36).contains(&angle), "{angle}");
                    assert_eq!((numbers(&d["rotated"]["centre"]).len(), numbers(&d["rotated"]["size"]).len()), (2, 2));
                }
            }
        }
    }
}
