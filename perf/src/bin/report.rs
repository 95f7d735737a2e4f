//! Puts the tables of the last bench runs together into docs/performance.md; what was not run again stays as it is there.
//! `cargo run -p perf --bin report`.

use std::{error::Error, fs, path::Path};

use perf::plot::Plot;

/// Benches in the order of the page, and what each is about. A bench that was never run is left out.
const BENCHES: [(&str, &str); 16] = [
    (
        "worker",
        "The shipped loop on memory ports with 2 KiB buffers on huge pages: full NAT of 64-byte frames, shuffled flow order, \
         8,192 rotating buffers a port, TCP state, expiry and counters on. A sample is a turn of 64 packets (32 for new \
         flows); one frame in 64 is checked for addresses, ports, checksums and TTL. The aims: 30 ns at \
         1 k flows, 75 ns at 1 M (then 25 and 70), 3 M new flows a second, two workers 1.95 times one, IPv6 1.25 times IPv4, a part \
         of a datagram three times a whole packet. `perf/instructions.tsv` has the instructions of the loop; the first packet of a flow \
         waits for memory besides, for eight lines at random or more. What bounds each, and what was tried: [adr/0006](adr/0006-what-did-not-pay.md).",
    ),
    (
        "stages",
        "The same loop in a build that marks its stages with the time-stamp counter (`cargo bench -p perf --features stages --bench stages`), \
         as nanoseconds a packet. First with one mark a burst; then (packets marked) with marks within each packet, which split what \
         is done packet by packet. Those keep the processor from working on the next packet meanwhile, so that their sum is more than the \
         whole: they tell of proportions. A mark's own cost is taken off. A usual packet's record is compared and noted at once, and its \
         rewrite has the neighbour's addresses in it.",
    ),
    (
        "wire",
        "`fairlead run`, one worker, full NAT of 60-byte frames (64 with the check sequence), against \
         `dpdk-testpmd --forward-mode=macswap` on the same memif links in interleaved rounds. One way: UDP of testpmd's \
         `flowgen` over one link, which nobody answers, as published figures have it. Both ways: established TCP flows of \
         `pktgen` over two links; each returned frame counts. New flows: every packet a SYN of a new client, from an empty \
         table; what reaches backends counts. Latency and loss-free rates are of numbered UDP frames, both ways. \
         Publications: the same at 0.7 of the greatest rate, with 10,000 Services that change 1,000 times a second, and that do not; changes within a millisecond \
         of a version are compiled together, so that the versions a second are fewer; the aim is that no frame is lost inside. [benchmarking.md](benchmarking.md) says more, and how to put \
         another gateway in this place. The aims: 0.85 of macswap at 1 k flows, 0.85 and 0.75 of that at 100 k and 1 M; 3 M new flows a second while filling, 2.5 M steady; latency 1.3 times \
         testpmd's at p50, twice at p99.9; 0.8 of testpmd's loss-free rate. The host of a virtual machine moves its cores \
         between neighbours below one cache (near) and places without one in common (far), which changes both rows by a factor of \
         two and more: the distance is measured four times a second below each run and the rate in slices of 20 ms (flowgen's: 100 ms). A run \
         below which either changed, or that waited for a core, does not count and is repeated; each ratio is of two runs next to each other over \
         the same wire, and the row has the median of the rounds' ratios with the least and the greatest. The table says NO COMPARISON \
         where no run counts. What bounds both: a driver that copies each \
         frame twice and waits for lines of the other core.",
    ),
    (
        "wire-vhost",
        "The same over DPDK's virtio-user at the gateway's end and vhost at the generator's: a virtual machine's wire. `cargo bench -p perf \
         --features dpdk --bench wire -- --wire=vhost`.",
    ),
    (
        "wire-af_xdp",
        "The same over AF_XDP at both ends of the kernel's virtual pairs, without zero copy: `--wire=af_xdp`.",
    ),
    (
        "wire-nic",
        "The same over this machine's ports to a gateway elsewhere: `--nic`. See [benchmarking.md](benchmarking.md).",
    ),
    (
        "idle",
        "A worker without work, that polls and that sleeps (`workers.idle`), without and with receive interrupts: its share of a core, and the \
         time from a question for its own address, after a silence, to the answer. The aims of sleep: with interrupts within 100 us at less \
         than 3 % of a core, without within 1 ms at less than 6 %.",
    ),
    (
        "listing",
        "The workers' part of `show flows` with a filter, over a full table, answered in pages of 16,384 slots: 8 slots of it in a turn with \
         packets or soon after, 64 in others. Either no flow matches, or all go through the ring to control, which keeps none. First what packets cost \
         without it and meanwhile; then its time, in which the worker shares its thread with the making of the packets and their checks, and \
         what of that was spent in turns of the worker, all of them with 64 packets.",
    ),
    ("flow", "The flow table alone, in bursts of 32 with the worker's prefetches."),
    ("parse", "Frame to 5-tuple; 2,048 frames in random order."),
    ("checksum", "Sums, and the rewrite of a frame with deltas made once a flow."),
    ("maglev", "Building and reading the tables that balance."),
    (
        "ranges",
        "Who may use a Service (`loadBalancerSourceRanges`, `fairlead.dev/allow`, `fairlead.dev/deny`): asked once for the first packet \
         of a flow, never for another. Ranges are scattered networks of all lengths. The aim: 15 ns with 10,000 of them.",
    ),
    (
        "change",
        "From a change's arrival at the applier until two idle workers have taken the tables that hold it, at 10,000 Services \
         of 25 endpoints, and at 50,000. A change of a manifest file comes about 5 ms and a look at every file of the tree later. The aims, at 10,000: \
         5 ms at p99; the first load in 2 s and 1 GiB; 200 MB of tables.",
    ),
    (
        "cluster",
        "`make bench-kubernetes`: 10,000 Services of 25 endpoints, each on addresses of its own, in a real API server (etcd, controllers and \
         scheduler run too). Our source, applier and two shipped workers, which sleep for up to 1 ms when idle, follow it over TLS with the \
         rights that are shipped; kube-proxy 1.36 in nftables mode with its defaults follows it on a node. One endpoint of a Service is \
         replaced by another, again and again. The clock starts when the API server has answered the write or a watch beside has told of it, \
         whichever is first; it stops when both workers have the endpoint in their tables, and for kube-proxy at the first connection that \
         its rules lead to it (one in 25 can; there are about 400 a second). All of it shares the host's two processors. The aim: 5 ms at p99. \
         The same against a scripted server, with 1,000 changes a second, is `cargo test --release -p control --test kube -- --ignored \
         --nocapture`.",
    ),
    (
        "kubernetes",
        "`make bench-kubernetes`: a real control plane in the lab, the appliance (`snat`, one worker that sleeps when idle) and, in the \
         same run and for the same changes, kube-proxy 1.36 in nftables mode with its defaults on a node beside. Times begin when a \
         `kubectl` that watches beside has printed the change, some milliseconds after the API server took it; a client asks about \
         every two milliseconds. The aims: 50 ms for a new Service, 20 ms for a slice, 50 ms for a UDP flow, 2 s after the API server is \
         back, no failed request but for a restart of the appliance itself.",
    ),
];

const INTRODUCTION: &str = "# Performance

Made by `make bench` (`make bench QUICK=1` for a short run), `make bench-wire` and `make bench-kubernetes`. Every table names its host. Read medians: \
hosts are shared, so that the mean and the far percentiles also show what else ran. The empty loop shows what measuring \
costs. That the packet path allocates nothing after start is a test: `cargo test -p perf`.
";

fn main() -> Result<(), Box<dyn Error>> {
    let results = perf::results_folder();
    // From the repository's root, where `make` runs it.
    let (path, pictures) = (Path::new("docs/performance.md"), Path::new("docs/performance"));
    let before = fs::read_to_string(path).unwrap_or_default();
    let mut page = INTRODUCTION.to_owned();
    for (bench, about) in BENCHES {
        if let Ok(table) = fs::read_to_string(results.join(format!("{bench}.md"))) {
            let (title, rest) = table.split_once('\n').unwrap_or((&table, ""));
            page.push_str(&format!("\n#{}\n\n{about}\n", title.trim_start_matches("##")));
            page.push_str(&draw(bench, pictures)?);
            page.push_str(rest);
        } else if let Some(section) = section(&before, bench) {
            page.push_str(&format!("\n{section}\n"));
        }
    }
    fs::write(path, page.trim_end().to_owned() + "\n")?;
    Ok(())
}

/// The part of a page under the heading of this bench, with it.
fn section<'p>(page: &'p str, bench: &str) -> Option<&'p str> {
    let heading = format!("## {bench}\n");
    let start = page.match_indices(&heading).map(|(at, _)| at).find(|&at| page[..at].ends_with('\n'))?;
    let len = page[start + 1..].find("\n## ").map_or(page.len() - start, |end| end + 1);
    Some(page[start..start + len].trim_end())
}

/// Draws the pictures of a bench into the folder; the lines that show them.
fn draw(bench: &str, folder: &Path) -> Result<String, Box<dyn Error>> {
    let mut lines = String::new();
    for plot in Plot::saved(bench)? {
        fs::create_dir_all(folder)?;
        let file = format!("{}.svg", plot.name.replace('.', "-"));
        let svg = plot.svg().map_err(|error| format!("{}: {error}", plot.name))?;
        fs::write(folder.join(&file), svg)?;
        lines.push_str(&format!("\n![{}](performance/{file})\n", plot.title));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_section_reaches_to_the_next() {
        let page = "# Page\n\n## wire\n\none\n\n## wire-nic\n\ntwo\n";
        assert_eq!(section(page, "wire"), Some("## wire\n\none"));
        assert_eq!(section(page, "wire-nic"), Some("## wire-nic\n\ntwo"));
        assert_eq!(section(page, "flow"), None);
    }
}
