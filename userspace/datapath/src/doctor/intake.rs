//! The way of connections to addresses that are not on the box: whether it can be had, and, while weir runs, a proof of each
//! part of it.
//!
//! The proof has two halves. The program that is attached is run on a SYN as a client would send it, in memory, and has to
//! mark it. And the kernel is asked what it would do with a packet that carries the mark, and has to say that it is its own.

use std::net::IpAddr;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use weir_abi::{maps::take, names};
use weir_core::plan::Listen;

use super::{Finding, system};
use crate::{
    intake::{Families, Intake, IntakeError},
    sys,
};

/// The kernel from which on a program can be attached to an interface's ingress by a link.
const FLOOR: (u32, u32) = (6, 6);

/// Looks at the way that these transparent listeners, on these interfaces, need. Nothing is said where there are none.
pub(super) fn inspect(interfaces: &[String], listeners: &[Listen]) -> Vec<Finding> {
    let families = Families {
        v4: listeners.iter().any(|listen| listen.addr.is_ipv4()),
        v6: listeners.iter().any(|listen| listen.addr.is_ipv6()),
    };
    if !families.any() {
        return Vec::new();
    }
    let mut findings = vec![tcx("taking in", "transparent listeners")];
    let proofs: Vec<_> = { interfaces.iter() }
        .filter_map(|name| Some((name, nix::net::if_::if_nametoindex(name.as_str()).ok()?)))
        .collect();
    let asked = super::interface::in_a_runtime(|| async {
        let intake = Intake::new()?;
        let mut found = vec![settings(intake.check(families).await)];
        let present = match intake.present().await {
            Ok(present) => present,
            Err(error) => {
                found.push(Finding::note("taking in", error.to_string()));
                return Ok((found, false));
            }
        };
        let runs = present.any();
        for listen in listeners.iter().filter(|_| runs) {
            for (name, index) in proofs.iter().filter(|(name, _)| is_for(listen, name)) {
                found.push(routed(&intake, listen, name, *index).await);
            }
        }
        Ok((found, runs))
    });
    match asked {
        Ok((found, true)) => {
            findings.extend(found);
            for (name, index) in &proofs {
                findings.extend(marked(name, *index, listeners));
            }
        }
        Ok((found, false)) => {
            findings.extend(found);
            findings.push(Finding::note(
                "taking in",
                "no weir has installed its rule: it does so when it starts with this configuration",
            ));
        }
        Err(error) => findings.push(Finding::note(
            "taking in",
            format!("netlink can't be asked: {error}"),
        )),
    }
    findings
}

/// Whether tc programs can be attached. `who`: what needs them.
pub(super) fn tcx(subject: &'static str, who: &str) -> Finding {
    match system::release() {
        Some(found) if found < FLOOR => Finding::problem(
            subject,
            format!(
                "Linux {}.{} can't attach a program by a TCX link",
                found.0, found.1
            ),
        )
        .mend(format!("{who} need Linux {}.{} or newer", FLOOR.0, FLOOR.1)),
        Some(_) => Finding::ok(subject, "this kernel has TCX links"),
        None => Finding::note(subject, "the kernel's release cannot be told"),
    }
}

fn settings(checked: Result<(), IntakeError>) -> Finding {
    match checked {
        Ok(()) => Finding::ok("taking in", "no setting, rule or route of others is in the way"),
        Err(error) => {
            let text = error.to_string();
            let (text, mend) = text
                .rsplit_once("; ")
                .map_or((text.as_str(), "see docs/transparent.md"), |(text, mend)| {
                    (text, mend)
                });
            Finding::problem("taking in", text).mend(mend)
        }
    }
}

/// An address that a listener is for, and one that a client may have: of the ranges for documentation.
fn ends(listen: &Listen) -> (IpAddr, IpAddr) {
    let (from, to): (IpAddr, IpAddr) = match listen.addr {
        IpAddr::V4(_) => ([198, 51, 100, 1].into(), [203, 0, 113, 1].into()),
        IpAddr::V6(_) => (
            [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1].into(),
            [0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1].into(),
        ),
    };
    let everything = listen.addr.is_unspecified();
    (from, if everything { to } else { listen.addr })
}

/// Whether the kernel says of a marked packet that it is its own.
async fn routed(intake: &Intake, listen: &Listen, interface: &str, index: u32) -> Finding {
    let (from, to) = ends(listen);
    let subject = format!("interface {interface}");
    match intake.is_taken_in(from, to, index).await {
        Ok(true) => Finding::ok(subject, format!("a marked packet to {to} is taken in")),
        Ok(false) => Finding::problem(subject, format!("a marked packet to {to} is not taken in"))
            .mend("`ip rule` shows which rule goes before weir's (priority 1); restart weir to have its own again"),
        Err(error) => Finding::problem(subject, error.to_string()).mend(
            "where rp_filter is strict the kernel refuses sources that it has no way back to by this interface; else see \
             `ip rule` and `ip route show table 30565`",
        ),
    }
}

/// Whether the program that is attached marks a SYN to each listener.
fn marked(interface: &str, index: u32, listeners: &[Listen]) -> Vec<Finding> {
    let subject = format!("interface {interface}");
    let restart = "restart weir, or see its log for what kept it from attaching";
    let programs = match SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        Ok((_, programs)) => programs,
        Err(error) => {
            let text = format!("the programs at its ingress cannot be listed: {error}");
            return vec![Finding::note(subject, text)];
        }
    };
    let ours = |program: &&ProgramInfo| program.name_as_str() == Some(names::TAKE_PROGRAM);
    let Some(program) = programs.iter().find(ours) else {
        let text = format!("{} is not attached to its ingress", names::TAKE_PROGRAM);
        return vec![Finding::problem(subject, text).mend(restart)];
    };
    let run = |listen: &Listen| {
        let (from, to) = ends(listen);
        let to = std::net::SocketAddr::new(to, listen.first);
        let done = program.fd().map_err(|error| error.to_string()).and_then(|fd| {
            sys::test_run::run_classifier(&fd, &syn(from, to), index).map_err(|error| error.to_string())
        });
        match done {
            Ok(mark) if mark & take::MASK == take::MARK => Finding::ok(
                subject.clone(),
                format!("{} marks a SYN to {to}", names::TAKE_PROGRAM),
            ),
            Ok(_) => Finding::problem(
                subject.clone(),
                format!("{} does not mark a SYN to {to}", names::TAKE_PROGRAM),
            )
            .mend("that is so where the address is this box's own, or weir runs by another configuration: `weir reload`"),
            Err(error) => Finding::note(
                subject.clone(),
                format!("{} cannot be tried: {error}", names::TAKE_PROGRAM),
            ),
        }
    };
    let here = listeners.iter().filter(|listen| is_for(listen, interface));
    here.map(run).collect()
}

/// Whether a listener is for what comes in by an interface.
fn is_for(listen: &Listen, interface: &str) -> bool {
    listen.interface.is_none_or(|only| only.as_str() == interface)
}

/// A frame with a SYN. Checksums are left out: nobody looks.
fn syn(from: IpAddr, to: std::net::SocketAddr) -> Vec<u8> {
    let mut frame = vec![0_u8; 12];
    match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (from, to) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(v6(from).octets());
            frame.extend(v6(to).octets());
        }
    }
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_has_its_headers_whole() {
        let v4 = syn([198, 51, 100, 1].into(), "203.0.113.1:80".parse().unwrap());
        assert_eq!(v4.len(), 14 + 20 + 20);
        assert_eq!((v4[14], v4[23], &v4[36..38]), (0x45, 6, &[0, 80][..]));
        let v6 = syn(
            "2001:db8::1".parse().unwrap(),
            "[2001:db8::2]:443".parse().unwrap(),
        );
        assert_eq!(v6.len(), 14 + 40 + 20);
        assert_eq!(
            (v6[14], v6[20], &v6[56..58]),
            (0x60, 6, &443_u16.to_be_bytes()[..])
        );
        assert_eq!(v6[54 + 13], 0x02, "SYN");
    }

    #[test]
    fn nothing_is_said_of_a_box_without_transparent_listeners() {
        assert_eq!(inspect(&["lo".into()], &[]), []);
    }
}
