//! Logs, metrics and the report of panics. Logs go to standard error; standard output carries only what was asked for.

use std::{
    any::Any,
    io::{self, IsTerminal},
};

use anyhow::Context as _;
use apikey_grpc::call_span;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogSettings};

/// Upper bounds of the buckets of durations, in seconds: from what an answer out of memory takes to the server's time limit.
const DURATION_BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Starts to write logs: for people on a terminal, as one JSON object a line otherwise.
///
/// # Errors
/// A log is written already.
pub(crate) fn start_logs(settings: LogSettings) -> anyhow::Result<()> {
    let human = match settings.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(settings.level);
    if human {
        let layer = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
        registry.with(layer).try_init()
    } else {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(io::stderr);
        registry.with(layer).try_init()
    }
    .context("the log cannot be started")?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
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
    use super::*;

    #[test]
    fn only_texts_of_the_program_itself_are_shown_of_a_panic() {
        let secret = std::hint::black_box("pidgr_k_secret");
        let put_together = std::panic::catch_unwind(|| panic!("no such key: {secret}")).unwrap_err();
        assert_eq!(fixed_text(&*put_together), "(not shown)");
        let fixed = std::panic::catch_unwind(|| panic!("the list is empty")).unwrap_err();
        assert_eq!(fixed_text(&*fixed), "the list is empty");
    }
}
