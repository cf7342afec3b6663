//! PostgreSQL's messages as they pass by, whole and unchanged. Of what they say, it knows what faults are aimed by: a
//! notification, and a statement that changes something.
//!
//! The protocol is version 3.0: each message is a letter and a length, but for the client's first one, which has no letter.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

/// A statement with this in it is a change: no change is without its event.
const MARK_OF_A_CHANGE: &[u8] = b"audit_events";

/// What a message is, as far as faults care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// From the server: somebody notified whoever listens.
    Notification,
    /// From the client: a change is asked for.
    Change,
    /// Anything else.
    Other,
}

/// One way of one connection.
pub(crate) struct Frames {
    buffer: BytesMut,
    from: From,
}

enum From {
    Server,
    Client { started: bool, changes: HashSet<Bytes> },
}

impl Frames {
    /// What the server sends. Connections are not encrypted, so that it is messages from the first byte.
    pub(crate) fn from_server() -> Self {
        Self { buffer: BytesMut::new(), from: From::Server }
    }

    /// What the client sends.
    pub(crate) fn from_client() -> Self {
        Self { buffer: BytesMut::new(), from: From::Client { started: false, changes: HashSet::new() } }
    }

    /// Takes what has come.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Option<(Bytes, Meaning)> {
        let letters = match &self.from {
            From::Client { started: false, .. } => 0,
            _ => 1,
        };
        let length = self.buffer.get(letters..letters + 4)?.try_into().ok().map(u32::from_be_bytes)?;
        let whole = letters + usize::try_from(length).ok()?;
        if self.buffer.len() < whole {
            return None;
        }
        let message = self.buffer.split_to(whole).freeze();
        let meaning = self.from.read(&message, letters);
        Some((message, meaning))
    }
}

impl From {
    fn read(&mut self, message: &Bytes, letters: usize) -> Meaning {
        let body = message.get(letters + 4..).unwrap_or_default();
        match (self, message.first()) {
            (Self::Client { started: started @ false, .. }, _) => *started = true,
            (Self::Server, Some(b'A')) => return Meaning::Notification,
            // Parse: the statement's name and its text. A name may be given again.
            (Self::Client { changes, .. }, Some(b'P')) => {
                let (name, rest) = text(body);
                if contains(text(rest).0, MARK_OF_A_CHANGE) {
                    changes.insert(Bytes::copy_from_slice(name));
                } else {
                    changes.remove(name);
                }
            }
            // Bind: the portal's name and the statement's.
            (Self::Client { changes, .. }, Some(b'B')) if changes.contains(text(text(body).1).0) => {
                return Meaning::Change;
            }
            _ => {}
        }
        Meaning::Other
    }
}

/// A text that ends with a zero, and what follows it.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, rest) = bytes.split_at(end);
    (text, rest.get(1..).unwrap_or_default())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: &str, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [letter.as_bytes(), &length, body].concat()
    }

    fn meanings(mut frames: Frames, messages: &[Vec<u8>], chunk: usize) -> Vec<Meaning> {
        let (mut found, mut passed) = (Vec::new(), Vec::new());
        for bytes in messages.concat().chunks(chunk) {
            frames.add(bytes);
            while let Some((message, meaning)) = frames.next() {
                passed.extend_from_slice(&message);
                found.push(meaning);
            }
        }
        assert_eq!(passed, messages.concat(), "nothing is lost or changed");
        found
    }

    #[test]
    fn notifications_are_found_however_the_bytes_are_cut() {
        let messages = [message("Z", b"I"), message("A", b"\0\0\0\x01apikeys_revocation\x007\0"), message("C", b"A\0")];
        for chunk in [1, 2, 3, 7, 1000] {
            let found = meanings(Frames::from_server(), &messages, chunk);
            assert_eq!(found, [Meaning::Other, Meaning::Notification, Meaning::Other], "{chunk}");
        }
    }

    #[test]
    fn a_change_is_a_binding_of_a_statement_that_writes_an_event() {
        let parse = |name: &str, sql: &str| message("P", format!("{name}\0{sql}\0\0\0").as_bytes());
        let bind = |name: &str| message("B", format!("portal\0{name}\0").as_bytes());
        let messages = [
            message("", b"\0\x03\0\0user\0x\0\0"),
            parse("s1", "INSERT INTO audit_events DEFAULT VALUES"),
            parse("s2", "SELECT 1"),
            bind("s1"),
            bind("s2"),
            parse("s1", "SELECT 1"),
            bind("s1"),
        ];
        for chunk in [1, 5, 1000] {
            let found = meanings(Frames::from_client(), &messages, chunk);
            let changes: Vec<usize> = (0..found.len()).filter(|at| found[*at] == Meaning::Change).collect();
            assert_eq!(changes, [3], "{chunk}");
        }
    }
}
