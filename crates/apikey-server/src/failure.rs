//! How a command ends when it does not end well: one line on standard error, and an exit code.

use std::{io, process::ExitCode};

use crate::{config::SettingError, telemetry};

/// A command did not do what was asked.
pub(crate) enum Failure {
    /// The command line or a setting is wrong: exit code 2.
    Usage(String),
    /// It was refused, or failed: exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    /// Says what went wrong.
    pub(crate) fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Usage(text) => (text.clone(), 2),
            // The whole chain of causes on one line.
            Self::Failed(error) => (format!("{error:#}"), 1),
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
