//! The plans of the statements that are run often.

use apikey_domain::{KeyType, Timestamp};
use diesel::{debug_query, sql_query, sql_types::Text};

use super::*;
use crate::{
    connections::{Role, connect},
    migrations::migrate,
};

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

fn plan(connection: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let steps: Vec<Step> = sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(connection).unwrap();
    steps.into_iter().map(|step| step.detail).collect()
}

/// The text of a statement without the comment that shows its parameters.
fn text(statement: &impl QueryFragment<Sqlite>) -> String {
    debug_query::<Sqlite, _>(statement).to_string().split(" -- binds").next().unwrap().to_owned()
}

fn migrated() -> SqliteConnection {
    let mut connection = connect(":memory:", Role::Write).unwrap();
    migrate(&mut connection).unwrap();
    connection
}

#[test]
fn a_page_is_one_range_of_one_index() {
    let mut connection = migrated();
    let position = Position { created_at: Timestamp::MIN, id: KeyId::from_uuid(uuid::Uuid::nil()) };
    for (key_type, after, expected) in [
        (None, None, "api_keys_by_organization (organization_id=?)"),
        (None, Some(position), "api_keys_by_organization (organization_id=? AND (created_at,id)<(?,?))"),
        (Some(KeyType::ApiKey), None, "api_keys_by_organization_and_type (organization_id=? AND key_type=?)"),
        (
            Some(KeyType::ApiKey),
            Some(position),
            "api_keys_by_organization_and_type (organization_id=? AND key_type=? AND (created_at,id)<(?,?))",
        ),
    ] {
        let organization_id = OrganizationId::parse("acme").unwrap();
        let query = PageQuery { organization_id, key_type, after, limit: 50 };
        let statement = text(&page_statement(&query));
        assert_eq!(plan(&mut connection, &statement), [format!("SEARCH api_keys USING INDEX {expected}")]);
    }
}

#[test]
fn a_key_is_found_by_its_digest_through_the_index() {
    let mut connection = migrated();
    let steps = plan(&mut connection, "SELECT seq, api_keys.* FROM revocation_head LEFT JOIN api_keys ON digest = ?");
    assert!(
        steps.iter().any(|step| step.contains("SEARCH api_keys USING INDEX sqlite_autoindex_api_keys_2 (digest=?)")),
        "{steps:?}"
    );
}
