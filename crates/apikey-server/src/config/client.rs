//! What the client needs, with types.

use std::time::Duration;

use apikey_grpc::client::ServiceAddress;
use zeroize::Zeroizing;

use super::{
    accepts::{duration, flag},
    resolve::{Effective, SettingError},
    setting::Setting,
    table,
};

/// What `create`, `list`, `revoke` and `verify` need. What is not set and needed all the same is asked for.
pub(crate) struct ClientSettings {
    /// The listener that the command calls.
    pub(crate) endpoint: ServiceAddress,
    pub(crate) timeout: Duration,
    pub(crate) key: Option<Zeroizing<String>>,
    pub(crate) verify_key: Option<Zeroizing<String>>,
    pub(crate) verify_token: Option<Zeroizing<String>>,
}

impl ClientSettings {
    /// The typed settings of `create`, `list` and `revoke`.
    ///
    /// # Errors
    /// [`SettingError`] for the first setting that is illegal or in contradiction with another.
    pub(crate) fn of_management(effective: &Effective) -> Result<Self, SettingError> {
        Self::of(effective, &table::ENDPOINT)
    }

    /// The typed settings of `verify`.
    ///
    /// # Errors
    /// As [`ClientSettings::of_management`].
    pub(crate) fn of_verification(effective: &Effective) -> Result<Self, SettingError> {
        Self::of(effective, &table::VERIFY_ENDPOINT)
    }

    fn of(effective: &Effective, listener: &'static Setting) -> Result<Self, SettingError> {
        let secret = |setting| effective.text(setting).map(|text| Zeroizing::new(text.to_owned()));
        let endpoint: ServiceAddress = effective.required(listener, |text| text.parse().ok())?;
        let allow_plaintext = effective.required(&table::ENDPOINT_ALLOW_PLAINTEXT, flag)?;
        if !endpoint.is_encrypted() && !endpoint.is_loopback() && !allow_plaintext {
            let needs = "https:// beyond loopback, since keys are sent there, or endpoint_allow_plaintext";
            return Err(SettingError::Needs { name: listener.name, needs });
        }
        Ok(Self {
            endpoint,
            timeout: effective.required(&table::TIMEOUT, duration)?,
            key: secret(&table::KEY),
            verify_key: secret(&table::VERIFY_KEY),
            verify_token: effective.secret(&table::VERIFY_TOKEN, &table::VERIFY_TOKEN_FILE)?.map(Zeroizing::new),
        })
    }
}
