//! Messages, clients and servers of the protobuf package `pidgr.v1`, generated from `proto/` by
//! `cargo xtask codegen`, and the descriptor set that they come from.
//!
//! Nothing here is written by hand but this file, and nothing here knows a rule. Messages that hold a raw key
//! (`CreateApiKeyResponse`, `VerifyApiKeyRequest`) have no `Debug`.

#![warn(missing_docs)]

/// The protobuf packages of Pidgr.
pub mod pidgr {
    /// The package `pidgr.v1`.
    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        include!("generated/pidgr.v1.rs");
    }
}

/// A serialized `google.protobuf.FileDescriptorSet` of the package and of all that it imports, for reflection
/// and for JSON. It holds no comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");
