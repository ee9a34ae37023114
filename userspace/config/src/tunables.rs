//! Tunables: what an operator may set without touching weir.toml, by dotted names in sysctl.conf(5) syntax.
//!
//! Owns their values, where each came from, and the checks of type and range. The list is `registry.rs`, files are
//! read by `file.rs`. Never applies anything: the values become the defaults of the next resolved plan, and whoever
//! sets one at run time resolves anew.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    units::{Trouble, parse_duration, parse_size, show_duration, show_size},
    words::{Guesser, plain, quoted},
};

mod file;
mod registry;

pub use file::assignments;
pub use registry::{REGISTRY, Values};

/// One tunable: what is known of it beside its value.
#[derive(Debug)]
pub struct Tunable {
    /// The dotted name.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// When a new value takes effect.
    pub applies: Applies,
    /// One sentence.
    pub description: &'static str,
}

/// Type and range of a tunable. Ranges are inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A duration, a multiple of `step`.
    Duration {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
        /// What it is counted in.
        step: Duration,
    },
    /// A number of bytes.
    Bytes {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A plain number.
    Count {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
        /// Whether it must be a prime.
        prime: bool,
    },
}

/// When a new value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applies {
    /// At once.
    Live,
    /// With the next start of weir.
    Restart,
}

impl Applies {
    /// `live` or `restart`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
        }
    }
}

/// A tunable's value. Printed as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// A duration.
    Duration(Duration),
    /// A number of bytes.
    Bytes(u64),
    /// A plain number.
    Count(u32),
}

impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Duration(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Bytes(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Count(value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(value) => f.write_str(&show_duration(*value)),
            Self::Bytes(value) => f.write_str(&show_size(*value)),
            Self::Count(value) => value.fmt(f),
        }
    }
}

/// The payload of a value, by the type of the field that holds it.
#[expect(
    non_snake_case,
    reason = "one function per type, named after it for the registry's macro"
)]
mod kind_of {
    use super::{Duration, Value};

    pub(super) const fn Duration(value: Value) -> Option<Duration> {
        match value {
            Value::Duration(value) => Some(value),
            Value::Bytes(_) | Value::Count(_) => None,
        }
    }

    pub(super) const fn u64(value: Value) -> Option<u64> {
        match value {
            Value::Bytes(value) => Some(value),
            Value::Duration(_) | Value::Count(_) => None,
        }
    }

    pub(super) const fn u32(value: Value) -> Option<u32> {
        match value {
            Value::Count(value) => Some(value),
            Value::Duration(_) | Value::Bytes(_) => None,
        }
    }
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of a file.
    File {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// Set while weir ran.
    Runtime,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Runtime => f.write_str("runtime"),
        }
    }
}

/// A tunable with its present value.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'t> {
    /// What it is.
    pub tunable: &'static Tunable,
    /// Its value.
    pub value: Value,
    /// Where the value came from.
    pub origin: &'t Origin,
}

impl fmt::Display for Setting<'_> {
    /// As a line of sysctl.conf(5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.tunable.name, self.value)
    }
}

/// Why a tunable was not set. Printed as `what is wrong; the mend`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetError {
    pub(crate) what: String,
    pub(crate) mend: String,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}

impl std::error::Error for SetError {}

/// All tunables with their values. Every one always has a value, in range.
///
/// Serialised as `name: value` pairs; origins do not travel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "Vec<(String, String)>", try_from = "Vec<(String, String)>")]
pub struct Tunables {
    values: Values,
    origins: Vec<Origin>,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            values: Values::default(),
            origins: vec![Origin::Default; REGISTRY.len()],
        }
    }
}

impl Tunables {
    /// All values, typed.
    pub const fn values(&self) -> &Values {
        &self.values
    }

    /// The tunable of that name with its value.
    pub fn get(&self, name: &str) -> Option<Setting<'_>> {
        self.setting(index_of(name)?)
    }

    /// Every tunable with its value, in the registry's order.
    pub fn iter(&self) -> impl Iterator<Item = Setting<'_>> {
        (0..REGISTRY.len()).filter_map(|index| self.setting(index))
    }

    /// Parses and sets a value.
    ///
    /// # Errors
    /// An unknown name, a value of the wrong type or out of range: nothing is changed then.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<Setting<'_>, SetError> {
        let unknown = || {
            let mend = match Guesser::new().guess(name, REGISTRY.iter().map(|t| t.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`weir sysctl -a` lists all tunables".into(),
            };
            SetError {
                what: format!("there is no tunable {}", quoted(name)),
                mend,
            }
        };
        let index = index_of(name).ok_or_else(unknown)?;
        let tunable = REGISTRY.get(index).ok_or_else(unknown)?;
        let value = tunable.parse(text).map_err(|Trouble { what, mend }| SetError {
            what: format!("{name} {what}"),
            mend,
        })?;
        self.values.write(index, value);
        if let Some(slot) = self.origins.get_mut(index) {
            *slot = origin;
        }
        self.setting(index).ok_or_else(unknown)
    }

    /// All values as sysctl.conf(5) lines.
    pub fn render(&self) -> String {
        self.iter().map(|setting| format!("{setting}\n")).collect()
    }

    fn setting(&self, index: usize) -> Option<Setting<'_>> {
        let tunable = REGISTRY.get(index)?;
        Some(Setting {
            tunable,
            value: self.values.read(index)?,
            origin: self.origins.get(index)?,
        })
    }
}

/// A sysctl.conf(5) file that names every tunable, described, at its default and commented out.
pub fn example() -> String {
    let mut out = String::from(
        "# Every tunable of weir at its default: `weir sysctl -a` shows those in force.\n\
         # Files *.conf of this directory are read in the order of their names; a later line wins.\n",
    );
    for Setting { tunable, value, .. } in Tunables::default().iter() {
        out.push_str(&format!(
            "\n# {}\n# {}; {}\n#{} = {value}\n",
            tunable.description,
            tunable.kind,
            match tunable.applies {
                Applies::Live => "applies at once",
                Applies::Restart => "applies with the next start",
            },
            tunable.name,
        ));
    }
    out
}

impl fmt::Display for Kind {
    /// `duration, 1ms to 1d`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Duration { min, max, step } => {
                let whole = if step > Duration::from_millis(1) {
                    " in whole seconds"
                } else {
                    ""
                };
                write!(
                    f,
                    "duration{whole}, {} to {}",
                    show_duration(min),
                    show_duration(max)
                )
            }
            Self::Bytes { min, max } => write!(f, "bytes, {} to {}", show_size(min), show_size(max)),
            Self::Count { min, max, prime } => {
                write!(f, "{}, {min} to {max}", if prime { "prime" } else { "count" })
            }
        }
    }
}

impl Tunable {
    fn parse(&self, text: &str) -> Result<Value, Trouble> {
        let too = |how: &str, bound: String, mend: &str| {
            Trouble::new(
                format!("is {}, {how} than {bound}", plain(text)),
                format!("set it to {bound} or {mend}"),
            )
        };
        match self.kind {
            Kind::Duration { min, max, step } => {
                let value = parse_duration(text)?;
                if value < min {
                    return Err(too("less", show_duration(min), "more"));
                }
                if value > max {
                    return Err(too("more", show_duration(max), "less"));
                }
                if value.as_millis() % step.as_millis().max(1) != 0 {
                    return Err(Trouble::new(
                        format!("is {}, not a multiple of {}", plain(text), show_duration(step)),
                        format!("set it to {}s", value.as_secs() + 1),
                    ));
                }
                Ok(Value::Duration(value))
            }
            Kind::Bytes { min, max } => match parse_size(text)? {
                value if value < min => Err(too("less", show_size(min), "more")),
                value if value > max => Err(too("more", show_size(max), "less")),
                value => Ok(Value::Bytes(value)),
            },
            Kind::Count { min, max, prime } => {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                if !digits {
                    return Err(Trouble::new(
                        format!("is no whole number ({})", quoted(text)),
                        format!("write a number from {min} to {max}"),
                    ));
                }
                // What does not fit a u32 is out of every range.
                let value = text.parse::<u32>().unwrap_or(u32::MAX);
                if value < min {
                    return Err(too("less", min.to_string(), "more"));
                }
                if value > max {
                    return Err(too("more", max.to_string(), "less"));
                }
                if prime && !crate::primes::is_prime(value) {
                    return Err(crate::primes::trouble(value));
                }
                Ok(Value::Count(value))
            }
        }
    }
}

impl From<Tunables> for Vec<(String, String)> {
    fn from(tunables: Tunables) -> Self {
        tunables
            .iter()
            .map(|s| (s.tunable.name.to_owned(), s.value.to_string()))
            .collect()
    }
}

impl TryFrom<Vec<(String, String)>> for Tunables {
    type Error = SetError;

    fn try_from(pairs: Vec<(String, String)>) -> Result<Self, SetError> {
        let mut tunables = Self::default();
        for (name, text) in pairs {
            tunables.set(&name, &text, Origin::Runtime)?;
        }
        Ok(tunables)
    }
}

fn index_of(name: &str) -> Option<usize> {
    REGISTRY.iter().position(|tunable| tunable.name == name)
}
