//! A host's network card: frames in and out. It cuts the segments that its stack makes for the whole MTU to what the path
//! takes, as the stack of a real host does after it was told.

use std::collections::VecDeque;

use packet::{Body, Family, Parsed, TcpFlags, checksum, parse, tcp, testkit::assert_valid_checksums};
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium},
    time::Instant,
};

pub(crate) const MTU: u16 = 1_500;
const ETHERNET: usize = 14;

pub(crate) struct Card {
    pub(crate) arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
    /// Bytes of an IP packet that the path takes, as far as was told.
    path_mtu: u16,
}

pub(crate) struct Arrived(Vec<u8>);
pub(crate) struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl smoltcp::phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + ETHERNET;
        capabilities
    }
}

impl Card {
    pub(crate) const fn new() -> Self {
        Self { arrived: VecDeque::new(), leaving: VecDeque::new(), path_mtu: MTU }
    }

    /// The frames that leave now.
    pub(crate) fn take_leaving(&mut self) -> Vec<Vec<u8>> {
        let mtu = self.path_mtu;
        self.leaving.drain(..).flat_map(|frame| segments(frame, mtu)).collect()
    }

    /// A router says what fits: lower is believed. Never less than IPv6 lets a path have.
    pub(crate) fn told(&mut self, mtu: u16) {
        assert!(mtu >= 1_280, "no path is so narrow: {mtu}");
        self.path_mtu = self.path_mtu.min(mtu);
    }
}

/// What a "too big" says fits, where the frame is one.
pub(crate) fn told_mtu(parsed: &Parsed, frame: &[u8]) -> Option<u16> {
    let Body::Icmp(icmp) = parsed.body else { return None };
    assert_valid_checksums(frame);
    let mtu = &frame[usize::from(parsed.l4) + 6..][..2];
    icmp.is_too_big().then(|| u16::from_be_bytes([mtu[0], mtu[1]]))
}

/// A frame, or what it is cut to: segments of TCP that fit.
fn segments(frame: Vec<u8>, mtu: u16) -> Vec<Vec<u8>> {
    let parsed = parse(&frame, frame.len()).expect("a stack's frame parses");
    if parsed.ip_len <= mtu {
        return vec![frame];
    }
    let tcp = tcp::Header::at(&frame, parsed.l4).expect("only TCP makes long packets here");
    let payload_at = parsed.l4 + tcp.header_len();
    let room = usize::from(mtu - (payload_at - parsed.l3));
    let (headers, payload) = frame[..parsed.frame_end()].split_at(payload_at.into());
    let count = payload.chunks(room).len();
    let cut = |(n, part): (usize, &[u8])| {
        let seq = tcp.seq().wrapping_add(u32::try_from(n * room).expect("a short packet"));
        segment([headers, part].concat(), &parsed, seq, n + 1 == count)
    };
    payload.chunks(room).enumerate().map(cut).collect()
}

/// A segment made of the headers of a longer one, and its part of the payload.
fn segment(mut frame: Vec<u8>, whole: &Parsed, seq: u32, last: bool) -> Vec<u8> {
    let (l3, l4) = (usize::from(whole.l3), usize::from(whole.l4));
    let len = u16::try_from(frame.len() - l3).expect("shorter than before");
    if whole.addrs().expect("IP").family() == Family::V4 {
        frame[l3 + 2..][..2].copy_from_slice(&len.to_be_bytes());
        frame[l3 + 10..][..2].fill(0);
        let sum = checksum::ipv4_header(&frame[l3..l4]);
        frame[l3 + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[l3 + 4..][..2].copy_from_slice(&(len - 40).to_be_bytes());
    }
    frame[l4 + 4..][..4].copy_from_slice(&seq.to_be_bytes());
    if !last {
        frame[l4 + 13] &= !(TcpFlags::FIN | TcpFlags::PSH).0;
    }
    let parsed = parse(&frame, frame.len()).expect("a whole frame");
    checksum::of_packet(&parsed, [&frame[..]]).expect("TCP").store(&mut frame);
    frame
}
