//! How a command ends when it does not end well: one line on standard error, and an exit code.

use std::{io, process::ExitCode};

use crate::{config::SettingError, telemetry};

/// The exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; of `verify`: the key is valid
  1  the answer is no: the request is refused; of `verify`: the key is rejected, and nothing else
  2  the command line, a setting or what was typed is wrong; nothing was asked
  3  it cannot be told or done now, such as an outage, a time limit, a wrong address; also output that cannot be written
  4  a key was created, or may have been, and could not be shown: revoke it";

/// A command did not do what was asked.
pub(crate) enum Failure {
    /// The answer is no: exit code 1.
    Refused(anyhow::Error),
    /// The command line, a setting or what was typed is wrong: exit code 2.
    Usage(String),
    /// It could not be told or done: exit code 3.
    Failed(anyhow::Error),
    /// A key was created, or may have been, and nobody has seen it: exit code 4.
    KeyLost(anyhow::Error),
}

impl Failure {
    /// What went wrong, with the whole chain of causes on one line.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Refused(error) | Self::Failed(error) | Self::KeyLost(error) => format!("{error:#}"),
            Self::Usage(text) => text.clone(),
        }
    }

    /// Says what went wrong.
    pub(crate) fn report(&self) -> ExitCode {
        let text = self.text();
        let code = match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Failed(_) => 3,
            Self::KeyLost(_) => 4,
        };
        telemetry::write_error(&format!("apikeys: {text}"));
        ExitCode::from(code)
    }
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}
