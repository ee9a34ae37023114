//! What a case is, and how it is written down.

use std::time::Duration;

/// The name that weir goes by in `Via`.
pub const NODE: &str = "edge-1";

/// What weir adds to a request of HTTP/1.1.
pub const ADDED: &str = "Via: 1.1 edge-1\r\nX-Forwarded-For: 127.0.0.1\r\n";

/// A response that has nothing special.
pub const OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";

/// How the service is set up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Setting {
    /// As it comes: a head of 16 KiB, 64 fields, any body, times that no case reaches.
    Plain,
    /// `TRACE` is passed on.
    Trace,
    /// `CONNECT` is passed on.
    Connect,
    /// Request bodies of 10 bytes at the most.
    SmallBody,
    /// 300 ms for a head.
    ShortHead,
    /// 300 ms of the client's silence.
    ShortClient,
    /// 300 ms of the client's silence, and a kilobyte per second from then on.
    BodyRate,
    /// 300 ms of the backend's silence.
    ShortServer,
    /// 300 ms of silence in a tunnel.
    ShortTunnel,
    /// 200 ms for everything but a tunnel.
    LongTunnel,
    /// 300 ms between requests.
    ShortIdle,
    /// The client is a trusted proxy.
    Trusted,
    /// No `Via`.
    NoVia,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Self; 13] = [
        Self::Plain,
        Self::Trace,
        Self::Connect,
        Self::SmallBody,
        Self::ShortHead,
        Self::ShortClient,
        Self::BodyRate,
        Self::ShortServer,
        Self::ShortTunnel,
        Self::LongTunnel,
        Self::ShortIdle,
        Self::Trusted,
        Self::NoVia,
    ];
}

/// What a response of weir's own says of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// It ends.
    No,
    /// It stays.
    Yes,
    /// It stays, said aloud for HTTP/1.0.
    Aloud,
}

/// One thing that is done, or must be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The client sends this in one piece.
    Client(Vec<u8>),
    /// The client ends its side.
    ClientEnds,
    /// The client breaks off.
    ClientResets,
    /// The proxy has read what the client sent.
    Settled,
    /// The client gets this next.
    ClientGets(Vec<u8>),
    /// The client gets a response of the proxy's own: status, what it says of the connection, and whether it has no body.
    ClientGetsOwn(u16, Stays, bool),
    /// The client gets this next, but for the date, which stands as `*`.
    ClientGetsDated(String),
    /// The client's connection ends, or breaks off if `reset` says so. Some(false): only in order.
    ClientGetsEnd {
        /// Whether it must be a reset, or must not be one.
        reset: Option<bool>,
    },
    /// The origin sends this in one piece, on the connection opened last.
    Origin(Vec<u8>),
    /// The origin ends its side.
    OriginEnds,
    /// The origin breaks off.
    OriginResets,
    /// The origin gets this next.
    OriginGets(Vec<u8>),
    /// What has come to the origin since is this byte, over and over.
    OriginGetsOnly(u8),
    /// The origin's connection, the one opened last, ends or breaks off.
    OriginGetsEnd,
    /// The origin has had that many connections.
    Connections(usize),
    /// No byte has come to the origin. Where the bytes come one by one, no message that is whole: what was in order of it
    /// may have gone before the rest came.
    Untouched,
    /// For this long nothing comes to either side, nor an end.
    Silence(Duration),
    /// A piece every so often, until the proxy has answered or ended the connection: a client that drips.
    ClientDrips(&'static [u8], Duration),
    /// So many requests have ended for this reason, by weir's counters.
    Ended(&'static str, u64),
}

/// A case: a script between a client and an origin, with a proxy between them.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub id: &'static str,
    /// Where it stands, or what of the project's own it is about.
    pub rfc: &'static str,
    /// How the service is set up.
    pub setting: Setting,
    /// All its requests are `HEAD`.
    pub to_head: bool,
    /// What is sent in one piece must come in one.
    pub together: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Bytes, from text or bytes.
pub trait Bytes {
    /// The bytes.
    fn bytes(self) -> Vec<u8>;
}

impl Bytes for &str {
    fn bytes(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Bytes for String {
    fn bytes(self) -> Vec<u8> {
        self.into_bytes()
    }
}

impl Bytes for &[u8] {
    fn bytes(self) -> Vec<u8> {
        self.to_vec()
    }
}

/// A request as the origin gets it: what came of its head, what weir adds, the end of the head.
pub fn passed(head: &str) -> String {
    format!("{head}{ADDED}\r\n")
}

/// The same for a request of HTTP/1.0.
pub fn passed_old(head: &str) -> String {
    passed(head).replace("Via: 1.1", "Via: 1.0")
}

/// A case in the making.
pub fn case(id: &'static str, rfc: &'static str) -> Case {
    Case {
        id,
        rfc,
        setting: Setting::Plain,
        to_head: false,
        together: false,
        steps: Vec::new(),
    }
}

impl Case {
    /// Under another setting.
    pub fn under(mut self, setting: Setting) -> Self {
        self.setting = setting;
        self
    }

    /// All requests are `HEAD`.
    pub fn head(mut self) -> Self {
        self.to_head = true;
        self
    }

    /// Whether nothing in it hangs on which bytes come together, or on time.
    pub fn is_about_bytes(&self) -> bool {
        !self.together
            && self.setting != Setting::BodyRate
            && !self
                .steps
                .iter()
                .any(|step| matches!(step, Step::Settled | Step::Silence(_) | Step::ClientDrips(..)))
    }

    /// Whether nothing of its request is to reach the origin.
    pub fn ends_in_refusal(&self) -> bool {
        self.steps.contains(&Step::Untouched)
    }

    /// In pieces it would go otherwise: a response has begun before what is wrong with its body comes.
    pub fn together(mut self) -> Self {
        self.together = true;
        self
    }

    /// With one more step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// [`Step::Client`]
    pub fn client(self, bytes: impl Bytes) -> Self {
        self.step(Step::Client(bytes.bytes()))
    }

    /// [`Step::Client`], then [`Step::Settled`]: a piece of its own.
    pub fn client_piece(self, bytes: impl Bytes) -> Self {
        self.client(bytes).step(Step::Settled)
    }

    /// [`Step::Origin`]
    pub fn origin(self, bytes: impl Bytes) -> Self {
        self.step(Step::Origin(bytes.bytes()))
    }

    /// [`Step::OriginGets`]
    pub fn origin_gets(self, bytes: impl Bytes) -> Self {
        self.step(Step::OriginGets(bytes.bytes()))
    }

    /// [`Step::ClientGets`]
    pub fn client_gets(self, bytes: impl Bytes) -> Self {
        self.step(Step::ClientGets(bytes.bytes()))
    }

    /// A response of the proxy's own, after which the connection ends.
    pub fn refusal(self, status: u16) -> Self {
        let to_head = self.to_head;
        self.step(Step::ClientGetsOwn(status, Stays::No, to_head)).ends()
    }

    /// A response of the proxy's own, after which the connection stays.
    pub fn own(self, status: u16) -> Self {
        let to_head = self.to_head;
        self.step(Step::ClientGetsOwn(status, Stays::Yes, to_head))
    }

    /// The client's connection ends.
    pub fn ends(self) -> Self {
        self.step(Step::ClientGetsEnd { reset: None })
    }

    /// The origin's connection ends.
    pub fn origin_ends(self) -> Self {
        self.step(Step::OriginGetsEnd)
    }

    /// Nothing has reached the origin.
    pub fn untouched(self) -> Self {
        self.step(Step::Untouched)
    }

    /// One request has ended for this reason.
    pub fn ended(self, reason: &'static str) -> Self {
        self.step(Step::Ended(reason, 1))
    }

    /// The client's connection has stayed, and both ends agree on where messages end: another request goes through.
    pub fn kept(self) -> Self {
        let (method, answer) = if self.to_head {
            ("HEAD", "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n")
        } else {
            ("GET", OK)
        };
        self.client(format!("{method} /next HTTP/1.1\r\nHost: next\r\n\r\n"))
            .origin_gets(passed(&format!("{method} /next HTTP/1.1\r\nHost: next\r\n")))
            .origin(answer)
            .client_gets(answer)
    }
}

impl Case {
    /// The client gets another answer than [`OK`].
    pub fn replace_answer(mut self, answer: &str) -> Self {
        let usual = Step::ClientGets(OK.as_bytes().to_vec());
        if let Some(step) = self.steps.iter_mut().find(|step| **step == usual) {
            *step = Step::ClientGets(answer.as_bytes().to_vec());
        }
        self
    }
}

/// The word in weir's counters for a request that is answered with that status.
fn reason(status: u16) -> &'static str {
    match status {
        413 => "client-body-too-large",
        414 => "client-target-too-long",
        421 | 501 | 505 => "client-unsupported",
        431 => "client-head-too-large",
        _ => "client-bad-request",
    }
}

/// A request that is refused: its connection ends, and nothing of it reaches the origin.
pub fn refused(id: &'static str, rfc: &'static str, request: impl Bytes, status: u16) -> Case {
    let request = request.bytes();
    let case = case(id, rfc);
    let case = if request.starts_with(b"HEAD ") {
        case.head()
    } else {
        case
    };
    case.client(request.as_slice())
        .refusal(status)
        .untouched()
        .ended(reason(status))
}

/// A request that passes, and is answered.
pub fn passes(id: &'static str, rfc: &'static str, request: impl Bytes, seen: impl Bytes) -> Case {
    case(id, rfc)
        .client(request)
        .origin_gets(seen)
        .origin(OK)
        .client_gets(OK)
        .ended("ok")
        .kept()
}

/// A request that asks for nothing special.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A case up to where the origin has the request.
pub fn asked(id: &'static str, rfc: &'static str) -> Case {
    case(id, rfc)
        .client(GET)
        .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
}

/// A response that passes.
pub fn answered(id: &'static str, rfc: &'static str, response: impl Bytes, seen: impl Bytes) -> Case {
    asked(id, rfc)
        .origin(response)
        .client_gets(seen)
        .ended("ok")
        .kept()
}

/// A response that is none: the client gets 502 and not a byte of it, the connection to the origin ends.
pub fn not_believed(id: &'static str, rfc: &'static str, response: impl Bytes) -> Case {
    asked(id, rfc)
        .origin(response)
        .own(502)
        .origin_ends()
        .ended("backend-bad-response")
        .kept()
}
