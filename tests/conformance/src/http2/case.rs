//! What a case is: what a client sends, frame by frame, and what it must see of it.

use super::frames::Code;

/// What the other side has said of itself in its first settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The largest frame that it takes.
    pub frame: usize,
    /// Streams at once. None: any number.
    pub streams: Option<u32>,
    /// Bytes of its table for decoding heads.
    pub table: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            frame: 16 << 10,
            streams: None,
            table: 4096,
        }
    }
}

/// One thing that is done, or must be seen.
#[derive(Clone, Debug)]
pub enum Step {
    /// The client sends this.
    Send(Vec<u8>),
    /// The client sends what depends on the other side's settings. None: the case says nothing then, and is passed.
    SendBy(fn(Settings) -> Option<Vec<u8>>),
    /// This comes next, but for frames that are of no interest.
    See(Sight),
}

/// What must be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// A connection error (RFC 9113 section 5.4.1): GOAWAY with one of these codes, or just the end.
    Ends(&'static [Code]),
    /// The end, whatever comes before it: what is no HTTP/2 may be answered in HTTP/1 (section 3.4).
    Closed,
    /// A stream error (section 5.4.2): a reset with one of these codes, of any stream if it says 0. It may be made a
    /// connection error, but a front had better not: others share the connection.
    Resets(u32, &'static [Code]),
    /// A stream error that nobody makes but a client that is broken itself: a connection error is as good.
    Errs(u32, &'static [Code]),
    /// The head of a response, whatever its status.
    Head(u32),
    /// A response to its end, and a success.
    Answer(u32),
    /// A stream that is over: answered, or reset without an error.
    Over(u32),
    /// DATA of that many bytes.
    Data(u32, usize),
    /// The settings are acknowledged.
    Acknowledged,
    /// The first frame of all is SETTINGS.
    Settings,
    /// A ping with this is answered; nothing else was.
    Pong([u8; 8]),
    /// The same, or the connection has ended.
    PongOrEnd([u8; 8]),
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name: `SECTION/WORDS`.
    pub id: &'static str,
    /// What is expected, in a sentence.
    pub rule: &'static str,
    /// The client begins as it likes: no preface and settings are exchanged for it.
    pub bare: bool,
    /// No whole request may reach the origin.
    pub untouched: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// A case in the making.
pub fn case(id: &'static str, rule: &'static str) -> Case {
    Case {
        id,
        rule,
        bare: false,
        untouched: false,
        steps: Vec::new(),
    }
}

impl Case {
    /// The client begins as it likes.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// No whole request may reach the origin.
    pub fn untouched(mut self) -> Self {
        self.untouched = true;
        self
    }

    /// [`Step::Send`]
    pub fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    /// [`Step::SendBy`]
    pub fn send_by(mut self, make: fn(Settings) -> Option<Vec<u8>>) -> Self {
        self.steps.push(Step::SendBy(make));
        self
    }

    /// [`Step::See`]
    pub fn see(mut self, sight: Sight) -> Self {
        self.steps.push(Step::See(sight));
        self
    }

    /// [`Sight::Ends`]
    pub fn ends(self, codes: &'static [Code]) -> Self {
        self.see(Sight::Ends(codes))
    }

    /// [`Sight::Resets`] of stream 1.
    pub fn resets(self, codes: &'static [Code]) -> Self {
        self.see(Sight::Resets(1, codes))
    }

    /// [`Sight::Errs`] of stream 1.
    pub fn errs(self, codes: &'static [Code]) -> Self {
        self.see(Sight::Errs(1, codes))
    }

    /// [`Sight::Answer`] on stream 1.
    pub fn answered(self) -> Self {
        self.see(Sight::Answer(1))
    }

    /// A ping is sent and answered: the connection is in order, and what came before it has been looked at.
    pub fn alive(self) -> Self {
        const DATA: [u8; 8] = *b"are you?";
        self.send(super::frames::ping(0, DATA)).see(Sight::Pong(DATA))
    }
}
