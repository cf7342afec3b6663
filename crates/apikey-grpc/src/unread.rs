//! Answers that have been made and not been read yet: how many bytes of them there may be, and for how long.
//!
//! A peer decides when it takes an answer, and may never do so. So an answer waits here and not in a library's buffers, which get it in
//! small pieces: it can be taken back while it waits. Its reader then sees its stream reset.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};

use crate::places::Seat;

/// How long an answer waits for its reader.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes that wait on one connection: a few full pages.
const PER_CONNECTION: usize = 4 << 20;
/// The most bytes that wait on one listener.
const IN_ALL: usize = 64 << 20;
/// A library's buffer gets no more at once.
const PIECE: usize = 16 << 10;

/// The answers of one listener that wait for their readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order in which they were made.
    answers: BTreeMap<u64, Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    connection: Option<SocketAddr>,
    rest: Bytes,
}

impl State {
    fn remove(&mut self, number: u64) {
        if let Some(waiting) = self.answers.remove(&number) {
            self.bytes -= waiting.rest.len();
        }
    }

    /// Takes back the oldest answers until there is room for so many bytes.
    fn make_room(&mut self, connection: Option<SocketAddr>, bytes: usize) {
        loop {
            let of_connection = || self.answers.iter().filter(|(_, waiting)| waiting.connection == connection);
            let waiting: usize = of_connection().map(|(_, waiting)| waiting.rest.len()).sum();
            let oldest = if waiting + bytes > PER_CONNECTION {
                of_connection().next().map(|(number, _)| *number)
            } else if self.bytes + bytes > IN_ALL {
                self.answers.keys().next().copied()
            } else {
                None
            };
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }
}

impl Unread {
    /// The same answer, which waits here for its reader on that connection. Its body is one message, and ends by itself.
    pub(crate) async fn keep(
        &self,
        connection: Option<SocketAddr>,
        seat: Seat,
        response: Response<Body>,
    ) -> Response<Body> {
        let (head, body) = response.into_parts();
        // A body of this process, which waits for nobody.
        let body = match body.collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().cloned();
                Kept {
                    number: self.enter(connection, collected.to_bytes()),
                    unread: self.clone(),
                    trailers,
                    _seat: seat,
                }
            }
            Err(status) => return status.into_http(),
        };
        Response::from_parts(head, Body::new(body))
    }

    fn enter(&self, connection: Option<SocketAddr>, rest: Bytes) -> Option<u64> {
        if rest.is_empty() {
            return None;
        }
        let mut state = self.lock();
        state.make_room(connection, rest.len());
        let number = state.next;
        state.next += 1;
        state.bytes += rest.len();
        state.answers.insert(number, Waiting { connection, rest });
        drop(state);
        let unread = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            unread.lock().remove(number);
        });
        Some(number)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer that waits.
struct Kept {
    unread: Unread,
    /// `None` once all of it was read.
    number: Option<u64>,
    trailers: Option<HeaderMap>,
    /// The call has its place until its answer has left.
    _seat: Seat,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(number) = self.number else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let mut state = self.unread.lock();
        let Some(waiting) = state.answers.get_mut(&number) else {
            drop(state);
            (self.number, self.trailers) = (None, None);
            return Poll::Ready(Some(Err(Status::cancelled("the answer waited too long for its reader"))));
        };
        let piece = waiting.rest.split_to(waiting.rest.len().min(PIECE));
        let is_last = waiting.rest.is_empty();
        state.bytes -= piece.len();
        if is_last {
            state.remove(number);
        }
        drop(state);
        if is_last {
            self.number = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.number.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            // With a length HTTP/1.1 would have no room for trailers.
            return SizeHint::default();
        }
        let rest = self.number.and_then(|number| Some(self.unread.lock().answers.get(&number)?.rest.len()));
        SizeHint::with_exact(rest.and_then(|rest| u64::try_from(rest).ok()).unwrap_or(0))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.unread.lock().remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn connection(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    async fn answer(unread: &Unread, port: u16, bytes: usize) -> Response<Body> {
        let body = Body::new(Full::new(Bytes::from(vec![7; bytes])));
        unread.keep(Some(connection(port)), Seat::default(), Response::new(body)).await
    }

    async fn is_read(response: Response<Body>, bytes: usize) -> bool {
        response.into_body().collect().await.is_ok_and(|read| read.to_bytes().len() == bytes)
    }

    #[tokio::test]
    async fn an_answer_is_read_in_small_pieces_and_then_forgotten() {
        let unread = Unread::default();
        let mut body = answer(&unread, 1, 40_000).await.into_body();
        assert_eq!(body.size_hint().exact(), Some(40_000));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(pieces, [PIECE, PIECE, 40_000 - 2 * PIECE]);
        drop(answer(&unread, 1, 40_000).await);
        let state = unread.lock();
        assert_eq!((state.bytes, state.answers.len()), (0, 0));
    }

    #[tokio::test]
    async fn the_oldest_answer_of_a_connection_makes_room_on_it() {
        let unread = Unread::default();
        let others = answer(&unread, 2, PER_CONNECTION).await;
        let (first, second) =
            (answer(&unread, 1, PER_CONNECTION / 2).await, answer(&unread, 1, PER_CONNECTION / 2).await);
        let third = answer(&unread, 1, 1).await;
        assert!(!is_read(first, PER_CONNECTION / 2).await);
        assert!(is_read(second, PER_CONNECTION / 2).await && is_read(third, 1).await);
        assert!(is_read(others, PER_CONNECTION).await);
    }

    #[tokio::test]
    async fn the_oldest_of_all_makes_room_in_all() {
        let unread = Unread::default();
        let mut answers = Vec::new();
        for port in 0..=u16::try_from(IN_ALL / PER_CONNECTION).unwrap() {
            answers.push(answer(&unread, port, PER_CONNECTION).await);
        }
        assert_eq!(unread.lock().bytes, IN_ALL);
        let newest = answers.pop().unwrap();
        assert!(!is_read(answers.remove(0), PER_CONNECTION).await && is_read(newest, PER_CONNECTION).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_taken_back() {
        let unread = Unread::default();
        let late = answer(&unread, 1, 1_000).await;
        tokio::time::sleep(PATIENCE + Duration::from_millis(1)).await;
        assert_eq!(unread.lock().bytes, 0);
        assert!(!is_read(late, 1_000).await);
    }
}
