//! The one way to the API server: a client made from files, and made afresh when it is refused or its files change, so
//! that a rotated token, client certificate or CA is taken without a restart. Not here: what is asked, and when again.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::http::Uri;
use ipnet::IpNet;
use kube::client::ClientBuilder;
use kube::config::{AuthInfo, InClusterError, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::Source;

/// To a connected, encrypted and proxied connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request's bytes to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A client refused sooner than this after it was made is refused for what its files say: it stays.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Where a pod finds the files of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the API server and our credentials are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// The service account of the pod we run in.
    InCluster,
    /// A kubeconfig file; its current context is used.
    Kubeconfig(PathBuf),
}

/// Why no client could be made. Trying again is worth it: files come and change.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The files are good, and yet make no client.
    #[error("{access}: {source}; a reachable server and usable credentials are expected")]
    Client {
        /// Which files.
        access: String,
        /// What is wrong with them.
        source: Box<kube::Error>,
    },
    /// Not in a pod, or in one without a service account.
    #[error("inCluster: {0}; a pod with a mounted service account is expected, elsewhere name a kubeconfig")]
    InCluster(#[from] InClusterError),
    /// The kubeconfig is damaged or names what is not there.
    #[error("kubeconfig {}: {}; a kubeconfig with a current context is expected", path.display(), sentence(source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig cannot be read.
    #[error("kubeconfig {}: {source}; a readable file is expected", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The API server as it is reached now. Shared by all who ask it.
#[derive(Debug)]
pub struct ApiServer {
    access: Access,
    made: Mutex<Option<Made>>,
}

struct Made {
    client: Client,
    /// Content of the files it was made from.
    files: Vec<u8>,
    at: Instant,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The files hold secrets.
        write!(f, "Made({} bytes of files)", self.files.len())
    }
}

impl ApiServer {
    /// Named; nothing is read yet.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self { access, made: Mutex::new(None) }
    }

    /// The files it is reached by.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The client in use, or a new one from the files.
    ///
    /// # Errors
    /// When the files give none.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut made = self.made.lock().await;
        if let Some(made) = &*made {
            return Ok(made.client.clone());
        }
        let access = self.access.clone();
        // Reads files, and may run the kubeconfig's exec plugin.
        let (client, files) = match tokio::task::spawn_blocking(move || access.build()).await {
            Ok(built) => built?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        *made = Some(Made { client: client.clone(), files, at: Instant::now() });
        Ok(client)
    }

    /// Our credentials were refused: the next client is a new one.
    pub async fn refused(&self) {
        let mut made = self.made.lock().await;
        if made.as_ref().is_some_and(|made| made.at.elapsed() >= RENEW_INTERVAL) {
            *made = None;
        }
    }

    /// The server was not reached, or takes us for somebody else (a token file that is empty for a moment makes us nobody):
    /// if the files say something else now, the next client is a new one.
    pub async fn doubted(&self) {
        let mut made = self.made.lock().await;
        if made.as_ref().is_some_and(|made| self.access.files() != made.files) {
            *made = None;
        }
    }
}

impl Access {
    /// Of a configured source; none when that is no API server.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        match source {
            Source::InCluster => Some(Self::InCluster),
            Source::Kubeconfig(path) => Some(Self::Kubeconfig(path.clone())),
            Source::Manifests(_) => None,
        }
    }

    /// Whether the files can be read and make sense; nothing is connected to and no plugin is run.
    ///
    /// # Errors
    /// With the reason, in one sentence.
    pub fn check(&self) -> Result<(), AccessError> {
        let config = self.config()?;
        if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
            return Ok(());
        }
        ClientBuilder::try_from(config).map(drop).map_err(|error| self.refuse(error))
    }

    fn build(&self) -> Result<(Client, Vec<u8>), AccessError> {
        // Before the files are used: one that changes meanwhile then differs.
        let files = self.files();
        let client = Client::try_from(self.config()?).map_err(|error| self.refuse(error))?;
        Ok((client, files))
    }

    fn refuse(&self, error: kube::Error) -> AccessError {
        let access = match self {
            Self::InCluster => "inCluster".to_owned(),
            Self::Kubeconfig(path) => format!("kubeconfig {}", path.display()),
        };
        AccessError::Client { access, source: Box::new(error) }
    }

    fn config(&self) -> Result<Config, AccessError> {
        let mut config = match self {
            Self::InCluster => Config::incluster()?,
            Self::Kubeconfig(path) => from_file(path)?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.write_timeout = Some(WRITE_TIMEOUT);
        // Whoever asks decides when to ask again, and says why meanwhile.
        config.default_retry = false;
        Ok(config)
    }

    /// Content of every file that a client depends on; missing ones have none.
    fn files(&self) -> Vec<u8> {
        let mut paths = match self {
            Self::InCluster => ["ca.crt", "token"].map(|name| Path::new(ACCOUNT).join(name)).to_vec(),
            Self::Kubeconfig(path) => vec![path.clone()],
        };
        if let Self::Kubeconfig(path) = self
            && let Ok(kubeconfig) = Kubeconfig::read_from(path)
        {
            let clusters = kubeconfig.clusters.into_iter().filter_map(|named| named.cluster);
            paths.extend(clusters.filter_map(|cluster| cluster.certificate_authority).map(PathBuf::from));
            let users = kubeconfig.auth_infos.into_iter().filter_map(|named| named.auth_info);
            paths.extend(users.flat_map(files_of));
        }
        let mut content = Vec::new();
        for path in paths {
            content.extend(fs::read(path).unwrap_or_default());
            content.push(0);
        }
        content
    }
}

/// The first line: a fault of syntax comes with a picture of the place, which would show secrets in a log.
fn sentence(error: &KubeconfigError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn files_of(user: AuthInfo) -> impl Iterator<Item = PathBuf> {
    [user.client_certificate, user.client_key, user.token_file].into_iter().flatten().map(PathBuf::from)
}

fn from_file(path: &Path) -> Result<Config, AccessError> {
    let refuse = |error| match error {
        KubeconfigError::ReadConfig(source, _) => AccessError::Unreadable { path: path.to_owned(), source },
        source => AccessError::Kubeconfig { path: path.to_owned(), source: Box::new(source) },
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
    let mut config = Config::try_from(kubeconfig).map_err(refuse)?;
    // The library takes the proxy of the environment where the kubeconfig names none, but not its exceptions.
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok());
    let inherited = variable(["HTTPS_PROXY", "https_proxy"]).and_then(|url| url.parse::<Uri>().ok());
    let exceptions = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    if config.proxy_url == inherited && is_direct(&exceptions, config.cluster_url.host().unwrap_or_default())
    {
        config.proxy_url = None;
    }
    Ok(config)
}

/// Whether a list as in `NO_PROXY` names the host: `*`, an address, a network, or a domain with all under it.
fn is_direct(no_proxy: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(
        |entry| {
            if let Some(address) = address {
                let net = entry.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
                return entry == "*" || net || entry.parse() == Ok(address);
            }
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            entry == "*"
                || host == domain
                || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {tokenFile: token}}]
";

    fn folder(kubeconfig: &str) -> (tempfile::TempDir, Access) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("config");
        fs::write(&path, kubeconfig).expect("written");
        fs::write(folder.path().join("token"), "one").expect("written");
        (folder, Access::Kubeconfig(path))
    }

    #[test]
    fn a_bad_kubeconfig_is_refused_in_one_sentence() {
        let missing = Access::Kubeconfig("/nowhere/config".into()).check().expect_err("missing");
        let want =
            "kubeconfig /nowhere/config: No such file or directory (os error 2); a readable file is expected";
        assert_eq!(missing.to_string(), want);
        for (name, from, to, word) in [
            ("no context", "current-context: c\n", "", "current context"),
            ("unknown context", "current-context: c", "current-context: d", "context: d;"),
            ("no server", "server: 'http://127.0.0.1:1'", "", "cluster url is missing"),
            ("not YAML", "kind: Config", "kind: [", "parse"),
            ("no such CA", "server:", "certificate-authority: ca.pem, server:", "ca.pem"),
            ("no such token", "tokenFile: token", "tokenFile: gone", "gone"),
            ("no such key", "tokenFile: token", "client-certificate: crt, client-key: key", "crt"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{name}");
            let (_folder, access) = folder(&text);
            let refused = access.check().expect_err(name).to_string();
            let shown = refused.starts_with("kubeconfig /") && refused.ends_with(" is expected")
                || refused.ends_with(" are expected");
            assert!(shown && refused.contains(word) && !refused.contains('\n'), "{name}: {refused}");
        }
        let (_folder, access) = folder(GOOD);
        access.check().expect("good");
    }

    #[test]
    fn a_plugin_is_not_run_by_a_check() {
        let plugin = "exec: {apiVersion: client.authentication.k8s.io/v1, command: /nowhere/plugin, interactiveMode: Never}";
        let (_folder, access) = folder(&GOOD.replace("tokenFile: token", plugin));
        access.check().expect("it could only be refused by running it");
    }

    #[test]
    fn outside_of_a_pod_there_is_no_service_account() {
        let refused = Access::InCluster.check().expect_err("no pod").to_string();
        assert!(refused.starts_with("inCluster: ") && refused.contains("service account"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_made_again_when_refused_or_when_its_files_changed() {
        let (folder, access) = folder(GOOD);
        let server = ApiServer::new(access);
        let made_at = async || {
            server.client().await.expect("a client");
            server.made.lock().await.as_ref().expect("made").at
        };
        let first = made_at().await;
        server.refused().await;
        server.doubted().await;
        assert_eq!(made_at().await, first, "refused at once, and the files are the same");
        tokio::time::advance(RENEW_INTERVAL).await;
        server.doubted().await;
        assert_eq!(made_at().await, first);
        server.refused().await;
        let second = made_at().await;
        assert_ne!(second, first);
        tokio::time::advance(RENEW_INTERVAL).await;
        fs::write(folder.path().join("token"), "two").expect("written");
        server.doubted().await;
        assert_ne!(made_at().await, second);
    }

    #[test]
    fn every_file_that_a_kubeconfig_names_is_looked_at() {
        let named = "certificate-authority: ca.pem, server:";
        let user = "{tokenFile: token, client-certificate: crt, client-key: key}";
        let text = GOOD.replace("server:", named).replace("{tokenFile: token}", user);
        let (folder, access) = folder(&text);
        for file in ["ca.pem", "token", "crt", "key", "config"] {
            let before = access.files();
            let path = folder.path().join(file);
            let old = fs::read_to_string(&path).unwrap_or_default();
            fs::write(&path, old + "# another").expect("written");
            assert_ne!(access.files(), before, "{file}");
        }
    }

    #[test]
    fn exceptions_of_the_proxy_are_hosts_domains_and_networks() {
        for (list, host, want) in [
            ("", "10.0.0.1", false),
            ("*", "api.example.org", true),
            ("10.0.0.0/8, localhost", "10.0.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("fd00::/8", "[fd00::1]", true),
            ("example.org", "api.example.org", true),
            (".Example.org", "API.example.org", true),
            ("*.example.org", "example.org", true),
            ("ample.org", "example.org", false),
            ("1", "10.0.0.1", false),
        ] {
            assert_eq!(is_direct(list, host), want, "{list} {host}");
        }
    }
}
