//! A bare gRPC server as most people ship it: tonic's own server on `#[tokio::main]`, with the system's allocator. `cargo xtask
//! bench` builds it by the default release profile and measures the service beside it.

#[path = "bare/constant.rs"]
mod constant;

use std::{env, error::Error};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: bare_plain ADDRESS")?.parse()?;
    Ok(tonic::transport::Server::builder().add_service(constant::service()).serve(address).await?)
}
