//! Keys as tables and as JSON. The JSON's names are those of the service's messages.

use std::io::{self, Write};

use apikey_domain::{KeyType, Timestamp};
use apikey_grpc::client::ApiKeyRecord;
use serde_json::{Value, json};

use super::{
    instants::{rfc3339, to_the_second},
    table,
};

/// What stands in a table where there is nothing.
const NOTHING: &str = "-";

/// Prints a value as JSON, on one line.
///
/// # Errors
/// Those of `out`.
pub(super) fn print_json(out: &mut impl Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value}")
}

/// A key as JSON.
pub(super) fn json_of(key: &ApiKeyRecord) -> Value {
    let ApiKeyRecord { id, name, prefix, permissions, key_type, created_at, last_used_at, expires_at, revoked_at } =
        key;
    json!({
        "id": id,
        "name": name,
        "prefix": prefix,
        "permissions": permissions,
        "key_type": key_type.name(),
        "created_at": rfc3339(*created_at),
        "last_used_at": last_used_at.map(rfc3339),
        "expires_at": expires_at.map(rfc3339),
        "revoked_at": revoked_at.map(rfc3339),
    })
}

/// A key's fields for a table of one key.
pub(super) fn fields_of(key: &ApiKeyRecord) -> Vec<(&'static str, String)> {
    vec![
        ("id", key.id.clone()),
        ("name", key.name.clone()),
        ("prefix", key.prefix.clone()),
        ("type", type_name(key.key_type).to_owned()),
        ("permissions", list(&key.permissions)),
        ("created_at", to_the_second(key.created_at)),
        ("expires_at", optional(key.expires_at)),
    ]
}

/// Prints keys as a table.
///
/// # Errors
/// Those of `out`.
pub(super) fn print_table(out: &mut impl Write, keys: &[ApiKeyRecord]) -> io::Result<()> {
    let headings =
        ["ID", "NAME", "PREFIX", "TYPE", "PERMISSIONS", "CREATED_AT", "LAST_USED_AT", "EXPIRES_AT", "REVOKED_AT"];
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            [
                key.id.clone(),
                key.name.clone(),
                key.prefix.clone(),
                type_name(key.key_type).to_owned(),
                count(&key.permissions),
                to_the_second(key.created_at),
                optional(key.last_used_at),
                optional(key.expires_at),
                optional(key.revoked_at),
            ]
        })
        .collect();
    table::rows(out, headings, &rows)
}

/// The type as flags have it.
pub(super) fn type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::ApiKey => "api-key",
        KeyType::ScimToken => "scim-token",
    }
}

/// Permissions without the prefix that all of them have.
pub(super) fn list(permissions: &[String]) -> String {
    if permissions.is_empty() {
        return NOTHING.to_owned();
    }
    let short = |name: &String| name.strip_prefix("PERMISSION_").unwrap_or(name).to_owned();
    permissions.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// An instant that may be missing.
pub(super) fn optional(instant: Option<Timestamp>) -> String {
    instant.map_or_else(|| NOTHING.to_owned(), to_the_second)
}

/// The permissions themselves while a line holds them, else how many there are.
fn count(permissions: &[String]) -> String {
    if permissions.len() <= 2 { list(permissions) } else { format!("{} permissions", permissions.len()) }
}
