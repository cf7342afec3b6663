//! What a verification costs, beside what tonic costs by itself: requests per second of the server's CPU time, all servers in turn in one run.
//!
//! The servers share one core and the load has another one, so that neither takes from the other. Every answer is checked.

mod generator;
mod h2load;
mod keys;
mod servers;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    processes::{before_others_on, cpu_seconds},
    report::{Report, median},
};
use crate::{
    postgres::Postgres,
    process::{command, run},
    service::memory,
    setup,
};
use generator::{Choice, Shape, Target};
use keys::Keys;
use servers::Server;

/// The core of the load, and of the database.
const CORE: usize = servers::CORE + 1;
const SHAPES: [(&str, Shape); 2] =
    [("16 x 1", Shape { connections: 16, streams: 1 }), ("16 x 16", Shape { connections: 16, streams: 16 })];
const FULL: Shape = Shape { connections: 16, streams: 16 };
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(3);
const LATENCY_ROUND: Duration = Duration::from_secs(5);
/// How much of what the slowest server can do is asked of each where latencies are measured.
const BELOW_SATURATION: f64 = 0.5;
/// Longer than it takes until all uses that were noted are recorded.
const REST: Duration = Duration::from_secs(12);

const CEILING: &str = "bare ceiling";
const PLAIN: &str = "bare plain";
const SHIPPED: &str = "service";
const SILENT: &str = "service, errors logged only";

pub(crate) fn measure(
    binary: &Path,
    folder: &Path,
    database: &Postgres,
    keys: usize,
    report: &mut Report,
) -> Result<()> {
    setup::for_bench()?;
    let (ceiling, plain) = servers::build_bare()?;
    let url = database.create("verify")?;
    let migrate = ["migrate", "--database-allow-unverified"];
    run(command(binary, migrate).env("APIKEYS_DATABASE_URL", &url))?;
    let keys = Arc::new(Keys::seed(keys, database, "verify")?);
    database.keep_on_core(CORE)?;
    let shipped = [("APIKEYS_DATABASE_URL", url.as_str())];
    let silent = [("APIKEYS_DATABASE_URL", url.as_str()), ("APIKEYS_LOG_LEVEL", "error")];

    grow(&Server::service("growing service", binary, folder, &shipped)?, &keys, report)?;
    let servers = [
        Server::bare(CEILING, &ceiling)?,
        Server::bare(PLAIN, &plain)?,
        Server::service(SHIPPED, binary, folder, &shipped)?,
        Server::service(SILENT, binary, folder, &silent)?,
    ];
    for server in servers.iter().filter(|server| !server.constant) {
        warm(server, &keys, 0, keys.count())?;
    }
    sleep(REST);
    for (name, shape) in SHAPES {
        compare(&servers, &keys, name, shape, folder, report)?;
    }
    Ok(())
}

/// All servers in turn, at one shape.
fn compare(
    servers: &[Server],
    keys: &Arc<Keys>,
    shape_name: &str,
    shape: Shape,
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let choice = Choice::Random(keys.count());
    let mut taken: Vec<Taken> = servers.iter().map(|_| Taken::default()).collect();
    for _ in 0..ROUNDS {
        for (server, taken) in servers.iter().zip(&mut taken) {
            let target = target(server, keys);
            load(&target, shape, &choice, WARM_UP)?;
            let cost = cost_and_recording(server, keys, shape, &choice)?;
            taken.per_cpu.push(1.0 / cost.seconds_per_cpu);
            taken.recording.push(cost.seconds_after * 1e6);
            taken.throughput.push(cost.per_second);
            let cost = self::cost(server, ROUND, || {
                before_others_on(CORE, || h2load::closed_loop(&target, shape, ROUND, folder))
            })?;
            taken.h2load_per_cpu.push(1.0 / cost.seconds_per_cpu);
        }
    }
    let slowest = taken.iter().map(|taken| median(taken.throughput.clone())).fold(f64::INFINITY, f64::min);
    let rate = (slowest * BELOW_SATURATION).round();
    for (server, taken) in servers.iter().zip(&taken) {
        let name = server.name;
        report.add(format!("{shape_name}, {name}: requests per second"), median(taken.throughput.clone()), "/s");
        report.add(format!("{shape_name}, {name}: per second of CPU"), median(taken.per_cpu.clone()), "/s");
        if !server.constant {
            let after = format!("{shape_name}, {name}: CPU of a request after its answer, to record its use");
            report.add(after, median(taken.recording.clone()), "µs");
        }
        let by_h2load = median(taken.h2load_per_cpu.clone());
        report.add(format!("{shape_name}, {name}: per second of CPU, by h2load"), by_h2load, "/s");
        let latencies = before_others_on(CORE, || {
            generator::run(generator::open_loop(&target(server, keys), shape, keys.count(), rate, LATENCY_ROUND))
        })?;
        for (quantile, quantile_name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")] {
            let micros = Duration::from_nanos(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e6;
            report.add(format!("{shape_name}, {name}: latency at {rate}/s, {quantile_name}"), micros, "µs");
        }
    }
    for (one, other) in [(SHIPPED, CEILING), (SHIPPED, PLAIN), (SILENT, CEILING), (SHIPPED, SILENT)] {
        let of = |name: &str| servers.iter().position(|server| server.name == name).and_then(|at| taken.get(at));
        let (one_taken, other_taken) = (of(one).context("not measured")?, of(other).context("not measured")?);
        let ratio = ratio(&one_taken.per_cpu, &other_taken.per_cpu);
        report.add(format!("{shape_name}, {one} / {other}"), ratio, "x");
        let ratio = self::ratio(&one_taken.h2load_per_cpu, &other_taken.h2load_per_cpu);
        report.add(format!("{shape_name}, {one} / {other}, by h2load"), ratio, "x");
    }
    Ok(())
}

/// What was measured of one server, a value for each round.
#[derive(Default)]
struct Taken {
    per_cpu: Vec<f64>,
    /// Microseconds after the answer.
    recording: Vec<f64>,
    throughput: Vec<f64>,
    h2load_per_cpu: Vec<f64>,
}

/// The median of the rounds' own ratios: what disturbed a round disturbed both.
fn ratio(ones: &[f64], others: &[f64]) -> f64 {
    median(ones.iter().zip(others).map(|(one, other)| one / other).collect())
}

/// Cost and memory of one service while more and more keys come into it.
fn grow(server: &Server, keys: &Arc<Keys>, report: &mut Report) -> Result<()> {
    let idle = memory(server.process_id(), "VmRSS:")?;
    let mut warmed = 0;
    for count in [1_000, 100_000, 1_000_000] {
        let count = keys.count().min(count);
        if count == warmed {
            break;
        }
        warm(server, keys, warmed, count)?;
        warmed = count;
        sleep(REST);
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            let cost = cost_and_recording(server, keys, FULL, &Choice::Random(count))?;
            costs.push(cost.seconds_per_cpu * 1e6);
        }
        report.add(format!("CPU of a verification at {count} keys"), median(costs), "µs");
    }
    sleep(REST);
    let grown = memory(server.process_id(), "VmRSS:")? - idle;
    report.add(format!("memory for each of {warmed} keys"), grown / f64::from(u32::try_from(warmed)?), "bytes");
    Ok(())
}

/// Verifies each of these keys once.
fn warm(server: &Server, keys: &Arc<Keys>, first: usize, end: usize) -> Result<()> {
    let choice = Choice::Each { next: Arc::new(AtomicUsize::new(first)), end };
    let answered = load(&target(server, keys), FULL, &choice, Duration::from_mins(30))?;
    ensure!(answered == end - first, "{answered} of {} keys were warmed", end - first);
    Ok(())
}

fn load(target: &Target, shape: Shape, choice: &Choice, time: Duration) -> Result<usize> {
    before_others_on(CORE, || generator::run(generator::closed_loop(target, shape, choice, time)))
}

fn target(server: &Server, keys: &Arc<Keys>) -> Target {
    Target { address: server.address, keys: Arc::clone(keys), constant: server.constant }
}

/// What a request took.
struct Cost {
    seconds_per_cpu: f64,
    /// The part of it that came after the answer: most of the recording of its use.
    seconds_after: f64,
    per_second: f64,
}

/// What each of the requests cost that a load had answered.
fn cost(server: &Server, time: Duration, load: impl FnOnce() -> Result<usize>) -> Result<Cost> {
    let before = cpu_seconds(server.process_id())?;
    let answered = f64::from(u32::try_from(load()?)?);
    let used = cpu_seconds(server.process_id())? - before;
    ensure!(used > 0.0 && answered > 0.0, "{} did nothing", server.name);
    Ok(Cost { seconds_per_cpu: used / answered, seconds_after: 0.0, per_second: answered / time.as_secs_f64() })
}

/// The same of a round, and until a service has recorded the uses too: that belongs to what they cost, and not to the next server.
fn cost_and_recording(server: &Server, keys: &Arc<Keys>, shape: Shape, choice: &Choice) -> Result<Cost> {
    let target = target(server, keys);
    let cost = cost(server, ROUND, || load(&target, shape, choice, ROUND))?;
    if server.constant {
        return Ok(cost);
    }
    let before = cpu_seconds(server.process_id())?;
    sleep(REST);
    let used = cpu_seconds(server.process_id())? - before;
    let seconds_after = used / (cost.per_second * ROUND.as_secs_f64());
    Ok(Cost { seconds_per_cpu: cost.seconds_per_cpu + seconds_after, seconds_after, ..cost })
}
