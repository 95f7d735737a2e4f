//! An API server on etcd in a namespace, with nobody else who writes: states stay as they were written. A `kubectl proxy`
//! makes it reachable over a Unix socket. Everything ends with the value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::netns::Namespace;
use lab::process::{self, Daemon};
use rcgen::KeyPair;
use serde_json::json;

use crate::api::Api;
use crate::place::SERVICE_CIDRS;

/// Longest that building Kubernetes may take, and its start on a busy machine.
const BUILT: Duration = Duration::from_secs(1800);
const READY: Duration = Duration::from_secs(90);

/// The processes.
pub(crate) struct Server {
    /// In the order of ending.
    daemons: Vec<Daemon>,
    /// How kube-proxy gets at it.
    pub(crate) kubeconfig: PathBuf,
    pub(crate) api: Api,
}

impl Server {
    /// Starts it in `namespace`; its files and logs go to `folder`.
    pub(crate) fn start(assets: &Path, namespace: &Namespace, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = |name: &str| folder.join(name);
        let socket = file("api.sock");
        let mut server = Self { daemons: Vec::new(), kubeconfig: file("kubeconfig"), api: Api::new(&socket) };
        let key = KeyPair::generate()?;
        fs::write(file("accounts.key"), key.serialize_pem())?;
        fs::write(file("accounts.pub"), key.public_key_pem())?;
        // Nobody outside the namespace can reach the server, so its token need not be a secret.
        fs::write(file("tokens.csv"), "diff,diff,diff,system:masters\n")?;
        fs::write(&server.kubeconfig, kubeconfig().to_string())?;
        for (program, arguments) in commands(folder, &socket, &server.kubeconfig) {
            let mut command = namespace.command(&assets.join(program).to_string_lossy());
            command.args(arguments);
            server.daemons.insert(0, Daemon::start(program, &mut command, &file(&format!("{program}.log")))?);
        }
        server.wait()?;
        Ok(server)
    }

    /// Ready is when the server has made what every cluster begins with.
    fn wait(&mut self) -> Result<()> {
        let mut ended = Ok(());
        let waited = process::until("the API server serves", READY, || {
            ended = self.daemons.iter_mut().try_for_each(Daemon::check_alive);
            ended.is_err() || self.api.get("/api/v1/namespaces/default/services/kubernetes").is_ok()
        });
        ended.and(waited)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What they hold is thrown away, so nobody needs an orderly end.
        self.daemons.iter_mut().for_each(Daemon::kill);
    }
}

/// Programs with their arguments, each after those that it needs.
fn commands(folder: &Path, socket: &Path, kubeconfig: &Path) -> [(&'static str, Vec<String>); 3] {
    let flag = |name: &str, file: &str| format!("--{name}={}", folder.join(file).display());
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut etcd = words(
        "--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync --log-level=warn",
    );
    etcd.push(flag("data-dir", "etcd"));
    let mut server = words(
        "--etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 --secure-port=6443
         --endpoint-reconciler-type=none --service-account-issuer=https://kubernetes.default.svc",
    );
    server.extend([
        format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
        flag("cert-dir", "certificates"),
        flag("token-auth-file", "tokens.csv"),
        flag("service-account-key-file", "accounts.pub"),
        flag("service-account-signing-key-file", "accounts.key"),
    ]);
    let unix = format!("--unix-socket={}", socket.display());
    let gateway = vec![format!("--kubeconfig={}", kubeconfig.display()), "proxy".into(), unix];
    [("etcd", etcd), ("kube-apiserver", server), ("kubectl", gateway)]
}

fn kubeconfig() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "diff",
        // The server makes its own certificate; both ends are in the namespace.
        "clusters": [{"name": "diff",
                      "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true}}],
        "users": [{"name": "diff", "user": {"token": "diff"}}],
        "contexts": [{"name": "diff", "context": {"cluster": "diff", "user": "diff"}}],
    })
}

/// The folder of Kubernetes' programs, built where they are not there yet.
pub(crate) fn assets() -> Result<PathBuf> {
    let script = Path::new("tests/cluster/build.sh");
    let printed = process::run(&mut Command::new(script), "", BUILT)?.ok()?;
    Ok(PathBuf::from(printed.trim()))
}
