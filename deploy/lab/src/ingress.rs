//! An ingress controller as its users install it: Traefik behind a LoadBalancer Service whose address it writes to the
//! Ingresses, with the rights that its manual names for Ingresses. And a certificate for what it serves.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::generate_simple_self_signed;
use serde_json::json;

use crate::controlplane::Kubectl;
use crate::netns::Namespace;

/// Its namespace, Deployment and Service are called so.
pub const NAME: &str = "traefik";
/// Environment variable with the path of its program.
const PROGRAM: &str = "TRAEFIK";
/// Longest that an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Everything of the controller. Clients keep their address on the way to it (externalTrafficPolicy: Local).
pub const CONTROLLER: &str = "apiVersion: v1
kind: Namespace
metadata: {name: traefik}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: traefik, namespace: traefik}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: traefik}
rules:
- {apiGroups: [\"\"], resources: [services, secrets, nodes], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses, ingressclasses], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: traefik}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: traefik}
subjects: [{kind: ServiceAccount, name: traefik, namespace: traefik}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: traefik, annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}}
spec: {controller: traefik.io/ingress-controller}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: traefik, namespace: traefik}
spec:
  replicas: 1
  selector: {matchLabels: {app: traefik}}
  template:
    metadata: {labels: {app: traefik}}
    spec:
      serviceAccountName: traefik
      containers:
      - name: traefik
        image: traefik:v3.6
        args:
        - --global.checknewversion=false
        - --global.sendanonymoususage=false
        - --log.level=INFO
        - --accesslog=true
        - --ping=true
        - --entrypoints.traefik.address=:8081
        - --entrypoints.web.address=:8000
        - --entrypoints.websecure.address=:8443
        - --entrypoints.websecure.http.tls=true
        - --providers.kubernetesingress=true
        - --providers.kubernetesingress.ingressendpoint.publishedservice=traefik/traefik
        ports:
        - {name: web, containerPort: 8000}
        - {name: websecure, containerPort: 8443}
        - {name: ping, containerPort: 8081}
        readinessProbe: {httpGet: {path: /ping, port: ping}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: traefik, namespace: traefik}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  selector: {app: traefik}
  ports:
  - {name: web, port: 80, targetPort: web}
  - {name: websecure, port: 443, targetPort: websecure}
";

/// The controller's program.
///
/// # Errors
/// When the environment names none, with what to do.
pub fn program() -> Result<String> {
    std::env::var(PROGRAM)
        .with_context(|| format!("{PROGRAM} is not set; set it to what tests/traefik/build.sh prints"))
}

/// An Ingress of a host that is served by `service`, over TLS by the Secret `<name>-tls`.
pub fn ingress(namespace: &str, name: &str, host: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ingressClassName: traefik
  tls: [{{hosts: [{host}], secretName: {name}-tls}}]
  rules:
  - host: {host}
    http:
      paths:
      - {{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}
"
    )
}

/// A certificate of a host's own.
pub struct Certificate {
    host: String,
    /// Where it is, for those who shall trust it.
    pub file: PathBuf,
    pem: String,
    key: String,
}

impl Certificate {
    /// Makes one; the file is in `dir`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(host: &str, dir: &Path) -> Result<Self> {
        let made = generate_simple_self_signed([host.to_owned()])?;
        let file = dir.join(format!("{host}.crt"));
        let pem = made.cert.pem();
        std::fs::write(&file, &pem).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { host: host.to_owned(), file, pem, key: made.signing_key.serialize_pem() })
    }

    /// The Secret with it that [`ingress`] names.
    pub fn secret(&self, namespace: &str, ingress: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": format!("{ingress}-tls"), "namespace": namespace},
            "stringData": {"tls.crt": self.pem, "tls.key": self.key},
        })
        .to_string()
    }

    /// The words of a `curl` that asks for the host at an address by TLS, and trusts nobody else.
    pub fn curl(&self, address: IpAddr) -> Vec<String> {
        let server = SocketAddr::new(address, 443);
        let resolve = match server {
            SocketAddr::V4(_) => format!("{}:443:{address}", self.host),
            SocketAddr::V6(_) => format!("{}:443:[{address}]", self.host),
        };
        let words =
            ["curl", "-sS", "--fail", "--cacert", &self.file.display().to_string(), "--resolve", &resolve]
                .map(str::to_owned);
        words.into_iter().chain([format!("https://{}/", self.host)]).collect()
    }

    /// What the host answers at an address by TLS.
    ///
    /// # Errors
    /// When nobody answers, or somebody with another certificate.
    pub fn ask(&self, client: &Namespace, address: IpAddr) -> Result<String> {
        let words = self.curl(address);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        client.run(&words, ANSWER)?.ok()
    }
}

/// The addresses in the status of an object, as `kubectl get` shows them in EXTERNAL-IP or ADDRESS.
///
/// # Errors
/// When `kubectl` fails.
pub fn addresses(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
    let object = kubectl.json(&["get", kind, name, "-n", namespace])?;
    let listed = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<IpAddr> = listed.iter().filter_map(|at| at["ip"].as_str()?.parse().ok()).collect();
    found.sort();
    Ok(found)
}
