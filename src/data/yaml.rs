//! `data.yaml`: where the images are and what the classes are called.

use super::shapes::{KeypointShape, LabelKind, LabelTask};
use super::{DataError, text};
use crate::files;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, SnippetMode, UserMessageFormatter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest description that is read, bytes.
const MAX_TEXT: u64 = 16 << 20;

/// The splits and the names that they go by.
const SPLITS: [(&str, &[&str]); 3] =
    [("train", &["train"]), ("val", &["val", "valid", "validation"]), ("test", &["test"])];

/// The keys we read; others, `download` among them, are ignored.
#[derive(Deserialize)]
struct Raw {
    path: Option<String>,
    #[serde(default)]
    train: Texts,
    #[serde(default)]
    val: Texts,
    #[serde(default)]
    valid: Texts,
    #[serde(default)]
    validation: Texts,
    #[serde(default)]
    test: Texts,
    nc: Option<usize>,
    names: Option<Names>,
    kpt_shape: Option<Vec<usize>>,
    flip_idx: Option<Vec<usize>>,
    channels: Option<usize>,
}

/// A text or a list of them. Read by hand: behind `untagged`, a class called `y` or `no` would be taken for a boolean,
/// and one called `7` for a number.
#[derive(Default)]
struct Texts(Vec<String>);

/// Names as a list, or as a map from class numbers.
enum Names {
    List(Vec<Option<String>>),
    Map(BTreeMap<usize, Option<String>>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Texts;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.into()]))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Texts, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Texts)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of names, or a map from class numbers to names")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Names, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Names::List)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Names, A::Error> {
                BTreeMap::deserialize(de::value::MapAccessDeserializer::new(map)).map(Names::Map)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A checked description.
pub(super) struct Description {
    pub(super) file: PathBuf,
    /// The folder that paths are relative to.
    pub root: PathBuf,
    /// `path:` and where that was looked for, where it is nowhere.
    pub(super) astray: Option<(String, [PathBuf; 2])>,
    pub(super) splits: BTreeMap<&'static str, Vec<String>>,
    /// Class names in class order.
    pub names: Vec<String>,
    /// How keypoints are shaped.
    pub keypoints: Option<KeypointShape>,
    /// Channels of the images.
    pub channels: Option<usize>,
}

impl Description {
    /// What the lines of the label files hold for a task.
    pub fn kind(&self, task: LabelTask) -> Result<LabelKind, DataError> {
        Ok(match (task, &self.keypoints) {
            (LabelTask::Detect | LabelTask::Classify, _) => LabelKind::Boxes,
            (LabelTask::Segment, _) => LabelKind::Outlines,
            (LabelTask::Obb, _) => LabelKind::Corners,
            (LabelTask::Pose, Some(shape)) => LabelKind::Keypoints { count: shape.count, dims: shape.dims },
            (LabelTask::Pose, None) => {
                let problem = "has no `kpt_shape`, which a pose model needs: for example `kpt_shape: [17, 3]`";
                return Err(DataError::Yaml { path: self.file.clone(), problem: problem.into() });
            }
        })
    }
}

/// The most keypoints of an object.
const MAX_KEYPOINTS: usize = 4096;

/// Checks `kpt_shape` and `flip_idx`.
fn keypoints(shape: Option<Vec<usize>>, flip: Option<Vec<usize>>) -> Result<Option<KeypointShape>, String> {
    let Some(shape) = shape else { return Ok(None) };
    let (count, dims) = match shape[..] {
        [count, dims] if (1..=MAX_KEYPOINTS).contains(&count) && (2..=3).contains(&dims) => (count, dims),
        _ => return Err(format!("`kpt_shape` is {shape:?}, expected the number of keypoints, and 2 or 3 values each")),
    };
    if let Some(flip) = &flip {
        let mut sorted = flip.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..count) {
            return Err(format!("`flip_idx` is {flip:?}, expected every number from 0 to {} once", count - 1));
        }
    }
    Ok(Some(KeypointShape { count, dims, flip }))
}

/// The name of a split that it is kept under here.
pub(super) fn canonical(split: &str) -> &str {
    SPLITS.iter().find(|(_, names)| names.contains(&split)).map_or(split, |(name, _)| name)
}

/// All names of a split.
pub(super) fn aliases(split: &str) -> Vec<&str> {
    SPLITS.iter().find(|(name, _)| *name == split).map_or(vec![split], |(_, names)| names.to_vec())
}

/// Reads and checks a description.
pub(super) fn read(file: &Path) -> Result<Description, DataError> {
    let fail = |problem: String| DataError::Yaml { path: file.into(), problem };
    let bytes = files::read(file, MAX_TEXT).map_err(|source| DataError::Io { path: file.into(), source })?;
    if bytes.trim_ascii().is_empty() {
        return Err(fail("is empty, expected the description of a dataset: `train`, `val` and `names`".into()));
    }
    let text = text::decode(file, &bytes)?;
    if text.contains('\u{fffd}') && std::str::from_utf8(&bytes).is_err() {
        return Err(fail("is not UTF-8 text".into()));
    }
    let raw: Raw = serde_saphyr::from_str(&text).map_err(|e| fail(explained(&e)))?;
    let nameless = |class: usize| {
        fail(format!(
            "`names`: class {class} has no name (null); put the name in quotes if that is what the class is called"
        ))
    };
    let named = |(class, name): (usize, Option<String>)| name.ok_or_else(|| nameless(class));
    let names: Vec<String> = match (raw.names, raw.nc) {
        (Some(Names::List(names)), _) => names.into_iter().enumerate().map(named).collect::<Result<_, _>>()?,
        (Some(Names::Map(map)), _) => {
            if let Some((position, (found, _))) =
                map.iter().enumerate().find(|(position, (found, _))| position != *found)
            {
                return Err(fail(format!(
                    "`names` has class {found} where class {position} was expected; they must run from 0 without gaps"
                )));
            }
            map.into_iter().map(named).collect::<Result<_, _>>()?
        }
        (None, Some(nc)) if nc <= 100_000 => (0..nc).map(|class| format!("class {class}")).collect(),
        (None, _) => return Err(fail("has neither `names` nor a sensible `nc`".into())),
    };
    if let Some(nc) = raw.nc.filter(|nc| *nc != names.len()) {
        return Err(fail(format!("`nc` is {nc}, but `names` has {} classes", names.len())));
    }
    let keypoints = keypoints(raw.kpt_shape, raw.flip_idx).map_err(&fail)?;
    if let Some(channels) = raw.channels.filter(|channels| ![1, 3].contains(channels)) {
        return Err(fail(format!(
            "`channels` is {channels}: images of several bands are not read, expected 3 (red, green, blue) or 1 (brightness)"
        )));
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    // `path` means the folder beside the file or, as ultralytics has it, one below the working folder.
    let places = raw.path.map(|path| ([folder.join(&path), path.as_str().into()], path));
    let astray = places.clone().filter(|(places, _)| !places.iter().any(|p| p.exists())).map(|(p, path)| (path, p));
    let root = places.map_or_else(|| folder.to_path_buf(), |(places, _)| first_there(places));
    let list = |texts: Texts| texts.0.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let val = [("val", list(raw.val)), ("valid", list(raw.valid)), ("validation", list(raw.validation))];
    let mut val = val.into_iter().filter(|(_, entries)| !entries.is_empty());
    let (first, second) = (val.next(), val.next());
    if let (Some((first, _)), Some((second, _))) = (&first, &second) {
        return Err(fail(format!("has both `{first}:` and `{second}:`, which mean the same split; keep one of them")));
    }
    let val = first.map(|(_, entries)| entries).unwrap_or_default();
    let splits = BTreeMap::from([("train", list(raw.train)), ("val", val), ("test", list(raw.test))]);
    Ok(Description { file: file.into(), root, astray, splits, names, keypoints, channels: raw.channels })
}

/// What is wrong with a description, for those who wrote it: the parser's own message is for programmers.
fn explained(error: &Error) -> String {
    let error = error.without_snippet();
    let line = error.location().map(|place| format!("line {}: ", place.line())).unwrap_or_default();
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{line}`{key}` stands there a second time; keep one of them")
        }
        Error::DuplicateMappingKey { key: None, .. } => format!("{line}a key stands there a second time"),
        Error::NullIntoString { .. } => format!("{line}has no value (null), expected a text"),
        other => {
            let options =
                serde_saphyr::render_options! { formatter: &UserMessageFormatter, snippets: SnippetMode::Off };
            format!("is not the description of a dataset: {}", other.render_with_options(options).trim())
        }
    }
}

/// The first of the places where something is, or the first of all.
pub(super) fn first_there<const N: usize>(places: [PathBuf; N]) -> PathBuf {
    let found = places.iter().position(|place| place.exists()).unwrap_or(0);
    places.into_iter().nth(found).unwrap_or_default()
}
