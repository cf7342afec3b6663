//! Whose call of the store is next: those who wait are served in turn, however much one of them asks for.
//!
//! Each has a lane of its own, in which its calls follow each other; at most so many of a lane run at once. Where a place becomes free,
//! the lane that has waited for longest since its last turn gets it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use apikey_application::ports::StoreError;
use tokio::sync::oneshot;

/// How many calls of one lane may wait; more are refused. Several times what one organization has of a listener's places, divided
/// among its lanes.
const MOST_WAITING: usize = 256;

/// The queues in front of the places.
pub(crate) struct Turns<K: Eq + Hash + Clone> {
    state: Arc<Mutex<State<K>>>,
}

struct State<K: Eq + Hash + Clone> {
    free: usize,
    /// How many of one lane may run at once.
    each: usize,
    lanes: HashMap<K, Lane<K>>,
    /// The lanes that wait and may run, by how long they have.
    next: VecDeque<K>,
}

/// The calls of one of those who are served in turn. There is none where there are no calls.
struct Lane<K: Eq + Hash + Clone> {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn<K>>>,
    is_next: bool,
}

/// A place, until it is dropped.
pub(crate) struct Turn<K: Eq + Hash + Clone> {
    state: Arc<Mutex<State<K>>>,
    lane: K,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// So many places; a lane has at most half of them, and one at least.
    pub(crate) fn new(places: usize) -> Self {
        let free = places.max(1);
        let state = State { free, each: (free / 2).max(1), lanes: HashMap::new(), next: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a place in that lane's turn.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] where too many wait in that lane.
    ///
    /// # Cancel safety
    /// Whoever goes away leaves the queue.
    pub(crate) async fn take(&self, lane: K) -> Result<Turn<K>, StoreError> {
        let turn = {
            let mut state = lock(&self.state);
            let State { free, each, lanes, next } = &mut *state;
            let waits = lanes.entry(lane.clone()).or_default();
            if *free > 0 && waits.running < *each && waits.waiting.is_empty() {
                *free -= 1;
                waits.running += 1;
                return Ok(Turn { state: Arc::clone(&self.state), lane });
            }
            if waits.waiting.len() >= MOST_WAITING {
                waits.waiting.retain(|waiting| !waiting.is_closed());
                if waits.waiting.len() >= MOST_WAITING {
                    return Err(StoreError::Overloaded);
                }
            }
            let (ours, turn) = oneshot::channel();
            waits.waiting.push_back(ours);
            waits.wait(*each, &lane, next);
            turn
        };
        // Whoever holds the other end gives it a turn: a lane is forgotten only where none waits.
        turn.await.map_err(|_| StoreError::Overloaded)
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// Takes a place back, and says who gets which.
    fn give_back(&mut self, lane: &K) -> Vec<(oneshot::Sender<Turn<K>>, K)> {
        let Self { free, each, lanes, next } = self;
        *free += 1;
        if let Some(ended) = lanes.get_mut(lane) {
            ended.running -= 1;
            ended.wait(*each, lane, next);
            if ended.running == 0 && ended.waiting.is_empty() {
                lanes.remove(lane);
            }
        }
        let mut served = Vec::new();
        while *free > 0
            && let Some(lane) = next.pop_front()
        {
            let Some(waits) = lanes.get_mut(&lane) else { continue };
            waits.is_next = false;
            let waiting = std::iter::from_fn(|| waits.waiting.pop_front()).find(|waiting| !waiting.is_closed());
            if let Some(waiting) = waiting {
                *free -= 1;
                waits.running += 1;
                served.push((waiting, lane.clone()));
            }
            waits.wait(*each, &lane, next);
            if waits.running == 0 && waits.waiting.is_empty() {
                lanes.remove(&lane);
            }
        }
        served
    }
}

impl<K: Eq + Hash + Clone> Default for Lane<K> {
    fn default() -> Self {
        Self { running: 0, waiting: VecDeque::new(), is_next: false }
    }
}

impl<K: Eq + Hash + Clone> Lane<K> {
    /// Puts the lane behind the others that wait, where it waits and may run.
    fn wait(&mut self, each: usize, lane: &K, next: &mut VecDeque<K>) {
        if !self.is_next && !self.waiting.is_empty() && self.running < each {
            self.is_next = true;
            next.push_back(lane.clone());
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Turn<K> {
    fn drop(&mut self) {
        let served = lock(&self.state).give_back(&self.lane);
        for (waiting, lane) in served {
            // Whoever has gone away in this moment drops it, and it is the next one's.
            drop(waiting.send(Turn { state: Arc::clone(&self.state), lane }));
        }
    }
}

/// A panic elsewhere leaves nothing half changed.
fn lock<K>(state: &Mutex<State<K>>) -> MutexGuard<'_, State<K>>
where
    K: Eq + Hash + Clone,
{
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Turn<&'static str>, StoreError>> + 'a>>;

    fn ask<'a>(turns: &'a Turns<&'static str>, lane: &'static str) -> Waiting<'a> {
        let mut waiting: Waiting<'a> = Box::pin(turns.take(lane));
        assert!(poll(&mut waiting).is_none(), "there is no place for it");
        waiting
    }

    fn poll(waiting: &mut Waiting<'_>) -> Option<Turn<&'static str>> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn.unwrap()),
            Poll::Pending => None,
        }
    }

    fn at_once(turns: &Turns<&'static str>, lane: &'static str) -> Turn<&'static str> {
        poll(&mut (Box::pin(turns.take(lane)) as Waiting<'_>)).expect("there is a place for it")
    }

    fn nothing_is_left(turns: &Turns<&'static str>, places: usize) -> bool {
        let state = lock(&turns.state);
        state.free == places && state.lanes.is_empty() && state.next.is_empty()
    }

    #[test]
    fn one_that_asks_for_much_has_half_of_the_places_and_others_the_rest() {
        let turns = Turns::new(4);
        let loud = [at_once(&turns, "loud"), at_once(&turns, "loud")];
        let mut more: Vec<_> = (0..50).map(|_| ask(&turns, "loud")).collect();
        let quiet = at_once(&turns, "quiet");
        drop(loud);
        assert_eq!(more.iter_mut().filter_map(poll).count(), 50, "each in its turn, as the one before ends");
        drop((quiet, more));
        assert!(nothing_is_left(&turns, 4));
    }

    #[test]
    fn those_who_wait_are_served_in_turn_however_many_calls_one_has() {
        let turns = Turns::new(1);
        let running = at_once(&turns, "other");
        let mut loud: Vec<_> = (0..50).map(|_| ask(&turns, "loud")).collect();
        let (mut quiet, mut also_quiet) = (ask(&turns, "quiet"), ask(&turns, "also quiet"));
        drop(running);
        let first = poll(&mut loud[0]).expect("it has waited for longest");
        assert!(poll(&mut quiet).is_none());
        drop(first);
        let second = poll(&mut quiet).expect("the next lane, and not the other 49 calls of the first");
        drop(second);
        drop(poll(&mut also_quiet).expect("and the next"));
        for waiting in &mut loud[1..] {
            drop(poll(waiting).expect("then one after the other"));
        }
        assert!(nothing_is_left(&turns, 1));
    }

    #[test]
    fn whoever_goes_away_leaves_the_queue_and_a_lane_refuses_when_too_many_wait() {
        let turns = Turns::new(1);
        let running = at_once(&turns, "a");
        for _ in 0..3 {
            let waiting: Vec<_> = (0..MOST_WAITING).map(|_| ask(&turns, "a")).collect();
            let mut refused: Waiting<'_> = Box::pin(turns.take("a"));
            let refused = refused.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(refused, Poll::Ready(Err(StoreError::Overloaded))));
            let other = ask(&turns, "b");
            drop((waiting, other));
        }
        let mut last = ask(&turns, "b");
        drop(running);
        drop(poll(&mut last).expect("all others have gone"));
        assert!(nothing_is_left(&turns, 1));
        drop(at_once(&turns, "a"));
    }

    #[test]
    fn a_turn_that_comes_for_somebody_who_has_just_gone_is_the_next_ones() {
        let turns = Turns::new(1);
        let running = at_once(&turns, "a");
        let (gone, mut next) = (ask(&turns, "b"), ask(&turns, "c"));
        drop(running);
        // It has the turn, and has not looked.
        drop(gone);
        assert!(poll(&mut next).is_some());
    }
}
