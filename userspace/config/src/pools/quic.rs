//! `quic_id`: the server id by which QUIC connection ids name a backend.
//!
//! Owns its syntax and what the ids of one pool must have in common. Which services choose by them is `cross/l4.rs`.

use weir_core::plan::QuicId;

use crate::{
    pools::AskedPool,
    reader::{Cx, Value},
    words::quoted,
};

/// Bytes of the longest id.
const LONGEST: usize = 8;

/// Two hexadecimal digits for each byte.
pub(crate) fn read(cx: &mut Cx, value: &Value<'_>) -> Option<QuicId> {
    let text = value.string(cx)?;
    let id = parse(text);
    if id.is_none() {
        value.mistake(
            cx,
            format!("is {}", quoted(text)),
            format!("write 1 to {LONGEST} bytes, two hexadecimal digits each, as in \"0a1b\""),
        );
    }
    id
}

fn parse(text: &str) -> Option<QuicId> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !(2..=2 * LONGEST).contains(&digits.len()) {
        return None;
    }
    let mut id = QuicId { value: 0, len: 0 };
    for pair in digits.chunks_exact(2) {
        let mut byte = 0;
        for &digit in pair {
            byte = byte << 4 | u64::from(char::from(digit).to_digit(16)?);
        }
        id.value |= byte << (8 * u32::from(id.len));
        id.len += 1;
    }
    Some(id)
}

/// As it is written.
pub(crate) fn show(id: QuicId) -> String {
    let bytes = id.value.to_le_bytes();
    bytes
        .iter()
        .take(usize::from(id.len))
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// All backends of a pool have an id, of one length and each its own; or none has one.
pub(crate) fn check(cx: &mut Cx, asked: &AskedPool) {
    let mut first: Option<(QuicId, usize)> = None;
    let mut seen = std::collections::BTreeMap::new();
    let pool = &asked.pool.name;
    for (backend, &at) in asked.pool.backends.iter().zip(&asked.backends_at) {
        let Some(id) = backend.quic_id else { continue };
        let (expected, place) = *first.get_or_insert((id, at));
        if id.len != expected.len {
            let line = cx.line(place);
            cx.mistake(
                at,
                format!(
                    "quic_id {} is not as long as {}, which another backend of pool `{pool}` has (line {line})",
                    show(id),
                    show(expected)
                ),
                "give all backends of a pool ids of one length",
            );
        } else if let Some(&other) = seen.get(&id) {
            let line = cx.line(other);
            cx.mistake(
                at,
                format!(
                    "two backends of pool `{pool}` have the quic_id {} (the other in line {line})",
                    show(id)
                ),
                "give each its own",
            );
        }
        seen.entry(id).or_insert(at);
    }
    let Some((_, place)) = first else { return };
    for (backend, &at) in asked.pool.backends.iter().zip(&asked.backends_at) {
        if backend.quic_id.is_none() {
            let line = cx.line(place);
            cx.mistake(
                at,
                format!(
                    "{} has no quic_id, and another backend of pool `{pool}` has one (line {line})",
                    backend.key
                ),
                "give all backends of a pool one, or none",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bytes_in_their_order() {
        let id = parse("0a1B").unwrap();
        assert_eq!((id.value, id.len), (0x1b0a, 2));
        assert_eq!(show(id), "0a1b");
        let id = parse("ffeeddccbbaa9988").unwrap();
        assert_eq!((id.value, id.len), (0x8899_aabb_ccdd_eeff, 8));
        assert_eq!(show(id), "ffeeddccbbaa9988");
        assert_eq!(parse("00").unwrap(), QuicId { value: 0, len: 1 });
        for bad in ["", "0", "0a1", "0x0a", "0g", "ffeeddccbbaa998877", "0a 1b", "é0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
