//! Plays a case: a client of raw frames against a front, over whatever carries bytes.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{
    case::{Case, Settings, Sight, Step},
    frames::{Code, Frame, PREFACE, flag, kind, ping, setting, settings},
};
use crate::drive::Deviation;

/// What carries a connection's bytes: a socket, or TLS over one.
pub trait Link: Read + Write {
    /// How long a read may wait.
    ///
    /// # Errors
    /// The transport does not take it.
    fn set_patience(&mut self, patience: Duration) -> io::Result<()>;
}

impl Link for TcpStream {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

/// A front under test.
pub trait Front {
    /// A new connection to it, on which HTTP/2 is spoken from the first byte.
    ///
    /// # Errors
    /// It can't be had.
    fn connect(&self) -> io::Result<Box<dyn Link>>;

    /// Whole requests that its origin has seen, all of them this case's while one is played. None: whether a case leaves the
    /// origin untouched is not looked at.
    fn served(&self) -> Option<u64>;
}

/// How closely a front is held to a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rigor {
    /// A connection error is told before it ends the connection; a stream error leaves the connection as it is.
    Letter,
    /// What the RFC takes: an end without a word, a connection error for a stream's. Patiently no longer than this.
    Rfc(Duration),
}

/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Proves that a connection goes on.
const PROOF: [u8; 8] = *b"go on?!?";

enum Next {
    Frame(Frame),
    /// In order, or broken off.
    End,
    Silence,
}

struct Drive {
    link: Box<dyn Link>,
    rigor: Rigor,
    settings: Settings,
    /// Bytes that came and are no whole frame yet.
    have: Vec<u8>,
    first: bool,
    log: Vec<String>,
}

/// Plays the case on a connection of its own.
///
/// # Errors
/// The first thing that was otherwise.
pub fn play(case: &Case, front: &dyn Front, rigor: Rigor) -> Result<(), Deviation> {
    let before = front.served();
    let link = front
        .connect()
        .map_err(|e| other("does not connect", e.to_string()))?;
    let mut drive = Drive {
        link,
        rigor,
        settings: Settings::default(),
        have: Vec::new(),
        first: true,
        log: Vec::new(),
    };
    let mut played = if case.bare { Ok(()) } else { drive.shake() };
    for (at, step) in case.steps.iter().enumerate() {
        if played.is_err() {
            break;
        }
        played = match step {
            Step::Send(bytes) => {
                drive.send(bytes);
                Ok(())
            }
            Step::SendBy(make) => match make(drive.settings) {
                Some(bytes) => {
                    drive.send(&bytes);
                    Ok(())
                }
                None => return Ok(()),
            },
            Step::See(sight) => drive.see(*sight).map_err(|sign| {
                let log = drive.log.join(", ");
                other(&sign, format!("step {at}, {sight:?}: {}; came: {log}", case.rule))
            }),
        };
    }
    played?;
    match (before, front.served()) {
        (Some(before), Some(after)) if case.untouched && rigor == Rigor::Letter && before != after => {
            Err(other("passes it on", format!("{} requests", after - before)))
        }
        _ => Ok(()),
    }
}

fn other(sign: &str, story: String) -> Deviation {
    Deviation {
        sign: sign.to_owned(),
        story,
    }
}

impl Drive {
    /// Exchanges prefaces and settings.
    fn shake(&mut self) -> Result<(), Deviation> {
        self.send(&[PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])].concat());
        let shaken = self.see(Sight::Settings).and_then(|()| {
            // An acknowledgement of its settings, and no other thing, may be on the way yet.
            self.send(&super::frames::frame(kind::SETTINGS, flag::ACK, 0, &[]));
            self.see(Sight::Acknowledged)
        });
        shaken.map_err(|sign| other(&format!("does not begin: {sign}"), self.log.join(", ")))
    }

    /// What it can't take any more shows in what follows.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.link.write_all(bytes).and_then(|()| self.link.flush());
    }

    fn patience(&self) -> Duration {
        match self.rigor {
            Rigor::Letter => PATIENCE,
            Rigor::Rfc(patience) => patience,
        }
    }

    fn next(&mut self, until: Instant) -> Next {
        loop {
            if let Some(frame) = self.take() {
                self.log.push(show(&frame));
                return Next::Frame(frame);
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut room = [0; 4096];
            let read = self
                .link
                .set_patience(left.max(Duration::from_millis(1)))
                .and_then(|()| self.link.read(&mut room));
            match read {
                Ok(0) => {
                    self.log.push("its end".to_owned());
                    return Next::End;
                }
                Ok(n) => self.have.extend_from_slice(room.get(..n).unwrap_or_default()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if until <= Instant::now() {
                        self.log.push("nothing more".to_owned());
                        return Next::Silence;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.log.push(e.to_string());
                    return Next::End;
                }
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *self.have.first_chunk::<9>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let payload = self.have.get(9..9 + length)?.to_vec();
        self.have.drain(..9 + length);
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            payload,
        })
    }

    /// Waits for it; answers with what was there instead, in few words.
    fn see(&mut self, sight: Sight) -> Result<(), String> {
        let until = Instant::now() + self.patience();
        // What there was of interest, should nothing more come.
        let mut instead = "nothing".to_owned();
        let mut answered = false;
        loop {
            let frame = match self.next(until) {
                Next::Frame(frame) => frame,
                Next::Silence => return Err(instead),
                Next::End => return self.judge_end(sight),
            };
            let first = std::mem::replace(&mut self.first, false);
            if frame.kind == kind::SETTINGS && frame.flags & flag::ACK == 0 {
                self.note(&frame);
            }
            let code = frame.code();
            match (sight, frame.kind) {
                (Sight::Settings, kind::SETTINGS) if first && frame.flags & flag::ACK == 0 => return Ok(()),
                (Sight::Settings, _) => return Err("begins otherwise".to_owned()),
                (Sight::Acknowledged, kind::SETTINGS) if frame.is(kind::SETTINGS, flag::ACK) => return Ok(()),
                (Sight::Ends(codes) | Sight::Errs(_, codes), kind::GOAWAY) if has(codes, code) => {
                    return self.ends(until);
                }
                (Sight::Resets(stream, codes) | Sight::Errs(stream, codes), kind::RST_STREAM)
                    if stream == 0 || frame.stream == stream =>
                {
                    return match has(codes, code) {
                        true => self.goes_on(),
                        false => Err(show(&frame)),
                    };
                }
                (Sight::Resets(_, codes), kind::GOAWAY) if has(codes, code) && self.is_lenient() => {
                    return Ok(());
                }
                (Sight::Head(stream), kind::HEADERS) if frame.stream == stream => return Ok(()),
                (Sight::Answer(stream), kind::HEADERS | kind::DATA) if frame.stream == stream => {
                    if frame.kind == kind::HEADERS && !std::mem::replace(&mut answered, true) {
                        match frame.status() {
                            Some(200..300) => {}
                            _ => return Err(show(&frame)),
                        }
                    }
                    if frame.flags & flag::END_STREAM != 0 {
                        return Ok(());
                    }
                    instead = "does not end its answer".to_owned();
                }
                (Sight::Over(stream), kind::HEADERS | kind::DATA)
                    if frame.stream == stream && frame.flags & flag::END_STREAM != 0 =>
                {
                    return Ok(());
                }
                (Sight::Over(stream), kind::RST_STREAM)
                    if frame.stream == stream && code == Some(Code::NO_ERROR) =>
                {
                    return Ok(());
                }
                (Sight::Data(stream, length), kind::DATA)
                    if frame.stream == stream && !frame.payload.is_empty() =>
                {
                    return match frame.payload.len() == length {
                        true => Ok(()),
                        false => Err(format!("sends {} bytes", frame.payload.len())),
                    };
                }
                (Sight::Pong(data) | Sight::PongOrEnd(data), kind::PING) => {
                    return match frame.is(kind::PING, flag::ACK) && frame.payload == data {
                        true => Ok(()),
                        false => Err("answers another ping".to_owned()),
                    };
                }
                // Goodbye in good order may come at any time.
                (_, kind::GOAWAY) if code != Some(Code::NO_ERROR) && sight != Sight::Closed => {
                    return Err(show(&frame));
                }
                (Sight::Head(stream) | Sight::Answer(stream) | Sight::Data(stream, _), kind::RST_STREAM)
                    if frame.stream == stream =>
                {
                    return Err(show(&frame));
                }
                // A stream that was answered to its end is not reset any more.
                (Sight::Resets(stream, _), kind::HEADERS | kind::DATA)
                    if frame.stream == stream && frame.flags & flag::END_STREAM != 0 =>
                {
                    return Err(match frame.kind {
                        kind::HEADERS => show(&frame),
                        _ => instead,
                    });
                }
                (_, kind::HEADERS | kind::RST_STREAM) => instead = show(&frame),
                _ => {}
            }
        }
    }

    fn judge_end(&self, sight: Sight) -> Result<(), String> {
        match sight {
            Sight::Ends(_) | Sight::Resets(..) | Sight::Errs(..) if self.is_lenient() => Ok(()),
            Sight::PongOrEnd(_) | Sight::Closed => Ok(()),
            Sight::Ends(_)
            | Sight::Resets(..)
            | Sight::Errs(..)
            | Sight::Head(_)
            | Sight::Answer(_)
            | Sight::Over(_)
            | Sight::Data(..)
            | Sight::Acknowledged
            | Sight::Settings
            | Sight::Pong(_) => Err("just ends".to_owned()),
        }
    }

    const fn is_lenient(&self) -> bool {
        matches!(self.rigor, Rigor::Rfc(_))
    }

    /// After its GOAWAY the connection ends.
    fn ends(&mut self, until: Instant) -> Result<(), String> {
        if self.is_lenient() {
            return Ok(());
        }
        loop {
            match self.next(until) {
                Next::Frame(_) => {}
                Next::End => return Ok(()),
                Next::Silence => return Err("stays".to_owned()),
            }
        }
    }

    /// After a stream's error the connection is as it was.
    fn goes_on(&mut self) -> Result<(), String> {
        if self.is_lenient() {
            return Ok(());
        }
        self.send(&ping(0, PROOF));
        self.see(Sight::Pong(PROOF))
            .map_err(|sign| format!("resets the stream, then {sign}"))
    }

    fn note(&mut self, frame: &Frame) {
        for (id, value) in frame.settings() {
            let size = usize::try_from(value).unwrap_or(usize::MAX);
            match id {
                setting::MAX_FRAME_SIZE => self.settings.frame = size,
                setting::MAX_CONCURRENT_STREAMS => self.settings.streams = Some(value),
                setting::HEADER_TABLE_SIZE => self.settings.table = size,
                _ => {}
            }
        }
    }
}

fn has(codes: &[Code], code: Option<Code>) -> bool {
    code.is_some_and(|code| codes.contains(&code))
}

fn show(frame: &Frame) -> String {
    let code = frame.code().map_or("", Code::as_str);
    let stream = frame.stream;
    let end = if frame.flags & flag::END_STREAM == 0 {
        ""
    } else {
        " END_STREAM"
    };
    match frame.kind {
        kind::DATA => format!("DATA {stream} of {}{end}", frame.payload.len()),
        kind::HEADERS => match frame.status() {
            Some(status) => format!("answers {status}"),
            None => "answers".to_owned(),
        },
        kind::RST_STREAM => format!("RST_STREAM {stream} {code}"),
        kind::SETTINGS if frame.flags & flag::ACK != 0 => "SETTINGS ACK".to_owned(),
        kind::SETTINGS => "SETTINGS".to_owned(),
        kind::PING => "PING".to_owned(),
        kind::GOAWAY => format!("GOAWAY {code}"),
        kind::WINDOW_UPDATE => format!("WINDOW_UPDATE {stream}"),
        other => format!("a frame of type {other}"),
    }
}
