//! Why a token is rejected: classes for the log. The caller of the service never learns which.

use apikey_application::ports::TokenError;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    Size,
    Encoding,
    DuplicateMember,
    Header,
    Algorithm,
    KeyId,
    Key,
    Signature,
    Issuer,
    Audience,
    Expiry,
    NotBefore,
    IssuedAt,
    Subject,
    Organization,
    Permissions,
}

impl Rejection {
    /// The class as it stands in the log.
    const fn class(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Encoding => "encoding",
            Self::DuplicateMember => "duplicate member",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::KeyId => "kid",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expiry => "expiry",
            Self::NotBefore => "not-before",
            Self::IssuedAt => "issued-at",
            Self::Subject => "subject",
            Self::Organization => "organization",
            Self::Permissions => "permissions",
        }
    }
}

impl From<Rejection> for TokenError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection.class())
    }
}
