//! The current key set, kept fresh by one task: on a schedule, and when a token names a key that nobody knows. Must never
//! lose a good set to a bad fetch, nor ask the issuer as often as strangers like.

use std::{
    error::Error,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    jwks_document::{JwksError, JwksReader},
    key_set::KeySet,
    settings::JwtSettings,
};

/// The wait after a first failed fetch; each further failure doubles it, up to the refresh interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The keys could not be had, and a token that needs them cannot be judged.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the last fetch of the issuer's keys failed")]
    LastFetch(#[source] JwksError),
    #[error("the issuer's keys are not fetched any more")]
    Stopped,
}

impl From<Unavailable> for apikey_application::ports::TokenError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(Box::<dyn Error + Send + Sync>::from(unavailable))
    }
}

/// Owns the task that fetches; dropped, it ends it.
pub(crate) struct Refresher {
    shared: Arc<Shared>,
    /// Changes at the end of each fetch.
    fetched: watch::Receiver<()>,
    cool_down: Duration,
    task: JoinHandle<()>,
}

struct Shared {
    keys: ArcSwapOption<KeySet>,
    progress: Mutex<Progress>,
    /// Wakes the task, once [`Progress::in_flight`] has been set.
    asked: Notify,
}

struct Progress {
    /// A fetch is under way, or about to be.
    in_flight: bool,
    /// When the last fetch ended, and how.
    last: Option<(Instant, Result<(), JwksError>)>,
}

impl Refresher {
    /// Starts the task. For a file the first document has been read already; an address is fetched at once, by the task, so
    /// that an issuer that cannot be reached does not keep the service from starting.
    pub(crate) fn start(settings: &JwtSettings, reader: JwksReader, first: Option<(Vec<u8>, KeySet)>) -> Self {
        let (document, keys) = first.map_or((None, None), |(document, keys)| (Some(document), Some(Arc::new(keys))));
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress {
                in_flight: keys.is_none(),
                last: keys.is_some().then(|| (Instant::now(), Ok(()))),
            }),
            keys: ArcSwapOption::new(keys),
            asked: Notify::new(),
        });
        let (ended, fetched) = watch::channel(());
        let fetching = Fetching {
            shared: Arc::clone(&shared),
            reader,
            source: settings.jwks.to_string(),
            interval: settings.refresh_interval,
            document,
            failures: 0,
            ended,
        };
        Self { shared, fetched, cool_down: settings.cool_down, task: tokio::spawn(fetching.run()) }
    }

    /// The last good set; none before the first.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    /// Waits for the fetch that is under way, or for a new one, unless the last one ended within the cool-down. However many
    /// wait, there is one fetch.
    ///
    /// # Errors
    /// [`Unavailable`] where the last fetch failed: what is unknown may then be known to the issuer.
    ///
    /// # Cancel safety
    /// The fetch goes on without those who stop waiting.
    pub(crate) async fn refreshed(&self) -> Result<(), Unavailable> {
        let mut fetched = self.fetched.clone();
        let wait = {
            let mut progress = self.shared.progress();
            // Under the lock, under which fetches end: none can end unseen between this line and the wait.
            fetched.mark_unchanged();
            let cooling = progress.last.as_ref().is_some_and(|(at, _)| at.elapsed() < self.cool_down);
            if !progress.in_flight && !cooling {
                progress.in_flight = true;
                self.shared.asked.notify_one();
            }
            progress.in_flight
        };
        if wait {
            fetched.changed().await.map_err(|_| Unavailable::Stopped)?;
        }
        match &self.shared.progress().last {
            Some((_, Err(cause))) => Err(Unavailable::LastFetch(cause.clone())),
            Some((_, Ok(()))) => Ok(()),
            None => Err(Unavailable::Stopped),
        }
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // No code that can panic runs under the lock.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's own state.
struct Fetching {
    shared: Arc<Shared>,
    reader: JwksReader,
    source: String,
    interval: Duration,
    /// The last good document, so that the same one again costs nothing and logs nothing.
    document: Option<Vec<u8>>,
    failures: u32,
    ended: watch::Sender<()>,
}

impl Fetching {
    async fn run(mut self) {
        let mut next = Instant::now();
        if self.document.is_some() {
            next += jittered(self.interval);
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => self.shared.progress().in_flight = true,
                () = self.shared.asked.notified() => {}
            }
            // Whoever asked just as the schedule woke the task has been served by the fetch that followed.
            if !self.shared.progress().in_flight {
                continue;
            }
            let outcome = self.fetch().await;
            let wait = match &outcome {
                Ok(()) => {
                    self.failures = 0;
                    self.interval
                }
                Err(cause) => {
                    let retry = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(self.interval);
                    self.failures = self.failures.saturating_add(1);
                    let cause = cause as &dyn Error;
                    let keeps = if self.document.is_some() { "the last good ones stay" } else { "there are none yet" };
                    tracing::warn!(source = self.source, cause, keeps, "the issuer's keys could not be fetched");
                    retry
                }
            };
            let now = Instant::now();
            next = now + jittered(wait);
            let mut progress = self.shared.progress();
            progress.in_flight = false;
            progress.last = Some((now, outcome));
            self.ended.send_replace(());
        }
    }

    async fn fetch(&mut self) -> Result<(), JwksError> {
        let document = self.reader.read().await?;
        if self.document.as_ref() != Some(&document) {
            let keys = KeySet::parse(&document)?;
            tracing::info!(source = self.source, keys = keys.len(), "the issuer's keys are new");
            self.shared.keys.store(Some(Arc::new(keys)));
            self.document = Some(document);
        }
        Ok(())
    }
}

/// The duration give or take 10 %, so that replicas that started together do not ask the issuer together for ever.
fn jittered(duration: Duration) -> Duration {
    // The standard library's seed differs from call to call; that nobody can guess it is not needed.
    let percent = RandomState::new().hash_one(()) % 21;
    duration / 100 * (90 + u32::try_from(percent).unwrap_or(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::JwksSource;

    #[tokio::test]
    async fn the_task_ends_with_its_owner() {
        let source = JwksSource::File("/nonexistent/jwks.json".into());
        let reader = JwksReader::new(&source, None).unwrap();
        let refresher = Refresher::start(&JwtSettings::new("issuer", Vec::new(), source), reader, None);
        assert!(matches!(refresher.refreshed().await, Err(Unavailable::LastFetch(_))));
        let shared = Arc::downgrade(&refresher.shared);
        drop(refresher);
        // The task's own reference is the last one. The time-out only ends a test that would otherwise hang.
        let ended = async {
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), ended).await.unwrap();
    }

    #[test]
    fn jitter_stays_within_a_tenth_and_differs() {
        let hour = Duration::from_hours(1);
        let draws: Vec<_> = (0..1_000).map(|_| jittered(hour)).collect();
        assert!(draws.iter().all(|draw| (hour * 9 / 10..=hour * 11 / 10).contains(draw)));
        assert!(draws.iter().any(|draw| *draw < hour) && draws.iter().any(|draw| *draw > hour));
    }
}
