//! The arguments that DPDK's environment is started with. Pure but for counting the host's huge pages.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use control::config::{DpdkConfig, Hugepages};
use dataplane::plan::Plan;

use super::device::Device;

/// Where packet memory lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Memory {
    /// In huge pages.
    Huge,
    /// In ordinary ones: works everywhere, costs TLB misses.
    Ordinary,
}

impl Memory {
    /// Decides by the configuration and by the huge pages free under `sys` (`/sys`).
    ///
    /// # Errors
    /// Huge pages are required and not there: says how many and how to get them.
    pub(crate) fn choose(config: &DpdkConfig, sys: &Path) -> Result<Self> {
        let free_mib = free_huge_mib(sys);
        let enough = free_mib >= u64::from(config.memory_mib);
        match config.hugepages {
            Hugepages::Never => Ok(Self::Ordinary),
            Hugepages::Auto | Hugepages::Require if enough => Ok(Self::Huge),
            Hugepages::Auto => {
                tracing::warn!(
                    free_mib,
                    wanted_mib = config.memory_mib,
                    "too few free huge pages; packet memory lies in ordinary pages and the dataplane is slower"
                );
                Ok(Self::Ordinary)
            }
            Hugepages::Require => bail!(
                "dpdk.hugepages is `require` and {free_mib} MiB of the {wanted} MiB in dpdk.memoryMiB are free; reserve them (`sysctl vm.nr_hugepages={pages}`) or set `auto`",
                wanted = config.memory_mib,
                pages = config.memory_mib.div_ceil(2)
            ),
        }
    }
}

/// The command line, program name first. Lcore 0 is the main one on a control core, lcore N + 1 is worker N.
pub(crate) fn arguments(config: &DpdkConfig, plan: &Plan, memory: Memory, devices: &[Device]) -> Vec<String> {
    let has = |flag: &str| config.args.iter().any(|arg| arg == flag || arg.starts_with(&format!("{flag}=")));
    let mut arguments = vec!["fairlead".to_owned(), "--lcores".into(), lcores(plan), "--main-lcore=0".into()];
    if !["--file-prefix", "--huge-dir", "--proc-type"].into_iter().any(has) {
        // No files: two appliances share a host, and a crash leaves nothing behind.
        arguments.push("--in-memory".into());
    }
    if !has("--telemetry") {
        arguments.push("--no-telemetry".into());
    }
    if !has("--log-level") {
        arguments.push("--log-level=*:error".into());
    }
    if memory == Memory::Ordinary {
        arguments.push("--no-huge".into());
    }
    arguments.extend(["-m".to_owned(), config.memory_mib.to_string()]);
    let pci = devices.iter().filter(|device| matches!(device, Device::Pci(_)));
    let pci: Vec<_> = pci.map(|device| format!("--allow={device}")).collect();
    if pci.is_empty() {
        arguments.push("--no-pci".into());
    }
    arguments.extend(pci);
    arguments.extend(config.args.iter().cloned());
    arguments
}

fn lcores(plan: &Plan) -> String {
    let workers = (1..).zip(&plan.workers).map(|(lcore, place): (u16, _)| format!("{lcore}@{}", place.core));
    std::iter::once(format!("0@{}", plan.main_core)).chain(workers).collect::<Vec<_>>().join(",")
}

/// MiB in free huge pages of every size.
fn free_huge_mib(sys: &Path) -> u64 {
    let Ok(sizes) = fs::read_dir(sys.join("kernel/mm/hugepages")) else { return 0 };
    let mib = |size: fs::DirEntry| {
        let name = size.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kib * free / 1024)
    };
    sizes.flatten().filter_map(mib).sum()
}

#[cfg(test)]
mod tests {
    use dataplane::plan::Place;

    use super::*;

    fn plan() -> Plan {
        let workers = vec![Place { queue: 0, core: 2 }, Place { queue: 1, core: 3 }];
        Plan { main_core: 0, workers, control_cores: vec![0, 1], crowded: false }
    }

    #[test]
    fn lcores_are_numbered_by_worker_and_nothing_is_left_on_disk() {
        let devices = [Device::Virtual("net_null0".into())];
        let line = arguments(&DpdkConfig::default(), &plan(), Memory::Ordinary, &devices).join(" ");
        assert_eq!(
            line,
            "fairlead --lcores 0@0,1@2,2@3 --main-lcore=0 --in-memory --no-telemetry --log-level=*:error --no-huge -m 1024 --no-pci"
        );
    }

    #[test]
    fn the_operators_arguments_win() {
        let config = DpdkConfig {
            args: vec!["--file-prefix=gw".into(), "--telemetry".into(), "--log-level=8".into()],
            ..DpdkConfig::default()
        };
        let devices = [Device::Pci("0000:01:00.0".into())];
        let line = arguments(&config, &plan(), Memory::Huge, &devices).join(" ");
        assert_eq!(
            line,
            "fairlead --lcores 0@0,1@2,2@3 --main-lcore=0 -m 1024 --allow=0000:01:00.0 --file-prefix=gw --telemetry --log-level=8"
        );
    }

    #[test]
    fn huge_pages_are_counted_and_their_lack_is_told() {
        let sys = tempfile::tempdir().unwrap();
        let pages = sys.path().join("kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&pages).unwrap();
        for (free, hugepages, want) in [
            ("512", Hugepages::Auto, Ok(Memory::Huge)),
            ("512", Hugepages::Require, Ok(Memory::Huge)),
            ("512", Hugepages::Never, Ok(Memory::Ordinary)),
            ("511", Hugepages::Auto, Ok(Memory::Ordinary)),
            ("511", Hugepages::Require, Err("1022 MiB of the 1024 MiB")),
        ] {
            fs::write(pages.join("free_hugepages"), free).unwrap();
            let config = DpdkConfig { hugepages, ..DpdkConfig::default() };
            match (Memory::choose(&config, sys.path()), want) {
                (Ok(memory), Ok(want)) => assert_eq!(memory, want, "{free} {hugepages:?}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (got, want) => panic!("{got:?} instead of {want:?}"),
            }
        }
    }
}
