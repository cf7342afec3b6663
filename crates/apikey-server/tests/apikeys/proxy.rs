//! A link between client and service that a test can cut: it swallows the first connection's answers.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// The link. Connections after the first one are passed on as they are.
pub(crate) struct Proxy {
    pub(crate) address: String,
    first: Arc<Mutex<Option<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let first = Arc::new(Mutex::new(None));
        let (target, shared) = (target.to_owned(), Arc::clone(&first));
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(&target) else { return };
                if number == 0 {
                    *shared.lock().unwrap() = Some(client.try_clone().unwrap());
                }
                carry(client.try_clone().unwrap(), server.try_clone().unwrap(), true);
                carry(server, client, number > 0);
            }
        });
        Self { address, first }
    }

    /// Cuts the first connection.
    pub(crate) fn cut(&self) {
        self.first.lock().unwrap().take().expect("there was a connection").shutdown(Shutdown::Both).unwrap();
    }
}

/// Carries bytes from one end to the other, or swallows them.
fn carry(mut from: TcpStream, mut to: TcpStream, passes: bool) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if passes && to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Both).ok();
    });
}
