//! What the system says of a process's CPU time, and which core it runs on.

use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    process::setpriority_process,
    thread::{CpuSet, sched_setaffinity},
};

/// Linux counts processes' CPU time in these (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A niceness. Nine tenths of the core, so that the other tenth still renews leases.
const BEFORE_OTHERS: i32 = -10;

/// The CPU time that a process has used, its threads' together (fields 14 and 15 of `/proc/PID/stat`).
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Does something on one core alone; the processes that it starts stay there too.
pub(crate) fn on_core<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let mut cores = CpuSet::new();
            cores.set(core);
            sched_setaffinity(None, &cores).with_context(|| format!("cannot stay on core {core}"))?;
            work()
        });
        pinned.join().map_err(|_| anyhow!("a measurement panicked"))?
    })
}

/// Does something on one core alone, and before whatever else runs there, if that is permitted: a load that has to wait for a database is
/// another load.
pub(crate) fn before_others_on<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_core(core, || {
        let _ = setpriority_process(None, BEFORE_OTHERS);
        work()
    })
}
