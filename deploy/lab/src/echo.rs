//! Echo server and client over TCP and UDP: long-lived connections whose every byte is checked, numbered datagrams.
//! The server greets a TCP client with `<pod> <client address>\n`; a datagram `who` is answered the same way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// First argument that turns a program which uses the lab into an echo server (see [`run_if_asked`](crate::run_if_asked)).
pub const ROLE: &str = "lab-echo-server";
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Becomes the echo server of a pod if the command line says so.
pub(crate) fn run_if_asked(arguments: &[String]) {
    if let [role, pod, port] = arguments
        && role == ROLE
    {
        let served = port.parse().context("no port").and_then(|port| serve(pod, port));
        crate::role::end(&format!("echo server of {pod}"), served);
    }
}

fn serve(pod: &str, port: u16) -> Result<()> {
    // Of both families.
    let address = (Ipv6Addr::UNSPECIFIED, port);
    let udp = UdpSocket::bind(address)?;
    let listener = TcpListener::bind(address)?;
    let name = pod.to_owned();
    thread::spawn(move || serve_udp(&name, &udp));
    loop {
        let (stream, client) = listener.accept()?;
        let greeting = format!("{pod} {}\n", canonical(client));
        thread::spawn(move || serve_tcp(stream, &greeting));
    }
}

/// An IPv4 client as IPv4.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// A UDP socket that can reach the server.
fn udp_towards(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0))
}

fn serve_tcp(mut stream: TcpStream, greeting: &str) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    stream.write_all(greeting.as_bytes()).ok()?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            len => stream.write_all(&buffer[..len]).ok()?,
        }
    }
}

fn serve_udp(pod: &str, socket: &UdpSocket) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // An ICMP error of an earlier answer shows up here; it ends nothing.
        let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
        let answer = format!("{pod} {}\n", canonical(client));
        let bytes = if &buffer[..len] == b"who" { answer.as_bytes() } else { &buffer[..len] };
        let _ = socket.send_to(bytes, client);
    }
}

/// A long-lived connection to the echo server.
pub struct EchoClient {
    stream: BufReader<TcpStream>,
    /// The pod that answered.
    pub pod: String,
    /// The client address that the pod saw.
    pub seen: SocketAddr,
    sent: u64,
}

impl EchoClient {
    /// Connects and reads the greeting. Call it inside the client's namespace.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn connect(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).context("no greeting")?;
        let (pod, seen) = greeting.trim().split_once(' ').context("an odd greeting")?;
        Ok(Self { pod: pod.to_owned(), seen: seen.parse()?, stream, sent: 0 })
    }

    /// Sends the next `len` bytes of a numbered stream and expects them back unchanged.
    ///
    /// # Errors
    /// When the connection broke or a byte came back changed or out of order.
    pub fn exchange(&mut self, len: usize) -> Result<()> {
        let mut message = Vec::with_capacity(len + 8);
        while message.len() < len {
            message.extend_from_slice(&self.sent.to_be_bytes());
            self.sent += 1;
        }
        self.stream.get_mut().write_all(&message)?;
        let mut answer = vec![0; message.len()];
        self.stream.read_exact(&mut answer).context("the echo did not come back")?;
        if answer != message {
            bail!("the echo came back changed, near number {}", self.sent);
        }
        Ok(())
    }
}

/// One UDP socket that asks again and again: every datagram has the same addresses and ports.
pub struct UdpAsker {
    socket: UdpSocket,
}

impl UdpAsker {
    /// Binds and connects. Call it inside the client's namespace.
    ///
    /// # Errors
    /// When there is no socket or no route.
    pub fn new(server: SocketAddr) -> Result<Self> {
        Self::patient(server, PATIENCE)
    }

    /// The same, with a bound of the caller's on each wait.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn patient(server: SocketAddr, limit: Duration) -> Result<Self> {
        let socket = udp_towards(server)?;
        socket.set_read_timeout(Some(limit))?;
        socket.connect(server)?;
        Ok(Self { socket })
    }

    /// Which pod answers, and which client address it saw.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn who(&self) -> Result<(String, SocketAddr)> {
        self.socket.send(b"who")?;
        let mut buffer = [0; 256];
        let len = self.socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let (pod, seen) = text.trim().split_once(' ').context("an odd answer")?;
        Ok((pod.to_owned(), seen.parse()?))
    }
}

/// Which pod answers one datagram, and which client address it saw.
///
/// # Errors
/// When nobody answers in time.
pub fn who_udp(server: SocketAddr) -> Result<(String, SocketAddr)> {
    UdpAsker::new(server)?.who()
}

/// What became of a numbered stream of datagrams.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Echoes received, duplicates left out.
    pub received: u64,
    /// Echoes that came after one with a higher number.
    pub reordered: u64,
    /// Echoes that came twice.
    pub duplicated: u64,
}

/// Sends `rate` numbered datagrams a second for as long as `more` says so, and counts the echoes.
///
/// # Errors
/// When the socket cannot be used.
pub fn udp_stream(server: SocketAddr, rate: u32, more: impl Fn() -> bool + Sync) -> Result<UdpReport> {
    let socket = udp_towards(server)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let gap = Duration::from_secs(1) / rate;
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<u64> {
            let (start, mut sent) = (Instant::now(), 0_u64);
            while more() {
                socket.send(&sent.to_be_bytes())?;
                sent += 1;
                let due = gap * u32::try_from(sent).unwrap_or(u32::MAX);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            Ok(sent)
        });
        let mut report = UdpReport::default();
        let (mut seen, mut next) = (std::collections::HashSet::new(), 0);
        let mut buffer = [0; 64];
        // Half a second of silence after the sender's end is the end.
        loop {
            match socket.recv(&mut buffer) {
                Ok(8) => {
                    let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
                    if !seen.insert(number) {
                        report.duplicated += 1;
                        continue;
                    }
                    report.received += 1;
                    report.reordered += u64::from(number < next);
                    next = next.max(number + 1);
                }
                Ok(_) => bail!("an echo of a foreign length"),
                Err(_) if sender.is_finished() => break,
                Err(_) => {}
            }
        }
        report.sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(report)
    })
}
