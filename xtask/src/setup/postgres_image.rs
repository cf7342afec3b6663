//! The PostgreSQL image of the tests: the official one where it can be had, otherwise one of the same role
//! that is made here from Debian's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::{env, process};

use anyhow::{Context, Result, bail};

use super::packages;
use crate::process::{command, output, run, succeeds};

/// The variable that names the image (`name:tag`) for the tests.
pub(crate) const IMAGE_VARIABLE: &str = "APIKEYS_TEST_POSTGRES_IMAGE";

/// The default of the tests.
const OFFICIAL: &str = "postgres:17-alpine";

/// The image that is made here: PostgreSQL 15 of Debian 12.
const OWN: &str = "apikeys-postgres:15";

/// The time that pulling the official image may take, in seconds.
const PULL_SECONDS: &str = "120";

const ENTRYPOINT: &str = include_str!("postgres_entrypoint.sh");

/// Raise it with every change of the entrypoint or of this file that changes the image: an image of another
/// recipe is made anew.
const RECIPE: &str = "1";

/// The image that the tests use: the one that the variable names, otherwise the first that is here.
pub(crate) fn present() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, which this program owns")]
    let named = env::var(IMAGE_VARIABLE).ok();
    if let Some(named) = named {
        return exists(&named).then_some(named);
    }
    if own_is_current() {
        return Some(OWN.to_owned());
    }
    exists(OFFICIAL).then(|| OFFICIAL.to_owned())
}

/// Makes sure that there is an image.
pub(crate) fn make() -> Result<()> {
    if present().is_some() {
        return Ok(());
    }
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, which this program owns")]
    let named = env::var(IMAGE_VARIABLE).ok();
    let wanted = named.as_deref().unwrap_or(OFFICIAL);
    if wanted != OWN {
        println!("setup: pulling {wanted}");
        if succeeds(&mut command("timeout", [PULL_SECONDS, "docker", "pull", "--quiet", wanted])) {
            return Ok(());
        }
    }
    if wanted != OWN && wanted != OFFICIAL {
        bail!("the image {wanted}, which {IMAGE_VARIABLE} names: it cannot be pulled");
    }
    if !packages::installs_itself() {
        bail!("a PostgreSQL image: {OFFICIAL} cannot be pulled; set {IMAGE_VARIABLE} to one that is here");
    }
    println!("setup: it cannot be pulled, so {OWN} is made (about a minute)");
    let missing = packages::install(&packages::missing_for_image())?;
    if let Some(line) = missing.first() {
        bail!("{line}");
    }
    let system = env::temp_dir().join(format!("apikeys-postgres-{}", process::id()));
    let result = build(&system);
    fs::remove_dir_all(&system).with_context(|| format!("cannot remove {}", system.display()))?;
    result
}

fn build(system: &Path) -> Result<()> {
    fs::create_dir_all(system)?;
    let log = fs::File::create(crate::workspace::target().join("debootstrap.log"))?;
    run(command(
        packages::program("debootstrap"),
        ["--variant=minbase", "--include=postgresql-15,postgresql-client-15", "bookworm"],
    )
    .arg(system)
    .stdout(log.try_clone()?)
    .stderr(log))
    .context("see target/debootstrap.log")?;
    let entrypoint = system.join("usr/local/bin/postgres-entrypoint");
    fs::write(&entrypoint, ENTRYPOINT)?;
    fs::set_permissions(&entrypoint, fs::Permissions::from_mode(0o755))?;

    let mut archive = command("tar", ["--create", "--numeric-owner", "--directory"])
        .arg(system)
        .args(["--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*"])
        .args(["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*"])
        .args(["--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*", "--exclude=./usr/share/locale/*"])
        // The cluster that Debian's package makes; the entrypoint makes one of its own.
        .args(["--exclude=./var/lib/postgresql/15", "."])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let packed = archive.stdout.take().context("tar has no output")?;
    let recipe = format!("LABEL apikeys.recipe={RECIPE}");
    let status = command("docker", ["import"])
        .args(["--change", "ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .args(["--change", "ENV PGDATA=/var/lib/postgresql/data"])
        .args(["--change", "ENV LANG=C.UTF-8"])
        .args(["--change", "EXPOSE 5432"])
        .args(["--change", "ENTRYPOINT [\"postgres-entrypoint\"]"])
        .args(["--change", "CMD [\"postgres\"]"])
        .args(["--change", &recipe])
        .args(["-", OWN])
        .stdin(packed)
        .stdout(Stdio::null())
        .status()
        .context("cannot start docker")?;
    if !archive.wait()?.success() || !status.success() {
        bail!("cannot import {OWN}");
    }
    Ok(())
}

fn exists(image: &str) -> bool {
    succeeds(&mut command("docker", ["image", "inspect", image]))
}

fn own_is_current() -> bool {
    let format = "{{index .Config.Labels \"apikeys.recipe\"}}";
    output(&mut command("docker", ["image", "inspect", "--format", format, OWN])).is_ok_and(|recipe| recipe == RECIPE)
}
