//! A connection between two ranks: TCP as it is, or TLS over it.
//!
//! Blocking or not, as the socket is; both kinds pause with the same errors. Nothing here reads
//! while it is asked to write, so a rank's sending never waits for what it would receive.

use std::fmt;
use std::io::{self, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// Bytes of ciphertext that are taken from the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// How ranks prove by certificate that they may train at all; that they belong to one ring, the
/// ring's secret proves.
#[derive(Clone)]
pub struct Tls {
    /// For the rank that is dialled to: what it trusts and what it shows.
    pub client: Arc<ClientConfig>,
    /// For the rank that is dialled. It must demand a certificate, and send no session tickets:
    /// they would lie unread until the connection is closed, and reset it then.
    pub server: Arc<ServerConfig>,
    /// What the certificate of a dialled rank is named, whatever its address.
    pub name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

/// A connection between two ranks.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

/// TLS over a socket.
pub(crate) struct Secured {
    session: Connection,
    socket: BufReader<TcpStream>,
}

impl Stream {
    /// This side dialled. With TLS the handshake goes along with the first reads.
    pub(crate) fn dialled(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        let session = ClientConnection::new(tls.client.clone(), tls.name.clone());
        let session = session.map_err(io::Error::other)?.into();
        Ok(Self::secured(session, socket))
    }

    /// This side was dialled.
    pub(crate) fn accepted(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        let session = ServerConnection::new(tls.server.clone());
        let session = session.map_err(io::Error::other)?.into();
        Ok(Self::secured(session, socket))
    }

    fn secured(session: Connection, socket: TcpStream) -> Self {
        Self::Tls(Box::new(Secured {
            session,
            socket: BufReader::with_capacity(READ_BYTES, socket),
        }))
    }

    /// The socket, to tune it, set its limits or shut it down.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => secured.socket.get_ref(),
        }
    }

    /// Whether something that was taken for sending has not gone out: `write` or `flush` again.
    pub(crate) fn is_behind(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            // Before the handshake is done there is nothing that could go out.
            Self::Tls(secured) => secured.session.wants_write(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(secured) => secured.read(buffer),
        }
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_vectored(buffers),
            Self::Tls(secured) => {
                let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
                first.map_or(Ok(0), |first| secured.read(first))
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(secured) => secured.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            Self::Tls(secured) => secured.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(secured) => secured.flush(),
        }
    }
}

impl Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                // Nothing is decrypted: more must come in.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Frames say how long they are, so an end without a farewell hides nothing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            // The other side may wait for this one's part of the handshake.
            self.flush()?;
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = self.session.process_new_packets() {
                // The other side learns why, if it still listens.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    /// Takes what there is room for and sends it. What could not go out in time goes first next
    /// time; an error that is no pause shows then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.session.writer().write_vectored(slices)?;
        match self.flush() {
            Err(_) if taken > 0 => Ok(taken),
            done => done.map(|()| taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(self.socket.get_mut())? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}
