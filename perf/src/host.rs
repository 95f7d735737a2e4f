//! The machine a result was measured on.

use std::fs;

use serde::Serialize;

/// Processor flags that matter to the packet path.
const FLAGS: [&str; 10] = [
    "sse4_2",
    "avx2",
    "avx512f",
    "avx512vl",
    "bmi2",
    "clflushopt",
    "constant_tsc",
    "nonstop_tsc",
    "hypervisor",
    "pdpe1gb",
];

/// Facts of the host at the moment of asking.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Processor model; the name alone says little in a virtual machine.
    pub cpu: String,
    /// Processors online.
    pub processors: usize,
    /// Those of the processor's flags that matter here.
    pub flags: Vec<String>,
    /// Kernel release.
    pub kernel: String,
    /// Transparent huge pages, as the kernel says it.
    pub transparent_huge_pages: String,
    /// Reserved huge pages, free of total.
    pub huge_pages: String,
    /// What decides the processors' frequency; `none` where the machine cannot, as in most virtual ones.
    pub governor: String,
    /// Load average of 1, 5 and 15 minutes.
    pub load: String,
    /// Instruction set the bench was compiled for.
    pub compiled_for: String,
    /// True for a build with optimisation.
    pub optimised: bool,
}

impl Host {
    /// Reads the facts; what the system does not tell is an empty text.
    #[must_use]
    pub fn now() -> Self {
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let flags = field(&cpuinfo, "flags");
        let here = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
        let load = read("/proc/loadavg");
        Self {
            cpu: format!(
                "{} (family {} model {} stepping {})",
                field(&cpuinfo, "model name"),
                field(&cpuinfo, "cpu family"),
                field(&cpuinfo, "model"),
                field(&cpuinfo, "stepping")
            ),
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            flags: FLAGS.iter().filter(|flag| here(flag)).map(ToString::to_string).collect(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
            huge_pages: format!(
                "{} of {}",
                field(&meminfo, "HugePages_Free"),
                field(&meminfo, "HugePages_Total")
            ),
            governor: governor(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            load: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            compiled_for: compiled_for(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

fn governor(text: &str) -> String {
    match text.trim() {
        "" => "none".to_owned(),
        name => name.to_owned(),
    }
}

fn compiled_for() -> String {
    let features = [
        ("avx2", cfg!(target_feature = "avx2")),
        ("sse4.2", cfg!(target_feature = "sse4.2")),
        ("popcnt", cfg!(target_feature = "popcnt")),
    ];
    let on: Vec<_> = features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    format!("{} {}", std::env::consts::ARCH, on.join(" "))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    line.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_of_a_name_is_taken() {
        assert_eq!(field("a\t: x y\nb: 2\na: 3", "a"), "x y");
        assert_eq!(field("a: 1", "c"), "");
        assert_eq!((governor("").as_str(), governor("performance\n").as_str()), ("none", "performance"));
    }
}
