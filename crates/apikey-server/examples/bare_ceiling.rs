//! The most that tonic can do here: a bare handler on the runtimes, with the HTTP settings and the allocator and by the profile of the
//! service, and with nothing around a connection or a call. `cargo xtask bench` measures the service beside it.

#[path = "bare/constant.rs"]
mod constant;

use std::{env, error::Error, sync::Arc};

use apikey_grpc::listener::{self, ConnectionLimits};
use apikey_server::Runtimes;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use mimalloc::MiMalloc;
use tokio::net::{TcpListener, TcpStream};
use tonic::service::Routes;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: bare_ceiling ADDRESS")?;
    let runtimes = Runtimes::start()?;
    runtimes.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let mut http = listener::http(&ConnectionLimits::default());
        // The service's own answers have a date too.
        http.http2().auto_date_header(true);
        let http = Arc::new(http);
        let routes = Routes::new(constant::service()).prepare();
        for worker in runtimes.serving().iter().cycle() {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (stream, service) = (stream.into_std()?, TowerToHyperService::new(routes.clone()));
            let http = Arc::clone(&http);
            worker.spawn(async move {
                let stream = TokioIo::new(TcpStream::from_std(stream)?);
                // A peer that breaks off is the bench's own, at its end.
                drop(http.serve_connection(stream, service).await);
                std::io::Result::Ok(())
            });
        }
        Ok(())
    })
}
