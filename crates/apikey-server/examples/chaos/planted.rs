//! Replicas that misbehave on purpose: what is caught here would be caught anywhere. A harness that finds nothing in them finds
//! nothing at all.

use std::path::Path;

use apikey_testing::history::Promise;
use serde_json::{Value, json};

use crate::{
    cluster::Plan,
    faults::Fault,
    replica::Program,
    run::{Pace, Servers, run},
};

/// What is wrong on purpose.
struct Planted {
    /// How the example `misbehaving` is called, or what is wrong about the database.
    name: &'static str,
    /// Whether a replica runs that example.
    replica: bool,
    /// Whether it can only go wrong where replicas have leases.
    needs_lease: bool,
    /// What it takes to show.
    fault: Fault,
    /// What is added to the database's URL.
    parameters: &'static str,
    /// One of these is found to be broken.
    breaks: &'static [Promise],
}

const REPLICA: Planted =
    Planted { name: "", replica: true, needs_lease: false, fault: Fault::Reset, parameters: "", breaks: &[] };

const PLANTED: [Planted; 6] = [
    Planted {
        name: "drops-digests",
        needs_lease: true,
        fault: Fault::LostReply,
        breaks: &[Promise::NoStaleAccept],
        ..REPLICA
    },
    Planted { name: "older-snapshot", fault: Fault::LostReply, breaks: &[Promise::NoStaleAccept], ..REPLICA },
    Planted { name: "no-audit", fault: Fault::LostReply, breaks: &[Promise::OneEventPerChange], ..REPLICA },
    Planted {
        name: "any-organization",
        fault: Fault::LostReply,
        breaks: &[Promise::NeverRefusedWithoutRevocation, Promise::OneEventPerChange],
        ..REPLICA
    },
    Planted { name: "absent-on-error", breaks: &[Promise::NoKeyForgotten], ..REPLICA },
    Planted {
        name: "asynchronous-commit",
        replica: false,
        fault: Fault::DatabaseKill,
        parameters: "&options=-c%20synchronous_commit%3Doff",
        breaks: &[Promise::NoKeyForgotten, Promise::RevokedForEver, Promise::NoStaleAccept],
        ..REPLICA
    },
];

/// What came of one of them.
pub(crate) struct Caught {
    name: &'static str,
    /// How often each promise was broken, in words; or why the run failed.
    found: Result<Vec<Promise>, String>,
    breaks: &'static [Promise],
}

impl Caught {
    /// Whether it was caught for what it is.
    pub(crate) fn caught(&self) -> bool {
        self.found.as_ref().is_ok_and(|found| found.iter().any(|promise| self.breaks.contains(promise)))
    }
}

/// Runs all of them.
pub(crate) async fn run_all(
    misbehaving: &Path,
    has_lease: bool,
    servers: &Servers,
    plan: &Plan,
    pace: &Pace,
) -> Vec<Caught> {
    let mut all = Vec::new();
    for planted in PLANTED.iter().filter(|planted| has_lease || !planted.needs_lease) {
        let Planted { name, parameters, breaks, .. } = planted;
        let first = planted.replica.then(|| Program { path: misbehaving.to_owned(), name: Some(name) });
        let plan = Plan { first, parameters, ..plan.clone() };
        let outcome = run(&format!("planted-{name}"), planted.fault, servers, &plan, pace).await;
        let found = match outcome {
            Ok(outcome) => {
                let proof = outcome.evidence.check().map_err(|error| error.to_string());
                proof.map(|()| outcome.verdict.violations.iter().map(|violation| violation.promise).collect())
            }
            Err(error) => Err(format!("{error:#}")),
        };
        let caught = Caught { name, found, breaks };
        caught.print();
        all.push(caught);
    }
    all
}

impl Caught {
    fn print(&self) {
        let verdict = if self.caught() { "caught" } else { "MISSED" };
        println!("planted {:<22} {verdict}: {}", self.name, self.summary());
    }

    fn summary(&self) -> String {
        match &self.found {
            Ok(found) => {
                let mut kinds = found.clone();
                kinds.sort_unstable();
                kinds.dedup();
                let count = |kind| found.iter().filter(|promise| **promise == kind).count();
                let counts: Vec<String> = kinds.iter().map(|kind| format!("{kind:?} {}", count(*kind))).collect();
                if counts.is_empty() { "nothing was found".to_owned() } else { counts.join(", ") }
            }
            Err(error) => error.clone(),
        }
    }
}

/// What came of all of them.
pub(crate) fn json(all: &[Caught]) -> Value {
    all.iter().map(|one| (one.name.to_owned(), json!({ "caught": one.caught(), "found": one.summary() }))).collect()
}
