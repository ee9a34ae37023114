//! A capture's filter: from the words of the command line to what the programs go by.

use weir_abi::{Addr16, CaptureFilter, Reason, Verdict, maps::capture::SNAP};
use weir_core::plan::IpNet;

use crate::cli::FilterArgs;

/// Protocols that have a name here.
const PROTOCOLS: [(&str, u8); 4] = [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmp6", 58)];

/// The filter, without an end: whoever renews it sets that.
pub(super) fn filter(args: &FilterArgs) -> CaptureFilter {
    let (addr, mask) = args.host.map(network).unwrap_or_default();
    CaptureFilter {
        addr,
        mask,
        port: args.port.map_or(0, |port| u32::from(port.to_be())),
        proto: args.proto.map_or(0, u32::from),
        reason: args.reason.map_or(0, |reason| reason as u32 + 1),
        verdict: args.verdict.map_or(0, |verdict| verdict as u32 + 1),
        snap: args.snap.min(SNAP),
        sample: args.sample,
        ..CaptureFilter::default()
    }
}

/// Address and mask; IPv4 lies in the last 32 bits, and the 96 before them say that it is IPv4.
fn network(net: IpNet) -> (Addr16, Addr16) {
    let family = if net.addr().is_ipv4() { 96 } else { 0 };
    let bits = u32::from(net.prefix()) + family;
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let [a, b, c, d] = [96, 64, 32, 0].map(|shift| ((mask >> shift) as u32).to_be());
    (net.addr().into(), Addr16::from_v6_words([a, b, c, d]))
}

/// `tcp`, `udp`, `icmp`, `icmp6`, or a number.
pub(crate) fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
    named
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok().filter(|&number| number != 0))
        .ok_or_else(|| "write tcp, udp, icmp, icmp6, or a number from 1 to 255".to_owned())
}

/// A reason by its name.
pub(crate) fn reason(text: &str) -> Result<Reason, String> {
    let named = Reason::ALL.iter().find(|reason| reason.name() == text);
    named.copied().ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("there is no such reason; those there are: {}", names.join(", "))
    })
}

/// A verdict by its name.
pub(crate) fn verdict(text: &str) -> Result<Verdict, String> {
    let named = Verdict::ALL.iter().find(|verdict| verdict.name() == text);
    named.copied().ok_or_else(|| {
        let names: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        format!("write one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(args: &[&str]) -> CaptureFilter {
        let words = ["weir", "capture", "-w", "-"].iter().chain(args);
        let Command::Capture(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a capture");
        };
        filter(&args.filter)
    }

    fn refused(args: &[&str]) -> String {
        let words = ["weir", "capture", "-w", "-"].iter().chain(args);
        Cli::try_parse_from(words).unwrap_err().to_string()
    }

    #[test]
    fn words_become_what_the_programs_go_by() {
        let any = CaptureFilter {
            snap: SNAP,
            sample: 1,
            ..CaptureFilter::default()
        };
        assert_eq!(parsed(&[]), any);
        let all = parsed(&[
            "--host",
            "192.0.2.0/24",
            "--port",
            "80",
            "--proto",
            "tcp",
            "--reason",
            "no-backend",
            "--verdict",
            "drop",
            "--snap",
            "96",
            "--sample",
            "10",
        ]);
        assert_eq!(all.addr.octets()[10..], [255, 255, 192, 0, 2, 0]);
        assert_eq!(
            all.mask.octets(),
            [
                255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0
            ]
        );
        assert_eq!(all.port.to_ne_bytes()[..2], [0, 80]);
        assert_eq!((all.proto, all.snap, all.sample), (6, 96, 10));
        assert_eq!(all.reason, Reason::NoBackend as u32 + 1);
        assert_eq!(all.verdict, Verdict::Drop as u32 + 1);

        let six = parsed(&["--host", "2001:db8::/32"]);
        assert_eq!(six.mask.octets()[..5], [255, 255, 255, 255, 0]);
        assert_eq!(parsed(&["--host", "::/0"]).mask, Addr16::default());
        assert_eq!(parsed(&["--host", "2001:db8::1"]).mask.octets(), [255; 16]);
        assert_eq!(
            parsed(&["--host", "0.0.0.0/0"]).mask.octets()[11..],
            [255, 0, 0, 0, 0]
        );
        assert_eq!(parsed(&["--proto", "icmp6"]).proto, 58);
        assert_eq!(parsed(&["--proto", "132"]).proto, 132);
    }

    #[test]
    fn mistakes_are_refused_with_words() {
        for (args, words) in [
            (["--host", "192.0.2.1/24"], "write 192.0.2.0/24"),
            (["--proto", "sctp"], "write tcp, udp, icmp, icmp6"),
            (["--proto", "0"], "1 to 255"),
            (["--reason", "nobackend"], "no-backend"),
            (["--verdict", "dropped"], "forward, reply, pass, drop"),
            (["--snap", "4096"], "2048"),
            (["--snap", "0"], "2048"),
            (["--sample", "0"], "sample"),
            (["--port", "0"], "port"),
            (["--for", "10"], "no unit"),
        ] {
            let text = refused(&args);
            assert!(text.contains(words), "{args:?}: {text}");
        }
    }
}
