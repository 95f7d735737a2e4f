//! Single values of the configuration: text to a typed value, or a fault that says what was expected.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use packet::MacAddr;

use super::duration;
use crate::yaml::{At, Errors};

/// IFNAMSIZ less its final NUL: Linux refuses longer names of network devices.
const NETDEV_NAME_MAX: usize = 15;
const TIMEOUT_MAX: Duration = Duration::from_secs(14 * 86_400);
const NET: &str = "a CIDR such as 10.0.0.0/8 or 2001:db8::/32";
const INTERFACE_NET: &str = "an address with its prefix length such as 192.0.2.1/24";
const ADDRESS: &str = "an address such as 192.0.2.1 or 2001:db8::1";

pub(super) fn netdev_name(at: &At<'_>, errors: &Errors) -> Option<String> {
    let name = at.text(errors)?;
    let fits = (1..=NETDEV_NAME_MAX).contains(&name.len()) && name != "." && name != "..";
    let clean = name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if fits && clean {
        return Some(name.to_owned());
    }
    let expected =
        "1 to 15 letters, digits, `-`, `_` or `.` are expected (the kernel mirror takes this name)";
    errors.add(at, format!("`{name}` cannot name a network device"), expected);
    None
}

pub(super) fn nonempty(at: &At<'_>, errors: &Errors) -> Option<String> {
    let text = at.text(errors)?;
    if text.is_empty() {
        errors.add(at, "empty", "a value is expected");
        return None;
    }
    Some(text.to_owned())
}

/// A label's value, not empty: it becomes part of a selector.
pub(super) fn label_value(at: &At<'_>, errors: &Errors) -> Option<String> {
    let text = nonempty(at, errors)?;
    let ends = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    let clean = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if ends && clean && text.len() <= 63 {
        return Some(text);
    }
    let expected =
        "at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, are expected";
    errors.add(at, format!("`{text}` is no label value"), expected);
    None
}

pub(super) fn absolute(at: &At<'_>, errors: &Errors) -> Option<String> {
    let text = nonempty(at, errors)?;
    if !text.starts_with('/') {
        errors.add(at, format!("`{text}` is not an absolute path"), "a path from `/` on is expected");
        return None;
    }
    Some(text)
}

pub(super) fn interface_address(at: &At<'_>, errors: &Errors) -> Option<IpNet> {
    let net: IpNet = at.parsed(INTERFACE_NET, errors)?;
    let last_or_first =
        net.addr() == net.network() || (net.addr() == net.broadcast() && net.addr().is_ipv4());
    let bits = net.max_prefix_len();
    if net.prefix_len() + 1 < bits && last_or_first {
        errors.add(
            at,
            format!("{net} is the subnet's own or broadcast address"),
            "a host's address is expected",
        );
        return None;
    }
    unicast(at, net.addr(), errors).then_some(net)
}

/// A name as Kubernetes gives them to objects (RFC 1123, a label).
pub(super) fn object_name(at: &At<'_>, errors: &Errors) -> Option<String> {
    let name = at.text(errors)?;
    let clean = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if clean && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-') {
        return Some(name.to_owned());
    }
    errors.add(at, format!("`{name}` cannot name an object"), "1 to 63 of a-z, 0-9 and `-` are expected");
    None
}

/// Whether the address may be a station's; a fault when not.
pub(super) fn unicast(at: &At<'_>, address: IpAddr, errors: &Errors) -> bool {
    let bad = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    if bad {
        errors.add(
            at,
            format!("{address} is no unicast address of a network"),
            "such an address is expected",
        );
    }
    !bad
}

/// A CIDR with no host bits.
pub(super) fn network(at: &At<'_>, errors: &Errors) -> Option<IpNet> {
    let net: IpNet = at.parsed(NET, errors)?;
    if net.addr() != net.network() {
        errors.add(at, format!("{net} has host bits"), format!("{} is expected", net.trunc()));
        return None;
    }
    Some(net)
}

pub(super) fn address(at: &At<'_>, errors: &Errors) -> Option<IpAddr> {
    let address = at.parsed(ADDRESS, errors)?;
    unicast(at, address, errors).then_some(address)
}

pub(super) fn port_range(at: &At<'_>, errors: &Errors) -> Option<(u16, u16)> {
    let text = at.scalar().unwrap_or_default();
    let ends = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    // Fewer than 1,024 ports would exhaust at once; below 1024 are the services of the machine itself.
    match ends {
        Some((first, last)) if first >= 1024 && u32::from(last) >= u32::from(first) + 1023 => {
            Some((first, last))
        }
        _ => {
            let expected =
                "first and last port of at least 1,024 from 1024 on, such as 1024-60999, are expected";
            errors.add(at, format!("`{text}` is not usable"), expected);
            None
        }
    }
}

/// As the API server takes it with `--service-node-port-range`, but for its other spellings.
pub(super) fn node_port_range(at: &At<'_>, errors: &Errors) -> Option<(u16, u16)> {
    let text = at.scalar().unwrap_or_default();
    let ends = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    let good = ends.filter(|(first, last)| *first > 0 && first <= last);
    if good.is_none() {
        let expected = "first and last nodePort such as 30000-32767, as in the API server's --service-node-port-range, are expected";
        errors.add(at, format!("`{text}` is not a range of ports"), expected);
    }
    good
}

pub(super) fn timeout(at: &At<'_>, errors: &Errors) -> Option<Duration> {
    let text = at.scalar().unwrap_or_default();
    let value = duration::parse(text).filter(|value| (Duration::from_secs(1)..=TIMEOUT_MAX).contains(value));
    if value.is_none() {
        let expected = "a duration from 1s to 14d such as 30s, 2h or 1h30m is expected";
        errors.add(at, format!("`{text}` is not usable"), expected);
    }
    value
}

pub(super) fn station(at: &At<'_>, errors: &Errors) -> Option<MacAddr> {
    let mac: MacAddr = at.parsed("an Ethernet address such as \"02:00:00:00:00:0b\"", errors)?;
    if !mac.is_station() {
        errors.add(at, "a group's or nobody's address", "the Ethernet address of one station is expected");
        return None;
    }
    Some(mac)
}
