//! From the sending of a revocation to its OK, with three replicas: all of them well, and just after one was killed.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tonic::metadata::AsciiMetadataValue;

use super::{
    creates::manager_keys,
    load::Client,
    report::{Report, percentile},
};
use crate::{
    postgres::Postgres,
    service::{Service, Start},
};

const REPLICAS: usize = 3;
const REVOCATIONS: usize = 1_000;
/// Callers at once, in the second part.
const CALLERS: usize = 16;

pub(crate) fn measure(binary: &Path, folder: &Path, database: &Postgres, report: &mut Report) -> Result<()> {
    let url = database.create("revocations")?;
    let settings = [("APIKEYS_DATABASE_URL", url.as_str())];
    let mut replicas = Vec::new();
    for number in 0..REPLICAS {
        let folder = folder.join(format!("replica-{number}"));
        replicas.push(Service::start(&Start { binary, folder: &folder, settings: &settings, expects_key: false })?);
    }
    let key = manager_keys(database, "revocations", 1)?.pop().context("no key")?;
    let endpoints: Vec<_> = replicas.iter().map(|replica| format!("http://{}", replica.public)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    for (callers, of) in [(1, "one after the other".to_owned()), (CALLERS, format!("{CALLERS} at once"))] {
        let took = runtime.block_on(callers_at_once(callers, &endpoints, &key))?;
        for (per_cent, name) in [(50, "p50"), (99, "p99"), (100, "max")] {
            report.add(format!("revoke → OK, {REPLICAS} replicas, {of}, {name}"), percentile(&took, per_cent), "ms");
        }
    }
    // Killed, so that it says goodbye to nobody.
    drop(replicas.pop());
    let after = runtime.block_on(async {
        let mut caller = Caller::connect(&endpoints, 0).await?;
        anyhow::Ok([caller.revoke_one(&key).await?, caller.revoke_one(&key).await?])
    })?;
    for ((took, confirmed), name) in after.into_iter().zip(["first", "second"]) {
        report.add(format!("revoke → OK after a replica was killed, the {name} one ({confirmed})"), took, "ms");
    }
    Ok(())
}

/// The milliseconds of each revocation, by so many callers at once.
async fn callers_at_once(callers: usize, endpoints: &[String], key: &AsciiMetadataValue) -> Result<Vec<f64>> {
    let mut tasks = Vec::new();
    for number in 0..callers {
        let (mut caller, key) = (Caller::connect(endpoints, number).await?, key.clone());
        tasks.push(tokio::spawn(async move {
            let mut all = Vec::new();
            for _ in 0..REVOCATIONS / callers {
                let (took, confirmed) = caller.revoke_one(&key).await?;
                ensure!(confirmed == format!("acknowledged={REPLICAS}, waited-out=0"), "confirmed by {confirmed}");
                all.push(took);
            }
            Ok(all)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.context("a caller panicked")??);
    }
    Ok(all)
}

/// Asks two replicas in turn.
struct Caller {
    issues: Client,
    revokes: Client,
}

impl Caller {
    async fn connect(endpoints: &[String], number: usize) -> Result<Self> {
        let endpoint = |number: usize| endpoints.get(number % 2).context("no replica");
        let (issues, revokes) = (endpoint(number)?, endpoint(number + 1)?);
        Ok(Self { issues: Client::connect(issues).await?, revokes: Client::connect(revokes).await? })
    }

    /// Has one replica issue a key and the other one revoke it. Returns the milliseconds of the revocation, and how it was confirmed.
    async fn revoke_one(&mut self, key: &AsciiMetadataValue) -> Result<(f64, String)> {
        let id = self.issues.create(key).await?;
        let started = super::now();
        let confirmed = self.revokes.revoke(key, id).await?;
        Ok((started.elapsed().as_secs_f64() * 1_000.0, confirmed))
    }
}
