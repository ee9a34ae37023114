//! The frame that a question stands for, and what a frame has become.
//!
//! Owns both as bytes. The decision itself takes frames apart by `weir_fastpath::parse`; what is here reads what came out,
//! for people.

use std::net::{IpAddr, SocketAddr};

use weir_fastpath::parse::{TCP, UDP};

use super::{Protocol, Question};

const ETHERNET: usize = 14;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// TTL and hop limit that hosts send with.
const HOPS: u8 = 64;
/// The MSS that a SYN names on Ethernet, so that the clamp shows.
const MSS: u16 = 1460;
/// IPv4 in IP, IPv6 in IP.
const TUNNELS: [u8; 2] = [4, 41];

/// What a packet has become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Ends of the outer header, if it travels in another packet.
    pub outer: Option<(IpAddr, IpAddr)>,
    /// Its source; port 0 for what has none.
    pub src: SocketAddr,
    /// Its destination.
    pub dst: SocketAddr,
}

/// The frame of a question: one packet of the flow without payload. None when its ends are of two families.
pub(crate) fn build(question: &Question) -> Option<Vec<u8>> {
    let Question { src, dst, .. } = question;
    let transport = transport(question)?;
    let len = transport.len();
    let mut frame = vec![0; 12];
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = |sum: u16| {
                let mut header = vec![0x45, 0];
                header.extend(u16::try_from(20 + len).unwrap_or(u16::MAX).to_be_bytes());
                // Don't fragment, as TCP sends.
                header.extend([0, 0, 0x40, 0, HOPS, question.protocol.number()]);
                header.extend(sum.to_be_bytes());
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            };
            frame.extend(0x0800_u16.to_be_bytes());
            frame.extend(header(sum(&header(0))));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend(0x86dd_u16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
            frame.extend([question.protocol.number(), HOPS]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => return None,
    }
    frame.extend(transport);
    Some(frame)
}

/// The transport header with its checksum.
fn transport(question: &Question) -> Option<Vec<u8>> {
    let Question { src, dst, .. } = question;
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let with = |sum: u16| {
        let mut header = ports.clone();
        match question.protocol {
            Protocol::Tcp => {
                let (words, flags): (u8, _) = if question.first { (6, SYN) } else { (5, ACK) };
                // Sequence and acknowledgement number, data offset and flags, window.
                header.extend([0; 8]);
                header.extend([words << 4, flags, 0xff, 0xff]);
                header.extend(sum.to_be_bytes());
                header.extend([0; 2]);
                if question.first {
                    header.extend([2, 4]);
                    header.extend(MSS.to_be_bytes());
                }
            }
            Protocol::Udp => {
                header.extend(8_u16.to_be_bytes());
                header.extend(sum.to_be_bytes());
            }
        }
        header
    };
    let segment = with(0);
    let mut covered = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => return None,
    };
    covered.extend([0, question.protocol.number()]);
    covered.extend(u16::try_from(segment.len()).ok()?.to_be_bytes());
    covered.extend(&segment);
    Some(with(match sum(&covered) {
        // RFC 768: a checksum of 0 means none.
        0 if question.protocol == Protocol::Udp => u16::MAX,
        sum => sum,
    }))
}

/// RFC 1071 over an even number of bytes.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).filter_map(|word| word.try_into().ok());
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IP header, and where what it carries begins.
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    payload: usize,
}

fn ip(frame: &[u8], at: usize) -> Option<Ip> {
    let packet = frame.get(at..)?;
    match packet.first()? >> 4 {
        4 => {
            let addr = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            Some(Ip {
                src: addr(12)?,
                dst: addr(16)?,
                protocol: *packet.get(9)?,
                payload: at + usize::from(packet.first()? & 0xf) * 4,
            })
        }
        6 => {
            let addr = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            Some(Ip {
                src: addr(8)?,
                dst: addr(24)?,
                protocol: *packet.get(6)?,
                payload: at + 40,
            })
        }
        _ => None,
    }
}

/// What a frame holds. None for what weir never makes.
pub(super) fn shape(frame: &[u8]) -> Option<Shape> {
    let mut at = ETHERNET;
    // VLAN tags.
    while let Some([0x81, 0x00] | [0x88, 0xa8]) = frame.get(at - 2..at) {
        at += 4;
    }
    let first = ip(frame, at)?;
    let (outer, inner) = if TUNNELS.contains(&first.protocol) {
        (Some((first.src, first.dst)), ip(frame, first.payload)?)
    } else {
        (None, first)
    };
    let port = |at: usize| {
        let has_ports = [TCP, UDP].contains(&inner.protocol);
        let bytes = frame.get(at..at + 2).filter(|_| has_ports);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u16::from_be_bytes)
    };
    Some(Shape {
        outer,
        src: SocketAddr::new(inner.src, port(inner.payload)),
        dst: SocketAddr::new(inner.dst, port(inner.payload + 2)),
    })
}

#[cfg(test)]
mod tests {
    use weir_fastpath::{Window, parse};

    use super::*;

    fn question(src: &str, dst: &str, protocol: Protocol, first: bool) -> Question {
        Question {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            first,
        }
    }

    #[test]
    fn a_question_becomes_a_packet_that_is_taken_apart_as_meant() {
        let ends = [
            ("198.51.100.7:40000", "192.0.2.10:80"),
            ("[2001:db8::7]:40000", "[2001:db8::10]:443"),
        ];
        for (src, dst) in ends {
            for (protocol, first) in [
                (Protocol::Tcp, false),
                (Protocol::Tcp, true),
                (Protocol::Udp, false),
            ] {
                let question = question(src, dst, protocol, first);
                let mut frame = build(&question).unwrap();
                let len = frame.len();
                let window = Window::new(&mut frame);
                let network = parse::network(window, move || len).unwrap();
                let packet = parse::transport::<true>(window, &network).unwrap();
                assert_eq!(packet.syn(), first && protocol == Protocol::Tcp);
                assert_eq!(packet.protocol(), protocol.number());
                let shape = shape(&frame).unwrap();
                assert_eq!(
                    (shape.src, shape.dst, shape.outer),
                    (question.src, question.dst, None)
                );
            }
        }
        assert!(build(&question("192.0.2.1:1", "[2001:db8::1]:1", Protocol::Udp, false)).is_none());
    }

    #[test]
    fn checksums_hold() {
        let frame = build(&question(
            "198.51.100.7:40000",
            "192.0.2.10:80",
            Protocol::Tcp,
            true,
        ))
        .unwrap();
        assert_eq!(sum(&frame[14..34]), 0, "the IPv4 header sums up");
        let mut covered = frame[26..34].to_vec();
        covered.extend([0, 6, 0, 24]);
        covered.extend(&frame[34..]);
        assert_eq!(sum(&covered), 0, "and so does TCP");
    }

    #[test]
    fn tags_and_tunnels_are_seen_through() {
        let question = question("[2001:db8::7]:40000", "[2001:db8::10]:443", Protocol::Tcp, false);
        let inner = build(&question).unwrap();
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0, 0, 7, 0x08, 0]);
        frame.extend([
            0x45, 0, 0, 80, 0, 0, 0, 0, 64, 41, 0, 0, 172, 16, 0, 1, 10, 0, 0, 11,
        ]);
        frame.extend(&inner[14..]);
        let shape = shape(&frame).unwrap();
        let outer = ("172.16.0.1".parse().unwrap(), "10.0.0.11".parse().unwrap());
        assert_eq!(shape.outer, Some(outer));
        assert_eq!((shape.src, shape.dst), (question.src, question.dst));
        for len in 0..frame.len() - 21 {
            assert!(
                super::shape(&frame[..len]).is_none_or(|shape| shape.dst.port() == 0),
                "{len}"
            );
        }
    }
}
