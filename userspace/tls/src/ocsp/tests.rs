//! Tests of reading and judging OCSP responses.

use super::*;

/// A value of DER.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..128 => out.push(short as u8),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

fn made(status: u8, serial: &[u8], verdict: u8, dates: (&str, Option<&str>), version: bool) -> Vec<u8> {
    let algorithm = tlv(0x30, &[&tlv(6, &[&[0x2b, 14, 3, 2, 26]])]);
    let hash = tlv(4, &[&[7; 20]]);
    let id = tlv(0x30, &[&algorithm, &hash, &hash, &tlv(2, &[serial])]);
    let verdict = match verdict {
        1 => tlv(0xa1, &[&tlv(0x18, &[b"20260101000000Z"])]),
        other => tlv(0x80 | other, &[]),
    };
    let this = tlv(0x18, &[dates.0.as_bytes()]);
    let next = dates
        .1
        .map_or_else(Vec::new, |d| tlv(0xa0, &[&tlv(0x18, &[d.as_bytes()])]));
    let single = tlv(0x30, &[&id, &verdict, &this, &next]);
    let version = if version {
        tlv(0xa0, &[&[2, 1, 0]])
    } else {
        Vec::new()
    };
    let responder = tlv(0xa2, &[&hash]);
    let produced = tlv(0x18, &[b"20260601000000Z"]);
    let data = tlv(0x30, &[&version, &responder, &produced, &tlv(0x30, &[&single])]);
    let basic = tlv(0x30, &[&data, &algorithm, &tlv(3, &[&[0; 65]])]);
    let oid = tlv(6, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]);
    let bytes = tlv(0xa0, &[&tlv(0x30, &[&oid, &tlv(4, &[&basic])])]);
    tlv(
        0x30,
        &[&tlv(10, &[&[status]]), if status == 0 { &bytes } else { &[] }],
    )
}

const DATES: (&str, Option<&str>) = ("20260601000000Z", Some("20260608000000Z"));
const JUNE: i64 = 1_780_272_000;

#[test]
fn responses_are_judged() {
    for version in [false, true] {
        let staple = Staple::read(&made(0, &[0, 0x99], 0, DATES, version), &[0x99]).unwrap();
        assert_eq!(
            (staple.this_update, staple.next_update),
            (JUNE, Some(JUNE + 7 * 86_400))
        );
        assert_eq!(staple.check_dates(JUNE + 86_400), Ok(()));
        assert_eq!(staple.check_dates(JUNE - 60), Ok(()), "clocks differ a little");
        assert!(staple.check_dates(JUNE - 3600).is_err());
        let late = staple.check_dates(JUNE + 8 * 86_400).unwrap_err().to_string();
        assert!(late.contains("until 2026-06-08T00:00:00Z"), "{late}");
    }
    let endless = Staple::read(&made(0, &[5], 0, (DATES.0, None), false), &[5]).unwrap();
    assert_eq!(endless.check_dates(i64::MAX / 2), Ok(()));
    for (der, part) in [
        (made(0, &[6], 0, DATES, false), "another certificate"),
        (made(0, &[5], 1, DATES, false), "revoked"),
        (made(0, &[5], 2, DATES, false), "does not know"),
        (made(3, &[5], 0, DATES, false), "reports an error"),
        (b"-----BEGIN".to_vec(), "can't be read"),
        (Vec::new(), "can't be read"),
    ] {
        let text = Staple::read(&der, &[5]).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn no_bytes_are_stumbled_over() {
    let der = made(0, &[5], 0, DATES, true);
    for at in 0..der.len() {
        let mut changed = der.clone();
        for flip in [1, 0x20, 0x80, 0xff] {
            changed[at] ^= flip;
            let _ = Staple::read(&changed, &[5]);
        }
        let _ = Staple::read(&der[..at], &[5]);
    }
}
