//! Who may call a service at all, decided around the service and before a byte of the message is read.
//!
//! A method that is added to a guarded service is guarded. What a caller may do is the use cases' affair.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use apikey_application::{
    Authenticator, Caller, Credential,
    ports::{Clock, KeyStore, TokenAuthenticator},
};
use apikey_domain::Origin;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION, request::Parts};
use tonic::{body::Body, server::NamedService};
use tower::{Service, ServiceExt};

use crate::{
    call::{Answer, request_id},
    credential::{self, X_API_KEY},
    listener::PeerAddress,
    status::Failure,
};

/// Decides from a request's head alone.
pub(crate) trait Guard: Send + Sync + 'static {
    /// Admits the request, and adds to its extensions what its handler has to know.
    fn admit(&self, head: &mut Parts) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A service behind a guard.
pub(crate) struct Guarded<S, G> {
    service: S,
    guard: Arc<G>,
}

impl<S, G> Guarded<S, G> {
    pub(crate) fn new(service: S, guard: G) -> Self {
        Self { service, guard: Arc::new(guard) }
    }
}

impl<S: Clone, G> Clone for Guarded<S, G> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), guard: Arc::clone(&self.guard) }
    }
}

impl<S: NamedService, G> NamedService for Guarded<S, G> {
    const NAME: &'static str = S::NAME;
}

impl<S, G> Service<Request<Body>> for Guarded<S, G>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer> + Clone + Send + 'static,
    G: Guard,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { service, guard } = self.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let admitted = guard.admit(&mut head).await;
            forget_credentials(&mut head.headers);
            match admitted {
                Ok(()) => service.oneshot(Request::from_parts(head, body)).await,
                Err(failure) => Ok(failure.into_status(&request_id()).into_http()),
            }
        })
    }
}

/// No credential goes further than this.
pub(crate) fn forget_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(X_API_KEY);
}

/// Admits whoever presents one valid credential, as a [`Caller`].
pub(crate) struct CallerGuard<S, C, T>(pub(crate) Authenticator<S, C, T>);

impl<S: KeyStore, C: Clock, T: TokenAuthenticator> Guard for CallerGuard<S, C, T> {
    async fn admit(&self, head: &mut Parts) -> Result<(), Failure> {
        let credential = credential::find(&head.headers).map_err(Failure::unauthenticated)?;
        let principal = self.0.authenticate(credential).await?;
        let origin = Origin {
            address: head.extensions.get::<PeerAddress>().map(ToString::to_string),
            request_id: Some(request_id().to_string()),
        };
        head.extensions.insert(Caller { principal, origin });
        Ok(())
    }
}

/// The bearer token of the verification listener, kept as a digest.
#[derive(Clone)]
pub struct AccessToken(blake3::Hash);

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
        if legal { Ok(Self(blake3::hash(token.as_bytes()))) } else { Err(AccessTokenError) }
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
        self.0 == blake3::hash(presented.as_bytes())
    }
}
