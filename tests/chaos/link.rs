//! A TCP connection that can be cut: a proxy between one role and the coordinator.
//!
//! ```text
//!  worker-a ──► link ──► coordinator
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// How a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// No byte passes, and nothing is closed. What was sent meanwhile arrives later, as TCP sends
    /// again what a network has lost.
    Silent,
    /// Connections are closed, and new ones too.
    Refused,
}

/// A proxy on a port of its own; its connections are closed on drop.
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    upstream: String,
    mode: Mutex<Mode>,
    changed: Condvar,
}

#[derive(Default)]
struct Mode {
    cut: Option<Cut>,
    is_over: bool,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
}

impl Link {
    /// Starts a proxy.
    ///
    /// - `upstream`: address of the server, which need not listen yet.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            mode: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = state.clone();
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, state }
    }

    /// URL of the proxy.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts the link.
    pub fn cut(&self, cut: Cut) {
        let mut mode = self.state.mode();
        mode.cut = Some(cut);
        if cut == Cut::Refused {
            close(&mut mode);
        }
    }

    /// Ends the cut.
    pub fn restore(&self) {
        self.state.mode().cut = None;
        self.state.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut mode = self.state.mode();
        mode.is_over = true;
        close(&mut mode);
        drop(mode);
        self.state.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn close(mode: &mut Mode) {
    for stream in mode.open.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl State {
    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            let mut mode = self.mode();
            if mode.is_over {
                return;
            }
            if mode.cut == Some(Cut::Refused) {
                continue;
            }
            let Ok(server) = TcpStream::connect(&self.upstream) else {
                continue;
            };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
                mode.open.push(stream.try_clone().unwrap());
            }
            drop(mode);
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let state = self.clone();
                std::thread::spawn(move || state.forward(from, to));
            }
        }
    }

    /// Passes bytes on until one end closes.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length) = from.read(&mut buffer) {
            let is_silent = |mode: &mut Mode| mode.cut == Some(Cut::Silent) && !mode.is_over;
            let waiting = self.changed.wait_while(self.mode(), is_silent);
            drop(waiting);
            if length == 0 || to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_silent_link_delays_and_a_refused_one_closes() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Link::start(&server.local_addr().unwrap().to_string());
    let mut client = TcpStream::connect(link.address).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    let mut bytes = [0; 4];

    link.cut(Cut::Silent);
    client.write_all(b"late").unwrap();
    let brief = std::time::Duration::from_millis(100);
    accepted.set_read_timeout(Some(brief)).unwrap();
    assert!(accepted.read(&mut bytes).is_err(), "nothing passes");
    accepted.set_read_timeout(None).unwrap();
    link.restore();
    accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"late");

    link.cut(Cut::Refused);
    assert!(client.read_exact(&mut bytes).is_err(), "it is closed");
    let mut refused = TcpStream::connect(link.address).unwrap();
    assert!(refused.read_exact(&mut bytes).is_err(), "it is closed too");
    link.restore();
    let _client = TcpStream::connect(link.address).unwrap();
    server.accept().unwrap();
}
