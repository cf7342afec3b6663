//! Whether the server keeps what it says it keeps. Knows no table.

use diesel::{QueryResult, QueryableByName, sql_query, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

#[derive(QueryableByName)]
struct SettingRow {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    setting: String,
}

/// A setting under which a crash of the server can lose what a caller was told is done, a revocation above all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lax {
    pub(crate) name: String,
    pub(crate) setting: String,
}

/// The settings of this session that weaken durability.
pub(crate) async fn lax_settings(pg: &mut AsyncPgConnection) -> QueryResult<Vec<Lax>> {
    let rows: Vec<SettingRow> = sql_query(
        "SELECT name, setting FROM pg_catalog.pg_settings \
         WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name",
    )
    .load(pg)
    .await?;
    let lax = rows.into_iter().map(|SettingRow { name, setting }| Lax { name, setting }).filter(Lax::is_lax);
    Ok(lax.collect())
}

impl Lax {
    /// `remote_apply` is `on` and more; `local` and `remote_write` do not wait until a standby has kept the commit.
    fn is_lax(&self) -> bool {
        match &*self.name {
            "synchronous_commit" => !["on", "remote_apply"].contains(&&*self.setting),
            _ => self.setting != "on",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_every_commit_is_not_lax() {
        for (name, setting, lax) in [
            ("synchronous_commit", "on", false),
            ("synchronous_commit", "remote_apply", false),
            ("synchronous_commit", "remote_write", true),
            ("synchronous_commit", "local", true),
            ("synchronous_commit", "off", true),
            ("fsync", "on", false),
            ("fsync", "off", true),
            ("full_page_writes", "on", false),
            ("full_page_writes", "off", true),
        ] {
            let setting = Lax { name: name.to_owned(), setting: setting.to_owned() };
            assert_eq!(setting.is_lax(), lax, "{setting:?}");
        }
    }
}
