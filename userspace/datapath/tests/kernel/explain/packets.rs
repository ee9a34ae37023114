//! Packets by chance, of every kind that the programs tell apart: TCP, UDP with and without QUIC connection ids, whole and in
//! pieces, ICMP errors about packets that were on a wire, echo requests; some too large, some with no hops left.
//!
//! Owns their bytes and which come after which. What becomes of them it is told ([`Traffic::went`]). Checksums are whatever
//! they are: the programs update them by difference.

use std::net::{IpAddr, SocketAddr};

use weir_core::ids::Protocol;

use super::{
    BACKENDS, Chance, address,
    world::{LIMITED, QUIC, RELAY, SERVICES, quic_id},
};
use crate::lab::{VIP4, VIP6};

/// Different flows: each comes about five times, so that many are recorded ones.
const TUPLES: u64 = 20_000;
/// SYNs of a source that begins one connection after another.
const BURST: u8 = 8;
/// Packets and datagrams that are kept in mind, for what refers to them.
const KEPT: usize = 64;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Both ends of a packet, and its protocol.
pub(super) type Ends = (SocketAddr, SocketAddr, Protocol);

/// A packet to ask about.
pub(super) struct Asked {
    pub(super) frame: Vec<u8>,
    /// Of a whole packet of TCP or UDP.
    ends: Option<Ends>,
    /// It has an ACK to a service of the relay, of no connection that there is.
    pub(super) stray_ack: bool,
}

/// Which piece of a datagram, by its identification.
#[derive(Clone, Copy)]
enum Piece {
    Whole,
    First(u32),
    Later(u32),
}

/// Where packets come from.
pub(super) struct Traffic {
    /// Connections that the kernel's stack has, to services of the relay.
    connections: Vec<Ends>,
    /// Packets that were sent on, as they left: those not answered yet.
    sent: Vec<Ends>,
    /// Packets that were on a wire, either side.
    seen: Vec<Ends>,
    /// Datagrams whose first piece has gone.
    datagrams: Vec<(Ends, u32)>,
    /// A source that begins connections, and how many more.
    burst: Option<(IpAddr, u16, u8)>,
}

impl Traffic {
    pub(super) fn new(connections: Vec<Ends>) -> Self {
        Self {
            connections,
            sent: Vec::new(),
            seen: Vec::new(),
            datagrams: Vec::new(),
            burst: None,
        }
    }

    /// The next packet.
    pub(super) fn next(&mut self, chance: &mut Chance) -> Asked {
        if let Some((source, port, left)) = self.burst.take() {
            self.burst = (left > 1).then(|| (source, port, left - 1));
            let src = SocketAddr::new(source, 1024 + chance.below(60_000) as u16);
            let ends = (src, vip(source.is_ipv4(), port), Protocol::Tcp);
            let segment = tcp(chance, ends, SYN);
            return Asked::plain(ends, SYN, false, packet(chance, ends, Piece::Whole, &segment));
        }
        match chance.below(100) {
            0..4 => self.first_piece(chance),
            4..10 => self.later_piece(chance),
            10..15 => self.error(chance),
            15 => echo(chance),
            16 => {
                let v4 = chance.one_in(2);
                let port = LIMITED[chance.below(LIMITED.len() as u64) as usize];
                self.burst = Some((burster(v4, chance.below(16) as u8), port, BURST));
                self.next(chance)
            }
            _ => self.whole(chance),
        }
    }

    /// A packet has left as this.
    pub(super) fn went(&mut self, asked: &Asked, src: SocketAddr, dst: SocketAddr, answer: bool) {
        let Some((from, to, protocol)) = asked.ends else {
            return;
        };
        if !answer {
            self.sent.push((src, dst, protocol));
            keep(&mut self.seen, (src, dst, protocol));
            // What the other end sends, as the client gets it.
            keep(&mut self.seen, (to, from, protocol));
        }
    }

    /// A reply to one of the packets that were sent on, or a packet of any flow.
    fn ends(&mut self, chance: &mut Chance) -> Ends {
        match self.sent.pop() {
            Some((src, dst, protocol)) if chance.one_in(2) => (dst, src, protocol),
            _ => ends(chance),
        }
    }

    fn whole(&mut self, chance: &mut Chance) -> Asked {
        let mut ends = self.ends(chance);
        let relay = RELAY.contains(&ends.1.port());
        let known = relay && chance.one_in(2);
        if known {
            ends = self.connections[chance.below(self.connections.len() as u64) as usize];
        }
        let any = [SYN, ACK, ACK, ACK, 0x18, 0x18, 0x11, RST];
        // On the tuple of a connection that there is, a SYN is not one's first packet.
        let flags = any[(if known {
            1 + chance.below(7)
        } else {
            chance.below(8)
        }) as usize];
        let segment = match ends.2 {
            Protocol::Tcp => tcp(chance, ends, flags),
            Protocol::Udp => udp(chance, ends),
        };
        Asked::plain(ends, flags, known, packet(chance, ends, Piece::Whole, &segment))
    }

    fn first_piece(&mut self, chance: &mut Chance) -> Asked {
        let ends = self.ends(chance);
        let segment = match ends.2 {
            // Of the relay's, only whole packets are looked at by the kernel's stack.
            Protocol::Tcp => tcp(
                chance,
                ends,
                if RELAY.contains(&ends.1.port()) { RST } else { ACK },
            ),
            Protocol::Udp => udp(chance, ends),
        };
        let id = chance.next() as u32;
        keep(&mut self.datagrams, (ends, id));
        Asked::other(packet(chance, ends, Piece::First(id), &segment))
    }

    /// A later piece of a datagram whose first one has gone, or of none.
    fn later_piece(&mut self, chance: &mut Chance) -> Asked {
        let known = self.datagrams.len() as u64;
        let (ends, mut id) = match known {
            0 => (ends(chance), 0),
            _ => self.datagrams[chance.below(known) as usize],
        };
        if chance.one_in(8) {
            id ^= 1;
        }
        let bytes = vec![0x5a; 8 * chance.below(8) as usize];
        Asked::other(packet(chance, ends, Piece::Later(id), &bytes))
    }

    /// An ICMP error about a packet that was on a wire, or about any.
    fn error(&mut self, chance: &mut Chance) -> Asked {
        let known = self.seen.len() as u64;
        let about = match known {
            0 => ends(chance),
            _ if chance.one_in(8) => ends(chance),
            _ => self.seen[chance.below(known) as usize],
        };
        let (src, dst, protocol) = about;
        let v4 = src.is_ipv4();
        let kinds: [[u8; 2]; 4] = match v4 {
            true => [[3, 3], [3, 4], [11, 0], [12, 0]],
            false => [[1, 4], [2, 0], [3, 0], [4, 1]],
        };
        let [kind, code] = kinds[chance.below(4) as usize];
        let mut body = vec![kind, code, chance.next() as u8, 1, 0, 0, 5, 0x14];
        let segment = match protocol {
            Protocol::Tcp => tcp(chance, about, ACK),
            Protocol::Udp => udp(chance, about),
        };
        body.extend(
            &ip(
                src.ip(),
                dst.ip(),
                protocol.number(),
                60,
                Piece::Whole,
                &segment,
                &[],
            )[2..],
        );
        let router = if v4 { "203.0.113.9" } else { "2001:db8:dd::9" };
        let frame = packet_of(
            chance,
            router.parse().unwrap(),
            src.ip(),
            icmp(v4),
            Piece::Whole,
            &body,
        );
        Asked::other(frame)
    }
}

impl Asked {
    fn plain(ends: Ends, flags: u8, known: bool, frame: Vec<u8>) -> Self {
        let tcp = ends.2 == Protocol::Tcp;
        let ack = tcp && flags & ACK != 0 && RELAY.contains(&ends.1.port());
        Self {
            frame,
            ends: Some(ends),
            stray_ack: ack && !known,
        }
    }

    const fn other(frame: Vec<u8>) -> Self {
        Self {
            frame,
            ends: None,
            stray_ack: false,
        }
    }
}

/// Adds one, and forgets the oldest.
fn keep<T>(list: &mut Vec<T>, one: T) {
    if list.len() == KEPT {
        list.remove(0);
    }
    list.push(one);
}

fn vip(v4: bool, port: u16) -> SocketAddr {
    SocketAddr::new(if v4 { VIP4 } else { VIP6 }.parse().unwrap(), port)
}

/// A source of many connections. They are few, and no others': some get banned.
fn burster(v4: bool, n: u8) -> IpAddr {
    if v4 {
        IpAddr::from([203, 1, 0, n])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0xcd, 0, 0, 0, 0, u16::from(n)])
    }
}

/// The ends of a packet of one of the flows, of a backend's, or of what is none.
fn ends(chance: &mut Chance) -> Ends {
    let mut flow = Chance(chance.below(TUPLES));
    let v4 = flow.one_in(2);
    let (mut port, protocol) = SERVICES[flow.below(SERVICES.len() as u64) as usize];
    if chance.one_in(50) {
        port = 7;
    }
    let host = flow.below(65_536) as u16;
    let client: IpAddr = if v4 {
        IpAddr::from([203, 0, (host >> 8) as u8, host as u8])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, host])
    };
    let client = SocketAddr::new(client, 1024 + flow.below(60_000) as u16);
    let (src, dst) = if chance.one_in(8) {
        let from = address(v4, chance.below(u64::from(BACKENDS)) as u8);
        (SocketAddr::new(from, 8080), client)
    } else {
        (client, vip(v4, port))
    };
    (src, dst, protocol)
}

fn ports((src, dst, _): Ends) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

/// Mostly short ones, some larger than any way takes.
fn payload(chance: &mut Chance) -> Vec<u8> {
    let len = match chance.one_in(50) {
        true => 1400 + chance.below(1000),
        false => chance.below(40),
    };
    vec![0xa5; len as usize]
}

fn tcp(chance: &mut Chance, ends: Ends, flags: u8) -> Vec<u8> {
    let options: &[u8] = match flags {
        SYN if chance.one_in(2) => &[2, 4, 0x23, 0],
        SYN => &[1, 1, 4, 2, 2, 4, 5, 0xb4],
        _ => &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
    };
    let mut segment = ports(ends);
    segment.extend(chance.next().to_be_bytes());
    segment.extend([((5 + options.len() / 4) << 4) as u8, flags, 0xff, 0xff]);
    segment.extend([chance.next() as u8, 1, 0, 0]);
    segment.extend(options);
    segment.extend(payload(chance));
    segment
}

fn udp(chance: &mut Chance, ends: Ends) -> Vec<u8> {
    let payload = match ends.1.port() {
        QUIC => quic(chance),
        _ => payload(chance),
    };
    let mut datagram = ports(ends);
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([chance.next() as u8 | 1, 2]);
    datagram.extend(payload);
    datagram
}

/// A packet whose connection id names a backend, one that is gone, or none; or whose id the client has made up.
fn quic(chance: &mut Chance) -> Vec<u8> {
    let first = if chance.one_in(8) { 0xe7 } else { 0x07 };
    let id = quic_id(&address(
        chance.one_in(2),
        chance.below(u64::from(BACKENDS) + 1) as u8,
    ));
    let id = [&[first], &id.value.to_le_bytes()[..usize::from(id.len)], &[0; 5]].concat();
    let mut packet = match chance.below(4) {
        // Handshake, and Initial.
        0 => [&[0xe0, 0, 0, 0, 1, id.len() as u8], &id[..]].concat(),
        1 => [&[0xc0, 0, 0, 0, 1, id.len() as u8], &id[..]].concat(),
        _ => [&[0x40], &id[..]].concat(),
    };
    packet.resize(packet.len() + chance.below(40) as usize, 0x99);
    packet
}

fn echo(chance: &mut Chance) -> Asked {
    let (src, dst, _) = ends(chance);
    let v4 = src.is_ipv4();
    let kind = if v4 { 8 } else { 128 };
    let body = [kind, 0, chance.next() as u8, 1, 0, 7, 0, 1, 2, 3, 4, 5];
    Asked::other(packet_of(
        chance,
        src.ip(),
        dst.ip(),
        icmp(v4),
        Piece::Whole,
        &body,
    ))
}

const fn icmp(v4: bool) -> u8 {
    if v4 { 1 } else { 58 }
}

fn packet(chance: &mut Chance, (src, dst, protocol): Ends, piece: Piece, body: &[u8]) -> Vec<u8> {
    packet_of(chance, src.ip(), dst.ip(), protocol.number(), piece, body)
}

/// A frame, with what may befall any packet: no hops left, options, a tag, a group's link address.
fn packet_of(
    chance: &mut Chance,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    piece: Piece,
    body: &[u8],
) -> Vec<u8> {
    let hops = if chance.one_in(50) { 1 } else { 64 };
    let options: &[u8] = if chance.one_in(50) { &[1; 8] } else { &[] };
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame[0] |= u8::from(chance.one_in(100));
    if chance.one_in(50) {
        frame.extend([0x81, 0, 0, 7]);
    }
    frame.extend(ip(src, dst, protocol, hops, piece, body, options));
    frame
}

/// The EtherType and the packet. `options`: IPv4's.
fn ip(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    hops: u8,
    piece: Piece,
    body: &[u8],
    options: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    // In units of 8 bytes: one later piece is as good as another.
    let (id, more, offset) = match piece {
        Piece::Whole => (1, false, 0_u16),
        Piece::First(id) => (id, true, 0),
        Piece::Later(id) => (id, false, 16),
    };
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header_len = 20 + options.len();
            let flags = match piece {
                Piece::Whole => 0x4000,
                Piece::First(_) | Piece::Later(_) => u16::from(more) << 13 | offset,
            };
            out.extend([0x08, 0x00, 0x40 | (header_len / 4) as u8, 0]);
            out.extend(((header_len + body.len()) as u16).to_be_bytes());
            out.extend((id as u16).to_be_bytes());
            out.extend(flags.to_be_bytes());
            out.extend([hops, protocol, 0x12, 0x34]);
            out.extend(src.octets());
            out.extend(dst.octets());
            out.extend(options);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = match piece {
                Piece::Whole => Vec::new(),
                Piece::First(_) | Piece::Later(_) => {
                    let mut header = vec![protocol, 0];
                    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    header.extend(id.to_be_bytes());
                    header
                }
            };
            out.extend([0x86, 0xdd, 0x60, 0, 0, 7]);
            out.extend(((header.len() + body.len()) as u16).to_be_bytes());
            out.extend([if header.is_empty() { protocol } else { 44 }, hops]);
            out.extend(src.octets());
            out.extend(dst.octets());
            out.extend(header);
        }
        _ => unreachable!("both ends are of one family"),
    }
    out.extend(body);
    out
}
