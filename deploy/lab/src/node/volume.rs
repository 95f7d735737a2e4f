//! A pod's volumes: files under its folder, which its containers find where they mount them. Known are configMap, emptyDir
//! and projected ones, so each container has the token of its ServiceAccount, as the kubelet gets it (TokenRequest, bound to
//! the pod) and renews it. Mounts are below /run, which a container has for itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container as Spec, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection,
    VolumeProjection,
};
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::time::sleep;

use super::host::Host;

/// Age at which a token is replaced. The kubelet does so after 80 % of its life, which is 10 minutes or more.
const RENEW: Duration = Duration::from_secs(10);
/// Wait before a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The volumes of one pod.
#[derive(Clone)]
pub(super) struct Volumes {
    host: Arc<Host>,
    pod: Arc<Pod>,
    dir: PathBuf,
}

impl Volumes {
    /// Those of a pod whose files are under `dir`.
    pub(super) fn new(host: &Arc<Host>, pod: &Arc<Pod>, dir: &Path) -> Self {
        // No container has such a name.
        Self { host: Arc::clone(host), pod: Arc::clone(pod), dir: dir.join(".volumes") }
    }

    /// Writes all of them.
    ///
    /// # Errors
    /// When one is of a kind that a lab node does not know, or names what is not there (yet).
    pub(super) async fn write(&self) -> Result<()> {
        for volume in self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let dir = self.dir.join(&volume.name);
            fs::create_dir_all(&dir)?;
            let written = async {
                match (&volume.config_map, &volume.projected, &volume.empty_dir) {
                    (Some(map), _, _) => self.config_map(&map.name, map.items.as_deref(), &dir).await,
                    (_, Some(projected), _) => {
                        for source in projected.sources.iter().flatten() {
                            self.project(source, &dir).await?;
                        }
                        Ok(())
                    }
                    (_, _, Some(_)) => Ok(()),
                    _ => bail!("a lab node knows configMap, emptyDir and projected volumes only"),
                }
            };
            written.await.with_context(|| format!("volume {}", volume.name))?;
        }
        Ok(())
    }

    /// Renews tokens for as long as it is polled.
    pub(super) async fn keep(self) {
        let mut pause = RENEW;
        loop {
            sleep(pause).await;
            pause = RENEW;
            for (dir, token) in self.tokens() {
                if let Err(error) = self.token(token, &dir).await {
                    eprintln!("token of {}: {error:#}", self.name());
                    pause = AGAIN;
                }
            }
        }
    }

    fn tokens(&self) -> Vec<(PathBuf, &ServiceAccountTokenProjection)> {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let tokens = volumes.flat_map(|volume| {
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            let dir = self.dir.join(&volume.name);
            sources.filter_map(move |source| Some((dir.clone(), source.service_account_token.as_ref()?)))
        });
        tokens.collect()
    }

    async fn project(&self, source: &VolumeProjection, dir: &Path) -> Result<()> {
        if let Some(token) = &source.service_account_token {
            return self.token(token, dir).await;
        }
        if let Some(map) = &source.config_map {
            return self.config_map(&map.name, map.items.as_deref(), dir).await;
        }
        let Some(downward) = &source.downward_api else {
            bail!("a projection that a lab node does not know")
        };
        for file in downward.items.iter().flatten() {
            let field = file.field_ref.as_ref().map(|field| field.field_path.as_str());
            let text = match field {
                Some("metadata.namespace") => self.namespace(),
                Some("metadata.name") => self.name(),
                _ => bail!("a lab node projects metadata.namespace and metadata.name only"),
            };
            write(dir, &file.path, text.as_bytes())?;
        }
        Ok(())
    }

    async fn token(&self, token: &ServiceAccountTokenProjection, dir: &Path) -> Result<()> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(self.host.client.clone(), self.namespace());
        let audiences: Vec<&String> = token.audience.iter().collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": token.expiration_seconds,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": self.name(), "uid": self.pod.metadata.uid,
                },
            },
        });
        let made: TokenRequest =
            api.create_subresource("token", account, &PostParams::default(), &request).await?;
        write(dir, &token.path, made.status.context("a token without a status")?.token.as_bytes())
    }

    async fn config_map(&self, name: &str, items: Option<&[KeyToPath]>, dir: &Path) -> Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.host.client.clone(), self.namespace());
        let data = api.get(name).await?.data.unwrap_or_default();
        for (path, text) in chosen(&data, items).with_context(|| format!("ConfigMap {name}"))? {
            write(dir, path, text.as_bytes())?;
        }
        Ok(())
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}

/// Which text becomes which file.
fn chosen<'a>(
    data: &'a BTreeMap<String, String>,
    items: Option<&'a [KeyToPath]>,
) -> Result<Vec<(&'a str, &'a str)>> {
    let Some(items) = items else {
        return Ok(data.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect());
    };
    let found = |item: &'a KeyToPath| {
        let text = data.get(&item.key).with_context(|| format!("it has no key {}", item.key))?;
        Ok((item.path.as_str(), text.as_str()))
    };
    items.iter().map(found).collect()
}

/// Replaces a file at once: a reader finds the old content or the new one.
fn write(dir: &Path, path: &str, content: &[u8]) -> Result<()> {
    ensure!(is_inside(path), "{path:?} is no path inside a volume");
    let (file, new) = (dir.join(path), dir.join(".new"));
    let replace = || -> io::Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(dir))?;
        fs::write(&new, content)?;
        fs::rename(&new, &file)
    };
    replace().with_context(|| format!("cannot write {}", file.display()))
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// What a shell does before a container begins, in a mount namespace of the container's own; `dir` is the pod's folder.
///
/// # Errors
/// When a mount is outside /run, where it would need a folder on the machine itself.
pub(super) fn mounts(spec: &Spec, dir: &Path) -> Result<String> {
    let mut script = String::new();
    for mount in spec.volume_mounts.iter().flatten() {
        let path = mount.mount_path.strip_prefix("/var").unwrap_or(&mount.mount_path);
        let inside = path.strip_prefix("/run/").is_some_and(is_inside);
        ensure!(inside, "a lab node mounts volumes below /run only, not at {}", mount.mount_path);
        if script.is_empty() {
            script = "mount -t tmpfs -o mode=755 tmpfs /run\n".to_owned();
        }
        let source = dir.join(".volumes").join(&mount.name);
        script += &format!("mkdir -p '{path}'; mount --bind '{}' '{path}'\n", source.display());
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> Spec {
        serde_json::from_value(json!({"name": "c", "volumeMounts": [{"name": "token", "mountPath": path}]}))
            .unwrap()
    }

    #[test]
    fn mounts_are_below_run_and_nowhere_else() {
        let dir = Path::new("/tmp/pod");
        assert_eq!(
            mounts(&spec("/var/run/secrets/x"), dir).unwrap(),
            "mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p '/run/secrets/x'; mount --bind '/tmp/pod/.volumes/token' '/run/secrets/x'\n"
        );
        assert_eq!(mounts(&Spec::default(), dir).unwrap(), "");
        for path in ["/etc/x", "/run", "/run/", "/run/../etc", "/var/lib/x"] {
            assert!(mounts(&spec(path), dir).unwrap_err().to_string().contains(path), "{path}");
        }
    }

    #[test]
    fn a_config_map_gives_all_keys_or_those_that_are_named() {
        let data = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        assert_eq!(chosen(&data, None).unwrap(), [("a", "1"), ("b", "2")]);
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: "to/x".to_owned(), mode: None };
        assert_eq!(chosen(&data, Some(&[item("b")])).unwrap(), [("to/x", "2")]);
        assert!(chosen(&data, Some(&[item("c")])).unwrap_err().to_string().contains("no key c"));
    }

    #[test]
    fn files_stay_inside_their_volume() {
        let dir = std::env::temp_dir().join(format!("fairlead-lab-volume-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for text in ["old", "new"] {
            write(&dir, "deep/file", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.join("deep/file")).unwrap(), text);
        }
        for path in ["../x", "/x", ""] {
            assert!(write(&dir, path, b"").unwrap_err().to_string().contains("no path"), "{path}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
