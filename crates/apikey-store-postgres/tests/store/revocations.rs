//! The revocation log as replicas share it: what each call reads, and what it leaves behind.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use apikey_application::{
    fence::{Lease, Mark, Reaping, ReplicaId, ReplicaRow},
    ports::{KeyStore as _, Renewal, Renewed, Revocations as _, Seq, StoreError},
};
use apikey_domain::KeyDigest;
use apikey_store_postgres::{PostgresRevocations, PostgresStore};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::{TestDatabase, TestServer},
};
use futures_util::{StreamExt as _, stream};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    contract::{beside, patient},
    locks::scene,
    renewals::backends,
};

pub(crate) fn a_replica(number: u64) -> ReplicaId {
    ReplicaId::from_uuid(Uuid::from_u128(u128::from(number)))
}

/// Of the replica: `acked_seq`, `renewals` and `lease_millis` as they are stored, if there is a row.
pub(crate) async fn stored(client: &Client, replica: ReplicaId) -> Option<(i64, i64, i32)> {
    let statement = "SELECT acked_seq, renewals, lease_millis FROM replicas WHERE id = $1::text::uuid";
    let row = client.query_opt(statement, &[&replica.as_uuid().to_string()]).await.unwrap()?;
    Some((row.get(0), row.get(1), row.get(2)))
}

/// Renews that replica, by the number that comes after all before it, whatever its row shows.
pub(crate) async fn try_to_renew(
    revocations: &PostgresRevocations,
    replica: ReplicaId,
    applied: u64,
) -> Result<Renewed, StoreError> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let renewal = NUMBER.fetch_add(1, Ordering::Relaxed);
    revocations.renew(Mark { replica, renewal: 0 }, renewal, applied).await
}

pub(crate) async fn renew(revocations: &PostgresRevocations, replica: ReplicaId, applied: u64) -> Renewal {
    committed(try_to_renew(revocations, replica, applied).await.unwrap())
}

#[track_caller]
fn committed(renewed: Renewed) -> Renewal {
    match renewed {
        Renewed::Committed(renewal) => renewal,
        other => panic!("{other:?}"),
    }
}

fn digests(renewal: &Renewal) -> Vec<KeyDigest> {
    let mut digests = renewal.revoked.clone();
    digests.sort_unstable();
    digests
}

fn digests_of(numbers: impl IntoIterator<Item = u64>) -> Vec<KeyDigest> {
    let mut digests: Vec<_> = numbers.into_iter().map(|number| *a_key(number).digest()).collect();
    digests.sort_unstable();
    digests
}

async fn revoke_now(store: &PostgresStore, number: u64) -> Seq {
    store.commit(revoke(&a_key(number), seconds_later(1))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joins_has_acknowledged_the_head_that_its_statement_reads() {
    let (store, other, watcher) = scene(&[&a_key(1), &a_key(2)], patient()).await;
    let revocations = store.revocations();
    let head = revocations.join(a_replica(1), Lease::MAX).await.unwrap();
    assert_eq!((head.number, stored(&watcher, a_replica(1)).await), (0, Some((0, 0, 60_000))));
    let seq = revoke_now(&store, 1).await;
    // A revocation that is not committed is neither seen nor waited for.
    other.batch_execute("UPDATE revocation_head SET seq = seq + 1").await.unwrap();
    let lease = Lease::new(Duration::from_micros(2_500_001)).unwrap();
    assert_eq!(revocations.join(a_replica(2), lease).await.unwrap(), seq);
    assert_eq!(stored(&watcher, a_replica(2)).await, Some((1, 0, 2_501)), "a lease is rounded up");
    let error = revocations.join(a_replica(2), lease).await.unwrap_err();
    assert!(matches!(error, StoreError::Defect(_)), "no id is used twice: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_brings_what_was_revoked_since_what_it_acknowledges() {
    let keys = [1, 2, 3, 4].map(a_key);
    let (store, other, watcher) = scene(&keys.each_ref(), patient()).await;
    let revocations = store.revocations();
    revoke_now(&store, 1).await;
    let (me, neighbour) = (a_replica(1), a_replica(2));
    revocations.join(me, Lease::DEFAULT).await.unwrap();
    revocations.join(neighbour, Lease::DEFAULT).await.unwrap();
    revoke_now(&store, 2).await;
    let seq = revoke_now(&store, 3).await;
    other.batch_execute("UPDATE revocation_head SET seq = seq + 1").await.unwrap();
    for (applied, brought, number) in [(1, vec![2, 3], 1), (3, vec![], 2), (0, vec![1, 2, 3], 3), (4, vec![], 4)] {
        let before = database_time(&watcher).await;
        let mark = Mark { replica: me, renewal: number - 1 };
        let renewal = committed(revocations.renew(mark, number, applied).await.unwrap());
        let now = renewal.now.unix_micros();
        assert!(before <= now && now <= database_time(&watcher).await);
        assert_eq!((renewal.head, digests(&renewal)), (seq, digests_of(brought)));
        assert_eq!(stored(&watcher, me).await, Some((applied.cast_signed(), number.cast_signed(), 3_000)));
    }
    assert_eq!(stored(&watcher, neighbour).await, Some((1, 0, 3_000)));
    other.batch_execute("ROLLBACK").await.unwrap();
    revoke_now(&store, 4).await;
    let mark = Mark { replica: me, renewal: 4 };
    let renewal = committed(revocations.renew(mark, 5, 3).await.unwrap());
    assert_eq!((renewal.head.number, digests(&renewal)), (4, digests_of([4])));
}

async fn database_time(client: &Client) -> i64 {
    let statement = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    client.query_one(statement, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_lacks_what_was_renewed_is_of_another_history_and_stays_as_it_is() {
    let (store, other, watcher) = scene(&[&a_key(1)], patient()).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    let revocations = store.revocations();
    let (replica, key) = (a_replica(1), a_key(1));
    let mark = |renewal| Mark { replica, renewal };
    assert_eq!(store.find_by_digest(key.digest()).await.unwrap().seq.mark, None, "nobody has joined");
    revocations.join(replica, Lease::DEFAULT).await.unwrap();
    revocations.join(a_replica(2), Lease::DEFAULT).await.unwrap();
    revocations.leave(a_replica(2)).await.unwrap();
    assert_eq!(store.find_by_digest(key.digest()).await.unwrap().seq.mark, None, "the row has gone");
    revocations.leave(replica).await.unwrap();
    revocations.join(replica, Lease::DEFAULT).await.unwrap();
    committed(revocations.renew(mark(0), 3, 0).await.unwrap());
    for (known, renewal) in [(4, 5), (0, 3), (0, 2), (3, 3)] {
        assert_eq!(revocations.renew(mark(known), renewal, 1).await.unwrap(), Renewed::OtherHistory);
        assert_eq!(stored(&watcher, replica).await, Some((0, 3, 3_000)), "nothing is acknowledged");
    }
    let reads = [
        store.find_by_digest(key.digest()).await.unwrap(),
        store.find_by_id(key.organization_id(), key.id()).await.unwrap(),
    ];
    assert_eq!(reads.map(|read| read.seq.mark), [Some(mark(3)); 2]);
    // Some were given up, and are committed or not.
    committed(revocations.renew(mark(1), 9, 0).await.unwrap());
    assert_eq!(store.find_by_digest(key.digest()).await.unwrap().seq.mark, Some(mark(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_reaped_only_while_it_is_as_it_was_watched() {
    let (store, other, watcher) = scene(&[], patient()).await;
    let revocations = store.revocations();
    let (id, neighbour) = (a_replica(1), a_replica(2));
    revocations.join(id, Lease::DEFAULT).await.unwrap();
    revocations.join(neighbour, Lease::DEFAULT).await.unwrap();
    committed(revocations.renew(Mark { replica: id, renewal: 0 }, 1, 0).await.unwrap());
    for renewals in [0, 2] {
        assert!(!revocations.reap(Reaping { id, renewals }).await.unwrap());
    }
    // Whoever renews just now is alive, and is not waited for.
    let lock = "SELECT FROM replicas WHERE id = $1::text::uuid FOR NO KEY UPDATE";
    other.execute(lock, &[&id.as_uuid().to_string()]).await.unwrap();
    assert!(!revocations.reap(Reaping { id, renewals: 1 }).await.unwrap());
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(stored(&watcher, id).await, Some((0, 1, 3_000)));
    assert!(revocations.reap(Reaping { id, renewals: 1 }).await.unwrap());
    assert_eq!(stored(&watcher, id).await, None);
    assert!(!revocations.reap(Reaping { id, renewals: 1 }).await.unwrap());
    let mark = Mark { replica: id, renewal: 1 };
    assert_eq!(revocations.renew(mark, 2, 0).await.unwrap(), Renewed::RowGone);
    assert_eq!(stored(&watcher, id).await, None, "a renewal makes no row");
    assert_eq!(stored(&watcher, neighbour).await, Some((0, 0, 3_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_has_no_row_any_more_whether_there_was_one_or_not() {
    let (store, _, watcher) = scene(&[], patient()).await;
    let revocations = store.revocations();
    let (me, neighbour) = (a_replica(1), a_replica(2));
    revocations.join(me, Lease::DEFAULT).await.unwrap();
    revocations.join(neighbour, Lease::DEFAULT).await.unwrap();
    for _ in 0..2 {
        revocations.leave(me).await.unwrap();
        assert_eq!(stored(&watcher, me).await, None);
    }
    assert_eq!(stored(&watcher, neighbour).await, Some((0, 0, 3_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_are_shown_with_the_head_and_so_is_that_there_is_none() {
    let (store, other, _) = scene(&[&a_key(1), &a_key(2)], patient()).await;
    let revocations = store.revocations();
    let seq = revoke_now(&store, 1).await;
    let read = revocations.replicas().await.unwrap();
    assert_eq!((read.value, read.seq), (Vec::new(), seq));
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    revocations.join(a_replica(2), Lease::MIN).await.unwrap();
    let seq = revoke_now(&store, 2).await;
    committed(revocations.renew(Mark { replica: a_replica(2), renewal: 0 }, 1, 2).await.unwrap());
    // What is not committed is not seen.
    other.batch_execute("UPDATE revocation_head SET seq = 9; UPDATE replicas SET acked_seq = 9").await.unwrap();
    let mut read = revocations.replicas().await.unwrap();
    read.value.sort_unstable_by_key(|row| row.id);
    let expected = [
        ReplicaRow { id: a_replica(1), acked: 1, renewals: 0, lease: Lease::DEFAULT },
        ReplicaRow { id: a_replica(2), acked: 2, renewals: 1, lease: Lease::MIN },
    ];
    assert_eq!((&*read.value, read.seq), (&expected[..], seq));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_be_written_to_renews_nothing() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
    store.revocations().join(a_replica(1), Lease::DEFAULT).await.unwrap();
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name());
    // Its connections are opened when they are first needed.
    let revocations = PostgresStore::connect(database.url(), patient()).await.unwrap().revocations();
    TestServer::shared().psql("postgres", &read_only);
    let mark = Mark { replica: a_replica(1), renewal: 0 };
    let error = revocations.renew(mark, 1, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = revocations.join(a_replica(2), Lease::DEFAULT).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = revocations.leave(a_replica(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(revocations.replicas().await.unwrap().value.len(), 1);
}

/// How many keys are revoked while a replica renews.
const KEYS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_meets_a_renewal_is_in_its_digests_or_above_its_head() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
    stream::iter(1..=KEYS)
        .for_each_concurrent(8, async |number| {
            store.commit(issue(&a_key(number))).await.unwrap();
        })
        .await;
    let revocations = store.revocations();
    let me = a_replica(1);
    let mut applied = revocations.join(me, Lease::DEFAULT).await.unwrap().number;
    let revoking = tokio::spawn({
        let store = store.clone();
        async move {
            stream::iter(1..=KEYS)
                .for_each_concurrent(8, async |number| {
                    revoke_now(&store, number).await;
                })
                .await;
        }
    });
    let mut delivered = BTreeMap::new();
    let mut meetings = 0;
    while applied < KEYS {
        let renewal = renew(&revocations, me, applied).await;
        assert!(renewal.head.number >= applied);
        assert_eq!(renewal.revoked.is_empty(), renewal.head.number == applied);
        meetings += usize::from(!renewal.revoked.is_empty());
        for digest in renewal.revoked {
            let before = delivered.insert(digest, (applied, renewal.head.number));
            assert_eq!(before, None, "what was applied is not brought again");
        }
        applied = renewal.head.number;
    }
    revoking.await.unwrap();
    assert!(meetings > 1, "they did not meet");
    let client = beside(&database).await;
    let rows = client.query("SELECT digest, narrowed_seq FROM api_keys", &[]).await.unwrap();
    assert_eq!(rows.len(), delivered.len());
    for row in rows {
        let digest = KeyDigest::from_bytes(row.get::<_, Vec<u8>>(0).try_into().unwrap());
        let narrowed = u64::try_from(row.get::<_, i64>(1)).unwrap();
        let (applied, head) = delivered[&digest];
        assert!(applied < narrowed && narrowed <= head, "{narrowed} came with the renewal from {applied} to {head}");
    }
}

/// Of a database without anybody else: scans of `api_keys` that read it all, scans of the index of the log, updates of
/// `replicas`, and those that touched no index.
async fn statistics(client: &Client) -> [i64; 4] {
    let statement = "SELECT k.seq_scan, i.idx_scan, r.n_tup_upd, r.n_tup_hot_upd \
         FROM pg_stat_user_tables k, pg_stat_user_indexes i, pg_stat_user_tables r \
         WHERE k.relname = 'api_keys' AND i.indexrelname = 'api_keys_narrowed_seq_idx' AND r.relname = 'replicas'";
    let row = client.query_one(statement, &[]).await.unwrap();
    std::array::from_fn(|column| row.get(column))
}

/// Returns when no process serves the store any more: each tells its counts before it is gone.
async fn until_all_are_closed(client: &Client) {
    for _ in 0..6_000 {
        if backends(client).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_reads_the_index_of_the_log_alone_and_writes_to_no_index() {
    const RENEWALS: u64 = 50;
    const MANY_KEYS: &str = "INSERT INTO api_keys (id, organization_id, name, prefix, digest, key_type, permissions, \
             created_at, revoked_at, revision, narrowed_seq) \
         SELECT gen_random_uuid(), 'acme', 'name', 'p_12345678', sha256(n::text::bytea), 'KEY_TYPE_API_KEY', '{}', \
             '2026-01-01Z', CASE WHEN n % 4 = 0 THEN timestamptz '2026-01-01Z' END, 1, \
             CASE WHEN n % 4 = 0 THEN n / 4 END \
         FROM generate_series(1, 20000) n; \
         UPDATE revocation_head SET seq = 5000";
    for plans in ["auto", "force_generic_plan", "force_custom_plan"] {
        for analyzed in [false, true] {
            let database = TestDatabase::create();
            PostgresStore::migrate(database.url(), patient()).await.unwrap();
            let shared = TestServer::shared();
            shared.psql("postgres", &format!("ALTER DATABASE {} SET plan_cache_mode = {plans}", database.name()));
            shared.psql(database.name(), "ALTER TABLE api_keys SET (autovacuum_enabled = off)");
            let client = beside(&database).await;
            client.batch_execute(MANY_KEYS).await.unwrap();
            if analyzed {
                client.batch_execute("ANALYZE").await.unwrap();
            }
            until_all_are_closed(&client).await;
            let [scans, ..] = statistics(&client).await;
            {
                let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
                let revocations = store.revocations();
                revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
                for renewed in 0..RENEWALS {
                    let renewal = renew(&revocations, a_replica(1), 4_990 + renewed % 10).await;
                    assert_eq!(renewal.revoked.len(), usize::try_from(10 - renewed % 10).unwrap());
                }
            }
            until_all_are_closed(&client).await;
            let renewals = i64::try_from(RENEWALS).unwrap();
            let expected = [scans, renewals, renewals, renewals];
            assert_eq!(statistics(&client).await, expected, "{plans}, analyzed: {analyzed}");
        }
    }
}
