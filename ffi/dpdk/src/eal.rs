//! The environment of DPDK: memory, lcores, drivers; once a process.

use std::{
    ffi::{CString, NulError, c_char},
    fmt, fs,
    marker::PhantomData,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{Errno, errno, log};

/// Whether memory comes from huge pages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HugePages {
    /// If there are enough free ones, otherwise ordinary pages.
    #[default]
    Auto,
    /// Or not at all.
    Require,
    /// Ordinary pages.
    Never,
}

/// What the environment is made of.
#[derive(Clone, Debug, Default)]
pub struct EalConfig {
    /// The core of each lcore, the main lcore first; lcore `n` runs on `cores[n]`. Two may share a core.
    pub cores: Vec<u16>,
    /// Memory for pools and queues.
    pub memory_mib: u32,
    /// Where it comes from.
    pub hugepages: HugePages,
    /// Further arguments; they come last, so they win.
    pub args: Vec<String>,
}

/// Why there is no environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EalError {
    /// A process has one environment, and it was made (or tried) before.
    Twice,
    /// No lcore was asked for.
    NoCores,
    /// Huge pages are required and too few are free.
    TooFewHugePages {
        /// MiB wanted.
        wanted_mib: u32,
        /// MiB of free huge pages.
        free_mib: u64,
    },
    /// An argument holds a NUL byte.
    BadArgument,
    /// DPDK refused.
    Refused {
        /// Its reason.
        errno: Errno,
        /// What it logged of trouble; may be empty.
        log: String,
    },
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice => f.write_str("DPDK was initialised before in this process"),
            Self::NoCores => f.write_str("DPDK needs at least one core"),
            Self::TooFewHugePages { wanted_mib, free_mib } => write!(
                f,
                "huge pages are required, but {free_mib} MiB of them are free and {wanted_mib} MiB are needed: reserve \
                 more (`dpdk-hugepages.py --setup {wanted_mib}M`), lower dpdk.memoryMiB, or set dpdk.hugepages to auto"
            ),
            Self::BadArgument => f.write_str("an argument of DPDK holds a NUL byte"),
            Self::Refused { errno, log } if log.is_empty() => write!(f, "DPDK does not start: {errno}"),
            Self::Refused { errno, log } => write!(f, "DPDK does not start: {errno}; it says: {log}"),
        }
    }
}

impl std::error::Error for EalError {}

impl From<NulError> for EalError {
    fn from(_: NulError) -> Self {
        Self::BadArgument
    }
}

/// The initialised environment. Stays on the thread that made it: the main lcore.
#[derive(Debug)]
pub struct Eal {
    lcores: u16,
    huge: bool,
    _main_lcore: PhantomData<*const ()>,
}

static MADE: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Initialises DPDK. This pins the calling thread to the first core and threads born of it inherit that, so call it
    /// on a thread of its own.
    ///
    /// # Errors
    /// See [`EalError`]. DPDK cannot be tried twice in one process.
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        let lcores = u16::try_from(config.cores.len()).unwrap_or(u16::MAX);
        if lcores == 0 {
            return Err(EalError::NoCores);
        }
        let huge = wants_huge(config)?;
        let arguments = arguments(config, huge)?;
        if MADE.swap(true, Ordering::SeqCst) {
            return Err(EalError::Twice);
        }
        log::capture();
        log::forget();
        // rte_eal_init reorders and keeps the pointers: the strings live as long as the process.
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let count = i32::try_from(pointers.len()).unwrap_or(i32::MAX);
        pointers.push(std::ptr::null_mut());
        let pointers = Box::leak(pointers.into_boxed_slice());
        // SAFETY: `count` NUL-terminated strings and a null pointer, all of them valid for ever; called once.
        let result = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        // DPDK makes a folder for what it would share; nothing is in it.
        drop(fs::remove_dir(format!("/run/dpdk/{}", prefix())));
        match errno::check(result) {
            Ok(()) => Ok(Self { lcores, huge, _main_lcore: PhantomData }),
            Err(_) => Err(EalError::Refused { errno: Errno::last(), log: log::trouble() }),
        }
    }

    /// Lcores, the main one included.
    #[must_use]
    pub const fn lcores(&self) -> u16 {
        self.lcores
    }

    /// Whether memory comes from huge pages.
    #[must_use]
    pub const fn has_hugepages(&self) -> bool {
        self.huge
    }
}

fn wants_huge(config: &EalConfig) -> Result<bool, EalError> {
    let free_mib = free_hugepages_mib();
    let enough = free_mib >= u64::from(config.memory_mib);
    match config.hugepages {
        HugePages::Never => Ok(false),
        HugePages::Auto => Ok(enough),
        HugePages::Require if enough => Ok(true),
        HugePages::Require => Err(EalError::TooFewHugePages { wanted_mib: config.memory_mib, free_mib }),
    }
}

/// MiB of free huge pages of every size.
fn free_hugepages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free_of = |entry: fs::DirEntry| {
        let kib = entry
            .file_name()
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse::<u64>()
            .ok()?;
        let count =
            fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse::<u64>().ok()?;
        Some(count * kib / 1024)
    };
    sizes.flatten().filter_map(free_of).sum()
}

/// What tells this process from others in DPDK's folders.
fn prefix() -> String {
    format!("fairlead-{}", std::process::id())
}

fn arguments(config: &EalConfig, huge: bool) -> Result<Vec<CString>, NulError> {
    let lcores: Vec<String> =
        config.cores.iter().enumerate().map(|(lcore, core)| format!("{lcore}@{core}")).collect();
    let mut arguments = vec![
        "fairlead".to_owned(),
        format!("--lcores={}", lcores.join(",")),
        "--main-lcore=0".to_owned(),
        "--no-telemetry".to_owned(),
        // Devices are named by the configuration; an allow-list of the host bridge alone keeps DPDK from taking others.
        "-a".to_owned(),
        "0000:00:00.0".to_owned(),
        "-m".to_owned(),
        config.memory_mib.max(64).to_string(),
    ];
    // Nothing on disk, so that two appliances share a host and nothing is left behind. DPDK refuses --in-memory together with
    // --no-huge, which keeps memory off the disk anyway; there a name of its own keeps the two apart.
    arguments.extend(match huge {
        true => vec!["--in-memory".to_owned()],
        false => {
            vec!["--no-huge".to_owned(), "--no-shconf".to_owned(), format!("--file-prefix={}", prefix())]
        }
    });
    arguments.extend(config.args.iter().cloned());
    arguments.into_iter().map(CString::new).collect()
}
