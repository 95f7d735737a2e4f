//! Neighbour discovery: which messages these are, and the checks of RFC 4861 §6.1 and §7.1.

use std::net::Ipv6Addr;

use super::ip::Place;
use crate::{Nd, NdKind, ParseError, ndp};

/// Reads the message at `place`; nothing if it is another ICMPv6 message.
pub(super) fn facts(
    head: &[u8],
    place: Place,
    hop_limit: u8,
    (src, dst): (Ipv6Addr, Ipv6Addr),
) -> Result<Option<Nd>, ParseError> {
    let &[kind, code, ..] = place.chunk::<8>(head)?;
    let kind = match kind {
        133 => NdKind::RouterSolicitation,
        134 => NdKind::RouterAdvertisement,
        135 => NdKind::NeighborSolicitation,
        136 => NdKind::NeighborAdvertisement,
        _ => return Ok(None),
    };
    let message = head.get(place.at..place.end).ok_or(ParseError::SplitHeader)?;
    if hop_limit != 255 || code != 0 {
        return Err(ParseError::BadNd);
    }
    ndp::facts(kind, src, dst, message).map(Some).ok_or(ParseError::BadNd)
}
