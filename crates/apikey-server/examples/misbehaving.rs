//! The service with a database that misbehaves, for `chaos`: whatever is wrong here must be caught there. The name under which the
//! program is run (`argv[0]`) says how; everything else is the command line of `apikeys`.

#[path = "misbehaving/revocations.rs"]
mod revocations;
#[path = "misbehaving/store.rs"]
mod store;

use std::process::ExitCode;

use apikey_application::ports::{KeyStore, Revocations};
use apikey_server::Decorate;

use revocations::DroppedDigests;
use store::Misbehaving;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Renewals bring no digests.
    DropsDigests,
    /// A key is served as it was when it was read first.
    OlderSnapshot,
    /// Changes leave no event.
    NoAudit,
    /// A key is found by its id, whoever asks.
    AnyOrganization,
    /// What cannot be read is called absent; and now and then nothing can be read.
    AbsentOnError,
}

impl Wrong {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "drops-digests" => Self::DropsDigests,
            "older-snapshot" => Self::OlderSnapshot,
            "no-audit" => Self::NoAudit,
            "any-organization" => Self::AnyOrganization,
            "absent-on-error" => Self::AbsentOnError,
            _ => return None,
        })
    }
}

impl Decorate for Wrong {
    fn store<S: KeyStore>(&self, store: S) -> impl KeyStore {
        Misbehaving::new(store, *self)
    }

    fn revocations<R: Revocations>(&self, revocations: R) -> impl Revocations {
        DroppedDigests::new(revocations, *self == Self::DropsDigests)
    }
}

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    let Some(wrong) = Wrong::of(&name) else {
        // The service's own code for a command line that is wrong.
        return ExitCode::from(2);
    };
    apikey_server::main_with(&wrong)
}
