//! kube-proxy on a node of the lab, and a client there that finds out when its rules lead to an endpoint: the node has all
//! endpoints' addresses, and a server that says at which of them it was reached.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use lab::{kubernetes::KubeLab, metrics::Metrics, netns::Namespace, process::Daemon};

use perf::objects::POD_NETWORK;

/// Longest that its rules may take: the first ones hold everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two connections; one in 25 can meet the new endpoint.
const PAUSE: Duration = Duration::from_millis(2);
const CONNECT: Duration = Duration::from_millis(300);
const NODE: &str = "n1";
/// The endpoints'.
const PORT: u16 = 8080;
const METRICS: &str = "http://127.0.0.1:10249/metrics";

/// As a node runs it, with its defaults but for the kernel's limits, which are not the namespace's to set.
const CONFIG: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: n1
detectLocalMode: ClusterCIDR
clusterCIDR: 10.248.0.0/14
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
";

/// The running kube-proxy. It ends with the value.
pub(crate) struct Proxy {
    daemon: Daemon,
    node: Arc<Namespace>,
    server: Server,
}

impl Proxy {
    /// Starts it on its node, with the server that stands for all endpoints.
    pub(crate) fn start(lab: &KubeLab, assets: &Path) -> Result<Self> {
        let node = lab.share(NODE);
        node.script(&format!("ip route add local {POD_NETWORK} dev lo"))?;
        let server = node.within(Server::start)??;
        let config = lab.dir().join("kube-proxy.yaml");
        let kubeconfig = lab.plane.admin_kubeconfig();
        fs::write(&config, format!("{CONFIG}clientConnection: {{kubeconfig: {}}}\n", kubeconfig.display()))?;
        let mut command = node.command(&assets.join("kube-proxy").to_string_lossy());
        command.arg("--config").arg(&config);
        let daemon = Daemon::start("kube-proxy", &mut command, &lab.dir().join("kube-proxy.log"))?;
        Ok(Self { daemon, node, server })
    }

    /// Waits until connections to a Service reach an endpoint, or `wanted` if that is said; gives when the first that did
    /// was made.
    pub(crate) fn leads(&mut self, vip: Ipv4Addr, wanted: Option<Ipv4Addr>) -> Result<Instant> {
        let server = SocketAddr::new(vip.into(), 80);
        let node = Arc::clone(&self.node);
        let begun = Instant::now();
        node.within(|| {
            while begun.elapsed() < PATIENCE {
                let asked = Instant::now();
                if reached(server).is_ok_and(|at| wanted.is_none_or(|wanted| at == wanted)) {
                    return Ok(asked);
                }
                self.daemon.check_alive()?;
                thread::sleep(PAUSE);
            }
            bail!(
                "kube-proxy does not lead {server} to {wanted:?}; its log ends so:\n{}",
                self.daemon.log_tail(5)
            )
        })?
    }

    /// How often it has written its IPv4 rules by now, and the time of that in seconds, by its own metrics.
    pub(crate) fn syncs(&self) -> Result<(f64, f64)> {
        let page = self.node.run(&["curl", "-sS", "--max-time", "5", METRICS], CONNECT * 20)?.ok()?;
        let metrics = Metrics::parse(&page)?;
        let of = |end: &str| {
            metrics.sum_where(
                &format!("kubeproxy_sync_proxy_rules_duration_seconds_{end}"),
                "ip_family=\"IPv4\"",
            )
        };
        Ok((of("count"), of("sum")))
    }

    /// Ends it, and with it the server.
    pub(crate) fn end(mut self) -> Result<()> {
        self.daemon.kill();
        self.server.over.store(true, Ordering::Relaxed);
        // It looks once more before it ends.
        self.node.within(|| TcpStream::connect(("127.0.0.1", PORT)))??;
        self.server.thread.join().map_err(|_| anyhow!("the endpoints' server panicked"))
    }
}

/// The endpoint that a connection reaches.
fn reached(server: SocketAddr) -> Result<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&server, CONNECT)?;
    stream.set_read_timeout(Some(CONNECT))?;
    let mut at = [0; 4];
    stream.read_exact(&mut at)?;
    Ok(at.into())
}

/// Says at which address it was reached, and closes: so its own side waits, and the client's ports are free again.
struct Server {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).context("the endpoints' port")?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                if let Ok(SocketAddr::V4(at)) = stream.local_addr() {
                    // Whoever has gone by now does not want to know.
                    let _ = stream.write_all(&at.ip().octets());
                }
            }
        });
        Ok(Self { over, thread })
    }
}
