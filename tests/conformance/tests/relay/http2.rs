//! Every case of HTTP/2 through a relay in this process, to the letter.

use std::{io, net::TcpStream};

use weir_conformance_tests::{
    Setting,
    http2::{
        AT_ONCE, Front, Link, Origin, Rigor,
        deviations::{self, Peer, why},
        play_all,
    },
};

use super::{Weir, http};

/// A relay with an origin of its own.
struct Alone {
    weir: Weir,
    origin: Origin,
}

impl Front for Alone {
    fn connect(&self) -> io::Result<Box<dyn Link>> {
        let stream = TcpStream::connect(self.weir.at)?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn served(&self) -> Option<u64> {
        Some(self.origin.served())
    }
}

#[test]
fn http2_to_the_letter() {
    let alone = || {
        let origin = Origin::start().unwrap();
        let mut http = http(Setting::Plain);
        http.http2.enabled = true;
        let weir = Weir::with(http, origin.at());
        Alone { weir, origin }
    };
    let mut failures = play_all(alone, Rigor::Letter, AT_ONCE);
    for (id, sign) in deviations::of(Peer::Weir) {
        let is_there = failures.get(id).is_some_and(|deviation| deviation.sign == sign);
        assert!(
            is_there,
            "{id}: does not show as \"{sign}\" any more; out of the table with it"
        );
    }
    failures.retain(|id, deviation| why(Peer::Weir, id, &deviation.sign).is_none());
    let told: String = failures
        .iter()
        .map(|(id, deviation)| format!("\n{id} {deviation}"))
        .collect();
    assert!(failures.is_empty(), "{} cases:{told}", failures.len());
}
