//! What a key is for.

/// What a key is for. The type decides its brand, and where it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// Authenticates calls to the product's API.
    ApiKey,
    /// Authenticates an identity provider's SCIM provisioning, and nothing else.
    ScimToken,
}

impl KeyType {
    /// Every type, in the order of their numbers on the wire.
    pub const ALL: [Self; 2] = [Self::ApiKey, Self::ScimToken];

    /// The name under which the type is stored: that of the wire's enum value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "KEY_TYPE_API_KEY",
            Self::ScimToken => "KEY_TYPE_SCIM_TOKEN",
        }
    }

    /// The type with that stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.name() == name)
    }
}

/// The types of key that a verification accepts. The default accepts [`KeyType::ApiKey`] alone, so that a SCIM token
/// passes only where it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTypes {
    api_key: bool,
    scim_token: bool,
}

impl KeyTypes {
    /// Accepts one type.
    #[must_use]
    pub const fn only(key_type: KeyType) -> Self {
        match key_type {
            KeyType::ApiKey => Self { api_key: true, scim_token: false },
            KeyType::ScimToken => Self { api_key: false, scim_token: true },
        }
    }

    /// Accepts also that type.
    #[must_use]
    pub const fn and(self, key_type: KeyType) -> Self {
        let other = Self::only(key_type);
        Self { api_key: self.api_key || other.api_key, scim_token: self.scim_token || other.scim_token }
    }

    /// Whether that type is accepted.
    #[must_use]
    pub const fn contains(self, key_type: KeyType) -> bool {
        match key_type {
            KeyType::ApiKey => self.api_key,
            KeyType::ScimToken => self.scim_token,
        }
    }
}

impl Default for KeyTypes {
    fn default() -> Self {
        Self::only(KeyType::ApiKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for key_type in KeyType::ALL {
            assert_eq!(KeyType::from_name(key_type.name()), Some(key_type));
        }
        assert_eq!(KeyType::from_name("key_type_api_key"), None);
    }

    #[test]
    fn a_scim_token_is_accepted_only_where_it_was_asked_for() {
        assert!(!KeyTypes::default().contains(KeyType::ScimToken));
        let both = KeyTypes::default().and(KeyType::ScimToken);
        assert!(both.contains(KeyType::ScimToken) && both.contains(KeyType::ApiKey));
        assert!(!KeyTypes::only(KeyType::ScimToken).contains(KeyType::ApiKey));
    }
}
