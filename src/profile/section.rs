//! Reads one table of a TOML file key by key, and collects what is wrong with it.
//!
//! The keys that were asked for are the schema: what is left over at the end is unknown.

use super::{Problem, UnitError};
use crate::size::{ImageSize, MAX_SIDE};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The most problems that are reported of one file: nobody repairs more at once, and finding the line of each one takes
/// a look at the whole text before it.
const MOST: usize = 200;

/// Collects problems of one file, the first [`MOST`] of them.
pub(super) struct Problems<'t> {
    path: &'t Path,
    text: &'t str,
    pub(super) found: Vec<Problem>,
    /// Section and key of every value that was read, right or wrong.
    pub(super) keys: Vec<(&'static str, &'static str)>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, found: Vec::new(), keys: Vec::new() }
    }

    /// A problem at a place of the text, or of the whole file.
    pub(super) fn add(&mut self, span: Option<Range<usize>>, message: String, help: Option<String>) {
        if self.found.len() >= MOST {
            return;
        }
        let (line, column) = span.map_or((0, 0), |span| place(self.text, span.start));
        self.found.push(Problem { path: self.path.into(), line, column, message, help });
    }
}

/// Line and column of a byte, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}

/// One table, or one that is not there: then every key is absent.
pub(super) struct Section<'p, 'a, 't> {
    problems: &'p mut Problems<'t>,
    name: &'static str,
    table: Option<&'a DeTable<'t>>,
    asked: Vec<&'static str>,
}

impl<'p, 'a, 't> Section<'p, 'a, 't> {
    pub(super) fn new(problems: &'p mut Problems<'t>, name: &'static str, table: Option<&'a DeTable<'t>>) -> Self {
        Self { problems, name, table, asked: Vec::new() }
    }

    /// The value of a key, through a conversion that says what it would rather have.
    fn get<T>(&mut self, key: &'static str, convert: impl FnOnce(&DeValue) -> Result<T, String>) -> Option<T> {
        self.asked.push(key);
        let value = self.table?.get(key)?;
        self.problems.keys.push((self.name, key));
        match convert(value.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                let place = if self.name.is_empty() { String::new() } else { format!("[{}] ", self.name) };
                self.problems.add(Some(value.span()), format!("{place}`{key}` {message}"), None);
                None
            }
        }
    }

    /// A table of this table.
    pub(super) fn table(&mut self, key: &'static str) -> Option<&'a DeTable<'t>> {
        let table = self.table;
        self.get(key, |value| expect(value, "a table", value.as_table().map(|_| ())))?;
        table?.get(key)?.get_ref().as_table()
    }

    /// Text, not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key, |value| match value.as_str() {
            Some("") => Err("is empty".into()),
            text => expect(value, "text in quotes", text.map(str::to_owned)),
        })
    }

    /// Text that is one of a few.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.get(key, |value| {
            let text = expect(value, "text in quotes", value.as_str())?;
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
                let guess = nearest(text, &names).map(|name| format!("; did you mean `{name}`?"));
                format!("is `{text}`, expected one of {}{}", names.join(", "), guess.unwrap_or_default())
            })
        })
    }

    /// A list of texts, such as the arguments of a command.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.get(key, |value| {
            let texts =
                value.as_array().and_then(|a| a.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect());
            match expect(value, "a list of texts", texts)? {
                texts if Vec::is_empty(&texts) => Err("is empty".into()),
                texts => Ok(texts),
            }
        })
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.get(key, |value| expect(value, "true or false", value.as_bool()))
    }

    /// An integer of a range.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.get(key, |value| {
            let digits = value.as_integer().map(|i| (i.as_str(), i.radix()));
            let (digits, radix) = expect(value, "an integer", digits)?;
            let number = u64::from_str_radix(digits, radix).ok().filter(|number| range.contains(number));
            number.ok_or_else(|| format!("is {digits}, expected an integer from {} to {}", range.start(), range.end()))
        })
    }

    /// An integer of a range, as a count.
    pub(super) fn count(&mut self, key: &'static str, range: RangeInclusive<usize>) -> Option<usize> {
        let range = *range.start() as u64..=*range.end() as u64;
        self.integer(key, range).map(|number| number as usize)
    }

    /// The size of an image: one side of a square, or `[height, width]`.
    pub(super) fn size(&mut self, key: &'static str) -> Option<ImageSize> {
        self.get(key, size)
    }

    /// A list of sizes.
    pub(super) fn sizes(&mut self, key: &'static str) -> Option<Vec<ImageSize>> {
        self.get(key, |value| match value.as_array() {
            Some(list) if list.is_empty() => Err("is empty".into()),
            Some(list) => list.iter().map(|value| size(value.get_ref())).collect(),
            None => expect(value, "a list of sizes, such as [[384, 640], 320]; a single one is `imgsz`", None),
        })
    }

    /// A number with a unit.
    pub(super) fn number<T>(&mut self, key: &'static str, unit: impl Fn(f64) -> Result<T, UnitError>) -> Option<T> {
        self.get(key, |value| number(value, &unit))
    }

    /// A number with a unit, or a text that means something of its own.
    pub(super) fn number_or_text<T>(
        &mut self,
        key: &'static str,
        unit: impl Fn(f64) -> Result<T, UnitError>,
        of_text: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.get(key, |value| match value.as_str() {
            Some(text) => of_text(text),
            None => number(value, &unit),
        })
    }

    /// As many numbers with a unit as are asked for.
    pub(super) fn list<T, const N: usize>(
        &mut self,
        key: &'static str,
        unit: impl Fn(f64) -> Result<T, UnitError>,
    ) -> Option<[T; N]> {
        self.get(key, |value| {
            let list = expect(value, "a list of numbers", value.as_array())?;
            let numbers = list.iter().map(|value| number(value.get_ref(), &unit)).collect::<Result<Vec<T>, _>>()?;
            numbers.try_into().map_err(|all: Vec<T>| format!("is a list of {}, expected {N} numbers", all.len()))
        })
    }

    /// Numbers with a unit, by names that the user chooses.
    pub(super) fn numbers<T>(
        &mut self,
        key: &'static str,
        unit: impl Fn(f64) -> Result<T, UnitError>,
    ) -> Option<BTreeMap<String, T>> {
        self.get(key, |value| {
            let table = expect(value, "a table of numbers", value.as_table())?;
            let one = |(name, value): (&Spanned<DeString>, &Spanned<DeValue>)| {
                let name: &str = name.get_ref();
                let number = number(value.get_ref(), &unit).map_err(|problem| format!("of `{name}` {problem}"))?;
                Ok((name.to_owned(), number))
            };
            table.iter().map(one).collect()
        })
    }

    /// Whether a key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports that a key is missing which another value makes necessary.
    pub(super) fn missing(&mut self, key: &'static str, because: &str) {
        if !self.has(key) {
            let message = format!("[{}] `{key}` is missing: {because}", self.name);
            self.problems.add(None, message, None);
        }
    }

    /// Reports a value that others forbid.
    pub(super) fn refuse(&mut self, key: &str, message: String) {
        let span = self.table.and_then(|table| table.get(key)).map(Spanned::span);
        self.problems.add(span, format!("[{}] `{key}` {message}", self.name), None);
    }

    /// Reports the keys that nobody asked for. `elsewhere` lists keys of other sections, to say where a key belongs.
    pub(super) fn close(self, elsewhere: &[(&str, &str)]) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let (what, place) = match self.name {
                "" => ("section or key", "a profile".to_owned()),
                name => ("key", format!("[{name}]")),
            };
            let owner = elsewhere.iter().find(|(_, other)| *other == name).map(|(section, _)| *section);
            let guess = nearest(name, &self.asked).map(|guess| format!("did you mean `{guess}`?"));
            let moved = owner.map(|section| format!("it belongs to [{section}]"));
            let all = || Some(format!("it has {}", self.asked.join(", ")));
            let help = moved.or(guess).or_else(all);
            self.problems.add(Some(key.span()), format!("unknown {what} `{name}` in {place}"), help);
        }
    }
}

fn size(value: &DeValue) -> Result<ImageSize, String> {
    let side = |value: &DeValue| {
        let digits = value.as_integer().map(|i| (i.as_str(), i.radix()));
        let (digits, radix) = expect(value, "an integer, or [height, width]", digits)?;
        let number = usize::from_str_radix(digits, radix).ok().filter(|number| (1..=MAX_SIDE).contains(number));
        number.ok_or_else(|| format!("is {digits}, expected an integer from 1 to {MAX_SIDE}"))
    };
    let Some(list) = value.as_array() else { return side(value).map(ImageSize::square) };
    let sides: Vec<&DeValue> = list.iter().map(Spanned::get_ref).collect();
    match sides[..] {
        [height, width] if !height.is_array() && !width.is_array() => {
            Ok(ImageSize { height: side(height)?, width: side(width)? })
        }
        _ => Err(format!(
            "is a list of {}, expected one side of a square or [height, width]; sizes to choose from are \
             `sizes = [[384, 640], 320]`",
            sides.len()
        )),
    }
}

fn number<T>(value: &DeValue, unit: impl Fn(f64) -> Result<T, UnitError>) -> Result<T, String> {
    let number = match value {
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|i| i as f64),
        DeValue::Float(f) => f.as_str().parse().ok(),
        _ => None,
    };
    unit(expect(value, "a number", number)?).map_err(|e| e.to_string())
}

/// The value, or what it is and what it should be.
fn expect<T>(value: &DeValue, expected: &str, converted: Option<T>) -> Result<T, String> {
    converted.ok_or_else(|| format!("is {} {}, expected {expected}", article(value.type_str()), value.type_str()))
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The name that was probably meant.
pub fn nearest<'n>(typed: &str, names: &[&'n str]) -> Option<&'n str> {
    let plain = |name: &str| name.to_lowercase().replace(['_', ' '], "-");
    let typed = plain(typed);
    let near = |name: &&str| strsim::jaro_winkler(&typed, &plain(name));
    let best = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(best) > 0.8).then_some(*best)
}
