//! The command line. The flags of settings are made from their table; only what is no setting is said here.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::{
    config::{SETTINGS, Scope, Secrecy, Setting},
    failure::{EXIT_CODES, Failure},
};

/// The command line of `apikeys`.
pub(crate) fn command() -> Command {
    Command::new("apikeys")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Issues, lists, revokes and verifies API keys.")
        .after_help(format!(
            "Every flag of a setting has a variable and, as a rule, a key in the file: see `apikeys config --reference`.\n\n{EXIT_CODES}"
        ))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve())
        .subcommand(migrate())
        .subcommand(bootstrap())
        .subcommand(config())
        .subcommand(create())
        .subcommand(list())
        .subcommand(revoke())
        .subcommand(verify())
}

/// The flags of settings that were given.
///
/// # Errors
/// [`Failure::Usage`] for a secret, which every user of the machine can read on a command line.
pub(crate) fn flags(matches: &ArgMatches) -> Result<Vec<(&'static Setting, String)>, Failure> {
    for setting in secrets() {
        if matches.try_contains_id(setting.name).is_ok_and(|given| given) {
            let (flag, variable) = (setting.flag(), setting.variable());
            let file = SETTINGS.iter().find(|file| file.name.strip_suffix("_file") == Some(setting.name));
            let instead = match file {
                Some(file) => format!("or a file by --{}", file.flag()),
                None if setting.in_file() => format!("or {} in the file of settings", setting.name),
                None => "or leave it out to be asked".to_owned(),
            };
            return Err(Failure::Usage(format!(
                "--{flag} is a secret, and command lines are visible to every user of a machine: set {variable}, {instead}"
            )));
        }
    }
    let given = SETTINGS
        .iter()
        .filter_map(|setting| {
            let value = matches.try_get_one::<String>(setting.name).ok().flatten()?;
            Some((*setting, value.clone()))
        })
        .collect();
    Ok(given)
}

fn secrets() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().copied().filter(|setting| setting.secrecy != Secrecy::Public && !setting.has_flag())
}

fn serve() -> Command {
    with_settings(Scope::Server, Command::new("serve").about("Runs the service"))
}

fn migrate() -> Command {
    let grant = Arg::new("grant").long("grant").value_name("ROLE");
    let command = Command::new("migrate")
        .about("Brings the database's schema up to date")
        .arg(grant.help("Then give this PostgreSQL role what the service needs on the tables, and no more"));
    with_settings(Scope::Server, command)
}

fn bootstrap() -> Command {
    let expires_in = Arg::new("expires-in").long("expires-in").value_name("DURATION");
    let command = Command::new("bootstrap")
        .about("Issues a first management key for an organization, and prints it alone")
        .arg(Arg::new("organization").long("organization").value_name("NAME").required(true).help("Whose key"))
        .arg(name().default_value("bootstrap"))
        .arg(expires_in.help("After how long the key stops being valid, such as 90d; without it, never"))
        .arg(permissions("By default all but PLATFORM_…, which is for the platform's own staff; can be repeated"));
    with_settings(Scope::Server, command)
}

fn config() -> Command {
    let reference = Arg::new("reference").long("reference").action(ArgAction::SetTrue);
    let command = Command::new("config")
        .about("Prints the settings in force and where each comes from; secrets are masked")
        .arg(reference.help("Print a table of all settings in Markdown instead"))
        .arg(json());
    with_settings(Scope::Both, command)
}

fn create() -> Command {
    let expires_at = Arg::new("expires-at").long("expires-at").value_name("RFC3339");
    let expires_in = Arg::new("expires-in").long("expires-in").value_name("DURATION");
    let command = Command::new("create")
        .about("Creates a key and shows it, this once; repeats itself safely where an answer is lost")
        .arg(name().required(true))
        .arg(permissions("By default none: the key only identifies its organization"))
        .arg(
            expires_at
                .conflicts_with("expires-in")
                .help("When the key stops being valid, such as 2027-01-31T00:00:00Z"),
        )
        .arg(
            expires_in
                .help("After how long, by the service's clock, the key stops being valid, such as 30d, 12h or 45m"),
        )
        .arg(key_type("What the key is for").default_value("api-key"))
        .arg(json());
    with_settings(Scope::Client, command)
}

fn list() -> Command {
    let all = Arg::new("all").long("all").action(ArgAction::SetTrue);
    let page_size =
        Arg::new("page-size").long("page-size").value_name("NUMBER").value_parser(value_parser!(i32).range(1..=1000));
    let page_token = Arg::new("page-token").long("page-token").value_name("TOKEN");
    let command = Command::new("list")
        .about("Lists the organization's keys, newest first")
        .arg(key_type("Only keys of this type"))
        .arg(all.conflicts_with("page-token").help("Show all pages"))
        .arg(page_size.help("The most keys on a page"))
        .arg(page_token.help("The page that starts where another one ended"))
        .arg(json());
    with_settings(Scope::Client, command)
}

fn revoke() -> Command {
    let which = Arg::new("which").value_name("ID|PREFIX");
    let command =
        Command::new("revoke")
            .about("Revokes a key, for ever")
            .arg(which.help(
                "The key's id or prefix; where it is left out, the leaked key itself is asked for, and never sent",
            ))
            .arg(json());
    with_settings(Scope::Client, command)
}

fn verify() -> Command {
    let key_types = key_type("Accept keys of this type; can be repeated").action(ArgAction::Append);
    let strict = Arg::new("strict").long("strict").action(ArgAction::SetTrue);
    let command = Command::new("verify")
        .about("Says whether a key is valid: exits with 0 if it is, 1 if it is rejected, 3 if it cannot be told. The key is taken from APIKEYS_VERIFY_KEY or asked for")
        .arg(permissions("Require this permission; can be repeated"))
        .arg(key_types)
        .arg(strict.help("Prove freshness against the database"))
        .arg(json());
    with_settings(Scope::Client, command)
}

fn name() -> Arg {
    Arg::new("name").long("name").value_name("NAME").help("The key's name, 1 to 200 characters")
}

fn permissions(help: &'static str) -> Arg {
    Arg::new("permission")
        .long("permission")
        .value_name("PERMISSION")
        .action(ArgAction::Append)
        .help(format!("{help}. A name such as CAMPAIGNS_READ, with or without PERMISSION_ before it"))
}

fn key_type(help: &'static str) -> Arg {
    Arg::new("key-type").long("key-type").value_name("TYPE").value_parser(["api-key", "scim-token"]).help(help)
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON")
}

fn with_settings(scope: Scope, command: Command) -> Command {
    let settings = SETTINGS.iter().filter(|setting| setting.scope.serves(scope) && setting.has_flag());
    // Known so that they can be refused, whatever follows, without being repeated.
    let refused = secrets().map(|setting| {
        let flag = Arg::new(setting.name).long(setting.flag()).hide(true);
        flag.num_args(0..).allow_hyphen_values(true).value_parser(value_parser!(OsString))
    });
    let command = command.args(settings.map(|setting| flag(setting))).args(refused).next_help_heading(None);
    if scope == Scope::Client { command.after_help(EXIT_CODES) } else { command }
}

fn flag(setting: &'static Setting) -> Arg {
    let flag = Arg::new(setting.name)
        .long(setting.flag())
        .value_name("VALUE")
        .help(format!("{} [{}]", setting.help, setting.variable()))
        .help_heading("Settings");
    if setting.is_switch() {
        flag.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("true|false")
    } else {
        flag
    }
}
