//! The schema that holds the service's tables, and how statements name it.
//!
//! Every statement names the schema of each table, and `pg_catalog` for each function that another schema could overload. So
//! `search_path` decides nothing: a role that may create schemas in the database, or temporary tables in a session that a proxy
//! lends, cannot put tables or functions of its own in front of the service's.

use std::{fmt, sync::Arc};

/// Stands for the schema in the text of a statement: `$schema.api_keys`.
const PLACEHOLDER: &str = "$schema";

/// PostgreSQL's limit on the length of a name, in bytes (`NAMEDATALEN` − 1).
const MAX_LENGTH: usize = 63;

/// The text cannot be a schema's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a schema's name has 1 to 63 characters out of a-z, 0-9 and _, does not begin with a digit, and does not begin with pg_"
)]
pub struct InvalidSchema;

/// The name of a schema.
#[derive(Clone, PartialEq, Eq)]
pub struct Schema(Arc<str>);

impl Schema {
    /// Reads a name: 1 to 63 characters out of `a-z`, `0-9` and `_`, the first one no digit; `pg_…` is PostgreSQL's own.
    ///
    /// # Errors
    /// [`InvalidSchema`].
    pub fn parse(text: &str) -> Result<Self, InvalidSchema> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let begins_well = text.bytes().next().is_some_and(|first| !first.is_ascii_digit()) && !text.starts_with("pg_");
        if begins_well && text.len() <= MAX_LENGTH && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSchema)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The statement with the schema in place of each `$schema`, quoted.
    pub(crate) fn named_in(&self, sql: &str) -> String {
        sql.replace(PLACEHOLDER, &format!("\"{}\"", self.0))
    }
}

impl Default for Schema {
    /// `public`.
    fn default() -> Self {
        Self("public".into())
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.0)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_schemas() {
        let long = "a".repeat(MAX_LENGTH);
        for legal in ["public", "_keys2", "a", &*long] {
            assert_eq!(Schema::parse(legal).unwrap().as_str(), legal);
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for illegal in ["", "2keys", "Keys", "a\"b", "a b", "a.b", "ä", "pg_temp", "pg_catalog", &*too_long] {
            assert_eq!(Schema::parse(illegal), Err(InvalidSchema), "{illegal}");
        }
    }

    #[test]
    fn the_schema_is_quoted_wherever_a_statement_names_it() {
        let schema = Schema::parse("keys").unwrap();
        let named = schema.named_in("SELECT $1 FROM $schema.a, $schema.b");
        assert_eq!(named, "SELECT $1 FROM \"keys\".a, \"keys\".b");
    }
}
