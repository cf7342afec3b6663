//! Which value of each setting is in force, and where it comes from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use apikey_store_postgres::UrlError;

use super::{
    accepts::Accepts,
    delivered,
    service_links::is_service_link,
    setting::{Default, PREFIX, Scope, Secrecy, Setting},
    table::{CONFIG, HTTP_PROXY, NO_PROXY, SETTINGS},
};

/// What starts the names of variables that belong to the tests.
const TEST_PREFIX: &str = "APIKEYS_TEST_";

/// The largest configuration file, in bytes: thousands of times what all settings need.
const MAX_FILE: u64 = 1 << 20;

/// The value of each setting that is in force.
pub(crate) struct Effective {
    values: BTreeMap<&'static str, Value>,
    ignored: Ignored,
}

/// Variables with the prefix of the settings that set nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// They tell where a Service of Kubernetes is.
    pub(crate) service_links: Vec<String>,
    /// They are empty, as `${X:-}` leaves them.
    pub(crate) empty: Vec<String>,
}

/// A value and its origin.
pub(crate) struct Value {
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Value {
    fn new(text: &str, origin: Origin) -> Self {
        Self { text: delivered::trimmed(text).to_owned(), origin }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag(String),
    /// The environment.
    Variable(String),
    /// The file.
    File(PathBuf),
    /// The table.
    Default,
}

impl Origin {
    /// Whether it is a variable that other programs read too: it is judged where it is used.
    fn is_shared(&self) -> bool {
        matches!(self, Self::Variable(name) if !name.starts_with(PREFIX))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(variable) => f.write_str(variable),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The configuration is refused. Never holds the value of a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    /// A variable looks like a setting and is none.
    #[error("{} is not a setting; `apikeys config --reference` lists all of them", delivered::shown_name(.0))]
    UnknownVariable(String),
    /// A key of the file is no setting.
    #[error(
        "{path}: {key} is not a setting of a file; `apikeys config --reference` lists all of them",
        path = path.display(),
        key = delivered::shown_name(key)
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value is not legal.
    #[error("{name} must be {accepts}, but {origin} says {shown}")]
    Refused {
        /// The setting.
        name: &'static str,
        /// What is legal.
        accepts: Accepts,
        /// Where the value comes from.
        origin: Origin,
        /// The value, or that it is not shown.
        shown: String,
    },
    /// A value was damaged on its way here.
    #[error("{name}: {origin} {damage}")]
    Damaged {
        /// The setting.
        name: &'static str,
        /// Where the value comes from.
        origin: Origin,
        /// What is wrong; shows none of the value.
        damage: &'static str,
    },
    /// A variable is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUnicode(String),
    /// A file cannot be read.
    #[error("{name}: {path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The setting that names it.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: line {line}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Two settings exclude each other.
    #[error("{0} and {1} are both set: set one of them")]
    Conflict(&'static str, &'static str),
    /// A setting needs another one.
    #[error("{name} needs {needs}")]
    Needs {
        /// The setting.
        name: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The database's URL cannot be used.
    #[error("database_url: {0}")]
    DatabaseUrl(#[from] UrlError),
    /// A setting has no value where one is needed.
    #[error("{0} is not set")]
    Missing(&'static str),
}

impl Effective {
    /// Variables that set nothing.
    pub(crate) fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// The text that is in force, if there is one; whether it is legal has been checked.
    pub(super) fn text(&self, setting: &Setting) -> Option<&str> {
        self.values.get(setting.name).map(|value| value.text.as_str())
    }

    /// The value in force and its origin.
    pub(super) fn value(&self, setting: &Setting) -> Option<&Value> {
        self.values.get(setting.name)
    }

    /// Parses what is in force; `None` where nothing is.
    pub(super) fn optional<T>(
        &self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        let Some(value) = self.values.get(setting.name) else { return Ok(None) };
        match parse(&value.text) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(refused(setting, value)),
        }
    }

    /// Parses what is in force.
    pub(super) fn required<T>(
        &self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        self.optional(setting, parse)?.ok_or(SettingError::Missing(setting.name))
    }

    /// A secret that is set itself, or is held by a file that another setting names.
    pub(super) fn secret(
        &self,
        setting: &'static Setting,
        file: &'static Setting,
    ) -> Result<Option<String>, SettingError> {
        match (self.text(setting), self.text(file)) {
            (Some(_), Some(_)) => Err(SettingError::Conflict(setting.name, file.name)),
            (Some(text), None) => Ok(Some(text.to_owned())),
            (None, None) => Ok(None),
            (None, Some(path)) => read_secret(setting, file, Path::new(path)).map(Some),
        }
    }

    /// Refuses illegal values among the settings that commands of that scope need.
    fn check(&self, scope: Scope) -> Result<(), SettingError> {
        for setting in SETTINGS.iter().filter(|setting| setting.scope.serves(scope)) {
            if let Some(value) = self.values.get(setting.name)
                && !value.origin.is_shared()
            {
                check(setting, value)?;
            }
        }
        Ok(())
    }
}

/// Says which values are in force for commands of that scope: flags before environment before file before defaults.
///
/// # Errors
/// [`SettingError`] for an unknown variable or key, for an illegal value of a setting that such commands need, and for a file
/// that cannot be read.
pub(crate) fn resolve(
    scope: Scope,
    flags: Vec<(&'static Setting, String)>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Effective, SettingError> {
    let environment = Environment::read(environment)?;
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let default = match setting.default {
            Default::Unset => None,
            Default::Text(text) => Some(text.to_owned()),
            Default::DataDirectory => environment.data_directory.clone(),
        };
        if let Some(text) = default {
            values.insert(setting.name, Value { text, origin: Origin::Default });
        }
    }
    values.extend(environment.shared);
    let flags = flags.into_iter().map(|(setting, text)| (setting, Value::new(&text, Origin::Flag(setting.flag()))));
    let overriding: Vec<(&'static Setting, Value)> = environment.settings.into_iter().chain(flags).collect();
    let path = overriding.iter().rev().find(|(setting, _)| setting.name == CONFIG.name);
    if let Some((_, path)) = path {
        values.extend(read_file(&PathBuf::from(&path.text))?);
    }
    values.extend(overriding.into_iter().map(|(setting, value)| (setting.name, value)));

    let effective = Effective { values, ignored: environment.ignored };
    effective.check(scope)?;
    Ok(effective)
}

/// What the environment says.
struct Environment {
    settings: Vec<(&'static Setting, Value)>,
    ignored: Ignored,
    data_directory: Option<String>,
    /// From variables that other programs read too; everything else is stronger.
    shared: Vec<(&'static str, Value)>,
}

/// Such variables, the strongest of a setting last. `HTTP_PROXY` is not among them: it is for clear text.
const SHARED: [(&str, &Setting); 6] = [
    ("all_proxy", &HTTP_PROXY),
    ("ALL_PROXY", &HTTP_PROXY),
    ("https_proxy", &HTTP_PROXY),
    ("HTTPS_PROXY", &HTTP_PROXY),
    ("no_proxy", &NO_PROXY),
    ("NO_PROXY", &NO_PROXY),
];

impl Environment {
    fn read(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, SettingError> {
        let (mut settings, mut ignored) = (Vec::new(), Ignored::default());
        let mut shared: [Option<String>; SHARED.len()] = [const { None }; SHARED.len()];
        let (mut data_home, mut home) = (None, None);
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            match name {
                "XDG_DATA_HOME" => data_home = value.into_string().ok(),
                "HOME" => home = value.into_string().ok(),
                _ => {
                    let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !name.starts_with(TEST_PREFIX)) else {
                        let row = SHARED.iter().zip(&mut shared).find(|((known, _), _)| *known == name);
                        if let Some((_, text)) = row {
                            *text = value.into_string().ok().filter(|text| !text.is_empty());
                        }
                        continue;
                    };
                    let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
                        if value.to_str().is_some_and(|value| is_service_link(rest, value)) {
                            ignored.service_links.push(name.to_owned());
                            continue;
                        }
                        return Err(SettingError::UnknownVariable(name.to_owned()));
                    };
                    let text = value.into_string().map_err(|_| SettingError::NotUnicode(name.to_owned()))?;
                    let value = Value::new(&text, Origin::Variable(name.to_owned()));
                    if value.text.is_empty() {
                        ignored.empty.push(name.to_owned());
                    } else {
                        settings.push((*setting, value));
                    }
                }
            }
        }
        let shared = SHARED.iter().zip(shared).filter_map(|((name, setting), text)| {
            Some((setting.name, Value::new(&text?, Origin::Variable((*name).to_owned()))))
        });
        // The specification says to ignore a relative XDG_DATA_HOME.
        let data_home = data_home.filter(|path| Path::new(path).is_absolute());
        let home = home.filter(|path| !path.is_empty());
        let data_directory = data_home.or_else(|| home.map(|home| format!("{home}/.local/share")));
        let data_directory = data_directory.map(|directory| format!("{directory}/apikeys"));
        Ok(Self { settings, ignored, data_directory, shared: shared.collect() })
    }
}

fn read_file(path: &Path) -> Result<Vec<(&'static str, Value)>, SettingError> {
    let text = read(CONFIG.name, path)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| SettingError::Syntax {
        path: path.to_owned(),
        line: error
            .span()
            .map_or(1, |span| text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)),
        // The error's `Display` would quote the line, and with it a secret.
        message: error.message().to_owned(),
    })?;
    table
        .into_iter()
        .map(|(key, value)| {
            let setting = SETTINGS.iter().find(|setting| setting.name == key && setting.in_file());
            let setting = setting.ok_or_else(|| SettingError::UnknownKey { path: path.to_owned(), key })?;
            let origin = Origin::File(path.to_owned());
            match written(&value) {
                Some(text) => Ok((setting.name, Value::new(&text, origin))),
                None => Err(SettingError::Refused {
                    name: setting.name,
                    accepts: setting.accepts,
                    origin,
                    shown: format!("a {}", value.type_str()),
                }),
            }
        })
        .collect()
}

/// A value of the file as it would stand in a variable.
fn written(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|item| item.as_str()).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn read(name: &'static str, path: &Path) -> Result<String, SettingError> {
    let unreadable = |source| SettingError::Unreadable { name, path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE {
        return Err(unreadable(std::io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let utf_16 = matches!(error.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        unreadable(std::io::Error::other(if utf_16 { "it is UTF-16: save it as UTF-8" } else { "it is not UTF-8" }))
    })?;
    Ok(delivered::without_mark(&text).to_owned())
}

/// The secret in a file that the setting `file` names.
///
/// # Errors
/// The file cannot be read, or what it holds is illegal.
pub(super) fn read_secret(
    setting: &'static Setting,
    file: &'static Setting,
    path: &Path,
) -> Result<String, SettingError> {
    let text = read(file.name, path)?;
    let value = Value::new(&text, Origin::File(path.to_owned()));
    check(setting, &value)?;
    Ok(value.text)
}

fn check(setting: &Setting, value: &Value) -> Result<(), SettingError> {
    if let Some(damage) = delivered::damage(setting.accepts, &value.text) {
        return Err(SettingError::Damaged { name: setting.name, origin: value.origin.clone(), damage });
    }
    if setting.accepts.accepts(&value.text) { Ok(()) } else { Err(refused(setting, value)) }
}

fn refused(setting: &Setting, value: &Value) -> SettingError {
    let shown = match setting.secrecy {
        // An address with a password in it is one of those that are refused.
        Secrecy::Public if setting.accepts == Accepts::ServiceAddress && value.text.contains('@') => {
            "one with a user or a password (not shown)".to_owned()
        }
        Secrecy::Public => format!("{:?}", value.text),
        Secrecy::Secret | Secrecy::DatabaseUrl | Secrecy::ProxyUrl | Secrecy::UrlQuery => {
            "something else (not shown: it can hold a secret)".to_owned()
        }
    };
    SettingError::Refused { name: setting.name, accepts: setting.accepts, origin: value.origin.clone(), shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::{LISTEN, LOG_LEVEL, VERIFY_TOKEN};

    fn environment(variables: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_default() {
        let variables = [("APIKEYS_LISTEN", "127.0.0.1:1"), ("APIKEYS_LOG_LEVEL", "debug")];
        let flags = vec![(&LISTEN, "127.0.0.1:2".to_owned())];
        let effective = resolve(Scope::Both, flags, environment(&variables)).unwrap();
        assert_eq!(effective.text(&LISTEN), Some("127.0.0.1:2"));
        assert_eq!(effective.text(&LOG_LEVEL), Some("debug"));
        assert_eq!(effective.value(&LOG_LEVEL).unwrap().origin, Origin::Variable("APIKEYS_LOG_LEVEL".to_owned()));
        let effective = resolve(Scope::Both, Vec::new(), environment(&[])).unwrap();
        assert_eq!(effective.text(&LOG_LEVEL), Some("info"));
    }

    #[test]
    fn variables_that_are_no_setting_are_refused_but_for_those_of_the_tests() {
        let unknown = resolve(Scope::Both, Vec::new(), environment(&[("APIKEYS_LISTNE", "x")]));
        assert!(matches!(unknown, Err(SettingError::UnknownVariable(name)) if name == "APIKEYS_LISTNE"));
        assert!(resolve(Scope::Both, Vec::new(), environment(&[("APIKEYS_TEST_X", "x"), ("OTHER", "y")])).is_ok());
    }

    #[test]
    fn proxies_are_found_in_the_variables_that_all_programs_read() {
        let resolved = |variables: &[(&str, &str)]| resolve(Scope::Both, Vec::new(), environment(variables)).unwrap();
        for (variables, expected) in [
            (&[("ALL_PROXY", "http://a"), ("HTTPS_PROXY", "http://b")][..], Some("http://b")),
            (&[("https_proxy", "http://a"), ("all_proxy", "http://b")][..], Some("http://a")),
            (&[("HTTPS_PROXY", ""), ("ALL_PROXY", "http://b")][..], Some("http://b")),
            (&[("HTTPS_PROXY", "http://a"), ("APIKEYS_HTTP_PROXY", "http://b")][..], Some("http://b")),
            // Judged where it is used.
            (&[("ALL_PROXY", "socks5://a")][..], Some("socks5://a")),
            // For clear text, which nothing here is fetched by.
            (&[("HTTP_PROXY", "http://a"), ("http_proxy", "http://a")][..], None),
        ] {
            assert_eq!(resolved(variables).text(&HTTP_PROXY), expected, "{variables:?}");
        }
        let effective = resolved(&[("no_proxy", "a, b"), ("HTTPS_PROXY", "http://a")]);
        assert_eq!(effective.text(&NO_PROXY), Some("a, b"));
        assert_eq!(effective.value(&HTTP_PROXY).unwrap().origin.to_string(), "HTTPS_PROXY");
        let illegal = [("APIKEYS_HTTP_PROXY", "socks5://user:hidden@a")];
        let error = resolve(Scope::Server, Vec::new(), environment(&illegal)).err().unwrap().to_string();
        assert!(error.contains("http_proxy must be") && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn a_refused_secret_is_not_shown() {
        let variables = [("APIKEYS_VERIFY_TOKEN", "too-short")];
        let error = resolve(Scope::Server, Vec::new(), environment(&variables)).err().unwrap().to_string();
        assert!(error.contains(VERIFY_TOKEN.name) && error.contains("16 to 512"), "{error}");
        assert!(!error.contains("too-short"), "{error}");
    }

    #[test]
    fn the_data_directory_follows_the_xdg_specification() {
        let directory = |variables: &[(&str, &str)]| Environment::read(environment(variables)).unwrap().data_directory;
        assert_eq!(directory(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")]).as_deref(), Some("/d/apikeys"));
        assert_eq!(directory(&[("XDG_DATA_HOME", "d"), ("HOME", "/h")]).as_deref(), Some("/h/.local/share/apikeys"));
        assert_eq!(directory(&[]), None);
    }
}
