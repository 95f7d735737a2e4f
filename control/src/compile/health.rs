//! healthCheckNodePorts: which Services have one, and how many endpoints each counts. Not here: the servers
//! (`service_health`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Compiler;
use super::frontends::is_served;
use crate::model::{ObjectKey, Service, ServiceType, TrafficPolicy};

/// What a load balancer before us may ask about a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// The healthCheckNodePort.
    pub port: u16,
    /// Addresses of ready endpoints that the appliance may choose under policy Local, each counted once.
    pub endpoints: usize,
}

/// Every healthCheckNodePort.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HealthChecks {
    /// Where they are served: the addresses of nodePorts, as far as the kernel has them.
    pub addresses: BTreeSet<IpAddr>,
    /// By Service.
    pub services: BTreeMap<ObjectKey, HealthCheck>,
}

impl Compiler {
    /// Every healthCheckNodePort, when that changed since the last call.
    pub fn take_health_checks(&mut self) -> Option<HealthChecks> {
        std::mem::take(&mut self.health_changed).then(|| self.health.clone())
    }

    /// Notes the check of a Service whose ready endpoints are at so many addresses; none for a Service that is gone.
    pub(super) fn settle_health(&mut self, key: &ObjectKey, service: Option<&Service>, endpoints: usize) {
        let port =
            service.filter(|service| has_health_check(service)).and_then(|it| it.health_check_node_port);
        let new = port.map(|port| HealthCheck { port, endpoints });
        let old = match new {
            Some(new) => self.health.services.insert(key.clone(), new),
            None => self.health.services.remove(key),
        };
        self.health_changed |= old != new;
        self.dirty.node_ports |= old.map(|old| old.port) != port;
    }

    /// Takes in where nodePorts are served by the kernel too.
    pub(super) fn set_health_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.health_changed |= self.health.addresses != addresses;
        self.health.addresses = addresses;
    }
}

/// Only load balancers with policy Local are asked (K1): where all endpoints will do, any appliance will.
fn has_health_check(service: &Service) -> bool {
    service.kind == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && is_served(service)
}
