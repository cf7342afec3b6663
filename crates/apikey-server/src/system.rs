//! The machine's clock and generator: the only place that reads them. Knows no rule.

use std::time::{SystemTime, UNIX_EPOCH};

use apikey_application::ports::{Clock, Entropy, EntropyError};
use apikey_domain::Timestamp;

/// The machine's wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the adapter of the port through which everything else tells the time"
    )]
    fn now(&self) -> Timestamp {
        let (micros, latest) = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_micros()).unwrap_or(i64::MAX), Timestamp::MAX),
            Err(before) => {
                (i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros), Timestamp::MIN)
            }
        };
        Timestamp::from_unix_micros(micros).unwrap_or(latest)
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter of the port from which everything else draws")]
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buffer).map_err(|error| EntropyError(Box::new(error)))
    }
}
