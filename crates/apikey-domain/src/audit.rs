//! What happened to a key, who did it, and from where: the audit trail's values.

use std::fmt;

use crate::{KeyId, OrganizationId, Timestamp};

/// A change of a key, as the aggregate reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The key that changed.
    pub key_id: KeyId,
    /// The organization that owns it.
    pub organization_id: OrganizationId,
    /// What happened.
    pub kind: KeyEventKind,
    /// When.
    pub at: Timestamp,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEventKind {
    /// The key was issued.
    Issued,
    /// The key was revoked.
    Revoked,
}

impl KeyEventKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Issued, Self::Revoked];

    /// The name under which the kind is stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Revoked => "revoked",
        }
    }
}

/// A row of the audit trail: a change, who made it and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// The change.
    pub event: KeyEvent,
    /// Who made it.
    pub actor: Actor,
    /// From where.
    pub origin: Origin,
}

/// Where a call came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The peer's network address, where there was one.
    pub address: Option<String>,
    /// The request's id, as it stands in the logs and in the answer.
    pub request_id: Option<String>,
}

/// Who makes a change.
///
/// Its `Display` is one line that identifies the actor unambiguously; it is what the audit trail and the idempotency
/// records store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor(ActorKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ActorKind {
    ApiKey(KeyId),
    Token { issuer: Box<str>, subject: Box<str> },
    Operator,
}

/// The issuer or the subject of a token cannot name an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuer and subject are 1 to {max} bytes each without control characters, the issuer without white space", max = Actor::MAX_LENGTH)]
pub struct ActorError;

impl Actor {
    /// The longest issuer, and the longest subject, in bytes. `OpenID` Connect Core 1.0 allows 255 characters for a subject;
    /// the same bound serves the issuer's URL.
    pub const MAX_LENGTH: usize = 255;

    /// The caller presented this API key.
    #[must_use]
    pub const fn api_key(id: KeyId) -> Self {
        Self(ActorKind::ApiKey(id))
    }

    /// The caller presented a token of that issuer about that subject.
    ///
    /// # Errors
    /// [`ActorError`] where one of them is empty, longer than 255 bytes or holds a control character, or the issuer holds
    /// white space.
    pub fn token(issuer: &str, subject: &str) -> Result<Self, ActorError> {
        let legal = |text: &str| (1..=Self::MAX_LENGTH).contains(&text.len()) && !text.chars().any(char::is_control);
        if legal(issuer) && legal(subject) && !issuer.contains(char::is_whitespace) {
            Ok(Self(ActorKind::Token { issuer: issuer.into(), subject: subject.into() }))
        } else {
            Err(ActorError)
        }
    }

    /// Whoever operates the service, on its own machine.
    #[must_use]
    pub const fn operator() -> Self {
        Self(ActorKind::Operator)
    }

    /// The API key in whose name the change is made, if it is one.
    #[must_use]
    pub const fn key_id(&self) -> Option<KeyId> {
        match self.0 {
            ActorKind::ApiKey(id) => Some(id),
            ActorKind::Token { .. } | ActorKind::Operator => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ActorKind::ApiKey(id) => write!(f, "api_key {id}"),
            ActorKind::Token { issuer, subject } => write!(f, "token {issuer} {subject}"),
            ActorKind::Operator => f.write_str("operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_stored_under_their_names() {
        assert_eq!(KeyEventKind::ALL.map(KeyEventKind::name), ["issued", "revoked"]);
    }

    #[test]
    fn only_a_key_acts_in_the_name_of_a_key() {
        let id = KeyId::parse("0198c5f0-7a3b-7cde-8f01-23456789abcd").unwrap();
        assert_eq!(Actor::api_key(id).key_id(), Some(id));
        assert_eq!(Actor::operator().key_id(), None);
        assert_eq!(Actor::token("https://a", "b").unwrap().key_id(), None);
    }

    #[test]
    fn two_actors_never_share_a_line() {
        assert_eq!(Actor::token("https://a", "b c").map(|actor| actor.to_string()), Ok("token https://a b c".into()));
        for (issuer, subject) in [("", "s"), ("i", ""), ("i i", "s"), ("i", "s\n"), ("i", &"s".repeat(256))] {
            assert_eq!(Actor::token(issuer, subject), Err(ActorError), "{issuer:?} {subject:?}");
        }
    }
}
