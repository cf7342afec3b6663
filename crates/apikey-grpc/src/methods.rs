//! The methods that a listener serves, from their descriptors: what a path is called in metrics and logs, and its time limit.
//!
//! A path that no descriptor names is "unknown", so that callers cannot invent labels.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, Unit};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::status::code_name;

const REQUESTS: &str = "apikeys_grpc_requests_total";
const DURATION: &str = "apikeys_grpc_request_duration_seconds";
const IN_FLIGHT: &str = "apikeys_grpc_requests_in_flight";

/// The codes of gRPC are the numbers from 0 to 16.
const CODES: usize = 17;

/// One method.
pub(crate) struct Method {
    /// `package.Service/Method`. There is one for as long as the process runs, which every call names.
    pub(crate) name: &'static str,
    /// The service's own time limit until the head of the answer.
    pub(crate) deadline: Duration,
    /// Whether it is the method that has places of its own.
    pub(crate) revokes: bool,
    /// Whether its answer is a stream, so that an error can stand in its trailers. A single message's answer has it in its head.
    pub(crate) streams: bool,
    requests: [OnceLock<Counter>; CODES],
    duration: OnceLock<Histogram>,
}

impl Method {
    fn new(name: String, deadline: Duration, revokes: bool, streams: bool) -> Self {
        let requests = [const { OnceLock::new() }; CODES];
        Self { name: name.leak(), deadline, revokes, streams, requests, duration: OnceLock::new() }
    }

    /// Counts a call that was answered, or given up by its caller ([`Code::Cancelled`]).
    pub(crate) fn record(&self, code: Code, duration: Duration) {
        let counter = || metrics::counter!(REQUESTS, "method" => self.name, "code" => code_name(code));
        if let Some(requests) = self.requests.get(usize::try_from(i32::from(code)).unwrap_or(CODES)) {
            requests.get_or_init(counter).increment(1);
        }
        let histogram = || metrics::histogram!(DURATION, "method" => self.name);
        self.duration.get_or_init(histogram).record(duration.as_secs_f64());
    }
}

/// Where a method stands among those of its listener.
#[derive(Clone, Copy)]
pub(crate) struct Nth(Option<usize>);

/// All methods of a listener.
pub(crate) struct Methods {
    /// A handful: comparing their names is faster than hashing one.
    known: Vec<Method>,
    unknown: Method,
    in_flight: Gauge,
}

impl Methods {
    /// The methods in these descriptor sets. `limit` gives a method's time limit, by its name, and `revoking`
    /// is the name of the one that has places of its own.
    ///
    /// # Errors
    /// Where a set cannot be decoded.
    pub(crate) fn new(
        descriptor_sets: &[&[u8]],
        services: &[&str],
        revoking: &str,
        limit: impl Fn(&str) -> Duration,
    ) -> Result<Self, prost::DecodeError> {
        metrics::describe_counter!(REQUESTS, "Calls that were answered, by method and code.");
        metrics::describe_histogram!(DURATION, Unit::Seconds, "Time from a call's head to its answer's head.");
        metrics::describe_gauge!(IN_FLIGHT, "Calls that are being carried out.");
        let mut known = Vec::new();
        for set in descriptor_sets {
            for file in FileDescriptorSet::decode(*set)?.file {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    if !services.contains(&service_name.as_str()) {
                        continue;
                    }
                    for method in &service.method {
                        let name = format!("{service_name}/{}", method.name());
                        let (deadline, revokes) = (limit(&name), name == revoking);
                        known.push(Method::new(name, deadline, revokes, method.server_streaming()));
                    }
                }
            }
        }
        let unknown = Method::new("unknown".to_owned(), limit("unknown"), false, true);
        Ok(Self { known, unknown, in_flight: metrics::gauge!(IN_FLIGHT) })
    }

    /// The place of the method with that path, or of the one that stands for all unknown ones.
    pub(crate) fn place(&self, path: &str) -> Nth {
        let name = path.strip_prefix('/');
        Nth(self.known.iter().position(|method| Some(method.name) == name))
    }

    /// The method in that place.
    pub(crate) fn at(&self, place: Nth) -> &Method {
        place.0.and_then(|place| self.known.get(place)).unwrap_or(&self.unknown)
    }

    pub(crate) fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }
}
