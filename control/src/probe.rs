//! Active health checks: the appliance itself asks backends whether they serve, besides what Kubernetes says of them.
//!
//! A [`Check`] says how; of it and a backend's address becomes a [`Probe`], which is asked once however many Services have
//! it. The compiler says which probes are wanted and takes what came of them ([`board`]); `run` asks, `ask` is one
//! question, `hysteresis` what is made of the answers. Probes go through the kernel, so by the routes and TAPs of the
//! mirror. Not here: what a failing backend means for new flows (`compile`).

mod ask;
pub mod board;
mod hysteresis;
mod run;

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use packet::Protocol;

use crate::config::duration;

pub use self::run::run;

/// Backends that are probed at a time; of more only these.
pub const PROBES_MAX: usize = 4096;

pub(crate) const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
pub(crate) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const STREAK: RangeInclusive<u8> = 1..=100;
const PATH_LEN_MAX: usize = 256;

/// How often, and how sure.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pace {
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row until a failing backend is good again.
    pub rise: u8,
    /// Bad answers in a row until a good one fails.
    pub fall: u8,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(1), rise: 2, fall: 3 }
    }
}

/// What the backends of a Service are asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Check {
    /// The question.
    pub question: Question,
    /// The port to ask, if it is not the backend's.
    pub port: Option<u16>,
    /// How often, and how sure.
    pub pace: Pace,
}

/// A question, as it is written down.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Question {
    /// None.
    #[default]
    None,
    /// By the protocol of the Service port: as `Tcp` or `Udp`; nothing of SCTP.
    Auto,
    /// Whether a connection is taken.
    Tcp,
    /// Whether a datagram is not refused by ICMP.
    Udp,
    /// Whether `GET` of a path is answered with a status from 200 to 399.
    Http(Arc<str>),
}

/// How one backend is asked.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Method {
    /// Whether a connection is taken.
    Tcp,
    /// Whether a datagram is not refused.
    Udp,
    /// Whether `GET` of the path is answered well.
    Http(Arc<str>),
}

/// One backend and what it is asked.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Probe {
    /// Where.
    pub at: SocketAddr,
    /// How.
    pub method: Method,
    /// How often.
    pub pace: Pace,
}

/// Why an answer was bad, or why nothing could be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// RST, or ICMP port unreachable.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The way to it is told to be broken, or it hung up.
    Broken(std::io::ErrorKind),
    /// The HTTP status of the answer.
    Status(u16),
    /// What was answered is no HTTP.
    NotHttp,
    /// Nothing could be asked, and nothing is known of the backend: no route in the kernel, no socket.
    Unasked(std::io::ErrorKind),
}

/// What is known of a probe's backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Health {
    /// Nothing yet, or nothing could be asked (why): it counts as good.
    Unknown(Option<Fault>),
    /// It answers well.
    #[default]
    Good,
    /// It does not.
    Failing(Fault),
}

impl Health {
    /// It is to get no new flows.
    #[must_use]
    pub const fn is_failing(self) -> bool {
        matches!(self, Self::Failing(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => write!(f, "refused"),
            Self::TimedOut => write!(f, "no answer in time"),
            Self::Broken(kind) => write!(f, "{kind}"),
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::NotHttp => write!(f, "no HTTP answer"),
            Self::Unasked(kind) => write!(f, "cannot be asked: {kind}"),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(None) => write!(f, "not known yet"),
            Self::Unknown(Some(fault)) => write!(f, "not known: {fault}"),
            Self::Good => write!(f, "good"),
            Self::Failing(fault) => write!(f, "failing: {fault}"),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Method::Tcp => write!(f, "tcp {}", self.at),
            Method::Udp => write!(f, "udp {}", self.at),
            Method::Http(path) => write!(f, "http {}{path}", self.at),
        }
    }
}

/// What is expected where a check is written down.
pub const EXPECTED: &str =
    "none, auto, tcp, udp or `http /path`, then any of port=N, interval=TIME, timeout=TIME, rise=N, fall=N";

impl Check {
    /// Reads a check as people write it, such as `http /healthz port=8081 interval=2s`; what it does not say is as here.
    ///
    /// # Errors
    /// What is wrong, as the beginning of a sentence.
    pub fn read(&self, text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace().peekable();
        let question = match words.next() {
            Some("none") => Question::None,
            Some("auto") => Question::Auto,
            Some("tcp") => Question::Tcp,
            Some("udp") => Question::Udp,
            Some("http") => {
                let path = words.next_if(|word| word.starts_with('/')).unwrap_or("/");
                if path.len() > PATH_LEN_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(format!("`{path}` is no path of at most {PATH_LEN_MAX} ASCII characters"));
                }
                Question::Http(path.into())
            }
            word => return Err(format!("`{}` is not known", word.unwrap_or_default())),
        };
        let mut check = Self { question, port: None, pace: self.pace };
        let says_timeout = text.split_whitespace().any(|word| word.starts_with("timeout="));
        for word in words {
            check.set(word).ok_or_else(|| format!("`{word}` is not usable"))?;
        }
        if !says_timeout {
            check.pace.timeout = check.pace.timeout.min(check.pace.interval);
        }
        if check.pace.timeout > check.pace.interval {
            return Err("the timeout is longer than the interval".into());
        }
        Ok(check)
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        let time =
            |range: RangeInclusive<Duration>| duration::parse(value).filter(|time| range.contains(time));
        let streak = || value.parse().ok().filter(|streak| STREAK.contains(streak));
        match key {
            "port" => self.port = Some(value.parse().ok().filter(|port| *port > 0)?),
            "interval" => self.pace.interval = time(INTERVAL)?,
            "timeout" => self.pace.timeout = time(TIMEOUT)?,
            "rise" => self.pace.rise = streak()?,
            "fall" => self.pace.fall = streak()?,
            _ => return None,
        }
        Some(())
    }

    /// The probe of a backend of a Service port; none where the question does not fit the port's protocol.
    #[must_use]
    pub fn of(&self, backend: SocketAddr, protocol: Protocol) -> Option<Probe> {
        // A port of its own may speak another protocol than the Service.
        let fits = |wanted| self.port.is_some() || protocol == wanted;
        let method = match &self.question {
            Question::None => return None,
            Question::Auto if protocol == Protocol::Tcp => Method::Tcp,
            Question::Auto if protocol == Protocol::Udp => Method::Udp,
            Question::Auto => return None,
            Question::Tcp => fits(Protocol::Tcp).then_some(Method::Tcp)?,
            Question::Udp => fits(Protocol::Udp).then_some(Method::Udp)?,
            Question::Http(path) => fits(Protocol::Tcp).then(|| Method::Http(Arc::clone(path)))?,
        };
        let at = SocketAddr::new(backend.ip(), self.port.unwrap_or(backend.port()));
        Some(Probe { at, method, pace: self.pace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_as_people_write_them() {
        let base = Check::default();
        let http = |path: &str| Question::Http(path.into());
        let second = Duration::from_secs(1);
        for (text, question, port, pace) in [
            ("none", Question::None, None, Pace::default()),
            ("auto", Question::Auto, None, Pace::default()),
            ("http", http("/"), None, Pace::default()),
            (
                "tcp interval=1s rise=1",
                Question::Tcp,
                None,
                Pace { interval: second, rise: 1, ..Pace::default() },
            ),
            (
                " http  /healthz?x=1 port=8081 timeout=500ms fall=9",
                http("/healthz?x=1"),
                Some(8081),
                Pace { timeout: second / 2, fall: 9, ..Pace::default() },
            ),
        ] {
            assert_eq!(base.read(text), Ok(Check { question, port, pace }), "{text}");
        }
        for text in [
            "",
            "ping",
            "tcp /",
            "http healthz",
            "tcp port=0",
            "tcp port=65536",
            "tcp rise=0",
            "tcp rise=101",
            "tcp interval=5",
            "tcp interval=99ms",
            "tcp timeout=6s",
            "tcp retries=3",
            "http /ä",
        ] {
            assert!(base.read(text).is_err(), "{text}");
        }
        let quick = base.read("tcp interval=100ms").map(|check| check.pace.timeout);
        assert_eq!(quick, Ok(second / 10), "no answer is waited for longer than to the next question");
        let slow = Check { pace: Pace { interval: 60 * second, ..Pace::default() }, ..base };
        assert_eq!(
            slow.read("tcp").map(|check| check.pace.interval),
            Ok(60 * second),
            "the rest as configured"
        );
    }

    #[test]
    fn a_question_fits_its_ports() {
        let at: SocketAddr = "10.244.1.2:8080".parse().unwrap();
        let asked = |text: &str, protocol| {
            Check::default().read(text).unwrap().of(at, protocol).map(|probe| probe.to_string())
        };
        for (text, tcp, udp, sctp) in [
            ("none", None, None, None),
            ("auto", Some("tcp 10.244.1.2:8080"), Some("udp 10.244.1.2:8080"), None),
            ("tcp", Some("tcp 10.244.1.2:8080"), None, None),
            ("udp", None, Some("udp 10.244.1.2:8080"), None),
            ("http /up", Some("http 10.244.1.2:8080/up"), None, None),
            (
                "http /up port=9",
                Some("http 10.244.1.2:9/up"),
                Some("http 10.244.1.2:9/up"),
                Some("http 10.244.1.2:9/up"),
            ),
        ] {
            for (protocol, want) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp), (Protocol::Sctp, sctp)] {
                assert_eq!(asked(text, protocol).as_deref(), want, "{text} {protocol}");
            }
        }
    }
}
