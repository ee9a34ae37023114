//! What a stream of messages says, whatever it is written like: for comparing proxies that write it each in their own way.
//!
//! Not a parser to rely on: it reads what the proxies under test write, and what the cases expect. What it can't read is
//! compared as it stands.

/// The field by which an expected response says that the proxy makes it up: only its status is compared.
pub const OWN: &str = "weir-own";

/// Fields that each proxy writes as it likes, or that frame a body, which is compared itself.
const ANY: [&str; 12] = [
    "cache-control",
    "connection",
    "content-length",
    "date",
    "forwarded",
    "keep-alive",
    "proxy-connection",
    "server",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// Which way a stream goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Requests.
    Up,
    /// Responses.
    Down {
        /// To `HEAD`, all of them.
        to_head: bool,
        /// To `CONNECT`: success makes a tunnel.
        to_connect: bool,
    },
}

/// One message, or what follows the last one that could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// A message: its first line (of responses the status alone), its fields by name, its body so far, its trailers, and
    /// whether it is whole.
    Message {
        /// Method, target and version; or the status.
        line: String,
        /// In the order of names; those of one name as they came.
        fields: Vec<(String, String)>,
        /// As far as it has come.
        body: Vec<u8>,
        /// Whether its end has come.
        whole: bool,
    },
    /// Bytes.
    Raw(Vec<u8>),
}

impl Part {
    /// The status, of a response.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Message { line, .. } => line.parse().ok(),
            Self::Raw(_) => None,
        }
    }
}

/// Whether `seen` says what `wanted` says.
pub fn same(wanted: &[Part], seen: &[Part]) -> bool {
    let own = |part: &Part| match part {
        Part::Message { fields, .. } => fields.iter().any(|(name, _)| name == OWN),
        Part::Raw(_) => false,
    };
    let one = |(wanted, seen): (&Part, &Part)| match own(wanted) {
        true => wanted.status() == seen.status(),
        false => wanted == seen,
    };
    wanted.len() == seen.len() && wanted.iter().zip(seen).all(one)
}

/// Reads a stream.
pub fn read(mut bytes: &[u8], way: Way) -> Vec<Part> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        match message(bytes, way) {
            Some((part, used, raw)) => {
                parts.push(part);
                bytes = bytes.get(used..).unwrap_or_default();
                if raw {
                    break;
                }
            }
            None => break,
        }
    }
    if !bytes.is_empty() {
        parts.push(Part::Raw(bytes.to_vec()));
    }
    parts
}

/// The next message, its length, and whether other bytes than messages follow.
fn message(bytes: &[u8], way: Way) -> Option<(Part, usize, bool)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok();
    let head = match head {
        Some(head) => head.to_owned(),
        None => bytes.get(..end)?.iter().map(|b| char::from(*b)).collect(),
    };
    let rest = bytes.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let first = lines.next()?;
    let line = match way {
        Way::Up => first.to_owned(),
        Way::Down { .. } => first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.to_owned(),
    };
    let mut all = Vec::new();
    for field in lines {
        let (name, value) = field.split_once(':')?;
        all.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let status: u16 = line.parse().unwrap_or(0);
    let (bodiless, raw) = match way {
        // What follows an upgrade that is taken may look like a message; so it does on both sides.
        Way::Up => (false, false),
        Way::Down { to_head, to_connect } => {
            let tunnel = status == 101 || to_connect && (200..300).contains(&status);
            (
                to_head || tunnel || status < 200 || status == 204 || status == 304,
                tunnel,
            )
        }
    };
    let chunked = value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let length = value("content-length").and_then(|v| v.parse::<usize>().ok());
    let keeps_length = bodiless && matches!(way, Way::Down { .. });
    let (body, used, whole) = match (bodiless, chunked, length, way) {
        (true, ..) => (Vec::new(), 0, true),
        (false, true, ..) => unchunk(rest),
        (false, false, Some(length), _) => {
            let here = length.min(rest.len());
            (rest.get(..here)?.to_vec(), here, here == length)
        }
        (false, false, None, Way::Up) => (Vec::new(), 0, true),
        (false, false, None, Way::Down { .. }) => (rest.to_vec(), rest.len(), true),
    };
    let mut fields: Vec<_> = all
        .iter()
        .filter(|(name, _)| !ANY.contains(&name.as_str()) || (keeps_length && name == "content-length"))
        .cloned()
        .collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let part = Part::Message {
        line,
        fields,
        body,
        whole,
    };
    Some((part, end + 4 + used, raw))
}

/// The data of a chunked body with its trailers behind it, the bytes it takes, and whether it is whole.
fn unchunk(bytes: &[u8]) -> (Vec<u8>, usize, bool) {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = find(rest, b"\r\n") else {
            return (data, bytes.len(), false);
        };
        let line = rest.get(..end).unwrap_or_default();
        let digits = line.split(|b| *b == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| usize::from_str_radix(d.trim(), 16).ok());
        let Some(size) = size else {
            return (data, bytes.len(), false);
        };
        at += end + 2;
        if size == 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.starts_with(b"\r\n") {
                return (data, at + 2, true);
            }
            let Some(end) = find(rest, b"\r\n\r\n") else {
                return (data, bytes.len(), false);
            };
            data.extend_from_slice(b"\0trailers\0");
            data.extend(rest.get(..end).unwrap_or_default().to_ascii_lowercase());
            return (data, at + end + 4, true);
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let here = size.min(rest.len());
        data.extend_from_slice(rest.get(..here).unwrap_or_default());
        if here < size {
            return (data, bytes.len(), false);
        }
        at += size + 2;
        if at > bytes.len() {
            return (data, bytes.len(), false);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Way = Way::Down {
        to_head: false,
        to_connect: false,
    };

    #[test]
    fn framing_and_order_do_not_matter() {
        let chunked = b"HTTP/1.1 200 OK\r\nb: 2\r\nA: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        let length = b"HTTP/1.0 200 Fine\r\na:1\r\nContent-Length: 3\r\nB: 2\r\nDate: now\r\n\r\nabc";
        assert!(same(&read(chunked, DOWN), &read(length, DOWN)));
    }

    #[test]
    fn what_is_said_matters() {
        let base = "HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 1\r\n\r\nx";
        let parts = read(base.as_bytes(), DOWN);
        for (from, to) in [
            ("200", "201"),
            ("A: 1", "A: 3"),
            ("\r\nx", "\r\ny"),
            ("A: 1\r\nA: 2", "A: 2\r\nA: 1"),
            ("Length: 1", "Length: 2"),
        ] {
            assert!(
                !same(&parts, &read(base.replace(from, to).as_bytes(), DOWN)),
                "{to}"
            );
        }
        assert!(!same(&parts, &read(format!("{base}{base}").as_bytes(), DOWN)));
        let own = read(b"HTTP/1.1 400 x\r\nWeir-Own: \r\nContent-Length: 0\r\n\r\n", DOWN);
        assert!(same(
            &own,
            &read(b"HTTP/1.1 400 y\r\nX: y\r\nContent-Length: 1\r\n\r\nz", DOWN)
        ));
        assert!(!same(&own, &parts));
    }

    #[test]
    fn streams_are_taken_apart() {
        let up = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nUpgrade: b\r\n\r\nraw\r\n";
        let parts = read(up, Way::Up);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts.last(), Some(&Part::Raw(b"raw\r\n".to_vec())));
        let down =
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 O\r\n\r\nrest";
        let statuses: Vec<_> = read(down, DOWN).iter().filter_map(Part::status).collect();
        assert_eq!(statuses, [100, 304, 200]);
        let part = read(
            b"HTTP/1.1 200 O\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            DOWN,
        );
        assert!(matches!(part.as_slice(), [Part::Message { body, whole: false, .. }] if body == b"ab"));
        let trailers = read(
            b"HTTP/1.1 200 O\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
            DOWN,
        );
        assert!(
            matches!(trailers.as_slice(), [Part::Message { body, whole: true, .. }] if body == b"\0trailers\0a: b")
        );
    }
}
