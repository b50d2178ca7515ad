//! The top-level layers of the YOLO families, as the modules of a checkpoint show them: classes and wiring.

use super::family::Family;

/// Class and inputs of a top-level layer; a table's entry reads `CLASS=INPUTS`, other classes that are meant as well
/// behind a bar. Without inputs it reads the layer before, `-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// The classes that it may have; several names where a scale or a release chooses.
    pub classes: &'static str,
    pub inputs: Vec<i64>,
}

impl Layer {
    fn new(entry: &'static str) -> Self {
        let (classes, inputs) = entry.split_once('=').unwrap_or((entry, "-1"));
        Self { classes, inputs: inputs.split(',').filter_map(|input| input.parse().ok()).collect() }
    }

    /// Whether a class is one that it may have.
    pub fn is(&self, class: &str) -> bool {
        self.classes.split('|').any(|one| one == class)
    }
}

const BACKBONE_11: &str = "Conv Conv C3k2 Conv C3k2 Conv C3k2 Conv C3k2";
const NECK_11: &str =
    "Upsample Concat=-1,6 C3k2 Upsample Concat=-1,4 C3k2 Conv Concat=-1,13 C3k2 Conv Concat=-1,10 C3k2";
const BACKBONE_8: &str = "Conv Conv C2f Conv C2f Conv C2f Conv C2f";
const NECK_8: &str = "Upsample Concat=-1,6 C2f Upsample Concat=-1,4 C2f Conv Concat=-1,12 C2f Conv Concat=-1,9 C2f";
const ALL_12: &str = "Conv Conv C3k2 Conv C3k2 Conv A2C2f Conv A2C2f \
    Upsample Concat=-1,6 A2C2f Upsample Concat=-1,4 A2C2f Conv Concat=-1,11 A2C2f Conv Concat=-1,8 C3k2";
const ALL_10: &str = "Conv Conv C2f Conv C2f SCDown C2f|C2fCIB SCDown C2f|C2fCIB SPPF PSA \
    Upsample Concat=-1,6 C2f|C2fCIB Upsample Concat=-1,4 C2f Conv Concat=-1,13 C2f|C2fCIB SCDown Concat=-1,10 C2fCIB";
const ALL_9: &str = "Conv Conv ELAN1|RepNCSPELAN4 AConv|ADown RepNCSPELAN4 AConv|ADown RepNCSPELAN4 AConv|ADown \
    RepNCSPELAN4 SPPELAN Upsample Concat=-1,6 RepNCSPELAN4 Upsample Concat=-1,4 RepNCSPELAN4 AConv|ADown \
    Concat=-1,12 RepNCSPELAN4 AConv|ADown Concat=-1,9 RepNCSPELAN4";
const ALL_9E: &str = "Identity|Silence Conv Conv RepNCSPELAN4 ADown RepNCSPELAN4 ADown RepNCSPELAN4 ADown \
    RepNCSPELAN4 CBLinear=1 CBLinear=3 CBLinear=5 CBLinear=7 CBLinear=9 Conv=0 CBFuse=10,11,12,13,14,-1 Conv \
    CBFuse=11,12,13,14,-1 RepNCSPELAN4 ADown CBFuse=12,13,14,-1 RepNCSPELAN4 ADown CBFuse=13,14,-1 RepNCSPELAN4 ADown \
    CBFuse=14,-1 RepNCSPELAN4 SPPELAN Upsample Concat=-1,25 RepNCSPELAN4 Upsample Concat=-1,22 RepNCSPELAN4 ADown \
    Concat=-1,32 RepNCSPELAN4 ADown Concat=-1,29 RepNCSPELAN4";
const ALL_5: &str = "Conv Conv C3 Conv C3 Conv C3 Conv C3 SPPF Conv Upsample Concat=-1,6 C3 Conv Upsample Concat=-1,4 C3 \
    Conv Concat=-1,14 C3 Conv Concat=-1,10 C3";
const ALL_6: &str = "Conv Conv Conv|Sequential Conv Conv|Sequential Conv Conv|Sequential Conv Conv|Sequential SPPF Conv \
    ConvTranspose2d Concat=-1,6 Conv Conv|Sequential Conv ConvTranspose2d Concat=-1,4 Conv Conv|Sequential Conv \
    Concat=-1,15 Conv Conv|Sequential Conv Concat=-1,10 Conv Conv|Sequential";

/// All top-level layers of a network of a family for a task.
pub(super) fn layers(family: Family, task: &str) -> Vec<Layer> {
    let classify = task == "classify";
    let (tables, levels): (&[&'static str], &'static str) = match family {
        Family::Yolov8 if classify => (&[BACKBONE_8], ""),
        // YOLO11 classifies behind its attention.
        Family::Yolo11 | Family::Yolo26 if classify => (&[BACKBONE_11, "C2PSA"], ""),
        Family::Yolov8 => (&[BACKBONE_8, "SPPF", NECK_8], "15,18,21"),
        Family::Yolo12 => (&[ALL_12], "14,17,20"),
        Family::Yolov10 => (&[ALL_10], "16,19,22"),
        Family::Yolov9 => (&[ALL_9], "15,18,21"),
        Family::Yolov9e => (&[ALL_9E], "35,38,41"),
        Family::Yolov5u => (&[ALL_5], "17,20,23"),
        Family::Yolov6 => (&[ALL_6], "19,23,27"),
        _ => (&[BACKBONE_11, "SPPF C2PSA", NECK_11], "16,19,22"),
    };
    let head = match (family, task) {
        (_, "classify") => "Classify",
        (Family::Yolo26, "segment") => "Segment26",
        (Family::Yolo26, "pose") => "Pose26",
        (Family::Yolo26, "obb") => "OBB26",
        (Family::Yolov10, _) => "v10Detect",
        (_, "segment") => "Segment",
        (_, "pose") => "Pose",
        (_, "obb") => "OBB",
        _ => "Detect",
    };
    let mut all: Vec<Layer> = tables.iter().flat_map(|table| table.split_ascii_whitespace()).map(Layer::new).collect();
    let inputs = if classify { "-1" } else { levels };
    let inputs = inputs.split(',').filter_map(|input| input.parse().ok()).collect();
    all.push(Layer { classes: head, inputs });
    all
}

/// The family whose layers are most like those of a network, given the class of each layer and whether the boxes of its
/// head are plain distances. That it is this family is for the caller to check.
pub(super) fn most_like(class: &dyn Fn(usize) -> Option<String>, plain: bool, task: &str) -> Family {
    let alike = |family: &Family| {
        let layers = layers(*family, task);
        let same = layers.iter().enumerate().filter(|(at, layer)| class(*at).is_some_and(|is| layer.is(&is))).count();
        // YOLO11 and YOLO26 differ inside their layers only.
        let right = (*family == Family::Yolo26) == plain;
        let whole = class(layers.len()).is_none();
        (same, right, whole, layers.len())
    };
    Family::YOLO
        .into_iter()
        .max_by_key(|family| {
            let (same, right, whole, count) = alike(family);
            (2 * same + usize::from(whole), right, std::cmp::Reverse(count))
        })
        .unwrap_or(Family::Yolo11)
}

/// A network that no builder knows, by the class of its model or of one of its layers.
pub(super) fn foreign(class: &str) -> Option<&'static str> {
    Some(match class {
        "RTDETRDetectionModel" | "RTDETRDecoder" => "RT-DETR",
        "WorldModel" | "WorldDetect" => "YOLO-World",
        "YOLOEModel" | "YOLOESegModel" | "YOLOEDetect" | "YOLOESegment" | "YOLOESegment26" => "YOLOE",
        "IDetect" | "IAuxDetect" => "YOLOv7",
        "NASDetectionModel" => "YOLO-NAS",
        "SemanticSegmentationModel" | "SemanticSegment" => "semantic segmentation",
        _ => return None,
    })
}
