//! A trace question and its answer as JSON: one shape for `fairlead trace`, its files and the running appliance.

use std::net::{IpAddr, SocketAddr};

use dataplane::trace::{Explanation, Moment, Told, explain, explain_echo};
use packet::{AnyKey, Protocol};
use serde::{Deserialize, Serialize};
use tables::{FrontendKind, NatMode, Tables};

/// A packet that belongs to no flow: the first of one, or else.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) src: IpAddr,
    /// Of `ICMP` neither port is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sport: Option<u16>,
    pub(crate) dst: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dport: Option<u16>,
    /// `TCP`, `UDP`, `SCTP`, or `ICMP` for a ping of either family, in any case.
    pub(crate) proto: String,
    /// It is from the middle of a connection of which the workers do not know, TCP or SCTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) midstream: bool,
}

impl Question {
    /// The packet, as people write it.
    pub(crate) fn text(&self) -> String {
        let end = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        let (proto, source) = (self.proto.to_ascii_lowercase(), end(self.src, self.sport));
        let midstream = if self.midstream { " midstream" } else { "" };
        format!("{proto} {source} > {}{midstream}", end(self.dst, self.dport))
    }

    fn is_ping(&self) -> bool {
        self.proto.eq_ignore_ascii_case("ICMP")
    }
}

/// What becomes of it; fields that do not apply are null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    verdict: &'static str,
    reason: &'static str,
    /// What a refused sender hears.
    told: Option<&'static str>,
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
    let Question { src, dst, proto, .. } = question;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(format!("src {src} and dst {dst} are of different families"));
    }
    if question.is_ping() {
        return ping(tables, question);
    }
    let protocol: Protocol = proto
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| format!("proto: `{proto}`; TCP, UDP, SCTP or ICMP is expected"))?;
    let (Some(sport), Some(dport)) = (question.sport, question.dport) else {
        return Err(format!("a packet of {protocol} without ports; sport and dport are expected"));
    };
    let moment = match (question.midstream, protocol) {
        (false, _) => Moment::First,
        (true, Protocol::Tcp | Protocol::Sctp) => Moment::Midstream,
        (true, Protocol::Udp) => {
            return Err("midstream: UDP has no connections; TCP or SCTP is expected".into());
        }
    };
    let key = AnyKey::new(SocketAddr::new(*src, sport), SocketAddr::new(*dst, dport), protocol)
        .ok_or_else(|| format!("src {src} and dst {dst} are of different families"))?;
    Ok(Answer::from(explain(tables, &key, moment)))
}

fn ping(tables: &Tables, question: &Question) -> Result<Answer, String> {
    if question.sport.is_some() || question.dport.is_some() || question.midstream {
        return Err("a ping with ports, or midstream; proto ICMP, src and dst alone are expected".into());
    }
    Ok(Answer::from(explain_echo(tables, question.dst)))
}

impl From<Explanation> for Answer {
    fn from(explanation: Explanation) -> Self {
        Self {
            verdict: explanation.verdict.name(),
            reason: explanation.reason,
            told: explanation.told.map(told),
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

fn told(told: Told) -> &'static str {
    match told {
        Told::Reset => "reset",
        Told::PortUnreachable => "port unreachable",
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
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80,"proto":"GRE"}"#, "SCTP or ICMP"),
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80,"proto":"ICMP"}"#, "a ping with ports"),
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","proto":"TCP"}"#, "without ports"),
            (
                r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80,"proto":"UDP","midstream":true}"#,
                "UDP has no connections",
            ),
            (r#"{"src":"1.1.1.1","sport":1,"dst":"1.2.3.4","dport":80}"#, "proto"),
        ] {
            assert!(ask(question).unwrap_err().contains(says), "{question}");
        }
    }
}
