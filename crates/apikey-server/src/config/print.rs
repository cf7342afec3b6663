//! What is in force, for people and programs. Shows no secret.

use std::io::{self, Write};

use apikey_identity::{HttpProxy, JwksSource};
use serde_json::{Map, Value as Json, json};

use super::{
    resolve::Effective,
    setting::{Default, Secrecy, Setting},
    table::SETTINGS,
};

/// What stands for a secret.
const MASK: &str = "********";

/// Parameters of a database URL that hold no secret; every other one is masked.
const PUBLIC_PARAMETERS: [&str; 8] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "port",
    "sslmode",
    "target_session_attrs",
];

/// Prints each setting, its value and where that comes from.
///
/// # Errors
/// Those of `out`.
pub(crate) fn print(effective: &Effective, as_json: bool, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<(&str, Option<String>, String)> = SETTINGS
        .iter()
        .map(|setting| {
            let value = effective.value(setting);
            let origin = value.map_or_else(|| "not set".to_owned(), |value| value.origin.to_string());
            (setting.name, value.map(|value| shown(setting, &value.text)), origin)
        })
        .collect();
    if as_json {
        let members: Map<String, Json> = rows
            .into_iter()
            .map(|(name, value, origin)| (name.to_owned(), json!({ "value": value, "origin": origin })))
            .collect();
        return writeln!(out, "{:#}", Json::Object(members));
    }
    let width = |column: fn(&(&str, Option<String>, String)) -> usize| rows.iter().map(column).max().unwrap_or(0);
    let names = width(|(name, ..)| name.chars().count());
    let values = width(|(_, value, _)| value.as_deref().unwrap_or("-").chars().count());
    for (name, value, origin) in rows {
        writeln!(out, "{name:names$}  {:values$}  {origin}", value.as_deref().unwrap_or("-"))?;
    }
    Ok(())
}

/// Prints the table of settings as Markdown.
///
/// # Errors
/// Those of `out`.
pub(crate) fn print_reference(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "| variable | flag | in the file | must be | default | what it does |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for setting in SETTINGS {
        let flag = if setting.has_flag() { format!("`--{}`", setting.flag()) } else { "none".to_owned() };
        let key = if setting.in_file() { format!("`{}`", setting.name) } else { "no".to_owned() };
        let default = match setting.default {
            Default::Unset => "not set".to_owned(),
            Default::Text(text) => format!("`{text}`"),
            Default::DataDirectory => "`$XDG_DATA_HOME/apikeys` or `~/.local/share/apikeys`".to_owned(),
        };
        let Setting { accepts, help, .. } = setting;
        writeln!(out, "| `{}` | {flag} | {key} | {accepts} | {default} | {help} |", setting.variable())?;
    }
    Ok(())
}

fn shown(setting: &Setting, text: &str) -> String {
    match setting.secrecy {
        Secrecy::Public => text.to_owned(),
        Secrecy::Secret => MASK.to_owned(),
        Secrecy::DatabaseUrl => masked_database_url(text),
        Secrecy::ProxyUrl => HttpProxy::parse(text).map_or_else(|_| MASK.to_owned(), |proxy| proxy.to_string()),
        Secrecy::UrlQuery => JwksSource::parse(text).map_or_else(|_| MASK.to_owned(), |source| source.to_string()),
    }
}

/// The URL without its password, and without the values of parameters that could hold one. Where it cannot be told which part
/// is the password, nothing but the scheme is shown.
pub(crate) fn masked_database_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let (user, rest) = match rest.split_once('@') {
        // An unescaped password may itself hold what ends it.
        Some((user, rest)) if !user.contains(['/', '?', '#']) && !rest.contains('@') => (Some(user), rest),
        Some(_) => return format!("{scheme}://{MASK}"),
        None => (None, rest),
    };
    let user = match user.map(|user| user.split_once(':').map_or((user, None), |(user, _)| (user, Some(MASK)))) {
        Some((user, Some(mask))) => format!("{user}:{mask}@"),
        Some((user, None)) => format!("{user}@"),
        None => String::new(),
    };
    let Some((place, query)) = rest.split_once('?') else { return format!("{scheme}://{user}{rest}") };
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if PUBLIC_PARAMETERS.contains(&name) => parameter.to_owned(),
            Some((name, _)) => format!("{name}={MASK}"),
            None => MASK.to_owned(),
        })
        .collect();
    format!("{scheme}://{user}{place}?{}", parameters.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_is_shown_without_its_password() {
        for (url, masked) in [
            ("postgres://h/db", "postgres://h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://u:hidden@h:5432/db?sslmode=require", "postgres://u:********@h:5432/db?sslmode=require"),
            ("postgres://u:hid/d?e@n:@h/db", "postgres://********"),
            ("postgres://h:1/db?password=hid@den", "postgres://********"),
            ("postgres:///db?user=u&password=hidden", "postgres:///db?user=********&password=********"),
            ("postgres://h/db?pass%77ord=hidden", "postgres://h/db?pass%77ord=********"),
        ] {
            assert_eq!(masked_database_url(url), masked);
        }
    }
}
