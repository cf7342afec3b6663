//! The port's implementation: a token's form, its key, its signature, its claims, in this order.

use apikey_application::ports::{Clock, TokenAuthenticator, TokenError};
use apikey_domain::{PermissionCatalogue, Principal};

use crate::{
    claims::ClaimRules,
    jwks_document::{JwksError, JwksReader},
    key_set::{KeySet, NoKey},
    refresher::Refresher,
    rejection::Rejection,
    settings::{JwksSource, JwtSettings, JwtSetupError},
    token::UnverifiedToken,
};

/// Checks the JWTs of one issuer: RS256, ES256 and `EdDSA` (Ed25519).
///
/// A background task keeps the issuer's keys fresh; it ends when this value is dropped.
pub struct JwtAuthenticator<C> {
    rules: ClaimRules,
    refresher: Refresher,
    clock: C,
}

impl<C: Clock> JwtAuthenticator<C> {
    /// Starts checking tokens. Must be called on a tokio runtime with its timer and I/O, which then also fetches the keys.
    ///
    /// An address that does not answer is no error: tokens are answered with [`TokenError::Unavailable`] until the first set
    /// arrives, and the task goes on trying.
    ///
    /// # Errors
    /// [`JwtSetupError`] where a setting is out of its bounds, or the file holds no keys that can be used.
    pub async fn start(
        settings: &JwtSettings,
        catalogue: PermissionCatalogue,
        clock: C,
    ) -> Result<Self, JwtSetupError> {
        let rules = settings.rules(catalogue)?;
        let reader = JwksReader::new(&settings.jwks, settings.proxy.as_ref()).map_err(JwtSetupError::Client)?;
        let first = match &settings.jwks {
            JwksSource::Url(_) => None,
            JwksSource::File(path) => {
                let keys = read_keys(&reader).await;
                Some(keys.map_err(|cause| JwtSetupError::File { path: path.clone(), cause })?)
            }
        };
        Ok(Self { rules, refresher: Refresher::start(settings, reader, first), clock })
    }

    fn judge(&self, keys: &KeySet, token: &UnverifiedToken<'_>) -> Result<Principal, Judgement> {
        let key = keys.find(token).map_err(|error| match error {
            NoKey::UnknownKeyId => Judgement::UnknownKeyId,
            NoKey::Unfit => Judgement::Rejected(Rejection::Key),
            NoKey::Ambiguous => Judgement::Rejected(Rejection::KeyId),
        })?;
        key.verify(token)?;
        Ok(self.rules.principal(&token.claims, self.clock.now())?)
    }
}

async fn read_keys(reader: &JwksReader) -> Result<(Vec<u8>, KeySet), JwksError> {
    let document = reader.read().await?;
    let keys = KeySet::parse(&document)?;
    Ok((document, keys))
}

/// Why a key set does not accept a token.
enum Judgement {
    /// Another set may.
    UnknownKeyId,
    /// None will.
    Rejected(Rejection),
}

impl From<Rejection> for Judgement {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl<C: Clock> TokenAuthenticator for JwtAuthenticator<C> {
    async fn authenticate(&self, token: &str) -> Result<Principal, TokenError> {
        let token = UnverifiedToken::parse(token)?;
        if let Some(keys) = self.refresher.keys() {
            match self.judge(&keys, &token) {
                Ok(principal) => return Ok(principal),
                Err(Judgement::Rejected(rejection)) => return Err(rejection.into()),
                Err(Judgement::UnknownKeyId) => {}
            }
        }
        let refreshed = self.refresher.refreshed().await;
        // Also where nothing was fetched: a set may have arrived since the first look.
        let Some(keys) = self.refresher.keys() else {
            refreshed?;
            return Err(Rejection::KeyId.into());
        };
        match self.judge(&keys, &token) {
            Ok(principal) => Ok(principal),
            Err(Judgement::Rejected(rejection)) => Err(rejection.into()),
            Err(Judgement::UnknownKeyId) => {
                // Where the issuer could not be asked, the key may well be one of its own.
                refreshed?;
                Err(Rejection::KeyId.into())
            }
        }
    }
}
