//! Faults on demand: a test makes the next calls of a fake fail, or holds them.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use apikey_application::ports::StoreError;

/// The methods of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// `find_by_digest`
    FindByDigest,
    /// `find_by_id`
    FindById,
    /// `find_idempotency`
    FindIdempotency,
    /// `page`
    Page,
    /// `commit`
    Commit,
    /// `record_uses`
    RecordUses,
    /// `distrust_connections`, which neither fails nor is held
    DistrustConnections,
    /// `ping`
    Ping,
}

/// The faults that a test has asked for, and the calls that arrived.
#[derive(Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    failures: HashMap<StoreCall, VecDeque<StoreError>>,
    arrived: HashMap<StoreCall, usize>,
    holds: HashMap<StoreCall, usize>,
    waiting: Vec<Waker>,
}

/// Calls of one method wait until this is dropped.
#[derive(Debug)]
#[must_use = "calls are held only while this lives"]
pub struct Held {
    faults: Arc<Mutex<State>>,
    call: StoreCall,
}

impl Faults {
    pub(crate) fn fail_next(&self, call: StoreCall, error: StoreError) {
        self.state().failures.entry(call).or_default().push_back(error);
    }

    pub(crate) fn hold(&self, call: StoreCall) -> Held {
        *self.state().holds.entry(call).or_default() += 1;
        Held { faults: Arc::clone(&self.0), call }
    }

    pub(crate) fn arrived(&self, call: StoreCall) -> usize {
        self.state().arrived.get(&call).copied().unwrap_or_default()
    }

    /// Notes that a call arrived.
    pub(crate) fn note(&self, call: StoreCall) {
        *self.state().arrived.entry(call).or_default() += 1;
    }

    /// Notes that a call arrived, waits while such calls are held, and fails if a failure is due.
    pub(crate) async fn meet(&self, call: StoreCall) -> Result<(), StoreError> {
        self.note(call);
        poll_fn(|context| {
            let mut state = self.state();
            if state.holds.get(&call).is_some_and(|holds| *holds > 0) {
                state.waiting.push(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        match self.state().failures.get_mut(&call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panics inside the faults")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Ok(mut state) = self.faults.lock() else { return };
        if let Some(holds) = state.holds.get_mut(&self.call) {
            *holds -= 1;
        }
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}
