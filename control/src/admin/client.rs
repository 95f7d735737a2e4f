//! Client of the admin API: one request, one JSON answer, over the unix socket.
//!
//! Not here: retries. A command that finds no appliance says so at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// The longest an answer may take, that to `reload` included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest a list of flows may take: of millions, of workers that have hardly time.
const LIST_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest answer read; a million flows as JSON is about 300 MiB.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why the appliance could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no appliance answers at {}: {source}; is `fairlead run` up, and is this its --socket?", socket.display())]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// What connect(2) said.
        source: std::io::Error,
    },
    /// The connection broke, or what came back is no HTTP.
    #[error("the appliance at {} broke off: {reason}", socket.display())]
    Broken {
        /// The socket's path.
        socket: PathBuf,
        /// What the HTTP layer said.
        reason: String,
    },
    /// The appliance took too long.
    #[error("the appliance at {} did not answer within {} s", socket.display(), waited.as_secs())]
    Timeout {
        /// The socket's path.
        socket: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The appliance refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// An answer this program does not understand: another version.
    #[error("the appliance answered something else than expected ({0}); are both the same version?")]
    Unreadable(#[from] serde_json::Error),
}

/// Asks `GET path` and reads the JSON answer.
///
/// # Errors
/// [`ClientError`], each with what to look at.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let asked = ask(socket, Method::GET, path, Bytes::new());
    Ok(serde_json::from_slice(&timely(socket, ANSWER_TIMEOUT, asked).await?.bytes)?)
}

/// Asks `GET path` for a list of flows, and reads the JSON answer; true when not all that match are in it.
///
/// # Errors
/// [`ClientError`], each with what to look at.
pub async fn list<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<(T, bool), ClientError> {
    let answer = timely(socket, LIST_TIMEOUT, ask(socket, Method::GET, path, Bytes::new())).await?;
    Ok((serde_json::from_slice(&answer.bytes)?, answer.more))
}

/// Sends `body` as JSON to `POST path` and reads the JSON answer.
///
/// # Errors
/// [`ClientError`], each with what to look at.
pub async fn post<B: serde::Serialize, T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &B,
) -> Result<T, ClientError> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    let answer = timely(socket, ANSWER_TIMEOUT, ask(socket, Method::POST, path, body)).await?;
    Ok(serde_json::from_slice(&answer.bytes)?)
}

/// An answer that comes piece by piece, and whoever reads it.
pub struct Pieces {
    socket: PathBuf,
    body: Incoming,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Pieces {
    /// The next piece; none at the end. It may be waited for as long as one likes.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.socket, &error)),
                // Trailers say nothing.
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Sends `body` as JSON to `POST path`, whose answer is not JSON and comes piece by piece.
///
/// # Errors
/// [`ClientError`], as long as it does not begin.
pub async fn follow<B: serde::Serialize>(socket: &Path, path: &str, body: &B) -> Result<Pieces, ClientError> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    let begin = async {
        let (response, driver) = begin(socket, Method::POST, path, body).await?;
        if response.status() != StatusCode::OK {
            return Err(collect(socket, response, driver).await.err().unwrap_or_else(|| {
                ClientError::Broken {
                    socket: socket.to_owned(),
                    reason: "neither a file nor a refusal".into(),
                }
            }));
        }
        Ok(Pieces { socket: socket.to_owned(), body: response.into_body(), driver })
    };
    timely(socket, ANSWER_TIMEOUT, begin).await
}

/// A whole answer.
struct Answer {
    bytes: Bytes,
    /// It is a list that has not all.
    more: bool,
}

async fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
    let (response, driver) = begin(socket, method, path, body).await?;
    collect(socket, response, driver).await
}

async fn timely<T>(
    socket: &Path,
    waited: Duration,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let late = |_| ClientError::Timeout { socket: socket.to_owned(), waited };
    tokio::time::timeout(waited, answer).await.map_err(late)?
}

fn broken(socket: &Path, error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken { socket: socket.to_owned(), reason: error.to_string() }
}

/// Sends a request and waits for the head of its answer; the connection lives in the task.
async fn begin(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), ClientError> {
    let broken = |error: &dyn std::fmt::Display| broken(socket, error);
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "fairlead")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    Ok((response, driver))
}

/// The whole answer.
async fn collect(
    socket: &Path,
    response: Response<Incoming>,
    driver: JoinHandle<hyper::Result<()>>,
) -> Result<Answer, ClientError> {
    let status = response.status();
    let more = response.headers().contains_key(super::view::MORE_HEADER);
    let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    driver.abort();
    let bytes = collected.map_err(|error| broken(socket, &error))?.to_bytes();
    if status == StatusCode::OK {
        Ok(Answer { bytes, more })
    } else {
        Err(ClientError::Refused(refusal(status, &bytes)))
    }
}

/// The sentence in `{"error": "..."}`, else the status line and the body as they are.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    serde_json::from_slice::<super::view::Refusal>(body).map_or_else(
        |_| format!("{status}: {}", String::from_utf8_lossy(body).trim()),
        |refusal| refusal.error,
    )
}
