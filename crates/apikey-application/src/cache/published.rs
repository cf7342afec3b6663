//! What the fence has published, and who waits for it. Decides nothing.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use event_listener::{Event, EventListener};

use crate::{
    fence::{Lease, Monotonic},
    ports::Seq,
};

/// Who asks for a renewal, and so how soon one may begin for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Somebody who is trusted: a service that verifies, or a caller who is authenticated.
    Trusted,
    /// Somebody who is not known yet, and may never be.
    Stranger,
}

/// The fence's decisions, as verifications see them.
#[derive(Debug)]
pub(crate) struct Published {
    lease: Lease,
    /// In nanoseconds since the clock's origin, which is enough for 584 years.
    deadline: AtomicU64,
    applied: Mutex<Seq>,
    /// When the latest attempt to renew that failed had begun; as the deadline.
    failed: AtomicU64,
    changed: Event,
    wanted: AtomicBool,
    wanted_by_strangers: AtomicBool,
    asked: Event,
}

impl Published {
    /// There is no lease yet.
    pub(super) const fn without_lease(lease: Lease) -> Self {
        Self::new(lease, 0)
    }

    /// A lease without end.
    pub(super) const fn for_ever() -> Self {
        Self::new(Lease::DEFAULT, u64::MAX)
    }

    const fn new(lease: Lease, deadline: u64) -> Self {
        Self {
            lease,
            deadline: AtomicU64::new(deadline),
            applied: Mutex::new(Seq::new(0, 0)),
            failed: AtomicU64::new(0),
            changed: Event::new(),
            wanted: AtomicBool::new(false),
            wanted_by_strangers: AtomicBool::new(false),
            asked: Event::new(),
        }
    }

    pub(crate) const fn lease(&self) -> Lease {
        self.lease
    }

    pub(crate) fn deadline(&self) -> Monotonic {
        from_nanos(self.deadline.load(Ordering::Acquire))
    }

    pub(crate) fn applied(&self) -> Seq {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an attempt to renew has failed that began after `instant`.
    pub(crate) fn has_failed_since(&self, instant: Monotonic) -> bool {
        from_nanos(self.failed.load(Ordering::Acquire)) > instant
    }

    /// Ready when something is published after now.
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Asks for a renewal that begins after now.
    pub(crate) fn ask(&self, asker: Asker) {
        let wanted = match asker {
            Asker::Trusted => &self.wanted,
            Asker::Stranger => &self.wanted_by_strangers,
        };
        wanted.store(true, Ordering::Release);
        self.asked.notify(usize::MAX);
    }

    pub(super) async fn asked(&self) -> Asker {
        loop {
            let listener = self.asked.listen();
            if self.wanted.swap(false, Ordering::AcqRel) {
                return Asker::Trusted;
            }
            if self.wanted_by_strangers.swap(false, Ordering::AcqRel) {
                return Asker::Stranger;
            }
            listener.await;
        }
    }

    pub(super) fn raise_applied(&self, applied: Seq) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = applied;
    }

    pub(super) fn raise_applied_at_least(&self, applied: Seq) {
        let mut current = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if current.timeline == applied.timeline && current.number < applied.number {
            *current = applied;
        }
    }

    pub(super) fn publish_deadline(&self, deadline: Monotonic) {
        self.deadline.store(to_nanos(deadline), Ordering::Release);
    }

    pub(super) fn renewal_failed(&self, begun: Monotonic) {
        self.failed.fetch_max(to_nanos(begun), Ordering::AcqRel);
        self.wake_waiters();
    }

    pub(super) fn wake_waiters(&self) {
        self.changed.notify(usize::MAX);
    }
}

fn to_nanos(instant: Monotonic) -> u64 {
    u64::try_from(instant.since_origin().as_nanos()).unwrap_or(u64::MAX)
}

const fn from_nanos(nanos: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_nanos(nanos))
}
