//! The TCP reset that answers a segment nobody wants (RFC 9293 §3.10.7.1).

use super::{Link, TTL, Writer};
use crate::{
    AnyAddrs, Body, Parsed, Protocol, TcpFlags, bytes::chunk, checksum::Sum, ether, reply::may_be_answered,
    tcp,
};

/// Refuses a TCP segment in the name of its receiver; a reset is never answered.
pub fn tcp_reset(out: &mut [u8], head: &[u8], parsed: &Parsed) -> Option<usize> {
    let Body::Flow { key, tcp_flags } = parsed.body else { return None };
    if key.protocol() != Protocol::Tcp || tcp_flags.rst() || !may_be_answered(parsed) {
        return None;
    }
    let segment = tcp::Header(chunk(head, parsed.l4.into())?);
    let (seq, ack, flags) = if tcp_flags.ack() {
        (segment.ack(), 0, TcpFlags::RST)
    } else {
        let data = parsed.l4_len().saturating_sub(segment.header_len());
        let len = u32::from(data) + u32::from(tcp_flags.syn()) + u32::from(tcp_flags.fin());
        (0, segment.seq().wrapping_add(len), TcpFlags::RST | TcpFlags::ACK)
    };
    let mut reset = [0; tcp::HEADER_LEN];
    let mut header = tcp::Header(&mut reset);
    header.set_ports(key.dport(), key.sport());
    header.set_numbers(seq, ack);
    header.set_flags(flags);
    let answer = key.addrs().reversed();
    let mut sum = Sum::pseudo(answer, Protocol::Tcp.number(), 20);
    sum.add(&reset);
    tcp::Header(&mut reset).set_checksum(sum.checksum());

    let link = Link { dst: parsed.src_mac, src: parsed.dst_mac, vlan: parsed.vlan };
    let mut writer = match answer {
        AnyAddrs::V4 { src, dst } => {
            let mut writer = Writer::frame(out, link, ether::IPV4)?;
            writer.ipv4(src, dst, Protocol::Tcp.number(), reset.len())?;
            writer
        }
        AnyAddrs::V6 { src, dst } => {
            let mut writer = Writer::frame(out, link, ether::IPV6)?;
            writer.ipv6(src, dst, (Protocol::Tcp.number(), TTL), reset.len())?;
            writer
        }
    };
    writer.put(&reset)?;
    writer.finish()
}
