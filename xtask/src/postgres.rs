//! A PostgreSQL with its ordinary, durable settings, in a container that ends with the run.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::{Ended, command, output, succeeds},
    setup,
};

/// Where the programs of PostgreSQL are in the images that the tests use.
const PATH: &str = "PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin";

/// A running container.
pub(crate) struct Postgres {
    container: String,
    address: String,
}

impl Postgres {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        let image = setup::postgres_image().context("there is no PostgreSQL image (run `cargo xtask setup`)")?;
        let mut docker = command("docker", ["run", "--detach", "--rm", "--env", "POSTGRES_PASSWORD=bench"]);
        docker.args(["--shm-size", "1g", &image, "postgres", "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB"]);
        let container = output(&mut docker)?;
        // The container's own address: a published port would put the engine's proxy between the service and its database, and
        // not between pgbench and its.
        let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = output(command("docker", ["inspect", "--format", template]).arg(&container))?;
        let database = Self { container, address };
        for _ in 0..600 {
            let mut ready =
                database.exec(&["psql", "--username", "postgres", "--host", "127.0.0.1", "--command", "SELECT 1"]);
            if succeeds(&mut ready) {
                return Ok(database);
            }
            sleep(Duration::from_millis(100));
        }
        bail!("PostgreSQL did not become ready")
    }

    /// Writes a dump of a database, in the container.
    pub(crate) fn dump(&self, database: &str) -> Result<()> {
        let file = format!("/tmp/{database}.dump");
        output(&mut self.exec(&[
            "pg_dump",
            "--username",
            "postgres",
            "--format",
            "custom",
            "--file",
            &file,
            database,
        ]))?;
        Ok(())
    }

    /// Drops the database, whoever is connected, and makes it again from its dump.
    pub(crate) fn restore(&self, database: &str) -> Result<()> {
        let file = format!("/tmp/{database}.dump");
        self.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"))?;
        self.create(database)?;
        output(&mut self.exec(&["pg_restore", "--username", "postgres", "--dbname", database, &file]))?;
        Ok(())
    }

    /// A session that carries out what is written to its standard input, until that ends.
    pub(crate) fn session(&self, database: &str) -> Result<Ended> {
        let mut psql = self.exec(&["psql", "--username", "postgres", "--no-psqlrc", "--quiet", "--dbname", database]);
        Ok(Ended(psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?))
    }

    /// Leaves every other core to what is measured.
    #[cfg(feature = "bench")]
    pub(crate) fn keep_on_core(&self, core: usize) -> Result<()> {
        output(command("docker", ["update", "--cpuset-cpus", &core.to_string()]).arg(&self.container))?;
        Ok(())
    }

    /// Makes a new, empty database and returns its URL.
    pub(crate) fn create(&self, name: &str) -> Result<String> {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://postgres:bench@{}:5432/{name}?sslmode=disable", self.address))
    }

    /// Runs SQL, and returns what the last statement answered.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.exec(&["psql", "--username", "postgres", "--no-psqlrc", "--quiet", "--tuples-only"]);
        psql.args(["--no-align", "--set", "ON_ERROR_STOP=1", "--dbname", database]);
        let mut process = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        process.stdin.take().context("standard input is not captured")?.write_all(sql.as_bytes())?;
        let answer = process.wait_with_output()?;
        ensure!(answer.status.success(), "psql failed ({})", answer.status);
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// Runs a script by pgbench and returns its transactions per second.
    #[cfg(feature = "bench")]
    pub(crate) fn pgbench(
        &self,
        database: &str,
        script: &str,
        clients: usize,
        duration: Duration,
        folder: &std::path::Path,
    ) -> Result<f64> {
        let local = folder.join("pgbench.sql");
        std::fs::write(&local, script)?;
        output(command("docker", ["cp"]).arg(&local).arg(format!("{}:/tmp/pgbench.sql", self.container)))?;
        let mut pgbench = self.exec(&["pgbench", "--username", "postgres", "--host", "127.0.0.1", "--no-vacuum"]);
        pgbench.args(["--protocol", "prepared", "--file", "/tmp/pgbench.sql", "--jobs", "2"]);
        pgbench.args(["--client", &clients.to_string(), "--time", &duration.as_secs().to_string(), database]);
        let answer = output(&mut pgbench)?;
        let rate = answer.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        rate.context("pgbench told no rate")?.parse().context("pgbench's rate is no number")
    }

    fn exec(&self, arguments: &[&str]) -> Command {
        let mut docker = command("docker", ["exec", "--interactive", "--env", "PGPASSWORD=bench", "--env", PATH]);
        docker.arg(&self.container).args(arguments);
        docker
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Whatever is in the way of ending it, there is nobody left to tell.
        let _ = succeeds(command("docker", ["rm", "--force", "--volumes"]).arg(&self.container));
    }
}
