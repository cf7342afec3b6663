//! PostgreSQL with its ordinary, durable settings, in containers that can be killed, started again, followed by a standby and
//! promoted. Knows the schema where what is stored is looked at, and no replica.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, Command as BlockingCommand, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{process::Command, time::sleep};
use tokio_postgres::{Client, NoTls};

/// It protects nothing.
const PASSWORD: &str = "chaos";
const PORT: u16 = 5432;

/// Three replicas' pools and ours; a standby must allow as many as its primary.
const CONNECTIONS: &str = "max_connections=300";

/// How often, with a pause of 50 ms, a server is asked whether it answers: a minute.
const LOOKS: u32 = 1_200;

/// A standby is a copy of the primary, made before the image's own program starts it. Both images are served: the official one,
/// and the one that `cargo xtask setup` makes.
const STANDBY: &str = "set -e
mkdir -p \"$PGDATA\"
pg_basebackup --dbname \"host=$PRIMARY user=postgres application_name=standby\" \
    --pgdata \"$PGDATA\" --wal-method stream --checkpoint fast --write-recovery-conf
chown -R postgres:postgres \"$PGDATA\"
chmod 0700 \"$PGDATA\"
for program in postgres-entrypoint docker-entrypoint.sh; do
    if command -v \"$program\" > /dev/null; then exec \"$program\" postgres \"$@\"; fi
done
exit 1";

/// A server in a container, which is removed however this process ends.
pub(crate) struct Server {
    container: String,
    reaper: Reaper,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(crate) async fn start(image: &str) -> Result<Self> {
        let password = format!("POSTGRES_PASSWORD={PASSWORD}");
        let server = Self::run(&["--env", &password, image, "postgres", "-c", CONNECTIONS]).await?;
        server.wait().await?;
        server.sql("postgres", &format!("CREATE ROLE apikeys LOGIN PASSWORD '{PASSWORD}'")).await?;
        Ok(server)
    }

    /// Starts a synchronous standby of that server, and waits until commits wait for it.
    pub(crate) async fn start_standby(image: &str, primary: &Self) -> Result<Self> {
        primary.exec(&["sh", "-c", "echo 'host replication all all scram-sha-256' >> \"$PGDATA/pg_hba.conf\""]).await?;
        primary.sql("postgres", "SELECT pg_reload_conf()").await?;
        let (address, password) =
            (format!("PRIMARY={}", primary.address().await?.ip()), format!("PGPASSWORD={PASSWORD}"));
        let standby = Self::run(&[
            "--env",
            &address,
            "--env",
            &password,
            "--entrypoint",
            "sh",
            image,
            "-c",
            STANDBY,
            "sh",
            "-c",
            CONNECTIONS,
        ])
        .await?;
        standby.wait().await?;
        primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'").await?;
        primary.sql("postgres", "SELECT pg_reload_conf()").await?;
        for _ in 0..LOOKS {
            if primary.sql("postgres", "SELECT sync_state FROM pg_stat_replication").await? == "sync" {
                return Ok(standby);
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("the standby does not follow")
    }

    async fn run(arguments: &[&str]) -> Result<Self> {
        let container = docker(&[&["run", "--detach", "--shm-size", "256m"], arguments].concat()).await?;
        let reaper = Reaper::of(&container)?;
        Ok(Self { container, reaper })
    }

    /// Where it listens: the container's own address, so that no proxy but ours is in between. Another one after a new start.
    pub(crate) async fn address(&self) -> Result<SocketAddr> {
        let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address: IpAddr = docker(&["inspect", "--format", template, &self.container]).await?.parse()?;
        Ok(SocketAddr::new(address, PORT))
    }

    /// Makes a database that the service's own role owns.
    pub(crate) async fn create(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER apikeys")).await.map(drop)
    }

    /// The URL of a database at an address that leads to this server.
    pub(crate) fn url(address: SocketAddr, name: &str, parameters: &str) -> String {
        format!("postgres://apikeys:{PASSWORD}@{address}/{name}?sslmode=disable{parameters}")
    }

    /// A connection of the administrator.
    pub(crate) async fn connect(&self, name: &str) -> Result<Client> {
        let address = self.address().await?;
        let url = format!("postgres://postgres:{PASSWORD}@{address}/{name}?sslmode=disable&connect_timeout=5");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        // Its end shows in the client.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Makes a database from a dump of another one.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.create(to).await?;
        let copy = "pg_dump --username postgres --format custom \"$0\" | pg_restore --username postgres --exit-on-error --dbname \"$1\"";
        self.exec(&["sh", "-c", copy, from, to]).await.map(drop)
    }

    /// Runs SQL as the administrator, and returns what it answered.
    pub(crate) async fn sql(&self, name: &str, sql: &str) -> Result<String> {
        let psql = ["psql", "--username", "postgres", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"];
        self.exec(&[&psql[..], &["--set", "ON_ERROR_STOP=1", "--dbname", name, "--command", sql]].concat()).await
    }

    /// Stops the process that writes to the log what nobody waits for: whoever commits without waiting loses it with the memory,
    /// and for whoever waits nothing changes.
    pub(crate) async fn stop_lazy_writer(&self) -> Result<()> {
        let id = self.sql("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").await?;
        self.exec(&["sh", "-c", "kill -STOP \"$0\"", &id]).await.map(drop)
    }

    /// Ends all its processes at once, as a loss of power does.
    pub(crate) async fn kill(&self) -> Result<()> {
        docker(&["kill", "--signal", "KILL", &self.container]).await?;
        let running = docker(&["inspect", "--format", "{{.State.Running}}", &self.container]).await?;
        ensure!(running == "false", "PostgreSQL runs although it was killed");
        Ok(())
    }

    /// Starts it again after it was killed, and waits until it answers.
    pub(crate) async fn start_again(&self) -> Result<()> {
        docker(&["start", &self.container]).await?;
        self.wait().await
    }

    /// Makes a standby a primary.
    pub(crate) async fn promote(&self) -> Result<()> {
        let promoted = self.sql("postgres", "SELECT pg_promote()").await?;
        ensure!(promoted == "t", "the standby was not promoted: {promoted}");
        Ok(())
    }

    async fn wait(&self) -> Result<()> {
        for _ in 0..LOOKS {
            // Over TCP: the official image first starts a server for its own use, on a socket alone.
            if self.exec(&["pg_isready", "--quiet", "--host", "127.0.0.1", "--username", "postgres"]).await.is_ok() {
                return Ok(());
            }
            if docker(&["inspect", "--format", "{{.State.Running}}", &self.container]).await? != "true" {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("PostgreSQL does not answer: {}", self.log().await?)
    }

    /// The last that it has logged.
    async fn log(&self) -> Result<String> {
        let output = Command::new("docker").args(["logs", "--tail", "5", &self.container]).output().await?;
        Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    async fn exec(&self, arguments: &[&str]) -> Result<String> {
        docker(&[&["exec", &self.container], arguments].concat()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.reaper.reap();
    }
}

async fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().await.context("docker")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let action = arguments.first().copied().unwrap_or_default();
    ensure!(output.status.success(), "docker {action}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Removes a container when this process ends, even if it is killed: it waits for the end of its input, which then comes.
struct Reaper {
    process: Child,
    input: Option<ChildStdin>,
}

impl Reaper {
    fn of(container: &str) -> Result<Self> {
        let mut command = BlockingCommand::new("sh");
        command
            .args(["-c", "cat > /dev/null; exec docker rm --force --volumes \"$0\"", container])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // An interrupt from the terminal goes to the whole process group; this process must outlive it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().context("there is no shell")?;
        let input = process.stdin.take();
        Ok(Self { process, input })
    }

    fn reap(&mut self) {
        drop(self.input.take());
        self.process.wait().ok();
    }
}
