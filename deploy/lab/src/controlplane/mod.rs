//! Kubernetes' own control plane in a namespace: etcd, the API server, the controllers and the scheduler, as they run in
//! production but for durability (etcd does not sync) and for waits that production can afford (a lost node is noticed
//! after [`NODE_GRACE_S`]). RBAC is on. Each part can be killed and started again.

mod kubectl;
mod pki;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use self::kubectl::Kubectl;
use self::kubectl::{Identity, write_kubeconfig};
use self::pki::Pki;
use crate::http;
use crate::netns::Namespace;
use crate::plan;
use crate::process::{self, Daemon};

/// Environment variable with the folder that holds the components, each by its own name.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// A node whose Lease is older, in seconds, is lost.
pub const NODE_GRACE_S: u32 = 6;
/// Longest wait for a component to serve; on a loaded machine of two cores it takes about ten seconds.
const READY: Duration = Duration::from_secs(90);
/// The API server's port.
const PORT: u16 = 6443;
/// Where etcd is asked.
const ETCD: &str = "127.0.0.1:2379";
/// Longest that etcd may take.
const ETCD_LIMIT: Duration = Duration::from_secs(10);
/// What the API server writes down: each request of a ServiceAccount, once its answer begins and once it has ended.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: [\"system:serviceaccounts\"]}
";

/// A part of the control plane.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Component {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers: Deployments, EndpointSlices, nodes.
    Controllers,
    /// The scheduler.
    Scheduler,
}

impl Component {
    /// All, each after those that it needs.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::Controllers, Self::Scheduler];

    /// Name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// The folder of components that the environment names.
///
/// # Errors
/// When it names none, with what to do.
pub fn assets() -> Result<PathBuf> {
    let folder = std::env::var_os(ASSETS).map(PathBuf::from);
    let folder = folder
        .with_context(|| format!("{ASSETS} is not set; set it to what tests/cluster/build.sh prints"))?;
    for program in Component::ALL.map(Component::program).into_iter().chain(["kubectl"]) {
        if !folder.join(program).exists() {
            bail!(
                "{ASSETS} ({}) has no {program}; tests/cluster/build.sh builds all components",
                folder.display()
            );
        }
    }
    Ok(folder)
}

/// A running control plane. Its processes end when it is dropped.
pub struct ControlPlane {
    /// In the order of [`Component`], which is also the order of starting.
    running: BTreeMap<Component, Daemon>,
    namespace: Arc<Namespace>,
    address: IpAddr,
    assets: PathBuf,
    dir: PathBuf,
    pki: Pki,
}

impl ControlPlane {
    /// Starts all components in `namespace`, with the API server on `address`, and waits until they serve.
    ///
    /// # Errors
    /// When one ends or does not serve in time; the error ends with its log.
    pub fn start(assets: &Path, namespace: &Arc<Namespace>, address: IpAddr, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let pki = Pki::create(
            &dir.join("pki"),
            &[address, [127, 0, 0, 1].into(), plan::KUBERNETES_SERVICE.into()],
        )?;
        let mut plane = Self {
            running: BTreeMap::new(),
            namespace: Arc::clone(namespace),
            address,
            assets: assets.to_owned(),
            dir: dir.to_owned(),
            pki,
        };
        let admin = Identity::Token(plane.pki.admin_token.clone());
        write_kubeconfig(&plane.admin_kubeconfig(), &plane.server(), &plane.pki.ca, &admin)?;
        fs::write(plane.audit_policy(), AUDIT_POLICY)?;
        for component in Component::ALL {
            plane.run(component)?;
        }
        plane.wait_ready()?;
        Ok(plane)
    }

    /// Starts a component; does not wait for it.
    fn run(&mut self, component: Component) -> Result<()> {
        let program = self.assets.join(component.program());
        let mut command = self.namespace.command(&program.to_string_lossy());
        command.args(self.arguments(component));
        let log = self.log(component);
        process::write_script(&self.script(component), &command, Some(&log))?;
        self.running.insert(component, Daemon::start(component.program(), &mut command, &log)?);
        Ok(())
    }

    /// A script that starts a component as it was started here.
    pub fn script(&self, component: Component) -> PathBuf {
        self.dir.join(format!("{}.sh", component.program()))
    }

    /// Process id of a component that runs.
    pub fn pid(&self, component: Component) -> Option<u32> {
        self.running.get(&component).map(Daemon::pid)
    }

    /// Ends a component at once.
    pub fn kill(&mut self, component: Component) {
        if let Some(mut daemon) = self.running.remove(&component) {
            daemon.kill();
        }
    }

    /// Starts the API server again after it was killed, and waits for it. The controllers and the scheduler begin anew
    /// beside it: by themselves they would take up to a minute to hear of a change again (their watches back off).
    ///
    /// # Errors
    /// When one does not serve in time.
    pub fn come_back(&mut self) -> Result<()> {
        for component in [Component::ApiServer, Component::Controllers, Component::Scheduler] {
            self.kill(component);
            self.run(component)?;
        }
        self.wait_ready()
    }

    /// Replaces the key that signs the tokens of ServiceAccounts: those given so far are worth nothing. The API server
    /// is away meanwhile.
    ///
    /// # Errors
    /// When the key cannot be written or a component does not serve in time.
    pub fn replace_accounts_key(&mut self) -> Result<()> {
        self.kill(Component::ApiServer);
        self.pki.replace_accounts_key()?;
        self.come_back()
    }

    /// Fails if a component that should run has ended by itself.
    ///
    /// # Errors
    /// The end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.running.values_mut().try_for_each(Daemon::check_alive)
    }

    /// Waits until the API server answers and the controllers have made what every namespace begins with.
    ///
    /// # Errors
    /// When a component has ended or time is up, with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let api = SocketAddr::new(self.address, PORT);
        let namespace = Arc::clone(&self.namespace);
        self.wait("the API server listens", Component::ApiServer, || {
            let connect = || TcpStream::connect_timeout(&api, Duration::from_millis(200)).is_ok();
            namespace.within(connect).unwrap_or(false)
        })?;
        let kubectl = self.kubectl();
        self.wait("the API server is ready", Component::ApiServer, || {
            kubectl.run(&["get", "--raw", "/readyz"]).is_ok()
        })?;
        self.wait("the controllers work", Component::Controllers, || {
            kubectl.run(&["get", "serviceaccount", "default"]).is_ok()
        })
    }

    fn wait(&mut self, what: &str, component: Component, mut done: impl FnMut() -> bool) -> Result<()> {
        let mut ended = Ok(());
        let running = &mut self.running;
        let waited = process::until(what, READY, || {
            ended = running.values_mut().try_for_each(Daemon::check_alive);
            ended.is_err() || done()
        });
        ended?;
        waited.with_context(|| format!("its log ends so:\n{}", self.log_tail(component)))
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_as(&self.admin_kubeconfig())
    }

    /// `kubectl` with the identity of a kubeconfig.
    pub fn kubectl_as(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl {
            namespace: Arc::clone(&self.namespace),
            program: self.assets.join("kubectl"),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig that has exactly the rights of a ServiceAccount, with its token in a file beside it, as in a
    /// pod.
    ///
    /// # Errors
    /// When there is no such ServiceAccount.
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.kubectl().run(&["create", "token", name, "-n", namespace, "--duration", "24h"])?;
        let token_file = self.dir.join(format!("{namespace}-{name}.token"));
        fs::write(&token_file, token.trim())?;
        let file = self.dir.join(format!("{namespace}-{name}.kubeconfig"));
        write_kubeconfig(&file, &self.server(), &self.pki.ca, &Identity::TokenFile(token_file))?;
        Ok(file)
    }

    /// Where the API server is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// URL of the API server.
    fn server(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Has etcd forget everything but what is there now: whoever asks for what happened since an earlier version is told
    /// that it is gone. The API server remembers some of it by itself, until it is started again.
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn compact(&self) -> Result<()> {
        let etcd: SocketAddr = ETCD.parse()?;
        let ask = |path: &str, body: &str| {
            self.namespace.within(|| http::post(etcd, path, body, ETCD_LIMIT)).and_then(|answer| answer)
        };
        // Any answer's header has the revision.
        let status: Value = serde_json::from_str(&ask("/v3/maintenance/status", "{}")?)?;
        let revision = status["header"]["revision"].as_str().context("an etcd without a revision")?;
        ask("/v3/kv/compaction", &format!("{{\"revision\": \"{revision}\", \"physical\": true}}")).map(drop)
    }

    /// The end of a component's log.
    pub fn log_tail(&self, component: Component) -> String {
        self.running
            .get(&component)
            .map_or_else(|| format!("(see {})", self.log(component).display()), |d| d.log_tail(20))
    }

    /// What ServiceAccounts asked, and whether they were let: a line of JSON each (audit.k8s.io/v1).
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    fn audit_policy(&self) -> PathBuf {
        self.dir.join("audit-policy.yaml")
    }

    /// Lets it run on (`KEEP=1`).
    pub fn release(mut self) {
        std::mem::take(&mut self.running).into_values().for_each(Daemon::release);
    }

    fn log(&self, component: Component) -> PathBuf {
        self.dir.join(format!("{}.log", component.program()))
    }

    fn arguments(&self, component: Component) -> Vec<String> {
        let service_cidrs =
            format!("--service-cluster-ip-range={},{}", plan::SERVICE_CIDR, plan::SERVICE_CIDR6);
        let kubeconfig = format!("--kubeconfig={}", self.admin_kubeconfig().display());
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        match component {
            Component::Etcd => words(
                "--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
                 --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync --log-level=warn",
                [file("data-dir", &self.dir.join("etcd"))],
            ),
            Component::ApiServer => words(
                "--etcd-servers=http://127.0.0.1:2379 --authorization-mode=RBAC --allow-privileged
                 --service-account-issuer=https://kubernetes.default.svc --shutdown-delay-duration=0s",
                [
                    service_cidrs,
                    format!("--secure-port={PORT}"),
                    format!("--advertise-address={}", self.address),
                    file("tls-cert-file", &self.pki.server_cert),
                    file("tls-private-key-file", &self.pki.server_key),
                    file("token-auth-file", &self.pki.tokens),
                    file("service-account-key-file", &self.pki.accounts_public),
                    file("service-account-signing-key-file", &self.pki.accounts_key),
                    file("audit-policy-file", &self.audit_policy()),
                    file("audit-log-path", &self.audit_log()),
                ],
            ),
            Component::Controllers => words(
                "--leader-elect=false --bind-address=127.0.0.1 --allocate-node-cidrs --node-monitor-period=1s
                 --node-cidr-mask-size-ipv4=24 --node-cidr-mask-size-ipv6=64",
                [
                    kubeconfig,
                    service_cidrs,
                    format!("--cluster-cidr={}", plan::CLUSTER_CIDRS.join(",")),
                    format!("--node-monitor-grace-period={NODE_GRACE_S}s"),
                    file("root-ca-file", &self.pki.ca),
                    file("service-account-private-key-file", &self.pki.accounts_key),
                ],
            ),
            Component::Scheduler => words("--leader-elect=false --bind-address=127.0.0.1", [kubeconfig]),
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // State is thrown away, so nobody needs to wait for an orderly end.
        self.running.values_mut().for_each(Daemon::kill);
    }
}

fn words(fixed: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    fixed.split_whitespace().map(str::to_owned).chain(rest).collect()
}
