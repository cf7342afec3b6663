//! The table of all settings.

use std::time::Duration;

use super::{
    accepts::Accepts,
    setting::{Default, Scope, Secrecy, Setting, Sources},
};

/// An ordinary setting of the server; rows that differ say in what.
const SERVER: Setting = Setting {
    name: "",
    scope: Scope::Server,
    accepts: Accepts::Path,
    default: Default::Unset,
    secrecy: Secrecy::Public,
    sources: Sources::All,
    help: "",
};

/// Every setting, in the order in which they are shown.
pub(crate) static SETTINGS: &[&Setting] = &[
    &CONFIG,
    &LISTEN,
    &VERIFY_LISTEN,
    &VERIFY_TOKEN,
    &VERIFY_TOKEN_FILE,
    &ADMIN_LISTEN,
    &TLS_CERTIFICATE,
    &TLS_KEY,
    &ALLOW_PLAINTEXT,
    &CORS_ALLOWED_ORIGINS,
    &DATA_DIR,
    &DATABASE_URL,
    &DATABASE_URL_FILE,
    &DATABASE_ALLOW_UNVERIFIED,
    &DATABASE_SCHEMA,
    &DATABASE_MIGRATE,
    &DATABASE_CONNECTIONS,
    &DATABASE_ACQUIRE_TIMEOUT,
    &DATABASE_CONNECT_TIMEOUT,
    &DATABASE_STATEMENT_TIMEOUT,
    &DATABASE_START_TIMEOUT,
    &JWT_ISSUER,
    &JWT_AUDIENCE,
    &JWT_JWKS,
    &HTTP_PROXY,
    &NO_PROXY,
    &JWT_ORGANIZATION_CLAIM,
    &JWT_PERMISSIONS_CLAIM,
    &JWT_LEEWAY,
    &LEASE,
    &CACHE_MEBIBYTES,
    &USAGE_FLUSH_INTERVAL,
    &MAX_CONNECTIONS,
    &IDLE_TIMEOUT,
    &MAX_CONNECTIONS_PER_PEER,
    &MAX_CONCURRENT_REQUESTS,
    &MAX_FAILED_ATTEMPTS,
    &REFLECTION,
    &MAX_KEYS_PER_ORGANIZATION,
    &MAX_CHANGES_PER_ORGANIZATION,
    &LOG_LEVEL,
    &LOG_FORMAT,
    &ALLOW_CORE_DUMPS,
    &ENDPOINT,
    &VERIFY_ENDPOINT,
    &ENDPOINT_ALLOW_PLAINTEXT,
    &TIMEOUT,
    &KEY,
    &VERIFY_KEY,
];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) static CONFIG: Setting = Setting {
    name: "config",
    scope: Scope::Both,
    sources: Sources::NotFile,
    help: "The TOML file that holds settings under these names",
    ..SERVER
};
pub(super) static LISTEN: Setting = Setting {
    name: "listen",
    accepts: Accepts::Address,
    default: Default::Text("127.0.0.1:8080"),
    help: "Where the public listener (ApiKeyService) listens; port 0 takes a free one",
    ..SERVER
};
pub(super) static VERIFY_LISTEN: Setting = Setting {
    name: "verify_listen",
    accepts: Accepts::Address,
    default: Default::Text("127.0.0.1:8081"),
    help: "Where the verification listener (ApiKeyVerificationService) listens; beyond loopback it needs verify_token",
    ..SERVER
};
pub(super) static VERIFY_TOKEN: Setting = Setting {
    name: "verify_token",
    scope: Scope::Both,
    accepts: Accepts::VisibleAscii { min: 16, max: 512 },
    secrecy: Secrecy::Secret,
    sources: Sources::NotFlag,
    help: "The bearer token that the verification listener asks for, and that `verify` presents",
    ..SERVER
};
pub(super) static VERIFY_TOKEN_FILE: Setting = Setting {
    name: "verify_token_file",
    scope: Scope::Both,
    help: "A file that holds verify_token, instead of it; read again on SIGHUP",
    ..SERVER
};
pub(super) static ADMIN_LISTEN: Setting = Setting {
    name: "admin_listen",
    accepts: Accepts::Address,
    default: Default::Text("127.0.0.1:9090"),
    help: "Where /metrics, /livez and /readyz are served",
    ..SERVER
};
pub(super) static TLS_CERTIFICATE: Setting = Setting {
    name: "tls_certificate",
    help: "A PEM file with the certificate chain that the public and the verification listener present; needs tls_key; both are read again on SIGHUP",
    ..SERVER
};
pub(super) static TLS_KEY: Setting =
    Setting { name: "tls_key", help: "A PEM file with the private key of tls_certificate", ..SERVER };
pub(super) static ALLOW_PLAINTEXT: Setting = Setting {
    name: "allow_plaintext",
    accepts: Accepts::Flag,
    default: Default::Text("false"),
    help: "Allows listening beyond loopback although connections are not encrypted (something in front must do it)",
    ..SERVER
};
pub(super) static CORS_ALLOWED_ORIGINS: Setting = Setting {
    name: "cors_allowed_origins",
    accepts: Accepts::Origins,
    help: "The origins whose web pages may call the public listener; none by default",
    ..SERVER
};
pub(super) static DATA_DIR: Setting = Setting {
    name: "data_dir",
    default: Default::DataDirectory,
    help: "The directory of the SQLite database; not used with database_url",
    ..SERVER
};
pub(super) static DATABASE_URL: Setting = Setting {
    name: "database_url",
    accepts: Accepts::Url(&["postgres://", "postgresql://"]),
    secrecy: Secrecy::DatabaseUrl,
    sources: Sources::NotFlag,
    help: "The PostgreSQL database; without it SQLite is used",
    ..SERVER
};
pub(super) static DATABASE_URL_FILE: Setting = Setting {
    name: "database_url_file",
    help: "A file that holds database_url, instead of it; read again on SIGHUP and when PostgreSQL cannot be connected to",
    ..SERVER
};
pub(super) static DATABASE_ALLOW_UNVERIFIED: Setting = Setting {
    name: "database_allow_unverified",
    accepts: Accepts::Flag,
    default: Default::Text("false"),
    help: "Allows an sslmode beyond loopback that checks no certificate of PostgreSQL's: disable, prefer, require",
    ..SERVER
};
pub(super) static DATABASE_SCHEMA: Setting = Setting {
    name: "database_schema",
    accepts: Accepts::Schema,
    default: Default::Text("public"),
    help: "The PostgreSQL schema that holds the tables; every statement names it, and search_path decides nothing",
    ..SERVER
};
pub(super) static DATABASE_MIGRATE: Setting = Setting {
    name: "database_migrate",
    accepts: Accepts::Flag,
    default: Default::Text("true"),
    help: "Whether `serve` brings the PostgreSQL schema up to date first; false where `migrate` does it over another URL",
    ..SERVER
};
pub(super) static DATABASE_CONNECTIONS: Setting = Setting {
    name: "database_connections",
    accepts: Accepts::Integer { min: 2, max: 500 },
    default: Default::Text("16"),
    help: "The most connections to PostgreSQL",
    ..SERVER
};
pub(super) static DATABASE_ACQUIRE_TIMEOUT: Setting = Setting {
    name: "database_acquire_timeout",
    accepts: Accepts::Duration { min: Duration::from_millis(10), max: seconds(60) },
    default: Default::Text("1s"),
    help: "How long a call waits for one of these connections before load is shed",
    ..SERVER
};
pub(super) static DATABASE_CONNECT_TIMEOUT: Setting = Setting {
    name: "database_connect_timeout",
    accepts: Accepts::Duration { min: Duration::from_millis(100), max: seconds(60) },
    default: Default::Text("3s"),
    help: "How long opening a connection to PostgreSQL may take",
    ..SERVER
};
pub(super) static DATABASE_STATEMENT_TIMEOUT: Setting = Setting {
    name: "database_statement_timeout",
    accepts: Accepts::Duration { min: Duration::from_millis(100), max: seconds(60) },
    default: Default::Text("4s"),
    help: "How long PostgreSQL may take to answer a statement",
    ..SERVER
};
pub(super) static DATABASE_START_TIMEOUT: Setting = Setting {
    name: "database_start_timeout",
    accepts: Accepts::Duration { min: seconds(0), max: seconds(3_600) },
    default: Default::Text("60s"),
    help: "How long a start waits for PostgreSQL to accept connections, and for another process that migrates",
    ..SERVER
};
pub(super) static JWT_ISSUER: Setting = Setting {
    name: "jwt_issuer",
    accepts: Accepts::Issuer,
    help: "The issuer of JWTs that are accepted from callers; without it there is none",
    ..SERVER
};
pub(super) static JWT_AUDIENCE: Setting = Setting {
    name: "jwt_audience",
    accepts: Accepts::Lines { max: 255 },
    help: "The audiences of which a JWT must name one, separated by commas",
    ..SERVER
};
pub(super) static JWT_JWKS: Setting = Setting {
    name: "jwt_jwks",
    accepts: Accepts::Jwks,
    secrecy: Secrecy::UrlQuery,
    help: "The issuer's JSON Web Key Set: a file or a URL",
    ..SERVER
};
pub(super) static HTTP_PROXY: Setting = Setting {
    name: "http_proxy",
    accepts: Accepts::HttpProxy,
    secrecy: Secrecy::ProxyUrl,
    sources: Sources::NotFlag,
    help: "The proxy that jwt_jwks is fetched through if it is an https URL beyond loopback; the variables HTTPS_PROXY and ALL_PROXY set it too",
    ..SERVER
};
pub(super) static NO_PROXY: Setting = Setting {
    name: "no_proxy",
    accepts: Accepts::Lines { max: 255 },
    help: "Hosts, addresses and networks that are reached without http_proxy, separated by commas; the variable NO_PROXY sets it too",
    ..SERVER
};
pub(super) static JWT_ORGANIZATION_CLAIM: Setting = Setting {
    name: "jwt_organization_claim",
    accepts: Accepts::Line { max: 255 },
    default: Default::Text("custom:org_id"),
    help: "The claim that names the caller's organization",
    ..SERVER
};
pub(super) static JWT_PERMISSIONS_CLAIM: Setting = Setting {
    name: "jwt_permissions_claim",
    accepts: Accepts::Line { max: 255 },
    default: Default::Text("permissions"),
    help: "The claim that lists the caller's permissions",
    ..SERVER
};
pub(super) static JWT_LEEWAY: Setting = Setting {
    name: "jwt_leeway",
    accepts: Accepts::Duration { min: seconds(0), max: seconds(300) },
    default: Default::Text("30s"),
    help: "By how much the issuer's clock may differ from this one",
    ..SERVER
};
pub(super) static LEASE: Setting = Setting {
    name: "lease",
    accepts: Accepts::Duration { min: seconds(1), max: seconds(60) },
    default: Default::Text("3s"),
    help: "How long this replica answers from memory without hearing from PostgreSQL, and how long a revocation waits for a replica that is silent",
    ..SERVER
};
pub(super) static CACHE_MEBIBYTES: Setting = Setting {
    name: "cache_mebibytes",
    accepts: Accepts::Integer { min: 1, max: 1_048_576 },
    default: Default::Text("256"),
    help: "The most memory for keys that are verified from memory, in MiB; a million keys take about 200",
    ..SERVER
};
pub(super) static USAGE_FLUSH_INTERVAL: Setting = Setting {
    name: "usage_flush_interval",
    accepts: Accepts::Duration { min: seconds(1), max: seconds(60) },
    default: Default::Text("5s"),
    help: "How often last_used_at is written: the most that it lags, and that a crash loses of it",
    ..SERVER
};
pub(super) static MAX_CONNECTIONS: Setting = Setting {
    name: "max_connections",
    accepts: Accepts::Integer { min: 1, max: 100_000 },
    default: Default::Text("4096"),
    help: "The most connections to each listener; above, the one makes room that has been without a call for longest",
    ..SERVER
};
pub(super) static MAX_CONNECTIONS_PER_PEER: Setting = Setting {
    name: "max_connections_per_peer",
    accepts: Accepts::Integer { min: 1, max: 100_000 },
    default: Default::Text("2048"),
    help: "The most connections of one address (of IPv6, of one /64) to the public listener; behind a proxy all are the proxy's",
    ..SERVER
};
pub(super) static IDLE_TIMEOUT: Setting = Setting {
    name: "idle_timeout",
    accepts: Accepts::Duration { min: seconds(1), max: seconds(86_400) },
    default: Default::Text("11m"),
    help: "How long a connection stays open without a request; must be longer than a load balancer in front keeps one (AWS 60 s, Google 600 s)",
    ..SERVER
};
pub(super) static MAX_CONCURRENT_REQUESTS: Setting = Setting {
    name: "max_concurrent_requests",
    accepts: Accepts::Integer { min: 1, max: 100_000 },
    default: Default::Text("1024"),
    help: "The most requests at work on each listener; more are refused at once",
    ..SERVER
};
pub(super) static MAX_FAILED_ATTEMPTS: Setting = Setting {
    name: "max_failed_attempts",
    accepts: Accepts::Integer { min: 0, max: 100_000 },
    default: Default::Text("5"),
    help: "The most calls a second with keys that are not valid from one address (IPv6: /64), four times as many at once; then keys that are not in memory are refused there. 0 is without limit, for where all calls come by one proxy",
    ..SERVER
};
pub(super) static REFLECTION: Setting = Setting {
    name: "reflection",
    accepts: Accepts::Flag,
    default: Default::Text("true"),
    help: "Whether the listeners describe their services to whoever asks, as grpcurl and Postman do",
    ..SERVER
};
pub(super) static MAX_KEYS_PER_ORGANIZATION: Setting = Setting {
    name: "max_keys_per_organization",
    accepts: Accepts::Integer { min: 1, max: 4_000_000_000 },
    help: "The most keys of one organization that are neither revoked nor expired; without it, any number",
    ..SERVER
};
pub(super) static MAX_CHANGES_PER_ORGANIZATION: Setting = Setting {
    name: "max_changes_per_organization",
    accepts: Accepts::Integer { min: 1, max: 100_000 },
    help: "The most keys a second that one organization may create by this replica, and each of its callers revoke; without it, any number",
    ..SERVER
};
pub(super) static LOG_LEVEL: Setting = Setting {
    name: "log_level",
    accepts: Accepts::OneOf(&["error", "warn", "info", "debug", "trace"]),
    default: Default::Text("info"),
    help: "The least important events that are logged",
    ..SERVER
};
pub(super) static LOG_FORMAT: Setting = Setting {
    name: "log_format",
    accepts: Accepts::OneOf(&["auto", "human", "json"]),
    default: Default::Text("auto"),
    help: "How logs look; auto means human on a terminal and json otherwise",
    ..SERVER
};
pub(super) static ALLOW_CORE_DUMPS: Setting = Setting {
    name: "allow_core_dumps",
    accepts: Accepts::Flag,
    default: Default::Text("false"),
    help: "Allows core dumps and debuggers, which read every key and password in memory; for finding a defect",
    ..SERVER
};
pub(super) static ENDPOINT: Setting = Setting {
    name: "endpoint",
    scope: Scope::Client,
    accepts: Accepts::ServiceAddress,
    default: Default::Text("http://127.0.0.1:8080"),
    help: "The public listener that `create`, `list` and `revoke` call",
    ..SERVER
};
pub(super) static VERIFY_ENDPOINT: Setting = Setting {
    name: "verify_endpoint",
    scope: Scope::Client,
    accepts: Accepts::ServiceAddress,
    default: Default::Text("http://127.0.0.1:8081"),
    help: "The verification listener that `verify` calls",
    ..SERVER
};
pub(super) static ENDPOINT_ALLOW_PLAINTEXT: Setting = Setting {
    name: "endpoint_allow_plaintext",
    scope: Scope::Client,
    accepts: Accepts::Flag,
    default: Default::Text("false"),
    help: "Allows `endpoint` and `verify_endpoint` to be http:// beyond loopback: keys cross the network unencrypted",
    ..SERVER
};
pub(super) static TIMEOUT: Setting = Setting {
    name: "timeout",
    scope: Scope::Client,
    accepts: Accepts::Duration { min: Duration::from_millis(10), max: seconds(3_600) },
    default: Default::Text("15s"),
    help: "How long one call of the client may take: look-up of the name, TCP, TLS and answer together",
    ..SERVER
};
pub(super) static KEY: Setting = Setting {
    name: "key",
    scope: Scope::Client,
    accepts: Accepts::VisibleAscii { min: 1, max: 8_192 },
    secrecy: Secrecy::Secret,
    sources: Sources::Environment,
    help: "The caller's own credential: an API key, or a JWT of the issuer; asked for where it is not set",
    ..SERVER
};
pub(super) static VERIFY_KEY: Setting = Setting {
    name: "verify_key",
    scope: Scope::Client,
    accepts: Accepts::Line { max: 8_192 },
    secrecy: Secrecy::Secret,
    sources: Sources::Environment,
    help: "The key that `verify` verifies; asked for where it is not set",
    ..SERVER
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_legal_value() {
        for setting in SETTINGS {
            if let Default::Text(text) = setting.default {
                assert!(setting.accepts.accepts(text), "{}", setting.name);
            }
        }
    }

    #[test]
    fn no_secret_has_a_flag() {
        // A key set is public as a rule, and its address has a flag since there was one.
        let is_secret = |setting: &&&Setting| !matches!(setting.secrecy, Secrecy::Public | Secrecy::UrlQuery);
        for setting in SETTINGS.iter().filter(is_secret) {
            assert!(!setting.has_flag(), "{}", setting.name);
        }
    }

    #[test]
    fn names_are_unique_and_none_looks_like_a_variable_of_the_tests() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert!(names.iter().all(|name| !name.is_empty() && !name.starts_with("test_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
