use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::{Block, PcapNgParser};
use tables::capture::{Capture, Event, PacketFilter, capture_ring};
use tables::command::command_rings;
use tables::counters::WorkerCounters;
use tables::flow::{FlowTable, FlowTableConfig};
use tables::tcp_state::Timeouts;
use tables::{DropReason, Millis, PortId};

use super::pcapng::Blocks;
use super::*;

const FRAME: [u8; 61] = [0xa5; 61];

/// Two workers, each with a packet in hand every 100 us while one is wanted; what the packets are is of no account.
fn captures() -> Captures {
    let worker = |id: u16| {
        let (sender, mut desk) = command_rings(2, 8);
        let (mut capture, receiver): (Capture, _) = capture_ring(1 << 16);
        let config = FlowTableConfig { flows: 64, ipv6: false, secret: 7, timeouts: Timeouts::default() };
        let mut flows = FlowTable::new(&config).unwrap();
        tokio::spawn(async move {
            for turn in 0.. {
                desk.step((&mut flows, &mut capture), 16, Millis(turn));
                capture.set_time(u64::from(turn) * 1_000_000);
                let event = if id == 0 { Event::Left } else { Event::Dropped(DropReason::NoRoute) };
                capture.take((event, PortId(id)), 99, [&FRAME[..]].into_iter(), Millis(turn));
                sleep(Duration::from_micros(100)).await;
            }
        });
        ((Arc::new(WorkerCounters::new(2)), sender), receiver)
    };
    let (workers, rings) = [0, 1].map(worker).into_iter().unzip();
    Captures::new(Workers::new(workers), rings, vec!["outside".into(), "inside".into()])
}

fn order(count: u64) -> Order {
    let spec = CaptureSpec {
        passing: true,
        filter: PacketFilter::default(),
        snap_len: 128,
        one_in: 1,
        per_second: 1_000_000,
    };
    Order { spec, count, duration: None }
}

async fn whole(mut file: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = file.recv().await {
        bytes.extend(&piece);
    }
    bytes
}

/// The packets of a file, and the names of its interfaces, as another reader of the format has them.
fn read_by_another(file: &[u8]) -> (Vec<EnhancedPacketBlock<'_>>, usize) {
    let (mut rest, mut parser) = PcapNgParser::new(file).expect("a section");
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (after, block) = parser.next_block(rest).expect("a sound block");
        rest = after;
        if let Block::EnhancedPacket(packet) = block {
            packets.push(packet);
        }
    }
    (packets, parser.interfaces().len())
}

#[tokio::test]
async fn another_reader_understands_the_file() {
    let before = now_ns();
    let file = whole(captures().start(order(50)).await.unwrap()).await;
    let (packets, interfaces) = read_by_another(&file);
    assert_eq!((packets.len(), interfaces), (50, 2));
    let mut times = Vec::new();
    for packet in &packets {
        assert_eq!((&packet.data[..], packet.original_len), (&FRAME[..], 99));
        let flags = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Flags(flags) => Some(*flags),
            _ => None,
        });
        let comment = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Comment(text) => Some(text.to_string()),
            _ => None,
        });
        match packet.interface_id {
            0 => assert_eq!((flags, comment), (Some(2), None)),
            _ => {
                let text = "dropped: NoRoute: no route to the destination; add a route for it";
                assert_eq!((flags, comment.as_deref()), (Some(1), Some(text)));
            }
        }
        times.push(packet.timestamp);
    }
    assert!(packets.iter().any(|packet| packet.interface_id == 0), "of the first worker");
    assert!(packets.iter().any(|packet| packet.interface_id == 1), "of the second worker");
    let newest = u64::try_from(times.iter().max().unwrap().as_nanos()).unwrap();
    assert!(newest > before - 1_000_000_000 && newest < now_ns() + 60_000_000_000, "the time of day");
}

#[tokio::test]
async fn a_file_is_counted_in_pieces_of_any_size() {
    let file = whole(captures().start(order(20)).await.unwrap()).await;
    for size in [1, 7, 4096] {
        let mut blocks = Blocks::default();
        assert!(file.chunks(size).all(|piece| blocks.take(piece)));
        assert_eq!(blocks.packets, 20, "{size}");
        assert!(blocks.end.unwrap().starts_with("all ports together: "));
    }
    assert!(!Blocks::default().take(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn one_capture_at_a_time_and_the_next_when_it_was_stopped() {
    let captures = captures();
    assert!(!captures.stop(), "none runs");
    let mut first = captures.start(order(0)).await.unwrap();
    assert!(matches!(captures.start(order(1)).await, Err(CaptureError::Busy)));
    assert!(first.recv().await.is_some());
    assert!(captures.stop());
    let rest = whole(first).await;
    assert!(!rest.is_empty(), "it ends in order");
    let second = whole(captures.start(order(1)).await.unwrap()).await;
    assert_eq!(read_by_another(&second).0.len(), 1);
}

#[tokio::test]
async fn a_capture_ends_by_time_and_with_its_reader() {
    let captures = captures();
    let duration = Some(Duration::from_millis(50));
    let file = whole(captures.start(Order { duration, ..order(0) }).await.unwrap()).await;
    assert!(!read_by_another(&file).0.is_empty());

    drop(captures.start(order(0)).await.unwrap());
    let again = async {
        loop {
            match captures.start(order(1)).await {
                Ok(file) => return whole(file).await,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let file = timeout(Duration::from_secs(5), again).await.expect("nobody reads, so it ends");
    assert_eq!(read_by_another(&file).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stuck_is_named_and_holds_nothing() {
    let (sender, _desk) = command_rings(2, 8);
    let (_capture, receiver) = capture_ring(0);
    let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(0)), sender)]);
    let captures = Captures::new(workers, vec![receiver], vec![]);
    let refused = captures.start(order(0)).await;
    assert!(matches!(refused, Err(CaptureError::NoAnswer(_))));
}
