//! A connection between two ranks: plain TCP, or TLS over TCP.
//!
//! A stream blocks if its socket does. Both kinds report a socket that is not ready with the same
//! errors. A write never reads, so that a rank's sending does not wait for its receiving.

use std::fmt;
use std::io::{self, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// Most bytes of ciphertext that are read from the socket at once.
const READ_BYTES: usize = 64 << 10;

/// The TLS configuration with which ranks prove that they are trainers. That they belong to the
/// same ring is proven by the ring's secret.
#[derive(Clone)]
pub struct Tls {
    /// Configuration of the rank that dials.
    pub client: Arc<ClientConfig>,
    /// Configuration of the rank that is dialled. It must require a certificate and must not send
    /// session tickets: the dialler would not read them, and closing the connection would reset it.
    pub server: Arc<ServerConfig>,
    /// The name in the certificate of a dialled rank, whatever its address.
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
    /// The stream of the side that dialled. The TLS handshake happens during the first reads.
    pub(crate) fn dialled(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        let session = ClientConnection::new(tls.client.clone(), tls.name.clone());
        let session = session.map_err(io::Error::other)?.into();
        Ok(Self::secured(session, socket))
    }

    /// The stream of the side that was dialled.
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

    /// The socket, to configure it or shut it down.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => secured.socket.get_ref(),
        }
    }

    /// Whether accepted bytes are not sent yet. Call `write` or `flush` again.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
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
                // No decrypted bytes are left: read more ciphertext.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Messages contain their length, so a missing `close_notify` cannot hide a
                // truncation.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            // The other side may wait for this side's handshake message.
            self.flush()?;
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = self.session.process_new_packets() {
                // Send the alert, if the other side still reads.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    /// Accepts as many bytes as the buffer holds and sends them. Bytes that could not be sent are
    /// sent first by the next call, which also reports a permanent error.
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
