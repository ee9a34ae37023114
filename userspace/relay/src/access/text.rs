//! Numbers, dates and addresses as text, put straight behind a record.
//!
//! `core::fmt` takes about half a microsecond for a record, a twentieth of all that a small request costs. What is rare
//! (IPv6 addresses) still goes through it.

use std::{
    cell::Cell,
    io::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

const DIGITS: &[u8; 10] = b"0123456789";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The digits of a number's decimal form are at most this many.
const MOST: usize = 20;

/// The last microsecond of the year 9999.
const LATEST: Duration = Duration::from_micros(253_402_300_799_999_999);

/// A whole number. Short ones, which most are, are written by stores of a known width, without a call to `memcpy`.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    let digit = |unit: u64| b'0' + (number / unit % 10) as u8;
    match number {
        0..10 => out.push(digit(1)),
        10..100 => out.extend_from_slice(&[digit(10), digit(1)]),
        100..1_000 => out.extend_from_slice(&[digit(100), digit(10), digit(1)]),
        1_000..10_000 => out.extend_from_slice(&[digit(1_000), digit(100), digit(10), digit(1)]),
        10_000..100_000 => {
            out.extend_from_slice(&[digit(10_000), digit(1_000), digit(100), digit(10), digit(1)]);
        }
        _ => padded(out, number, 1),
    }
}

/// A whole number of at least `width` digits.
#[inline]
pub(super) fn padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut text = [b'0'; MOST];
    let mut at = MOST;
    for place in text.iter_mut().rev() {
        if number == 0 {
            break;
        }
        if let Some(digit) = DIGITS.get((number % 10) as usize) {
            *place = *digit;
        }
        number /= 10;
        at -= 1;
    }
    let from = at.min(MOST.saturating_sub(width));
    out.extend_from_slice(text.get(from..).unwrap_or_default());
}

/// A time in whole microseconds, with its unit; a dash if there is none.
#[inline]
pub(super) fn micros(out: &mut Vec<u8>, took: Option<Duration>) {
    match took {
        Some(took) => {
            number(out, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            out.extend_from_slice(b"us");
        }
        None => out.push(b'-'),
    }
}

/// A date by RFC 3339 up to its whole second.
type Second = [u8; "0000-00-00T00:00:00".len()];

thread_local! {
    /// The second that was written last, since 1970, and its text: a busy worker writes thousands of records in one.
    static LAST: Cell<(u64, Second)> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

/// A date by RFC 3339, in UTC, to the microsecond.
pub(super) fn date(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // What comes later has no form.
    let since = since.min(LATEST);
    let text = match LAST.get() {
        (second, text) if second == since.as_secs() => text,
        _ => {
            let text = second(since.as_secs());
            LAST.set((since.as_secs(), text));
            text
        }
    };
    out.extend_from_slice(&text);
    out.push(b'.');
    padded(out, since.subsec_micros().into(), 6);
    out.push(b'Z');
}

/// The text of a second since 1970, up to the year 9999.
fn second(since: u64) -> Second {
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let mut text = Vec::with_capacity(size_of::<Second>());
    padded(&mut text, year, 4);
    for (mark, part) in [
        (b'-', month),
        (b'-', day),
        (b'T', second / 3600),
        (b':', second / 60 % 60),
        (b':', second % 60),
    ] {
        text.push(mark);
        padded(&mut text, part, 2);
    }
    text.try_into().unwrap_or_default()
}

/// Year, month and day of the Gregorian calendar, of a day counted from 1970-01-01.
///
/// Years are taken to begin in March, so that a leap day is the last day of one; 400 of them are always 146 097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    // From March on, five months in a row have 153 days.
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + later, month, of_month)
}

/// An address and its port.
#[inline]
pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        let _ = write!(out, "{address}");
        return;
    };
    for (place, octet) in v4.ip().octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        number(out, octet.into());
    }
    out.push(b':');
    number(out, v4.port().into());
}

/// Visible ASCII as it stands, but quote and backslash; the rest as `\xNN`.
#[inline]
pub(super) fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| is_plain(*byte)) {
        out.extend_from_slice(bytes);
        return;
    }
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ if is_plain(byte) => out.push(byte),
            _ => {
                let digit = |at: u8| HEX.get(usize::from(at)).copied().unwrap_or(b'?');
                out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
}

#[inline]
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers() {
        for (n, width, want) in [
            (0, 1, "0"),
            (0, 4, "0000"),
            (7, 2, "07"),
            (123, 2, "123"),
            (u64::MAX, 1, "18446744073709551615"),
            (1, 30, "00000000000000000001"),
        ] {
            assert_eq!(text(|out| padded(out, n, width)), want);
        }
        for n in 0..=100_001 {
            assert_eq!(text(|out| number(out, n)), n.to_string());
        }
        assert_eq!(text(|out| micros(out, None)), "-");
        assert_eq!(text(|out| micros(out, Some(Duration::from_millis(3)))), "3000us");
    }

    #[test]
    fn bytes_are_escaped() {
        let all: Vec<u8> = (0..=255).collect();
        let form = text(|out| escaped(out, &all));
        assert!(
            form.starts_with("\\x00\\x01") && form.ends_with("\\xfe\\xff"),
            "{form}"
        );
        assert!(form.contains("\\x20!\\\"#") && form.contains("[\\\\]"), "{form}");
        assert_eq!(text(|out| escaped(out, b"/a?b=c")), "/a?b=c");
    }

    #[test]
    fn the_ends_of_months_and_of_what_has_a_form() {
        for secs in [
            0,
            951_782_399,
            951_782_400,
            951_868_800,
            4_107_542_399,
            4_107_542_400,
            LATEST.as_secs(),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
            let want = humantime::format_rfc3339_micros(at).to_string();
            assert_eq!(text(|out| date(out, at)), want);
        }
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(text(|out| date(out, early)), "1970-01-01T00:00:00.000000Z");
        let late = SystemTime::UNIX_EPOCH + LATEST + Duration::from_secs(1);
        assert_eq!(text(|out| date(out, late)), "9999-12-31T23:59:59.999999Z");
    }

    proptest! {
        #[test]
        fn dates_are_those_of_humantime(micros in 0..=253_402_300_799_999_999_u64) {
            // The second time its second is remembered.
            for micros in [micros, micros - micros % 1_000_000] {
                let at = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
                prop_assert_eq!(text(|out| date(out, at)), humantime::format_rfc3339_micros(at).to_string());
            }
        }

        #[test]
        fn numbers_and_addresses_are_those_of_fmt(n: u64, v4: [u8; 4], v6: [u8; 16], port: u16) {
            prop_assert_eq!(text(|out| number(out, n)), n.to_string());
            for at in [SocketAddr::from((v4, port)), SocketAddr::from((v6, port))] {
                prop_assert_eq!(text(|out| address(out, at)), at.to_string());
            }
        }
    }
}
