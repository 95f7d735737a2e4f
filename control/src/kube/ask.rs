//! One request with a small JSON answer, for those who write. Not here: lists and watches (`request`), when to ask again.

use std::time::Duration;

use hyper::Request;
use hyper::header::CONTENT_TYPE;
use serde_json::Value;

use super::ApiServer;
use super::fault::{Fault, FaultKind};
use super::request::{collect, refused, send};

/// Until the answer begins: whoever leads must know within its lease whether a request was done.
const PATIENCE: Duration = Duration::from_secs(4);
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Who we are to the server's bookkeeping of fields.
const FIELD_MANAGER: &str = "fairlead";

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    /// An object as it is.
    Get,
    /// A new object in a collection.
    Create(Value),
    /// An object in place of the one of that version.
    Replace(Value),
    /// A JSON merge patch (RFC 7386).
    Merge(Value),
    /// A patch that knows the keys of Kubernetes' own lists.
    Strategic(Value),
}

impl Ask {
    fn request(&self, path: &str) -> Result<Request<Vec<u8>>, Fault> {
        let (method, kind, body) = match self {
            Self::Get => ("GET", "application/json", None),
            Self::Create(body) => ("POST", "application/json", Some(body)),
            Self::Replace(body) => ("PUT", "application/json", Some(body)),
            Self::Merge(body) => ("PATCH", "application/merge-patch+json", Some(body)),
            Self::Strategic(body) => ("PATCH", "application/strategic-merge-patch+json", Some(body)),
        };
        let uri =
            if body.is_some() { format!("{path}?fieldManager={FIELD_MANAGER}") } else { path.to_owned() };
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        Request::builder().method(method).uri(uri).header(CONTENT_TYPE, kind).body(bytes).map_err(refused)
    }
}

/// Asks. A server that is not reached, or that refuses our credentials, gets a client made from fresh files next time.
pub(super) async fn ask(server: &ApiServer, path: &str, ask: &Ask) -> Result<Value, Fault> {
    let answer = answer(server, path, ask).await;
    match answer.as_ref().err().map(|fault| fault.kind) {
        Some(FaultKind::Unauthorized) => server.refused().await,
        Some(FaultKind::Unreachable | FaultKind::Forbidden) => server.doubted().await,
        _ => {}
    }
    answer
}

async fn answer(server: &ApiServer, path: &str, ask: &Ask) -> Result<Value, Fault> {
    let client = server.client().await?;
    let mut body = send(&client, ask.request(path)?, PATIENCE).await?;
    let text = collect(&mut body, ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&text).map_err(|error| Fault::new(FaultKind::Malformed, error))
}
