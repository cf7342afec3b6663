//! `revoke`: by id, by prefix, or by the leaked key itself, of which nothing but its prefix leaves this process.

use std::{io, process::ExitCode};

use anyhow::anyhow;
use apikey_domain::{KeyId, KeyType, pidgr::KEY_FORMAT};
use apikey_grpc::client::{ListQuery, ManagementClient, ServiceAddress};
use clap::ArgMatches;
use serde_json::json;
use zeroize::Zeroizing;

use super::{connect, credential, explain::explain, prompt, show, table, texts};
use crate::{config::ClientSettings, failure::Failure};

/// Keys on a page while a prefix is looked for: the most that a service gives.
const LARGE_PAGE: i32 = 1_000;
/// Public characters after a key's brand.
const PUBLIC_LENGTH: usize = 8;

/// Which key is meant.
enum Which {
    Id(String),
    Prefix(String),
}

pub(super) async fn run(matches: &ArgMatches, settings: &ClientSettings) -> Result<ExitCode, Failure> {
    let credential = credential(settings)?;
    let which = match texts(matches, "which").pop().map(Zeroizing::new) {
        Some(text) => which(&text),
        None => which(&prompt::secret("The leaked key (only its public prefix is sent)")?),
    };
    let Some(which) = which else {
        let help = "that is neither an id nor a prefix nor a key: an id is a hyphenated UUID, a prefix looks like pidgr_k_Ab3dE6gH";
        return Err(Failure::Usage(help.to_owned()));
    };
    let mut client = connect(settings, &credential).await?;
    let id = match which {
        Which::Id(id) => id,
        Which::Prefix(prefix) => find(&mut client, &prefix, &settings.endpoint).await?,
    };
    client.revoke(&id).await.map_err(|error| explain(&error, &settings.endpoint))?;

    let mut out = io::stdout().lock();
    if matches.get_flag("json") {
        show::print_json(&mut out, &json!({ "id": id }))?;
    } else {
        table::fields(&mut out, &[("revoked", id)])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads an id, a prefix, or a key, whole or with its end cut off.
fn which(text: &str) -> Option<Which> {
    let text = text.trim();
    if KeyId::parse(text).is_ok() {
        return Some(Which::Id(text.to_owned()));
    }
    let brand =
        KeyType::ALL.map(|key_type| KEY_FORMAT.brand(key_type)).into_iter().find(|brand| text.starts_with(brand))?;
    let public = text.get(brand.len()..brand.len() + PUBLIC_LENGTH)?;
    public.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| Which::Prefix(format!("{brand}{public}")))
}

/// The id of the key with that prefix.
async fn find(client: &mut ManagementClient, prefix: &str, endpoint: &ServiceAddress) -> Result<String, Failure> {
    let mut ids = Vec::new();
    let mut query = ListQuery { key_type: None, page_size: LARGE_PAGE, page_token: String::new() };
    loop {
        let page = client.list(query.clone()).await.map_err(|error| explain(&error, endpoint))?;
        ids.extend(page.keys.into_iter().filter(|key| key.prefix == prefix).map(|key| key.id));
        match page.next_page_token {
            Some(page_token) => query.page_token = page_token,
            None => break,
        }
    }
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(Failure::Refused(anyhow!("your organization has no key with the prefix {prefix}"))),
        _ => Err(Failure::Refused(anyhow!(
            "several keys have the prefix {prefix}: revoke them by id: {}",
            ids.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_nothing_but_the_prefix_is_used() {
        let key = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk";
        for text in [key, &key[..30], "pidgr_k_Ab3dE6gH", " pidgr_k_Ab3dE6gH\n"] {
            assert!(matches!(which(text), Some(Which::Prefix(prefix)) if prefix == "pidgr_k_Ab3dE6gH"), "{text}");
        }
        let scim = which("pidgr_scim_Ab3dE6gHxyz");
        assert!(matches!(scim, Some(Which::Prefix(prefix)) if prefix == "pidgr_scim_Ab3dE6gH"));
        assert!(matches!(which("0198c5f0-7a3b-7cde-8f01-23456789abcd"), Some(Which::Id(_))));
        for illegal in ["", "CI Integration", "pidgr_k_Ab3dE6g", "other_Ab3dE6gH", "pidgr_k_Ab3dE6g-"] {
            assert!(which(illegal).is_none(), "{illegal}");
        }
    }
}
