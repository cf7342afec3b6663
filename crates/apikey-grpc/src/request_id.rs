//! The id that ties an answer, its log lines and its audit row together.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use apikey_application::ports::{Entropy, EntropyError};
use apikey_domain::{KeyType, pidgr::KEY_FORMAT};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the id, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over from a caller, in characters.
const MAX_LENGTH: usize = 128;

/// The most hexadecimal digits of a number.
const HEX_DIGITS: usize = 16;
/// The longest id that is made here: the process's number, `-` and the request's.
const MADE_LENGTH: usize = HEX_DIGITS + 1 + HEX_DIGITS;

/// A request's id: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(Text);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    /// Whatever the caller sent.
    Sent(HeaderValue),
    /// What was made here, in the first so many bytes: nothing of it is on the heap until an answer carries it.
    Made { bytes: [u8; MADE_LENGTH], length: u8 },
}

impl RequestId {
    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Sent(value) => value.as_bytes(),
            Text::Made { bytes, length } => bytes.get(..usize::from(*length)).unwrap_or_default(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        // Visible ASCII by construction.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// For a request that came another way than through the layer that gives ids: there is none such.
    pub(crate) const fn missing() -> Self {
        Self(Text::Sent(HeaderValue::from_static("-")))
    }

    /// The header of an answer. It is marked so that HPACK never indexes it: each id is another one, and they would push
    /// everything else out of the peer's table.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut header = match &self.0 {
            Text::Sent(value) => value.clone(),
            // Visible ASCII is a legal header.
            Text::Made { .. } => {
                HeaderValue::from_bytes(self.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static("-"))
            }
        };
        header.set_sensitive(true);
        header
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Gives each request its id: the caller's own, where it sent a well-formed one, otherwise a new one. What could be a key is not
/// taken over: ids are logged, stored and told.
///
/// New ids are a random number of this process (64 bits) and a counter. They identify and need not be unguessable, so that a
/// request draws no entropy.
#[derive(Clone, Debug)]
pub struct RequestIds {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The process's number in hexadecimal digits, and `-`.
    process: [u8; HEX_DIGITS + 1],
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of a new process.
    ///
    /// # Errors
    /// [`EntropyError`] where the generator fails.
    pub fn new(entropy: &impl Entropy) -> Result<Self, EntropyError> {
        let mut process = [0; 8];
        entropy.fill(&mut process)?;
        let number = u64::from_le_bytes(process);
        let mut process = [b'-'; HEX_DIGITS + 1];
        for (place, digit) in process.iter_mut().zip(hexadecimal(number, u64::BITS / 4)) {
            *place = digit;
        }
        Ok(Self { shared: Arc::new(Shared { process, next: AtomicU64::new(1) }) })
    }

    pub(crate) fn identify(&self, headers: &HeaderMap) -> RequestId {
        let mut sent = headers.get_all(X_REQUEST_ID).iter();
        match (sent.next(), sent.next()) {
            (Some(id), None) if is_well_formed(id) && !holds_a_key(id) => RequestId(Text::Sent(id.clone())),
            _ => self.make(),
        }
    }

    fn make(&self) -> RequestId {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4);
        let text = self.shared.process.into_iter().chain(hexadecimal(number, digits));
        let mut bytes = [0; MADE_LENGTH];
        let mut length = 0;
        for (place, byte) in bytes.iter_mut().zip(text) {
            *place = byte;
            length += 1;
        }
        RequestId(Text::Made { bytes, length })
    }
}

/// The last so many digits of a number, the most significant one first.
fn hexadecimal(number: u64, digits: u32) -> impl Iterator<Item = u8> {
    (0..digits).rev().map(move |digit| match ((number >> (4 * digit)) & 0xF).to_le_bytes()[0] {
        digit @ 0..=9 => b'0' + digit,
        digit => b'a' + digit - 10,
    })
}

fn is_well_formed(id: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn holds_a_key(id: &HeaderValue) -> bool {
    let id = id.to_str().unwrap_or_default();
    KeyType::ALL.into_iter().any(|key_type| id.contains(KEY_FORMAT.brand(key_type)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter;

    impl Entropy for Counter {
        fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
            buffer.fill(0xA5);
            Ok(())
        }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (X_REQUEST_ID, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_well_formed_id_is_taken_over_and_every_other_one_replaced() {
        let ids = RequestIds::new(&Counter).unwrap();
        let longest = "x".repeat(128);
        for legal in ["a", "req-1/2", &longest] {
            assert_eq!(ids.identify(&headers(&[legal])).as_str(), legal);
        }
        let mut made = Vec::new();
        let key = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk";
        let holds_a_key = [key, "key=pidgr_k_Ab3dE6gH", "pidgr_scim_x"];
        for illegal in [&[][..], &[""], &["a b"], &["é"], &["a", "a"], &["x".repeat(129).as_str()]]
            .into_iter()
            .chain(holds_a_key.each_ref().map(std::slice::from_ref))
        {
            made.push(ids.identify(&headers(illegal)).to_string());
        }
        assert_eq!(made, (1..=9).map(|number| format!("a5a5a5a5a5a5a5a5-{number:x}")).collect::<Vec<_>>());
    }
}
