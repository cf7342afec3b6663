//! Spellings that are none, members that occur twice, and sizes.

use serde_json::json;

use super::{Issuer, named};
use crate::issuer::good_claims;

#[tokio::test]
async fn encoding() {
    let issuer = Issuer::new().await;
    let good = issuer.ed.good_token("ed");
    let [header, claims, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let (header_text, claims_text) = (issuer.ed.header("ed").to_string(), good_claims().to_string());
    let mut tokens: Vec<_> = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "garbage".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}..{signature}.{claims}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{good}.{signature}.{signature}"),
        format!("{header}.{claims}.{signature}=="),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}==.{claims}.{signature}"),
        format!("{header}.{claims}=.{signature}"),
        format!("{header}.{claims}.{}+/", &signature[..signature.len() - 2]),
        format!("{header}.{claims}.{signature}AAA"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{header}.\n{claims}.{signature}"),
        format!("Bearer {good}"),
        format!("{header}.{claims}.{signature}é"),
        format!("{header}\u{0}.{claims}.{signature}"),
        format!("{{\"header\":\"{header}\"}}"),
    ]
    .map(|token| (format!("{token:?}"), token))
    .into();
    // Well signed, but not two JSON objects.
    for text in ["", "null", "[]", "1", "{", "{}{}", "{'alg':'EdDSA'}", "\u{feff}{}", "{/**/}", r#"{"alg":"EdDSA",}"#] {
        tokens.push(issuer.text(text, &claims_text));
        tokens.push(issuer.text(&header_text, text));
    }
    tokens.push(named("trailing text in the header", issuer.ed.token_of(format!("{header_text} x"), &claims_text)));
    tokens.push(named("trailing text in the claims", issuer.ed.token_of(&header_text, format!("{claims_text},"))));
    tokens.push(named("no UTF-8", issuer.ed.token_of(&header_text, b"{\"sub\":\"\xff\"}")));
    tokens.push(named("half a surrogate", issuer.ed.token_of(&header_text, r#"{"sub":"\ud800"}"#)));
    tokens.push(named("deep", issuer.ed.token_of(&header_text, format!("{{\"a\":{}", "[".repeat(4_000)))));
    tokens.push(named("NaN", issuer.ed.token_of(&header_text, r#"{"exp":NaN}"#)));
    tokens.push(named("beyond numbers", issuer.ed.token_of(&header_text, r#"{"exp":1e999}"#)));
    issuer.rejects("encoding", tokens).await;
}

#[tokio::test]
async fn duplicate_members() {
    let issuer = Issuer::new().await;
    let (header, claims) = (issuer.ed.header("ed").to_string(), good_claims().to_string());
    let twice = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    let mut tokens = Vec::new();
    for member in [
        r#""alg":"none""#,
        r#""alg":"EdDSA""#,
        r#""kid":"rsa""#,
        r#""typ":"JWT""#,
        r#""\u0061lg":"HS256""#,
        r#""x":{"a":1,"a":1}"#,
        r#""crit":[],"crit":[]"#,
    ] {
        tokens.push(issuer.text(&twice(&header, member), &claims));
    }
    for member in [
        r#""exp":99999999999"#,
        r#""iss":"https://elsewhere.test""#,
        r#""aud":[]"#,
        r#""sub":"user 2""#,
        r#""custom:org_id":"org_2""#,
        r#""custom:org_id":"org_1""#,
        r#""custom:org\u005fid":"org_2""#,
        r#""permissions":[]"#,
        r#""unknown":1,"unknown":1"#,
        r#""x":[{"a":1,"b":{},"a":2}]"#,
    ] {
        tokens.push(issuer.text(&header, &twice(&claims, member)));
    }
    // Also the other way round: the good one first.
    let last = format!(r#"{},"exp":99999999999}}"#, &claims[..claims.len() - 1]);
    tokens.push(issuer.text(&header, &last));
    issuer.rejects("duplicate member", tokens).await;
}

#[tokio::test]
async fn size() {
    let issuer = Issuer::new().await;
    let padded = |length: usize| issuer.ed.token("ed", json!({}), json!({ "x": "p".repeat(length) }));
    let shortest = (5_000..7_000).map(padded).find(|token| token.len() > 8_192).unwrap();
    assert!(shortest.len() < 8_200, "just above the limit");
    issuer
        .rejects(
            "size",
            [
                named("just above", shortest),
                named("a megabyte", padded(1_000_000)),
                named("a long header", issuer.ed.token("ed", json!({ "x": "p".repeat(8_192) }), json!({}))),
                named("a long signature", format!("{}{}", issuer.ed.good_token("ed"), "A".repeat(8_192))),
                named("8193 full stops", ".".repeat(8_193)),
                named("8193 bytes, fewer characters", "é".repeat(4_097)),
            ],
        )
        .await;
}
