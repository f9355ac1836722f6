//! Formats numbers for readers. A value that is not a number becomes a dash.

/// The text in place of a missing figure.
pub const NONE: &str = "–";

/// `12345` as `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One decimal: `53.1`.
pub fn decimal(number: f64) -> String {
    if !number.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{number:.1}");
    if text == "-0.0" {
        "0.0".to_owned()
    } else {
        text.replace('-', "\u{2212}")
    }
}

/// One decimal, or a dash.
pub fn figure(number: Option<f64>) -> String {
    number.map_or_else(|| NONE.to_owned(), decimal)
}

/// A difference with its sign: `+37.1`, `−2.3`, `0.0`.
pub fn points(difference: f64) -> String {
    let text = decimal(difference);
    if difference > 0.0 && text != "0.0" && text != NONE {
        format!("+{text}")
    } else {
        text
    }
}

/// A duration: `0.42 s`, `41.2 s`, `5 min 12 s`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return NONE.to_owned();
    }
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, rest) => format!("{minutes} min {rest:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// A size in decimal units: `512 B`, `84.2 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `part` of `whole` in percent; `None` if `whole` is 0.
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// At most `limit` characters; a longer text ends with an ellipsis.
pub fn clipped(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1234567), "1,234,567");
    }

    #[test]
    fn differences_carry_their_sign_and_zero_none() {
        assert_eq!(points(37.06), "+37.1");
        assert_eq!(points(-2.31), "\u{2212}2.3");
        assert_eq!(points(0.04), "0.0");
        assert_eq!(points(-0.04), "0.0");
        assert_eq!(points(f64::NAN), NONE);
        assert_eq!(points(f64::INFINITY), NONE);
    }

    #[test]
    fn times_and_sizes_change_their_unit() {
        assert_eq!(seconds(0.424), "0.42 s");
        assert_eq!(seconds(41.23), "41.2 s");
        assert_eq!(seconds(312.4), "5 min 12 s");
        assert_eq!(seconds(99.97), "1 min 40 s");
        assert_eq!(seconds(7260.0), "2 h 01 min");
        assert_eq!(seconds(f64::NAN), NONE);
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(84_200_000), "84.2 MB");
        assert_eq!(bytes(999_999_999), "1.0 GB");
    }

    #[test]
    fn texts_are_clipped_between_characters() {
        assert_eq!(clipped("äöü", 3), "äöü");
        assert_eq!(clipped("äöü", 2), "äö…");
    }
}
