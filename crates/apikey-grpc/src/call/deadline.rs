//! The time limit of a call: the service's own, or the caller's where that is shorter.

use std::time::Duration;

use apikey_application::FieldViolation;
use http::{HeaderMap, HeaderName};

use crate::status::Failure;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The most digits in the header, from the specification of gRPC over HTTP/2.
const MAX_DIGITS: usize = 8;

/// The time limit of a request with these headers.
pub(super) fn of(headers: &HeaderMap, own: Duration) -> Result<Duration, Failure> {
    let mut values = headers.get_all(GRPC_TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(own) };
    match parse(value.as_bytes()) {
        Some(callers) if values.next().is_none() => Ok(callers.min(own)),
        _ => Err(Failure::invalid_fields(vec![FieldViolation::new(
            GRPC_TIMEOUT.as_str(),
            "must be sent once: 1 to 8 digits and one of H, M, S, m, u, n",
        )])),
    }
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3_600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_units_are_read_and_nothing_else() {
        for (text, millis) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4), ("99999999n", 99)] {
            assert_eq!(parse(text.as_bytes()).unwrap().as_millis(), millis, "{text}");
        }
        assert_eq!(parse(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse(b"0m"), Some(Duration::ZERO));
        for illegal in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "1S ", "123456789S", "1\u{661}S"] {
            assert_eq!(parse(illegal.as_bytes()), None, "{illegal:?}");
        }
    }

    #[test]
    fn the_shorter_limit_counts() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (GRPC_TIMEOUT, http::HeaderValue::from_static(value))).collect()
        };
        let own = Duration::from_secs(5);
        let of = |values: &[&'static str]| super::of(&headers(values), own).map_err(|failure| failure.code());
        assert_eq!(of(&[]), Ok(own));
        assert_eq!(of(&["1S"]), Ok(Duration::from_secs(1)));
        assert_eq!(of(&["1H"]), Ok(own));
        assert_eq!(of(&["1S", "1S"]), Err(tonic::Code::InvalidArgument));
        assert_eq!(of(&["soon"]), Err(tonic::Code::InvalidArgument));
    }
}
