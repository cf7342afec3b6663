//! Whether the threads that serve still run what they are given. A thread that hangs answers no call, and no deadline ends it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Duration, Instant, timeout},
};

/// For how long a thread may leave a question unanswered. Only one that hangs does: the longest work of a thread takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an overdue answer is still waited for: after a stop of the whole process, the question may be older than the answer.
const SECOND_CHANCE: Duration = Duration::from_millis(500);

/// Asks threads for a sign of life. Whoever calls it sets the pace: each call asks, and looks for the answers to the last questions.
pub(super) struct Pulse(Vec<Thread>);

struct Thread {
    runtime: Handle,
    /// Asked and not answered yet; at most one question waits for each thread.
    question: Mutex<Option<(Instant, JoinHandle<()>)>>,
}

impl Pulse {
    /// The pulse of these runtimes.
    pub(super) fn of(runtimes: impl IntoIterator<Item = Handle>) -> Self {
        Self(runtimes.into_iter().map(|runtime| Thread { runtime, question: Mutex::new(None) }).collect())
    }

    /// Whether each thread has answered in time. Waits only where one has not.
    pub(super) async fn beats(&self) -> bool {
        self.beats_at(Instant::now()).await
    }

    async fn beats_at(&self, now: Instant) -> bool {
        for thread in &self.0 {
            if !thread.beats_at(now).await {
                return false;
            }
        }
        true
    }
}

impl Thread {
    async fn beats_at(&self, now: Instant) -> bool {
        let waiting = self.question().take().filter(|(_, answer)| !answer.is_finished());
        let Some((asked_at, mut answer)) = waiting else {
            self.ask(now, self.runtime.spawn(async {}));
            return true;
        };
        if now.duration_since(asked_at) < PATIENCE || timeout(SECOND_CHANCE, &mut answer).await.is_ok() {
            self.ask(asked_at, answer);
            return true;
        }
        self.ask(asked_at, answer);
        false
    }

    fn ask(&self, at: Instant, answer: JoinHandle<()>) {
        self.question().replace((at, answer));
    }

    fn question(&self) -> MutexGuard<'_, Option<(Instant, JoinHandle<()>)>> {
        self.question.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::{runtime::Builder, sync::oneshot};

    use super::*;

    #[tokio::test]
    async fn a_thread_that_hangs_is_noticed_and_one_that_goes_on_again_too() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || runtime.block_on(stopped).ok());
        let pulse = Pulse::of([handle.clone()]);
        let now = Instant::now();
        assert!(pulse.beats_at(now).await);

        let (hanging, hangs) = mpsc::channel();
        let (go_on, told) = mpsc::channel::<()>();
        let hung = handle.spawn(async move {
            hanging.send(()).unwrap();
            told.recv().unwrap();
        });
        hangs.recv().unwrap();
        assert!(pulse.beats_at(now).await, "it may be busy");
        let later = now + PATIENCE;
        assert!(!pulse.beats_at(later).await);
        assert!(!pulse.beats_at(later).await);

        go_on.send(()).unwrap();
        hung.await.unwrap();
        handle.spawn(async {}).await.unwrap();
        assert!(pulse.beats_at(later).await);
        stop.send(()).unwrap();
        thread.join().unwrap();
    }
}
