//! The transport: gRPC, gRPC-Web and Connect on hyper, the conversion between wire and domain, and the one table of errors.
//!
//! This crate knows the protocol and nothing of rules, databases or configuration. tonic's and hyper's types stay inside,
//! but for what a listener has to be handed.
//!
//! # The way of a call
//!
//! [`listener`] accepts a connection and hands each request to [`PublicService`] or [`VerificationService`]. On the public one, [`web`]
//! turns gRPC-Web and Connect into gRPC first, so that everything behind it sees one protocol. There the call passes,
//! in this order: its request id, span and metrics; the check that it is gRPC at all; the deadline; that there is a credential; the
//! whole message, of which `places` bounds how much may be incomplete; a place; the credential itself, judged now and not before, so
//! that a key that was revoked while its message came is refused; then tonic or, for the hot method, `unary`; `convert`, the use case,
//! and back. Every answer leaves with an `x-request-id`, every error with `google.rpc` details, whoever made it.
//!
//! # Architecture invariants
//!
//! - A method that is added to a service is authenticated without anybody thinking of it: the credential is checked around the
//!   service and not in its methods, and a method that runs without a caller fails.
//! - `ErrorKind` is turned into a code in one place, without a catch-all arm.
//! - Nothing here prints a message or a credential.

mod call;
pub mod client;
mod convert;
mod credential;
mod drain;
mod frames;
mod guard;
mod gzip;
mod http1;
pub mod listener;
mod management;
mod methods;
mod places;
mod request_id;
mod services;
mod status;
mod streams;
mod tls;
mod unary;
mod unread;
mod verification;
pub mod web;

pub use call::{CallLimits, call_span};
pub use guard::{AccessToken, AccessTokenError};
pub use management::Management;
pub use request_id::RequestIds;
#[cfg(feature = "conformance")]
pub use services::surrounded;
pub use services::{InvalidDescriptors, PublicService, Serving, VerificationService};
pub use tls::{TlsError, TlsIdentity};
