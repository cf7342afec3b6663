//! What the cache and the lease look like from outside: gauges, and whether verifications are answered from memory.

use std::sync::Arc;

use apikey_application::{CacheStatistics, KeyCache, ports::Clock as _};

use crate::{system::DatabaseClock, telemetry};

/// The vital signs of a service.
pub(super) struct Vitals {
    cache: Arc<KeyCache>,
    /// The clock of the lease, where there is one.
    lease: Option<Arc<DatabaseClock>>,
}

impl Vitals {
    pub(super) fn of_replica(cache: Arc<KeyCache>, clock: Arc<DatabaseClock>) -> Self {
        Self { cache, lease: Some(clock) }
    }

    pub(super) fn of_one_process(cache: Arc<KeyCache>) -> Self {
        Self { cache, lease: None }
    }

    /// Whether verifications are answered from memory by a lease. One process needs none, and holds none.
    pub(super) fn holds_lease(&self) -> bool {
        self.lease.as_ref().is_some_and(|clock| clock.monotonic() < self.cache.deadline())
    }

    /// Brings the gauges up to date.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a rounded number")]
    pub(super) fn publish(&self) {
        let CacheStatistics { keys, bytes, hits, misses, displaced } = self.cache.statistics();
        metrics::gauge!("apikeys_cache_keys").set(keys as f64);
        metrics::gauge!("apikeys_cache_bytes").set(bytes as f64);
        metrics::gauge!("apikeys_cache_limit_bytes").set(self.cache.limits().bytes as f64);
        metrics::counter!("apikeys_cache_hits_total").absolute(hits);
        metrics::counter!("apikeys_cache_misses_total").absolute(misses);
        metrics::counter!("apikeys_cache_displaced_total").absolute(displaced);
        metrics::counter!("apikeys_log_lines_dropped_total").absolute(telemetry::lines_dropped());
        if let Some(clock) = &self.lease {
            let (now, ends) = (clock.monotonic().since_origin(), self.cache.deadline().since_origin());
            metrics::gauge!("apikeys_lease_remaining_seconds").set(ends.saturating_sub(now).as_secs_f64());
        }
    }
}
