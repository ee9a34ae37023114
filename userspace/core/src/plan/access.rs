//! `[access_log]`: one record per request of a service of mode `http`, and per connection of one of mode `tcp`.

use std::{net::SocketAddr, path::PathBuf};

/// `[access_log]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessLog {
    /// Where records go.
    pub to: LogTarget,
    /// How they are written. None: as weir's own log lines are.
    pub format: Option<LogFormat>,
    /// Whether connections have a record over which the client sent nothing.
    pub null: bool,
}

/// Where access records go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LogTarget {
    /// Nowhere; then they cost nothing.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To standard error.
    Stderr,
    /// Appended to a file, which is made if it is not there.
    File(PathBuf),
    /// To a syslog daemon, a datagram each.
    Syslog(Syslog),
}

impl LogTarget {
    /// As it is displayed: `off`, `stdout`, `stderr`, what [`Syslog::from_word`] takes, or a path.
    pub fn from_word(word: &str) -> Self {
        match word {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            other => match Syslog::from_word(other) {
                Some(syslog) => Self::Syslog(syslog),
                None => Self::File(other.into()),
            },
        }
    }
}

impl std::fmt::Display for LogTarget {
    /// As in the configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
            Self::Syslog(syslog) => syslog.fmt(f),
        }
    }
}

/// A syslog daemon, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Syslog {
    /// Where it listens.
    pub to: SyslogTo,
    /// What kind of program says so.
    pub facility: Facility,
    /// What stands in front of a record.
    pub form: SyslogForm,
}

/// Where a syslog daemon listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyslogTo {
    /// On a datagram socket of the box, as `/dev/log`.
    Path(PathBuf),
    /// On UDP (RFC 5426).
    Udp(SocketAddr),
}

/// What stands in front of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyslogForm {
    /// As programs write to their own box's daemon since ever; RFC 3164 describes it.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
}

impl SyslogForm {
    /// Each with its word in the configuration.
    pub const ALL: [(&'static str, Self); 2] = [("rfc3164", Self::Rfc3164), ("rfc5424", Self::Rfc5424)];
}

/// A facility: 0 to 23 (RFC 5424 section 6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facility(u8);

impl Facility {
    /// The names that HAProxy has for them, in order.
    pub const NAMES: [&'static str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2", "ftp",
        "ntp", "audit", "alert", "cron2", "local0", "local1", "local2", "local3", "local4", "local5",
        "local6", "local7",
    ];

    /// `local0`, as HAProxy's examples have it.
    pub const LOCAL0: Self = Self(16);

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        u8::try_from(at).ok().map(Self)
    }

    /// Its number.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }
}

impl Syslog {
    /// A daemon by its place alone: `syslog` for `/dev/log`, `syslog:/PATH`, or `syslog:ADDRESS:PORT`; then, each behind a
    /// comma, facility and form.
    pub fn from_word(word: &str) -> Option<Self> {
        let rest = word.strip_prefix("syslog")?;
        let mut parts = rest.split(',');
        let to = match parts.next()? {
            "" => SyslogTo::Path("/dev/log".into()),
            place => match place.strip_prefix(':')? {
                path if path.starts_with('/') => SyslogTo::Path(path.into()),
                address => SyslogTo::Udp(address.parse().ok().filter(|at: &SocketAddr| at.port() > 0)?),
            },
        };
        let facility = match parts.next() {
            Some(name) => Facility::from_name(name)?,
            None => Facility::LOCAL0,
        };
        let form = match parts.next() {
            Some(word) => SyslogForm::ALL.iter().find(|(known, _)| *known == word)?.1,
            // journald and rsyslog read the older form from the box's own socket; elsewhere the newer one says more.
            None => match to {
                SyslogTo::Path(_) => SyslogForm::Rfc3164,
                SyslogTo::Udp(_) => SyslogForm::Rfc5424,
            },
        };
        parts.next().is_none().then_some(Self { to, facility, form })
    }
}

impl std::fmt::Display for Syslog {
    /// As [`Self::from_word`] takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.to {
            SyslogTo::Path(path) => write!(f, "syslog:{}", path.display())?,
            SyslogTo::Udp(at) => write!(f, "syslog:{at}")?,
        }
        let form = SyslogForm::ALL.iter().find(|(_, form)| *form == self.form);
        write!(
            f,
            ",{},{}",
            self.facility.name(),
            form.map_or("", |(word, _)| word)
        )
    }
}

/// How access records are written. One line each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object.
    Json,
    /// As HAProxy's `option httplog` and `option tcplog` have them.
    Httplog,
}

impl LogFormat {
    /// Each with its word in the configuration.
    pub const ALL: [(&'static str, Self); 3] = [
        ("human", Self::Human),
        ("json", Self::Json),
        ("httplog", Self::Httplog),
    ];

    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
            Self::Httplog => "httplog",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_back_as_they_are_displayed() {
        for (word, shown) in [
            ("off", "off"),
            ("stdout", "stdout"),
            ("stderr", "stderr"),
            ("/var/log/a.log", "/var/log/a.log"),
            ("syslog", "syslog:/dev/log,local0,rfc3164"),
            ("syslog:/run/log.sock", "syslog:/run/log.sock,local0,rfc3164"),
            ("syslog:192.0.2.1:514", "syslog:192.0.2.1:514,local0,rfc5424"),
            (
                "syslog:[2001:db8::1]:514,mail",
                "syslog:[2001:db8::1]:514,mail,rfc5424",
            ),
            ("syslog,local7,rfc5424", "syslog:/dev/log,local7,rfc5424"),
        ] {
            let target = LogTarget::from_word(word);
            assert_eq!(target.to_string(), shown);
            assert_eq!(LogTarget::from_word(shown), target);
        }
        for word in [
            "syslog:",
            "syslog:host:514",
            "syslog:192.0.2.1",
            "syslog:192.0.2.1:0",
            "syslogd",
            "syslog,local8",
            "syslog,local0,rfc1",
            "syslog,local0,rfc5424,x",
        ] {
            assert_eq!(Syslog::from_word(word), None, "{word}");
        }
    }

    #[test]
    fn facilities_have_their_numbers() {
        let code = |name| Facility::from_name(name).map(Facility::code);
        assert_eq!(
            (code("kern"), code("daemon"), code("local0"), code("local7")),
            (Some(0), Some(3), Some(16), Some(23))
        );
        assert_eq!(Facility::LOCAL0.name(), "local0");
    }
}
