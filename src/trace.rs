//! `fairlead trace`: what would happen to this packet, asked of compiled manifests or of the running appliance.

use std::fs;
use std::net::SocketAddr;
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

/// `PROTO SRC:PORT > DST:PORT`, IPv6 addresses in brackets.
fn parse(text: &str) -> Result<Question, String> {
    let expected = "'tcp 203.0.113.2:40000 > 192.0.2.10:80' or 'udp [2001:db8::2]:40000 > [2001:db8::10]:53' is expected";
    let refuse = |what: &str| format!("`{text}`: {what}; {expected}");
    let words: Vec<_> = text.split_whitespace().collect();
    let [proto, source, ">", destination] = words.as_slice() else {
        return Err(refuse("not protocol, source, `>`, destination"));
    };
    let end = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| refuse(&format!("`{text}` is no address with a port")))
    };
    let (source, destination) = (end(source)?, end(destination)?);
    if proto.parse::<packet::Protocol>().is_err() {
        return Err(refuse(&format!("`{proto}` is none of tcp, udp, sctp")));
    }
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(refuse("source and destination are of different families"));
    }
    Ok(Question {
        src: source.ip(),
        sport: source.port(),
        dst: destination.ip(),
        dport: destination.port(),
        proto: proto.to_ascii_uppercase(),
    })
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
        "FRONTEND",
        "SERVICE",
        "MODE",
        "BACKEND",
        "CANDIDATES",
    ]);
    for (question, answer) in questions.iter().zip(answers) {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let (source, destination) =
            (SocketAddr::new(question.src, question.sport), SocketAddr::new(question.dst, question.dport));
        let candidates = answer["candidates"].as_array().map_or(0, Vec::len);
        columns.row(vec![
            format!("{} {source} > {destination}", question.proto.to_ascii_lowercase()),
            text("verdict"),
            text("reason"),
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
            ("tcp 203.0.113.2:40000 > 1.2.3.4:80", "203.0.113.2 40000 1.2.3.4 80 TCP"),
            ("  UDP [2001:db8::2]:1  >  [::1]:53 ", "2001:db8::2 1 ::1 53 UDP"),
            ("sctp 1.1.1.1:0 > 2.2.2.2:65535", "1.1.1.1 0 2.2.2.2 65535 SCTP"),
        ] {
            let got = parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(format!("{} {} {} {} {}", got.src, got.sport, got.dst, got.dport, got.proto), want);
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for (text, word) in [
            ("", "not protocol"),
            ("tcp 1.1.1.1:1 2.2.2.2:2", "not protocol"),
            ("icmp 1.1.1.1:1 > 2.2.2.2:2", "`icmp`"),
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
