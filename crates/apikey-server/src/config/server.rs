//! What the server needs, with types.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use apikey_application::{Limits, fence::Lease};
use apikey_grpc::web::AllowedOrigins;
use apikey_identity::{HttpProxy, JwksSource, JwtSettings};
use apikey_store_postgres::{Options, PostgresStore, Schema, UrlSource};
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

use super::{
    accepts::{address, duration, flag, list},
    resolve::{Effective, SettingError, read_secret},
    table,
};

/// What `serve`, `migrate` and `bootstrap` need.
pub(crate) struct ServerSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) verify_listen: SocketAddr,
    pub(crate) verify_token: Option<Zeroizing<String>>,
    pub(crate) verify_token_file: Option<PathBuf>,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) cors_allowed_origins: AllowedOrigins,
    pub(crate) backend: Backend,
    pub(crate) jwt: Option<JwtSettings>,
    pub(crate) lease: Lease,
    pub(crate) cache_bytes: usize,
    pub(crate) usage_flush_interval: Duration,
    pub(crate) max_connections: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_connections_per_peer: usize,
    pub(crate) max_concurrent_requests: usize,
    pub(crate) failed_attempts_per_second: Option<NonZeroU32>,
    pub(crate) reflection: bool,
    pub(crate) limits: Limits,
}

/// Which store.
#[derive(Clone)]
pub(crate) enum Backend {
    /// `SQLite` in this directory.
    Sqlite { directory: PathBuf },
    /// `PostgreSQL`.
    Postgres(PostgresSettings),
}

/// A database of `PostgreSQL`.
#[derive(Clone)]
pub(crate) struct PostgresSettings {
    pub(crate) url: Zeroizing<String>,
    /// Whether `serve` and `bootstrap` bring the schema up to date.
    pub(crate) migrate: bool,
    /// How long a start waits for the database.
    pub(crate) start_timeout: Duration,
    pub(crate) options: Options,
}

/// Where the certificate chain and its key are.
#[derive(Clone)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// How logs are written.
#[derive(Clone, Copy)]
pub(crate) struct LogSettings {
    pub(crate) level: LevelFilter,
    pub(crate) format: LogFormat,
}

/// How logs look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl ServerSettings {
    /// The typed settings, with the rules that span several of them.
    ///
    /// # Errors
    /// [`SettingError`] for the first setting that is illegal, missing or in contradiction with another.
    pub(crate) fn of(effective: &Effective) -> Result<Self, SettingError> {
        let number = |setting| effective.required(setting, |text| text.parse().ok());
        let settings = Self {
            listen: effective.required(&table::LISTEN, address)?,
            verify_listen: effective.required(&table::VERIFY_LISTEN, address)?,
            verify_token: effective.secret(&table::VERIFY_TOKEN, &table::VERIFY_TOKEN_FILE)?.map(Zeroizing::new),
            verify_token_file: effective.text(&table::VERIFY_TOKEN_FILE).map(PathBuf::from),
            admin_listen: effective.required(&table::ADMIN_LISTEN, address)?,
            tls: tls(effective)?,
            cors_allowed_origins: effective
                .optional(&table::CORS_ALLOWED_ORIGINS, |text| text.parse().ok())?
                .unwrap_or_default(),
            backend: backend(effective)?,
            jwt: jwt(effective)?,
            lease: effective.required(&table::LEASE, |text| Lease::new(duration(text)?).ok())?,
            cache_bytes: effective.required(&table::CACHE_MEBIBYTES, |text| {
                text.parse::<usize>().ok().map(|mebibytes| mebibytes.saturating_mul(1 << 20))
            })?,
            usage_flush_interval: effective.required(&table::USAGE_FLUSH_INTERVAL, duration)?,
            max_connections: number(&table::MAX_CONNECTIONS)?,
            idle_timeout: effective.required(&table::IDLE_TIMEOUT, duration)?,
            max_connections_per_peer: number(&table::MAX_CONNECTIONS_PER_PEER)?,
            max_concurrent_requests: number(&table::MAX_CONCURRENT_REQUESTS)?,
            limits: Limits {
                live_keys: effective.optional(&table::MAX_KEYS_PER_ORGANIZATION, |text| text.parse().ok())?,
                changes_per_second: effective
                    .optional(&table::MAX_CHANGES_PER_ORGANIZATION, |text| text.parse().ok())?,
            },
            failed_attempts_per_second: effective
                .required(&table::MAX_FAILED_ATTEMPTS, |text| text.parse().ok().map(NonZeroU32::new))?,
            reflection: effective.required(&table::REFLECTION, flag)?,
        };
        settings.check_exposure(effective.required(&table::ALLOW_PLAINTEXT, flag)?)?;
        Ok(settings)
    }

    /// Whether the database's URL stands in a file.
    pub(crate) fn reads_database_url_again(&self) -> bool {
        matches!(&self.backend, Backend::Postgres(settings) if settings.options.url_source.is_some())
    }

    /// Whether nobody but this machine reaches the public listener.
    pub(crate) fn is_local(&self) -> bool {
        self.listen.ip().is_loopback()
    }

    fn check_exposure(&self, allow_plaintext: bool) -> Result<(), SettingError> {
        const NEEDS_PLAINTEXT: &str =
            "tls_certificate or allow_plaintext beyond loopback (the admin listener is never encrypted)";
        let encrypted = self.tls.is_some();
        let listeners = [
            (&table::LISTEN, self.listen, encrypted),
            (&table::VERIFY_LISTEN, self.verify_listen, encrypted),
            (&table::ADMIN_LISTEN, self.admin_listen, false),
        ];
        for (setting, address, encrypted) in listeners {
            if !address.ip().is_loopback() && !encrypted && !allow_plaintext {
                return Err(SettingError::Needs { name: setting.name, needs: NEEDS_PLAINTEXT });
            }
        }
        if !self.verify_listen.ip().is_loopback() && self.verify_token.is_none() {
            let needs = "verify_token beyond loopback, since whoever reaches it can try keys";
            return Err(SettingError::Needs { name: table::VERIFY_LISTEN.name, needs });
        }
        Ok(())
    }
}

impl LogSettings {
    /// The typed settings.
    ///
    /// # Errors
    /// [`SettingError`] for an illegal one.
    pub(crate) fn of(effective: &Effective) -> Result<Self, SettingError> {
        let format = |text: &str| match text {
            "auto" => Some(LogFormat::Auto),
            "human" => Some(LogFormat::Human),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        Ok(Self {
            level: effective.required(&table::LOG_LEVEL, |text| text.parse().ok())?,
            format: effective.required(&table::LOG_FORMAT, format)?,
        })
    }
}

/// Whether the process may leave core dumps.
///
/// # Errors
/// [`SettingError`] for an illegal value.
pub(crate) fn allows_core_dumps(effective: &Effective) -> Result<bool, SettingError> {
    effective.required(&table::ALLOW_CORE_DUMPS, flag)
}

/// The verification listener's token, as its file holds it now.
///
/// # Errors
/// [`SettingError`] where the file cannot be read, or holds no token.
pub(crate) fn read_verify_token(path: &Path) -> Result<Zeroizing<String>, SettingError> {
    read_secret(&table::VERIFY_TOKEN, &table::VERIFY_TOKEN_FILE, path).map(Zeroizing::new)
}

fn tls(effective: &Effective) -> Result<Option<TlsFiles>, SettingError> {
    let path = |setting| effective.optional(setting, |text| Some(PathBuf::from(text)));
    match (path(&table::TLS_CERTIFICATE)?, path(&table::TLS_KEY)?) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(SettingError::Needs { name: table::TLS_CERTIFICATE.name, needs: "tls_key" }),
        (None, Some(_)) => Err(SettingError::Needs { name: table::TLS_KEY.name, needs: "tls_certificate" }),
    }
}

fn backend(effective: &Effective) -> Result<Backend, SettingError> {
    let Some(url) = effective.secret(&table::DATABASE_URL, &table::DATABASE_URL_FILE)? else {
        let directory = effective.required(&table::DATA_DIR, |text| Some(PathBuf::from(text)))?;
        return Ok(Backend::Sqlite { directory });
    };
    let start_timeout = effective.required(&table::DATABASE_START_TIMEOUT, duration)?;
    let options = Options {
        max_connections: effective.required(&table::DATABASE_CONNECTIONS, |text| text.parse().ok())?,
        acquire_timeout: effective.required(&table::DATABASE_ACQUIRE_TIMEOUT, duration)?,
        connect_timeout: effective.required(&table::DATABASE_CONNECT_TIMEOUT, duration)?,
        statement_timeout: effective.required(&table::DATABASE_STATEMENT_TIMEOUT, duration)?,
        migration_timeout: start_timeout,
        allow_unverified: effective.required(&table::DATABASE_ALLOW_UNVERIFIED, flag)?,
        url_source: effective.text(&table::DATABASE_URL_FILE).map(url_source),
        schema: effective.required(&table::DATABASE_SCHEMA, |text| Schema::parse(text).ok())?,
        ..Options::default()
    };
    PostgresStore::check_url(&url, &options)?;
    let migrate = effective.required(&table::DATABASE_MIGRATE, flag)?;
    Ok(Backend::Postgres(PostgresSettings { url: Zeroizing::new(url), migrate, start_timeout, options }))
}

/// Reads the file of the database's URL again.
fn url_source(path: &str) -> UrlSource {
    let path = PathBuf::from(path);
    UrlSource::new(move || match read_secret(&table::DATABASE_URL, &table::DATABASE_URL_FILE, &path) {
        Ok(url) => Some(url.into()),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the database's URL cannot be read again");
            None
        }
    })
}

fn jwt(effective: &Effective) -> Result<Option<JwtSettings>, SettingError> {
    let parts = [&table::JWT_ISSUER, &table::JWT_AUDIENCE, &table::JWT_JWKS];
    let [Some(issuer), Some(audiences), Some(_)] = parts.map(|setting| effective.text(setting)) else {
        let present = parts.iter().find(|setting| effective.text(setting).is_some());
        let needs = "jwt_issuer, jwt_audience and jwt_jwks together";
        return present.map_or(Ok(None), |setting| Err(SettingError::Needs { name: setting.name, needs }));
    };
    let jwks = effective.required(&table::JWT_JWKS, |text| JwksSource::parse(text).ok())?;
    let proxy = match &jwks {
        JwksSource::Url(url) if url.may_use_proxy() => effective
            .optional(&table::HTTP_PROXY, |text| HttpProxy::parse(text).ok())?
            .map(|proxy| proxy.except(effective.text(&table::NO_PROXY).unwrap_or_default())),
        JwksSource::Url(_) | JwksSource::File(_) => None,
    };
    let text = |setting| effective.required(setting, |text| Some(text.to_owned()));
    Ok(Some(JwtSettings {
        proxy,
        organization_claim: text(&table::JWT_ORGANIZATION_CLAIM)?,
        permissions_claim: text(&table::JWT_PERMISSIONS_CLAIM)?,
        leeway: effective.required(&table::JWT_LEEWAY, duration)?,
        ..JwtSettings::new(issuer, list(audiences).map(str::to_owned).collect(), jwks)
    }))
}
