//! The container engine: any that answers to the `docker` command will do.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::process::{command, run, succeeds};

/// What a dockerd that was started here writes.
const LOG: &str = "/var/log/apikeys-dockerd.log";

/// How often, with a pause of a second, a starting engine is asked whether it answers. A first start on a slow
/// disk was seen to take 5 s.
const ATTEMPTS: u32 = 60;

/// Whether a container engine answers.
pub(crate) fn answers() -> bool {
    succeeds(&mut command("docker", ["version", "--format", "{{.Server.Version}}"]))
}

/// Makes sure that a container engine answers.
///
/// # Errors
/// None does, and none can be started from here.
pub(crate) fn start() -> Result<()> {
    if answers() {
        return Ok(());
    }
    if !packages::installs_itself() {
        bail!("a container engine that answers to `docker version`: start it, or join the group that may use it");
    }
    if Path::new("/run/systemd/system").exists() {
        println!("setup: starting the service docker");
        run(&mut command("systemctl", ["start", "docker"]))?;
        return wait(|| Ok(()));
    }
    let log = OpenOptions::new().create(true).append(true).open(LOG).with_context(|| format!("cannot open {LOG}"))?;
    // A session of its own: it outlives this process, its terminal and its process group.
    let mut engine = command("setsid", [])
        .arg(packages::program("dockerd"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start dockerd")?;
    println!("setup: started dockerd (process {}, log in {LOG})", engine.id());
    wait(|| match engine.try_wait()? {
        Some(status) => bail!("dockerd ended ({status}); see {LOG}"),
        None => Ok(()),
    })
}

fn wait(mut still_starting: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        if answers() {
            return Ok(());
        }
        still_starting()?;
        thread::sleep(Duration::from_secs(1));
    }
    bail!("the container engine does not answer; see {LOG}, or the journal of the service docker")
}
