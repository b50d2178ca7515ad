//! Class names as identifiers of Rust, each another one whatever the names are.
//!
//! A name becomes upper camel case in ASCII: what is no letter and no digit separates words, and other scripts stand as
//! their code points (`été` is `UE9TUE9`). Such an identifier has no `_` in it. Where two names, or a name and a keyword,
//! would be one, each of them gets `_` and the number of its class behind it, which nothing else ends with.

use std::collections::HashMap;

/// The longest identifier before its number, bytes.
const MAX_LENGTH: usize = 64;

/// An identifier for every name, in their order.
pub fn of(names: &[String]) -> Vec<String> {
    let plain: Vec<String> = names.iter().map(|name| camel_case(name)).collect();
    let mut count: HashMap<&str, usize> = HashMap::new();
    plain.iter().for_each(|name| *count.entry(name).or_default() += 1);
    let unique = |name: &String| count.get(name.as_str()) == Some(&1) && name != "Self";
    let identifier = |(class, name): (usize, &String)| {
        if unique(name) { name.clone() } else { format!("{name}_{class}") }
    };
    plain.iter().enumerate().map(identifier).collect()
}

/// A name in upper camel case, ASCII letters and digits only, with a letter first.
fn camel_case(name: &str) -> String {
    let mut out = String::new();
    let mut starts = true;
    for c in name.chars() {
        if out.len() >= MAX_LENGTH {
            break;
        }
        match c {
            c if c.is_ascii_alphanumeric() => {
                out.push(if starts { c.to_ascii_uppercase() } else { c });
                starts = false;
            }
            c if c.is_alphanumeric() => {
                out.push_str(&format!("U{:X}", u32::from(c)));
                starts = true;
            }
            _ => starts = true,
        }
    }
    if out.starts_with(|c: char| c.is_ascii_alphabetic()) { out } else { format!("Class{out}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_become_identifiers_that_can_be_read() {
        let cases = [
            ("person", "Person"),
            ("traffic light", "TrafficLight"),
            ("hot-dog", "HotDog"),
            ("T-shirt (XL)", "TShirtXL"),
            ("2 wheels", "Class2Wheels"),
            ("", "Class_5"),
            ("été", "UE9TUE9"),
            ("汽车", "U6C7DU8F66"),
            ("match", "Match"),
            // A second one without a letter.
            ("\u{202e}\n\"", "Class_9"),
        ];
        let names: Vec<String> = cases.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(of(&names), cases.map(|(_, expected)| expected));
        assert_eq!(of(&["self".into(), "Self ".into()]), ["Self_0", "Self_1"]);
        assert_eq!(of(&["self".into()]), ["Self_0"]);
    }

    #[test]
    fn no_two_names_get_one_identifier() {
        let long = "x".repeat(500);
        let mut names: Vec<String> =
            ["a", "A", "a_", "A_0", "A 0", "a0", "A0", "_", "-", "é", "e\u{301}", "UE9", "0", "Class0"]
                .map(str::to_owned)
                .to_vec();
        names.extend([long.clone(), long + "y"]);
        let identifiers = of(&names);
        assert_eq!(identifiers.iter().collect::<HashSet<_>>().len(), names.len(), "{identifiers:?}");
        for identifier in identifiers {
            let part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            assert!(identifier.bytes().all(part) && identifier.as_bytes()[0].is_ascii_alphabetic(), "{identifier}");
        }
    }
}
