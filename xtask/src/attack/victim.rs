//! The service under attack, and the administrator whose calls have to go on.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use apikey_domain::{KeyType, pidgr};
use rustix::net::{
    AddressFamily, SocketType, bind, connect, socket,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::service::{self, Service, Start};

pub(super) const LIST: &str = "/pidgr.v1.ApiKeyService/ListApiKeys";
pub(super) const CREATE: &str = "/pidgr.v1.ApiKeyService/CreateApiKey";
pub(super) const REVOKE: &str = "/pidgr.v1.ApiKeyService/RevokeApiKey";
pub(super) const VERIFY: &str = "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey";
pub(super) const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(super) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Whom others call from; attackers have 127.0.0.1.
const OTHERS: [u8; 4] = [127, 0, 0, 2];

/// How long a caller waits for an answer: longer than the service takes for any call that it does not refuse.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A running service with an administrator's key.
pub(super) struct Victim {
    pub(super) service: Service,
    /// A key that may manage the organization `administrators`.
    pub(super) administrator: String,
    binary: PathBuf,
    folder: PathBuf,
    settings: Vec<(String, String)>,
}

/// A key as `CreateApiKey` shows it.
pub(super) struct Created {
    pub(super) id: String,
    pub(super) raw_key: String,
}

impl Victim {
    /// Starts a service on an empty store: SQLite, unless the settings name a database.
    pub(super) fn start(binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let administrator = bootstrap(binary, folder, &settings, "administrators")?;
        let service = serve(binary, folder, &settings)?;
        Ok(Self { service, administrator, binary: binary.into(), folder: folder.into(), settings })
    }

    /// Ends the service and starts it again: no key is in memory.
    pub(super) fn restart(mut self) -> Result<Self> {
        let Self { service, binary, folder, settings, .. } = self;
        drop(service);
        self.service = serve(&binary, &folder, &settings)?;
        Ok(Self { binary, folder, settings, ..self })
    }

    /// Another replica on the same database.
    pub(super) fn second(&self, name: &str) -> Result<Service> {
        serve(&self.binary, &self.folder.join(name), &self.settings)
    }

    /// A management key for another organization.
    pub(super) fn tenant(&self, organization: &str) -> Result<String> {
        bootstrap(&self.binary, &self.folder, &self.settings, organization)
    }

    /// Creates a key in the name of another; `json` holds the other fields, such as `"permissions":[31]`.
    pub(super) fn create(&self, key: &str, name: &str, json: &str) -> Result<Created> {
        let comma = if json.is_empty() { "" } else { "," };
        let (status, body) = post(self.service.public, CREATE, key, &format!(r#"{{"name":"{name}"{comma}{json}}}"#))?;
        ensure!(status == 200, "CreateApiKey answered {status}: {body}");
        Ok(Created { id: text(&body, "id")?, raw_key: text(&body, "rawKey")? })
    }

    /// Revokes a key in the administrator's name.
    pub(super) fn revoke(&self, id: &str) -> Result<()> {
        revoke(self.service.public, &self.administrator, id)
    }

    /// The sum of a metric's series.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let mut connection = TcpStream::connect(self.service.admin)?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let (_, metrics) = finish(connection)?;
        let series = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values = series.filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().with_context(|| format!("{name} is {value}"))).sum()
    }
}

fn serve(binary: &Path, folder: &Path, settings: &[(String, String)]) -> Result<Service> {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Service::start(&Start { binary, folder, settings: &settings, expects_key: false })
}

fn bootstrap(binary: &Path, folder: &Path, settings: &[(String, String)], organization: &str) -> Result<String> {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    service::bootstrap(binary, folder, &settings, organization)
}

/// Revokes a key at one of several replicas.
pub(super) fn revoke(address: SocketAddr, key: &str, id: &str) -> Result<()> {
    let (status, body) = post(address, REVOKE, key, &format!(r#"{{"id":"{id}"}}"#))?;
    ensure!(status == 200, "RevokeApiKey answered {status}: {body}");
    Ok(())
}

/// A connection from another address than the attacker's, so that others have shares of their own.
pub(super) fn connect_as_another(address: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((OTHERS, 0)))?;
    // Linux limits a blocking connect by the time limit for sending (socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

/// One call by Connect over HTTP/1.1, on a connection of its own: the status and the body.
pub(super) fn post(address: SocketAddr, path: &str, key: &str, json: &str) -> Result<(u16, String)> {
    let mut connection = connect_as_another(address)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(request_head(path, key, json.len()).as_bytes())?;
    connection.write_all(json.as_bytes())?;
    finish(connection)
}

/// The head of a call by Connect over HTTP/1.1.
pub(super) fn request_head(path: &str, key: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         x-api-key: {key}\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Reads an answer to its end.
pub(super) fn finish(mut connection: TcpStream) -> Result<(u16, String)> {
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).context("no status line")?.parse()?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

/// The first text of that name in JSON whose texts hold no quotes.
pub(super) fn text(json: &str, name: &str) -> Result<String> {
    let (_, rest) = json.split_once(&format!(r#""{name}":""#)).with_context(|| format!("no {name} in the answer"))?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

/// Well-formed keys that nobody has issued, each another one.
pub(super) struct UnknownKeys(Cell<u64>);

impl UnknownKeys {
    /// Of one seed always the same.
    pub(super) const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(super) fn next(&self) -> String {
        let mut fill = |buffer: &mut [u8]| {
            for byte in buffer {
                // Steele and Vigna's SplitMix64: what is guessed needs no secrecy.
                self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
                let mut mixed = self.0.get();
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                *byte = (mixed >> 56) as u8;
            }
            Ok::<_, std::convert::Infallible>(())
        };
        match pidgr::KEY_FORMAT.generate(KeyType::ApiKey, &mut fill) {
            Ok(key) => key.expose().to_owned(),
            Err(never) => match never {},
        }
    }
}
