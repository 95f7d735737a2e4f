//! What a new configuration changes while the appliance runs, and what must wait for a restart. Pure.
//!
//! Devices, memory, workers and listeners exist once; everything that only decides what the tables say is live.

use crate::admin::view::Reload;
use crate::config::GatewayConfig;

/// The configuration to run by from now on, and what to tell whoever asked. The running values of what needs a restart
/// stay.
#[must_use]
pub fn merge(running: &GatewayConfig, new: &GatewayConfig) -> (GatewayConfig, Reload) {
    let mut merged = running.clone();
    let mut reload = Reload::default();
    live(&mut merged, new, &mut reload.applied);
    let rest = [
        ("ports", running.ports != new.ports),
        ("workers", running.workers != new.workers),
        ("dpdk", running.dpdk != new.dpdk),
        ("kubernetes source", running.kubernetes.source != new.kubernetes.source),
        (
            "kubernetes.serviceProxyName",
            running.kubernetes.service_proxy_name != new.kubernetes.service_proxy_name,
        ),
        ("kubernetes.lease", running.kubernetes.lease != new.kubernetes.lease),
        ("forwarding.flowsPerWorker", running.forwarding.flows_per_worker != new.forwarding.flows_per_worker),
        (
            "forwarding.affinityClients",
            running.forwarding.affinity_clients != new.forwarding.affinity_clients,
        ),
        ("admin", running.admin != new.admin),
        ("metrics", running.metrics != new.metrics),
        ("stateDir", running.state_dir != new.state_dir),
    ];
    reload.needs_restart =
        rest.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.into()).collect();
    (merged, reload)
}

fn live(merged: &mut GatewayConfig, new: &GatewayConfig, applied: &mut Vec<String>) {
    let mut take = |key: &str, changed: bool| {
        if changed {
            applied.push(key.to_owned());
        }
    };
    let (kubernetes, forwarding) = (&mut merged.kubernetes, &mut merged.forwarding);
    let (new_kubernetes, new_forwarding) = (&new.kubernetes, &new.forwarding);
    take("kubernetes.nodeName", set(&mut kubernetes.node_name, &new_kubernetes.node_name));
    take("kubernetes.podCIDRs", set(&mut kubernetes.pod_cidrs, &new_kubernetes.pod_cidrs));
    take("kubernetes.serviceCIDRs", set(&mut kubernetes.service_cidrs, &new_kubernetes.service_cidrs));
    take(
        "kubernetes.nodePortAddresses",
        set(&mut kubernetes.node_port_addresses, &new_kubernetes.node_port_addresses),
    );
    take("kubernetes.nodePortRange", set(&mut kubernetes.node_port_range, &new_kubernetes.node_port_range));
    take(
        "kubernetes.externalIPAllow",
        set(&mut kubernetes.external_ip_allow, &new_kubernetes.external_ip_allow),
    );
    take(
        "kubernetes.loadBalancerClass",
        set(&mut kubernetes.load_balancer_class, &new_kubernetes.load_balancer_class),
    );
    take(
        "kubernetes.metallbAnnotations",
        set(&mut kubernetes.metallb_annotations, &new_kubernetes.metallb_annotations),
    );
    take("pools", set(&mut merged.pools, &new.pools));
    take("forwarding.mode", set(&mut forwarding.mode, &new_forwarding.mode));
    take("forwarding.target", set(&mut forwarding.target, &new_forwarding.target));
    take("forwarding.snatAddresses", set(&mut forwarding.snat_addresses, &new_forwarding.snat_addresses));
    take("forwarding.snatPorts", set(&mut forwarding.snat_ports, &new_forwarding.snat_ports));
    take("forwarding.drainDeadline", set(&mut forwarding.drain_deadline, &new_forwarding.drain_deadline));
    take("forwarding.slowStart", set(&mut forwarding.slow_start, &new_forwarding.slow_start));
    let (answers, new_answers) = (&mut forwarding.answers, &new_forwarding.answers);
    take("forwarding.answerEcho", set(&mut answers.echo, &new_answers.echo));
    take("forwarding.reject", set(&mut answers.reject, &new_answers.reject));
    take("forwarding.midstream", set(&mut answers.takes_midstream, &new_answers.takes_midstream));
    take("forwarding.timeouts", set(&mut forwarding.timeouts, &new_forwarding.timeouts));
    take("protection", set(&mut merged.protection, &new.protection));
    take("healthChecks", set(&mut merged.health_checks, &new.health_checks));
    take("routes", set(&mut merged.routes, &new.routes));
    take("neighbors", set(&mut merged.neighbors, &new.neighbors));
}

/// Takes the new value over; true if it differs.
fn set<T: Clone + PartialEq>(running: &mut T, new: &T) -> bool {
    let changed = running != new;
    if changed {
        running.clone_from(new);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}]
kubernetes: {manifests: /tmp}
";

    fn config(more: &str) -> GatewayConfig {
        GatewayConfig::parse("test", &format!("{BASE}{more}")).unwrap()
    }

    #[test]
    fn an_equal_configuration_changes_nothing() {
        let (merged, reload) = merge(&config(""), &config(""));
        assert_eq!((merged, reload), (config(""), Reload::default()));
    }

    #[test]
    fn what_the_tables_say_is_live_and_devices_wait() {
        let new = config(
            "pools: [{name: a, cidrs: [203.0.113.0/28]}]\nforwarding: {mode: snat, flowsPerWorker: 4096, answerEcho: false, reject: icmp, midstream: refuse}\nprotection: {newFlows: {perSource: 9}}\nworkers: {count: 2}\n",
        );
        let (merged, reload) = merge(&config(""), &new);
        let answers = ["forwarding.answerEcho", "forwarding.reject", "forwarding.midstream"];
        let applied = [&["pools", "forwarding.mode"][..], &answers, &["protection"]].concat();
        assert_eq!(reload.applied, applied);
        assert_eq!(reload.needs_restart, ["workers", "forwarding.flowsPerWorker"]);
        assert_eq!((merged.pools.len(), merged.workers.count()), (1, 1));
        let (again, reload) = merge(&merged, &new);
        assert_eq!(
            (again, reload.applied),
            (merged, Vec::<String>::new()),
            "asked again, the live part is done"
        );
    }
}
