//! Compressed requests: one gzip member, and nothing behind it.
//!
//! RFC 1952 (section 2.2) lets members follow each other. The libraries of gRPC and Connect read the first one and ignore what follows,
//! so that a request could mean one thing to a proxy that reads all of it and another to us.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::{HeaderMap, HeaderName};
use tonic::Status;

use crate::frames;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Compressed bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflateError {
    /// What they hold is larger than a message may be.
    #[error("the message is too large once it is decompressed: the limit is {0} bytes")]
    TooLarge(usize),
    /// They are no gzip.
    #[error("the message cannot be decompressed: {0}")]
    Malformed(#[from] io::Error),
    /// Another member follows, or anything else.
    #[error("the message cannot be decompressed: something follows its gzip member")]
    NotAlone,
}

/// What the one gzip member holds, which may have `most` bytes.
///
/// # Errors
/// [`InflateError`] where it is too large, no gzip, or not alone.
pub(crate) fn inflate(compressed: &[u8], most: usize) -> Result<Vec<u8>, InflateError> {
    let mut decoder = GzDecoder::new(compressed);
    let mut inflated = Vec::new();
    // One byte more shows that it is too large.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    decoder.by_ref().take(limit).read_to_end(&mut inflated)?;
    if inflated.len() > most {
        return Err(InflateError::TooLarge(most));
    }
    if decoder.into_inner().is_empty() { Ok(inflated) } else { Err(InflateError::NotAlone) }
}

/// The one message of a gRPC request with its frame's header, decompressed where it is compressed by gzip. What else it may be is left to
/// whoever decodes it.
///
/// # Errors
/// `UNIMPLEMENTED` where there are more messages, and what tonic says of one that it cannot decompress.
pub(crate) fn message(headers: &HeaderMap, framed: Bytes, most: usize) -> Result<Bytes, Status> {
    let Some((flag, length, message)) = frames::split_header(&framed) else { return Ok(framed) };
    if message.len() > length {
        return Err(Status::unimplemented("the method takes one message, and there are more"));
    }
    let is_gzip = headers.get(GRPC_ENCODING).is_some_and(|encoding| encoding == "gzip");
    if flag != 1 || message.len() < length || !is_gzip {
        return Ok(framed);
    }
    match inflate(message, most) {
        Ok(inflated) => Ok(frames::frame(&inflated)),
        Err(error @ InflateError::TooLarge(_)) => Err(Status::resource_exhausted(error.to_string())),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn one_member_is_read_up_to_its_limit_and_nothing_may_follow() {
        for length in [0, 1, 99, 100] {
            let data = vec![b'x'; length];
            assert_eq!(inflate(&gzip(&data), 100).unwrap(), data);
            for behind in [&gzip(&data)[..], &gzip(b"")[..], b"garbage", &[0]] {
                let both = [&gzip(&data)[..], behind].concat();
                assert!(matches!(inflate(&both, 100), Err(InflateError::NotAlone)), "{length} {behind:?}");
            }
        }
        assert!(matches!(inflate(&gzip(&[b'x'; 101]), 100), Err(InflateError::TooLarge(100))));
        let whole = gzip(b"cut short");
        for length in 0..whole.len() {
            assert!(matches!(inflate(&whole[..length], 100), Err(InflateError::Malformed(_))), "{length}");
        }
    }
}
