//! A host's network card: frames in and out. It cuts what its stack makes for the whole MTU to what the path takes, as the
//! stack of a real host does after it was told: segments of TCP into segments, datagrams into parts; and it puts those
//! together that come.

use std::collections::VecDeque;

use crate::{
    parts::{Joiner, allow_cutting, cut, is_udp},
    scenario::Cutting,
};
use packet::{
    Body, Family, Fragment, Parsed, TcpFlags, checksum, parse, tcp, testkit::assert_valid_checksums,
};
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium},
    time::Instant,
};

pub(crate) const MTU: u16 = 1_500;
const ETHERNET: usize = 14;
/// The longest datagram that a stack makes.
const DATAGRAM_MAX: usize = 4_000;

pub(crate) struct Card {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
    joiner: Joiner,
    /// Of datagrams: how they leave, and the name of the next one that is, or may be, cut.
    datagrams: Option<(Cutting, u16)>,
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
        let mtu = if self.datagrams.is_some() { DATAGRAM_MAX } else { usize::from(MTU) };
        capabilities.max_transmission_unit = mtu + ETHERNET;
        capabilities
    }
}

impl Card {
    /// For a stack that speaks TCP.
    pub(crate) fn new() -> Self {
        let (arrived, leaving, joiner) = (VecDeque::new(), VecDeque::new(), Joiner::default());
        Self { arrived, leaving, joiner, datagrams: None, path_mtu: MTU }
    }

    /// For one that speaks UDP; its datagrams have names from this one on.
    pub(crate) fn for_datagrams(cutting: Cutting, first_id: u16) -> Self {
        Self { datagrams: Some((cutting, first_id)), ..Self::new() }
    }

    /// A frame has come; a part of a datagram counts with the last one.
    pub(crate) fn arrive(&mut self, parsed: &Parsed, frame: &[u8]) {
        let whole = if parsed.fragment == Fragment::Whole {
            Some(frame.to_vec())
        } else {
            self.joiner.join(parsed, frame)
        };
        self.arrived.extend(whole);
    }

    /// The frames that leave now.
    pub(crate) fn take_leaving(&mut self) -> Vec<Vec<u8>> {
        let leaving: Vec<_> = self.leaving.drain(..).collect();
        leaving.into_iter().flat_map(|frame| self.fitting(frame)).collect()
    }

    /// A frame, or what it leaves as.
    fn fitting(&mut self, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        let parsed = parse(&frame, frame.len()).expect("a stack's frame parses");
        let Some((cutting, id)) = self.datagrams.as_mut().filter(|_| is_udp(&parsed)) else {
            return segments(frame, &parsed, self.path_mtu);
        };
        *id += 1;
        let mtu = self.path_mtu.min(cutting.longest);
        if parsed.ip_len > mtu {
            return cut(&frame, mtu, u32::from(*id));
        }
        if cutting.allowed && parsed.addrs().is_some_and(|addrs| addrs.family() == Family::V4) {
            allow_cutting(&mut frame, parsed.l3.into(), *id);
        }
        vec![frame]
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
fn segments(frame: Vec<u8>, parsed: &Parsed, mtu: u16) -> Vec<Vec<u8>> {
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
        segment([headers, part].concat(), parsed, seq, n + 1 == count)
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
