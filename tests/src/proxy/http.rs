//! HTTP/1.1 messages as bytes: only their boundaries are interpreted.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Limit for the bytes of a head.
const MAX_HEAD: usize = 64 << 10;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A request or an answer, unchanged.
pub(super) struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Head and body.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.body].concat()
    }

    /// Where to cut: in the middle of the body, or of the head if there is no body.
    pub(super) fn half(&self) -> usize {
        match self.body.len() {
            0 => self.head.len() / 2,
            body => self.head.len() + body / 2,
        }
    }

    /// `PUT /bucket/path`, without a query.
    pub(super) fn method_and_path(&self) -> String {
        let first = self.lines().next().unwrap_or_default();
        let mut parts = first.split(' ');
        let (method, target) = (parts.next(), parts.next());
        let path = target.unwrap_or_default().split('?').next();
        format!(
            "{} {}",
            method.unwrap_or_default(),
            path.unwrap_or_default()
        )
    }

    /// Whether it has a header; `name` in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            Some((key.to_ascii_lowercase(), value.trim().to_owned()))
        });
        headers.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.into_iter()
    }

    fn status(&self) -> Result<u16> {
        let first = self.lines().next().unwrap_or_default();
        let status = first.split(' ').nth(1).context("an answer has a status")?;
        Ok(status.parse()?)
    }

    fn length(&self) -> Result<Option<usize>> {
        let length = self.header("content-length").map(|text| text.parse());
        Ok(length.transpose()?)
    }

    fn is_chunked(&self) -> bool {
        let encoding = self.header("transfer-encoding");
        encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked"))
    }
}

/// Bytes that were read from a connection and not consumed yet.
#[derive(Default)]
pub(super) struct Reading(Vec<u8>);

impl Reading {
    /// The next request; `None` if the client closed the connection.
    pub(super) async fn request(&mut self, stream: &mut TcpStream) -> Result<Option<Message>> {
        let Some(head) = self.head(stream).await? else {
            return Ok(None);
        };
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        message.body = match message.is_chunked() {
            true => self.chunks(stream).await?,
            false => self.take(stream, message.length()?.unwrap_or(0)).await?,
        };
        Ok(Some(message))
    }

    /// The answer to `request`.
    pub(super) async fn answer(
        &mut self,
        stream: &mut TcpStream,
        request: &Message,
    ) -> Result<Message> {
        let head = self
            .head(stream)
            .await?
            .context("the server closed the connection")?;
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        let status = message.status()?;
        ensure!(
            status >= 200,
            "the server answered {status}, which is not supported"
        );
        let is_bare = request.method_and_path().starts_with("HEAD ");
        if is_bare || status == 204 || status == 304 {
            return Ok(message);
        }
        message.body = match (message.is_chunked(), message.length()?) {
            (true, _) => self.chunks(stream).await?,
            (false, Some(length)) => self.take(stream, length).await?,
            (false, None) => bail!("an answer without a length"),
        };
        Ok(message)
    }

    /// The bytes up to the empty line; `None` if the peer closed the connection before a message.
    async fn head(&mut self, stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.0, END_OF_HEAD) {
                return Ok(Some(self.0.drain(..at + END_OF_HEAD.len()).collect()));
            }
            ensure!(self.0.len() < MAX_HEAD, "a head without an end");
            if !self.more(stream).await? {
                ensure!(
                    self.0.is_empty(),
                    "the peer closed the connection within a head"
                );
                return Ok(None);
            }
        }
    }

    async fn take(&mut self, stream: &mut TcpStream, length: usize) -> Result<Vec<u8>> {
        while self.0.len() < length {
            ensure!(
                self.more(stream).await?,
                "the peer closed the connection within a body"
            );
        }
        Ok(self.0.drain(..length).collect())
    }

    /// The chunks with their sizes, including the last, empty one.
    async fn chunks(&mut self, stream: &mut TcpStream) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = find(&self.0, b"\r\n") {
                    break self.0.drain(..at + 2).collect::<Vec<u8>>();
                }
                ensure!(
                    self.more(stream).await?,
                    "the peer closed the connection within a chunk"
                );
            };
            let text = String::from_utf8_lossy(&line);
            let size = text.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).context("a chunk without a size")?;
            body.extend_from_slice(&line);
            body.extend(self.take(stream, size + 2).await?);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn more(&mut self, stream: &mut TcpStream) -> Result<bool> {
        Ok(stream.read_buf(&mut self.0).await? > 0)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
