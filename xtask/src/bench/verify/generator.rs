//! The load: connections of HTTP/2 with so many streams each, a random key in each request, every answer read and checked.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use super::keys::{Keys, check, check_constant};
use crate::bench::now;

/// Nothing that is sent has to wait for a window, in bytes.
const WINDOW: u32 = 1 << 20;

/// How many connections, and how many requests at once on each.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) streams: usize,
}

/// Whom the load is for, and what it consists of.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Arc<Keys>,
    /// Whether each key is answered alike, as a bare server does.
    pub(crate) constant: bool,
}

/// Which key is next.
#[derive(Clone)]
pub(crate) enum Choice {
    /// Any of the first so many.
    Random(usize),
    /// Each of these once.
    Each { next: Arc<AtomicUsize>, end: usize },
}

/// Asks again as soon as there is an answer, on each stream, until the time is over or every key had its turn. Returns how many requests
/// were answered.
pub(crate) async fn closed_loop(target: &Target, shape: Shape, choice: &Choice, time: Duration) -> Result<usize> {
    let end = now() + time;
    let mut callers = JoinSet::new();
    for (number, mut caller) in callers_of(target, shape).await?.into_iter().enumerate() {
        let mut choice = Chooser::new(choice.clone(), number);
        callers.spawn(async move {
            let mut answered = 0;
            while now() < end {
                let Some(index) = choice.next() else { break };
                caller.ask(index).await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(caller) = callers.join_next().await {
        answered += caller??;
    }
    Ok(answered)
}

/// Asks at a fixed rate, whatever the answers do. Returns the nanoseconds from the instant at which each request was due until its answer was
/// there: a request that had to wait for a stream waited for the server.
pub(crate) async fn open_loop(
    target: &Target,
    shape: Shape,
    keys: usize,
    per_second: f64,
    time: Duration,
) -> Result<Histogram<u64>> {
    let latencies = Arc::new(Mutex::new(Histogram::new(3)?));
    let mut callers = JoinSet::new();
    let mut turns = Vec::new();
    for (number, mut caller) in callers_of(target, shape).await?.into_iter().enumerate() {
        let (turn, mut turns_of_caller) = mpsc::unbounded_channel::<Instant>();
        turns.push(turn);
        let mut choice = Chooser::new(Choice::Random(keys), number);
        let latencies = Arc::clone(&latencies);
        callers.spawn(async move {
            while let Some(due) = turns_of_caller.recv().await {
                caller.ask(choice.next().unwrap_or_default()).await?;
                let nanos = u64::try_from(due.elapsed().as_nanos())?;
                latencies.lock().unwrap_or_else(PoisonError::into_inner).record(nanos)?;
            }
            anyhow::Ok(())
        });
    }
    let (started, mut number) = (now(), 0_u32);
    let mut in_turn = turns.iter().cycle();
    loop {
        let due = Duration::from_secs_f64(f64::from(number) / per_second);
        if due > time {
            break;
        }
        // Timers are too coarse: this has a core of its own, and looks again and again.
        while started.elapsed() < due {
            tokio::task::yield_now().await;
        }
        let turn = in_turn.next().context("no connection")?;
        turn.send(started + due).context("a caller ended early")?;
        number += 1;
    }
    drop(turns);
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(latencies.len() == u64::from(number), "{} of {number} requests were answered", latencies.len());
    Ok(latencies)
}

/// A generator's own runtime: one thread.
pub(crate) fn run<T>(load: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(load)
}

/// One stream after the other on a connection.
struct Caller {
    requests: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
    target: Target,
}

/// A caller for each stream.
async fn callers_of(target: &Target, shape: Shape) -> Result<Vec<Caller>> {
    let uri: Uri = format!("http://{}/pidgr.v1.ApiKeyVerificationService/VerifyApiKey", target.address).parse()?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut callers = Vec::new();
    for _ in 0..shape.connections {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let mut http = h2::client::Builder::new();
        http.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (requests, connection) = http.handshake(stream).await?;
        tokio::spawn(connection);
        callers.extend((0..shape.streams).map(|_| Caller {
            requests: requests.clone(),
            uri: uri.clone(),
            headers: headers.clone(),
            target: target.clone(),
        }));
    }
    // Streams of one connection are not neighbours: requests that are due one after the other go to different connections.
    let mut spread: Vec<(usize, Caller)> = callers.into_iter().enumerate().collect();
    spread.sort_by_key(|(number, _)| number % shape.streams);
    Ok(spread.into_iter().map(|(_, caller)| caller).collect())
}

impl Caller {
    /// Asks about that key and checks the answer, to the last byte.
    async fn ask(&mut self, index: usize) -> Result<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        std::future::poll_fn(|context| self.requests.poll_ready(context)).await?;
        let (response, mut body) = self.requests.send_request(request, false)?;
        body.send_data(Bytes::copy_from_slice(self.target.keys.request(index)), true)?;
        let response = response.await?;
        // An answer of headers alone is an error, and says which.
        if let Some(code) = response.headers().get("grpc-status") {
            bail!("key {index} was answered {code:?} {:?}", response.headers().get("grpc-message"));
        }
        let mut body = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|code| code == "0"), "key {index} was answered {trailers:?}");
        if self.target.constant { check_constant(&answer) } else { check(index, &answer) }
    }
}

/// Chooses keys for one caller: by a generator of pseudo-random numbers (xorshift64), so that each run asks the same.
struct Chooser {
    choice: Choice,
    state: u64,
}

impl Chooser {
    fn new(choice: Choice, number: usize) -> Self {
        let mut chooser = Self { choice, state: 0x9E37_79B9_7F4A_7C15 ^ u64::try_from(number).unwrap_or(0) };
        // The first numbers of seeds that differ in few bits resemble each other.
        for _ in 0..16 {
            chooser.draw();
        }
        chooser
    }

    fn next(&mut self) -> Option<usize> {
        let draw = usize::try_from(self.draw() >> 16).unwrap_or(0);
        match &self.choice {
            Choice::Random(count) => Some(draw % count),
            Choice::Each { next, end } => Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| index < end),
        }
    }

    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
