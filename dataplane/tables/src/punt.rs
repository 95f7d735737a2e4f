//! Bounded rings of frames between one worker and control: punt (worker to control) and inject (back).
//!
//! Frames are copied, and no buffer of a device ever leaves its worker. A full ring refuses; the caller counts.

use std::{net::IpAddr, sync::Arc};

use cpu::Bell;

pub use crate::records::RecordError;

use crate::{
    PortId, ServiceId,
    records::{self, HEADER_LEN, Record, RecordReceiver, RecordSender},
};

/// Longest frame that fits a ring, in bytes: a jumbo frame of MTU 9,000 with its Ethernet header and two tags, rounded up.
pub const FRAME_LEN_MAX: usize = 9_216;

const KIND_FRAME: u8 = 0;
const KIND_RESOLVE: u8 = 1;
const KIND_BYPASS: u8 = 2;

/// What a ring carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message {
    /// A frame that came in on, or is to leave by, this port; its bytes are in the caller's buffer.
    Frame {
        /// The port.
        port: PortId,
        /// Bytes of the buffer that are the frame.
        len: usize,
    },
    /// Somebody waits for the link-layer address of `address` behind `port`.
    Resolve {
        /// The port.
        port: PortId,
        /// The next hop.
        address: IpAddr,
    },
    /// So many flows of a Service port go on although no packet of their backends was seen.
    ReplyBypass {
        /// The Service port.
        service: ServiceId,
        /// Flows since the last such message.
        flows: u32,
    },
}

/// The writing end.
pub struct FrameSender {
    ring: RecordSender,
    bell: Option<Arc<Bell>>,
}

/// The reading end.
pub struct FrameReceiver {
    ring: RecordReceiver,
}

/// A ring of `bytes` (at least one longest frame; more is better).
#[must_use]
pub fn frame_ring(bytes: usize) -> (FrameSender, FrameReceiver) {
    let (sender, receiver) = records::ring(bytes.max(HEADER_LEN + FRAME_LEN_MAX));
    (FrameSender { ring: sender, bell: None }, FrameReceiver { ring: receiver })
}

impl FrameSender {
    /// Calls the reading end at each message from now on, in case it sleeps.
    pub fn call(&mut self, bell: Arc<Bell>) {
        self.bell = Some(bell);
    }

    /// Copies a frame, given as its segments, into the ring.
    ///
    /// # Errors
    /// [`RecordError::Full`] or [`RecordError::TooLong`]; then nothing was written.
    pub fn frame<'a>(
        &mut self,
        port: PortId,
        segments: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), RecordError> {
        let len = segments.clone().map(<[u8]>::len).sum::<usize>();
        if len > FRAME_LEN_MAX {
            return Err(RecordError::TooLong);
        }
        self.push(KIND_FRAME, port, len, segments)
    }

    /// Asks for a next hop to be resolved.
    ///
    /// # Errors
    /// [`RecordError::Full`].
    pub fn resolve(&mut self, port: PortId, address: IpAddr) -> Result<(), RecordError> {
        match address {
            IpAddr::V4(address) => {
                self.push(KIND_RESOLVE, port, 4, [address.octets().as_slice()].into_iter())
            }
            IpAddr::V6(address) => {
                self.push(KIND_RESOLVE, port, 16, [address.octets().as_slice()].into_iter())
            }
        }
    }

    /// Tells of flows whose replies take another way.
    ///
    /// # Errors
    /// [`RecordError::Full`].
    pub fn reply_bypass(&mut self, service: ServiceId, flows: u32) -> Result<(), RecordError> {
        let parts = [service.to_bits().to_be_bytes(), flows.to_be_bytes()];
        self.push(KIND_BYPASS, PortId(0), 8, parts.iter().map(<[u8; 4]>::as_slice))
    }

    fn push<'a>(
        &mut self,
        kind: u8,
        port: PortId,
        len: usize,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), RecordError> {
        self.ring.push(kind, port, len, parts)?;
        self.bell.iter().for_each(|bell| bell.ring());
        Ok(())
    }

    /// True when the reading end is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

impl FrameReceiver {
    /// Takes the oldest message; the bytes of a frame go to the front of `buffer`.
    pub fn receive(&mut self, buffer: &mut [u8; FRAME_LEN_MAX]) -> Option<Message> {
        let Record { kind, port, len } = self.ring.pop(buffer)?;
        let body = buffer.get(..len)?;
        match kind {
            KIND_FRAME => Some(Message::Frame { port, len }),
            KIND_BYPASS => bypass_of(body),
            _ => address_of(body).map(|address| Message::Resolve { port, address }),
        }
    }

    /// True when nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// True when the writing end is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

/// The address whose bytes these are, by their count.
fn address_of(body: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(body).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(body).map(IpAddr::from)).ok()
}

/// What [`FrameSender::reply_bypass`] wrote.
fn bypass_of(body: &[u8]) -> Option<Message> {
    let (service, flows) = body.split_first_chunk::<4>()?;
    let (service, flows) = (u32::from_be_bytes(*service), u32::from_be_bytes(flows.try_into().ok()?));
    Some(Message::ReplyBypass { service: ServiceId::from_bits(service), flows })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use cpu::{NAP_MAX, Watch, Woken};
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Frame(u16, Vec<u8>, usize),
        Resolve(u16, IpAddr),
        Bypass(u32, u32),
        Receive,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u16>(), prop::collection::vec(any::<u8>(), 0..3_000), 0_usize..3_000)
                .prop_map(|(port, bytes, cut)| Step::Frame(port, bytes, cut)),
            (any::<u16>(), any::<IpAddr>()).prop_map(|(port, address)| Step::Resolve(port, address)),
            (0..1000u32, any::<u32>()).prop_map(|(slot, flows)| Step::Bypass(slot, flows)),
            Just(Step::Receive),
        ]
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_and_in_order(steps in prop::collection::vec(step(), 1..200)) {
            let (mut sender, mut receiver) = frame_ring(0);
            let mut twin: VecDeque<(Message, Vec<u8>)> = VecDeque::new();
            let mut buffer = [0; FRAME_LEN_MAX];
            for step in steps {
                match step {
                    Step::Frame(port, bytes, cut) => {
                        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
                        let used: usize = twin.iter().map(|(_, bytes)| HEADER_LEN + bytes.len()).sum();
                        let fits = used + HEADER_LEN + bytes.len() <= HEADER_LEN + FRAME_LEN_MAX;
                        let sent = sender.frame(PortId(port), [head, tail].into_iter());
                        prop_assert_eq!(sent, if fits { Ok(()) } else { Err(RecordError::Full) });
                        if fits {
                            twin.push_back((Message::Frame { port: PortId(port), len: bytes.len() }, bytes));
                        }
                    }
                    Step::Resolve(port, address) => {
                        if sender.resolve(PortId(port), address).is_ok() {
                            let octets = match address {
                                IpAddr::V4(address) => address.octets().to_vec(),
                                IpAddr::V6(address) => address.octets().to_vec(),
                            };
                            twin.push_back((Message::Resolve { port: PortId(port), address }, octets));
                        }
                    }
                    Step::Bypass(slot, flows) => {
                        let service = ServiceId::new(slot, 3).unwrap();
                        if sender.reply_bypass(service, flows).is_ok() {
                            twin.push_back((Message::ReplyBypass { service, flows }, vec![0; 8]));
                        }
                    }
                    Step::Receive => {
                        let got = receiver.receive(&mut buffer);
                        let want = twin.pop_front();
                        prop_assert_eq!(got, want.as_ref().map(|(message, _)| *message));
                        if let Some((Message::Frame { .. } | Message::Resolve { .. }, bytes)) = want {
                            prop_assert_eq!(&buffer[..bytes.len()], &bytes[..]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_message_calls_a_reader_that_listens() {
        let watch = Watch::new().unwrap();
        let (mut sender, _receiver) = frame_ring(0);
        sender.call(Arc::clone(watch.bell()));
        type Send = fn(&mut FrameSender) -> Result<(), RecordError>;
        let messages: [Send; 3] = [
            |sender| sender.frame(PortId(0), [&[7; 60][..]].into_iter()),
            |sender| sender.resolve(PortId(0), IpAddr::from([10, 0, 0, 2])),
            |sender| sender.reply_bypass(ServiceId::new(1, 3).unwrap(), 1),
        ];
        for message in messages {
            watch.bell().listen();
            message(&mut sender).unwrap();
            assert_eq!(watch.wait(NAP_MAX), Woken::Called);
        }
    }

    #[test]
    fn an_oversized_frame_is_refused() {
        let (mut sender, receiver) = frame_ring(0);
        let frame = [0; FRAME_LEN_MAX + 1];
        assert_eq!(sender.frame(PortId(0), [&frame[..]].into_iter()), Err(RecordError::TooLong));
        assert!(receiver.is_empty());
        drop(receiver);
        assert!(sender.is_abandoned());
    }
}
