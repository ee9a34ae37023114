//! A TCP and UDP echo server inside a namespace, on threads of the test.
//!
//! TCP: every byte comes back. When the client has closed its direction, one more line follows, `NAME COUNT` with the
//! number of bytes received, and then the end. So a relay that tears a connection down at the first end of one
//! direction is found out. UDP: the answer is `NAME `, then the datagram.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// How long a thread waits before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);

/// A running echo server. Stops when dropped, its connections too.
#[derive(Debug)]
pub struct Echo {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicU64,
    datagrams: AtomicU64,
    peers: Mutex<Vec<SocketAddr>>,
}

impl Echo {
    /// Listens on these addresses, TCP and UDP both.
    ///
    /// # Errors
    /// An address can't be bound.
    pub fn start(netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut echo = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for addr in listen {
            let (tcp, udp) = netns
                .run(|| Ok::<_, std::io::Error>((TcpListener::bind(addr)?, UdpSocket::bind(addr)?)))?
                .with_context(|| format!("can't listen on {addr} in {}", netns.name()))?;
            tcp.set_nonblocking(true)?;
            udp.set_read_timeout(Some(TICK))?;
            let (name_tcp, shared_tcp) = (name.to_owned(), Arc::clone(&shared));
            let (name_udp, shared_udp) = (name.to_owned(), Arc::clone(&shared));
            echo.threads
                .push(thread::spawn(move || accept(&tcp, &name_tcp, &shared_tcp)));
            echo.threads
                .push(thread::spawn(move || answer(&udp, &name_udp, &shared_udp)));
        }
        Ok(echo)
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// UDP datagrams received so far.
    pub fn datagrams(&self) -> u64 {
        self.shared.datagrams.load(Ordering::Relaxed)
    }

    /// Who connected, in order: what the server sees as the client's address.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared
            .peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ended = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, name: &str, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                shared
                    .peers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(peer);
                let (name, shared) = (name.to_owned(), Arc::clone(shared));
                // A connection that breaks is the client's to complain of.
                connections.push(thread::spawn(move || drop(serve(stream, &name, &shared))));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    for connection in connections {
        let _ended = connection.join();
    }
}

fn serve(mut stream: TcpStream, name: &str, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    // A client that does not read holds its thread no longer than this.
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = vec![0; 64 << 10];
    let mut count = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => {
                stream.write_all(format!("{name} {count}\n").as_bytes())?;
                return Ok(());
            }
            Ok(len) => {
                count += len as u64;
                stream.write_all(buffer.get(..len).unwrap_or_default())?;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, name: &str, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    while !shared.stop.load(Ordering::Relaxed) {
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            shared.datagrams.fetch_add(1, Ordering::Relaxed);
            let mut answer = format!("{name} ").into_bytes();
            answer.extend_from_slice(buffer.get(..len).unwrap_or_default());
            // What can't be sent is lost, as datagrams are.
            let _sent = socket.send_to(&answer, peer);
        }
    }
}

/// Connects from inside a namespace; every later read and write has 10 s.
///
/// # Errors
/// No connection within 5 s.
pub fn connect(netns: &Netns, target: SocketAddr) -> Result<TcpStream> {
    let stream = netns
        .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?
        .with_context(|| format!("can't connect to {target} from {}", netns.name()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends bytes over an open connection and reads their echo.
///
/// # Errors
/// The connection broke, or something else came back.
pub fn ping(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).context("can't send to the echo server")?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).context("no echo")?;
    if back != bytes {
        bail!("the echo differs from what was sent");
    }
    Ok(())
}

/// Closes our direction and reads what the server has still to say: its name and the bytes it received.
///
/// # Errors
/// The connection broke, or the last line is missing.
pub fn finish(mut stream: TcpStream) -> Result<(String, u64)> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = String::new();
    stream
        .read_to_string(&mut rest)
        .context("the end of the connection is not in order")?;
    let (name, count) = rest
        .strip_suffix('\n')
        .and_then(|line| line.split_once(' '))
        .with_context(|| format!("no last line of the echo server, but {rest:?}"))?;
    Ok((name.to_owned(), count.parse()?))
}

/// Sends one datagram from inside a namespace, from a port of its own: the name of the server that answered.
///
/// # Errors
/// No answer within 2 s, or a wrong one.
pub fn ask(netns: &Netns, target: SocketAddr, payload: &[u8]) -> Result<String> {
    let local: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = netns.run(|| UdpSocket::bind(local))??;
    // Connected: an answer from any other address than the one we asked does not count.
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(payload)?;
    let mut buffer = vec![0; 64 << 10];
    let len = socket
        .recv(&mut buffer)
        .with_context(|| format!("no datagram back from {target}"))?;
    let answer = buffer.get(..len).unwrap_or_default();
    let space = answer
        .iter()
        .position(|b| *b == b' ')
        .context("an answer without a name")?;
    let (name, echo) = answer.split_at(space);
    if echo.get(1..) != Some(payload) {
        bail!("the datagram that came back differs from what was sent");
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
