//! Those who are not the attacker: an administrator and a service that verifies, who call while the attack runs.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use super::{
    frames::{Peer, WINDOW, head, message},
    now,
    victim::{CREATE, LIST, PATIENCE, REVOKE, VERIFY, Victim, connect_as_another, post, text},
};

/// Between two rounds of calls: others are no load.
const PAUSE: Duration = Duration::from_millis(10);

/// What others met with.
#[derive(Default)]
pub(super) struct Calls {
    /// Milliseconds until the answer, of those that were carried out.
    pub(super) milliseconds: Vec<f64>,
    /// What failed: which call, and how.
    pub(super) refused: Vec<String>,
}

/// Runs the attack while others call, and until it has ended; at least one round of calls is made.
pub(super) fn while_others_call<T: Send>(
    victim: &Victim,
    cold_keys: &[String],
    attack: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Calls)> {
    let over = AtomicBool::new(false);
    let cold = Mutex::new(cold_keys.iter());
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut calls = Calls::default();
            loop {
                round(victim, &mut calls, cold.lock().ok().and_then(|mut cold| cold.next()));
                if over.load(Ordering::SeqCst) {
                    return calls;
                }
                thread::sleep(PAUSE);
            }
        });
        let outcome = attack();
        over.store(true, Ordering::SeqCst);
        let calls = others.join().map_err(|_| anyhow!("a caller panicked"))?;
        Ok((outcome?, calls))
    })
}

/// One call of each kind.
fn round(victim: &Victim, calls: &mut Calls, cold: Option<&String>) {
    let (public, key) = (victim.service.public, &victim.administrator);
    calls.one("ListApiKeys", || managed(public, LIST, key, r#"{"pagination":{"pageSize":1}}"#).map(drop));
    let mut created = None;
    calls.one("CreateApiKey", || {
        created = Some(text(&managed(public, CREATE, key, r#"{"name":"of others"}"#)?, "id")?);
        Ok(())
    });
    if let Some(id) = created {
        calls.one("RevokeApiKey", || managed(public, REVOKE, key, &format!(r#"{{"id":"{id}"}}"#)).map(drop));
    }
    calls.one("VerifyApiKey", || expect_valid(victim, key));
    if let Some(cold) = cold {
        calls.one("VerifyApiKey of a key that is not in memory", || expect_valid(victim, cold));
    }
}

fn managed(address: std::net::SocketAddr, path: &str, key: &str, json: &str) -> Result<String> {
    match post(address, path, key, json)? {
        (200, body) => Ok(body),
        (status, _) => Err(anyhow!("{status}")),
    }
}

fn expect_valid(victim: &Victim, key: &str) -> Result<()> {
    match verify(victim.service.verification, key, false)? {
        Verdict::Valid => Ok(()),
        Verdict::Rejected => Err(anyhow!("rejected")),
        Verdict::Refused => Err(anyhow!("no verdict")),
    }
}

/// What `VerifyApiKey` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    Rejected,
    /// The call failed.
    Refused,
}

/// Verifies a key on a connection of its own.
pub(super) fn verify(address: std::net::SocketAddr, key: &str, strict: bool) -> Result<Verdict> {
    let mut peer = Peer::over(connect_as_another(address)?, WINDOW)?;
    let mut request = text_field(1, key);
    if strict {
        request.extend([4 << 3, 1]);
    }
    let stream = peer.open(&head(VERIFY, None), Some(&message(&request)))?;
    // Behind the five bytes in front of the message stands the field of the answer that is set: 1 is `valid`.
    Ok(match peer.answer(stream, PATIENCE)?.get(5) {
        Some(0x0A) => Verdict::Valid,
        Some(_) => Verdict::Rejected,
        None => Verdict::Refused,
    })
}

/// A text of at most 127 bytes as a field of a message.
pub(super) fn text_field(number: u8, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[number << 3 | 2, length], text.as_bytes()].concat()
}

impl Calls {
    fn one(&mut self, what: &str, call: impl FnOnce() -> Result<()>) {
        let started = now();
        match call() {
            Ok(()) => self.milliseconds.push(started.elapsed().as_secs_f64() * 1_000.0),
            Err(error) => self.refused.push(format!("{what}: {error:#}")),
        }
    }
}
