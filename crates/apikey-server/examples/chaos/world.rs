//! Everything that clients do, and what is recorded of it. Each operation is begun, answered and recorded here, whoever asks
//! for it; it knows no process and no fault.

mod keys;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use apikey_domain::{KeyId, OrganizationId};
use apikey_proto::pidgr::v1::{
    ApiKeyRejection, CreateApiKeyRequest, ListApiKeysRequest, Pagination, Permission, RejectionReason,
    RevokeApiKeyRequest, VerifiedApiKey, VerifyApiKeyRequest, verify_api_key_response::Verdict,
};
use apikey_testing::history::{Answer, History, Kind, Operation, Outcome, UseReading};
use tonic::{Code, Status};

use crate::{
    clients::{Clients, authorized},
    tally::{Stage, Tally, is_clean},
};
pub(crate) use keys::{Key, Keys, LostCreate};

/// How long a client waits for a verification: longer than the service lets one wait.
pub(crate) const VERIFY: Duration = Duration::from_secs(7);
/// How long a client waits for a change: longer than a revocation may take with the longest lease that is used here.
pub(crate) const CHANGE: Duration = Duration::from_secs(12);

/// The header that tells how a revocation was confirmed.
const CONFIRMED: &str = "apikeys-revocation-confirmed";

/// How many keys a page of a listing shows.
const PAGE: i32 = 100;

/// What the clients of one run share.
pub(crate) struct World {
    /// The clients of each replica.
    pub(crate) replicas: Vec<Clients>,
    /// A key for each organization, which manages its keys and is never revoked.
    pub(crate) managers: Vec<Key>,
    pub(crate) keys: Mutex<Keys>,
    pub(crate) history: Mutex<History>,
    /// When the dump was made from which the database was restored, and when that had been done.
    pub(crate) restored: Mutex<Option<(u64, u64)>>,
    tallies: Mutex<[Tally; 3]>,
    stage: AtomicU64,
    /// Failures of the service that are not clean, in its words.
    pub(crate) unclean: Mutex<Vec<String>>,
    numbers: AtomicU64,
    random: AtomicU64,
    began: Instant,
}

impl World {
    pub(crate) fn new(replicas: Vec<Clients>, managers: Vec<Key>, seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one clock of all clients")]
        let began = Instant::now();
        let world = Self {
            replicas,
            managers,
            keys: Mutex::default(),
            history: Mutex::default(),
            restored: Mutex::default(),
            tallies: Mutex::default(),
            stage: AtomicU64::new(0),
            unclean: Mutex::default(),
            numbers: AtomicU64::new(0),
            random: AtomicU64::new(seed),
            began,
        };
        for manager in &world.managers {
            world.note(manager.id, 0, Kind::Create(manager.organization.clone(), Outcome::Ok));
        }
        world
    }

    /// The one clock of all clients, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number below that one; `SplitMix64`, seeded.
    pub(crate) fn random(&self, below: usize) -> usize {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default() % below.max(1)
    }

    /// What follows belongs to that stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u64, Ordering::Relaxed);
    }

    /// The database is as it was then.
    pub(crate) fn restored(&self, dumped: u64) {
        *locked(&self.restored) = Some((dumped, self.now()));
    }

    /// Counts something in the stage that lasts.
    pub(crate) fn tally(&self, count: impl FnOnce(&mut Tally)) {
        let stage = usize::try_from(self.stage.load(Ordering::Relaxed)).unwrap_or_default();
        if let Some(tally) = locked(&self.tallies).get_mut(stage) {
            count(tally);
        }
    }

    pub(crate) fn tallies(&self) -> [Tally; 3] {
        locked(&self.tallies).clone()
    }

    /// How many calls are under way.
    pub(crate) fn outstanding(&self) -> usize {
        self.replicas.iter().map(|clients| clients.outstanding.load(Ordering::Acquire)).sum()
    }

    /// Verifies a key, and says whether there was an answer.
    pub(crate) async fn verify(&self, replica: usize, key: &Key, strict: bool, limit: Duration) -> bool {
        let Some(clients) = self.replicas.get(replica) else { return false };
        let request = VerifyApiKeyRequest { raw_key: key.raw.clone(), strict, ..VerifyApiKeyRequest::default() };
        let start = self.now();
        let call = async { clients.verification()?.verify_api_key(request).await };
        match clients.call(limit, call).await {
            Ok(response) => {
                let answer = answer(key, response.into_inner().verdict);
                self.note(key.id, start, Kind::Verify(answer));
                self.tally(|tally| tally.answered += 1);
                true
            }
            Err(status) => {
                self.note_failure("VerifyApiKey", &status);
                self.tally(|tally| tally.fail(status.code()));
                false
            }
        }
    }

    /// Creates a key in the name of another one, and returns it where that is answered.
    pub(crate) async fn create(&self, replica: usize, authorizer: &Key, manages: bool, limit: Duration) -> Option<Key> {
        let clients = self.replicas.get(replica)?;
        let name = format!("key {}", self.numbers.fetch_add(1, Ordering::Relaxed));
        let permissions = if manages { vec![Permission::ManageApiKeys.into()] } else { Vec::new() };
        let message = CreateApiKeyRequest { name: name.clone(), permissions, ..CreateApiKeyRequest::default() };
        let request = authorized(message, &authorizer.raw);
        let start = self.now();
        let call = async { clients.public()?.create_api_key(request).await };
        match clients.call(limit, call).await {
            Ok(response) => {
                let response = response.into_inner();
                let id = response.api_key.and_then(|key| KeyId::parse(&key.id).ok())?;
                let organization = authorizer.organization.clone();
                self.note(authorizer.id, start, Kind::Act(Outcome::Ok));
                self.note(id, start, Kind::Create(organization.clone(), Outcome::Ok));
                self.tally(|tally| tally.changed += 1);
                Some(Key { id, raw: response.raw_key, organization, manages })
            }
            Err(status) if status.code() == Code::Unauthenticated => {
                self.note(authorizer.id, start, Kind::Act(Outcome::Refused));
                None
            }
            Err(status) => {
                self.note_failure("CreateApiKey", &status);
                self.tally(|tally| tally.unknown += 1);
                let (organization, authorizer) = (authorizer.organization.clone(), authorizer.id);
                locked(&self.keys).lost.push(LostCreate { name, organization, authorizer, start });
                None
            }
        }
    }

    /// Revokes a key in the name of its organization's manager, and says how it ended, where it can be told.
    pub(crate) async fn revoke(&self, replica: usize, key: &Key) -> Option<Outcome> {
        let clients = self.replicas.get(replica)?;
        let manager = self.managers.iter().find(|manager| manager.organization == key.organization)?;
        let request = authorized(RevokeApiKeyRequest { id: key.id.to_string() }, &manager.raw);
        let start = self.now();
        let call = async { clients.public()?.revoke_api_key(request).await };
        let outcome = match clients.call(CHANGE, call).await {
            Ok(response) => {
                let took = Duration::from_nanos(self.now() - start);
                let confirmed = response.metadata().get(CONFIRMED).and_then(|value| value.to_str().ok());
                self.tally(|tally| {
                    tally.changed += 1;
                    tally.revoked_after.push(took);
                    if let Some(how) = confirmed {
                        tally.confirm(how);
                    }
                });
                self.note(manager.id, start, Kind::Act(Outcome::Ok));
                Outcome::Ok
            }
            Err(status) if status.code() == Code::Unauthenticated => {
                self.note(manager.id, start, Kind::Act(Outcome::Refused));
                return None;
            }
            Err(status) if status.code() == Code::NotFound => Outcome::Refused,
            Err(status) => {
                self.note_failure("RevokeApiKey", &status);
                self.tally(|tally| tally.unknown += 1);
                Outcome::Unknown
            }
        };
        self.note(key.id, start, Kind::Revoke(outcome));
        Some(outcome)
    }

    /// Tries to revoke a key as the manager of another organization. Nothing is recorded: whatever is answered, it must not
    /// show.
    pub(crate) async fn revoke_as_a_stranger(&self, replica: usize, key: &Key) {
        let Some(clients) = self.replicas.get(replica) else { return };
        let Some(stranger) = self.managers.iter().find(|manager| manager.organization != key.organization) else {
            return;
        };
        let request = authorized(RevokeApiKeyRequest { id: key.id.to_string() }, &stranger.raw);
        let call = async { clients.public()?.revoke_api_key(request).await };
        clients.call(CHANGE, call).await.ok();
    }

    /// Reads when the newest keys of an organization were last used.
    pub(crate) async fn list(&self, replica: usize, manager: &Key) {
        let Some(clients) = self.replicas.get(replica) else { return };
        let pagination = Some(Pagination { page_size: PAGE, ..Pagination::default() });
        let request = authorized(ListApiKeysRequest { pagination, ..ListApiKeysRequest::default() }, &manager.raw);
        let start = self.now();
        let call = async { clients.public()?.list_api_keys(request).await };
        let page = match clients.call(CHANGE, call).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.note_failure("ListApiKeys", &status),
        };
        let end = self.now();
        let readings = page.api_keys.iter().filter_map(|key| {
            let last_used_at = key.last_used_at.map(|at| at.seconds * 1_000_000 + i64::from(at.nanos / 1_000));
            Some(UseReading { key: KeyId::parse(&key.id).ok()?, start, end, last_used_at })
        });
        locked(&self.history).uses.extend(readings);
    }

    /// Records what has just ended.
    pub(crate) fn note(&self, key: KeyId, start: u64, kind: Kind) {
        let end = self.now();
        locked(&self.history).operations.push(Operation { key, start, end, kind });
    }

    fn note_failure(&self, call: &str, status: &Status) {
        if !is_clean(status) {
            locked(&self.unclean).push(format!("{call}: {:?}: {}", status.code(), status.message()));
        }
    }
}

/// What a verdict says about the key.
fn answer(key: &Key, verdict: Option<Verdict>) -> Answer {
    match verdict {
        Some(Verdict::Valid(VerifiedApiKey { api_key_id, organization_id, .. })) => {
            match OrganizationId::parse(&organization_id) {
                Ok(organization) if api_key_id == key.id.to_string() => Answer::Accepted(organization),
                _ => Answer::Invalid,
            }
        }
        Some(Verdict::Rejected(ApiKeyRejection { reason, .. })) => match RejectionReason::try_from(reason) {
            Ok(RejectionReason::Revoked) => Answer::Revoked,
            Ok(RejectionReason::Unknown) => Answer::Unknown,
            _ => Answer::Invalid,
        },
        None => Answer::Invalid,
    }
}

/// What is behind a lock, whoever panicked while holding it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
