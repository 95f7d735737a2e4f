//! Checks on whole frames.

use crate::{AnyKey, Family, checksum, parse};

/// Panics unless the frame parses and every checksum in it is right.
///
/// # Panics
/// As said, with the bytes.
#[track_caller]
pub fn assert_valid_checksums(frame: &[u8]) {
    let parsed = match parse(frame, frame.len()) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{error}: {frame:02x?}"),
    };
    let Some(addrs) = parsed.addrs() else { return };
    if addrs.family() == Family::V4 {
        let header = &frame[parsed.l3.into()..parsed.l4.into()];
        assert_eq!(checksum::ipv4_header(header), 0, "IPv4 header checksum: {header:02x?}");
    }
    assert!(checksum::is_right(&parsed, [frame]), "transport checksum of {parsed:?}: {frame:02x?}");
}

/// The 5-tuple of a frame.
///
/// # Panics
/// If the frame is not a whole TCP, UDP or SCTP packet.
#[track_caller]
pub fn flow_of(frame: &[u8]) -> AnyKey {
    match parse(frame, frame.len()).map(|parsed| parsed.key()) {
        Ok(Some(key)) => key,
        other => panic!("no flow ({other:?}): {frame:02x?}"),
    }
}
