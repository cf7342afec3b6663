//! What every store must do, as plain functions over [`StoreUnderTest`]. Knows no adapter and no runtime.
//!
//! An adapter runs all of them through one macro, each against a fresh and empty store:
//!
//! ```text
//! apikey_testing::store_contract! {
//!     #[tokio::test(flavor = "multi_thread")]
//!     MyStoreUnderTest::fresh
//! }
//! ```
//!
//! Where several reasons to refuse a commit apply, every store gives the first of these: the authorizing key no longer stands,
//! the idempotency key was used, the organization has as many keys as it may have, there is no such key, the revision is stale, the digest is a duplicate. Whoever no longer
//! stands learns nothing else.

pub mod authorizer;
pub mod commits;
pub mod head;
pub mod idempotency;
pub mod keys;
pub mod limits;
pub mod paging;
pub mod texts;
pub mod usage;

use std::future::Future;

use apikey_application::ports::{Commit, CommitError, KeyStore, Page, PageQuery, Position, Seq};
use apikey_domain::{ApiKey, AuditEvent, KeyId, KeyType, OrganizationId, Timestamp};

/// A fresh store, and what no port shows of it.
pub trait StoreUnderTest: Send + Sync {
    /// The adapter.
    type Store: KeyStore;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// The audit rows of a key, oldest first.
    fn audit_rows(&self, key_id: KeyId) -> impl Future<Output = Vec<AuditRow>> + Send;

    /// The revocation head's number.
    fn head(&self) -> impl Future<Output = u64> + Send;

    /// The number of the head when the key's rights were last narrowed; `None` if they never were or there is no such key.
    fn narrowed_seq(&self, key_id: KeyId) -> impl Future<Output = Option<u64>> + Send;

    /// How many rows there are of everything.
    fn row_counts(&self) -> impl Future<Output = RowCounts> + Send;

    /// From now on every insert of an audit event fails, deep inside the adapter's transaction (with a trigger, say).
    fn break_audit(&self) -> impl Future<Output = ()> + Send;

    /// Takes [`StoreUnderTest::break_audit`] back.
    fn mend_audit(&self) -> impl Future<Output = ()> + Send;
}

/// A row of the audit trail as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct AuditRow {
    pub organization_id: String,
    pub key_id: KeyId,
    pub kind: String,
    pub actor: String,
    pub origin_address: Option<String>,
    pub origin_request_id: Option<String>,
    pub at: Timestamp,
}

impl From<&AuditEvent> for AuditRow {
    fn from(AuditEvent { event, actor, origin }: &AuditEvent) -> Self {
        Self {
            organization_id: event.organization_id.to_string(),
            key_id: event.key_id,
            kind: event.kind.name().to_owned(),
            actor: actor.to_string(),
            origin_address: origin.address.clone(),
            origin_request_id: origin.request_id.clone(),
            at: event.at,
        }
    }
}

/// How many rows a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows of keys.
    pub keys: u64,
    /// The sum of the counters that `total_count` is read from.
    pub counted_keys: u64,
    /// Rows of the audit trail.
    pub audit_events: u64,
    /// Rows of idempotency records.
    pub idempotency_records: u64,
}

/// All that a refused commit must leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Everything {
    rows: RowCounts,
    head: u64,
    key: Option<ApiKey>,
    narrowed_seq: Option<u64>,
    audit: Vec<AuditRow>,
}

async fn everything(under_test: &impl StoreUnderTest, key: &ApiKey) -> Everything {
    Everything {
        rows: under_test.row_counts().await,
        head: under_test.head().await,
        key: stored(under_test, key).await,
        narrowed_seq: under_test.narrowed_seq(key.id()).await,
        audit: under_test.audit_rows(key.id()).await,
    }
}

async fn commit(under_test: &impl StoreUnderTest, commit: Commit) -> Seq {
    under_test.store().commit(commit).await.expect("nothing speaks against this commit")
}

async fn refusal(under_test: &impl StoreUnderTest, commit: Commit) -> CommitError {
    under_test.store().commit(commit).await.expect_err("this commit must be refused")
}

async fn stored(under_test: &impl StoreUnderTest, key: &ApiKey) -> Option<ApiKey> {
    under_test.store().find_by_id(key.organization_id(), key.id()).await.expect("the store answers").value
}

async fn page(
    under_test: &impl StoreUnderTest,
    organization_id: &OrganizationId,
    key_type: Option<KeyType>,
    after: Option<&ApiKey>,
    limit: u32,
) -> Page {
    let after = after.map(|key| Position { created_at: key.parts().created_at, id: key.id() });
    let query = PageQuery { organization_id: organization_id.clone(), key_type, after, limit };
    under_test.store().page(&query).await.expect("the store answers")
}

/// All pages of a listing, one after the other.
async fn listing(
    under_test: &impl StoreUnderTest,
    organization_id: &OrganizationId,
    key_type: Option<KeyType>,
    limit: u32,
) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    loop {
        let page = page(under_test, organization_id, key_type, keys.last(), limit).await;
        keys.extend(page.keys);
        if !page.more {
            return keys;
        }
    }
}

/// Sorts keys as a listing shows them.
fn newest_first(keys: &mut [ApiKey]) {
    keys.sort_by_key(|key| std::cmp::Reverse((key.parts().created_at, key.id())));
}

/// Makes one test of each function of the contract. Takes the attributes of a test, and the path of a function that returns
/// the future of a fresh [`StoreUnderTest`].
#[macro_export]
macro_rules! store_contract {
    ($(#[$attribute:meta])* $fresh:path) => {
        $crate::store_contract! {
            @each [$(#[$attribute])*] $fresh;
            authorizer::a_key_that_stands_authorizes_an_issue_a_revocation_and_a_confirmation,
            authorizer::a_revoked_key_authorizes_nothing,
            authorizer::a_key_authorizes_until_just_before_its_expiry,
            authorizer::an_unknown_key_authorizes_nothing,
            authorizer::a_key_may_revoke_itself_once,
            authorizer::a_mutation_and_the_revocation_of_its_authorizer_at_once_happen_in_some_order,
            authorizer::of_two_keys_that_revoke_each_other_at_once_one_wins,
            authorizer::whoever_no_longer_stands_learns_nothing_else,
            commits::a_digest_is_stored_once,
            commits::a_digest_issued_twice_at_once_is_stored_once,
            commits::a_stale_revision_is_refused,
            commits::a_failed_commit_leaves_neither_row_nor_event,
            commits::of_two_revocations_at_once_one_wins,
            commits::an_unknown_or_foreign_key_cannot_be_revoked,
            commits::events_are_stored_with_their_change_in_their_order,
            commits::a_revocation_changes_nothing_but_the_revocation,
            head::an_issue_does_not_move_the_head,
            head::each_revocation_moves_the_head_by_one_and_is_noted_on_its_key,
            head::revocations_at_once_have_a_number_each,
            head::a_read_shows_every_change_up_to_its_head,
            head::a_confirmation_returns_the_keys_own_number_and_moves_nothing,
            head::a_live_foreign_or_unknown_key_cannot_be_confirmed,
            idempotency::a_repeated_request_is_told_the_first_key,
            idempotency::another_message_is_told_the_first_request,
            idempotency::another_caller_or_organization_has_headers_of_its_own,
            idempotency::requests_at_once_issue_one_key,
            idempotency::a_refused_commit_does_not_use_up_its_header,
            idempotency::headers_are_compared_to_the_byte,
            keys::each_field_survives_a_round_trip,
            keys::what_is_absent_is_not_found,
            keys::the_first_and_the_last_instant_are_kept_to_the_microsecond,
            keys::an_expired_key_is_still_found,
            keys::organizations_see_only_their_own_keys,
            keys::organizations_are_compared_to_the_byte,
            keys::the_store_answers_a_ping,
            limits::a_key_above_the_limit_is_refused_and_leaves_nothing,
            limits::revoked_and_expired_keys_and_those_of_others_do_not_count,
            limits::a_repetition_above_the_limit_is_told_the_first_key,
            paging::keys_of_one_instant_are_ordered_by_id,
            paging::each_page_size_shows_each_key_once,
            paging::a_page_that_is_exactly_full_and_last_says_so,
            paging::types_are_filtered_and_counted_apart,
            paging::keys_inserted_between_pages_make_none_skip_or_repeat,
            paging::keys_inserted_while_paging_make_none_skip_or_repeat,
            paging::a_position_needs_no_key_to_be_there,
            paging::ten_thousand_keys_are_paged_through,
            texts::every_legal_class_of_name_is_kept_to_the_byte,
            texts::no_illegal_name_reaches_a_store,
            texts::an_actor_is_kept_to_the_byte,
            texts::an_origin_is_kept_to_the_byte_or_refused_as_a_whole,
            texts::a_set_of_all_permissions_is_kept,
            usage::a_use_is_recorded_and_changes_nothing_else,
            usage::usage_never_moves_back,
            usage::batches_at_once_leave_the_latest_use,
            usage::uses_of_unknown_keys_are_passed_over,
            usage::a_key_twice_in_a_batch_keeps_its_latest_use,
            usage::a_revocation_made_from_an_older_read_keeps_the_use,
            usage::uses_of_revoked_and_expired_keys_are_recorded,
            usage::a_large_batch_is_recorded_whole,
        }
    };
    (@each $attributes:tt $fresh:path; $($module:ident::$name:ident,)+) => {
        $($crate::store_contract! { @one $attributes $fresh; $module $name })+
    };
    (@one [$(#[$attribute:meta])*] $fresh:path; $module:ident $name:ident) => {
        $(#[$attribute])*
        async fn $name() {
            $crate::store_contract::$module::$name(&$fresh().await).await;
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_function_of_the_contract() {
        let modules = [
            ("authorizer", include_str!("store_contract/authorizer.rs")),
            ("commits", include_str!("store_contract/commits.rs")),
            ("head", include_str!("store_contract/head.rs")),
            ("idempotency", include_str!("store_contract/idempotency.rs")),
            ("keys", include_str!("store_contract/keys.rs")),
            ("limits", include_str!("store_contract/limits.rs")),
            ("paging", include_str!("store_contract/paging.rs")),
            ("texts", include_str!("store_contract/texts.rs")),
            ("usage", include_str!("store_contract/usage.rs")),
        ];
        let this = include_str!("store_contract.rs");
        assert_eq!(this.matches("\npub mod ").count(), modules.len(), "a module is missing above");
        let mut functions = 0;
        for (module, source) in modules {
            for line in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
                let name = line.split(['(', '<']).next().expect("a function has a name");
                assert!(this.contains(&format!(" {module}::{name},\n")), "{module}::{name} is not listed");
                functions += 1;
            }
        }
        assert!(functions > 50, "found only {functions} functions");
    }
}
