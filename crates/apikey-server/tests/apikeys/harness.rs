//! Starts the executable, talks to it, and ends it. Nothing here waits for a fixed time: it looks again and again.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use apikey_testing::postgres::TestDatabase;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// How often something is looked at before a test gives up, and how long it pauses in between: a minute.
const LOOKS: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until there is something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = look() {
            return found;
        }
        thread::sleep(PAUSE);
    }
    panic!("{what}: it did not come to pass");
}

/// A folder of its own for each test, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("apikeys-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The executable with an environment that holds nothing but what the test gives it.
pub(crate) fn apikeys(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apikeys"));
    command.env_clear().envs(variables.iter().copied()).args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end, with that on its standard input.
pub(crate) fn run(mut command: Command, input: &str) -> Done {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // Whoever does not read it closes it.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    Done::from(child.wait_with_output().unwrap())
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Done {
    /// The JSON on standard output of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Which database a test runs on.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(Arc<Folder>),
    Postgres(TestDatabase),
    /// The one that the test's own settings name.
    Elsewhere,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(Arc::new(Folder::new()))
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(TestDatabase::create())
    }

    /// The settings that name it.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        match self {
            Self::Sqlite(folder) => vec![("APIKEYS_DATA_DIR".to_owned(), folder.text())],
            Self::Elsewhere => Vec::new(),
            Self::Postgres(database) => vec![("APIKEYS_DATABASE_URL".to_owned(), database.url().to_owned())],
        }
    }
}

/// A running service.
pub(crate) struct Server {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    pub(crate) listen: String,
    pub(crate) verify_listen: String,
    pub(crate) admin_listen: String,
    first_key: Option<String>,
}

/// Lines that a process has written, and goes on writing.
struct Captured {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    paused: Arc<AtomicBool>,
}

/// Nothing more is read of a stream until this is dropped.
pub(crate) struct Unread(Arc<AtomicBool>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Captured {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let paused = Arc::new(AtomicBool::new(false));
        let is_paused = Arc::clone(&paused);
        let reader = thread::spawn(move || {
            // A terminal that nobody has open any more ends with an error.
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
                while is_paused.load(Ordering::Relaxed) {
                    thread::sleep(PAUSE);
                }
            }
        });
        Self { lines, reader: Some(reader), paused }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Everything that a process which has ended wrote.
    fn all(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.lines()
    }
}

impl Server {
    /// Starts the service on that database with these further settings, and waits until it serves.
    pub(crate) fn start(database: &Database, settings: &[(&str, &str)]) -> Self {
        Self::try_start(database, settings).unwrap_or_else(|done| panic!("it does not serve: {done:?}"))
    }

    /// Issues a management key of the organization `default`, and starts the service on that database.
    pub(crate) fn start_with_key(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut command = apikeys(settings, &["bootstrap", "--organization", "default"]);
        command.envs(database.settings());
        let done = run(command, "");
        assert_eq!(done.code, 0, "{done:?}");
        let mut server = Self::start(database, settings);
        server.first_key = Some(done.stdout.trim_end().to_owned());
        server
    }

    /// The same as [`Server::start`], or what it left behind when it ended instead.
    pub(crate) fn try_start(database: &Database, settings: &[(&str, &str)]) -> Result<Self, Done> {
        let mut child = Self::command(database, settings).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = Captured::of(child.stdout.take().unwrap());
        Self::over(child, stdout)
    }

    /// The same as [`Server::start`], with a terminal as standard output.
    pub(crate) fn start_on_terminal(database: &Database) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let terminal = fs::File::options().read(true).write(true).open(path).unwrap();
        let child = Self::command(database, &[]).stdout(terminal).spawn().expect("it starts");
        let server = Self::over(child, Captured::of(fs::File::from(controller)));
        server.unwrap_or_else(|done| panic!("it does not serve: {done:?}"))
    }

    fn command(database: &Database, settings: &[(&str, &str)]) -> Command {
        let mut command = apikeys(settings, &["serve"]);
        for variable in ["APIKEYS_LISTEN", "APIKEYS_VERIFY_LISTEN", "APIKEYS_ADMIN_LISTEN"] {
            if !settings.iter().any(|(name, _)| *name == variable) {
                command.env(variable, "127.0.0.1:0");
            }
        }
        command.envs(database.settings()).stderr(Stdio::piped());
        command
    }

    /// Waits until that process serves.
    fn over(mut child: Child, stdout: Captured) -> Result<Self, Done> {
        let stderr = Captured::of(child.stderr.take().unwrap());
        let empty = String::new;
        let (listen, verify_listen, admin_listen) = (empty(), empty(), empty());
        let mut server = Self { child, stdout, stderr, listen, verify_listen, admin_listen, first_key: None };
        let serving = eventually("the service serves", || {
            let lines = server.stderr.lines();
            let serving = lines.iter().find_map(|line| {
                let event: Value = serde_json::from_str(line).ok()?;
                (event["message"] == "serving").then_some(event)
            });
            match serving {
                Some(event) => Some(Ok(event)),
                None => server.child.try_wait().unwrap().map(Err),
            }
        });
        match serving {
            Ok(event) => {
                let address = |name: &str| event[name].as_str().unwrap().to_owned();
                server.listen = address("listen");
                server.verify_listen = address("verify_listen");
                server.admin_listen = address("admin_listen");
                Ok(server)
            }
            Err(status) => Err(server.left_behind(status)),
        }
    }

    /// The key that was issued before it started.
    pub(crate) fn first_key(&self) -> String {
        self.first_key.clone().expect("it was started with a key")
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lines()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// The log's pipe fills up.
    pub(crate) fn stop_reading_the_log(&self) -> Unread {
        self.stderr.paused.store(true, Ordering::Relaxed);
        Unread(Arc::clone(&self.stderr.paused))
    }

    /// A client's command, as whoever that key stands for.
    pub(crate) fn client(&self, key: &str, arguments: &[&str]) -> Done {
        self.client_with_input(key, arguments, "")
    }

    pub(crate) fn client_with_input(&self, key: &str, arguments: &[&str], input: &str) -> Done {
        run(self.client_command(&format!("http://{}", self.listen), key, arguments), input)
    }

    /// A client's command against that address of the public listener.
    pub(crate) fn client_command(&self, endpoint: &str, key: &str, arguments: &[&str]) -> Command {
        let verify_endpoint = format!("http://{}", self.verify_listen);
        let variables =
            [("APIKEYS_ENDPOINT", endpoint), ("APIKEYS_VERIFY_ENDPOINT", &*verify_endpoint), ("APIKEYS_KEY", key)];
        apikeys(&variables, arguments)
    }

    /// `verify --json`, the key being typed.
    pub(crate) fn verify(&self, key: &str, arguments: &[&str]) -> Done {
        let arguments: Vec<&str> = ["verify", "--json"].iter().chain(arguments).copied().collect();
        self.client_with_input("unused", &arguments, &format!("{key}\n"))
    }

    /// The status and body of a GET of the admin listener.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(&self.admin_listen, path)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.process_id(), name);
    }

    /// Ends it as the kernel does when memory is out.
    pub(crate) fn kill(mut self) -> Done {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.left_behind(status)
    }

    /// Ends it as an operator does, and waits.
    pub(crate) fn stop(self) -> Done {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it has ended, and leaves its output unread.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the service ends", || self.child.try_wait().unwrap())
    }

    /// Waits until it has ended.
    pub(crate) fn wait(mut self) -> Done {
        let status = self.ended();
        self.left_behind(status)
    }

    fn left_behind(&mut self, status: ExitStatus) -> Done {
        Done {
            code: status.code().unwrap_or(-1),
            stdout: self.stdout.all().join("\n"),
            stderr: self.stderr.all().join("\n"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), process.to_string()]).status().unwrap();
    assert!(status.success());
}

/// The status and body of a GET.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The whole answer to any request by HTTP/1.1, head and body, as text.
pub(crate) fn ask(address: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let mut request = Vec::new();
    write!(request, "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").unwrap();
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    write!(request, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
    request.extend_from_slice(body);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Runs a test on both databases.
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* fn $name:ident($database:ident: &Database) $body:block)+) => {
        $(
            mod $name {
                use super::*;

                fn check($database: &Database) $body

                $(#[$attribute])*
                #[test]
                fn on_sqlite() {
                    check(&Database::sqlite());
                }

                $(#[$attribute])*
                #[test]
                fn on_postgres() {
                    check(&Database::postgres());
                }
            }
        )+
    };
}
pub(crate) use on_both_databases;
