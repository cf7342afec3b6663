//! Who may call a service at all, decided around the service once the message has been read.
//!
//! A method that is added to a guarded service is guarded. What a caller may do is the use cases' affair.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apikey_application::{
    AuthenticationError, Authenticator, Caller, Credential,
    ports::{Clock, KeyStore, TokenAuthenticator},
};
use apikey_domain::Origin;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION, request::Parts};
use http_body_util::Full;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Service, ServiceExt};

use crate::{
    call::{Answer, MAX_MESSAGE_SIZE, request_id},
    credential::{self, X_API_KEY},
    gzip,
    listener::{PeerAddress, network},
    places::{Entrance, Place, Seat},
    status::Failure,
};

/// How long it takes at least to refuse a credential that is not valid, whatever is wrong with it: longer than it takes to be certain
/// that a key is unknown, which a revoked one in memory is not kept waiting for.
const REFUSAL: Duration = Duration::from_millis(400);

/// By how much refusals differ, at random, so that what is left of the difference cannot be measured either.
const JITTER: Duration = Duration::from_millis(100);

/// A service that is called by whoever presents one valid credential, and learns who that is: a [`Caller`] among the request's
/// extensions. `A` is an [`Authenticator`].
pub(crate) struct Guarded<S, A> {
    service: S,
    authenticator: Arc<A>,
    jitter: RandomState,
}

impl<S, A> Guarded<S, A> {
    pub(crate) fn new(service: S, authenticator: A) -> Self {
        Self { service, authenticator: Arc::new(authenticator), jitter: RandomState::new() }
    }
}

impl<S: Clone, A> Clone for Guarded<S, A> {
    fn clone(&self) -> Self {
        let Self { service, authenticator, jitter } = self;
        Self { service: service.clone(), authenticator: Arc::clone(authenticator), jitter: jitter.clone() }
    }
}

impl<S: NamedService, A> NamedService for Guarded<S, A> {
    const NAME: &'static str = S::NAME;
}

impl<S, K, C, T> Service<Request<Body>> for Guarded<S, Authenticator<K, C, T>>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer> + Clone + Send + 'static,
    K: KeyStore,
    C: Clock,
    T: TokenAuthenticator,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { service, authenticator, jitter } = self.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let admitted = admit(&authenticator, &mut head, body, &jitter).await;
            forget_credentials(&mut head.headers);
            match admitted {
                Ok((message, place)) => {
                    // With its answer, if somebody keeps that.
                    let place = match head.extensions.remove::<Seat>() {
                        Some(seat) => {
                            seat.keep(place);
                            None
                        }
                        None => Some(place),
                    };
                    let answer = service.oneshot(Request::from_parts(head, Body::new(Full::new(message)))).await;
                    drop(place);
                    answer
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// A service that anybody may call, and that is called once the whole message has been read.
#[derive(Clone)]
pub(crate) struct Whole<S>(pub(crate) S);

impl<S: NamedService> NamedService for Whole<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Whole<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = match head.extensions.get::<Entrance>() {
                Some(entrance) => entrance.clone().read(body).await,
                None => Err(Failure::internal("a call came by no entrance").into_status(&request_id())),
            };
            match message {
                Ok(message) => service.oneshot(Request::from_parts(head, Body::new(Full::new(message)))).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// No credential goes further than this.
pub(crate) fn forget_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(X_API_KEY);
}

/// Reads the message, and decides whose it is once it is there: a key that was revoked while its message came is refused. Without
/// what could be a credential nothing is read.
async fn admit<K, C, T>(
    authenticator: &Authenticator<K, C, T>,
    head: &mut Parts,
    body: Body,
    jitter: &RandomState,
) -> Result<(Bytes, Place), Status>
where
    K: KeyStore,
    C: Clock,
    T: TokenAuthenticator,
{
    let refused = |failure: Failure| failure.into_status(&request_id());
    let credential = credential::find(&head.headers).map_err(Failure::unauthenticated).map_err(refused)?;
    authenticator.precheck(credential).map_err(Failure::from).map_err(refused)?;
    let entrance = head.extensions.remove::<Entrance>();
    let entrance = entrance.ok_or_else(|| Failure::internal("a call came by no entrance")).map_err(refused)?;
    let message = entrance.read(body).await?;
    let peer = head.extensions.get::<PeerAddress>().copied();
    let mut place = entrance.enter(peer).map_err(refused)?;
    let asked_at = Instant::now();
    let authenticated = authenticator.authenticate(credential, peer.map(network)).await;
    let principal = match authenticated {
        Ok(principal) => principal,
        Err(error) => {
            // Others are served meanwhile.
            drop(place);
            if matches!(error, AuthenticationError::Rejected { .. }) {
                sleep_until(asked_at + REFUSAL + drawn(jitter)).await;
            }
            return Err(refused(error.into()));
        }
    };
    place.belongs_to(&principal.organization_id).map_err(refused)?;
    let origin = Origin { address: peer.as_ref().map(ToString::to_string), request_id: Some(request_id().to_string()) };
    head.extensions.insert(Caller { principal, origin });
    let message = gzip::message(&head.headers, message, MAX_MESSAGE_SIZE)?;
    Ok((message, place))
}

/// Some time below [`JITTER`], for this call. Its id is known to the caller, and how it is hashed is not.
fn drawn(jitter: &RandomState) -> Duration {
    let below = u64::try_from(JITTER.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(jitter.hash_one(request_id().as_str()) % below)
}

/// The bearer token of the verification listener, kept as a digest. Copies share it.
#[derive(Clone)]
pub struct AccessToken(Arc<ArcSwap<blake3::Hash>>);

/// The text cannot be an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access token is 1 to {max} visible ASCII characters", max = AccessToken::MAX_LENGTH)]
pub struct AccessTokenError;

impl AccessToken {
    /// The longest token, in characters: it has to fit into a header, with room for the others.
    pub const MAX_LENGTH: usize = 4096;

    /// A token of 1 to 4096 visible ASCII characters.
    ///
    /// # Errors
    /// [`AccessTokenError`] for every other text.
    pub fn new(token: &str) -> Result<Self, AccessTokenError> {
        let legal = (1..=Self::MAX_LENGTH).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        if legal {
            Ok(Self(Arc::new(ArcSwap::from_pointee(blake3::hash(token.as_bytes())))))
        } else {
            Err(AccessTokenError)
        }
    }

    /// Asks for what `other` asks for, from the next call on.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Admits whoever presents this token and nothing else.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), Failure> {
        match credential::find(headers).map_err(Failure::unauthenticated)? {
            Credential::Bearer(presented) if self.is(presented) => Ok(()),
            Credential::Bearer(_) | Credential::ApiKey(_) => {
                Err(Failure::unauthenticated("the credential is not the listener's token"))
            }
        }
    }

    /// Digests are compared, in constant time, so that nothing can be learnt of the token byte by byte.
    fn is(&self, presented: &str) -> bool {
        **self.0.load() == blake3::hash(presented.as_bytes())
    }
}

#[cfg(test)]
mod tests;
