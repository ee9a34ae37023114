//! How the relay speaks to a pool's backends, what it may do with connections to them, and how often it may try.

use std::time::Duration;

/// `[pools.NAME.connections]`: the relay's connections to each backend of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connections {
    /// Idle connections that each worker keeps ready for each backend; at most `idle_max`.
    pub idle_min: u32,
    /// Idle connections that each worker keeps for each backend at the most.
    pub idle_max: u32,
    /// How long a connection is kept idle.
    pub idle_timeout: Duration,
    /// Connections to each backend at once, of all workers, idle ones included. None: any number. A backend may say
    /// otherwise: see [`super::Pool::max_connections`].
    pub max: Option<u32>,
    /// Requests and connections that may wait for the pool at once, of all workers.
    pub queue: u32,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            idle_min: 0,
            idle_max: 256,
            // Below what servers commonly allow (nginx 75 s); those that end sooner (Apache 5 s) are noticed when they
            // are taken out.
            idle_timeout: Duration::from_secs(30),
            max: None,
            queue: 1024,
        }
    }
}

/// `pools.NAME.protocol`: what backends are spoken to in, by services of mode `http` and by checks of type `http`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 over plain TCP, known beforehand (RFC 9113 section 3.3).
    H2c,
    /// HTTP/2 over TLS, agreed on by ALPN (RFC 9113 section 3.2).
    H2,
}

impl HttpProtocol {
    /// Whether it is HTTP/2, over whatever.
    pub const fn is_http2(self) -> bool {
        match self {
            Self::Http1 => false,
            Self::H2c | Self::H2 => true,
        }
    }

    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::H2c => "h2c",
            Self::H2 => "h2",
        }
    }
}

/// `[pools.NAME.http2]`: the relay's HTTP/2 connections to each backend of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Http2 {
    /// Requests that one connection carries at once at the most; a backend may allow fewer.
    pub streams: u32,
    /// Bytes of a response that a backend may send before the client has taken some of it.
    pub window: u32,
    /// Silence of a connection after which it is asked whether it is still there. None: never.
    pub ping: Option<Duration>,
    /// How long the answer may take.
    pub ping_timeout: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            streams: 100,
            window: 256 << 10,
            ping: Some(Duration::from_secs(30)),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// `[pools.NAME.retries]`: when a request goes to another backend after a try failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retries {
    /// Backends that one request is offered to, at least 1.
    pub attempts: u32,
    /// Requests that are sent again, in percent of all requests of the last seconds.
    pub budget: u32,
    /// Requests per second that may be sent again whatever the percentage, of all workers.
    pub floor: u32,
    /// What makes another try.
    pub on: RetryOn,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 4,
            budget: 20,
            floor: 10,
            on: RetryOn::default(),
        }
    }
}

/// What makes another try on another backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetryOn {
    /// The backend could not be connected to. The request was not sent, so the budget is not asked.
    pub connect: bool,
    /// The backend closed the connection before it answered.
    pub closed: bool,
    /// The backend did not answer in time.
    pub timeout: bool,
    /// The backend answered with one of these.
    pub statuses: Vec<u16>,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            connect: true,
            closed: true,
            timeout: false,
            statuses: Vec::new(),
        }
    }
}
