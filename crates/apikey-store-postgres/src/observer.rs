//! Watches what the server sends, for three things: the SQLSTATE of an error, which diesel does not pass on; a request for the
//! password in a form that an impostor could use, which the driver would answer at once; and the process that serves the
//! connection, which a proxy in between does not know. Knows the framing
//! of messages (PostgreSQL's manual, "Frontend/Backend Protocol", "Message Formats") and nothing of their content, except
//! the codes of error responses and of requests for authentication, and the server's process.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// Five characters that say what went wrong, in every language and version alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SqlState(pub(crate) [u8; 5]);

/// What was seen on one connection.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// The first error since it was last taken: those that follow are its consequences.
    error: Mutex<Option<SqlState>>,
    /// How many bytes were handed to the operating system.
    sent: AtomicU64,
    closed: AtomicBool,
    /// The process that the server said it is; 0 before it did.
    process: AtomicI32,
    /// The peer may see the password.
    is_protected: bool,
}

/// The server asks for what it must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server asks for the password {form}, which is given only over TLS with a certificate that is verified \
     (sslmode=verify-full), on this machine, or by SCRAM-SHA-256"
)]
pub(crate) struct PasswordWithheld {
    form: &'static str,
}

impl Observer {
    /// Nothing has been seen yet. A server that is not `is_protected` may be an impostor.
    pub(crate) fn new(is_protected: bool) -> Self {
        Self { is_protected, ..Self::default() }
    }

    /// The process that the server, or a proxy in its place, said it is.
    pub(crate) fn process(&self) -> i32 {
        self.process.load(Ordering::Acquire)
    }

    /// The first error since the last call.
    pub(crate) fn take_error(&self) -> Option<SqlState> {
        self.error().take()
    }

    /// How many bytes were sent so far: equal before and after a call only if the server never heard of it.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn error(&self) -> MutexGuard<'_, Option<SqlState>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of the protocol's messages, in plain text on this side of it, that is watched.
pub(crate) struct Observed {
    stream: Pin<Box<dyn TlsStream + Send>>,
    observer: Arc<Observer>,
    messages: Messages,
}

impl Observed {
    pub(crate) fn new(stream: impl TlsStream + Send + 'static, observer: Arc<Observer>) -> Self {
        Self { stream: Box::pin(stream), observer, messages: Messages::default() }
    }
}

impl TlsStream for Observed {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let room = buf.remaining();
        let result = ready!(this.stream.as_mut().poll_read(cx, buf));
        let read = buf.filled().get(before..).unwrap_or_default();
        if result.is_err() || (read.is_empty() && room > 0) {
            this.observer.closed.store(true, Ordering::Release);
        }
        let mut withheld = None;
        this.messages.read(read, |seen| match seen {
            Seen::Error(state) => {
                this.observer.error().get_or_insert(state);
            }
            Seen::PasswordRequest(form) if !this.observer.is_protected => withheld = Some(PasswordWithheld { form }),
            Seen::PasswordRequest(_) => {}
            Seen::Process(process) => this.observer.process.store(process, Ordering::Release),
        });
        match withheld {
            // Before the driver sees the request.
            Some(withheld) => Poll::Ready(Err(io::Error::other(withheld))),
            None => Poll::Ready(result),
        }
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(self.stream.as_mut().poll_write(cx, buf));
        match &result {
            Ok(written) => {
                self.observer.sent.fetch_add(u64::try_from(*written).unwrap_or(u64::MAX), Ordering::AcqRel);
            }
            Err(_) => self.observer.closed.store(true, Ordering::Release),
        }
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.observer.closed.store(true, Ordering::Release);
    }
}

/// A stream that is not encrypted.
pub(crate) struct Plain<S>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite> TlsStream for Plain<S>
where
    Self: AsyncRead + AsyncWrite,
{
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One byte that says what the message is, and four that say how long it is, themselves included.
const HEADER: usize = 5;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Error(SqlState),
    /// The password is asked for, in that form.
    PasswordRequest(&'static str),
    /// The server's process, as it says.
    Process(i32),
}

/// Where in the sequence of messages the stream is.
#[derive(Debug, Default)]
struct Messages {
    header: Vec<u8>,
    /// How much of the current message's body is still to come.
    remaining: usize,
    /// The kind and the body, as far as it has come, of a message that is looked into; `None` in every other one.
    body: Option<(u8, Vec<u8>)>,
}

impl Messages {
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            if self.remaining > 0 {
                let (body, rest) = bytes.split_at(self.remaining.min(bytes.len()));
                if let Some((_, collected)) = &mut self.body {
                    collected.extend_from_slice(body);
                }
                self.remaining -= body.len();
                bytes = rest;
            } else {
                let (header, rest) = bytes.split_at((HEADER - self.header.len()).min(bytes.len()));
                self.header.extend_from_slice(header);
                bytes = rest;
                if let [kind, length @ ..] = &*self.header
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.remaining = usize::try_from(u32::from_be_bytes(length)).unwrap_or(0).saturating_sub(4);
                    self.body = [b'E', b'K', b'R'].contains(kind).then(|| (*kind, Vec::new()));
                    self.header.clear();
                }
            }
            if self.remaining == 0
                && self.header.is_empty()
                && let Some(seen) = self.body.take().and_then(|(kind, body)| look_into(kind, &body))
            {
                found(seen);
            }
        }
    }
}

fn look_into(kind: u8, body: &[u8]) -> Option<Seen> {
    match (kind, body) {
        (b'E', body) => sql_state(body).map(Seen::Error),
        // BackendKeyData: the process, and what cancels its statements.
        (b'K', [a, b, c, d, ..]) => Some(Seen::Process(i32::from_be_bytes([*a, *b, *c, *d]))),
        // AuthenticationCleartextPassword, AuthenticationMD5Password with its salt.
        (b'R', [0, 0, 0, 3]) => Some(Seen::PasswordRequest("in clear text")),
        (b'R', [0, 0, 0, 5, ..]) => Some(Seen::PasswordRequest("as an MD5 digest")),
        _ => None,
    }
}

/// An error response is a sequence of fields, each of one byte that names it and a text that ends with a zero byte.
fn sql_state(body: &[u8]) -> Option<SqlState> {
    body.split(|byte| *byte == 0).find_map(|field| match field {
        [b'C', code @ ..] => code.try_into().ok().map(SqlState),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn codes_are_found_however_the_bytes_arrive() {
        let stream = [
            message(b'R', b"\0\0\0\x03"),
            message(b'R', b"\0\0\0\x05salt"),
            message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
            message(b'R', b"\0\0\0\0"),
            message(b'K', b"\0\0\x12\x34cancel-it"),
            message(b'Z', b"I"),
            message(b'D', b"E\0\0\0\x05C99999\0a row that looks like an error"),
            message(b'n', b""),
            message(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling\0\0"),
            message(b'E', b"SERROR\0C25P02\0Mignored\0\0"),
            message(b'N', b"SWARNING\0C01000\0\0"),
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut messages = Messages::default();
            let mut found = Vec::new();
            for chunk in stream.chunks(size) {
                messages.read(chunk, |seen| found.push(seen));
            }
            let expected = [
                Seen::PasswordRequest("in clear text"),
                Seen::PasswordRequest("as an MD5 digest"),
                Seen::Process(0x1234),
                Seen::Error(SqlState(*b"57014")),
                Seen::Error(SqlState(*b"25P02")),
            ];
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_error_without_a_code_is_none() {
        assert_eq!(sql_state(b"SERROR\0Mtext with C57014\0\0"), None);
        assert_eq!(sql_state(b"C5701\0\0"), None);
        assert_eq!(sql_state(b""), None);
    }
}
