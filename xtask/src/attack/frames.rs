//! HTTP/2 by hand, for peers that keep no rule: frames as bytes, and a connection that sends and reads what it likes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::now;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// The largest frame that every peer takes, in bytes (RFC 9113, section 4.2).
pub(super) const FULL: usize = 16 << 10;
/// Larger than any window that is used here, in bytes.
pub(super) const WINDOW: u32 = 1 << 30;
const CANCEL: u32 = 8;

/// An HTTP/2 frame (RFC 9113, section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// A header that is neither indexed nor compressed (RFC 7541, section 6.2.2); neither name nor value is longer than 126 bytes.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The headers of a gRPC call: `:method POST` and `:scheme http` from the static table, then the others.
pub(super) fn head(path: &str, key: Option<&str>) -> Vec<u8> {
    head_of(path, "application/grpc", key)
}

/// The headers of a call of any content type.
pub(super) fn head_of(path: &str, content_type: &str, key: Option<&str>) -> Vec<u8> {
    let fixed = [(":path", path), (":authority", "localhost"), ("content-type", content_type), ("te", "trailers")];
    let credential = key.map(|key| ("x-api-key", key));
    fixed
        .into_iter()
        .chain(credential)
        .fold(vec![0x83, 0x86], |block, (name, value)| [block, literal(name, value)].concat())
}

/// A gRPC message with its five bytes in front.
pub(super) fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, bytes].concat()
}

pub(super) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"a flood!")
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// One frame that was read.
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Whether the peer says no more on this frame's stream.
    pub(super) const fn ends_stream(&self) -> bool {
        self.kind == RST_STREAM || matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A connection to the service.
pub(super) struct Peer {
    connection: TcpStream,
    unread: Vec<u8>,
    next_stream: u32,
}

impl Peer {
    /// A peer that takes everything that it is sent.
    pub(super) fn connect(address: SocketAddr) -> Result<Self> {
        let mut peer = Self::connect_with_window(address, WINDOW)?;
        peer.send(&frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes()))?;
        Ok(peer)
    }

    /// A peer that takes so many bytes of each answer.
    pub(super) fn connect_with_window(address: SocketAddr, bytes: u32) -> Result<Self> {
        Self::over(TcpStream::connect(address)?, bytes)
    }

    /// A peer on that connection, that takes so many bytes of each answer.
    pub(super) fn over(connection: TcpStream, bytes: u32) -> Result<Self> {
        connection.set_nodelay(true)?;
        let mut peer = Self { connection, unread: Vec::new(), next_stream: 1 };
        // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, section 6.5.2).
        let settings = [&[0, 4][..], &bytes.to_be_bytes()].concat();
        peer.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &settings)[..]].concat())?;
        Ok(peer)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.connection.write_all(bytes)?)
    }

    /// The bytes that open a stream, and its number; with a body the request is whole.
    pub(super) fn request(&mut self, head: &[u8], body: Option<&[u8]>) -> (u32, Vec<u8>) {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, head);
        if let Some(body) = body {
            bytes.extend(frame(DATA, END_STREAM, stream, body));
        }
        (stream, bytes)
    }

    /// Sends a request's head, and its body if there is one.
    pub(super) fn open(&mut self, head: &[u8], body: Option<&[u8]>) -> Result<u32> {
        let (stream, bytes) = self.request(head, body);
        self.send(&bytes)?;
        Ok(stream)
    }

    /// The next frame; `None` if none comes in time. Answers PING and SETTINGS as every client does.
    ///
    /// # Errors
    /// The service ended the connection.
    pub(super) fn read(&mut self, patience: Duration) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame() {
                if frame.flags & ACK == 0 && matches!(frame.kind, PING | SETTINGS) {
                    let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                    self.send(&self::frame(frame.kind, ACK, 0, payload))?;
                }
                return Ok(Some(frame));
            }
            self.connection.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
            let mut buffer = [0; FULL];
            match self.connection.read(&mut buffer) {
                Ok(0) => anyhow::bail!("the service ended the connection"),
                Ok(read) => self.unread.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads whatever has come, and whatever comes while it does; `false` once the service has ended the connection.
    pub(super) fn drain(&mut self) -> bool {
        loop {
            match self.read(Duration::from_millis(1)) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The bytes of the answer on a stream; empty where a call failed, since then there is no message.
    pub(super) fn answer(&mut self, stream: u32, patience: Duration) -> Result<Vec<u8>> {
        let (started, mut answer) = (now(), Vec::new());
        loop {
            let frame = self.read(patience)?.context("no answer in time")?;
            if frame.stream == stream {
                if frame.kind == DATA {
                    answer.extend_from_slice(&frame.payload);
                }
                if frame.ends_stream() {
                    return Ok(answer);
                }
            }
            ensure!(started.elapsed() < patience, "no answer in time");
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (head, rest) = self.unread.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let payload = rest.get(..length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1), payload })
    }
}
