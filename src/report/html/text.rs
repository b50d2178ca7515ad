//! Figures and names as HTML text. Names come from untrusted files, so every one is escaped.

/// The text with everything that HTML would read as markup spelled out, and control characters made visible.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// What stands where nothing was measured.
pub const NOTHING: &str = "\u{2013}";

/// A number with a fixed number of decimals.
pub fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NOTHING.into();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| matches!(b, b'0' | b'.')) => digits.into(),
        Some(digits) => format!("\u{2212}{digits}"),
        None => text,
    }
}

/// A number with its sign.
pub fn signed(value: f64, decimals: usize) -> String {
    let text = number(value, decimals);
    let plus = value > 0.0 && text.bytes().any(|b| matches!(b, b'1'..=b'9'));
    if plus { format!("+{text}") } else { text }
}

/// The change from one quantity to another in per cent.
pub fn change(from: f64, to: f64) -> String {
    if from == 0.0 { NOTHING.into() } else { format!("{} %", signed(100.0 * (to / from - 1.0), 1)) }
}

/// Bytes in MiB.
pub fn mib(bytes: f64) -> String {
    format!("{} MiB", number(bytes / f64::from(1 << 20), 2))
}

/// Milliseconds.
pub fn millis(value: f64) -> String {
    format!("{} ms", number(value, if value.abs() < 10.0 { 2 } else { 1 }))
}

/// A count with three figures and its unit prefix.
pub fn count(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, " G"),
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e3 => (value / 1e3, " k"),
        _ => return number(value, 0),
    };
    format!("{}{prefix}", number(scaled, if scaled.abs() < 100.0 { 2 } else { 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let cases = [
            (number(-0.0004, 3), "0.000"),
            (number(-1.5, 1), "\u{2212}1.5"),
            (number(f64::NAN, 1), NOTHING),
            (signed(0.079, 3), "+0.079"),
            (signed(0.0, 3), "0.000"),
            (change(20.0, 15.0), "\u{2212}25.0 %"),
            (change(0.0, 15.0), NOTHING),
            (mib(1.5 * 1048576.0), "1.50 MiB"),
            (millis(9.876), "9.88 ms"),
            (millis(27.04), "27.0 ms"),
            (count(2_624_080.0), "2.62 M"),
            (count(821_500_000.0), "821.5 M"),
            (count(3_240_000_000.0), "3.24 G"),
            (count(999.0), "999"),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn markup_and_controls_are_spelled_out() {
        assert_eq!(escape("<b a='1'>&\"\u{0}é"), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;\u{fffd}é");
    }
}
