//! The bridge as a whole, from the bytes of a request to what the inner service gets to see, on requests that nobody would think
//! of. What passes is compared with [`reading`]s of the test's own.

use std::sync::{LazyLock, Mutex};

use apikey_proto::{FILE_DESCRIPTOR_SET, pidgr::v1 as pb};
use apikey_testing::SeededEntropy;
use futures_util::{FutureExt, StreamExt, stream};
use http::request::Parts;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tower::util::{ServiceFn, service_fn};

use super::*;
use crate::{
    call::MAX_MESSAGE_SIZE,
    frames::{Part, frame, parts},
    places::{Entrance, Places},
    unary,
};
use json::{UnknownFields, from_proto, to_proto};
use reading::{check_create_request, is_well_formed, messages};

mod reading;

const CREATE: &str = "/pidgr.v1.ApiKeyService/CreateApiKey";
/// The longest answer to any of these requests, in bytes.
const MAX_ANSWER: usize = 4096;

/// Requests: a line with method and URI, header lines, an empty line, and the body. Inputs are recipes that change them.
const REQUESTS: [&[u8]; 12] = [
    include_bytes!("__fuzz__/bridge/corpus/connect_json"),
    include_bytes!("__fuzz__/bridge/corpus/both_names"),
    include_bytes!("__fuzz__/bridge/corpus/connect_proto"),
    include_bytes!("__fuzz__/bridge/corpus/credential_in_the_url"),
    include_bytes!("__fuzz__/bridge/corpus/fields_twice"),
    include_bytes!("__fuzz__/bridge/corpus/get"),
    include_bytes!("__fuzz__/bridge/corpus/grpc"),
    include_bytes!("__fuzz__/bridge/corpus/grpc_web"),
    include_bytes!("__fuzz__/bridge/corpus/grpc_web_text"),
    include_bytes!("__fuzz__/bridge/corpus/list"),
    include_bytes!("__fuzz__/bridge/corpus/two_messages"),
    include_bytes!("__fuzz__/bridge/corpus/unknown_path"),
];

/// What is written into requests: pieces that mean something there.
const PIECES: [&[u8]; 32] = [
    br#""name":"x","#,
    br#""name":null,"#,
    br#""name":"\ud83d\ude00","#,
    br#""name":"\ud800","#,
    br#""keyType":1,"#,
    br#""key_type":-1,"#,
    br#""keyType":4294967296,"#,
    br#""permissions":[77,1e0],"#,
    br#""permissions":["NONE"],"#,
    br#""expiresAt":"9999-12-31T23:59:59.999999999Z","#,
    br#""expiresAt":{},"#,
    br#""newer":[[{"a":1,"a":2}]],"#,
    b"content-encoding: gzip\n",
    b"content-type: application/grpc\n",
    b"connect-timeout-ms: 1x\n",
    b"?api_key=pidgr_k_",
    b"?message=",
    b"&message=pidgr_k_",
    b"&pidgr_k_",
    b"\0\0\0\0\0",
    b"\0\0\0\0\x04",
    b"\x01\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b",",
    b"\n",
    b"\xc3\xa9",
];

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Inner = fn(Request<Body>) -> Answering;

/// What the inner service got to see.
struct Seen {
    head: Parts,
    body: Result<Bytes, Status>,
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());
static WEB: LazyLock<Web<ServiceFn<Inner>>> = LazyLock::new(|| {
    let options = WebOptions {
        descriptor_sets: &[FILE_DESCRIPTOR_SET],
        services: &["pidgr.v1.ApiKeyService"],
        guarded: "",
        max_message_size: 64 * 1024,
        patience: Duration::from_mins(1),
    };
    let ids = RequestIds::new(&SeededEntropy::new(1)).unwrap();
    let inner: Inner = |request| Box::pin(inner(request));
    Web::new(service_fn(inner), ids, options).unwrap()
});
static CREATE_REQUEST: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name("pidgr.v1.CreateApiKeyRequest").unwrap()
});

/// Notes the request and answers with a key.
async fn inner(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes);
    let refusal = body.as_ref().err().cloned();
    SEEN.lock().unwrap().push(Seen { head, body });
    if let Some(status) = refusal {
        return Ok(status.into_http());
    }
    let answer = pb::CreateApiKeyResponse { raw_key: "k".to_owned(), ..pb::CreateApiKeyResponse::default() };
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Ok::<_, Status>(Frame::data(frame(&answer.encode_to_vec()))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Each input as a request, as JSON and as frames, and then as the recipe of a request.
#[test]
fn bridge() {
    let answer = judge(REQUESTS[0]).unwrap();
    assert_eq!((answer.status(), answer.body().as_ref()), (StatusCode::OK, &br#"{"rawKey":"k"}"#[..]));
    bolero::check!(name = "bridge").with_iterations(8_000).with_max_len(64).for_each(|input: &[u8]| {
        judge(input);
        judge_json(input);
        judge_frames(input);
        judge(&changed(input));
    });
}

/// Sends the request, if HTTP can express it at all.
fn judge(text: &[u8]) -> Option<Response<Bytes>> {
    let (request, body) = request_of(text)?;
    judge_frames(&body);
    let uri = request.uri().clone();
    let content_type = content_type(request.headers());
    let plain = !request.headers().contains_key(header::CONTENT_ENCODING);
    SEEN.lock().unwrap().clear();
    let answer = RUNTIME.block_on(async {
        let (head, body) = WEB.clone().oneshot(request).await.unwrap_or_else(|never| match never {}).into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    });
    let shown = String::from_utf8_lossy(text);
    assert_eq!(answer.headers().get_all(X_REQUEST_ID).iter().count(), 1, "{shown}");
    assert!(answer.body().len() <= MAX_ANSWER, "{shown}");

    let seen = std::mem::take(&mut *SEEN.lock().unwrap());
    assert!(seen.len() <= 1, "{shown}");
    let Some(Seen { head, body: seen }) = seen.into_iter().next() else { return Some(answer) };
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        let names = ["base64", "compression", "connect", "encoding", "message"];
        assert!(query.split('&').all(|part| names.iter().any(|name| part.starts_with(name))), "{shown}");
        // A message in a URL is for methods without side effects, and of those there are none.
        let by_grpc = head.method == Method::GET && content_type.starts_with("application/grpc");
        assert!(by_grpc || (head.uri.query().is_none() && uri.path() != CREATE), "{shown}");
    }
    let (Ok(seen), true) = (seen, uri.path() == CREATE) else { return Some(answer) };
    let received = messages(&seen);
    // Whatever is complete is all that there is.
    assert!(received.0.is_empty() || (received.0.len() == 1 && received.1), "{shown}");
    match content_type.as_str() {
        "application/json" if plain => {
            let translated = to_proto(&CREATE_REQUEST, &body, UnknownFields::Refused)
                .unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert_eq!(received, (vec![translated.to_vec()], true), "{shown}");
            judge_json(&body);
        }
        "application/proto" if plain => assert_eq!(received, (vec![body], true), "{shown}"),
        "application/grpc" => assert_eq!(seen, body, "{shown}"),
        _ => {}
    }
    Some(answer)
}

/// What is read as a message is well-formed JSON, means what a plain reader finds in it, and survives the way back and forth.
fn judge_json(text: &[u8]) {
    let Ok(message) = to_proto(&CREATE_REQUEST, text, UnknownFields::Ignored) else { return };
    let shown = String::from_utf8_lossy(text);
    assert!(is_well_formed(text), "{shown}");
    // An enum's negative number takes two characters and a comma here, and ten bytes there.
    assert!(message.len() <= 4 * text.len(), "{shown}");
    check_create_request(text, &pb::CreateApiKeyRequest::decode(message.clone()).unwrap());
    let written = from_proto(&CREATE_REQUEST, message.clone()).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(to_proto(&CREATE_REQUEST, &written, UnknownFields::Refused), Ok(message), "{shown}");
}

/// The same messages are found however the bytes are cut.
fn judge_frames(bytes: &[u8]) {
    let (expected, whole) = messages(bytes);
    for size in [1, 3, 7, 64] {
        let found = parts(in_chunks(bytes, size)).collect::<Vec<_>>().now_or_never().unwrap();
        let failed = found.iter().any(Result::is_err);
        let found = found.into_iter().filter_map(Result::ok);
        let found =
            found.filter_map(|part| if let Part::Message(message) = part { Some(message.to_vec()) } else { None });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{bytes:?} by {size}");
        assert!(!(failed && whole), "{bytes:?} by {size}");
        judge_unary(bytes, size);
    }
}

/// A body that comes in pieces of so many bytes.
fn in_chunks(bytes: &[u8], size: usize) -> Body {
    let chunks: Vec<_> =
        bytes.chunks(size).map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    Body::new(StreamBody::new(stream::iter(chunks)))
}

/// A request is read where it is one message, and nothing stands before or after it.
fn judge_unary(bytes: &[u8], size: usize) {
    let received = Entrance::new(Places::new(1), false).read(in_chunks(bytes, size)).now_or_never().unwrap();
    let read = received.and_then(|received| unary::decode::<pb::CreateApiKeyRequest>(received, MAX_MESSAGE_SIZE));
    let expected = match messages(bytes) {
        (messages, true) if messages.len() == 1 && messages[0].len() <= MAX_MESSAGE_SIZE => {
            pb::CreateApiKeyRequest::decode(messages[0].as_slice()).ok()
        }
        _ => None,
    };
    assert_eq!(read.ok(), expected, "{bytes:?} by {size}");
}

/// The request that the text describes, in chunks whose size depends on it, and its body.
fn request_of(text: &[u8]) -> Option<(Request<Body>, Vec<u8>)> {
    let end = text.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = (&text[..end], text[end + 2..].to_vec());
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, uri) = (first.next()?, first.next()?);
    let size = 1 + text.len() % 37;
    let mut request = Request::builder().method(method).uri(uri);
    if text.len().is_multiple_of(2) {
        request = request.version(http::Version::HTTP_2);
    }
    for line in lines {
        let place = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..place], line[place + 1..].trim_ascii());
    }
    Some((request.body(in_chunks(&body, size)).ok()?, body))
}

/// One of the requests with up to three changes: a piece after a brace, comma or line, one anywhere, a byte replaced, a part
/// removed or repeated.
fn changed(recipe: &[u8]) -> Vec<u8> {
    let [which, choice, edits @ ..] = recipe else { return Vec::new() };
    let mut text = REQUESTS[usize::from(*which) % REQUESTS.len()].to_vec();
    for edit in edits.chunks_exact(3).take(usize::from(choice % 4)) {
        let place = usize::from(edit[1]) * text.len() / 256;
        let piece = PIECES[usize::from(edit[2]) % PIECES.len()];
        let ends: Vec<usize> = (0..text.len()).filter(|at| matches!(text[*at], b'{' | b',' | b'\n')).collect();
        match edit[0] % 5 {
            0 | 1 if !ends.is_empty() => {
                let after = ends[usize::from(edit[1]) % ends.len()] + 1;
                drop(text.splice(after..after, piece.iter().copied()));
            }
            2 => drop(text.splice(place..place, piece.iter().copied())),
            3 if place < text.len() => text[place] = edit[2],
            _ => {
                let end = text.len().min(place + usize::from(edit[2] % 16));
                if edit[2] & 16 == 0 {
                    drop(text.drain(place..end));
                } else {
                    let part = text[place..end].to_vec();
                    drop(text.splice(place..place, part));
                }
            }
        }
    }
    text
}
