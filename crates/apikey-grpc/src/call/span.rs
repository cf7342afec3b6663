//! The span of a call, made only where something is said in it: most calls have nothing to say, and a span costs as much as a tenth of
//! a verification.
//!
//! Whoever logs during a call, or hands a part of it to another task, takes the span from [`call_span`].

use std::{
    cell::RefCell,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tracing::{
    Span,
    instrument::{Instrument as _, Instrumented},
};

use crate::request_id::RequestId;

thread_local! {
    /// The call that this thread is carrying out just now.
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// What a span tells of its call.
pub(super) struct Call {
    pub(super) request_id: RequestId,
    pub(super) method: &'static str,
}

impl Call {
    fn span(&self) -> Span {
        tracing::info_span!("call", request_id = self.request_id.as_str(), method = self.method)
    }
}

/// The span of the call that is being carried out, for a log line or a task of it; none outside a call.
#[must_use]
pub fn call_span() -> Span {
    let current = Span::current();
    if !current.is_none() {
        return current;
    }
    CURRENT.with_borrow(|call| call.as_ref().map_or_else(Span::none, Call::span))
}

/// The id of the request that is being carried out.
pub(crate) fn request_id() -> RequestId {
    CURRENT.with_borrow(|call| call.as_ref().map_or_else(RequestId::missing, |call| call.request_id.clone()))
}

pin_project! {
    /// A future that is the work of a call.
    pub(super) struct Within<F> {
        // In a span from the beginning where everything is said; otherwise it is made when it is asked for.
        #[pin]
        work: Instrumented<F>,
        call: Option<Call>,
    }
}

/// Carries out the work of that call.
pub(super) fn within<F: Future>(call: Call, work: F) -> Within<F> {
    let span = if tracing::enabled!(tracing::Level::DEBUG) { call.span() } else { Span::none() };
    Within { work: work.instrument(span), call: Some(call) }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let within = self.project();
        let _entered = Entered::swap(within.call);
        within.work.poll(context)
    }
}

/// A call is the thread's current one until this is dropped, also by a panic.
struct Entered<'a> {
    call: &'a mut Option<Call>,
}

impl<'a> Entered<'a> {
    fn swap(call: &'a mut Option<Call>) -> Self {
        CURRENT.with_borrow_mut(|current| mem::swap(current, call));
        Self { call }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| mem::swap(current, self.call));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        panic::AssertUnwindSafe,
        sync::{Arc, Mutex, PoisonError},
    };

    use futures_util::FutureExt as _;
    use tracing::Level;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn call(method: &'static str) -> Call {
        Call { request_id: RequestId::missing(), method }
    }

    fn say(what: &'static str) {
        call_span().in_scope(|| tracing::info!("{what}"));
    }

    /// What is logged at that level by calls, and by what comes between and after them.
    fn logged(level: Level) -> Vec<String> {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .with_max_level(level)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut work = Box::pin(within(call("one"), async {
                say("at once");
                tokio::task::yield_now().await;
                say("later");
            }));
            assert_eq!(work.as_mut().now_or_never(), None);
            say("between");
            assert_eq!(work.as_mut().now_or_never(), Some(()));
            let panicking = within(call("two"), async {
                say("before a panic");
                panic!("a defect")
            });
            let panic: Result<(), _> = AssertUnwindSafe(panicking).catch_unwind().now_or_never().unwrap();
            assert!(panic.is_err());
            say("after it");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn what_is_said_in_a_call_is_said_in_its_span_and_nothing_else_is() {
        let expected = [
            r#"INFO call{request_id="-" method="one"}: at once"#,
            "INFO between",
            r#"INFO call{request_id="-" method="one"}: later"#,
            r#"INFO call{request_id="-" method="two"}: before a panic"#,
            "INFO after it",
        ];
        assert_eq!(logged(Level::INFO), expected);
        assert_eq!(logged(Level::DEBUG), expected);
    }
}
