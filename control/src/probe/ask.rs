//! One question to one backend, by a socket of the kernel.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;

use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Fault, Method, Probe};

/// Asks, and gives the answer within the probe's timeout.
pub(super) async fn ask(probe: &Probe) -> Result<(), Fault> {
    let answer = async {
        match &probe.method {
            Method::Tcp => connect(probe.at).await.map(drop),
            Method::Udp => datagram(probe.at).await,
            Method::Http(path) => http(probe.at, path).await,
        }
    };
    match (timeout(probe.pace.timeout, answer).await, &probe.method) {
        (Ok(answer), _) => answer,
        // Nobody has to answer a datagram that means nothing; only a refusal says something.
        (Err(_), Method::Udp) => Ok(()),
        (Err(_), Method::Tcp | Method::Http(_)) => Err(Fault::TimedOut),
    }
}

async fn connect(at: SocketAddr) -> Result<TcpStream, Fault> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(unasked)?;
    // Ends with a reset: the appliance has few ports of its own, and none of them shall stay in TIME_WAIT.
    socket.set_zero_linger().map_err(unasked)?;
    socket.connect(at).await.map_err(fault)
}

async fn datagram(at: SocketAddr) -> Result<(), Fault> {
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(unasked)?;
    socket.connect(at).await.map_err(fault)?;
    socket.send(&[]).await.map_err(fault)?;
    socket.recv(&mut [0; 1]).await.map_err(fault).map(drop)
}

async fn http(at: SocketAddr, path: &str) -> Result<(), Fault> {
    let stream = TokioIo::new(connect(at).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|_| Fault::NotHttp)?;
    let request = Request::get(path)
        .header(header::HOST, at.to_string())
        .header(header::USER_AGENT, concat!("fairlead/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Fault::NotHttp)?;
    let answered = pin!(sender.send_request(request));
    let response = match select(answered, pin!(connection)).await {
        Either::Left((response, _)) => response,
        // The end of the connection may come with the answer.
        Either::Right((_, answered)) => answered.await,
    };
    // The head is enough.
    let status = response.map_err(|_| Fault::NotHttp)?.status().as_u16();
    if (200..400).contains(&status) { Ok(()) } else { Err(Fault::Status(status)) }
}

/// What kept us from asking at all says nothing of the backend.
fn unasked(error: io::Error) -> Fault {
    Fault::Unasked(error.kind())
}

fn fault(error: io::Error) -> Fault {
    match error.kind() {
        ErrorKind::ConnectionRefused => Fault::Refused,
        ErrorKind::TimedOut => Fault::TimedOut,
        kind @ (ErrorKind::BrokenPipe
        | ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable) => Fault::Broken(kind),
        // No route, no port, no more files: ours.
        kind => Fault::Unasked(kind),
    }
}
