//! The suite's service: each request says what to answer, and the answer says what was received.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status, Streaming, codec::CompressionEncoding, metadata::MetadataMap};

use crate::{
    adapters::{Query, Trailers},
    pb::{
        BidiStreamRequest, BidiStreamResponse, ClientStreamRequest, ClientStreamResponse, ConformancePayload, Error,
        Header, IdempotentUnaryRequest, IdempotentUnaryResponse, ServerStreamRequest, ServerStreamResponse,
        StreamResponseDefinition, UnaryRequest, UnaryResponse, UnaryResponseDefinition, UnimplementedRequest,
        UnimplementedResponse,
        conformance_payload::{ConnectGetInfo, RequestInfo},
        conformance_service_server::{ConformanceService, ConformanceServiceServer},
        unary_response_definition,
    },
};

pub(crate) fn server(max_message_size: usize) -> ConformanceServiceServer<Conformance> {
    ConformanceServiceServer::new(Conformance)
        .max_decoding_message_size(max_message_size)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

pub(crate) struct Conformance;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is known of a request beside its messages.
struct Received {
    headers: HeaderMap,
    query: Vec<Header>,
}

impl Received {
    fn of<T>(request: &Request<T>) -> Self {
        let query = request.extensions().get::<Query>().map(|Query(query)| parameters(query)).unwrap_or_default();
        Self { headers: request.metadata().clone().into_headers(), query }
    }

    fn info(&self, requests: Vec<Any>) -> RequestInfo {
        let connect_get_info = (!self.query.is_empty()).then(|| ConnectGetInfo { query_params: self.query.clone() });
        let names = self.headers.keys();
        let request_headers = names
            .map(|name| {
                let values = self.headers.get_all(name).iter();
                let value = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
                Header { name: name.to_string(), value }
            })
            .collect();
        RequestInfo { request_headers, timeout_ms: self.timeout(), requests, connect_get_info }
    }

    fn timeout(&self) -> Option<i64> {
        let text = self.headers.get("grpc-timeout")?.to_str().ok()?;
        let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let amount: i64 = amount.parse().ok()?;
        Some(match unit {
            "H" => amount * 3_600_000,
            "M" => amount * 60_000,
            "S" => amount * 1_000,
            "m" => amount,
            "u" => amount / 1_000,
            _ => amount / 1_000_000,
        })
    }
}

fn parameters(query: &str) -> Vec<Header> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| Header { name: name.to_owned(), value: vec![value.to_owned()] }).collect()
}

fn any<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/connectrpc.conformance.v1.{name}"), value: message.encode_to_vec() }
}

fn header_map(headers: &[Header]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for Header { name, value } in headers {
        for value in value {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                map.append(name, value);
            }
        }
    }
    map
}

fn status(error: &Error, more: Option<RequestInfo>, metadata: HeaderMap) -> Status {
    let mut details = error.details.clone();
    details.extend(more.map(|info| any("ConformancePayload.RequestInfo", &info)));
    let message = error.message.clone().unwrap_or_default();
    let encoded = tonic_types::Status { code: error.code, message: message.clone(), details: details.clone() };
    let encoded = if details.is_empty() { Vec::new() } else { encoded.encode_to_vec() };
    let metadata = MetadataMap::from_headers(metadata);
    Status::with_details_and_metadata(Code::from(error.code), message, encoded.into(), metadata)
}

async fn wait(milliseconds: u32) {
    tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
}

fn answer<T>(message: T, headers: HeaderMap, trailers: HeaderMap) -> Response<T> {
    let mut extensions = Extensions::new();
    extensions.insert(Trailers(trailers));
    Response::from_parts(MetadataMap::from_headers(headers), message, extensions)
}

async fn answer_once<T>(
    received: &Received,
    requests: Vec<Any>,
    definition: Option<UnaryResponseDefinition>,
    wrap: impl FnOnce(ConformancePayload) -> T,
) -> Result<Response<T>, Status> {
    use unary_response_definition::Response as Kind;
    let definition = definition.unwrap_or_default();
    let (headers, trailers) = (header_map(&definition.response_headers), header_map(&definition.response_trailers));
    wait(definition.response_delay_ms).await;
    let info = received.info(requests);
    let data = match definition.response {
        Some(Kind::Error(error)) => {
            let mut metadata = headers;
            metadata.extend(trailers);
            return Err(status(&error, Some(info), metadata));
        }
        Some(Kind::ResponseData(data)) => data,
        None => Vec::new(),
    };
    Ok(answer(wrap(ConformancePayload { data, request_info: Some(info) }), headers, trailers))
}

/// Sends what a definition says, each message with its delay; the first that has been sent of all says what was received.
struct Sender<T> {
    definition: StreamResponseDefinition,
    sent: usize,
    wrap: fn(ConformancePayload) -> T,
    answers: mpsc::Sender<Result<T, Status>>,
}

impl<T> Sender<T> {
    /// Sends the next message, if there is one and somebody who reads it.
    async fn next(&mut self, info: RequestInfo) -> bool {
        let Some(data) = self.definition.response_data.get(self.sent).cloned() else { return false };
        wait(self.definition.response_delay_ms).await;
        self.sent += 1;
        let payload = ConformancePayload { data, request_info: Some(info) };
        self.answers.send(Ok((self.wrap)(payload))).await.is_ok()
    }

    async fn finish(mut self, received: &Received, mut requests: Vec<Any>) {
        while self.sent < self.definition.response_data.len() {
            let info =
                if self.sent == 0 { received.info(std::mem::take(&mut requests)) } else { RequestInfo::default() };
            if !self.next(info).await {
                return;
            }
        }
        if let Some(error) = &self.definition.error {
            let info = (self.sent == 0).then(|| received.info(requests));
            let status = status(error, info, header_map(&self.definition.response_trailers));
            // A caller that is gone needs no error.
            let _ = self.answers.send(Err(status)).await;
        }
    }
}

fn stream_of<T: Send + 'static>(answers: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(stream::unfold(answers, |mut answers| async move { Some((answers.recv().await?, answers)) }))
}

#[tonic::async_trait]
impl ConformanceService for Conformance {
    type ServerStreamStream = Answers<ServerStreamResponse>;
    type BidiStreamStream = Answers<BidiStreamResponse>;

    async fn unary(&self, request: Request<UnaryRequest>) -> Result<Response<UnaryResponse>, Status> {
        let received = Received::of(&request);
        let request = request.into_inner();
        let requests = vec![any("UnaryRequest", &request)];
        let wrap = |payload| UnaryResponse { payload: Some(payload) };
        answer_once(&received, requests, request.response_definition, wrap).await
    }

    async fn idempotent_unary(
        &self,
        request: Request<IdempotentUnaryRequest>,
    ) -> Result<Response<IdempotentUnaryResponse>, Status> {
        let received = Received::of(&request);
        let request = request.into_inner();
        let requests = vec![any("IdempotentUnaryRequest", &request)];
        let wrap = |payload| IdempotentUnaryResponse { payload: Some(payload) };
        answer_once(&received, requests, request.response_definition, wrap).await
    }

    async fn unimplemented(&self, _: Request<UnimplementedRequest>) -> Result<Response<UnimplementedResponse>, Status> {
        Err(Status::unimplemented("the suite wants it so"))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<ClientStreamRequest>>,
    ) -> Result<Response<ClientStreamResponse>, Status> {
        let received = Received::of(&request);
        let mut incoming = request.into_inner();
        let (mut requests, mut definition) = (Vec::new(), None);
        while let Some(message) = incoming.message().await? {
            requests.push(any("ClientStreamRequest", &message));
            if requests.len() == 1 {
                definition = message.response_definition;
            }
        }
        answer_once(&received, requests, definition, |payload| ClientStreamResponse { payload: Some(payload) }).await
    }

    async fn server_stream(
        &self,
        request: Request<ServerStreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        let received = Received::of(&request);
        let request = request.into_inner();
        let requests = vec![any("ServerStreamRequest", &request)];
        let definition = request.response_definition.unwrap_or_default();
        let (headers, trailers) = (header_map(&definition.response_headers), header_map(&definition.response_trailers));
        let (answers, answered) = mpsc::channel(1);
        let wrap = |payload| ServerStreamResponse { payload: Some(payload) };
        let sender = Sender { definition, sent: 0, wrap, answers };
        tokio::spawn(async move { sender.finish(&received, requests).await });
        Ok(answer(stream_of(answered), headers, trailers))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<BidiStreamRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        let received = Received::of(&request);
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let full_duplex = first.as_ref().is_some_and(|first| first.full_duplex);
        let definition = first.as_ref().and_then(|first| first.response_definition.clone()).unwrap_or_default();
        let (headers, trailers) = (header_map(&definition.response_headers), header_map(&definition.response_trailers));
        let (answers, answered) = mpsc::channel(1);
        let wrap = |payload| BidiStreamResponse { payload: Some(payload) };
        let mut sender = Sender { definition, sent: 0, wrap, answers };
        tokio::spawn(async move {
            let mut requests = Vec::new();
            let mut next = Ok(first);
            loop {
                let message = match next {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(status) => {
                        let _ = sender.answers.send(Err(status)).await;
                        return;
                    }
                };
                requests.push(any("BidiStreamRequest", &message));
                if full_duplex {
                    let requests = std::mem::take(&mut requests);
                    let info = if sender.sent == 0 {
                        received.info(requests.clone())
                    } else {
                        RequestInfo { requests: requests.clone(), ..RequestInfo::default() }
                    };
                    if !sender.next(info).await {
                        return sender.finish(&received, requests).await;
                    }
                }
                next = incoming.message().await;
            }
            sender.finish(&received, requests).await;
        });
        Ok(answer(stream_of(answered), headers, trailers))
    }
}
