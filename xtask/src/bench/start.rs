//! How soon a start is ready on SQLite, what memory it takes when idle, and how large the binary is.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::report::{Report, median};
use crate::{
    process::Ended,
    service::{free_address, memory},
};

const ROUNDS: usize = 11;

pub(crate) fn measure(binary: &Path, folder: &Path, report: &mut Report) -> Result<()> {
    let bytes = u32::try_from(fs::metadata(binary)?.len())?;
    report.add("size of the binary", f64::from(bytes) / 1_048_576.0, "MiB");
    let data = folder.join("start");
    let (mut first, mut again, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        first.push(start(binary, &data)?.0);
        let (ready, resident) = start(binary, &data)?;
        again.push(ready);
        memory.push(resident);
    }
    report.add("ready to serve, new SQLite database, median", median(first), "ms");
    report.add("ready to serve, existing SQLite database, median", median(again), "ms");
    report.add("resident memory idle, median", median(memory), "MB");
    Ok(())
}

/// Starts the service, waits until it is ready, lets it rest and ends it. Returns milliseconds and megabytes.
fn start(binary: &Path, data: &Path) -> Result<(f64, f64)> {
    let admin = free_address()?;
    let started = super::now();
    let process = Command::new(binary)
        .arg("serve")
        .env("APIKEYS_DATA_DIR", data)
        .env("APIKEYS_LISTEN", free_address()?.to_string())
        .env("APIKEYS_VERIFY_LISTEN", free_address()?.to_string())
        .env("APIKEYS_ADMIN_LISTEN", admin.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut process = Ended(process);
    while !is_ready(admin) {
        ensure!(process.0.try_wait()?.is_none(), "the service ended");
        sleep(Duration::from_micros(500));
    }
    let ready = started.elapsed().as_secs_f64() * 1_000.0;
    sleep(Duration::from_millis(500));
    Ok((ready, memory(process.0.id(), "VmRSS:")? / 1e6))
}

fn is_ready(admin: SocketAddr) -> bool {
    let answer = || -> std::io::Result<[u8; 12]> {
        let mut connection = TcpStream::connect(admin)?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        connection.read_exact(&mut start)?;
        Ok(start)
    };
    answer().is_ok_and(|start| &start == b"HTTP/1.1 200")
}
