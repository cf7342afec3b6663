//! PostgreSQL in a container, for tests: one server for all tests of a process, a fresh database for each. Knows no schema and
//! no driver: whatever must be done as the server's administrator is done by `psql` inside the container.
//!
//! All functions block, and can be called from any thread, a runtime's too. Where there is no engine or no image they panic
//! and say how to get them: a test is never passed over.

use std::{
    collections::HashMap,
    mem::ManuallyDrop,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use testcontainers::{
    Container, GenericImage, ImageExt as _, bollard::models::PortBinding, core::ExecCommand,
    core::IntoContainerPort as _, runners::SyncRunner as _,
};

/// The variable that names the image (`name:tag`).
const IMAGE_VARIABLE: &str = "APIKEYS_TEST_POSTGRES_IMAGE";

/// The official image; any other must take the same variables and arguments.
const DEFAULT_IMAGE: &str = "postgres:17-alpine";

/// Where PostgreSQL listens inside the container.
const PORT: u16 = 5432;

/// The password of the administrator and of the tests' own role. It protects nothing; tests look for it where it must not be.
pub const PASSWORD: &str = "not-to-be-shown-4711";

/// What the server of all tests runs with: as fast as can be, since nobody needs what is left after a crash of it.
const FAST: [&str; 8] =
    ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300", "-c", "shared_buffers=64MB"];

/// How long the server may take to answer for the first time, in steps of 100 ms: the first start makes the cluster.
const START_STEPS: usize = 600;

/// A server in a container of its own. The container is removed when this is dropped, or when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct TestServer {
    // Never dropped: testcontainers' own way of removing it blocks, which a thread of a runtime must not. The reaper does it.
    container: ManuallyDrop<Container<GenericImage>>,
    port: u16,
    databases: AtomicU64,
    reaper: Reaper,
}

impl TestServer {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&FAST))
    }

    /// Starts a server with these arguments, `["-c", "log_statement=all"]` say; durable unless they say otherwise.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let (container, reaper) = elsewhere(|| {
            let container = run(arguments);
            let reaper = Reaper::of(container.id());
            (container, reaper)
        });
        let port = elsewhere(|| container.get_host_port_ipv4(PORT.tcp()).expect("the port was published"));
        let server = Self { container: ManuallyDrop::new(container), port, databases: AtomicU64::new(0), reaper };
        server.wait();
        server.psql("postgres", &format!("CREATE ROLE apikeys LOGIN PASSWORD '{PASSWORD}'"));
        server
    }

    /// A fresh and empty database.
    pub fn database(&self) -> TestDatabase {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name} OWNER apikeys"));
        TestDatabase { url: format!("postgres://apikeys:{PASSWORD}@127.0.0.1:{}/{name}", self.port), name }
    }

    /// Runs SQL as the administrator and returns what it printed: rows on lines, columns between `|`.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        match self.exec(&[
            "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            sql,
        ]) {
            (0, out, _) => out.trim_end().to_owned(),
            (_, _, error) => panic!("psql: {error}\nin {sql}"),
        }
    }

    /// All that the server has logged so far.
    pub fn log(&self) -> String {
        elsewhere(|| {
            let out = self.container.stdout_to_vec().expect("the engine returns the log");
            let error = self.container.stderr_to_vec().expect("the engine returns the log");
            [out, error].iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
        })
    }

    /// Kills one of the server's processes, upon which it closes all connections at once and starts anew. Returns when it
    /// answers again.
    pub fn crash(&self) {
        let process =
            self.psql("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'");
        let (code, _, error) = self.exec(&["sh", "-c", &format!("kill -9 {process}")]);
        assert_eq!(code, 0, "{error}");
        // The old process has gone, and the new one is there, when its successor can be seen.
        for _ in 0..START_STEPS {
            let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'";
            if let (0, out, _) = self.exec(&["psql", "-X", "-A", "-t", "-U", "postgres", "-c", sql])
                && !out.trim().is_empty()
                && out.trim() != process
            {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the server did not come back:\n{}", self.log());
    }

    /// Stops every process of the server where it stands, without closing a connection; the returned value lets them go on.
    pub fn pause(&self) -> Paused<'_> {
        docker(&["pause", self.container.id()]);
        Paused(self)
    }

    fn wait(&self) {
        for _ in 0..START_STEPS {
            // Over TCP: the official image first starts a server for its own use, on a socket alone.
            if let (0, _, _) = self.exec(&["pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres"]) {
                return;
            }
            assert!(elsewhere(|| self.container.is_running()).unwrap_or(false), "the server ended:\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not answer:\n{}", self.log());
    }

    /// Runs a program in the container: its exit code, what it printed, and what it complained of.
    fn exec(&self, command: &[&str]) -> (i64, String, String) {
        elsewhere(|| {
            let mut done = self.container.exec(ExecCommand::new(command.iter().copied())).expect("the engine runs it");
            let out = done.stdout_to_vec().expect("the engine returns its output");
            let error = done.stderr_to_vec().expect("the engine returns its output");
            let code = done.exit_code().expect("the engine returns its exit code").unwrap_or(-1);
            (code, String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&error).into_owned())
        })
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.reaper.reap();
    }
}

/// The server stands still while this lives.
#[derive(Debug)]
#[must_use = "the server stands still only while this lives"]
pub struct Paused<'a>(&'a TestServer);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        docker(&["unpause", self.0.container.id()]);
    }
}

/// A database that one test has for itself.
#[derive(Clone, Debug)]
pub struct TestDatabase {
    url: String,
    name: String,
}

impl TestDatabase {
    /// A fresh and empty database of the server that all tests share.
    #[must_use]
    pub fn create() -> Self {
        TestServer::shared().database()
    }

    /// Where it is, with the name and the password of an ordinary role that owns it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn run(arguments: &[&str]) -> Container<GenericImage> {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, which this fixture owns")]
    let image = std::env::var(IMAGE_VARIABLE).unwrap_or_else(|_| DEFAULT_IMAGE.to_owned());
    let (name, tag) = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (&*image, "latest"),
    };
    let request = GenericImage::new(name, tag)
        .with_exposed_port(PORT.tcp())
        .with_env_var("POSTGRES_PASSWORD", PASSWORD)
        .with_host_config_modifier(|host| {
            // Published on the loopback interface alone, at a port that the engine chooses.
            host.publish_all_ports = Some(false);
            let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
            host.port_bindings = Some(HashMap::from([(PORT.tcp().to_string(), Some(vec![binding]))]));
        });
    let request =
        if arguments.is_empty() { request } else { request.with_cmd(["postgres"].iter().chain(arguments).copied()) };
    request.start().unwrap_or_else(|error| {
        panic!(
            "PostgreSQL cannot be started in a container from the image {image}: {error}\n\
             `cargo xtask setup` brings a container engine and an image; `{IMAGE_VARIABLE}` names another image."
        )
    })
}

/// Removes a container when this process ends, even if it is killed: it waits for the end of its input, which then comes.
#[derive(Debug)]
struct Reaper {
    process: Child,
    input: Option<ChildStdin>,
}

impl Reaper {
    fn of(container: &str) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "cat > /dev/null; exec docker rm --force --volumes \"$0\"", container])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // An interrupt from the terminal goes to the whole process group; this process must outlive it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().expect("there is a shell");
        let input = process.stdin.take();
        Self { process, input }
    }

    fn reap(&mut self) {
        drop(self.input.take());
        self.process.wait().ok();
    }
}

fn docker(arguments: &[&str]) {
    let output = Command::new("docker").args(arguments).output().expect("docker is in the path");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs this on a thread of its own: testcontainers brings a runtime, and none can run inside another.
fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
