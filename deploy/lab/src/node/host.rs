//! What all pods of a node share: its name and addresses, its pod network, its way to the API server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;
use kube::Client;

use super::addresses::Addresses;
use crate::netns::Namespace;
use crate::podnet::PodNet;

/// The node as its pods see it.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) lab: String,
    /// IPv4, then IPv6.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) namespace: Namespace,
    pub(super) net: PodNet,
    pub(super) dir: PathBuf,
    pub(super) client: Client,
    pub(super) numbers: Mutex<Addresses>,
}

impl Host {
    /// A free number of the pod ranges.
    pub(super) fn take_number(&self) -> Result<u8> {
        self.numbers.lock().expect("taking cannot panic").take()
    }

    /// Gives one back.
    pub(super) fn free_number(&self, number: u8) {
        self.numbers.lock().expect("freeing cannot panic").free(number);
    }
}
