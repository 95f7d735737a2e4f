//! `fairlead trace`: what would happen to this packet, asked of compiled manifests or of the running appliance.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use control::admin::client;
use control::config::{GatewayConfig, Source};
use control::offline;

use crate::cli::{Output, SocketArgs, TraceArgs};
use crate::columns::Columns;
use crate::explain::{self, Question};
use crate::output;
use crate::show::{block_on, socket};

/// Answers every packet that was asked about, in order.
///
/// # Errors
/// A question that makes no sense, a bad configuration, nothing to ask.
pub(crate) fn run(args: &TraceArgs) -> Result<()> {
    let questions = questions(args)?;
    let answers = if args.live { ask_live(args, &questions)? } else { ask_files(args, &questions)? };
    if args.output == Output::Json {
        output::print(&answers.iter().map(|answer| format!("{answer}\n")).collect::<String>())
    } else {
        output::print(&columns(&questions, &answers).to_string())
    }
}

fn questions(args: &TraceArgs) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for text in &args.packet {
        questions.push(parse(text).map_err(|error| anyhow!("{error}"))?);
    }
    if let Some(file) = &args.packets {
        questions.extend(read_lines(file)?);
    }
    if questions.is_empty() {
        bail!("no packet; 'tcp 203.0.113.2:40000 > 192.0.2.10:80' or --packets FILE is expected");
    }
    Ok(questions)
}

/// One JSON object a line; blank lines are passed over. All faults are told.
fn read_lines(file: &Path) -> Result<Vec<Question>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (mut questions, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(question) => questions.push(question),
            Err(error) => {
                let expected =
                    r#"{"src":"203.0.113.2","sport":40000,"dst":"192.0.2.10","dport":80,"proto":"TCP"}"#;
                faults.push(format!("{}:{number}: {error}; {expected} is expected", file.display()));
            }
        }
    }
    if faults.is_empty() { Ok(questions) } else { Err(anyhow!(faults.join("\n"))) }
}

/// `PROTO SRC:PORT > DST:PORT`, IPv6 addresses in brackets, with `midstream` behind it or not; or `icmp SRC > DST`.
fn parse(text: &str) -> Result<Question, String> {
    let expected = "'tcp 203.0.113.2:40000 > 192.0.2.10:80', 'udp [2001:db8::2]:40000 > [2001:db8::10]:53', 'tcp ... > ... midstream' or 'icmp 203.0.113.2 > 192.0.2.10' is expected";
    let refuse = |what: &str| format!("`{text}`: {what}; {expected}");
    let words: Vec<_> = text.split_whitespace().collect();
    let (words, midstream) = match words.as_slice() {
        [words @ .., "midstream"] => (words, true),
        words => (words, false),
    };
    let [proto, source, ">", destination] = words else {
        return Err(refuse("not protocol, source, `>`, destination"));
    };
    let is_ping = proto.eq_ignore_ascii_case("icmp");
    if !is_ping && proto.parse::<packet::Protocol>().is_err() {
        return Err(refuse(&format!("`{proto}` is none of tcp, udp, sctp, icmp")));
    }
    if midstream && (is_ping || proto.eq_ignore_ascii_case("udp")) {
        return Err(refuse(&format!("`{proto}` has no connections to be in the middle of")));
    }
    let end = |text: &str| -> Result<(IpAddr, Option<u16>), String> {
        if is_ping {
            let address = text.parse().map_err(|_| refuse(&format!("`{text}` is no address")))?;
            return Ok((address, None));
        }
        let end: Result<SocketAddr, _> = text.parse();
        let end = end.map_err(|_| refuse(&format!("`{text}` is no address with a port")))?;
        Ok((end.ip(), Some(end.port())))
    };
    let ((src, sport), (dst, dport)) = (end(source)?, end(destination)?);
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(refuse("source and destination are of different families"));
    }
    Ok(Question { src, sport, dst, dport, proto: proto.to_ascii_uppercase(), midstream })
}

/// Compiles the manifests as the appliance would; broken files are told and the rest is asked.
fn ask_files(args: &TraceArgs, questions: &[Question]) -> Result<Vec<serde_json::Value>> {
    let config = args
        .config
        .as_deref()
        .map(GatewayConfig::load)
        .transpose()
        .map_err(|refused| anyhow!("{refused}"))?;
    let offline = offline::compile(config.as_ref(), &manifests(args, config.as_ref())?);
    for problem in &offline.problems {
        eprintln!("{problem}");
    }
    let answer = |question| {
        let answer = explain::answer(&offline.tables, question).map_err(|error| anyhow!(error))?;
        Ok(serde_json::to_value(answer)?)
    };
    questions.iter().map(answer).collect()
}

/// `--manifests`, else those of the configuration.
fn manifests(args: &TraceArgs, config: Option<&GatewayConfig>) -> Result<PathBuf> {
    match (&args.manifests, config.map(|config| &config.kubernetes.source)) {
        (Some(path), _) | (None, Some(Source::Manifests(path))) => Ok(path.clone()),
        _ => bail!("nothing to ask; --manifests DIR, a --config that names manifests, or --live is expected"),
    }
}

fn ask_live(args: &TraceArgs, questions: &[Question]) -> Result<Vec<serde_json::Value>> {
    let appliance = SocketArgs { socket: args.socket.clone(), config: args.config.clone() };
    let socket = socket(&appliance)?;
    Ok(block_on(client::post(&socket, "/v1/trace", &questions))??)
}

fn columns(questions: &[Question], answers: &[serde_json::Value]) -> Columns {
    let mut columns = Columns::new(&[
        "PACKET",
        "VERDICT",
        "REASON",
        "TOLD",
        "FRONTEND",
        "SERVICE",
        "MODE",
        "BACKEND",
        "CANDIDATES",
    ]);
    for (question, answer) in questions.iter().zip(answers) {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let candidates = answer["candidates"].as_array().map_or(0, Vec::len);
        columns.row(vec![
            question.text(),
            text("verdict"),
            text("reason"),
            text("told"),
            text("frontend"),
            text("service"),
            text("mode"),
            text("backend"),
            candidates.to_string(),
        ]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_written_as_people_write_them() {
        for (text, want) in [
            ("tcp 203.0.113.2:40000 > 1.2.3.4:80", "tcp 203.0.113.2:40000 > 1.2.3.4:80"),
            ("  UDP [2001:db8::2]:1  >  [::1]:53 ", "udp [2001:db8::2]:1 > [::1]:53"),
            ("sctp 1.1.1.1:0 > 2.2.2.2:65535 midstream", "sctp 1.1.1.1:0 > 2.2.2.2:65535 midstream"),
            ("ICMP ::1 > ::2", "icmp ::1 > ::2"),
        ] {
            let got = parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(got.text(), want);
            let sent = serde_json::to_string(&got).unwrap();
            assert_eq!(serde_json::from_str::<Question>(&sent).unwrap(), got, "{sent}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for (text, word) in [
            ("", "not protocol"),
            ("tcp 1.1.1.1:1 2.2.2.2:2", "not protocol"),
            ("gre 1.1.1.1:1 > 2.2.2.2:2", "`gre`"),
            ("icmp 1.1.1.1:1 > 2.2.2.2:2", "`1.1.1.1:1` is no address;"),
            ("udp 1.1.1.1:1 > 2.2.2.2:2 midstream", "no connections"),
            ("tcp 1.1.1.1 > 2.2.2.2:2", "`1.1.1.1`"),
            ("tcp ::1:1 > [::2]:2", "`::1:1`"),
            ("tcp 1.1.1.1:70000 > 2.2.2.2:2", "`1.1.1.1:70000`"),
            ("tcp 1.1.1.1:1 > [::2]:2", "different families"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word) && error.contains("is expected"), "{error}");
        }
    }
}
