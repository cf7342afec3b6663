//! Second opinions on JSON and frames, plain and slow. Must use nothing of the code that they judge.

use std::fmt;

use apikey_proto::pidgr::v1 as pb;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// The complete messages of uncompressed frames, and whether nothing stands before, between or after them.
pub(super) fn messages(mut bytes: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut messages = Vec::new();
    while bytes.len() >= 5 && bytes[0] == 0 {
        let length = bytes[1..5].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if bytes.len() - 5 < length {
            break;
        }
        messages.push(bytes[5..5 + length].to_vec());
        bytes = &bytes[5 + length..];
    }
    (messages, bytes.is_empty())
}

/// Whether the bytes are JSON in UTF-8, of any depth.
pub(super) fn is_well_formed(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Checks that the text names each field once at most, by whichever name, and that the request says the same.
pub(super) fn check_create_request(text: &[u8], request: &pb::CreateApiKeyRequest) {
    // Depth that is ignored there is refused here.
    let Ok(Members(members)) = serde_json::from_slice(text) else { return };
    let shown = String::from_utf8_lossy(text);
    let field = |names: [&str; 2]| {
        let mut values = members.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value);
        let value = values.next();
        assert!(values.next().is_none(), "{} is given twice: {shown}", names[0]);
        value.filter(|value| !value.is_null())
    };
    let name = field(["name", "name"]).map_or("", |name| name.as_str().unwrap());
    assert_eq!(request.name, name, "{shown}");
    let key_type = field(["keyType", "key_type"])
        .map_or(0, |key_type| number(key_type, |name| pb::KeyType::from_str_name(name).map(Into::into)));
    assert_eq!(request.key_type, key_type, "{shown}");
    let permissions = field(["permissions", "permissions"]).map(|names| {
        let names = names.as_array().unwrap().iter();
        names.map(|name| number(name, |name| pb::Permission::from_str_name(name).map(Into::into))).collect()
    });
    assert_eq!(request.permissions, permissions.unwrap_or_else(Vec::new), "{shown}");
    assert_eq!(request.expires_at.is_some(), field(["expiresAt", "expires_at"]).is_some(), "{shown}");
}

/// An enum's value: its name or its number, as proto3's JSON mapping has it.
fn number(value: &Value, named: impl FnOnce(&str) -> Option<i32>) -> i32 {
    match value {
        Value::String(name) => named(name).or_else(|| name.parse().ok()).unwrap(),
        #[expect(clippy::cast_possible_truncation, reason = "compared with the original at once")]
        value => {
            let given = value.as_f64().unwrap();
            let number = given as i32;
            assert!((f64::from(number) - given).abs() < f64::EPSILON, "{given} is not that number");
            number
        }
    }
}

/// An object's members as they are written, each as often as it is written.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}
