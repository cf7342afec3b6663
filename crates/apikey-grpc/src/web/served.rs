//! The methods that a listener serves, by path, as JSON and Connect need to know them.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, MessageDescriptor,
    prost_types::{MethodOptions, method_options::IdempotencyLevel},
};

use super::json::UnknownFields;

/// One method.
pub(super) struct Method {
    pub(super) client_streaming: bool,
    pub(super) server_streaming: bool,
    /// Whether the proto file says that the method has no side effects, so that Connect may call it by GET.
    pub(super) without_side_effects: bool,
    /// What becomes of fields in JSON that its message does not have.
    pub(super) unknown_fields: UnknownFields,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
}

/// The package whose methods are known by their names: those of Google's AIP-131 and AIP-132 only read.
const PACKAGE: &str = "pidgr.";
const READS: [&str; 2] = ["Get", "List"];

fn unknown_fields(service: &str, method: &str) -> UnknownFields {
    let changes = service.starts_with(PACKAGE) && !READS.iter().any(|read| method.starts_with(read));
    if changes { UnknownFields::Refused } else { UnknownFields::Ignored }
}

/// The methods of a listener's services, by `package.Service/Method`.
pub(super) struct Served(HashMap<String, Method>);

impl Served {
    /// The methods of those services in these descriptor sets.
    ///
    /// # Errors
    /// Where a set cannot be decoded or refers to a file that no set has.
    pub(super) fn new(descriptor_sets: &[&[u8]], services: &[&str]) -> Result<Self, prost_reflect::DescriptorError> {
        let mut pool = DescriptorPool::new();
        for set in descriptor_sets {
            pool.decode_file_descriptor_set(*set)?;
        }
        let mut methods = HashMap::new();
        for service in pool.services().filter(|service| services.contains(&service.full_name())) {
            for method in service.methods() {
                let descriptor = method.method_descriptor_proto();
                let level = descriptor.options.as_ref().map(MethodOptions::idempotency_level);
                let served = Method {
                    client_streaming: method.is_client_streaming(),
                    server_streaming: method.is_server_streaming(),
                    without_side_effects: level == Some(IdempotencyLevel::NoSideEffects),
                    unknown_fields: unknown_fields(service.full_name(), method.name()),
                    input: method.input(),
                    output: method.output(),
                };
                methods.insert(format!("{}/{}", service.full_name(), method.name()), served);
            }
        }
        Ok(Self(methods))
    }

    /// The method with that path, with or without its leading slash.
    pub(super) fn find(&self, path: &str) -> Option<&Method> {
        self.0.get(path.strip_prefix('/').unwrap_or(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_services_are_served_and_nothing_of_ours_by_get() {
        let sets = [apikey_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let services = ["pidgr.v1.ApiKeyService", "grpc.health.v1.Health"];
        let served = Served::new(&sets, &services).unwrap();
        let create = served.find("/pidgr.v1.ApiKeyService/CreateApiKey").unwrap();
        assert!(!create.client_streaming && !create.server_streaming);
        assert_eq!(create.output.full_name(), "pidgr.v1.CreateApiKeyResponse");
        assert_eq!(create.unknown_fields, UnknownFields::Refused);
        assert_eq!(served.find("pidgr.v1.ApiKeyService/RevokeApiKey").unwrap().unknown_fields, UnknownFields::Refused);
        assert_eq!(served.find("pidgr.v1.ApiKeyService/ListApiKeys").unwrap().unknown_fields, UnknownFields::Ignored);
        assert_eq!(served.find("grpc.health.v1.Health/Check").unwrap().unknown_fields, UnknownFields::Ignored);
        assert!(served.find("/grpc.health.v1.Health/Watch").is_some_and(|watch| watch.server_streaming));
        assert!(served.find("/pidgr.v1.ApiKeyVerificationService/VerifyApiKey").is_none());
        assert!(served.find("//pidgr.v1.ApiKeyService/CreateApiKey").is_none());
        // A message in a URL ends up in logs and histories.
        assert!(served.0.values().all(|method| !method.without_side_effects));
    }
}
