//! QUIC through a UDP Service, with clients and servers of quinn: connections that are silent for longer than UDP flows
//! usually are remembered.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog;
use lab::manifests::{Member, Service, ServicePort, service_file};
use lab::netns::Namespace;
use lab::process::until;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::PrivatePkcs8KeyDer;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig,
};
use tokio::time::timeout;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("QUIC connections go on after a silence, each at the backend it had", silences)];

const PORT: u16 = 4433;
const PODS: [&str; 3] = ["web-1", "web-2", "web-3"];
const CLIENTS: usize = 12;
/// Connections after which every pod must serve one: by chance one of the three serves none once in 10^17 runs.
const ENOUGH: usize = 100;
/// How long the Service's flows may be silent: for ten minutes, a three-hundredth.
const IDLE: Duration = Duration::from_secs(2);
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn silences(world: &mut World) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let (server, client) = configs()?;
    for pod in PODS {
        serve(world.host(pod), pod, server.clone())?;
    }
    let service = service();
    let annotated =
        format!("metadata:\n  annotations:\n    fairlead.dev/udp-idle-timeout: {}s\n", IDLE.as_secs());
    let yaml = service.yaml().replacen("metadata:\n", &annotated, 1);
    world.lab.manifests.endpoints(&service, &[Member::ready("web-1"), Member::ready("web-2")])?;
    world.lab.manifests.write(&service_file(&service), &yaml)?;
    until("the Service is served", PATIENCE, || world.shown_service("quic").is_ok())?;

    let vip = SocketAddr::new(service.load_balancer_ip.context("it asks for one")?, PORT);
    let connections = runtime.block_on(connect(world.host("c1"), vip, &client))?;
    let before = runtime.block_on(pods(&connections))?;
    // More backends: a new flow of some of these clients would go elsewhere.
    world.lab.manifests.endpoints(&service, &PODS.map(Member::ready))?;
    thread::sleep(IDLE * 3 / 4);
    let after = runtime.block_on(pods(&connections)).context("after a silence within the Service's time")?;
    ensure!(before == after, "backends before {before:?} and after {after:?}");

    // A silence for which flows are not remembered: the connections move on to other ports of the appliance.
    let mut connections = Vec::new();
    let mut before = Vec::new();
    while connections.len() < CLIENTS || PODS.iter().any(|pod| !before.iter().any(|one| one == pod)) {
        ensure!(connections.len() < ENOUGH, "not all pods serve: {before:?}");
        connections.extend(runtime.block_on(connect(world.host("c1"), vip, &client))?);
        before = runtime.block_on(pods(&connections))?;
    }
    let created = world.metrics()?.sum("fairlead_flows_created_total");
    thread::sleep(IDLE * 2);
    let after = runtime.block_on(pods(&connections)).context("after a silence beyond the Service's time")?;
    ensure!(before == after, "backends before {before:?} and after {after:?}");
    let entered = world.metrics()?.sum("fairlead_flows_created_total") - created;
    ensure!(
        entered >= connections.len() as f64,
        "the flows were to be forgotten; {entered} were entered anew"
    );
    world.lab.manifests.delete(&service)
}

fn service() -> Service {
    let ports =
        vec![ServicePort { name: "quic", protocol: "UDP", port: PORT, target: PORT, node_port: 32_443 }];
    let web = catalog::web().service;
    Service {
        name: "quic".into(),
        cluster_ip: [10, 3, 241, 190].into(),
        external_ips: Vec::new(),
        load_balancer_ip: Some([203, 0, 113, 40].into()),
        ports,
        ..web
    }
}

/// Both ends trust one certificate, are silent when they have nothing to say, and end no connection for that.
fn configs() -> Result<(ServerConfig, ClientConfig)> {
    let made = rcgen::generate_simple_self_signed(["pod".to_owned()])?;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None).enable_segmentation_offload(false);
    let transport = Arc::new(transport);
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut server = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into())?;
    server.transport_config(Arc::clone(&transport));
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(transport);
    Ok((server, client))
}

fn endpoint(namespace: &Namespace, port: u16, server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

/// Answers every stream with the pod's name, until the runtime ends.
fn serve(namespace: &Namespace, pod: &'static str, config: ServerConfig) -> Result<()> {
    let endpoint = endpoint(namespace, PORT, Some(config))?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                loop {
                    let (mut answer, mut question) = connection.accept_bi().await?;
                    question.read_to_end(64).await?;
                    answer.write_all(pod.as_bytes()).await?;
                    answer.finish()?;
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                anyhow::Ok(())
            });
        }
    });
    Ok(())
}

async fn connect(from: &Namespace, to: SocketAddr, config: &ClientConfig) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        let mut endpoint = endpoint(from, 0, None)?;
        endpoint.set_default_client_config(config.clone());
        let connecting = timeout(PATIENCE, endpoint.connect(to, "pod")?);
        connections.push(connecting.await.context("no connection in time")??);
    }
    Ok(connections)
}

/// Which pod answers on each connection.
async fn pods(connections: &[Connection]) -> Result<Vec<String>> {
    let mut pods = Vec::new();
    for connection in connections {
        let asked = async {
            let (mut question, mut answer) = connection.open_bi().await?;
            question.write_all(b"who").await?;
            question.finish()?;
            anyhow::Ok(String::from_utf8(answer.read_to_end(64).await?)?)
        };
        pods.push(timeout(PATIENCE, asked).await.context("no answer in time")??);
    }
    Ok(pods)
}
