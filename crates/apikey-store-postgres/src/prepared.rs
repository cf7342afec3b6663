//! Statements that each connection prepares once. Knows no table.

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId, SqlQuery},
    sql_query,
    sql_types::Untyped,
};

use crate::Schema;

/// A statement written as SQL that is kept prepared: the text never depends on values, so there are as many of them as there
/// are texts in this crate. (`sql_query` alone is prepared anew each time, which costs a round trip and a plan.)
pub(crate) struct Prepared<Q>(Q);

/// A statement on the tables of that schema, with values bound to its parameters by `bind`.
macro_rules! prepared {
    ($schema:expr, $sql:expr $(, $type:ty => $value:expr)* $(,)?) => {
        $crate::prepared::keep($crate::prepared::statement($schema, $sql)$(.bind::<$type, _>($value))*)
    };
}

pub(crate) use prepared;

/// The statement with `schema` in place of each `$schema`.
pub(crate) fn statement(schema: &Schema, sql: &'static str) -> SqlQuery {
    sql_query(schema.named_in(sql))
}

pub(crate) const fn keep<Q>(statement: Q) -> Prepared<Q> {
    Prepared(statement)
}

impl<Q> Query for Prepared<Q> {
    type SqlType = Untyped;
}

/// The statement is recognized by its text and the types of its parameters.
impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _backend: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}
