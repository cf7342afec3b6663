//! Writes down when keys were last used: every interval, and once more at the end.

use std::{sync::Arc, time::Duration};

use apikey_application::{
    UsageLog,
    ports::{KeyStore, StoreError},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How long to wait before the last flush is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Flushes every `period` until `shutdown` is ready. A flush that has begun is always carried to its end: dropped, it would lose
/// what it took.
pub(super) async fn flush_regularly(
    usage: Arc<UsageLog>,
    store: Arc<impl KeyStore>,
    period: Duration,
    metrics: PrometheusHandle,
    shutdown: impl Future<Output = ()>,
) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = flush(&usage, &*store).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "uses could not be recorded; they are kept");
        }
        // Samples of histograms pile up between scrapes otherwise.
        metrics.run_upkeep();
    }
}

/// Flushes what is left, again and again until the store takes it. The caller says how long.
pub(super) async fn flush_finally(usage: &UsageLog, store: &impl KeyStore) {
    while let Err(error) = flush(usage, store).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the last uses could not be recorded; trying again");
        sleep(RETRY_PAUSE).await;
    }
}

async fn flush(usage: &UsageLog, store: &impl KeyStore) -> Result<(), StoreError> {
    match usage.flush(store).await {
        Ok(recorded) => {
            if recorded > 0 {
                metrics::counter!("apikeys_uses_recorded_total").increment(u64::try_from(recorded).unwrap_or(u64::MAX));
                tracing::debug!(recorded, "uses recorded");
            }
            Ok(())
        }
        Err(error) => {
            metrics::counter!("apikeys_usage_flush_failures_total").increment(1);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use apikey_application::{CachedKey, ports::KeyStore as _};
    use apikey_testing::{InMemoryStore, StoreCall, fixtures};

    use super::*;

    #[tokio::test]
    async fn the_last_flush_is_tried_until_the_store_takes_it() {
        let (store, usage) = (InMemoryStore::new(), UsageLog::new());
        let key = fixtures::a_key(1);
        store.commit(fixtures::issue(&key)).await.unwrap();
        usage.note(&Arc::new(CachedKey::new(&key)), fixtures::seconds_later(7));
        for _ in 0..2 {
            store.fail_next(StoreCall::RecordUses, StoreError::TimedOut);
        }
        flush_finally(&usage, &store).await;
        assert_eq!(store.calls(StoreCall::RecordUses), 3);
        assert_eq!(store.keys()[0].parts().last_used_at, Some(fixtures::seconds_later(7)));
    }
}
