//! The machine's clock shows what no HTTP date can express: calls by HTTP/2 are answered, and nothing panics.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::harness::{Database, Folder, Server, eventually};

/// Before 1970, and after 9999: seconds from now.
const IMPOSSIBLE: [&str; 2] = ["-3600000000", "+260000000000"];

/// Debian's package puts it there, whatever the architecture (`cargo xtask setup`).
pub(crate) fn faketime() -> String {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|library| library.is_file()).expect("libfaketime is installed");
    library.to_str().unwrap().to_owned()
}

/// What one request by HTTP/1.1 brings on that connection: its answer, which has no body, or nothing where it is closed.
fn ask(stream: &mut TcpStream) -> String {
    let _ = stream.write_all(b"POST /none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn by_no_clock_does_an_answer_panic() {
    let folder = Folder::new();
    let library = faketime();
    let clock = folder.file("clock", "+0");
    let moved = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let server = Server::start_with_key(&Database::sqlite(), &moved);
    let key = server.first_key();
    let connect = || TcpStream::connect(&server.verify_listen).unwrap();
    for impossible in IMPOSSIBLE {
        folder.file("clock", "+0");
        let mut old = eventually("HTTP/1.1 is spoken", || {
            let mut stream = connect();
            ask(&mut stream).starts_with("HTTP/1.1 415 ").then_some(stream)
        });
        folder.file("clock", impossible);
        assert_eq!(server.client(&key, &["list"]).code, 0, "{impossible}");
        assert_eq!(ask(&mut connect()), "", "it cannot be spoken");
        assert_eq!(ask(&mut old), "", "nor any longer");
    }
    drop(folder);
    let done = server.stop();
    assert!(done.code == 0 && !done.stderr.contains("panic"), "{}", done.stderr);
}
