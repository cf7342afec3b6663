//! What came of all runs: a table for people, JSON for tools.

use std::time::Duration;

use apikey_testing::history::Violation;
use serde_json::{Value, json};

use crate::{
    faults::Evidence,
    judge::Verdict,
    tally::{Stage, Tally},
};

/// So many violations are shown with their evidence.
const SHOWN: usize = 5;

/// What came of one run.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) evidence: Evidence,
    pub(crate) verdict: Verdict,
    pub(crate) tallies: [Tally; 3],
    pub(crate) unclean: Vec<String>,
    pub(crate) normal_after: Option<Duration>,
}

impl Outcome {
    /// Everything that speaks against it.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if let Err(error) = self.evidence.check() {
            complaints.push(error.to_string());
        }
        if self.answered() == 0 {
            complaints.push("no verification was answered".to_owned());
        }
        if self.normal_after.is_none() {
            complaints.push("not every replica answers again within a minute".to_owned());
        }
        if let Some(first) = self.unclean.first() {
            complaints.push(format!("{} failures are not clean, such as: {first}", self.unclean.len()));
        }
        if !self.verdict.violations.is_empty() {
            complaints.push(format!("{} promises were broken", self.verdict.violations.len()));
        }
        complaints
    }

    /// How many verifications were answered, and are so checked.
    pub(crate) fn answered(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.answered).sum()
    }

    /// Several lines for people.
    pub(crate) fn print(&self) {
        let complaints = self.complaints();
        let verdict = if complaints.is_empty() { "holds" } else { "FAILED" };
        let Verdict { operations, keys, violations } = &self.verdict;
        let normal = self.normal_after.map_or("never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        println!("{:<18} {verdict:<7} {operations:>9} operations on {keys} keys; normal after {normal}", self.name);
        for (stage, tally) in Stage::ALL.iter().zip(&self.tallies) {
            println!("    {:<8} {}", stage.name(), line(tally));
        }
        let evidence: Vec<String> = self.evidence.0.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        println!("    evidence {}", evidence.join("; "));
        for complaint in complaints {
            println!("    ! {complaint}");
        }
        for violation in violations.iter().take(SHOWN) {
            print_violation(violation);
        }
    }

    fn json(&self) -> Value {
        let evidence: Value = self.evidence.0.iter().map(|(what, count)| ((*what).to_owned(), json!(count))).collect();
        let violations = self.verdict.violations.iter().take(SHOWN).map(|violation| {
            let evidence: Vec<String> = violation.evidence.iter().map(|operation| format!("{operation:?}")).collect();
            json!({
                "key": violation.key.to_string(),
                "promise": format!("{:?}", violation.promise),
                "evidence": evidence,
            })
        });
        let stages: Value = Stage::ALL
            .iter()
            .zip(&self.tallies)
            .map(|(stage, tally)| (stage.name().to_owned(), tally.json()))
            .collect();
        json!({
            "fault": self.name,
            "holds": self.complaints().is_empty(),
            "complaints": self.complaints(),
            "operations": self.verdict.operations,
            "keys": self.verdict.keys,
            "verifications": self.answered(),
            "evidence": evidence,
            "violations": self.verdict.violations.len(),
            "shown": violations.collect::<Vec<_>>(),
            "normal_after_s": self.normal_after.map(|after| after.as_secs_f64()),
            "stages": stages,
        })
    }
}

/// The report on all runs.
pub(crate) fn json(outcomes: &[Outcome], errors: &[(String, String)]) -> Value {
    let errors: Value = errors.iter().map(|(name, error)| (name.clone(), json!(error))).collect();
    json!({
        "verifications": outcomes.iter().map(Outcome::answered).sum::<u64>(),
        "operations": outcomes.iter().map(|outcome| outcome.verdict.operations).sum::<usize>(),
        "violations": outcomes.iter().map(|outcome| outcome.verdict.violations.len()).sum::<usize>(),
        "errors": errors,
        "runs": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    })
}

fn line(tally: &Tally) -> String {
    let latency = |per_mille| {
        tally
            .revocation_latency(per_mille)
            .map_or("–".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1_000.0))
    };
    let numbers = format!(
        "{} verified, {} failed, {} changes, {} unknown; revoke → OK ms p50 {} p99 {} max {}",
        tally.answered,
        tally.failed.values().sum::<u64>(),
        tally.changed,
        tally.unknown,
        latency(500),
        latency(990),
        latency(1_000),
    );
    let kinds = tally.failed.iter().chain(&tally.confirmed).map(|(how, count)| format!("{how} {count}"));
    let not_sent = (tally.not_sent > 0).then(|| format!("{} not sent", tally.not_sent));
    std::iter::once(numbers).chain(kinds).chain(not_sent).collect::<Vec<_>>().join("; ")
}

fn print_violation(Violation { key, promise, evidence }: &Violation) {
    println!("    ! {promise:?}: key {key}");
    for operation in evidence {
        let milliseconds = |time: u64| Duration::from_nanos(time).as_secs_f64() * 1_000.0;
        let (start, end) = (milliseconds(operation.start), milliseconds(operation.end));
        println!("        {start:>12.3} to {end:>12.3} ms {:?}", operation.kind);
    }
}
