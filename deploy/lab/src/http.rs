//! The smallest HTTP/1.1 client that probes need: GET over one connection or many, with bounded waits.
//! Transfers of files are `curl`'s.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Largest body that is read.
const BODY_MAX: usize = 16 << 20;

/// One HTTP connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; every later wait is bounded by `limit` as well. Call it inside the client's namespace.
    ///
    /// # Errors
    /// When the server refuses or does not answer in time.
    pub fn open(server: SocketAddr, limit: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One request on the connection, which stays open. Gives status and body.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not HTTP with a length.
    pub fn get(&mut self, path: &str) -> Result<(u16, String)> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n"))
    }

    fn ask(&mut self, request: &str) -> Result<(u16, String)> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?.split(' ').nth(1).context("no status line")?.parse()?;
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let length = length.context("an answer without Content-Length")?;
        if length > BODY_MAX {
            bail!("an answer of {length} bytes");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.is_empty() {
            bail!("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::get`].
pub fn get(server: SocketAddr, path: &str, limit: Duration) -> Result<(u16, String)> {
    Connection::open(server, limit)?.get(path)
}

/// Posts JSON on a connection of its own; gives the body of the answer.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::get`], and for any status but 200.
pub fn post(server: SocketAddr, path: &str, json: &str, limit: Duration) -> Result<String> {
    let length = json.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: lab\r\nContent-Type: application/json\r\nContent-Length: {length}"
    );
    match Connection::open(server, limit)?.ask(&format!("{head}\r\n\r\n{json}"))? {
        (200, body) => Ok(body),
        (status, body) => bail!("{path}: HTTP status {status}: {body}"),
    }
}

/// What a web pod says about a request: its name and the client address it saw.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct WebAnswer {
    /// The pod.
    pub pod: String,
    /// The client's address as the pod saw it.
    pub client: String,
}

impl WebAnswer {
    /// Reads the pod's `<pod> <client> <server>` line.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(body: &str) -> Result<Self> {
        let mut words = body.split_whitespace();
        let (Some(pod), Some(client)) = (words.next(), words.next()) else {
            bail!("an odd answer: {body:?}")
        };
        Ok(Self { pod: pod.to_owned(), client: client.to_owned() })
    }
}

/// Asks a web pod who it is, on a connection of its own.
///
/// # Errors
/// As [`get`], and for any status but 200.
pub fn who(server: SocketAddr, limit: Duration) -> Result<WebAnswer> {
    match get(server, "/", limit)? {
        (200, body) => WebAnswer::parse(&body),
        (status, body) => bail!("HTTP status {status}: {body}"),
    }
}
