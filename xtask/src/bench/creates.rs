//! Creates per second through the service, in turn with a plain INSERT and COMMIT of the same rows by pgbench.

use std::{fmt::Write as _, fs::File, io::Read as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use apikey_domain::{KeyType, RawKey, pidgr};
use tonic::metadata::AsciiMetadataValue;

use super::{
    load,
    report::{Report, median},
};
use crate::{
    postgres::Postgres,
    service::{Service, Start},
};

/// Connections, of the service's callers and of pgbench alike.
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(8);

pub(crate) fn measure(binary: &Path, folder: &Path, database: &Postgres, report: &mut Report) -> Result<()> {
    let url = database.create("creates")?;
    let service =
        Service::start(&Start { binary, folder, settings: &[("APIKEYS_DATABASE_URL", &url)], expects_key: false })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let endpoint = format!("http://{}", service.public);
    for table in ["api_keys", "audit_events"] {
        database.sql("creates", &format!("CREATE TABLE plain_{table} (LIKE {table} INCLUDING ALL)"))?;
    }
    for organizations in [1_usize, 1_000] {
        let keys = manager_keys(database, "creates", organizations)?;
        let plain = plain_insert(organizations);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(database.pgbench("creates", &plain, CONNECTIONS, ROUND, folder)?);
            ours.push(runtime.block_on(load::creates(&endpoint, &keys, CONNECTIONS, ROUND))?);
        }
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let of = format!("{organizations} organization(s), {CONNECTIONS} connections, median");
        report.add(format!("creates, {of}"), median(ours), "/s");
        report.add(format!("plain INSERT + COMMIT, {of}"), median(theirs), "/s");
        report.add(format!("creates / plain INSERT, {of}"), median(ratios), "x");
    }
    Ok(())
}

/// Keys that may manage keys, one in each of that many organizations, put there directly.
pub(crate) fn manager_keys(database: &Postgres, name: &str, organizations: usize) -> Result<Vec<AsciiMetadataValue>> {
    let mut random = File::open("/dev/urandom")?;
    let mut entropy = |buffer: &mut [u8]| random.read_exact(buffer);
    let mut sql = String::new();
    let mut keys = Vec::with_capacity(organizations);
    for organization in 0..organizations {
        let raw_key: RawKey = pidgr::KEY_FORMAT.generate(KeyType::ApiKey, &mut entropy)?;
        let digest: String = raw_key.digest().as_bytes().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        writeln!(
            sql,
            "INSERT INTO api_keys (id, organization_id, name, prefix, digest, key_type, permissions, created_at, revision) \
             VALUES (gen_random_uuid(), 'organization-{organizations}-{organization}', 'manager', '{}', '\\x{digest}', \
             'KEY_TYPE_API_KEY', '{{PERMISSION_MANAGE_API_KEYS}}', '2026-01-01T00:00:00Z', 1);",
            raw_key.prefix()
        )?;
        let mut value: AsciiMetadataValue = raw_key.expose().parse().context("a key is a header's value")?;
        value.set_sensitive(true);
        keys.push(value);
    }
    database.sql(name, &sql)?;
    Ok(keys)
}

/// The same rows as a create adds, the key's and its event's, in the same form of tables and in one statement; no check, no count.
fn plain_insert(organizations: usize) -> String {
    format!(
        "\\set organization random(0, {})\n\
         WITH plain AS ( \
             INSERT INTO plain_api_keys \
                 (id, organization_id, name, prefix, digest, key_type, permissions, created_at, revision) \
             VALUES (gen_random_uuid(), 'plain-' || :organization, 'CI Integration', 'pidgr_k_Ab3dE6gH', \
                 sha256(gen_random_uuid()::text::bytea), 'KEY_TYPE_API_KEY', '{{}}', clock_timestamp(), 1) \
             RETURNING id, organization_id, created_at \
         ) \
         INSERT INTO plain_audit_events (organization_id, key_id, kind, actor, origin_address, origin_request_id, at) \
         SELECT organization_id, id, 'issued', 'api_key:' || id, '127.0.0.1:50000', id::text, created_at FROM plain;\n",
        organizations - 1
    )
}
