//! The wrappers on virtual devices, without huge pages, a NIC or a tuned host. DPDK starts once a process and stays on
//! its thread, so this is one test that walks through all of it.
#![allow(clippy::panic)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use cpu::{Watch, Woken};
use dpdk::{
    Eal, EalConfig, EalError, HugePages, LaunchError, Mbuf, Mempool, MempoolError, Port, PortConfig,
    PortError, QueuePair, RxChecksum, StartedPort, TxChecksum,
};

const CONFIG: PortConfig = PortConfig {
    queues: 1,
    rx_descriptors: 512,
    tx_descriptors: 512,
    mtu: 1500,
    rss_key: &[7; 52],
    rx_interrupts: false,
};
/// How long a peer may take in a host that stops now and then.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn wrappers_on_virtual_devices() {
    refusals_before_the_start();
    let config =
        EalConfig { cores: vec![0, 0], memory_mib: 128, hugepages: HugePages::Never, args: Vec::new() };
    let eal = Eal::init(&config).expect("DPDK starts without huge pages");
    assert!(!eal.has_hugepages());
    assert_eq!(Eal::init(&config).err(), Some(EalError::Twice));
    assert!(dpdk::version().starts_with("DPDK "), "{}", dpdk::version());
    let pool = Mempool::new(&eal, "packets", 2_047, 2_176, -1).expect("a pool fits");
    let all = pool.available();
    buffers_grow_and_shrink(pool);
    a_checksum_request_keeps_the_flags_of_the_buffer(pool);
    assert_eq!(pool.available(), all, "every buffer came back");
    a_pool_runs_dry_and_recovers(&eal);
    bad_devices_are_named(&eal);
    several_queues_are_spread_over(&eal, pool);
    a_ring_carries_packets(&eal, pool);
    assert_eq!(pool.available(), all, "a closed port keeps no buffer");
    null_receives_whole_bursts(&eal, pool);
    a_capture_is_read_and_written(&eal, pool);
    assert_eq!(pool.available(), all, "a closed port keeps no buffer");
    a_packet_wakes_who_sleeps(&eal, pool);
    assert_eq!(pool.available(), all, "a closed port keeps no buffer");
    work_runs_on_an_lcore(&eal, pool);
}

fn refusals_before_the_start() {
    let config = EalConfig::default();
    assert_eq!(Eal::init(&config).err(), Some(EalError::NoCores));
    let config =
        EalConfig { cores: vec![0], memory_mib: u32::MAX, hugepages: HugePages::Require, args: Vec::new() };
    let error = Eal::init(&config).expect_err("nobody has 4 PiB of huge pages");
    assert!(error.to_string().contains("huge pages are required"), "{error}");
    let config = EalConfig { cores: vec![0], args: vec!["a\0b".to_owned()], ..EalConfig::default() };
    assert_eq!(Eal::init(&config).err(), Some(EalError::BadArgument));
}

fn open(eal: &Eal, device: &str, pool: Mempool) -> (StartedPort, QueuePair) {
    let port = Port::open(eal, device).unwrap_or_else(|error| panic!("{error}"));
    let (started, mut queues) = port.start(pool, &CONFIG).unwrap_or_else(|error| panic!("{error}"));
    (started, queues.pop().expect("one queue pair was asked for"))
}

fn filled(pool: Mempool, bytes: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().expect("the pool is not empty");
    mbuf.append(bytes.len()).expect("there is room").copy_from_slice(bytes);
    mbuf
}

fn buffers_grow_and_shrink(pool: Mempool) {
    let mut mbuf = filled(pool, b"payload");
    mbuf.prepend(3).expect("there is headroom").copy_from_slice(b"hdr");
    assert_eq!((mbuf.head(), mbuf.total_len()), (&b"hdrpayload"[..], 10));
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&b"hdrpayload"[..]]);
    assert_eq!(mbuf.trim_front(11), None);
    mbuf.trim_front(4).expect("the head is longer");
    mbuf.truncate(3);
    mbuf.truncate(9);
    assert_eq!((mbuf.head(), mbuf.total_len()), (&b"ayl"[..], 3));
    assert!(mbuf.prepend(129 + 4).is_none(), "headroom is 128 and 4 were cut off");
    assert!(mbuf.append(4_000).is_none());
    assert_eq!(mbuf.rx_checksum(), RxChecksum::Unknown);
    mbuf.request_tx_checksum(TxChecksum { l2_len: 14, l3_len: 20, ipv6: false, udp: true });
    mbuf.head_mut().reverse();
    assert_eq!(mbuf.head(), b"lya");
}

/// A driver's flags may say that the data lie outside the pool; freed without them, a foreign buffer becomes the pool's.
fn a_checksum_request_keeps_the_flags_of_the_buffer(pool: Mempool) {
    let mut mbuf = filled(pool, b"payload");
    let raw = (&raw mut mbuf).cast::<*mut u8>();
    // SAFETY: an `Mbuf` is a pointer to a whole mbuf, whose flags are at this offset.
    unsafe {
        (*raw).add(dpdk_sys::FAIRLEAD_MBUF_OL_FLAGS).cast::<u64>().write(dpdk_sys::FAIRLEAD_RX_L4_GOOD)
    };
    mbuf.request_tx_checksum(TxChecksum { l2_len: 14, l3_len: 20, ipv6: false, udp: true });
    assert_eq!(mbuf.rx_checksum(), RxChecksum::Good);
}

fn a_pool_runs_dry_and_recovers(eal: &Eal) {
    let pool = Mempool::new(eal, "small", 15, 2_176, -1).expect("a small pool fits");
    let taken: Vec<_> = std::iter::from_fn(|| pool.alloc()).take(100).collect();
    assert_eq!((taken.len(), pool.alloc().is_none()), (15, true));
    drop(taken);
    assert!(pool.alloc().is_some());
    let error = Mempool::new(eal, "huge", 100_000_000, 9_000, -1).expect_err("there is not that much memory");
    assert!(
        matches!(error, MempoolError::Refused { .. }) && error.to_string().contains("memoryMiB"),
        "{error}"
    );
}

fn bad_devices_are_named(eal: &Eal) {
    for (device, needle) in [
        ("", "is not a device"),
        ("net_af_packet7,iface=no-such-if", "`no-such-if` does not exist"),
        ("0000:ff:1f.7", "no PCI device 0000:ff:1f.7"),
        ("net_nonsense0", "no DPDK driver takes \"net_nonsense0\""),
        ("net_pcap9,rx_pcap=/no/such/file", "/no/such/file does not exist"),
    ] {
        let error = Port::open(eal, device).expect_err(device).to_string();
        assert!(error.contains(needle), "{device}: {error}");
    }
    let port = Port::open(eal, "net_null7").expect("net_null is built in");
    let wanted = port.queues_max() + 1;
    let pool = Mempool::new(eal, "unused", 15, 2_176, -1).expect("a small pool fits");
    let error = port.start(pool, &PortConfig { queues: wanted, ..CONFIG }).expect_err("too many queues");
    assert!(matches!(error, PortError::TooFewQueues { .. }), "{error}");
}

fn several_queues_are_spread_over(eal: &Eal, pool: Mempool) {
    let port = Port::open(eal, "net_null5").expect("net_null is built in");
    let config = PortConfig { queues: 2, ..CONFIG };
    let (port, _queues) = port.start(pool, &config).unwrap_or_else(|error| panic!("{error}"));
    let key = port.rss_key().expect("it says its key");
    assert!(CONFIG.rss_key.starts_with(&key), "{key:02x?}");
    let wanted: Vec<u16> = (0..2).cycle().take(port.reta_len()).collect();
    assert!(wanted.len().is_power_of_two(), "{} entries", wanted.len());
    port.set_reta(&wanted).expect("as many as it has");
    assert_eq!(port.reta().expect("it says its table"), wanted);
    assert!(port.set_reta(&wanted[1..]).is_err());
    let port = Port::open(eal, "net_ring5").expect("net_ring is built in");
    let (port, _queues) = port.start(pool, &CONFIG).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((port.rss_key().ok(), port.reta_len()), (Some(vec![]), 0), "a ring has no RSS");
}

fn a_ring_carries_packets(eal: &Eal, pool: Mempool) {
    let (port, mut queue) = open(eal, "net_ring0", pool);
    assert_eq!(port.driver(), "net_ring");
    assert!(port.link().expect("a ring has a link").up);
    let mut sent: Vec<Option<Mbuf>> = (0..32_u8).map(|n| Some(filled(pool, &[n; 60]))).collect();
    assert_eq!(queue.tx(&mut sent), 32);
    assert!(sent.iter().all(Option::is_none));
    let mut received: Vec<Option<Mbuf>> = (0..32).map(|_| None).collect();
    assert_eq!(queue.rx(&mut received), 32);
    for (n, mbuf) in (0..).zip(&received) {
        assert_eq!(mbuf.as_ref().expect("received").head(), [n; 60], "in order and unchanged");
    }
    // A hole ends what is sent, and an empty queue leaves every slot empty.
    let mut holed = std::mem::take(&mut received);
    holed[1] = None;
    assert_eq!((queue.tx(&mut holed), holed[0].is_none(), holed[2].is_some()), (1, true, true));
    let mut one: Vec<Option<Mbuf>> = (0..8).map(|_| None).collect();
    assert_eq!((queue.rx(&mut one), one.iter().flatten().count()), (1, 1));
    received.extend(one.into_iter().chain(holed).flatten().map(Some));
    assert_eq!(queue.rx(&mut [const { None }; 32]), 0);
    let stats = port.stats().expect("a ring counts");
    assert_eq!((stats.rx_packets, stats.tx_packets), (33, 33));
    assert!(
        port.xstats()
            .expect("a ring counts")
            .iter()
            .any(|stat| stat.name == "rx_good_packets" && stat.value == 33)
    );
}

fn null_receives_whole_bursts(eal: &Eal, pool: Mempool) {
    let (port, mut queue) = open(eal, "net_null0", pool);
    assert_eq!(port.mac().expect("it has one").len(), 6);
    let mut slots = [const { None }; 32];
    for _ in 0..1_000 {
        assert_eq!(queue.rx(&mut slots), 32);
        assert_eq!(queue.tx(&mut slots), 32);
    }
}

fn a_capture_is_read_and_written(eal: &Eal, pool: Mempool) {
    let folder = std::env::temp_dir().join(format!("fairlead-vdev-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    let jumbo: Vec<u8> = (0..=250).cycle().take(9_018).collect();
    fs::write(&input, capture(&[&[7; 60], &[8; 70], &jumbo])).expect("the temporary folder is writable");
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    // What is longer than a buffer comes in several, and leaves whole; a buffer that is long enough has it all.
    let large = Mempool::new(eal, "large", 63, 9_216 + 128, -1).expect("memory");
    for (pool, in_one) in [(pool, false), (large, true)] {
        let (port, mut queue) = open(eal, &device, pool);
        let mut slots = [const { None }; 32];
        assert_eq!(queue.rx(&mut slots), 3);
        assert_eq!(slots[1].as_ref().map(Mbuf::total_len), Some(70));
        let last = slots[2].as_ref().expect("received");
        assert_eq!((last.total_len(), last.segments().count() == 1), (9_018, in_one));
        assert_eq!(queue.tx(&mut slots[..3]), 3);
        drop((queue, port));
        assert_eq!(payloads(&output), [vec![7; 60], vec![8; 70], jumbo.clone()]);
    }
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// A capture file of Ethernet frames (the classic format, microseconds, little endian).
fn capture(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    for word in [0_u32, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).expect("frames are short");
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*frame);
    }
    file
}

fn payloads(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("it was written");
    let mut rest = file.get(24..).expect("it has a header");
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        frames.push(after[..len].to_vec());
        rest = &after[len..];
    }
    frames
}

fn work_runs_on_an_lcore(eal: &Eal, pool: Mempool) {
    assert!(matches!(eal.launch(0, || ()).err(), Some(LaunchError::NoLcore(0))));
    assert!(matches!(eal.launch(9, || ()).err(), Some(LaunchError::NoLcore(9))));
    let (_port, mut queue) = open(eal, "net_null1", pool);
    let job = eal.launch(1, move || {
        std::thread::sleep(Duration::from_millis(20));
        queue.rx(&mut [const { None }; 32])
    });
    let job = job.expect("the lcore is idle");
    assert!(
        matches!(eal.launch(1, || ()).err(), Some(LaunchError::Refused(_))),
        "one piece of work at a time"
    );
    assert_eq!(job.join().expect("it did not panic"), 32);
    let panicking = eal.launch(1, || panic!("contained")).expect("the lcore is idle again");
    let panic = panicking.join().expect_err("it panicked");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"contained"));
    assert_eq!(eal.launch(1, || 5).expect("a panic does not end the lcore").join().ok(), Some(5));
}

/// A guest's device and its host's, both here: each has receive interrupts, of a kind of its own.
fn a_packet_wakes_who_sleeps(eal: &Eal, pool: Mempool) {
    let socket = std::env::temp_dir().join(format!("fairlead-vdev-{}.sock", std::process::id()));
    let wanted = PortConfig { rx_interrupts: true, ..CONFIG };
    let open = |device: String| {
        let port = Port::open(eal, &device).unwrap_or_else(|error| panic!("{error}"));
        let (port, mut queues) = port.start(pool, &wanted).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(port.interrupts_refused(), None, "{device}");
        (port, queues.pop().expect("one queue pair was asked for"))
    };
    let (host, mut host_queue) = open(format!("net_vhost0,iface={}", socket.display()));
    // The second guest has files of its own.
    for guest in 0..2 {
        let (guest, mut guest_queue) = open(format!("net_virtio_user{guest},path={}", socket.display()));
        assert!(host.capabilities().rx_interrupts && guest.capabilities().rx_interrupts);
        until(|| host.link().is_ok_and(|link| link.up));
        let (at_host, at_guest) = (Watch::new().expect("a few files"), Watch::new().expect("a few files"));
        for _ in 0..20 {
            wakes(&mut host_queue, &mut guest_queue, &at_guest, pool);
            wakes(&mut guest_queue, &mut host_queue, &at_host, pool);
        }
        drop((guest_queue, guest));
        until(|| host.link().is_ok_and(|link| !link.up));
    }
    let (ring, mut queue) = open("net_ring7".to_owned());
    assert!(!ring.capabilities().rx_interrupts, "it works without");
    assert!(queue.arm().is_err());
}

/// Waits for a peer's thread.
fn until(reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < PATIENCE, "the peer does nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A packet that comes to an armed queue wakes who waits for it; one that came before or after does not.
fn wakes(from: &mut QueuePair, to: &mut QueuePair, watch: &Watch, pool: Mempool) {
    let send = |from: &mut QueuePair| assert_eq!(from.tx(&mut [Some(filled(pool, &[7; 60]))]), 1);
    let mut slots = [const { None }; 4];
    send(from);
    assert_eq!(watch.wait(Duration::ZERO), Woken::Late, "it is silent");
    watch.add(to.arm().expect("its peer is there")).expect("it can be watched");
    assert_eq!(to.rx(&mut slots), 1, "the last look finds it");
    // What changed before it was armed ends a wait once.
    while watch.wait(Duration::ZERO) == Woken::Called {}
    send(from);
    assert_eq!(watch.wait(Duration::ZERO), Woken::Called);
    to.disarm();
    assert_eq!(to.rx(&mut slots[1..]), 1);
    assert_eq!(watch.wait(Duration::ZERO), Woken::Late);
}
