//! What the programs of runtimes answer: JSON in the formats of `trtexec`, which may be anything.
//!
//! `--exportTimes` gives a list of records with `latencyMs` (copy in, computation, copy out), `--exportProfile` one with a
//! count and then `name`, `averageMs` and, from version 8.5 on, `medianMs`; `--exportOutput` gives `name`, `dimensions`
//! (`1x84x8400`) and `values`. Keys beside these differ by version and are left alone.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The longest frame or layer that is taken for one, milliseconds.
const LONGEST_MS: f64 = 1e7;

/// The most layers of a network.
const MAX_LAYERS: usize = 100_000;

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "latencyMs")]
    latency_ms: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    name: Option<String>,
    average_ms: Option<f64>,
    median_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    dimensions: String,
    values: Vec<f32>,
}

/// Milliseconds of the frames of `networks` networks, the last `frames` of each: earlier ones may be of the warm-up.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn times(answer: &[u8], networks: usize, frames: usize) -> Result<Vec<Vec<f64>>, String> {
    let lists: Vec<Vec<Frame>> = values(answer)?;
    if lists.len() != networks {
        return Err(format!("times of {} networks, expected {networks}", lists.len()));
    }
    let of = |list: Vec<Frame>| {
        let times: Vec<f64> = list.iter().map(|frame| frame.latency_ms).collect();
        if times.len() < frames {
            return Err(format!("{} frames, expected {frames}", times.len()));
        }
        match times.iter().find(|ms| !(**ms > 0.0 && **ms < LONGEST_MS)) {
            Some(odd) => Err(format!("a frame of {odd} ms")),
            None => Ok(times[times.len() - frames..].to_vec()),
        }
    };
    lists.into_iter().map(of).collect()
}

/// The layers by name, milliseconds of a frame: the median, or the mean of versions that give no median.
///
/// # Errors
/// As [`times`].
pub(super) fn layers(answer: &[u8]) -> Result<Vec<(String, f64)>, String> {
    let mut lists: Vec<Vec<Layer>> = values(answer)?;
    let list = lists.pop().filter(|_| lists.is_empty()).ok_or("expected the profile of one network")?;
    if list.len() > MAX_LAYERS {
        return Err(format!("{} layers, expected at most {MAX_LAYERS}", list.len()));
    }
    let of = |layer: Layer| Some((layer.name?, layer.median_ms.or(layer.average_ms)?));
    let found: Vec<(String, f64)> = list.into_iter().filter_map(of).collect();
    match found.iter().find(|(_, ms)| !(*ms >= 0.0 && *ms < LONGEST_MS)) {
        Some((name, odd)) => Err(format!("the layer `{}` takes {odd} ms", name.escape_debug())),
        None if found.is_empty() => Err("a profile without layers".into()),
        None => Ok(found),
    }
}

/// The first output of a network for each of `images` images.
///
/// # Errors
/// As [`times`].
pub(super) fn outputs(answer: &[u8], images: usize) -> Result<Vec<Vec<f32>>, String> {
    let lists: Vec<Vec<Tensor>> = values(answer)?;
    if lists.len() != images {
        return Err(format!("outputs of {} images, expected {images}", lists.len()));
    }
    let of = |list: Vec<Tensor>| {
        let names: Vec<&str> = list.iter().map(|tensor| tensor.name.as_str()).collect();
        let at = names.iter().position(|name| *name == OUTPUT).ok_or_else(|| {
            let names: Vec<String> = names.iter().take(4).map(|name| name.escape_debug().to_string()).collect();
            format!("no `{OUTPUT}` among the outputs ({})", names.join(", "))
        })?;
        let tensor = list.into_iter().nth(at).ok_or("no output")?;
        let mut sides = tensor.dimensions.split('x').map(|side| side.trim().parse::<usize>().ok());
        let volume = sides.try_fold(1usize, |product, side| product.checked_mul(side?));
        if volume != Some(tensor.values.len()) {
            let (count, dimensions) = (tensor.values.len(), tensor.dimensions.escape_debug().to_string());
            return Err(format!("{count} values for the dimensions `{dimensions}`"));
        }
        Ok(tensor.values)
    };
    lists.into_iter().map(of).collect()
}

/// The output that detections, or the answers of a classifier, are in.
const OUTPUT: &str = "output0";

/// JSON values, one after the other.
fn values<T: DeserializeOwned>(answer: &[u8]) -> Result<Vec<T>, String> {
    serde_json::Deserializer::from_slice(answer).into_iter().collect::<Result<_, _>>().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_version_are_read() {
        let new = b"[\n  { \"startInMs\" : 0, \"inMs\" : 0.4, \"computeMs\" : 4.5, \"outMs\" : 0.2, \"latencyMs\" : 5.1 }\n, \
                    { \"latencyMs\" : 4.9, \"enqueueMs\" : 1 }\n, { \"latencyMs\" : 4.8 }\n]\n[{\"latencyMs\":1e1}, \
                    {\"latencyMs\":2,\"endToEndMs\":4}]";
        assert_eq!(times(new, 2, 2).unwrap(), [[4.9, 4.8], [10.0, 2.0]]);
        let refused = [
            (&b"[{\"latencyMs\":1}]"[..], 2, 1, "times of 1 networks"),
            (b"[{\"latencyMs\":1}]", 1, 2, "1 frames"),
            (b"[{\"latencyMs\":-1}]", 1, 1, "a frame of -1 ms"),
            (b"[{\"latencyMs\":nan}]", 1, 1, "expected"),
            (b"[{\"computeMs\":1}]", 1, 1, "latencyMs"),
            (b"[{\"latencyMs\":1}", 1, 1, "EOF"),
            (b"", 1, 1, "times of 0 networks"),
        ];
        for (answer, networks, frames, problem) in refused {
            let found = times(answer, networks, frames).unwrap_err();
            assert!(found.contains(problem), "{found}, expected {problem}");
        }
    }

    #[test]
    fn profiles_with_and_without_medians_are_read() {
        let old = b"[\n  { \"count\" : 625 }\n, { \"name\" : \"Conv_0 + PWN(Clip_3)\", \"timeMs\" : 36.6, \"averageMs\" : \
                    0.0587, \"percentage\" : 1.2 }\n, { \"name\" : \"b\", \"timeMs\" : 0, \"averageMs\" : 0.5, \"medianMs\" \
                    : 0.25, \"percentage\" : 0 }\n]\n";
        assert_eq!(layers(old).unwrap(), [("Conv_0 + PWN(Clip_3)".to_owned(), 0.0587), ("b".to_owned(), 0.25)]);
        for answer in [&b"[]"[..], b"", b"[] []", b"[{\"name\":\"a\",\"averageMs\":-1}]", b"{}"] {
            assert!(layers(answer).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn outputs_have_the_values_of_their_dimensions() {
        let one = r#"[ { "name" : "output1"
  , "dimensions" : "1x1"
  , "values" : [ 9 ]
  }
, { "name" : "output0"
  , "dimensions" : "1x2x2"
  , "values" : [ 1, 2.5, -3e-05, 4 ]
  }
]
"#;
        assert_eq!(outputs(one.repeat(2).as_bytes(), 2).unwrap(), [[1.0, 2.5, -3e-5, 4.0]; 2]);
        let refused = [
            (one.replace("1x2x2", "1x2x3"), "4 values for the dimensions"),
            (one.replace("1x2x2", "99999999999x99999999999"), "4 values for the dimensions"),
            (one.replace("output0", "other"), "no `output0`"),
            (one.replace("2.5", "nan"), "expected"),
            (one.repeat(2), "outputs of 2 images"),
        ];
        for (answer, problem) in refused {
            let found = outputs(answer.as_bytes(), 1).unwrap_err();
            assert!(found.contains(problem), "{found}, expected {problem}");
        }
    }
}
