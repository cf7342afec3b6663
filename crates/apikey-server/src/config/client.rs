//! What the client needs, with types.

use zeroize::Zeroizing;

use super::{
    resolve::{Effective, SettingError},
    table,
};

/// What `create`, `list`, `revoke` and `verify` need. What is not set and needed all the same is asked for.
pub(crate) struct ClientSettings {
    pub(crate) endpoint: String,
    pub(crate) verify_endpoint: String,
    pub(crate) key: Option<Zeroizing<String>>,
    pub(crate) verify_key: Option<Zeroizing<String>>,
    pub(crate) verify_token: Option<Zeroizing<String>>,
}

impl ClientSettings {
    /// The typed settings.
    ///
    /// # Errors
    /// [`SettingError`] for the first setting that is illegal or in contradiction with another.
    pub(crate) fn of(effective: &Effective) -> Result<Self, SettingError> {
        let text = |setting| effective.required(setting, |text| Some(text.to_owned()));
        let secret = |setting| effective.text(setting).map(|text| Zeroizing::new(text.to_owned()));
        Ok(Self {
            endpoint: text(&table::ENDPOINT)?,
            verify_endpoint: text(&table::VERIFY_ENDPOINT)?,
            key: secret(&table::KEY),
            verify_key: secret(&table::VERIFY_KEY),
            verify_token: effective.secret(&table::VERIFY_TOKEN, &table::VERIFY_TOKEN_FILE)?.map(Zeroizing::new),
        })
    }
}
