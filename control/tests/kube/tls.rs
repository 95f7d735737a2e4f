//! What the source makes of a server whose certificate is another's by now, and of a kubeconfig whose CA is replaced.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::follower::{Follower, service, small_world};
use crate::server::SERVICES;

/// A CA with the API server's certificate of its own.
struct Authority {
    pem: String,
    tls: TlsAcceptor,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Self { pem: ca.pem(), tls: Arc::new(config.unwrap()).into() }
    }
}

/// Puts `text` in the place of a file at once, as whoever rotates certificates does.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
}

#[tokio::test]
async fn a_replaced_ca_is_taken_without_a_restart() {
    let (first, second, third) = (Authority::new(), Authority::new(), Authority::new());
    let mut server = small_world().await;
    server.encrypt(first.tls.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, &first.pem).unwrap();
    let cluster = format!("server: '{}', certificate-authority: ca.crt", server.url());
    let mut follower = Follower::of(&cluster, None, folder);
    follower.until_synced().await;

    // The server's is replaced first: nobody is followed whom the CA does not vouch for, and what was known serves.
    server.encrypt(second.tls.clone()).await;
    server.put(SERVICES, service("by-second", 80));
    follower.until("refused", |it| it.rows.iter().any(|row| row.error.contains("certificate"))).await;
    follower.until("noticed", |it| it.rows.iter().all(|row| row.state == "Stale")).await;
    follower.listen(500).await;
    assert!(
        follower.seen.len() == 4 && !follower.seen.contains_key("svc shop/by-second"),
        "{:?}",
        follower.seen
    );
    replace(&ca, &second.pem);
    follower.until_seen("svc shop/by-second").await;
    follower.until("followed", |it| it.rows.iter().all(|row| row.state == "Ok")).await;

    // The CA is replaced first: connections that are open go on, and the next ones are made with the new one.
    replace(&ca, &third.pem);
    server.put(SERVICES, service("before-third", 80));
    follower.until_seen("svc shop/before-third").await;
    server.encrypt(third.tls.clone()).await;
    server.put(SERVICES, service("by-third", 80));
    follower.until_seen("svc shop/by-third").await;
    assert_eq!((follower.synced, follower.seen.len()), (1, 7));
}

/// The same where the CA is written into the kubeconfig itself.
#[tokio::test]
async fn a_replaced_kubeconfig_is_taken_without_a_restart() {
    let (first, second) = (Authority::new(), Authority::new());
    let mut server = small_world().await;
    server.encrypt(first.tls.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let inline = |authority: &Authority| encoded(authority.pem.as_bytes());
    let cluster = format!("server: '{}', certificate-authority-data: {}", server.url(), inline(&first));
    let mut follower = Follower::of(&cluster, None, folder);
    follower.until_synced().await;
    server.encrypt(second.tls.clone()).await;
    server.put(SERVICES, service("new", 80));
    follower.until("refused", |it| it.rows.iter().any(|row| row.error.contains("certificate"))).await;
    let kubeconfig = follower.folder.path().join("kubeconfig");
    let text = fs::read_to_string(&kubeconfig).unwrap().replace(&inline(&first), &inline(&second));
    replace(&kubeconfig, &text);
    follower.until_seen("svc shop/new").await;
    assert_eq!(follower.synced, 1);
}

/// Base64, as kubeconfigs have it.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().chain(&[0; 2]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        (0..4)
            .map(move |at| if at > group.len() { '=' } else { DIGITS[bits >> (18 - 6 * at) & 63].into() })
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
