//! What one call costs the server by each protocol: its CPU time, beside that of gRPC, in turn on one process.

use std::{future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tonic::{
    Request, client::Grpc, codegen::http::uri::PathAndQuery, metadata::AsciiMetadataValue, transport::Channel,
};
use tonic_prost::ProstCodec;

use super::{
    processes::cpu_seconds,
    report::{Report, median},
};
use crate::service::{Service, Start};

/// A call of the framework alone, and one that authenticates its caller and reads the store twice. Both take an empty message.
const METHODS: [(&str, &str); 2] =
    [("Health/Check", "/grpc.health.v1.Health/Check"), ("ListApiKeys", "/pidgr.v1.ApiKeyService/ListApiKeys")];
/// Protocols over HTTP/1.1: their names, content types and empty messages.
const OTHERS: [(&str, &str, &[u8]); 3] = [
    ("Connect protobuf", "application/proto", b""),
    ("Connect JSON", "application/json", b"{}"),
    ("gRPC-Web", "application/grpc-web+proto", &[0, 0, 0, 0, 0]),
];
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

type Call = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

pub(crate) fn measure(binary: &Path, folder: &Path, report: &mut Report) -> Result<()> {
    let folder = folder.join("protocols");
    let service = Service::start(&Start {
        binary,
        folder: &folder,
        settings: &[("APIKEYS_LOG_LEVEL", "warn")],
        expects_key: true,
    })?;
    let key = service.bootstrap_key.clone().context("no bootstrap key")?;
    let endpoint = format!("http://{}", service.public);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(compare(&service, &endpoint, &key, report))
}

async fn compare(service: &Service, endpoint: &str, key: &str, report: &mut Report) -> Result<()> {
    for (method, path) in METHODS {
        let mut protocols = vec![("gRPC", by_grpc(endpoint, key, path).await?)];
        for (name, content_type, message) in OTHERS {
            protocols.push((name, by_http(endpoint, key, path, content_type, message)?));
        }
        let mut costs = vec![Vec::new(); protocols.len()];
        for _ in 0..ROUNDS {
            for ((_, callers), costs) in protocols.iter().zip(&mut costs) {
                costs.push(cost(service, callers).await?);
            }
        }
        let medians: Vec<f64> = costs.into_iter().map(median).collect();
        let grpc = medians.first().copied().context("no figure")?;
        for (name, cost) in protocols.iter().map(|(name, _)| *name).zip(medians) {
            report.add(format!("server CPU of one {method} by {name}"), cost, "µs");
            if name != "gRPC" {
                report.add(format!("server CPU of one {method}, {name} / gRPC"), cost / grpc, "x");
            }
        }
    }
    Ok(())
}

/// Microseconds of the server's CPU for one call, each caller on a connection of its own and one call at a time.
async fn cost(service: &Service, callers: &[Call]) -> Result<f64> {
    let before = cpu_seconds(service.process_id())?;
    let started = super::now();
    let tasks: Vec<_> = callers
        .iter()
        .cloned()
        .map(|call| {
            tokio::spawn(async move {
                let mut calls = 0_u32;
                while started.elapsed() < ROUND {
                    call().await?;
                    calls += 1;
                }
                anyhow::Ok(calls)
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await??;
    }
    Ok((cpu_seconds(service.process_id())? - before) * 1_000_000.0 / f64::from(calls))
}

async fn by_grpc(endpoint: &str, key: &str, path: &'static str) -> Result<Vec<Call>> {
    let credential: AsciiMetadataValue = key.parse()?;
    let mut callers: Vec<Call> = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = Channel::from_shared(endpoint.to_owned())?.connect().await?;
        let credential = credential.clone();
        callers.push(Arc::new(move || {
            let mut client = Grpc::new(channel.clone());
            let mut request = Request::new(());
            request.metadata_mut().insert("x-api-key", credential.clone());
            Box::pin(async move {
                client.ready().await?;
                client.unary(request, PathAndQuery::from_static(path), ProstCodec::<(), ()>::default()).await?;
                Ok(())
            })
        }));
    }
    Ok(callers)
}

fn by_http(
    endpoint: &str,
    key: &str,
    path: &str,
    content_type: &'static str,
    message: &'static [u8],
) -> Result<Vec<Call>> {
    let mut callers: Vec<Call> = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = reqwest::Client::builder().build()?;
        let request =
            client.post(format!("{endpoint}{path}")).header("content-type", content_type).header("x-api-key", key);
        let request = request.body(message).build()?;
        callers.push(Arc::new(move || {
            let (client, request) = (client.clone(), request.try_clone());
            Box::pin(async move {
                let answer = client.execute(request.context("a body of bytes can be sent again")?).await?;
                ensure!(answer.status().is_success(), "answered {}", answer.status());
                answer.bytes().await?;
                Ok(())
            })
        }));
    }
    Ok(callers)
}
