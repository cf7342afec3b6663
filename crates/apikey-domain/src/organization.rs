//! The organization that owns a key: an opaque name given by whoever identifies the callers.

/// An organization's identifier: 1 to 128 visible ASCII characters (`!` to `~`), otherwise opaque.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganizationId(Box<str>);

/// The text is not an organization's identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an organization is 1 to {max} visible ASCII characters", max = OrganizationId::MAX_LENGTH)]
pub struct OrganizationIdError;

impl OrganizationId {
    /// The longest identifier, in characters.
    pub const MAX_LENGTH: usize = 128;

    /// Accepts 1 to 128 visible ASCII characters, as they are.
    ///
    /// # Errors
    /// [`OrganizationIdError`] for every other text.
    pub fn parse(text: &str) -> Result<Self, OrganizationIdError> {
        let legal = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if legal { Ok(Self(text.into())) } else { Err(OrganizationIdError) }
    }

    /// The identifier as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_ascii_of_legal_length_is_accepted_and_nothing_else() {
        for legal in ["a", "!", "~", "org_01H", &"x".repeat(128)] {
            let id = OrganizationId::parse(legal).unwrap();
            assert_eq!((id.as_str(), id.to_string().as_str()), (legal, legal));
        }
        for illegal in ["", " ", "a b", "a\n", "\u{7f}", "é", &"x".repeat(129)] {
            assert_eq!(OrganizationId::parse(illegal), Err(OrganizationIdError), "{illegal:?}");
        }
    }
}
