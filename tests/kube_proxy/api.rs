//! The API server by plain HTTP through `kubectl proxy` on a Unix socket, which reaches over namespaces and does the
//! TLS and the token. One request a connection, bounded in time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// A way to the API server.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    socket: PathBuf,
}

/// What the API server said: status and object.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Said {
    /// The object, if the request was carried out.
    pub(crate) fn ok(self) -> Result<Value> {
        if self.status < 300 {
            Ok(self.body)
        } else {
            bail!("the API server said {}: {}", self.status, self.why())
        }
    }

    /// The server's sentence.
    pub(crate) fn why(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Api {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, &Value::Null)?.ok()
    }

    /// Creates an object in the collection at `path`.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<Said> {
        self.ask("POST", path, object)
    }

    /// Merges fields into an object.
    pub(crate) fn merge(&self, path: &str, fields: &Value) -> Result<Value> {
        self.ask("PATCH", path, fields)?.ok()
    }

    /// Deletes an object, or all of a collection. Nothing there is fine.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        let said = self.ask("DELETE", path, &Value::Null)?;
        if said.status == 404 { Ok(()) } else { said.ok().map(drop) }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Said> {
        self.exchange(method, path, body).with_context(|| format!("{method} {path}"))
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> Result<Said> {
        let mut stream = UnixStream::connect(&self.socket).context("kubectl proxy does not listen")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        // HTTP/1.0: the answer ends with the connection, in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let body = serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))?;
        Ok(Said { status, body })
    }
}
