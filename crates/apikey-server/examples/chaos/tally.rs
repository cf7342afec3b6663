//! What was counted and measured in each stage of a run. Nothing here is asserted but that failures are clean.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tonic::{Code, Status};

/// The stages of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the fault.
    Healthy,
    /// While it lasts.
    Fault,
    /// After it has been healed.
    Healed,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Healthy, Self::Fault, Self::Healed];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Fault => "fault",
            Self::Healed => "healed",
        }
    }
}

/// The counts of one stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Verifications that answered something.
    pub(crate) answered: u64,
    /// Verifications that failed, by code.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Changes that were carried out.
    pub(crate) changed: u64,
    /// Changes whose outcome nobody knows.
    pub(crate) unknown: u64,
    /// What was not sent, since too much waited for that replica already.
    pub(crate) not_sent: u64,
    /// From the sending of a revocation to its OK.
    pub(crate) revoked_after: Vec<Duration>,
    /// How revocations were confirmed, as their answers say.
    pub(crate) confirmed: BTreeMap<String, u64>,
}

impl Tally {
    /// Notes that a verification failed.
    pub(crate) fn fail(&mut self, code: Code) {
        *self.failed.entry(format!("{code:?}")).or_default() += 1;
    }

    /// Notes how a revocation was confirmed: `acknowledged=2, waited-out=1`.
    pub(crate) fn confirm(&mut self, how: &str) {
        for part in how.split(',') {
            let Some((name, count)) = part.trim().split_once('=') else { continue };
            let count: u64 = count.parse().unwrap_or_default();
            *self.confirmed.entry(name.to_owned()).or_default() += count;
        }
    }

    /// The latency that so many of a thousand revocations did not exceed; nothing where there were none.
    pub(crate) fn revocation_latency(&self, per_mille: usize) -> Option<Duration> {
        let mut sorted = self.revoked_after.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * per_mille / 1_000).min(sorted.len().saturating_sub(1))).copied()
    }

    /// All of it.
    pub(crate) fn json(&self) -> Value {
        let milliseconds = |per_mille| self.revocation_latency(per_mille).map(|time| time.as_secs_f64() * 1_000.0);
        json!({
            "verifications_answered": self.answered,
            "verifications_failed": self.failed,
            "changes": self.changed,
            "changes_of_unknown_outcome": self.unknown,
            "not_sent": self.not_sent,
            "revocations": self.revoked_after.len(),
            "revocation_ms": {
                "p50": milliseconds(500),
                "p99": milliseconds(990),
                "max": milliseconds(1_000),
            },
            "confirmed": self.confirmed,
        })
    }
}

/// Whether the service itself said this: each of its answers bears an id, which no failure of the transport does.
pub(crate) fn is_answer(status: &Status) -> bool {
    status.metadata().contains_key("x-request-id")
}

/// Whether a failure says that the service cannot answer now, and no more than that.
pub(crate) fn is_clean(status: &Status) -> bool {
    !is_answer(status) || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_taken_from_those_that_were_measured() {
        let mut tally = Tally::default();
        assert_eq!(tally.revocation_latency(500), None);
        tally.revoked_after = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(tally.revocation_latency(500), Some(Duration::from_millis(51)));
        assert_eq!(tally.revocation_latency(990), Some(Duration::from_millis(100)));
        assert_eq!(tally.revocation_latency(1_000), Some(Duration::from_millis(100)));
    }

    #[test]
    fn confirmations_are_summed_by_their_kind() {
        let mut tally = Tally::default();
        tally.confirm("acknowledged=2, waited-out=1");
        tally.confirm("acknowledged=3, waited-out=0");
        assert_eq!(tally.confirmed, BTreeMap::from([("acknowledged".to_owned(), 5), ("waited-out".to_owned(), 1)]));
    }

    #[test]
    fn an_internal_error_of_the_service_is_not_clean_but_one_of_the_transport_is() {
        let mut answered = Status::internal("");
        assert!(is_clean(&answered));
        answered.metadata_mut().insert("x-request-id", tonic::metadata::MetadataValue::from_static("1"));
        assert!(!is_clean(&answered));
    }
}
