//! Another generator's opinion: nghttp2's `h2load`. It sends one key only and looks at no answer; their size tells that they were verdicts.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::generator::{Shape, Target};
use crate::process::{command, output};

/// Sends requests about the first valid key for that long. Returns how many were answered.
pub(crate) fn closed_loop(target: &Target, shape: Shape, time: Duration, folder: &Path) -> Result<usize> {
    let body = folder.join("request.bin");
    fs::write(&body, target.keys.request(1))?;
    let mut h2load = command("h2load", ["--threads", "1", "--header", "content-type: application/grpc"]);
    h2load.args(["--header", "te: trailers", "--data"]).arg(&body);
    h2load.args(["--clients", &shape.connections.to_string(), "--max-concurrent-streams", &shape.streams.to_string()]);
    h2load.args(["--duration", &time.as_secs().to_string()]);
    h2load.arg(format!("http://{}/pidgr.v1.ApiKeyVerificationService/VerifyApiKey", target.address));
    let said = output(&mut h2load)?;
    let number = |line: &str, after: &str| -> Option<usize> {
        let line = said.lines().find(|candidate| candidate.starts_with(line))?;
        let before = line.find(after)?;
        let digits = line.get(..before)?.trim_end_matches(['(', ')', ' ']);
        digits.rsplit([' ', '(']).next()?.parse().ok()
    };
    let answered = number("requests:", " succeeded").context("h2load told no number of requests")?;
    let data = number("traffic:", " data").context("h2load told no size of answers")?;
    let least = 1 + target.keys.request(1).len();
    ensure!(answered > 0 && data / answered >= least, "{answered} answers have {data} bytes: they are no verdicts");
    Ok(answered)
}
