//! The Connect project's conformance service behind this crate's own protocols, layers and listener, as its suite starts it: one
//! request on standard input says how to serve, one answer on standard output says where.
//!
//! For `cargo xtask conformance`, which generates the code that this includes. The service itself is the suite's, not ours; around
//! it stands what stands around the product's. Two adapters take away what the product adds on purpose and the suite does not
//! expect: the `google.rpc` details of every error.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, bail};
use apikey_application::ports::{Entropy, EntropyError};
use apikey_grpc::{
    CallLimits, RequestIds, TlsIdentity,
    listener::{ConnectionLimits, serve_with},
    surrounded,
    web::{Web, WebOptions},
};
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::service::Routes;

#[path = "conformance/adapters.rs"]
mod adapters;
#[path = "conformance/service.rs"]
mod service;

/// The suite's messages and service, generated from its own proto files.
mod pb {
    #![expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    #![allow(dead_code, unreachable_pub, reason = "generated; much of it is for the suite's clients")]
    include!(env!("APIKEYS_CONFORMANCE_CODE"));
}

const DESCRIPTORS: &[u8] = include_bytes!(env!("APIKEYS_CONFORMANCE_DESCRIPTORS"));
const SERVICE: &str = "connectrpc.conformance.v1.ConformanceService";

/// As in the product, unless the suite asks for another limit.
const MAX_MESSAGE_SIZE: usize = 64 * 1024;

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        buffer.fill(1);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let request = read()?;
    let (tls, pem_cert) = match request.server_creds {
        Some(credentials) if request.use_tls => {
            (Some(TlsIdentity::from_pem(&credentials.cert, &credentials.key)?), credentials.cert)
        }
        _ if request.use_tls => bail!("TLS is asked for, and there is no certificate"),
        _ => (None, Vec::new()),
    };
    let max_message_size = match usize::try_from(request.message_receive_limit)? {
        0 => MAX_MESSAGE_SIZE,
        limit => limit,
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let SocketAddr::V4(address) = listener.local_addr()? else { bail!("the address is not the one asked for") };

    let request_ids = RequestIds::new(&Fixed)?;
    let routes = adapters::Marked::new(Routes::new(service::server(max_message_size)).prepare());
    let calls = surrounded(routes, &[DESCRIPTORS], &[SERVICE], request_ids.clone(), CallLimits::default())?;
    let limits = CallLimits::default();
    let options = WebOptions {
        descriptor_sets: &[DESCRIPTORS],
        services: &[SERVICE],
        guarded: "",
        max_message_size,
        patience: limits.revoke_deadline + limits.deadline,
    };
    let web = Web::new(adapters::Stripped::new(calls), request_ids, options)?;

    write(&pb::ServerCompatResponse { host: address.ip().to_string(), port: address.port().into(), pem_cert })?;
    // The suite ends the process.
    let service = TowerToHyperService::new(adapters::Plain::new(web));
    serve_with(listener, tls, |_| service.clone(), ConnectionLimits::default(), std::future::pending()).await;
    Ok(())
}

/// A message of the suite: its length in four bytes, and itself.
fn read() -> Result<pb::ServerCompatRequest> {
    let mut length = [0; 4];
    let mut input = std::io::stdin().lock();
    input.read_exact(&mut length).context("nothing says how to serve")?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    input.read_exact(&mut message)?;
    Ok(pb::ServerCompatRequest::decode(message.as_slice())?)
}

fn write(response: &pb::ServerCompatResponse) -> Result<()> {
    let message = response.encode_to_vec();
    let mut output = std::io::stdout().lock();
    output.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    output.write_all(&message)?;
    Ok(output.flush()?)
}
