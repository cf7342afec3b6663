//! `cargo xtask layers`: which crate may know which.
//!
//! Every crate of the workspace stands in the table below, with the crates of the workspace that it may name and
//! the packages that it must not reach. Each is looked at by itself: metadata of the whole workspace unifies
//! features, and accuses the innocent.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::process::{command, output};

/// What one crate may depend on, by normal dependencies.
struct Rule {
    name: &'static str,
    /// Crates of the workspace that it may name itself.
    may_name: &'static [&'static str],
    /// Packages that it must not reach, by whatever way. A name that ends with `*` stands for all that begin
    /// with it.
    must_not_reach: &'static [&'static [&'static str]],
}

/// No crate needs protoc, or a database library of the system.
const NEVER: &[&str] = &["pq-sys", "openssl-sys", "native-tls", "mysqlclient-sys"];

/// Only the task runner generates code.
const GENERATORS: &[&str] =
    &["prost-build", "tonic-prost-build", "tonic-build", "protox", "protobuf-src", "protoc-bin-vendored"];

/// Runtimes and I/O.
const RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "hyper", "axum", "reqwest", "mio"];

const DATABASES: &[&str] =
    &["diesel", "diesel-async", "diesel_migrations", "tokio-postgres", "libsqlite3-sys", "rusqlite", "sqlx"];

const WIRE: &[&str] = &["tonic", "tonic-*", "prost", "prost-*"];

const SERIALIZERS: &[&str] = &["serde", "serde_json", "toml"];

const CLOCKS: &[&str] = &["jiff", "chrono", "time", "quanta", "coarsetime"];

const RANDOMNESS: &[&str] = &["getrandom", "rand", "rand_core", "fastrand", "oorandom"];

const CORE: &[&[&str]] = &[RUNTIMES, DATABASES, WIRE, SERIALIZERS, CLOCKS, RANDOMNESS, GENERATORS];

const RULES: &[Rule] = &[
    Rule { name: "apikey-domain", may_name: &[], must_not_reach: CORE },
    Rule { name: "apikey-application", may_name: &["apikey-domain"], must_not_reach: CORE },
    Rule { name: "apikey-proto", may_name: &[], must_not_reach: &[DATABASES, GENERATORS] },
    Rule {
        name: "apikey-store-postgres",
        may_name: &["apikey-application", "apikey-domain"],
        must_not_reach: &[WIRE, GENERATORS, &["libsqlite3-sys"]],
    },
    Rule {
        name: "apikey-store-sqlite",
        may_name: &["apikey-application", "apikey-domain"],
        must_not_reach: &[WIRE, GENERATORS, &["tokio-postgres"]],
    },
    Rule {
        name: "apikey-identity",
        may_name: &["apikey-application", "apikey-domain"],
        must_not_reach: &[DATABASES, WIRE, GENERATORS],
    },
    Rule {
        name: "apikey-grpc",
        may_name: &["apikey-application", "apikey-domain", "apikey-proto"],
        must_not_reach: &[DATABASES, GENERATORS],
    },
    Rule {
        name: "apikey-testing",
        may_name: &["apikey-application", "apikey-domain"],
        must_not_reach: &[DATABASES, GENERATORS],
    },
    Rule {
        name: "apikey-server",
        may_name: &[
            "apikey-application",
            "apikey-domain",
            "apikey-grpc",
            "apikey-identity",
            "apikey-proto",
            "apikey-store-postgres",
            "apikey-store-sqlite",
        ],
        must_not_reach: &[GENERATORS],
    },
    Rule { name: "apikey-examples", may_name: &["apikey-proto"], must_not_reach: &[DATABASES, GENERATORS] },
    Rule { name: "xtask", may_name: &["apikey-domain", "apikey-proto"], must_not_reach: &[] },
];

/// Checks every crate of the workspace.
///
/// # Errors
/// A crate breaks its rule, or has none, or a rule has no crate.
pub(crate) fn check() -> Result<()> {
    let members = members()?;
    let mut broken = Vec::new();
    for member in &members {
        match RULES.iter().find(|rule| rule.name == member) {
            Some(rule) => broken.extend(rule.broken_by(&Reach::of(member)?, &members)),
            None => broken.push(format!("{member} is not in the table of xtask/src/layers.rs")),
        }
    }
    for rule in RULES {
        if !members.contains(rule.name) {
            broken.push(format!("{} is in the table, but not in the workspace", rule.name));
        }
    }
    for line in &broken {
        eprintln!("layers: {line}");
    }
    if !broken.is_empty() {
        bail!("{} arrows between crates are not allowed", broken.len());
    }
    Ok(())
}

impl Rule {
    fn broken_by(&self, reach: &Reach, members: &BTreeSet<String>) -> Vec<String> {
        let mut broken = Vec::new();
        for named in reach.named.intersection(members) {
            if !self.may_name.contains(&named.as_str()) {
                broken.push(format!("{} must not name {named}", self.name));
            }
        }
        for reached in &reach.reached {
            let forbidden = self.must_not_reach.iter().copied().chain([NEVER]).flatten();
            if forbidden.into_iter().any(|pattern| matches(pattern, reached)) {
                broken.push(format!(
                    "{0} must not reach {reached} (see `cargo tree -p {0} -e normal -i {reached}`)",
                    self.name
                ));
            }
        }
        broken
    }
}

fn matches(pattern: &str, package: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => package.starts_with(beginning),
        None => pattern == package,
    }
}

/// The normal dependencies of one crate.
struct Reach {
    /// Those that it names itself.
    named: BTreeSet<String>,
    /// All of them.
    reached: BTreeSet<String>,
}

impl Reach {
    fn of(package: &str) -> Result<Self> {
        let tree = output(&mut command(
            "cargo",
            ["tree", "--package", package, "--edges", "normal", "--prefix", "depth", "--format", " {p}"],
        ))?;
        Self::parse(&tree)
    }

    /// Reads lines of the form `1 name v1.2.3 (…)`; the number is the distance from the crate itself.
    fn parse(tree: &str) -> Result<Self> {
        let mut by_depth: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let (Some(depth), Some(name)) = (words.next(), words.next()) else {
                bail!("cargo tree wrote a line that is not understood: {line}");
            };
            let depth = depth.parse().with_context(|| format!("cargo tree wrote {line}"))?;
            by_depth.entry(depth).or_default().insert(name.to_owned());
        }
        if by_depth.get(&0).map(BTreeSet::len) != Some(1) {
            bail!("cargo tree wrote nothing, or several trees");
        }
        by_depth.remove(&0);
        Ok(Self {
            named: by_depth.get(&1).cloned().unwrap_or_default(),
            reached: by_depth.into_values().flatten().collect(),
        })
    }
}

/// The names of all crates of the workspace.
fn members() -> Result<BTreeSet<String>> {
    let arguments = ["tree", "--workspace", "--depth", "0", "--prefix", "none", "--format", "{p}"];
    let tree = output(&mut command("cargo", arguments))?;
    Ok(tree.lines().filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str) -> &'static Rule {
        RULES.iter().find(|rule| rule.name == name).unwrap()
    }

    fn broken(name: &str, tree: &str) -> Vec<String> {
        let members = RULES.iter().map(|rule| rule.name.to_owned()).collect();
        rule(name).broken_by(&Reach::parse(tree).unwrap(), &members)
    }

    #[test]
    fn the_workspace_keeps_its_layers() {
        check().unwrap();
    }

    #[test]
    fn a_crate_that_names_what_it_must_not_is_told() {
        let broken = broken(
            "apikey-application",
            "0 apikey-application v0.1.0 (/x)\n1 apikey-domain v0.1.0 (/x)\n1 apikey-testing v0.1.0 (/x)\n",
        );
        assert_eq!(broken, ["apikey-application must not name apikey-testing"]);
    }

    #[test]
    fn what_is_reached_by_a_detour_counts() {
        let broken =
            broken("apikey-domain", "0 apikey-domain v0.1.0 (/x)\n1 uuid v1.29.0\n2 rand v0.9.0\n3 getrandom v0.4.0\n");
        assert_eq!(broken.len(), 2, "{broken:?}");
    }

    #[test]
    fn a_store_that_reaches_any_crate_of_tonic_is_told() {
        let broken = broken("apikey-store-sqlite", "0 apikey-store-sqlite v0.1.0\n1 tonic-types v0.14.9 (*)\n");
        assert_eq!(broken.len(), 1, "{broken:?}");
    }

    #[test]
    fn a_library_of_the_system_is_forbidden_everywhere() {
        for rule in RULES {
            assert_eq!(broken(rule.name, "0 x v1\n1 diesel-y v2\n2 pq-sys v0.7.0\n").len(), 1);
        }
    }
}
