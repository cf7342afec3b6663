//! The public listener by Connect and gRPC-Web, from browsers, and under hostile input.

mod browsers;
mod compression;
mod connect;
mod hostile;
mod http;
mod oversized;
mod protocols;
mod tls;
