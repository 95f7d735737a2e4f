//! What people may ask to see, in words: `host 192.0.2.1 and port 80 and tcp`. All that is said must hold.

use std::net::IpAddr;

use packet::Protocol;
use tables::capture::{PacketFilter, PacketKind, ServiceName};
use tables::{DropReason, Prefix};

/// Longest expression, in bytes.
const LEN_MAX: usize = 512;

/// Why an expression was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// Longer than any that is read; its length in bytes.
    #[error("the filter is {0} bytes long; at most {LEN_MAX} are read")]
    TooLong(usize),
    /// A word that none of the filter's begins with.
    #[error(
        "`{0}` is no word of a filter; known are host ADDRESS, net CIDR, port NUMBER, tcp, udp, sctp, icmp, arp, service NAMESPACE/NAME and reason REASON, joined by `and`"
    )]
    Unknown(String),
    /// Filters have no alternatives.
    #[error("a filter has no `{0}`: all that it says must hold; make one capture after the other")]
    Alternative(String),
    /// The expression ends where something must follow.
    #[error("nothing follows `{0}`; expected {1}")]
    Missing(String, &'static str),
    /// What follows a word is not what it takes.
    #[error("`{1}` after `{0}`: expected {2}")]
    Bad(String, String, &'static str),
    /// Said more often than a filter has room for.
    #[error("`{0}` is said too often; at most {1} times")]
    Repeated(String, usize),
    /// Packets that pass have no reason to be dropped.
    #[error("`reason {0}`: no such reason; `fairlead show drops` lists them")]
    Reason(String),
}

/// Reads an expression; an empty one means all packets.
///
/// # Errors
/// [`FilterError`], for the first word that is wrong.
pub fn parse(text: &str) -> Result<PacketFilter, FilterError> {
    if text.len() > LEN_MAX {
        return Err(FilterError::TooLong(text.len()));
    }
    let mut filter = PacketFilter::default();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        term(&mut filter, word, &mut words)?;
        if words.next_if(|next| *next == "and" || *next == "&&").is_some() && words.peek().is_none() {
            return Err(FilterError::Missing("and".into(), "another word of a filter"));
        }
    }
    Ok(filter)
}

fn term<'t>(
    filter: &mut PacketFilter,
    word: &'t str,
    words: &mut impl Iterator<Item = &'t str>,
) -> Result<(), FilterError> {
    let mut next = |expected| words.next().ok_or_else(|| FilterError::Missing(word.into(), expected));
    let bad = |value: &str, expected| FilterError::Bad(word.into(), value.into(), expected);
    match word {
        "host" => {
            let value = next("an address, such as 192.0.2.1")?;
            let address: IpAddr = value.parse().map_err(|_| bad(value, "an address, such as 192.0.2.1"))?;
            put(&mut filter.hosts, Prefix::host(address), word)
        }
        "net" => {
            let value = next("a network, such as 192.0.2.0/24")?;
            let net = value.parse().map_err(|_| bad(value, "a network, such as 192.0.2.0/24"))?;
            put(&mut filter.hosts, net, word)
        }
        "port" => {
            let value = next("a number from 0 to 65535")?;
            let port = value.parse().map_err(|_| bad(value, "a number from 0 to 65535"))?;
            put(&mut filter.ports, port, word)
        }
        "service" => {
            let value = next("NAMESPACE/NAME")?;
            let name = ServiceName::parse(value).ok_or_else(|| bad(value, "NAMESPACE/NAME"))?;
            once(&mut filter.service, name, word)
        }
        "reason" => {
            let value = next("a reason, such as NoEndpoints")?;
            let named = |reason: &DropReason| reason.symbol().eq_ignore_ascii_case(value);
            let reason = DropReason::ALL.into_iter().find(named);
            once(&mut filter.reason, reason.ok_or_else(|| FilterError::Reason(value.into()))?, word)
        }
        "or" | "||" | "not" | "!" => Err(FilterError::Alternative(word.into())),
        _ => {
            let kind = kind(word).ok_or_else(|| FilterError::Unknown(word.into()))?;
            once(&mut filter.kind, kind, word)
        }
    }
}

fn kind(word: &str) -> Option<PacketKind> {
    Some(match word {
        "arp" => PacketKind::Arp,
        "icmp" => PacketKind::Icmp,
        "sctp" => PacketKind::Transport(Protocol::Sctp),
        "tcp" => PacketKind::Transport(Protocol::Tcp),
        "udp" => PacketKind::Transport(Protocol::Udp),
        _ => return None,
    })
}

fn put<T, const N: usize>(places: &mut [Option<T>; N], value: T, word: &str) -> Result<(), FilterError> {
    let free = places.iter_mut().find(|place| place.is_none());
    *free.ok_or_else(|| FilterError::Repeated(word.into(), N))? = Some(value);
    Ok(())
}

fn once<T>(place: &mut Option<T>, value: T, word: &str) -> Result<(), FilterError> {
    if place.is_some() {
        return Err(FilterError::Repeated(word.into(), 1));
    }
    *place = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_are_read() {
        let filter = parse(
            "host 192.0.2.1 and net 10.0.0.0/8 port 80 && port 8080 tcp service shop/web reason noendpoints",
        );
        let host = |text: &str| Some(text.parse().unwrap());
        let want = PacketFilter {
            hosts: [host("192.0.2.1/32"), host("10.0.0.0/8")],
            ports: [Some(80), Some(8080)],
            kind: Some(PacketKind::Transport(Protocol::Tcp)),
            reason: Some(DropReason::NoEndpoints),
            service: ServiceName::parse("shop/web"),
        };
        assert_eq!(filter, Ok(want));
        assert_eq!(parse("  "), Ok(PacketFilter::default()));
        assert_eq!(parse("host 2001:db8::1").map(|filter| filter.hosts[0]), Ok(host("2001:db8::1/128")));
        for (word, kind) in [("arp", PacketKind::Arp), ("icmp", PacketKind::Icmp)] {
            assert_eq!(parse(word).map(|filter| filter.kind), Ok(Some(kind)));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("hosts 1.2.3.4", "`hosts` is no word of a filter; known are host ADDRESS, net CIDR"),
            ("host", "nothing follows `host`; expected an address"),
            ("host 1.2.3", "`1.2.3` after `host`: expected an address"),
            ("net 1.2.3.4", "`1.2.3.4` after `net`: expected a network"),
            ("port 65536", "`65536` after `port`: expected a number"),
            ("tcp or udp", "a filter has no `or`"),
            ("not tcp", "a filter has no `not`"),
            ("tcp udp", "`udp` is said too often; at most 1 times"),
            ("port 1 port 2 port 3", "`port` is said too often; at most 2 times"),
            ("service web", "`web` after `service`: expected NAMESPACE/NAME"),
            ("reason Bored", "`reason Bored`: no such reason"),
            ("tcp and", "nothing follows `and`"),
            (&"a".repeat(513), "the filter is 513 bytes long"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }
}
