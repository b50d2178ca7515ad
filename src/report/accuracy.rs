//! The accuracy of a stage alone, as JSON: a stage that was measured in another runtime has no other figure.

use super::Stage;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The keys of a stage that say how accurate a model is.
#[derive(Serialize, Deserialize)]
struct Accuracy<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map50_95: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map50: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map50_95_ultralytics: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    per_class: Cow<'a, BTreeMap<String, f64>>,
    recall: Cow<'a, BTreeMap<String, f64>>,
}

/// Writes the figures of the accuracy.
///
/// # Errors
/// Those of the serialiser.
pub fn serialize<S: Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    let number = |figure: f64| (!figure.is_nan()).then_some(figure);
    Accuracy {
        map50_95: number(stage.map50_95),
        map50: number(stage.map50),
        map50_95_ultralytics: number(stage.map50_95_ultralytics),
        accuracy: stage.accuracy,
        per_class: Cow::Borrowed(&stage.per_class),
        recall: Cow::Borrowed(&stage.recall),
    }
    .serialize(serializer)
}

/// Reads them; every other figure of the stage is its default.
///
/// # Errors
/// Those of the deserialiser.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Stage, D::Error> {
    let found = Accuracy::deserialize(deserializer)?;
    Ok(Stage {
        map50_95: found.map50_95.unwrap_or(f64::NAN),
        map50: found.map50.unwrap_or(f64::NAN),
        map50_95_ultralytics: found.map50_95_ultralytics.unwrap_or(f64::NAN),
        accuracy: found.accuracy,
        per_class: found.per_class.into_owned(),
        recall: found.recall.into_owned(),
        ..Stage::default()
    })
}
