//! Single values of manifests: addresses and networks as the API server took them over the years.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::yaml::{At, Errors};

/// An address as Go's net.ParseIP gave it to the objects of old: leading zeros are decimal, mapped IPv4 is IPv4.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// A network, as liberal as [`ip`]; host bits are cleared.
pub(super) fn net(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    Some(IpNet::new(ip(address)?, length.parse().ok()?).ok()?.trunc())
}

fn parsed<T>(at: &At<'_>, parse: fn(&str) -> Option<T>, expected: &str, errors: &Errors) -> Option<T> {
    let text = at.text(errors)?;
    let value = parse(text);
    if value.is_none() {
        errors.add(at, format!("`{text}` is not valid"), format!("{expected} is expected"));
    }
    value
}

pub(super) fn address(at: &At<'_>, errors: &Errors) -> Option<IpAddr> {
    parsed(at, ip, "an IP address", errors)
}

pub(super) fn network(at: &At<'_>, errors: &Errors) -> Option<IpNet> {
    parsed(at, net, "a CIDR such as 10.0.0.0/8", errors)
}
