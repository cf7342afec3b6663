//! What is measured: the service, and the two bare servers beside it, each as a process on the one core that is the servers'.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::processes::on_core,
    process::{Ended, command, run},
    service::{Service, Start, free_address},
    workspace,
};

/// The core of the servers.
pub(crate) const CORE: usize = 0;

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Whether it answers each key alike.
    pub(crate) constant: bool,
    running: Running,
}

enum Running {
    Bare(Ended),
    Service(Service),
}

impl Server {
    /// Starts a bare server and waits until it listens.
    pub(crate) fn bare(name: &'static str, binary: &Path) -> Result<Self> {
        let address = free_address()?;
        let process = on_core(CORE, || {
            let mut bare = Command::new(binary);
            bare.arg(address.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
            bare.spawn().with_context(|| format!("cannot start {}", binary.display()))
        })?;
        let mut process = Ended(process);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.0.try_wait()? {
                bail!("{} ended: {status}", binary.display());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(Self { name, address, constant: true, running: Running::Bare(process) })
    }

    /// Starts a service on that database and waits until it is ready.
    pub(crate) fn service(name: &'static str, binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let folder = folder.join(name.replace(' ', "-"));
        let start = Start { binary, folder: &folder, settings, expects_key: false };
        let service = on_core(CORE, || Service::start(&start))?;
        Ok(Self { name, address: service.verification, constant: false, running: Running::Service(service) })
    }

    pub(crate) fn process_id(&self) -> u32 {
        match &self.running {
            Running::Bare(process) => process.0.id(),
            Running::Service(service) => service.process_id(),
        }
    }
}

/// Builds the bare servers: the ceiling by the profile of what is shipped, the other one by the default profile.
pub(crate) fn build_bare() -> Result<(PathBuf, PathBuf)> {
    let build = ["build", "--quiet", "--package", "apikey-server"];
    run(command("cargo", build).args(["--profile", "dist", "--example", "bare_ceiling"]))?;
    run(command("cargo", build).args(["--release", "--example", "bare_plain"]))?;
    let target = workspace::target();
    Ok((target.join("dist/examples/bare_ceiling"), target.join("release/examples/bare_plain")))
}
