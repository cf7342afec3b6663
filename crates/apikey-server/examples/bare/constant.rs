//! The service of both bare servers: it reads the request and answers each with the same verdict.

use apikey_proto::pidgr::v1::{
    KeyType, Permission, VerifiedApiKey, VerifyApiKeyRequest, VerifyApiKeyResponse,
    api_key_verification_service_server::{ApiKeyVerificationService, ApiKeyVerificationServiceServer},
    verify_api_key_response::Verdict,
};
use tonic::{Request, Response, Status};

/// Says of every key what the service says of a valid one of the bench, in as many bytes.
#[derive(Clone, Copy)]
pub(crate) struct Constant;

pub(crate) fn service() -> ApiKeyVerificationServiceServer<Constant> {
    ApiKeyVerificationServiceServer::new(Constant)
}

#[tonic::async_trait]
impl ApiKeyVerificationService for Constant {
    async fn verify_api_key(
        &self,
        request: Request<VerifyApiKeyRequest>,
    ) -> Result<Response<VerifyApiKeyResponse>, Status> {
        let VerifyApiKeyRequest { raw_key, .. } = request.into_inner();
        if raw_key.is_empty() {
            return Err(Status::invalid_argument("there is no key"));
        }
        let key = VerifiedApiKey {
            api_key_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            organization_id: "organization-000".to_owned(),
            permissions: vec![
                Permission::CampaignsRead as i32,
                Permission::CampaignsWrite as i32,
                Permission::TemplatesRead as i32,
            ],
            key_type: KeyType::ApiKey as i32,
            expires_at: None,
        };
        Ok(Response::new(VerifyApiKeyResponse { verdict: Some(Verdict::Valid(key)) }))
    }
}
