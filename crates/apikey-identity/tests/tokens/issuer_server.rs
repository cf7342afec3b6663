//! An issuer's web server on the loopback interface, which behaves as the test tells it to and counts what it is asked.

use std::sync::{Arc, Mutex};

use apikey_identity::{JwksSource, JwksUrl};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

/// How requests are answered.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// With this document.
    Serve(String),
    /// With this document, once [`IssuerServer::release`] lets it go.
    Hold(String),
    /// With this status, and this `location` where there is one.
    Status(u16, Option<String>),
    /// With a body that ends before its announced length.
    BreakOff,
    /// With a good document and more spaces after it than anybody wants, without announcing their length.
    Flood(String),
    /// Not at all: the connection is closed.
    Close,
}

pub(crate) struct IssuerServer {
    source: JwksSource,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    requests: watch::Sender<usize>,
    released: Semaphore,
}

impl IssuerServer {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = JwksUrl::parse(&format!("http://{}/jwks", listener.local_addr().unwrap())).unwrap();
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            requests: watch::Sender::new(0),
            released: Semaphore::new(0),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(connection, Arc::clone(&shared)));
            }
        });
        Self { source: JwksSource::Url(source), state, task }
    }

    pub(crate) fn source(&self) -> JwksSource {
        self.source.clone()
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// Lets go the request that is held, and each to come.
    pub(crate) fn release(&self) {
        self.state.released.add_permits(1_000);
    }

    pub(crate) fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits until there have been that many requests.
    pub(crate) async fn requested(&self, count: usize) {
        self.state.requests.subscribe().wait_for(|requests| *requests >= count).await.unwrap();
    }
}

impl Drop for IssuerServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut connection: TcpStream, state: Arc<State>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    assert!(request.starts_with(b"GET /jwks HTTP/1.1\r\n"));
    let behaviour = state.behaviour.lock().unwrap().clone();
    state.requests.send_modify(|requests| *requests += 1);
    let response = match behaviour {
        Behaviour::Serve(document) => ok(&document),
        Behaviour::Hold(document) => {
            state.released.acquire().await.unwrap().forget();
            ok(&document)
        }
        Behaviour::Status(status, location) => {
            let location = location.map(|location| format!("location: {location}\r\n")).unwrap_or_default();
            format!("HTTP/1.1 {status} Whatever\r\n{location}content-length: 0\r\nconnection: close\r\n\r\n")
        }
        Behaviour::BreakOff => {
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n{\"keys\":".to_owned()
        }
        Behaviour::Flood(document) => {
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{document}{}", " ".repeat(1024 * 1024))
        }
        Behaviour::Close => return,
    };
    // The client may have had enough.
    drop(connection.write_all(response.as_bytes()).await);
    drop(connection.shutdown().await);
}

fn ok(document: &str) -> String {
    let length = document.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{document}")
}
