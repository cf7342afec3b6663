//! `list`: one page of keys, or all of them.

use std::{io, process::ExitCode};

use apikey_grpc::client::{ApiKeyRecord, ListQuery};
use clap::ArgMatches;
use serde_json::json;

use super::{connect, credential, explain::explain, key_types, prompt, show, texts};
use crate::{config::ClientSettings, failure::Failure};

/// Keys on a page where all are asked for: the most that a service gives.
const LARGE_PAGE: i32 = 1_000;

pub(super) async fn run(matches: &ArgMatches, settings: &ClientSettings) -> Result<ExitCode, Failure> {
    let all = matches.get_flag("all");
    let query = ListQuery {
        key_type: key_types(matches).pop(),
        page_size: matches.get_one("page-size").copied().unwrap_or(if all { LARGE_PAGE } else { 0 }),
        page_token: texts(matches, "page-token").pop().unwrap_or_default(),
    };
    let credential = credential(settings)?;
    let mut client = connect(settings, &credential).await?;
    let mut page = client.list(query.clone()).await.map_err(|error| explain(&error, &settings.endpoint))?;
    let mut keys: Vec<ApiKeyRecord> = std::mem::take(&mut page.keys);
    while all && let Some(page_token) = page.next_page_token.take() {
        let next = ListQuery { page_token, ..query.clone() };
        page = client.list(next).await.map_err(|error| explain(&error, &settings.endpoint))?;
        keys.append(&mut page.keys);
    }

    let mut out = io::stdout().lock();
    if matches.get_flag("json") {
        let api_keys: Vec<_> = keys.iter().map(show::json_of).collect();
        let pagination = json!({ "next_page_token": page.next_page_token, "total_count": page.total_count });
        show::print_json(&mut out, &json!({ "api_keys": api_keys, "pagination": pagination }))?;
    } else {
        show::print_table(&mut out, &keys)?;
        if let Some(token) = &page.next_page_token {
            let (shown, total) = (keys.len(), page.total_count);
            prompt::tell(&format!("{shown} of {total} keys; the next page: --page-token {token}, all: --all"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
