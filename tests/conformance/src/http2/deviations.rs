//! What is known of how fronts differ from a case, and why that is: weir, HAProxy 2.6, nginx 1.22, nghttpd 1.52.
//!
//! Each was looked at twice: once for what the front does, once for whether weir should do the same.

/// A front that the cases are played against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// weir, held to the letter.
    Weir,
    /// HAProxy, Debian's.
    Haproxy,
    /// nginx, Debian's.
    Nginx,
    /// nghttpd, Debian's: a server, no proxy.
    Nghttpd,
}

/// Cases in which a front differs in one way for one reason.
struct Known {
    peer: Peer,
    why: &'static str,
    /// How it shows.
    sign: &'static str,
    /// Their names, between blanks.
    cases: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        peer: Peer::Weir,
        why: "the h2 crate (0.4.20) ends the connection, as it must, but has this code for whatever HPACK can't decode",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "4.3/no-block 7541-2.3.3/index 7541-2.3.3/name-index 7541-4.2/change-behind 7541-5.1/endless \
                7541-5.2/cut 7541-5.2/end-of-string 7541-5.2/padded-by-zeros 7541-5.2/padded-too-much \
                7541-6.1/zero 7541-6.3/larger",
    },
    Known {
        peer: Peer::Weir,
        why: "to the h2 crate a name or value that can't be one is a block that can't be decoded: the connection ends, \
              where an error of the stream would do (RFC 9113 section 5.4 allows it)",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "8.2.1/name-blank 8.2.1/name-colon 8.2.1/name-empty 8.2.1/uppercase 8.2.1/value-cr 8.2.1/value-lf \
                8.2.1/value-nul 8.3/unknown",
    },
    Known {
        peer: Peer::Weir,
        why: "the h2 crate drops pseudo-fields of trailers unseen; nothing of them is passed on",
        sign: "answers 200",
        cases: "8.3/in-trailers",
    },
    Known {
        peer: Peer::Haproxy,
        why: "takes padding for a frame without data, of which RFC 9113 section 10.5 lets it be wary",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "6.1/only-padding",
    },
    Known {
        peer: Peer::Haproxy,
        why: "does not know the setting",
        sign: "nothing",
        cases: "6.5.2/connect-is-no-boolean",
    },
    Known {
        peer: Peer::Haproxy,
        why: "has another code for HEADERS behind the request's end",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "5.1/half-closed-headers",
    },
    Known {
        peer: Peer::Haproxy,
        why: "counts a stream that was left out as closed, which RFC 9113 section 5.1.1 says of it too",
        sign: "GOAWAY STREAM_CLOSED",
        cases: "5.1.1/smaller",
    },
    Known {
        peer: Peer::Haproxy,
        why: "does not look at the windows of streams that there are",
        sign: "nothing",
        cases: "6.9.2/overflows-a-stream",
    },
    Known {
        peer: Peer::Haproxy,
        why: "passes a length without a body on",
        sign: "answers 200",
        cases: "8.1.1/length-without-body",
    },
    Known {
        peer: Peer::Haproxy,
        why: "has another code for a name without a letter",
        sign: "GOAWAY COMPRESSION_ERROR",
        cases: "8.2.1/name-empty",
    },
    Known {
        peer: Peer::Haproxy,
        why: "takes blanks around a value off",
        sign: "answers 200",
        cases: "8.2.1/value-blank-before 8.2.1/value-blank-behind",
    },
    Known {
        peer: Peer::Haproxy,
        why: "has another code",
        sign: "RST_STREAM 1 INTERNAL_ERROR",
        cases: "8.3/in-trailers",
    },
    Known {
        peer: Peer::Nginx,
        why: "takes no trailers in requests",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "8.1/trailers",
    },
    Known {
        peer: Peer::Nginx,
        why: "waits for no settings",
        sign: "nothing",
        cases: "3.4/no-settings",
    },
    Known {
        peer: Peer::Nginx,
        why: "has another code for a block that is cut",
        sign: "GOAWAY FRAME_SIZE_ERROR",
        cases: "4.3/no-block 7541-5.2/cut",
    },
    Known {
        peer: Peer::Nginx,
        why: "passes over frames of streams that it does not know",
        sign: "nothing",
        cases: "5.1/idle-data 5.1/idle-reset 5.1/idle-window 5.1/reset-data 5.1/closed-data 6.4/on-idle",
    },
    Known {
        peer: Peer::Nginx,
        why: "does not know the setting",
        sign: "nothing",
        cases: "6.5.2/connect-is-no-boolean",
    },
    Known {
        peer: Peer::Nginx,
        why: "has another code for HEADERS of a stream that is no new one",
        sign: "GOAWAY PROTOCOL_ERROR",
        cases: "5.1/half-closed-headers 5.1/reset-headers 5.1/closed-headers",
    },
    Known {
        peer: Peer::Nginx,
        why: "resets the stream alone",
        sign: "RST_STREAM 1 FLOW_CONTROL_ERROR",
        cases: "6.9.2/overflows-a-stream",
    },
    Known {
        peer: Peer::Nginx,
        why: "answers malformed requests, as RFC 9113 section 8.1.1 lets it",
        sign: "answers 400",
        cases: "8.1.1/length-too-small 8.1.1/length-too-small-in-two 8.1.1/length-too-large \
                8.1.1/length-without-body 8.3/unknown 8.3/of-a-response 8.3.1/path-empty 8.3.1/path-relative 8.3.1/no-method 8.3.1/no-scheme 8.3.1/no-path 8.3.1/two-methods 8.3.1/two-schemes 8.3.1/two-paths 8.3.1/two-authorities",
    },
    Known {
        peer: Peer::Nginx,
        why: "has 405 for CONNECT as such",
        sign: "answers 405",
        cases: "8.5/connect-with-path",
    },
    Known {
        peer: Peer::Nginx,
        why: "takes blanks around a value off",
        sign: "answers 200",
        cases: "8.2.1/value-blank-before 8.2.1/value-blank-behind",
    },
    Known {
        peer: Peer::Nginx,
        why: "drops fields of a connection, and goes on",
        sign: "answers 200",
        cases: "8.2.2/connection 8.2.2/proxy-connection 8.2.2/keep-alive 8.2.2/transfer-encoding \
                8.2.2/upgrade 8.2.2/te",
    },
    Known {
        peer: Peer::Nginx,
        why: "does not look at the order of fields",
        sign: "answers 200",
        cases: "8.3/behind-fields",
    },
    Known {
        peer: Peer::Nginx,
        why: "is lenient with HPACK",
        sign: "answers 200",
        cases: "7541-4.2/change-behind 7541-5.2/padded-too-much",
    },
    Known {
        peer: Peer::Nghttpd,
        why: "passes over a stream that was left out",
        sign: "answers 200",
        cases: "5.1.1/smaller",
    },
    Known {
        peer: Peer::Nghttpd,
        why: "resets the stream alone",
        sign: "RST_STREAM 1 FLOW_CONTROL_ERROR",
        cases: "6.9.2/overflows-a-stream",
    },
];

/// Why a front differs in that case in that way; None: nobody knows.
pub fn why(peer: Peer, case: &str, sign: &str) -> Option<&'static str> {
    let is = |known: &&Known| {
        known.peer == peer && known.sign == sign && known.cases.split_ascii_whitespace().any(|c| c == case)
    };
    KNOWN.iter().find(is).map(|known| known.why)
}

/// What is known of a front: cases with how it shows.
pub fn of(peer: Peer) -> impl Iterator<Item = (&'static str, &'static str)> {
    let known = KNOWN.iter().filter(move |known| known.peer == peer);
    known.flat_map(|known| {
        let cases = known.cases.split_ascii_whitespace();
        cases.map(|case| (case, known.sign))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_known_of_cases_that_there_are() {
        let cases = super::super::cases::all();
        for name in KNOWN
            .iter()
            .flat_map(|known| known.cases.split_ascii_whitespace())
        {
            assert!(cases.iter().any(|case| case.id == name), "{name}");
        }
    }
}
