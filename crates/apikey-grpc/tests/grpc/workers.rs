//! Connections that are handed to runtimes of their own.

use std::{convert::Infallible, thread};

use apikey_grpc::listener::{ConnectionLimits, Drained, serve_on};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
};

/// Answers with the name of the thread that it runs on.
async fn name_of_thread(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let name = thread::current().name().unwrap_or_default().to_owned();
    Ok(Response::new(Full::from(name)))
}

fn worker(number: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(format!("worker-{number}")).enable_all().build().unwrap()
}

/// Asks on a connection of its own, and returns it with the answer.
async fn ask(address: std::net::SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("worker-") || answer.ends_with(b"-") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8(answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (stream, body.to_owned())
}

#[tokio::test]
async fn connections_go_to_the_workers_in_turn_and_a_shutdown_ends_them_on_each() {
    let workers: Vec<Runtime> = (0..3).map(worker).collect();
    let handles = workers.iter().map(|worker| worker.handle().clone()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, asked) = oneshot::channel::<()>();
    let limits = ConnectionLimits::default();
    let service = |_| service_fn(name_of_thread);
    let serving = tokio::spawn(serve_on(handles, listener, None, service, limits, async { drop(asked.await) }));

    let (mut connections, mut names) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (connection, name) = ask(address).await;
        connections.push(connection);
        names.push(name);
    }
    assert_eq!(names, ["worker-0", "worker-1", "worker-2", "worker-0", "worker-1", "worker-2"]);

    drop(shutdown);
    assert_eq!(serving.await.unwrap(), Drained { cut: 0 });
    for mut connection in connections {
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0, "the connection was closed");
    }
    workers.into_iter().for_each(Runtime::shutdown_background);
}
