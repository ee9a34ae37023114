//! Durations and sizes as people write them, and as weir writes them back.
//!
//! Owns the syntax. Never knows a range or a key: the reader of a key or a tunable does.

use std::time::Duration;

use crate::words::{plain, quoted};

/// Why a text is no value of its kind: what is wrong and the mend, ready to be located.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) what: String,
    pub(crate) mend: String,
}

impl Trouble {
    /// Both in one line, for the command line.
    pub(crate) fn line(&self) -> String {
        format!("{}: {}", self.what, self.mend)
    }

    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: mend.into(),
        }
    }
}

/// Units of time and their milliseconds, the largest first.
const TIME: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
/// Units of size and their bytes, the largest first.
const SIZE: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A duration: whole numbers with units, as `500ms`, `1s` or `1m30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Trouble> {
    if text.is_empty() {
        return Err(Trouble::new(
            "is empty",
            "write a number and its unit, such as 5s",
        ));
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_at_non_digit(rest);
        let (unit, after) = split_at_digit(after);
        if number.is_empty() {
            return Err(no_number(text));
        }
        if unit.is_empty() {
            return Err(Trouble::new(
                format!("has no unit ({})", quoted(text)),
                format!("write {0}s for seconds, or {0}ms for milliseconds", plain(text)),
            ));
        }
        if unit.starts_with('.') || unit.starts_with(',') {
            return Err(Trouble::new(
                format!("is not a whole number of its unit ({})", quoted(text)),
                "use the smaller unit, such as 1500ms",
            ));
        }
        let Some(&(_, scale)) = TIME.iter().find(|(name, _)| *name == unit) else {
            return Err(Trouble::new(
                format!("has an unknown unit, {}", quoted(unit)),
                "the units are ms, s, m, h and d, without spaces",
            ));
        };
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(scale))
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(|| Trouble::new(format!("is too long ({})", quoted(text)), "write a shorter one"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// A size: a whole number with a unit, as `512B`, `64KiB`, `1MiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, Trouble> {
    let (number, unit) = split_at_non_digit(text);
    if text.is_empty() {
        return Err(Trouble::new(
            "is empty",
            "write a number and its unit, such as 64KiB",
        ));
    }
    if number.is_empty() {
        return Err(no_number(text));
    }
    if unit.is_empty() {
        return Err(Trouble::new(
            format!("has no unit ({})", quoted(text)),
            format!("write {0}B for bytes, or {0}KiB", plain(number)),
        ));
    }
    let Some(&(_, scale)) = SIZE.iter().find(|(name, _)| *name == unit) else {
        let near = SIZE.iter().find(|(name, _)| {
            let first = |s: &str| s.bytes().next().map(|b| b.to_ascii_uppercase());
            first(name) == first(unit)
        });
        let mend = match near {
            Some((name, _)) if unit.len() <= 3 => format!("write {}{name}", plain(number)),
            Some(_) | None => "the units are B, KiB, MiB and GiB, without spaces".into(),
        };
        return Err(Trouble::new(
            format!("has an unknown unit, {}", quoted(unit)),
            mend,
        ));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale))
        .ok_or_else(|| Trouble::new(format!("is too large ({})", quoted(text)), "write a smaller one"))
}

/// The shortest exact form in one unit; what is under a millisecond is cut off.
pub(crate) fn show_duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    show(ms, &TIME, "s")
}

/// The shortest exact form in one unit.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE, "B")
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return format!("0{zero}");
    }
    units
        .iter()
        .find(|(_, scale)| value.is_multiple_of(*scale))
        .map_or_else(
            || value.to_string(),
            |(name, scale)| format!("{}{name}", value / scale),
        )
}

fn no_number(text: &str) -> Trouble {
    Trouble::new(
        format!("does not begin with a whole number ({})", quoted(text)),
        "write digits and a unit, without sign or spaces",
    )
}

fn split_at_non_digit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn split_at_digit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let cases: [(&str, u64); 8] = [
            ("0s", 0),
            ("500ms", 500),
            ("1s", 1000),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("007s", 7000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        let cases = [
            ("", "is empty; write a number and its unit, such as 5s"),
            (
                "5",
                "has no unit (`5`); write 5s for seconds, or 5ms for milliseconds",
            ),
            (
                "1m30",
                "has no unit (`1m30`); write 1m30s for seconds, or 1m30ms for milliseconds",
            ),
            (
                "1.5s",
                "is not a whole number of its unit (`1.5s`); use the smaller unit, such as 1500ms",
            ),
            (
                "5sec",
                "has an unknown unit, `sec`; the units are ms, s, m, h and d, without spaces",
            ),
            (
                "5 s",
                "has an unknown unit, ` s`; the units are ms, s, m, h and d, without spaces",
            ),
            (
                "-5s",
                "does not begin with a whole number (`-5s`); write digits and a unit, without sign or spaces",
            ),
            (
                "s",
                "does not begin with a whole number (`s`); write digits and a unit, without sign or spaces",
            ),
            (
                "99999999999999999999s",
                "is too long (`99999999999999999999s`); write a shorter one",
            ),
            (
                "999999999999999999d",
                "is too long (`999999999999999999d`); write a shorter one",
            ),
        ];
        for (text, expected) in cases {
            let Trouble { what, mend } = parse_duration(text).unwrap_err();
            assert_eq!(format!("{what}; {mend}"), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        let cases = [
            ("", "is empty; write a number and its unit, such as 64KiB"),
            ("64", "has no unit (`64`); write 64B for bytes, or 64KiB"),
            ("64k", "has an unknown unit, `k`; write 64KiB"),
            ("64KB", "has an unknown unit, `KB`; write 64KiB"),
            ("1gb", "has an unknown unit, `gb`; write 1GiB"),
            (
                "64 bytes",
                "has an unknown unit, ` bytes`; the units are B, KiB, MiB and GiB, without spaces",
            ),
            (
                "KiB",
                "does not begin with a whole number (`KiB`); write digits and a unit, without sign or spaces",
            ),
            (
                "99999999999GiB",
                "is too large (`99999999999GiB`); write a smaller one",
            ),
        ];
        for (text, expected) in cases {
            let Trouble { what, mend } = parse_size(text).unwrap_err();
            assert_eq!(format!("{what}; {mend}"), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_written_back_in_the_largest_exact_unit() {
        for text in ["0s", "1ms", "1500ms", "90s", "1m", "1h", "25h", "2d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }
}
