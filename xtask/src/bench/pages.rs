//! One page of 50 keys: the first and the last of an organization with 1,000,000 keys, beside those of one with 1,000.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tonic::metadata::AsciiMetadataValue;

use super::{
    creates::manager_keys,
    load::Client,
    report::{Report, median},
};
use crate::{
    postgres::Postgres,
    service::{Service, Start},
};

const SMALL: i32 = 1_000;
const LARGE: i32 = 1_000_000;
const PAGE: i32 = 50;
const ROUNDS: usize = 300;

pub(crate) fn measure(binary: &Path, folder: &Path, database: &Postgres, report: &mut Report) -> Result<()> {
    let url = database.create("pages")?;
    let service =
        Service::start(&Start { binary, folder, settings: &[("APIKEYS_DATABASE_URL", &url)], expects_key: false })?;
    // Two organizations; the manager's own key is one of their keys.
    let keys = manager_keys(database, "pages", 2)?;
    for (organization, size) in [(0, SMALL), (1, LARGE)] {
        database.sql("pages", &fill(&format!("organization-2-{organization}"), size))?;
    }
    database.sql("pages", "VACUUM (ANALYZE) api_keys")?;
    database.sql("pages", "VACUUM (ANALYZE) key_counts")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [small, large] = keys.try_into().ok().context("two keys")?;
    runtime.block_on(compare(&format!("http://{}", service.public), small, large, report))
}

async fn compare(
    endpoint: &str,
    small: AsciiMetadataValue,
    large: AsciiMetadataValue,
    report: &mut Report,
) -> Result<()> {
    let mut client = Client::connect(endpoint).await?;
    let last_small = last_page(&mut client, &small, SMALL).await?;
    let last_large = last_page(&mut client, &large, LARGE).await?;
    let cases = [("first", String::new(), String::new()), ("last", last_small, last_large)];
    for (name, token_small, token_large) in cases {
        let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_small.push(client.page(&small, PAGE, &token_small).await?.1);
            of_large.push(client.page(&large, PAGE, &token_large).await?.1);
        }
        let (of_small, of_large) = (median(of_small), median(of_large));
        report.add(format!("{name} page of {PAGE} at {SMALL} keys, median"), of_small, "ms");
        report.add(format!("{name} page of {PAGE} at {LARGE} keys, median"), of_large, "ms");
        report.add(format!("{name} page, {LARGE} / {SMALL} keys"), of_large / of_small, "x");
    }
    Ok(())
}

/// The token of the last page: found by walking there, in large steps first.
async fn last_page(client: &mut Client, key: &AsciiMetadataValue, total: i32) -> Result<String> {
    let mut token = String::new();
    let mut before = 0;
    while before < total - PAGE {
        let step = (total - PAGE - before).min(1_000);
        let (page, _) = client.page(key, step, &token).await?;
        let meta = page.pagination.context("no pagination")?;
        ensure!(meta.total_count == total, "{} keys are counted, {total} were made", meta.total_count);
        before += i32::try_from(page.api_keys.len())?;
        token = meta.next_page_token;
    }
    Ok(token)
}

/// Fills an organization that holds its manager's key up to that size, one key a second, with its counters.
fn fill(organization: &str, size: i32) -> String {
    format!(
        "INSERT INTO api_keys (id, organization_id, name, prefix, digest, key_type, permissions, created_at, revision) \
         SELECT gen_random_uuid(), '{organization}', 'key ' || n, 'pidgr_k_' || lpad(n::text, 8, '0'), \
         sha256(('{organization}' || n)::bytea), 'KEY_TYPE_API_KEY', '{{}}', \
         timestamptz '2026-01-01T00:00:00Z' + n * interval '1 second', 1 FROM generate_series(1, {size} - 1) n;\n\
         INSERT INTO key_counts (organization_id, key_type, shard, keys) \
         SELECT '{organization}', 'KEY_TYPE_API_KEY', shard, {size} / 16 + CASE WHEN shard < {size} % 16 THEN 1 ELSE 0 END \
         FROM generate_series(0, 15) shard;\n"
    )
}
