//! The reader of tokens, on headers and claims that nobody would think of, under a signature that is right: so nothing is refused
//! for its signature alone. What is accepted has to be what a reader of the test's own finds in the token.

use std::sync::LazyLock;

use apikey_domain::Principal;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use crate::{
    AUDIENCE, ISSUER, NOW, Shared, authenticator_of,
    issuer::{SigningKey, good_principal},
    outcome,
};

/// A header and claims, one on each line. Inputs are recipes that change them.
const GOOD: &str = include_str!("__fuzz__/jwt_reader/corpus/good");
const LEAST: &str = include_str!("__fuzz__/jwt_reader/corpus/least");

/// The leeway of the default settings, in seconds.
const LEEWAY: f64 = 30.0;

/// What is written into the texts: pieces that mean something there. The instants are the nearest that are refused.
const PIECES: [&str; 32] = [
    r#""alg":"none","#,
    r#""alg":"EdDSA","#,
    r#""alg":"HS256","#,
    r#""kid":"ed","#,
    r#""kid":null,"#,
    r#""crit":[],"#,
    r#""b64":true,"#,
    r#""typ":"at+jwt","#,
    r#""typ":"other","#,
    r#""sub":"user 2","#,
    r#""\u0073ub":"user 2","#,
    r#""aud":["api-keys",1],"#,
    r#""aud":[],"#,
    r#""exp":1799999970,"#,
    r#""exp":99999999999999999999,"#,
    r#""nbf":1800000031,"#,
    r#""iat":"now","#,
    r#""iss":"https://elsewhere.test","#,
    r#""custom:org_id":"org_2","#,
    r#""permissions":[],"#,
    r#""x":{"a":1,"a":2},"#,
    r#""x":[{"y":[]}],"#,
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    " ",
    "\n",
    "é",
];

struct Subject {
    runtime: Runtime,
    authenticator: Shared,
    key: SigningKey,
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let key = SigningKey::ed25519();
    let authenticator = runtime.block_on(authenticator_of(&[key.published("ed")]));
    Subject { runtime, authenticator: Shared::new(authenticator), key }
});

impl Subject {
    fn read(&self, token: &str) -> Option<Principal> {
        match self.runtime.block_on(outcome(&*self.authenticator, token)) {
            Ok(principal) => Some(principal),
            Err(class) => {
                assert_ne!(class, "unavailable", "a bad token is answered as a failure of ours: {token}");
                None
            }
        }
    }
}

/// Each input three times: as a token, as the two texts of one, and as a recipe of them.
#[test]
fn jwt_reader() {
    assert_eq!(judge(GOOD.as_bytes()), Some(good_principal()));
    assert!(judge(LEAST.as_bytes()).is_some());
    bolero::check!(name = "jwt_reader").with_iterations(5_000).with_max_len(64).for_each(|input: &[u8]| {
        if let Ok(text) = std::str::from_utf8(input) {
            assert_eq!(SUBJECT.read(text), None, "nobody signed {text:?}");
        }
        judge(input);
        judge(&changed(input));
    });
}

fn judge(texts: &[u8]) -> Option<Principal> {
    let place = texts.iter().position(|byte| *byte == b'\n').unwrap_or(texts.len());
    let (header, claims) = (&texts[..place], texts.get(place + 1..).unwrap_or_default());
    let read = SUBJECT.read(&SUBJECT.key.token_of(header, claims));
    if let Some(principal) = &read {
        let shown = String::from_utf8_lossy(texts);
        check_header(&object(header).unwrap_or_else(|| panic!("not an object, or not only one: {shown}")));
        check_claims(&object(claims).unwrap_or_else(|| panic!("not an object, or not only one: {shown}")), principal);
    }
    read
}

fn check_header(header: &Map<String, Value>) {
    assert_eq!(header.get("alg"), Some(&"EdDSA".into()));
    assert!(header.get("kid").is_none_or(|key_id| key_id == "ed"), "{header:?}");
    assert!(!header.contains_key("crit") && !header.contains_key("b64"), "{header:?}");
    let known = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];
    assert!(header.get("typ").is_none_or(|typ| known.contains(&&*typ.as_str().unwrap().to_lowercase())), "{header:?}");
}

fn check_claims(claims: &Map<String, Value>, principal: &Principal) {
    assert_eq!(claims.get("iss"), Some(&ISSUER.into()), "{claims:?}");
    let audiences = match &claims["aud"] {
        Value::Array(audiences) => audiences.clone(),
        audience => vec![audience.clone()],
    };
    assert!(audiences.iter().all(Value::is_string), "{claims:?}");
    assert!(audiences.iter().any(|audience| audience == AUDIENCE || audience == "another-service"), "{claims:?}");
    #[expect(clippy::cast_precision_loss, reason = "far below 2⁵³")]
    let now = NOW as f64;
    assert!(claims["exp"].as_f64().is_some_and(|at| now < at + LEEWAY), "{claims:?}");
    assert!(claims.get("nbf").is_none_or(|at| at.as_f64().is_some_and(|at| at <= now + LEEWAY)), "{claims:?}");
    assert!(claims.get("iat").is_none_or(Value::is_number), "{claims:?}");
    assert_eq!(claims.get("custom:org_id"), Some(&principal.organization_id.as_str().into()), "{claims:?}");
    let names = match claims.get("permissions") {
        None => Vec::new(),
        Some(Value::String(names)) => names.split(' ').map(str::to_owned).collect(),
        Some(names) => names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
    };
    for permission in principal.permissions.iter() {
        let name = permission.as_str();
        let short = name.strip_prefix("PERMISSION_").unwrap();
        assert!(names.iter().any(|named| named == name || named == short), "{claims:?} gives {name}");
    }
    let subject = claims["sub"].as_str().unwrap();
    assert_eq!(principal.actor, apikey_domain::Actor::token(ISSUER, subject).unwrap(), "{claims:?}");
}

/// The text as an object whose names occur once each, counted where they are written: by their colons.
fn object(text: &[u8]) -> Option<Map<String, Value>> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let (mut colons, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b':' if !quoted => colons += 1,
            _ => {}
        }
    }
    if members(&value) != colons {
        return None;
    }
    if let Value::Object(object) = value { Some(object) } else { None }
}

/// How many members there are at every depth.
fn members(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        Value::Array(values) => values.iter().map(members).sum(),
        _ => 0,
    }
}

/// A good token's texts with up to three changes: a piece after a brace, a byte replaced, a part removed or repeated.
fn changed(recipe: &[u8]) -> Vec<u8> {
    let [choice, edits @ ..] = recipe else { return Vec::new() };
    let mut texts = if choice & 1 == 0 { GOOD } else { LEAST }.as_bytes().to_vec();
    for edit in edits.chunks_exact(3).take(usize::from(choice >> 1 & 3)) {
        let place = usize::from(edit[1]) * texts.len() / 256;
        let piece = PIECES[usize::from(edit[2]) % PIECES.len()];
        let braces: Vec<usize> = (0..texts.len()).filter(|at| matches!(texts[*at], b'{' | b',')).collect();
        match edit[0] % 4 {
            0 | 1 if !braces.is_empty() => {
                let after = braces[usize::from(edit[1]) % braces.len()] + 1;
                drop(texts.splice(after..after, piece.bytes()));
            }
            2 if place < texts.len() => texts[place] = edit[2],
            _ => {
                let end = texts.len().min(place + usize::from(edit[2] % 16));
                if edit[2] & 16 == 0 {
                    drop(texts.drain(place..end));
                } else {
                    let part = texts[place..end].to_vec();
                    drop(texts.splice(place..place, part));
                }
            }
        }
    }
    texts
}
