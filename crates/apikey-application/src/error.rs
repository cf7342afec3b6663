//! The kinds of failure that every use case's errors fall into; each transport maps a kind to its own codes, once.

use crate::ports::StoreError;

/// What kind of failure an error is, for whoever turns it into a protocol's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A field of the request is wrong.
    InvalidArgument,
    /// There is no valid credential; the caller is not told why.
    Unauthenticated,
    /// The credential is valid and does not suffice.
    PermissionDenied,
    /// There is no such key in the caller's organization.
    NotFound,
    /// The request was carried out before.
    AlreadyExists,
    /// The service sheds load.
    ResourceExhausted,
    /// The store cannot be reached; try again.
    Unavailable,
    /// The store answered too late; try again.
    DeadlineExceeded,
    /// A defect of ours; the cause goes to the log and to nobody else.
    Internal,
}

/// One field of a request that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name as in the protobuf message, with the index of a repeated one (`permissions[1]`), or the header's.
    pub field: String,
    /// What is wrong with it, for people.
    pub description: String,
}

impl FieldViolation {
    /// A violation of that field.
    #[must_use]
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// What a transport read of a request, or everything that is wrong with it.
pub type Checked<T> = Result<T, Vec<FieldViolation>>;

impl From<&StoreError> for ErrorKind {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => Self::Unavailable,
            StoreError::TimedOut => Self::DeadlineExceeded,
            StoreError::Overloaded => Self::ResourceExhausted,
            StoreError::Defect(_) => Self::Internal,
        }
    }
}
