//! The keys of a control plane: a CA, the API server's certificate, the key that signs service account tokens, and
//! the administrator's token. Made anew for each lab; nothing here outlives it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    /// Certificate of the CA.
    pub(super) ca: PathBuf,
    /// The API server's certificate.
    pub(super) server_cert: PathBuf,
    /// Its key.
    pub(super) server_key: PathBuf,
    /// Key that signs the tokens of service accounts.
    pub(super) accounts_key: PathBuf,
    /// Key that they are checked with.
    pub(super) accounts_public: PathBuf,
    /// Tokens that the API server takes as they are.
    pub(super) tokens: PathBuf,
    /// Token of the administrator, in group `system:masters`.
    pub(super) admin_token: String,
}

impl Pki {
    /// Makes all keys under `dir`, for an API server with these addresses.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn create(dir: &Path, addresses: &[IpAddr]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = dir.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(file)
        };
        let (ca_key, server_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let ca = authority();
        let ca_cert = ca.self_signed(&ca_key)?;
        let server_cert = server(addresses)?.signed_by(&server_key, &Issuer::new(ca, &ca_key))?;
        // Any unguessable text is a token: the serialised public key of a pair that is thrown away is one.
        let admin_token = hex(KeyPair::generate()?.public_key_raw());
        let tokens = format!("{admin_token},admin,admin,system:masters\n");
        let pki = Self {
            ca: write("ca.crt", &ca_cert.pem())?,
            server_cert: write("apiserver.crt", &server_cert.pem())?,
            server_key: write("apiserver.key", &server_key.serialize_pem())?,
            accounts_key: dir.join("service-accounts.key"),
            accounts_public: dir.join("service-accounts.pub"),
            tokens: write("tokens.csv", &tokens)?,
            admin_token,
        };
        pki.replace_accounts_key()?;
        Ok(pki)
    }

    /// Another key for the tokens of service accounts, from the next start of the API server on.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn replace_accounts_key(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        for (file, text) in
            [(&self.accounts_key, key.serialize_pem()), (&self.accounts_public, key.public_key_pem())]
        {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn server(addresses: &[IpAddr]) -> Result<CertificateParams> {
    let mut params =
        CertificateParams::new(vec!["kubernetes.default.svc".to_owned(), "localhost".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(params)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
