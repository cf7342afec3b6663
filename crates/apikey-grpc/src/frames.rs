//! gRPC's framing of messages that are not compressed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::{Status, body::Body};

/// A flag and a length of 32 bits.
pub(crate) const HEADER: usize = 5;

/// One message with its frame's header. A message of 4 GiB cannot be framed; no message comes near it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = begin(message.len());
    framed.put_slice(message);
    framed.freeze()
}

/// The header of a message of that length, with room for the message.
pub(crate) fn begin(length: usize) -> BytesMut {
    let mut framed = BytesMut::with_capacity(HEADER + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed
}

/// The flag of the first frame, the length of its message, and what follows its header, once that is there.
pub(crate) fn split_header(received: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&[flag, a, b, c, d], rest) = received.split_first_chunk::<HEADER>()?;
    Some((flag, usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX), rest))
}

/// What an answer's body consists of.
pub(crate) enum Part {
    Message(Bytes),
    Trailers(HeaderMap),
}

/// The parts of an answer's body, in order. After an error nothing comes.
pub(crate) fn parts(body: Body) -> impl Stream<Item = Result<Part, Status>> + Send + 'static {
    stream::unfold(Some((body, BytesMut::new())), |state| async move {
        let (mut body, mut received) = state?;
        loop {
            match take(&mut received) {
                Ok(Some(message)) => return Some((Ok(Part::Message(message)), Some((body, received)))),
                Ok(None) => {}
                Err(status) => return Some((Err(status), None)),
            }
            match body.frame().await? {
                Err(status) => return Some((Err(status), None)),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => received.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Some((Ok(Part::Trailers(trailers)), None));
                    }
                },
            }
        }
    })
}

/// Takes the first message that is there completely.
fn take(received: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((flag, length, rest)) = split_header(received) else { return Ok(None) };
    if flag != 0 {
        return Err(Status::internal("an answer within the process is compressed"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    received.advance(HEADER);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn messages_are_found_wherever_the_body_was_cut() {
        let whole = [frame(b"first"), frame(b""), frame(&[7; 300])].concat();
        for size in 1..whole.len() {
            let chunks: Vec<_> =
                whole.chunks(size).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
            let trailers = HeaderMap::from_iter([(http::header::DATE, http::HeaderValue::from_static("now"))]);
            let frames = stream::iter(chunks.into_iter().chain([Ok::<_, Status>(Frame::trailers(trailers))]));
            let parts: Vec<_> = parts(Body::new(StreamBody::new(frames))).map(Result::unwrap).collect().await;
            let lengths: Vec<_> = parts
                .iter()
                .map(|part| match part {
                    Part::Message(message) => message.len(),
                    Part::Trailers(trailers) => 1000 + trailers.len(),
                })
                .collect();
            assert_eq!(lengths, [5, 0, 300, 1001], "in chunks of {size}");
        }
    }

    #[test]
    fn a_compressed_frame_is_an_error() {
        assert!(take(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }
}
