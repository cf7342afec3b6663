//! `cargo xtask attack`: what a hostile peer, tenant or neighbour in the database can do to the service as it is shipped.
//!
//! Each attack runs against a service of its own while others go on calling it. One table says what memory the service took at its
//! peak, how long others waited and how many were refused, and what the attack was let through. Times are shown and not judged.

mod database;
mod floods;
mod frames;
mod misses;
mod others;
mod places;
mod streams;
mod tenants;
mod victim;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{chaos, conformance, postgres::Postgres, service::empty_folder, setup, workspace};
use others::{Calls, while_others_call};
use victim::Victim;

/// How long others call before an attack begins: what they meet with then is what the attack is compared with.
const CALM: Duration = Duration::from_secs(1);

/// An attack.
struct Attack {
    /// What it is called on the command line.
    name: &'static str,
    /// Whether it is part of `cargo xtask ci`: what depends on how busy the machine is has tests of its own instead.
    brief: bool,
    /// The most memory that the service may ever hold meanwhile, in megabytes.
    memory: f64,
    run: fn(&Arena<'_>) -> Result<Outcome>,
}

/// Every attack, in the order of the table.
const ATTACKS: &[Attack] = &[
    Attack { name: "heads-of-a-key", brief: true, memory: 128.0, run: places::heads_of_a_key },
    Attack { name: "heads-of-nobody", brief: true, memory: 128.0, run: places::heads_of_nobody },
    Attack { name: "heads-on-verification", brief: true, memory: 128.0, run: places::heads_on_verification },
    Attack { name: "silent-on-admin", brief: true, memory: 64.0, run: places::silent_on_admin },
    Attack { name: "late-body", brief: true, memory: 64.0, run: places::late_body },
    Attack { name: "unread-pages", brief: false, memory: 256.0, run: streams::unread_pages },
    Attack { name: "watch-on-every-connection", brief: true, memory: 64.0, run: streams::watch_on_every_connection },
    Attack { name: "watch-streams", brief: false, memory: 96.0, run: streams::watch_streams },
    Attack { name: "reflection-streams", brief: false, memory: 96.0, run: streams::reflection_streams },
    Attack { name: "unfinished-bodies", brief: true, memory: 128.0, run: streams::unfinished_bodies },
    Attack { name: "unknown-keys", brief: false, memory: 128.0, run: misses::unknown_keys },
    Attack { name: "abandoned-reads", brief: false, memory: 128.0, run: misses::abandoned_reads },
    Attack { name: "hints", brief: false, memory: 64.0, run: misses::hints },
    Attack { name: "noisy-tenant", brief: false, memory: 192.0, run: tenants::noisy_tenant },
    Attack { name: "restored-database", brief: false, memory: 64.0, run: database::restored },
    Attack { name: "schema-of-a-stranger", brief: true, memory: 64.0, run: database::schema_of_a_stranger },
    Attack { name: "rogue-database", brief: true, memory: 64.0, run: database::rogue },
    Attack { name: "migration-lock", brief: true, memory: 64.0, run: database::migration_lock },
    Attack { name: "half-open-on-one", brief: false, memory: 64.0, run: floods::half_open_on_one },
    Attack { name: "half-open-on-many", brief: true, memory: 160.0, run: floods::half_open_on_many },
    Attack { name: "ping", brief: false, memory: 64.0, run: floods::ping_read },
    Attack { name: "ping-unread", brief: true, memory: 64.0, run: floods::ping_unread },
    Attack { name: "settings", brief: false, memory: 64.0, run: floods::settings_read },
    Attack { name: "settings-unread", brief: false, memory: 64.0, run: floods::settings_unread },
    Attack { name: "rapid-reset", brief: true, memory: 64.0, run: floods::resets_at_once },
    Attack { name: "reset-once-begun", brief: false, memory: 64.0, run: floods::resets_once_begun },
    Attack { name: "continuation", brief: false, memory: 64.0, run: floods::continuations },
    Attack { name: "h2spec", brief: false, memory: 64.0, run: h2spec },
];

/// What attacks are run with.
struct Arena<'a> {
    binary: &'a Path,
    /// Empty, and this attack's own.
    folder: PathBuf,
    postgres: &'a Postgres,
    /// How long an attack that could go on for ever goes on.
    duration: Duration,
}

/// What came of an attack.
#[derive(Default)]
struct Outcome {
    /// The most memory that was ever resident, in megabytes.
    peak: f64,
    /// What others met with before, and meanwhile.
    calm: Calls,
    meanwhile: Calls,
    /// What must not have been possible and was.
    let_through: Vec<String>,
}

impl Arena<'_> {
    /// A service on SQLite.
    fn on_sqlite(&self, settings: &[(&str, &str)]) -> Result<Victim> {
        Victim::start(self.binary, &self.folder, settings)
    }

    /// A service on an empty database of that name.
    fn on_postgres(&self, database: &str, settings: &[(&str, &str)]) -> Result<Victim> {
        let url = self.postgres.create(database)?;
        let settings: Vec<_> = settings.iter().copied().chain([("APIKEYS_DATABASE_URL", url.as_str())]).collect();
        Victim::start(self.binary, &self.folder, &settings)
    }
}

impl Outcome {
    /// Attacks that service while others call it; `cold_keys` are valid and not in its memory. The attack says what it was let
    /// through.
    fn of(
        victim: &Victim,
        cold_keys: &[String],
        attack: impl FnOnce(&Victim) -> Result<Vec<String>> + Send,
    ) -> Result<Self> {
        let calm_keys = cold_keys.len() / 4;
        let (before, after) = cold_keys.split_at_checked(calm_keys).unwrap_or_default();
        let ((), calm) = while_others_call(victim, before, || {
            std::thread::sleep(CALM);
            Ok(())
        })?;
        let (let_through, meanwhile) = while_others_call(victim, after, || attack(victim))?;
        Ok(Self { peak: victim.service.peak_memory()? / 1e6, calm, meanwhile, let_through })
    }
}

/// Runs the attacks of those names, or all; prints a table and writes `target/attack.json`.
///
/// # Errors
/// An attack took more memory than its bound, others were refused, or something was let through.
pub(crate) fn run_all(names: &[String], binary: Option<PathBuf>, brief: bool) -> Result<()> {
    for name in names {
        if !ATTACKS.iter().any(|attack| attack.name == name) {
            bail!("{name} is none of {}", ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>().join(", "));
        }
    }
    setup::database()?;
    let binary = if let Some(binary) = binary {
        binary.canonicalize().with_context(|| format!("--binary: {}", binary.display()))?
    } else {
        chaos::build()?.join("apikeys")
    };
    let (folder, postgres) = (empty_folder("attack")?, Postgres::start()?);
    let duration = Duration::from_secs(if brief { 2 } else { 6 });
    let mut rows = Vec::new();
    for attack in ATTACKS {
        let wanted =
            if names.is_empty() { !brief || attack.brief } else { names.iter().any(|name| name == attack.name) };
        if wanted {
            let folder = folder.join(attack.name);
            let arena = Arena { binary: &binary, folder, postgres: &postgres, duration };
            let outcome = (attack.run)(&arena).with_context(|| attack.name)?;
            let row = Row::new(attack, outcome);
            println!("attack: {}", row.line());
            rows.push(row);
        }
    }
    report(&rows)
}

/// What `cargo xtask ci` asks for.
pub(crate) fn briefly() -> Result<()> {
    run_all(&[], None, true)
}

/// A line of the table.
struct Row {
    name: &'static str,
    figures: Vec<(&'static str, f64)>,
    faults: Vec<String>,
}

impl Row {
    fn new(attack: &Attack, outcome: Outcome) -> Self {
        let Outcome { peak, calm, meanwhile, let_through } = outcome;
        let figures = vec![
            ("peak_mb", peak),
            ("calls", count(meanwhile.milliseconds.len() + meanwhile.refused.len())),
            ("refused", count(meanwhile.refused.len())),
            ("calm_p50_ms", percentile(&calm.milliseconds, 50)),
            ("p50_ms", percentile(&meanwhile.milliseconds, 50)),
            ("p99_ms", percentile(&meanwhile.milliseconds, 99)),
        ];
        let mut faults = let_through;
        if peak > attack.memory {
            faults.push(format!("took {peak:.0} MB of memory, more than {:.0}", attack.memory));
        }
        let mut refused = calm.refused;
        refused.extend(meanwhile.refused);
        if let Some(first) = refused.first() {
            faults.push(format!("others were refused, as in {first}"));
        }
        Self { name: attack.name, figures, faults }
    }

    fn line(&self) -> String {
        let figures = self.figures.iter().map(|(_, value)| format!("{value:>10.1}")).collect::<Vec<_>>().concat();
        let verdict = if self.faults.is_empty() { "nothing".to_owned() } else { self.faults.join("; ") };
        format!("{:<28}{figures}  {verdict}", self.name)
    }

    fn json(&self) -> String {
        let figures: Vec<_> = self.figures.iter().map(|(name, value)| format!(r#""{name}": {value:.3}"#)).collect();
        let faults: Vec<_> = self.faults.iter().map(|fault| format!("{fault:?}")).collect();
        format!(r#"  {{"name": "{}", {}, "let_through": [{}]}}"#, self.name, figures.join(", "), faults.join(", "))
    }
}

fn report(rows: &[Row]) -> Result<()> {
    let head: String =
        ["peak MB", "calls", "refused", "calm p50", "p50 ms", "p99 ms"].map(|name| format!("{name:>10}")).concat();
    println!("\n{:<28}{head}  let through", "attack");
    for row in rows {
        println!("{}", row.line());
    }
    let path = workspace::target().join("attack.json");
    fs::write(&path, format!("[\n{}\n]\n", rows.iter().map(Row::json).collect::<Vec<_>>().join(",\n")))?;
    println!("written to {}", path.display());
    let failed: Vec<_> = rows.iter().filter(|row| !row.faults.is_empty()).map(|row| row.name).collect();
    if !failed.is_empty() {
        bail!("{} of {} attacks had an effect: {}", failed.len(), rows.len(), failed.join(", "));
    }
    Ok(())
}

/// h2spec's cases, against a service that others call.
fn h2spec(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        conformance::h2spec_against(victim.service.public.port(), &arena.folder)?;
        Ok(Vec::new())
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
fn count(calls: usize) -> f64 {
    calls as f64
}

/// The value that so many of a hundred do not exceed; 0 of none.
fn percentile(values: &[f64], per_cent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() * per_cent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or_default()
}

/// The clock of all attacks.
fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "how long others wait is shown, and when an attack is over")]
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::{ATTACKS, Outcome, Row};
    use crate::attack::others::Calls;

    #[test]
    fn an_attack_fails_for_memory_for_refused_calls_and_for_what_it_is_let_through() {
        let attack = &ATTACKS[0];
        let faults = |outcome| Row::new(attack, outcome).faults.len();
        assert_eq!(faults(Outcome::default()), 0);
        assert_eq!(faults(Outcome { peak: attack.memory + 1.0, ..Outcome::default() }), 1);
        assert_eq!(faults(Outcome { let_through: vec!["a revoked key".to_owned()], ..Outcome::default() }), 1);
        let refused = Calls { refused: vec!["ListApiKeys: 429".to_owned()], ..Calls::default() };
        assert_eq!(faults(Outcome { meanwhile: refused, ..Outcome::default() }), 1);
    }

    #[test]
    fn every_attack_has_a_name_of_its_own() {
        let mut names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ATTACKS.len());
    }
}
