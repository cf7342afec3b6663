//! What is read of a connection, and the time limit for the head of an HTTP/1.1 request, which begins with the head's first byte.
//!
//! hyper's own limit begins when the connection starts to wait for a request, so that it also ends idle connections. This timer is
//! handed to hyper in place of the usual one and does not start before the peer sends something.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

/// How the preface of HTTP/2 begins, and no method of HTTP/1.1 (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI";

/// The reads that brought bytes on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads(Arc<Read>);

#[derive(Debug, Default)]
struct Read {
    count: AtomicU64,
    is_http1: AtomicBool,
}

impl Reads {
    /// One more.
    pub(super) fn add(&self, bytes: &[u8]) {
        if self.0.count.fetch_add(1, Ordering::Relaxed) == 0 && !bytes.starts_with(HTTP2) {
            self.0.is_http1.store(true, Ordering::Relaxed);
        }
    }

    fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Whether the peer speaks HTTP/1.1, as far as it has spoken.
    pub(super) fn is_http1(&self) -> bool {
        self.0.is_http1.load(Ordering::Relaxed)
    }
}

/// hyper's timer for one HTTP/1.1 connection. hyper asks it for the limit of a head and for nothing else.
pub(super) struct HeadTimer {
    reads: Reads,
    limit: Duration,
    is_first: AtomicBool,
}

impl HeadTimer {
    /// A head must be complete within `limit` of its first byte, on the connection whose reads are counted there.
    pub(super) const fn new(reads: Reads, limit: Duration) -> Self {
        Self { reads, limit, is_first: AtomicBool::new(true) }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, limit: Duration) -> Pin<Box<dyn Sleep>> {
        // Of the first head something was read already, to tell the version of HTTP.
        let seen = if self.is_first.swap(false, Ordering::Relaxed) { 0 } else { self.reads.count() };
        Box::pin(HeadLimit { seen, reads: self.reads.clone(), limit, begun: None })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.limit)
    }
}

/// Ready once a head has begun and has not been completed within its limit.
///
/// hyper polls it after each attempt to read, so that nothing has to wake it for the first byte.
struct HeadLimit {
    reads: Reads,
    /// Reads before hyper began to wait for the head.
    seen: u64,
    limit: Duration,
    begun: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep for HeadLimit {}

impl Future for HeadLimit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.begun.is_none() && self.reads.count() == self.seen {
            return Poll::Pending;
        }
        let limit = self.limit;
        self.begun.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(context)
    }
}
