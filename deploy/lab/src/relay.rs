//! A relay of TCP connections on a machine of the lab, for an API server that is slow or out of reach: each piece of data
//! is held back for a while, or all connections are cut and none is let through. TLS goes through as it is.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Namespace;

/// How often the listener looks whether it shall end.
const POLL: Duration = Duration::from_millis(5);
/// Longest wait for the server.
const CONNECT: Duration = Duration::from_secs(2);
/// Most that is held back at once, a connection and direction.
const PIECE: usize = 64 << 10;

/// What the threads of a relay share.
#[derive(Default)]
struct State {
    delay_ms: AtomicU64,
    cut: AtomicBool,
    ended: AtomicBool,
    /// Both ends of every connection since the last cut.
    open: Mutex<Vec<TcpStream>>,
}

/// A running relay; it ends when dropped.
pub struct Relay {
    state: Arc<State>,
    listener: Option<thread::JoinHandle<()>>,
}

impl Relay {
    /// Listens at `at` inside `namespace` and relays to `server`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(namespace: &Arc<Namespace>, at: SocketAddr, server: SocketAddr) -> Result<Self> {
        let listener =
            namespace.within(|| TcpListener::bind(at))?.with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(State::default());
        let (shared, inside) = (Arc::clone(&state), Arc::clone(namespace));
        // A socket belongs to the namespace of the thread that opens it.
        let accept = move || {
            if let Err(error) = inside.within(|| accept(&listener, server, &shared)) {
                eprintln!("relay to {server}: {error:#}");
            }
        };
        Ok(Self { state, listener: Some(thread::spawn(accept)) })
    }

    /// Holds back every piece of data for so long, in both directions.
    pub fn delay(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.state.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Ends every connection and lets none through, until [`Self::mend`].
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
        self.state.close();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::Relaxed);
    }
}

impl State {
    fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // One that has ended already is as it should be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        self.state.close();
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, state: &Arc<State>) {
    while !state.ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                if let Err(error) = connect(client, server, state) {
                    eprintln!("relay to {server}: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => return eprintln!("relay to {server}: {error}"),
        }
    }
}

/// A connection that is cut is closed at once.
fn connect(client: TcpStream, server: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    if state.cut.load(Ordering::Relaxed) {
        return Ok(());
    }
    client.set_nonblocking(false)?;
    // An API server that is away refuses: so does the relay, by closing.
    let Ok(server) = TcpStream::connect_timeout(&server, CONNECT) else { return Ok(()) };
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        state.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
    }
    let pairs = [(client.try_clone()?, server.try_clone()?), (server, client)];
    for (from, to) in pairs {
        let state = Arc::clone(state);
        thread::spawn(move || copy(from, to, &state));
    }
    Ok(())
}

/// Copies until one side ends, then ends both.
fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let due = Instant::now() + Duration::from_millis(state.delay_ms.load(Ordering::Relaxed));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// A server that gives back each line.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let mut stream = stream;
                    while let Some(Ok(line)) = lines.next() {
                        let _ = writeln!(stream, "{line}");
                    }
                });
            }
        });
        at
    }

    /// A relay in our own namespace, which needs no rights.
    fn relay(server: SocketAddr) -> (Relay, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || accept(&listener, server, &shared));
        (Relay { state, listener: Some(thread) }, at)
    }

    fn ask(at: SocketAddr) -> io::Result<Duration> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "hello")?;
        let mut line = String::new();
        match BufReader::new(stream).read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(begun.elapsed()),
        }
    }

    #[test]
    fn it_relays_holds_back_and_cuts() {
        let (relay, at) = relay(server());
        let plain = ask(at).unwrap();
        relay.delay(Duration::from_millis(100));
        let held = ask(at).unwrap();
        assert!(
            plain < Duration::from_millis(100) && held >= Duration::from_millis(200),
            "{plain:?} {held:?}"
        );
        relay.cut();
        assert!(ask(at).is_err());
        relay.mend();
        assert!(ask(at).is_ok());
    }
}
