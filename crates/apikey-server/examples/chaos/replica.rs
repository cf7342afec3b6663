//! A replica: the executable as a process of its own, at addresses that stay when it is started again, with its own link to
//! the database. Knows nothing of what it answers.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{database::Server, proxy::Link};

/// How long a replica may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// What is run as a replica.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The executable.
    pub(crate) path: PathBuf,
    /// The name under which it is run, where it is not its own: it tells the example `misbehaving` how.
    pub(crate) name: Option<&'static str>,
}

/// A replica, running or not.
pub(crate) struct Replica {
    pub(crate) link: Link,
    pub(crate) public: SocketAddr,
    pub(crate) verification: SocketAddr,
    admin: SocketAddr,
    program: Program,
    settings: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Child>,
}

impl Replica {
    /// A replica that does not run yet, with that link to that database; its log is at that path.
    pub(crate) fn new(program: Program, link: Link, database: &str, parameters: &str, log: PathBuf) -> Result<Self> {
        let [public, verification, admin] = [free_address()?, free_address()?, free_address()?];
        let settings = [
            ("APIKEYS_DATABASE_URL", Server::url(link.address, database, parameters)),
            ("APIKEYS_LISTEN", public.to_string()),
            ("APIKEYS_VERIFY_LISTEN", verification.to_string()),
            ("APIKEYS_ADMIN_LISTEN", admin.to_string()),
            ("APIKEYS_LOG_FORMAT", "json".to_owned()),
            // Often, so that uses are written while faults last.
            ("APIKEYS_USAGE_FLUSH_INTERVAL", "1s".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Self { link, public, verification, admin, program, settings, log, process: None })
    }

    /// Sets a variable for later starts.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.settings.retain(|(name, _)| name != variable);
        self.settings.push((variable.to_owned(), value.to_owned()));
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the replica runs already");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program.path);
        if let Some(name) = self.program.name {
            command.arg0(name);
        }
        command.arg("serve").env_clear().envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("cannot start {}", self.program.path.display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start_and_wait(&mut self) -> Result<()> {
        self.start()?;
        self.wait_until_ready().await
    }

    /// Waits until it is ready.
    pub(crate) async fn wait_until_ready(&mut self) -> Result<()> {
        let waiting = async {
            while !is_ready(self.admin).await {
                if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().transpose()) {
                    bail!("it ended: {}", status?);
                }
                sleep(PAUSE).await;
            }
            Ok(())
        };
        let ready = timeout(PATIENCE, waiting).await.context("it does not become ready").flatten();
        ready.with_context(|| format!("see {}", self.log.display()))
    }

    /// What a gauge without labels shows.
    pub(crate) async fn gauge(&self, name: &str) -> Result<f64> {
        let answer = get(self.admin, "/metrics").await?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.with_context(|| format!("there is no {name}"))?.trim().parse().context("no number")
    }

    /// Whether it runs.
    pub(crate) const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Ends it as the kernel does when memory is out.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the replica does not run")?;
        process.kill().await.context("the replica cannot be killed")
    }

    /// Ends it as an operator does, and waits.
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        let mut process = self.process.take().context("the replica does not run")?;
        let status = timeout(PATIENCE, process.wait()).await.context("the replica does not end")??;
        ensure!(status.success(), "the replica did not end well: {status}; see {}", self.log.display());
        Ok(status)
    }

    /// Stops it where it stands, and makes sure that it does.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.signal("STOP").await?;
        let stopped = async {
            while !self.is_stopped() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, stopped).await.context("the replica was not stopped")
    }

    /// Lets it go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        ensure!(self.is_stopped(), "the replica was not stopped all the time");
        self.signal("CONT").await
    }

    /// Whether it stands still: proc(5).
    pub(crate) fn is_stopped(&self) -> bool {
        let Some(id) = self.process.as_ref().and_then(Child::id) else { return false };
        let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        status.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
    }

    async fn signal(&self, name: &str) -> Result<()> {
        let id = self.process.as_ref().and_then(Child::id).context("the replica does not run")?;
        let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().await?;
        ensure!(status.success(), "kill -{name} failed");
        Ok(())
    }
}

/// Whether `/readyz` answers 200.
async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").await.is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

/// What the admin listener answers, as it comes.
async fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let answered = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(Duration::from_secs(1), answered).await.context("the admin listener does not answer")?
}

/// An address of loopback that nobody listens on, and that no connection gets by itself while a replica is away: below the ports
/// that Linux gives to connections.
fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 8_000)? + 20_000;
    for _ in 0..4_000 {
        let address = SocketAddr::from(([127, 0, 0, 1], first + NEXT.fetch_add(1, Ordering::Relaxed) % 4_000));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}

/// Issues a key for an organization by the command for it; returns the key.
pub(crate) async fn bootstrap(program: &Path, url: &str, organization: &str) -> Result<String> {
    let mut command = Command::new(program);
    // The server is in a container of this machine, under an address of its own.
    command
        .args(["bootstrap", "--organization", organization, "--database-allow-unverified"])
        .env_clear()
        .env("APIKEYS_DATABASE_URL", url);
    let output = command.stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What the executable says of its settings.
pub(crate) async fn settings_reference(program: &Path) -> Result<String> {
    let output = Command::new(program).args(["config", "--reference"]).env_clear().output().await?;
    ensure!(output.status.success(), "{} tells no settings", program.display());
    Ok(String::from_utf8(output.stdout)?)
}
