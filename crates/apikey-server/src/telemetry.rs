//! Logs, metrics and the report of panics. Logs go to standard error; standard output carries only what was asked for.

mod output;

use std::{
    any::Any,
    io::{self, IsTerminal, Write as _},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Context as _;
use apikey_grpc::call_span;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, LogSettings};
use output::LogQueue;

/// Upper bounds of the buckets of durations, in seconds: from what an answer out of memory takes to the server's time limit.
const DURATION_BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How long the end of the program waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What the names of our own crates, and so the targets of their events, begin with.
const OUR_TARGETS: &str = "apikey";

/// The log of this process, once it is started.
static LOG: OnceLock<LogQueue> = OnceLock::new();

/// Starts to write logs: for people on a terminal, as one JSON object a line otherwise.
///
/// # Errors
/// A log is written already, or the system has no thread left.
pub(crate) fn start_logs(settings: LogSettings) -> anyhow::Result<()> {
    let human = match settings.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let queue = LogQueue::start(output::CAPACITY, io::stderr(), report_dropped).context("no thread for the log")?;
    let queue = LOG.get_or_init(|| queue).clone();
    let registry = tracing_subscriber::registry().with(filter(settings.level));
    if human {
        let layer = fmt::layer().with_writer(queue).with_ansi(io::stderr().is_terminal()).with_target(false);
        registry.with(layer).try_init()
    } else {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(queue);
        registry.with(layer).try_init()
    }
    .context("the log cannot be started")?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
}

/// Which events are logged. Those of other crates at most at INFO: below, they show what a peer sent, which may be a key.
fn filter(level: LevelFilter) -> Targets {
    Targets::new().with_target(OUR_TARGETS, level).with_default(level.min(LevelFilter::INFO))
}

fn report_dropped(lines: u64) {
    tracing::warn!(lines, "log lines were dropped: the log is not read as fast as it is written");
}

/// How many lines of the log have been dropped.
pub(crate) fn lines_dropped() -> u64 {
    LOG.get().map_or(0, LogQueue::dropped)
}

/// Writes a line to standard error: behind the log's, where there is a log.
pub(crate) fn write_error(text: &str) {
    let line = format!("{text}\n");
    match LOG.get() {
        Some(queue) => queue.push(line.as_bytes()),
        // Where standard error is closed there is nobody to tell.
        None => _ = io::stderr().lock().write_all(line.as_bytes()),
    }
}

/// Waits until the log is written, but not long.
pub(crate) fn flush_logs() {
    if let Some(queue) = LOG.get() {
        // Lines that nobody reads are lost with the process.
        let _ = queue.flush(LAST_LINES);
    }
}

/// Starts to collect metrics; the handle renders them.
///
/// # Errors
/// Metrics are collected already.
pub(crate) fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("metrics cannot be collected")
}

/// Says where a panic happened, and its text only where that is part of the program: a text that was put together could hold
/// a secret.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let text = fixed_text(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    call_span().in_scope(|| tracing::error!(text, place, "a defect: panic"));
}

fn fixed_text(payload: &dyn Any) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn other_crates_are_never_logged_below_info() {
        let enabled = |level, target, of| filter(level).would_enable(target, &of);
        for target in ["h2::codec::framed_read", "hyper::proto", "rustls::conn", "tokio_postgres::query"] {
            assert!(enabled(LevelFilter::TRACE, target, Level::INFO));
            assert!(!enabled(LevelFilter::TRACE, target, Level::DEBUG));
            assert!(!enabled(LevelFilter::WARN, target, Level::INFO));
        }
        for target in ["apikey_grpc::call", "apikey_server::serve", "apikeys"] {
            assert!(enabled(LevelFilter::TRACE, target, Level::TRACE));
            assert!(!enabled(LevelFilter::INFO, target, Level::DEBUG));
        }
    }

    #[test]
    fn only_texts_of_the_program_itself_are_shown_of_a_panic() {
        let secret = std::hint::black_box("pidgr_k_secret");
        let put_together = std::panic::catch_unwind(|| panic!("no such key: {secret}")).unwrap_err();
        assert_eq!(fixed_text(&*put_together), "(not shown)");
        let fixed = std::panic::catch_unwind(|| panic!("the list is empty")).unwrap_err();
        assert_eq!(fixed_text(&*fixed), "the list is empty");
    }
}
