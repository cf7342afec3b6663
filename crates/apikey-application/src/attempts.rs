//! Attempts to authenticate that failed, and from where: whoever has failed too often may not make the store work for the next one.

use std::{net::IpAddr, num::NonZeroU32};

use crate::{buckets::Buckets, fence::Monotonic};

/// So many seconds' worth of failures may come at once.
const BURST_SECONDS: u32 = 4;

/// The failures of each peer, by its address: of IPv6 that of its network, since one peer has as many addresses there as it likes.
#[derive(Debug)]
pub struct Attempts(Option<Buckets<IpAddr>>);

impl Attempts {
    /// So many failures a second may come from one peer, and four times as many at once; without a number, any.
    #[must_use]
    pub fn limited_to(per_second: Option<NonZeroU32>) -> Self {
        Self(per_second.map(|rate| Buckets::new(rate, rate.get().saturating_mul(BURST_SECONDS))))
    }

    /// Whether that peer may make the store work for another attempt. A peer that is not known may.
    pub(crate) fn may_read(&self, peer: Option<IpAddr>, now: Monotonic) -> bool {
        match (&self.0, peer) {
            (Some(buckets), Some(peer)) => buckets.has_room(&peer, now),
            (None, _) | (_, None) => true,
        }
    }

    /// An attempt of that peer has failed.
    pub(crate) fn failed(&self, peer: Option<IpAddr>, now: Monotonic) {
        if let (Some(buckets), Some(peer)) = (&self.0, peer) {
            buckets.count(&peer, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_limited_where_there_is_no_limit_or_no_peer_to_limit() {
        for (limit, peer) in [(None, Some("192.0.2.1".parse().unwrap())), (NonZeroU32::new(1), None)] {
            let attempts = Attempts::limited_to(limit);
            for _ in 0..100 {
                attempts.failed(peer, Monotonic::ZERO);
            }
            assert!(attempts.may_read(peer, Monotonic::ZERO));
        }
    }
}
