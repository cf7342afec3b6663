//! What the suite wants otherwise than the product has it: errors without our details, and trailers beside an answer.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

/// The trailers of an answer, among its extensions.
#[derive(Clone)]
pub(crate) struct Trailers(pub(crate) HeaderMap);

/// The query of a request's URL, among its extensions.
#[derive(Clone)]
pub(crate) struct Query(pub(crate) String);

/// Stands in an error that has no details, so that it is given none.
const MARK: &str = "type.googleapis.com/none";
/// What the product adds.
const ADDED: &str = "google.rpc.";
const DETAILS: &str = "grpc-status-details-bin";

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

macro_rules! adapter {
    ($(#[$documentation:meta])* $name:ident, $before:expr, $after:expr) => {
        $(#[$documentation])*
        #[derive(Clone)]
        pub(crate) struct $name<S>(S);

        impl<S> $name<S> {
            pub(crate) const fn new(service: S) -> Self {
                Self(service)
            }
        }

        impl<S, B> Service<Request<B>> for $name<S>
        where
            S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
            S::Future: Send,
            B: Send + 'static,
        {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Answer;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, mut request: Request<B>) -> Answer {
                let service = self.0.clone();
                $before(&mut request);
                Box::pin(async move {
                    let Ok(response) = service.oneshot(request).await;
                    Ok($after(response).await)
                })
            }
        }
    };
}

adapter!(
    /// Innermost: marks errors that have no details, and adds the trailers.
    Marked, |_: &mut Request<B>| {}, |response| ready(mark(response))
);
adapter!(
    /// Around the product's layers: takes their details away.
    Stripped, |_: &mut Request<B>| {}, |response| ready(strip(response))
);
adapter!(
    /// Outermost: the same for Connect's own errors.
    Plain, remember_query, strip_json
);

fn mark(mut response: Response<Body>) -> Response<Body> {
    let trailers =
        response.extensions_mut().remove::<Trailers>().map(|Trailers(trailers)| trailers).unwrap_or_default();
    mark_error(response.headers_mut());
    response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let Some(found) = frame.trailers_mut() {
                mark_error(found);
                found.extend(trailers.clone());
            }
            frame
        }))
    })
}

fn mark_error(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    // What is too large is left to the product's own table, which gives it its code.
    if matches!(status.code(), Code::Ok | Code::OutOfRange) || !status.details().is_empty() {
        return;
    }
    let marked = tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: vec![Any { type_url: MARK.to_owned(), value: Vec::new() }],
    };
    let marked = Status::with_details(status.code(), status.message(), marked.encode_to_vec().into());
    let _ = marked.add_header(headers);
}

fn strip(mut response: Response<Body>) -> Response<Body> {
    strip_error(response.headers_mut());
    response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(found) = frame.trailers_mut() {
                strip_error(found);
            }
            frame
        }))
    })
}

fn strip_error(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let details = tonic_types::Status::decode(status.details()).unwrap_or_default().details;
    if details.iter().any(|detail| detail.type_url == MARK || detail.type_url.contains(ADDED)) {
        headers.remove(DETAILS);
    }
}

fn remember_query<B>(request: &mut Request<B>) {
    if let Some(query) = request.uri().query().map(str::to_owned) {
        request.extensions_mut().insert(Query(query));
    }
}

async fn strip_json(response: Response<Body>) -> Response<Body> {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if response.status() == StatusCode::OK || !json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(mut error) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return Response::from_parts(head, Body::new(Full::new(body)));
    };
    if let Some(details) = error.get_mut("details").and_then(serde_json::Value::as_array_mut) {
        details.retain(|detail| detail["type"].as_str().is_some_and(|name| !name.starts_with(ADDED)));
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::new(Full::new(Bytes::from(error.to_string()))))
}
