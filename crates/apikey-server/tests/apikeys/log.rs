//! The log: nothing waits for its reader, and nothing is in it that others send.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::harness::{Database, Server, ask, eventually};

const LIST: &str = "/pidgr.v1.ApiKeyService/ListApiKeys";
const JSON: (&str, &str) = ("content-type", "application/json");

/// The number after a series in the metrics.
fn metric(server: &Server, series: &str) -> u64 {
    let text = server.get("/metrics").1;
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    value.unwrap_or("0").trim().parse().unwrap_or_else(|error| panic!("{error}: {series}\n{text}"))
}

/// moby/moby#31540: whoever reads a container's log stops reading. Once the pipe is full, a write to it waits for ever.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let database = Database::sqlite();
    let mut server = Server::start_with_key(&database, &[("APIKEYS_LOG_LEVEL", "trace")]);
    let key = server.first_key();
    let pause = server.stop_reading_the_log();
    // Far more than the pipe and the queue hold.
    eventually("lines are dropped", || {
        for _ in 0..100 {
            assert!(ask(&server.listen, "POST", LIST, &[JSON], b"{}").starts_with("HTTP/1.1 401"));
        }
        (metric(&server, "apikeys_log_lines_dropped_total ") > 0).then_some(())
    });
    assert_eq!(server.client(&key, &["list"]).code, 0);
    assert_eq!((server.get("/livez").0, server.get("/readyz").0), (200, 200));
    drop(pause);
    eventually("the log says what is missing", || {
        server.log().iter().any(|line| line.contains("log lines were dropped")).then_some(())
    });

    let pause = server.stop_reading_the_log();
    let dropped = metric(&server, "apikeys_log_lines_dropped_total ");
    eventually("lines are dropped again", || {
        ask(&server.listen, "POST", LIST, &[JSON], b"{}");
        (metric(&server, "apikeys_log_lines_dropped_total ") > dropped).then_some(())
    });
    server.signal("TERM");
    let status = server.ended();
    drop(pause);
    assert_eq!(server.wait().code, 0, "{status}");
}

/// h2 logs the value of a `te` header that is not `trailers`, at trace level.
#[test]
fn at_trace_level_libraries_say_nothing_of_what_a_peer_sent() {
    let server = Server::start(&Database::sqlite(), &[("APIKEYS_LOG_LEVEL", "trace")]);
    ask(&server.listen, "POST", LIST, &[JSON], b"{}");
    let key = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk";
    // HPACK: POST, http, and literals: a path, an authority, te.
    let mut fields = vec![0x83, 0x86];
    for (head, text) in [(&b"\x04"[..], "/x"), (b"\x01", "localhost"), (b"\x00\x02te", key)] {
        fields.extend_from_slice(head);
        fields.push(u8::try_from(text.len()).unwrap());
        fields.extend_from_slice(text.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // The head of the one request: all its headers, and its end.
    bytes.extend([0, 0, u8::try_from(fields.len()).unwrap(), 1, 0x05, 0, 0, 0, 1]);
    bytes.extend(fields);
    let mut stream = TcpStream::connect(&server.listen).unwrap();
    stream.write_all(&bytes).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = (usize::from(head[1]) << 8) | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).unwrap();
        // What follows on the request's own stream is its answer, or its refusal.
        if head[8] == 1 {
            break;
        }
    }
    let done = server.stop();
    assert!(done.stderr.contains("the call has ended"), "our own lines are there: {done:?}");
    assert!(!done.stderr.contains(&key[8..40]), "a key is in the log");
    for line in done.stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let is_ours = event["target"].as_str().unwrap().starts_with("apikey");
        assert!(is_ours || event["level"] == "INFO" || event["level"] == "WARN", "{line}");
    }
}
