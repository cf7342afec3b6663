//! What is known about one setting.

use super::accepts::Accepts;

/// One setting: a row of the table.
pub(crate) struct Setting {
    /// The file's key; the flag and the variable are made of it.
    pub(crate) name: &'static str,
    /// Who needs it.
    pub(crate) scope: Scope,
    /// Which texts are legal.
    pub(crate) accepts: Accepts,
    /// What is in force where nobody says otherwise.
    pub(crate) default: Default,
    /// How much of it may be shown.
    pub(crate) secrecy: Secrecy,
    /// Where it can be set.
    pub(crate) sources: Sources,
    /// What it does, in one sentence.
    pub(crate) help: &'static str,
}

/// Which commands need a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `serve`, `migrate` and `bootstrap`.
    Server,
    /// `create`, `list`, `revoke` and `verify`.
    Client,
    /// All of them.
    Both,
}

/// What is in force where nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// Nothing.
    Unset,
    /// This text.
    Text(&'static str),
    /// The user's data directory by the XDG Base Directory Specification 0.8.
    DataDirectory,
}

/// How much of a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// All of it.
    Public,
    /// Nothing.
    Secret,
    /// All but the password in the URL.
    DatabaseUrl,
    /// All but the user and password in the URL.
    ProxyUrl,
    /// All but the query and fragment of the URL.
    UrlQuery,
}

/// Where a setting can be set. The environment is always one of the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// Flag, environment and file.
    All,
    /// Flag and environment.
    NotFile,
    /// Environment and file: of secrets, since command lines are visible to every user of a machine.
    NotFlag,
    /// The environment alone.
    Environment,
}

impl Setting {
    /// The variable's name: `APIKEYS_LISTEN`.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// The flag's name without its dashes: `verify-listen`.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Whether there is a flag for it.
    pub(crate) fn has_flag(&self) -> bool {
        matches!(self.sources, Sources::All | Sources::NotFile)
    }

    /// Whether its flag alone means `true`.
    pub(crate) fn is_switch(&self) -> bool {
        self.accepts == Accepts::Flag
    }

    /// Whether the file may hold it.
    pub(crate) fn in_file(&self) -> bool {
        matches!(self.sources, Sources::All | Sources::NotFlag)
    }
}

impl Scope {
    /// Whether a setting of this scope is needed by commands of that one.
    pub(crate) fn serves(self, command: Self) -> bool {
        self == command || self == Self::Both || command == Self::Both
    }
}

/// What the names of all variables start with.
pub(super) const PREFIX: &str = "APIKEYS_";
