//! Claims that are missing, wrong, or of the wrong form.

use serde_json::json;

use super::{Issuer, named};
use crate::{
    AUDIENCE, ISSUER, NOW,
    issuer::{good_claims, with, without},
};

#[tokio::test]
async fn issuer_claim() {
    let issuer = Issuer::new().await;
    issuer.rejects("issuer", [issuer.token_without("iss")]).await;
    issuer
        .rejects_claims(
            "issuer",
            [
                json!("https://elsewhere.test"),
                json!(format!("{ISSUER}/")),
                json!(ISSUER.to_uppercase()),
                json!(&ISSUER[..ISSUER.len() - 1]),
                json!(format!(" {ISSUER}")),
                json!(""),
                json!([ISSUER]),
                json!(null),
                json!(1),
            ]
            .map(|value| json!({ "iss": value })),
        )
        .await;
}

#[tokio::test]
async fn audience() {
    let issuer = Issuer::new().await;
    issuer.rejects("audience", [issuer.token_without("aud")]).await;
    issuer
        .rejects_claims(
            "audience",
            [
                json!("elsewhere"),
                json!(format!("{AUDIENCE} elsewhere")),
                json!(format!("{AUDIENCE}2")),
                json!(AUDIENCE.to_uppercase()),
                json!(""),
                json!([]),
                json!(["elsewhere", "nowhere"]),
                json!([[AUDIENCE]]),
                json!([AUDIENCE, 1]),
                json!([null, AUDIENCE]),
                json!({ AUDIENCE: AUDIENCE }),
                json!(null),
                json!(true),
            ]
            .map(|value| json!({ "aud": value })),
        )
        .await;
}

#[tokio::test]
async fn expiry() {
    let issuer = Issuer::new().await;
    issuer.rejects("expiry", [issuer.token_without("exp")]).await;
    issuer
        .rejects_claims(
            "expiry",
            [
                json!(NOW - 30),
                json!(1_799_999_969.999_999),
                json!(NOW - 3_600),
                json!(0),
                json!(-1),
                json!(-1.5),
                json!(i64::MIN),
                json!(i64::MAX),
                json!(u64::MAX),
                json!(253_402_300_800_i64),
                json!(253_402_300_800.0),
                json!(1e18),
                json!(1e300),
                json!(-1e300),
                json!((NOW + 300).to_string()),
                json!([NOW + 300]),
                json!(true),
                json!(null),
            ]
            .map(|value| json!({ "exp": value })),
        )
        .await;
}

#[tokio::test]
async fn not_before() {
    let issuer = Issuer::new().await;
    issuer
        .rejects_claims(
            "not-before",
            [
                json!(NOW + 31),
                json!(1_800_000_030.000_01),
                json!(NOW + 3_600),
                json!(253_402_300_799_i64),
                json!(253_402_300_800_i64),
                json!(i64::MAX),
                json!(u64::MAX),
                json!(1e300),
                json!(-1e300),
                json!(NOW.to_string()),
                json!([NOW]),
                json!(false),
                json!(null),
            ]
            .map(|value| json!({ "nbf": value })),
        )
        .await;
    issuer
        .rejects_claims(
            "issued-at",
            [json!("yesterday"), json!(i64::MAX), json!(1e300), json!(null), json!([])]
                .map(|value| json!({ "iat": value })),
        )
        .await;
}

#[tokio::test]
async fn subject() {
    let issuer = Issuer::new().await;
    issuer.rejects("subject", [issuer.token_without("sub")]).await;
    issuer
        .rejects_claims(
            "subject",
            [
                json!(""),
                json!("s".repeat(256)),
                json!("a\nb"),
                json!("\u{0}"),
                json!(1),
                json!(["user 1"]),
                json!(null),
            ]
            .map(|value| json!({ "sub": value })),
        )
        .await;
}

#[tokio::test]
async fn organization() {
    let issuer = Issuer::new().await;
    let claims =
        with(without(good_claims(), "custom:org_id"), json!({ "org_id": "org_1", "custom": { "org_id": "org_1" } }));
    issuer
        .rejects(
            "organization",
            [
                issuer.token_without("custom:org_id"),
                named("elsewhere", issuer.ed.token_of(issuer.ed.header("ed").to_string(), claims.to_string())),
            ],
        )
        .await;
    issuer
        .rejects_claims(
            "organization",
            [
                json!(""),
                json!(" "),
                json!("org 1"),
                json!("org_1\n"),
                json!("örg"),
                json!("o".repeat(129)),
                json!(1),
                json!(["org_1"]),
                json!({ "id": "org_1" }),
                json!(null),
            ]
            .map(|value| json!({ "custom:org_id": value })),
        )
        .await;
}

#[tokio::test]
async fn permissions() {
    let issuer = Issuer::new().await;
    issuer
        .rejects_claims(
            "permissions",
            [
                json!(1),
                json!(null),
                json!(true),
                json!({ "PERMISSION_ORG_READ": true }),
                json!(["PERMISSION_ORG_READ", 1]),
                json!([["PERMISSION_ORG_READ"]]),
                json!([null]),
            ]
            .map(|value| json!({ "permissions": value })),
        )
        .await;
}
