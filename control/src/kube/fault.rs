//! Why the API server did not give what was asked, as it concerns whoever asks again: what to tell people, what to count,
//! when to come back. Source: Kubernetes API concepts (status codes, `Retry-After`, `410 Gone`).

use std::fmt;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::RETRY_AFTER;
use serde::Deserialize;

use super::AccessError;

/// Longest text of the server that is passed on.
const MESSAGE_MAX: usize = 300;

/// One failed request, or a stream that ended badly.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    /// What happened.
    pub(crate) kind: FaultKind,
    /// What the server, the library or the system said.
    pub(crate) said: String,
    /// How long the server asks us to stay away.
    pub(crate) retry_after: Option<Duration>,
}

/// What happened; each is counted on its own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum FaultKind {
    /// No usable kubeconfig or service account.
    Access,
    /// 409: the object is not as it was when we decided.
    Conflict,
    /// A stream ended in the middle, or at once.
    Cut,
    /// 403: the account lacks a right.
    Forbidden,
    /// 410: the version to go on from is forgotten.
    Gone,
    /// An answer that is not what the API says.
    Malformed,
    /// 404: the server has no such kind.
    NotServed,
    /// Any other 4xx.
    Refused,
    /// 5xx.
    Server,
    /// 429.
    Throttled,
    /// More bytes than are taken.
    TooLarge,
    /// 401: the credentials are not, or no longer, accepted.
    Unauthorized,
    /// No connection, no handshake, no answer in time.
    Unreachable,
}

impl FaultKind {
    /// Every kind, by name.
    pub(crate) const ALL: [Self; 13] = [
        Self::Access,
        Self::Conflict,
        Self::Cut,
        Self::Forbidden,
        Self::Gone,
        Self::Malformed,
        Self::NotServed,
        Self::Refused,
        Self::Server,
        Self::Throttled,
        Self::TooLarge,
        Self::Unauthorized,
        Self::Unreachable,
    ];

    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Conflict => "conflict",
            Self::Cut => "cut",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Malformed => "malformed",
            Self::NotServed => "not_served",
            Self::Refused => "refused",
            Self::Server => "server",
            Self::Throttled => "throttled",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether there is no server to ask.
    pub(crate) fn is_absence(self) -> bool {
        matches!(self, Self::Access | Self::Unreachable)
    }

    /// Whether a server that works, and knows us, said no.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Self::Forbidden | Self::Gone | Self::NotServed | Self::Refused | Self::Throttled)
    }

    fn of_status(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotServed,
            409 => Self::Conflict,
            410 => Self::Gone,
            429 => Self::Throttled,
            400..=499 => Self::Refused,
            _ => Self::Server,
        }
    }
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, said: impl fmt::Display) -> Self {
        let said = said.to_string();
        let end = said.char_indices().nth(MESSAGE_MAX).map_or(said.len(), |(end, _)| end);
        Self { kind, said: said[..end].replace(['\n', '\r'], " "), retry_after: None }
    }

    /// Of an answer that is no success. The body is a `Status`, or plain text from a server that is not yet, or too, busy.
    pub(crate) fn of_answer(code: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let text = String::from_utf8_lossy(body);
        let said = if status.message.is_empty() { text.trim() } else { &status.message };
        let mut fault = Self { retry_after: None, ..status.fault(code, format!("{code}: {said}")) };
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let seconds = seconds.or(status.details.retry_after_seconds);
        fault.retry_after = seconds.map(Duration::from_secs);
        fault
    }

    /// Of a `Status` in the middle of a watch.
    pub(crate) fn of_status(status: &Status) -> Self {
        let code = status.code;
        status.fault(code, format!("{code}: {}", status.message))
    }
}

impl From<AccessError> for Fault {
    fn from(error: AccessError) -> Self {
        Self::new(FaultKind::Access, error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = &self.said;
        match self.kind {
            FaultKind::Access => f.write_str(said),
            FaultKind::Conflict => write!(f, "the object has changed meanwhile ({said})"),
            FaultKind::Cut => write!(f, "the answer was cut off ({said})"),
            FaultKind::Forbidden => write!(f, "a right is missing ({said}); grant it to this account"),
            FaultKind::Gone => write!(f, "our version is forgotten ({said}); everything is listed again"),
            FaultKind::Malformed => write!(f, "not an answer of a Kubernetes API ({said})"),
            FaultKind::NotServed => write!(f, "the API server does not have this kind ({said})"),
            FaultKind::Refused => write!(f, "the API server refuses the request ({said})"),
            FaultKind::Server => write!(f, "the API server fails ({said})"),
            FaultKind::Throttled => write!(f, "the API server is busy ({said})"),
            FaultKind::TooLarge => write!(f, "more than is taken ({said})"),
            FaultKind::Unauthorized => {
                write!(f, "our credentials are not accepted ({said}); renew the token or client certificate")
            }
            FaultKind::Unreachable => write!(f, "the API server is not reached ({said})"),
        }
    }
}

/// `metav1.Status`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    code: u16,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    causes: Vec<Cause>,
    retry_after_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Status {
    fn fault(&self, code: u16, said: String) -> Fault {
        // A server that was set back (restored, or another one behind the same name) does not know our version yet:
        // waiting for it would wait for ever.
        let ahead = self.details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge");
        let kind = if ahead { FaultKind::Gone } else { FaultKind::of_status(code) };
        let mut fault = Fault::new(kind, said);
        fault.retry_after = self.details.retry_after_seconds.map(Duration::from_secs);
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn an_answer_is_told_by_its_code_its_cause_and_when_to_come_back() {
        let too_large = r#"{"code":504,"message":"Too large resource version: 9, current: 3","details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}"#;
        for (code, header, body, kind, seconds) in [
            (401, None, r#"{"code":401,"message":"Unauthorized"}"#, FaultKind::Unauthorized, None),
            (403, None, r#"{"code":403,"message":"services is forbidden"}"#, FaultKind::Forbidden, None),
            (404, None, "404 page not found", FaultKind::NotServed, None),
            (409, None, "{}", FaultKind::Conflict, None),
            (422, None, "{}", FaultKind::Refused, None),
            (410, None, r#"{"code":410,"message":"too old"}"#, FaultKind::Gone, None),
            (429, Some("7"), "Too many requests, please try again later.", FaultKind::Throttled, Some(7)),
            (429, None, r#"{"code":429,"details":{"retryAfterSeconds":3}}"#, FaultKind::Throttled, Some(3)),
            (429, Some("Fri, 31 Dec"), "", FaultKind::Throttled, None),
            (500, None, "", FaultKind::Server, None),
            (504, None, too_large, FaultKind::Gone, Some(1)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(header));
            }
            let fault = Fault::of_answer(code, &headers, body.as_bytes());
            let wait = seconds.map(Duration::from_secs);
            assert_eq!((fault.kind, fault.retry_after), (kind, wait), "{code} {body}");
        }
    }

    #[test]
    fn what_a_server_says_is_passed_on_in_one_bounded_line() {
        let body = format!("busy\n{}", "ä".repeat(100_000));
        let fault = Fault::of_answer(500, &HeaderMap::new(), body.as_bytes()).to_string();
        assert!(fault.len() < 1000 && !fault.contains('\n'), "{fault}");
        assert!(fault.starts_with("the API server fails (500: busy ä"), "{fault}");
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        names.dedup();
        assert_eq!(names.len(), FaultKind::ALL.len());
        assert!(names.is_sorted());
    }
}
