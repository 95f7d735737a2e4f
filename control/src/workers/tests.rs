use std::net::Ipv4Addr;

use packet::{FlowKey, Protocol};
use tables::capture::capture_ring;
use tables::command::{CommandDesk, FlowFilter, command_rings};
use tables::flow::{FlowTable, FlowTableConfig, FlowView, NewFlow};
use tables::{BackendId, Millis, NatMode, ServiceId};

use super::*;

/// Half of the flows are of Service port 0, which were used at 900, the others of port 1, used at 0.
fn table(flows: u32) -> FlowTable {
    let config =
        FlowTableConfig { flows: 64 + flows * 2, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let mut table = FlowTable::new(&config).unwrap();
    for n in 0..flows {
        let (client, vip, pod) =
            (Ipv4Addr::from(0x0100_0000 + (n >> 16)), Ipv4Addr::new(2, 2, 2, 2), Ipv4Addr::new(3, 3, 3, 3));
        let (sport, protocol) = ((n & 0xffff) as u16, Protocol::Tcp);
        let flow = NewFlow {
            original: FlowKey { src: client, dst: vip, sport, dport: 80, protocol },
            reply: FlowKey { src: pod, dst: client, sport: 8080, dport: sport, protocol },
            service: service(n % 2),
            backend: BackendId::new(0, 0).unwrap(),
            mode: NatMode::Dnat,
        };
        table.insert(&flow, Millis(if n % 2 == 0 { 900 } else { 0 })).unwrap();
    }
    table
}

fn service(index: u32) -> ServiceId {
    ServiceId::new(index, 0).unwrap()
}

/// Records that a worker looks at in a turn.
const RECORDS: u32 = 16;
/// What a turn takes.
const TURN: Duration = Duration::from_millis(1);

/// Two workers that step their desks until the test ends.
fn workers(flows: [u32; 2]) -> Workers {
    let worker = |flows: u32| {
        let (sender, mut desk): (_, CommandDesk) = command_rings(2, 64);
        let mut table = table(flows);
        let (mut capture, _) = capture_ring(0);
        tokio::spawn(async move {
            loop {
                desk.step((&mut table, &mut capture), RECORDS, Millis(1000));
                sleep(TURN).await;
            }
        });
        (Arc::new(WorkerCounters::new(0)), sender)
    };
    Workers::new(flows.map(worker).into())
}

/// What is asked when all flows are meant.
async fn all(workers: &Workers, limit: u32) -> (Vec<ListedFlow>, bool) {
    let listing = workers.flows(FlowFilter::default(), limit, |_| true).await.unwrap();
    (listing.flows, listing.more)
}

#[tokio::test(start_paused = true)]
async fn flows_of_all_workers_share_one_limit() {
    let workers = workers([10, 10]);
    let (flows, more) = all(&workers, 100).await;
    assert_eq!((flows.len(), more), (20, false));
    assert_eq!((flows[0].worker, flows[19].worker, flows[0].idle_ms), (WorkerId(0), WorkerId(1), 100));
    for (limit, kept, more) in [(19, 19, true), (20, 20, false), (0, 0, true)] {
        let (flows, told) = all(&workers, limit).await;
        assert_eq!((flows.len(), told), (kept, more), "{limit}");
    }
    assert_eq!(workers.remove_flows(FlowFilter::default()).await, Ok(20));
    assert_eq!(all(&workers, 15).await.0.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn flows_that_are_not_kept_do_not_count_towards_the_limit() {
    let workers = workers([40, 0]);
    let of_one = |flow: &FlowView| flow.service == service(1);
    for (limit, kept, more) in [(20, 20, false), (19, 19, true)] {
        let listing = workers.flows(FlowFilter::default(), limit, of_one).await.unwrap();
        assert_eq!((listing.flows.len(), listing.more), (kept, more), "{limit}");
        assert!(listing.flows.iter().all(|listed| of_one(&listed.flow)));
    }
}

/// A table that takes a worker longer than anybody waits for a sign of it: 50,000 slots, 16 a turn.
const LARGE: u32 = 50_000;

#[tokio::test(start_paused = true)]
async fn a_table_that_takes_long_is_answered_for() {
    let workers = workers([LARGE, 10]);
    let start = Instant::now();
    let nobody = FlowFilter { address: Some(Ipv4Addr::new(9, 9, 9, 9).into()), ..FlowFilter::default() };
    let listing = workers.flows(nobody, 1000, |_| true).await.unwrap();
    assert_eq!((listing.flows.len(), listing.more), (0, false));
    assert!(start.elapsed() > PATIENCE, "nothing was shown: {:?}", start.elapsed());

    let old = FlowFilter { used_within_ms: Some(100), ..FlowFilter::default() };
    let listing = workers.flows(old, u32::MAX, |_| true).await.unwrap();
    assert_eq!(listing.flows.len(), (LARGE as usize + 10) / 2);
    assert_eq!(workers.remove_flows(nobody).await, Ok(0));
    assert_eq!(workers.remove_flows(old).await, Ok(u64::from(LARGE + 10) / 2));
}

#[tokio::test(start_paused = true)]
async fn other_commands_come_between_the_pages_of_a_listing() {
    let workers = workers([LARGE, 0]);
    let listing = all(&workers, u32::MAX);
    let order = async {
        sleep(TURN).await;
        workers.set_timeouts(Timeouts::default()).await.unwrap();
        Instant::now()
    };
    let listed = async { (listing.await.0.len(), Instant::now()) };
    let ((flows, listed_at), told_at) = tokio::join!(listed, order);
    assert_eq!(flows, LARGE as usize);
    assert!(told_at < listed_at);
}

#[tokio::test(start_paused = true)]
async fn flows_in_use_are_counted_by_service_and_estimated_where_there_are_too_many() {
    let filter = FlowFilter { used_within_ms: Some(100), ..FlowFilter::default() };
    let small = workers([100, 20]).sample(filter).await.unwrap();
    let all = Estimate { seen: 60, flows: 60 };
    assert_eq!(small, Sample { services: [(service(0), all)].into(), one_in: 1 });

    let workers = workers([LARGE, 20]);
    // The first worker's table is looked at in four turns, the other's wholly each time.
    let mut seen = 0;
    for _ in 0..4 {
        let sample = workers.sample(filter).await.unwrap();
        assert_eq!((sample.one_in, sample.services.len()), (4, 1));
        let estimate = sample.services[&service(0)];
        assert_eq!(estimate.flows, (estimate.seen - 10) * 4 + 10);
        assert!(estimate.flows.abs_diff(u64::from(LARGE) / 2) < 150, "{estimate:?}");
        seen += estimate.seen - 10;
    }
    assert_eq!(seen, u64::from(LARGE) / 2);
}

#[tokio::test(start_paused = true)]
async fn answers_nobody_waits_for_do_not_reach_the_next_command() {
    let workers = workers([200, 0]);
    let hung_up = tokio::time::timeout(Duration::ZERO, all(&workers, 100)).await;
    assert!(hung_up.is_err());
    assert_eq!(all(&workers, 3).await.0.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_worker_is_named() {
    let (sender, _desk) = command_rings(2, 64);
    let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(0)), sender)]);
    assert_eq!(workers.remove_flows(FlowFilter::default()).await, Err(NoAnswer(WorkerId(0))));
}
