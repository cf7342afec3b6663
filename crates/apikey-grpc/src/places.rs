//! Who may be worked for at once: places among the calls of a listener, and how they are shared.
//!
//! A place is taken once the whole message has been read, so that nobody holds one by what it does not send. No peer takes more than
//! half of them before it is known who calls, and no organization more than half after it. `RevokeApiKey` has places of its own besides:
//! whoever has taken the others can still be stopped.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    hash::Hash,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

use apikey_domain::OrganizationId;
use bytes::{Bytes, BytesMut};
use http_body::Body as HttpBody;
use tonic::Status;

use crate::{
    call::{MAX_MESSAGE_SIZE, request_id},
    drain, frames,
    listener::{PeerAddress, network},
    status::Failure,
};

/// How many requests may have sent a head and not yet their whole message. With 64 KiB each, that is 32 MiB.
const INCOMPLETE: usize = 512;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    all: Counter,
    /// Where `all` has none left, for `RevokeApiKey`.
    for_revocations: Counter,
    shares: Shares,
    shares_of_revocations: Shares,
    incomplete: Incomplete,
}

/// Of how many places one peer, or one organization, may take how many.
#[derive(Debug)]
struct Shares {
    peers: Share<IpAddr>,
    organizations: Share<OrganizationId>,
}

impl Shares {
    /// Half of that many places, and at least one.
    fn of(places: usize) -> Self {
        let most = (places / 2).max(1);
        Self { peers: Share::new(most), organizations: Share::new(most) }
    }
}

impl Places {
    /// So many places, and an eighth of them besides for revocations.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let for_revocations = (most / 8).max(1);
        Arc::new(Self {
            all: Counter::new(most),
            for_revocations: Counter::new(for_revocations),
            shares: Shares::of(most),
            shares_of_revocations: Shares::of(for_revocations),
            incomplete: Incomplete::default(),
        })
    }
}

/// What has come of a body: mostly all of it in one piece, which need not be copied.
enum Received {
    Nothing,
    One(Bytes),
    More(BytesMut),
}

impl Received {
    fn add(&mut self, data: Bytes) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut both = BytesMut::from(first);
                both.extend_from_slice(&data);
                Self::More(both)
            }
            Self::More(mut all) => {
                all.extend_from_slice(&data);
                Self::More(all)
            }
        };
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::One(bytes) => bytes,
            Self::More(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::More(bytes) => bytes.freeze(),
        }
    }
}

/// A call that may take a place once its message has been read.
#[derive(Clone)]
pub(crate) struct Entrance {
    places: Arc<Places>,
    revokes: bool,
}

impl Entrance {
    /// The entrance of a call of `RevokeApiKey`, or of another one.
    pub(crate) const fn new(places: Arc<Places>, revokes: bool) -> Self {
        Self { places, revokes }
    }

    /// Reads the body of a request as far as it can be one message: of one that is too large, or of several, no more than shows it.
    /// The rest is read and forgotten.
    ///
    /// # Errors
    /// What the body fails with; `RESOURCE_EXHAUSTED` where it had to make room for others.
    pub(crate) async fn read<B>(&self, body: B) -> Result<Bytes, Status>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_enough = |received: &[u8]| {
            frames::split_header(received)
                .is_some_and(|(_, length, message)| length > MAX_MESSAGE_SIZE || message.len() > length)
        };
        self.places.incomplete.read(body, is_enough).await.map_err(|unread| match unread {
            Unread::MadeRoom => Failure::overloaded().into_status(&request_id()),
            Unread::Failed(error) => Status::from_error(error),
        })
    }

    /// Takes a place, if there is one and the peer has its share left. A listener whose callers are trusted alike knows no peer.
    ///
    /// # Errors
    /// The service is overloaded, or this peer asks for too much.
    pub(crate) fn enter(self, peer: Option<PeerAddress>) -> Result<Place, Failure> {
        let Self { places, revokes } = self;
        match Place::take(&places, false, peer) {
            None if revokes => Place::take(&places, true, peer),
            taken => taken,
        }
        .ok_or_else(Failure::overloaded)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    is_reserved: bool,
    peer: Option<IpAddr>,
    organization: Option<OrganizationId>,
}

/// Where a call leaves its place for as long as its answer takes to leave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seat(Arc<Mutex<Option<Place>>>);

impl Seat {
    pub(crate) fn keep(&self, place: Place) {
        *lock(&self.0) = Some(place);
    }
}

impl Place {
    fn counter(&self) -> &Counter {
        if self.is_reserved { &self.places.for_revocations } else { &self.places.all }
    }

    fn shares(&self) -> &Shares {
        if self.is_reserved { &self.places.shares_of_revocations } else { &self.places.shares }
    }

    fn take(places: &Arc<Places>, is_reserved: bool, peer: Option<PeerAddress>) -> Option<Self> {
        let counter = if is_reserved { &places.for_revocations } else { &places.all };
        if !counter.take() {
            return None;
        }
        let mut place = Self { places: Arc::clone(places), is_reserved, peer: None, organization: None };
        if let Some(peer) = peer.map(network) {
            if !place.shares().peers.take(&peer) {
                return None;
            }
            place.peer = Some(peer);
        }
        Some(place)
    }

    /// The caller is known: the place counts as its organization's, and no longer as its peer's.
    ///
    /// # Errors
    /// The organization has no place left.
    pub(crate) fn belongs_to(&mut self, organization: &OrganizationId) -> Result<(), Failure> {
        if !self.shares().organizations.take(organization) {
            return Err(Failure::overloaded());
        }
        self.organization = Some(organization.clone());
        if let Some(peer) = self.peer.take() {
            self.shares().peers.give_back(&peer);
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(peer) = &self.peer {
            self.shares().peers.give_back(peer);
        }
        if let Some(organization) = &self.organization {
            self.shares().organizations.give_back(organization);
        }
        self.counter().give_back();
    }
}

/// A number of places. Nobody waits for one, so that nothing more is needed.
#[derive(Debug)]
pub(crate) struct Counter {
    most: usize,
    taken: AtomicUsize,
}

impl Counter {
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    pub(crate) fn take(&self) -> bool {
        let free = self.taken.fetch_add(1, Ordering::Relaxed) < self.most;
        if !free {
            self.give_back();
        }
        free
    }

    pub(crate) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many places each has of those who share them.
#[derive(Debug)]
pub(crate) struct Share<K> {
    most: usize,
    taken: Mutex<HashMap<K, usize>>,
}

impl<K: Hash + Eq + Clone> Share<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    pub(crate) fn take(&self, who: &K) -> bool {
        let mut taken = lock(&self.taken);
        match taken.get_mut(who) {
            Some(count) if *count >= self.most => false,
            Some(count) => {
                *count += 1;
                true
            }
            None => taken.insert(who.clone(), 1).is_none(),
        }
    }

    /// Whoever has none left is forgotten.
    pub(crate) fn give_back(&self, who: &K) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(who);
            }
        }
    }
}

/// The requests whose messages are incomplete, by when they began to be waited for.
#[derive(Debug, Default)]
pub(crate) struct Incomplete(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    requests: BTreeMap<u64, Waker>,
}

/// A body was not read to its end.
pub(crate) enum Unread {
    /// It had been incomplete for longest of too many.
    MadeRoom,
    /// It failed.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Incomplete {
    /// Reads a body until it has ended, or until it is enough; then the rest is read and forgotten.
    pub(crate) async fn read<B>(&self, mut body: B, is_enough: impl Fn(&[u8]) -> bool) -> Result<Bytes, Unread>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut received = Received::Nothing;
        let mut waiting: Option<IncompleteRequest> = None;
        let read = poll_fn(|context| {
            loop {
                match Pin::new(&mut body).poll_frame(context) {
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Unread::Failed(error.into()))),
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers of a request mean nothing.
                        received.add(frame.into_data().unwrap_or_default());
                        if body.is_end_stream() || is_enough(received.bytes()) {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Pending if waiting.get_or_insert_with(|| self.enter()).waits(context.waker()) => {
                        return Poll::Pending;
                    }
                    Poll::Pending => return Poll::Ready(Err(Unread::MadeRoom)),
                }
            }
        });
        let read = read.await;
        drain::forget(body);
        read.map(|()| received.into_bytes())
    }

    /// The newest of all, and the oldest goes where there are too many.
    fn enter(&self) -> IncompleteRequest {
        let mut waiting = lock(&self.0);
        let number = waiting.next;
        waiting.next += 1;
        waiting.requests.insert(number, Waker::noop().clone());
        let oldest = if waiting.requests.len() > INCOMPLETE { waiting.requests.pop_first() } else { None };
        drop(waiting);
        if let Some((_, waker)) = oldest {
            waker.wake();
        }
        IncompleteRequest { waiting: Arc::clone(&self.0), number }
    }
}

struct IncompleteRequest {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
}

impl IncompleteRequest {
    /// Whether it may go on waiting, until that waker is woken.
    fn waits(&self, waker: &Waker) -> bool {
        lock(&self.waiting).requests.get_mut(&self.number).map(|waits| waits.clone_from(waker)).is_some()
    }
}

impl Drop for IncompleteRequest {
    fn drop(&mut self) {
        lock(&self.waiting).requests.remove(&self.number);
    }
}

/// A panic elsewhere leaves nothing half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
