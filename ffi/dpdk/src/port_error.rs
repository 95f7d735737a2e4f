//! Why a port does not work, said so that an operator knows what to do.

use std::fmt;

use crate::{DeviceError, Errno};

/// Why a port does not work. Each says what to do as far as anybody knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortError {
    /// The name is wrong, or the system already shows why it cannot be opened.
    Device(DeviceError),
    /// No driver took the device.
    Probe {
        /// The device as configured.
        device: String,
        /// DPDK's reason.
        errno: Errno,
        /// What it logged of trouble; may be empty.
        log: String,
    },
    /// A step of the set-up was refused.
    Setup {
        /// The device as configured.
        device: String,
        /// Which step.
        step: &'static str,
        /// DPDK's reason.
        errno: Errno,
        /// What it logged of trouble; may be empty.
        log: String,
    },
    /// More queues than the device has.
    TooFewQueues {
        /// The device as configured.
        device: String,
        /// Queue pairs it has.
        have: u16,
        /// Queue pairs wanted.
        wanted: u16,
    },
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::Probe { device, errno, log } => {
                write!(f, "no DPDK driver takes {device:?}: {errno}")?;
                write_log(f, log)
            }
            Self::Setup { device, step, errno, log } => {
                write!(f, "{device:?}: {step} was refused: {errno}")?;
                write_log(f, log)
            }
            Self::TooFewQueues { device, have, wanted } => {
                write!(
                    f,
                    "{device:?} has {have} queue pairs, but {wanted} workers need one each: lower workers.count"
                )
            }
        }
    }
}

fn write_log(f: &mut fmt::Formatter<'_>, log: &str) -> fmt::Result {
    if log.is_empty() { Ok(()) } else { write!(f, "; DPDK says: {log}") }
}

impl std::error::Error for PortError {}
