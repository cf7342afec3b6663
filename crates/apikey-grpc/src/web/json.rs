//! Messages as JSON, by their descriptors: proto3's JSON mapping, read more strictly where leniency could mislead.
//!
//! Fields that the message does not have are ignored, as Connect's clients expect. Refused are a field that is given twice and the
//! name of an enum value that does not exist: ignoring one would change what was asked for. What was read is never repeated in an
//! error, since it may be a secret.

use std::{borrow::Cow, collections::HashSet, fmt};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Why a message could not be read or written, without anything of its content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    #[error("the message is not JSON in UTF-8")]
    NotUtf8,
    #[error("the message cannot be read as JSON: line {line}, column {column}")]
    Malformed { line: usize, column: usize },
    #[error("the JSON does not fit {message}: a value has the wrong type or is out of range")]
    Mismatch { message: String },
    #[error("the message cannot be written as JSON")]
    Unwritable,
}

/// Reads JSON as a message of that type, and encodes it. Nesting is bounded by `serde_json`'s own limit of 128 levels; the text's
/// length, by whoever read it.
pub(super) fn to_proto(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Bytes, JsonError> {
    let text = std::str::from_utf8(json).map_err(|_| JsonError::NotUtf8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Fields(descriptor)
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| JsonError::Malformed { line: error.line(), column: error.column() })?;
    let strict = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), value, &strict)
        .map_err(|_| JsonError::Mismatch { message: descriptor.full_name().to_owned() })?;
    Ok(message.encode_to_vec().into())
}

/// Writes an encoded message of that type as JSON.
pub(super) fn from_proto(descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, JsonError> {
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(|_| JsonError::Unwritable)?;
    serde_json::to_vec(&message).map(Bytes::from).map_err(|_| JsonError::Unwritable)
}

/// Reads what should be a message: an object, without the fields that the message does not have.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a MessageDescriptor);

/// Reads what should be a value of that kind, however often it may occur.
struct Values<'a>(&'a Kind);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // The well-known types have mappings of their own, and no fields in them.
        if self.0.full_name().starts_with("google.protobuf.") {
            Value::deserialize(deserializer)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Kind::Message(message) => Fields(message).deserialize(deserializer),
            _ => Value::deserialize(deserializer),
        }
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Self(message) = self;
        let mut seen = HashSet::new();
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let field = message.get_field_by_json_name(&key).or_else(|| message.get_field_by_name(&key));
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // By number, since a field has two names.
            if !seen.insert(field.number()) {
                return Err(Error::custom("a field is given twice"));
            }
            let value = match field.kind() {
                Kind::Message(entry) if field.is_map() => map.next_value_seed(Entries(&entry))?,
                kind => map.next_value_seed(Values(&kind))?,
            };
            fields.insert(key.into_owned(), value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    // Of the wrong type; the message's own reader says so.

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

/// Reads what should be a map field: any keys, each once.
struct Entries<'a>(&'a MessageDescriptor);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let kind = self.0.map_entry_value_field().kind();
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.insert(key, map.next_value_seed(Values(&kind))?).is_some() {
                return Err(Error::custom("a key is given twice"));
            }
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use apikey_proto::{FILE_DESCRIPTOR_SET, pidgr::v1 as pb};
    use prost_reflect::DescriptorPool;

    use super::*;

    fn descriptor(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap().get_message_by_name(name).unwrap()
    }

    fn create(json: &str) -> Result<pb::CreateApiKeyRequest, JsonError> {
        let bytes = to_proto(&descriptor("pidgr.v1.CreateApiKeyRequest"), json.as_bytes())?;
        Ok(pb::CreateApiKeyRequest::decode(bytes).unwrap())
    }

    fn is_malformed(json: &str) -> bool {
        matches!(create(json), Err(JsonError::Malformed { .. }))
    }

    fn is_mismatch(json: &str) -> bool {
        matches!(create(json), Err(JsonError::Mismatch { .. }))
    }

    #[test]
    fn both_names_of_a_field_are_read_and_unknown_fields_ignored() {
        let request = create(
            r#"{"name":"CI","keyType":"KEY_TYPE_SCIM_TOKEN","permissions":[1,"PERMISSION_MANAGE_API_KEYS"],
                "expires_at":"2030-01-02T03:04:05.5Z","newer":{"deep":[[[1]]]}}"#,
        )
        .unwrap();
        assert_eq!(request.name, "CI");
        assert_eq!(request.key_type, pb::KeyType::ScimToken as i32);
        assert_eq!(request.permissions, [1, 1000]);
        assert_eq!(request.expires_at, Some(prost_types::Timestamp { seconds: 1_893_553_445, nanos: 500_000_000 }));
        assert_eq!(create("{}").unwrap(), pb::CreateApiKeyRequest::default());
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        assert!(is_malformed(r#"{"name":"a","name":"b"}"#));
        assert!(is_malformed(r#"{"keyType":1,"key_type":2}"#));
        assert!(is_malformed(r#"{"name":"a"} {}"#));
        assert!(is_malformed(r#"{"name":"a","#));
        assert!(is_malformed(""));
        assert!(is_mismatch(r#"{"permissions":["PERMISSION_EVERYTHING"]}"#));
        assert!(is_mismatch(r#"{"name":17}"#));
        assert!(is_mismatch(r#"{"expiresAt":"tomorrow"}"#));
        assert!(is_mismatch(r#"{"keyType":99999999999}"#));
        for json in ["[]", "1", "\"name\"", "true", "null", "-1", "1.5"] {
            assert!(create(json).is_err(), "{json}");
        }
    }

    #[test]
    fn depth_and_encoding_are_bounded() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(is_malformed(&deep));
        assert!(is_malformed(&format!(r#"{{"expiresAt":{deep}}}"#)));
        assert!(is_malformed(&format!(r#"{{"permissions":{deep}}}"#)));
        // What is ignored is skipped without recursion.
        assert_eq!(create(&format!(r#"{{"newer":{deep}}}"#)), Ok(pb::CreateApiKeyRequest::default()));
        let not_utf8 = to_proto(&descriptor("pidgr.v1.CreateApiKeyRequest"), b"{\"name\":\"\xff\"}");
        assert_eq!(not_utf8, Err(JsonError::NotUtf8));
    }

    #[test]
    fn nothing_that_was_read_is_repeated_in_an_error() {
        for json in
            [r#"{"permissions":["pidgr_k_secret"]}"#, r#"{"name":"pidgr_k_secret"#, r#"{"keyType":"pidgr_k_secret"}"#]
        {
            let error = create(json).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn absent_fields_stay_absent() {
        let key = pb::ApiKey {
            id: "1".to_owned(),
            created_at: Some(prost_types::Timestamp { seconds: 1_893_553_445, nanos: 1_000 }),
            key_type: 1,
            permissions: vec![1000, 77],
            ..pb::ApiKey::default()
        };
        let json = from_proto(&descriptor("pidgr.v1.ApiKey"), key.encode_to_vec().into()).unwrap();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            r#"{"id":"1","permissions":["PERMISSION_MANAGE_API_KEYS",77],"createdAt":"2030-01-02T03:04:05.000001Z","keyType":"KEY_TYPE_API_KEY"}"#
        );
        assert_eq!(from_proto(&descriptor("pidgr.v1.ApiKey"), Bytes::from_static(b"\xff")), Err(JsonError::Unwritable));
    }
}
