//! A connection's stream: its reads are counted, and at its end what the peer still sends is read and forgotten for a moment.
//!
//! A socket that is closed with bytes unread is reset, and the reset takes the last answer with it: a peer whose headers were too
//! large would see a broken connection instead of 431.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{date, heads::Reads};

/// How long the peer may go on sending. nginx's `lingering_timeout` is as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the peer may be silent: what was on its way has come by then.
const SILENCE: Duration = Duration::from_millis(200);
/// The most that is read, in bytes.
const MOST: usize = 16 << 20;

pin_project! {
    /// A stream that lingers once it was shut down.
    pub(super) struct Lingering<I> {
        #[pin]
        stream: I,
        reads: Reads,
        end: End,
    }
}

/// How far the shutdown has come.
enum End {
    /// It was not asked for, or our side is not closed yet.
    Open,
    /// Our side is closed, and the peer's may still speak.
    Lingers {
        read: usize,
        patience: Pin<Box<Sleep>>,
        silence: Pin<Box<Sleep>>,
    },
    Closed,
}

impl<I> Lingering<I> {
    pub(super) const fn new(stream: I, reads: Reads) -> Self {
        Self { stream, reads, end: End::Open }
    }
}

impl<I: AsyncRead> AsyncRead for Lingering<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let outcome = this.stream.poll_read(context, buffer);
        if let Some(bytes @ [_, ..]) = buffer.filled().get(before..) {
            this.reads.add(bytes);
            // Before hyper sees that it is HTTP/1.1.
            if this.reads.is_http1() && date::is_impossible() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::Unsupported, date::IMPOSSIBLE)));
            }
        }
        outcome
    }
}

impl<I: AsyncRead + AsyncWrite> AsyncWrite for Lingering<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        loop {
            match this.end {
                End::Open => {
                    ready!(this.stream.as_mut().poll_shutdown(context))?;
                    *this.end = End::Lingers {
                        read: 0,
                        patience: Box::pin(sleep(PATIENCE)),
                        silence: Box::pin(sleep(SILENCE)),
                    };
                }
                End::Lingers { read, patience, silence } => {
                    let mut buffer = [0; 8 << 10];
                    let mut buffer = ReadBuf::new(&mut buffer);
                    let over = match this.stream.as_mut().poll_read(context, &mut buffer) {
                        Poll::Pending => {
                            if patience.as_mut().poll(context).is_pending()
                                && silence.as_mut().poll(context).is_pending()
                            {
                                return Poll::Pending;
                            }
                            true
                        }
                        Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                            *read += buffer.filled().len();
                            *silence = Box::pin(sleep(SILENCE));
                            *read > MOST || patience.is_elapsed()
                        }
                        // The peer has closed its side too, or broken off.
                        Poll::Ready(_) => true,
                    };
                    if over {
                        *this.end = End::Closed;
                    }
                }
                End::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
