//! A trace question and its answer as JSON: one shape for `fairlead trace`, its files and the running appliance.

use std::net::{IpAddr, SocketAddr};

use dataplane::trace::{Explanation, explain};
use packet::{AnyKey, Protocol};
use serde::{Deserialize, Serialize};
use tables::{FrontendKind, NatMode, Tables};

/// The first packet of a flow.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) src: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dst: IpAddr,
    pub(crate) dport: u16,
    /// `TCP`, `UDP` or `SCTP`, in any case.
    pub(crate) proto: String,
}

/// What becomes of it; fields that do not apply are null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    verdict: &'static str,
    reason: &'static str,
    service: Option<String>,
    frontend: Option<&'static str>,
    backend: Option<String>,
    candidates: Vec<String>,
    snat: bool,
    mode: Option<&'static str>,
    generation: u64,
}

/// Asks the tables.
///
/// # Errors
/// A sentence on what is wrong with the question.
pub(crate) fn answer(tables: &Tables, question: &Question) -> Result<Answer, String> {
    let protocol: Protocol = question
        .proto
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| format!("proto: `{}`; TCP, UDP or SCTP is expected", question.proto))?;
    let source = SocketAddr::new(question.src, question.sport);
    let destination = SocketAddr::new(question.dst, question.dport);
    let key = AnyKey::new(source, destination, protocol)
        .ok_or_else(|| format!("src {source} and dst {destination} are of different families"))?;
    Ok(Answer::from(explain(tables, &key)))
}

impl From<Explanation> for Answer {
    fn from(explanation: Explanation) -> Self {
        Self {
            verdict: explanation.verdict.name(),
            reason: explanation.reason,
            snat: explanation.snat(),
            service: explanation.service,
            frontend: explanation.frontend.map(frontend),
            backend: explanation.backend.map(|backend| backend.to_string()),
            candidates: explanation.candidates.iter().map(ToString::to_string).collect(),
            mode: explanation.mode.map(mode),
            generation: explanation.generation.0,
        }
    }
}

fn frontend(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::NodePort => "NodePort",
    }
}

fn mode(mode: NatMode) -> &'static str {
    match mode {
        NatMode::Dnat => "dnat",
        NatMode::Snat => "snat",
    }
}

#[cfg(test)]
mod tests {
    use tables::Generation;

    use super::*;

    fn ask(json: &str) -> Result<Answer, String> {
        let question: Question = serde_json::from_str(json).map_err(|error| error.to_string())?;
        answer(&Tables::empty(Generation(7)), &question)
    }

    #[test]
    fn questions_are_checked_and_answers_have_every_field() {
        let good =
            ask(r#"{"src":"203.0.113.2","sport":40000,"dst":"1.2.3.4","dport":80,"proto":"tcp"}"#).unwrap();
        let json = serde_json::to_value(good).unwrap();
        assert_eq!(
            (&json["verdict"], &json["reason"], &json["generation"]),
            (&"PASS".into(), &"NoRoute".into(), &7.into())
        );
        assert!(json["service"].is_null() && json["candidates"].as_array().is_some_and(Vec::is_empty));
        for (question, says) in [
            (r#"{"src":"::1","sport":1,"dst":"1.2.3.4","dport":80,"proto":"TCP"}"#, "different families"),
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80,"proto":"ICMP"}"#, "TCP, UDP or SCTP"),
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80}"#, "proto"),
        ] {
            assert!(ask(question).unwrap_err().contains(says), "{question}");
        }
    }
}
