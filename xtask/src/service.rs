//! The service as a process of its own, for the tasks that drive it from outside: on free ports of loopback, with an empty
//! SQLite database unless a PostgreSQL URL is given.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{Ended, output, succeeds},
    workspace,
};

/// A running service; it is ended when this is dropped.
pub(crate) struct Service {
    process: Ended,
    /// Where `ApiKeyService` listens.
    pub(crate) public: SocketAddr,
    /// Where `ApiKeyVerificationService` listens.
    pub(crate) verification: SocketAddr,
    /// Where metrics and probes are.
    pub(crate) admin: SocketAddr,
    /// The management key that was issued before the start, where one was asked for.
    pub(crate) bootstrap_key: Option<String>,
}

/// How a service is started.
pub(crate) struct Start<'a> {
    /// The executable.
    pub(crate) binary: &'a Path,
    /// SQLite's data directory, made where there is none; also where the log is written.
    pub(crate) folder: &'a Path,
    /// Settings by variable, besides the listeners.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    /// Whether a management key of the organization `default` is issued first.
    pub(crate) expects_key: bool,
}

/// Issues a management key for an organization of the service that is, or will be, started so. With SQLite it must not run.
///
/// # Errors
/// `apikeys bootstrap` fails.
pub(crate) fn bootstrap(binary: &Path, folder: &Path, settings: &[(&str, &str)], organization: &str) -> Result<String> {
    let mut command = Command::new(binary);
    // The database is in a container of this machine, under an address of its own.
    command.args(["bootstrap", "--organization", organization, "--database-allow-unverified"]);
    command.env("APIKEYS_DATA_DIR", folder.join("data"));
    output(command.envs(settings.iter().copied()))
}

impl Service {
    /// Starts a service and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within half a minute; the error names the log.
    pub(crate) fn start(start: &Start<'_>) -> Result<Self> {
        let [public, verification, admin] = [free_address()?, free_address()?, free_address()?];
        fs::create_dir_all(start.folder)?;
        let log = start.folder.join("service.log");
        let mut command = Command::new(start.binary);
        command
            .arg("serve")
            .env("APIKEYS_DATA_DIR", start.folder.join("data"))
            // The database is in a container of this machine, under an address of its own.
            .env("APIKEYS_DATABASE_ALLOW_UNVERIFIED", "true")
            .env("APIKEYS_LISTEN", public.to_string())
            .env("APIKEYS_VERIFY_LISTEN", verification.to_string())
            .env("APIKEYS_ADMIN_LISTEN", admin.to_string())
            .envs(start.settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let issue = || bootstrap(start.binary, start.folder, start.settings, "default");
        let bootstrap_key = start.expects_key.then(issue).transpose()?;
        let process = command.spawn().with_context(|| format!("cannot start {}", start.binary.display()))?;
        let mut service = Self { process: Ended(process), public, verification, admin, bootstrap_key };
        service.wait_until_ready().with_context(|| format!("see {}", log.display()))?;
        Ok(service)
    }

    /// The most memory that ever was resident, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        memory(self.process_id(), "VmHWM:")
    }

    /// The service's process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        for _ in 0..600 {
            if let Some(status) = self.process.0.try_wait()? {
                bail!("the service ended: {status}");
            }
            if self.is_ready() {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
        bail!("the service did not become ready")
    }

    fn is_ready(&self) -> bool {
        TcpStream::connect(self.admin).is_ok()
            && succeeds(Command::new("curl").args(["--silent", "--fail"]).arg(format!("http://{}/readyz", self.admin)))
    }
}

/// A process's memory in bytes: `VmRSS:` is what is resident now, `VmHWM:` the most that ever was (proc(5)).
pub(crate) fn memory(process: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kibibytes: f64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1_024.0)
}

/// An address of loopback that nobody listened on a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// An empty folder below `target/`.
pub(crate) fn empty_folder(name: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("xtask").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
