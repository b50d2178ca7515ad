//! Changes to JSON that leave it JSON: what gets past the parser.

use crate::mutate::Rng;
use serde_json::{Value, json};

/// Values that somebody forgot about.
fn odd(rng: &mut Rng) -> Value {
    let all = [
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(3),
        json!(255),
        json!(4_294_967_295u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(-1e300),
        json!(1e-320),
        json!(0.5),
        json!(null),
        json!(true),
        json!(""),
        json!("\u{1b}[31m\u{0}\u{202e}"),
        json!("x".repeat(5000)),
        json!([]),
        json!({}),
        json!([0]),
        json!([1, 1]),
        json!(65536),
        json!(1_000_000),
    ];
    let at = rng.below(all.len());
    all.into_iter().nth(at).unwrap_or_default()
}

/// Changes a few values anywhere: to odd ones, to each other, taken out, or written more often.
pub fn mutate(value: &mut Value, rng: &mut Rng) {
    for _ in 0..1 << rng.below(3) {
        let mut count = 0;
        visit(value, &mut |_| count += 1);
        let (chosen, other) = (rng.below(count), rng.below(count));
        let mut copy = Value::Null;
        at(value, other, &mut |found| copy = found.clone());
        if copy.to_string().len() > 100_000 {
            copy = Value::Null;
        }
        at(value, chosen, &mut |found| change(found, copy.clone(), rng));
    }
}

fn change(found: &mut Value, copy: Value, rng: &mut Rng) {
    match (rng.below(8), &mut *found) {
        (0, Value::Array(items)) => {
            let at = rng.below(items.len());
            if at < items.len() {
                items.remove(at);
            }
        }
        (1 | 2, Value::Array(items)) if !items.is_empty() => {
            let (item, count) = (items[rng.below(items.len())].clone(), [1, 2, 100, 5000][rng.below(4)]);
            let place = rng.below(items.len() + 1);
            items.splice(place..place, std::iter::repeat_n(item, count));
        }
        (3, Value::Array(items)) if items.len() > 1 => {
            let (a, b) = (rng.below(items.len()), rng.below(items.len()));
            items.swap(a, b);
        }
        (4, Value::Object(fields)) if !fields.is_empty() => {
            let key = fields.keys().nth(rng.below(fields.len())).cloned().unwrap_or_default();
            fields.remove(&key);
        }
        (5, Value::Number(number)) => {
            let near = [1.0, -1.0, 0.5, -0.5][rng.below(4)];
            let value = number.as_f64().unwrap_or(0.0);
            *found = if value.fract() == 0.0 && rng.below(2) == 0 {
                json!(value as i64 + near as i64)
            } else {
                json!(value * 2.0 + near)
            };
        }
        (6, _) => *found = copy,
        _ => *found = odd(rng),
    }
}

/// Every value, outer ones first.
fn visit(value: &mut Value, f: &mut dyn FnMut(&mut Value)) {
    f(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, f)),
        Value::Object(fields) => fields.values_mut().for_each(|item| visit(item, f)),
        _ => {}
    }
}

/// The value with a number in the order of [`visit`].
fn at(value: &mut Value, number: usize, f: &mut dyn FnMut(&mut Value)) {
    fn walk(value: &mut Value, left: &mut usize, f: &mut dyn FnMut(&mut Value)) -> bool {
        if *left == 0 {
            f(value);
            return true;
        }
        *left -= 1;
        match value {
            Value::Array(items) => items.iter_mut().any(|item| walk(item, left, f)),
            Value::Object(fields) => fields.values_mut().any(|item| walk(item, left, f)),
            _ => false,
        }
    }
    let mut left = number;
    walk(value, &mut left, f);
}
