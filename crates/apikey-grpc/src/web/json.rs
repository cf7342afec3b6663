//! Messages as JSON, by their descriptors: proto3's JSON mapping, read more strictly where leniency could mislead.
//!
//! Refused are a field that is given twice, the name of an enum value that does not exist and, where the caller of this says so, a
//! field that the message does not have: ignoring one would change what was asked for. An error names the field; what was read as
//! its value is never repeated, since it may be a secret.

use std::{borrow::Cow, cell::RefCell, collections::HashSet, fmt};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The longest name that a field of ours could be mistyped as, in characters: less than a key has.
const LONGEST_NAME: usize = 40;

/// What becomes of fields that a message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownFields {
    /// They are ignored, so that a newer client can call an older service.
    Ignored,
    /// They are refused: a mistyped `expiresAt` would make a key that lives for ever.
    Refused,
}

/// Why a message could not be read or written, without any value of its content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    #[error("the message is not JSON in UTF-8")]
    NotUtf8,
    #[error("the message cannot be read as JSON: line {line}, column {column}")]
    Malformed { line: usize, column: usize },
    #[error("{field} {description}")]
    Field { field: String, description: String },
    #[error("the JSON is no {message}: it must be an object")]
    NoObject { message: String },
    #[error("the message cannot be written as JSON")]
    Unwritable,
}

/// Reads JSON as a message of that type, and encodes it. Nesting is bounded by `serde_json`'s own limit of 128 levels; the text's
/// length, by whoever read it.
pub(super) fn to_proto(
    descriptor: &MessageDescriptor,
    json: &[u8],
    unknown_fields: UnknownFields,
) -> Result<Bytes, JsonError> {
    let text = std::str::from_utf8(json).map_err(|_| JsonError::NotUtf8)?;
    match as_message(descriptor, read(descriptor, text, unknown_fields)?) {
        Some(message) => Ok(message.encode_to_vec().into()),
        // Read again, to find out why: what is right is not kept for it.
        None => Err(misfit(descriptor, &read(descriptor, text, unknown_fields)?, "")),
    }
}

fn read(descriptor: &MessageDescriptor, text: &str, unknown_fields: UnknownFields) -> Result<Value, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let reading = Reading { unknown_fields, fault: RefCell::new(None) };
    let value = Fields { message: descriptor, reading: &reading, path: "" }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let malformed = JsonError::Malformed { line: error.line(), column: error.column() };
        reading.fault.take().unwrap_or(malformed)
    })
}

/// Writes an encoded message of that type as JSON.
pub(super) fn from_proto(descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, JsonError> {
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(|_| JsonError::Unwritable)?;
    serde_json::to_vec(&message).map(Bytes::from).map_err(|_| JsonError::Unwritable)
}

fn as_message(descriptor: &MessageDescriptor, value: Value) -> Option<DynamicMessage> {
    let strict = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &strict).ok()
}

fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The well-known types have mappings of their own, and no fields in them.
fn is_well_known(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.")
}

/// The field because of which the value is not that message.
fn misfit(message: &MessageDescriptor, value: &Value, path: &str) -> JsonError {
    let no_object = || JsonError::NoObject { message: message.full_name().to_owned() };
    let Value::Object(fields) = value else { return no_object() };
    for (name, value) in fields {
        let Some(field) = find(message, name) else { continue };
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if as_message(message, Value::Object(alone)).is_some() {
            continue;
        }
        let path = joined(path, field.name());
        return match field.kind() {
            Kind::Message(inner) if !field.is_list() && value.is_object() && !is_well_known(&inner) => {
                misfit(&inner, value, &path)
            }
            _ => JsonError::Field { field: path, description: expectation(&field) },
        };
    }
    // Each field by itself is right: two of one `oneof`, say.
    no_object()
}

/// What a field's value has to be.
fn expectation(field: &FieldDescriptor) -> String {
    let value = match field.kind() {
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        Kind::Uint32 | Kind::Fixed32 => format!("a whole number from 0 to {}", u32::MAX),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => format!("a whole number from {} to {}", i64::MIN, i64::MAX),
        Kind::Uint64 | Kind::Fixed64 => format!("a whole number from 0 to {}", u64::MAX),
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Bytes => "a string in Base64".to_owned(),
        Kind::Enum(values) => format!("the name or the number of a {}", values.full_name()),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "an instant of RFC 3339, such as \"2027-01-31T00:00:00Z\"".to_owned(),
            "google.protobuf.Duration" => "a duration in seconds, such as \"1.5s\"".to_owned(),
            name => format!("a {name}"),
        },
    };
    if field.is_list() { format!("must be a list, and each element {value}") } else { format!("must be {value}") }
}

/// What is read, and the field that cannot be.
struct Reading {
    unknown_fields: UnknownFields,
    fault: RefCell<Option<JsonError>>,
}

impl Reading {
    /// Notes the field, and ends the reading.
    fn refuse<E: Error>(&self, field: String, description: &str) -> E {
        self.fault.replace(Some(JsonError::Field { field, description: description.to_owned() }));
        E::custom(description)
    }

    /// Ends the reading if fields that the message does not have are refused.
    fn meet_unknown<E: Error>(&self, message: &MessageDescriptor, path: &str, name: &str) -> Result<(), E> {
        if self.unknown_fields == UnknownFields::Ignored {
            return Ok(());
        }
        let is_a_name =
            name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let field = joined(path, if is_a_name { name } else { "(a name that is not shown)" });
        Err(self.refuse(field, &format!("is no field of {}", message.full_name())))
    }
}

/// Reads what should be a message: an object.
#[derive(Clone, Copy)]
struct Fields<'a> {
    message: &'a MessageDescriptor,
    reading: &'a Reading,
    /// The field that holds the message; empty for the outermost one.
    path: &'a str,
}

/// Reads what should be a value of that kind, however often it may occur.
struct Values<'a> {
    kind: &'a Kind,
    reading: &'a Reading,
    path: &'a str,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if is_well_known(self.message) { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Self { kind, reading, path } = self;
        match kind {
            Kind::Message(message) => Fields { message, reading, path }.deserialize(deserializer),
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
        let Self { message, reading, path } = self;
        let mut seen = HashSet::new();
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let Some(field) = find(message, &key) else {
                reading.meet_unknown(message, path, &key)?;
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let path = joined(path, field.name());
            // By number, since a field has two names.
            if !seen.insert(field.number()) {
                return Err(reading.refuse(path, "is given twice"));
            }
            let value = match field.kind() {
                Kind::Message(entry) if field.is_map() => {
                    map.next_value_seed(Entries { entry: &entry, reading, path: &path })?
                }
                kind => map.next_value_seed(Values { kind: &kind, reading, path: &path })?,
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
struct Entries<'a> {
    entry: &'a MessageDescriptor,
    reading: &'a Reading,
    path: &'a str,
}

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
        let Self { entry, reading, path } = self;
        let kind = entry.map_entry_value_field().kind();
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Values { kind: &kind, reading, path })?;
            if entries.insert(key, value).is_some() {
                return Err(reading.refuse(path.to_owned(), "has a key twice"));
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

    fn read_as(message: &str, json: &str, unknown_fields: UnknownFields) -> Result<Bytes, JsonError> {
        to_proto(&descriptor(message), json.as_bytes(), unknown_fields)
    }

    fn create(json: &str) -> Result<pb::CreateApiKeyRequest, JsonError> {
        let bytes = read_as("pidgr.v1.CreateApiKeyRequest", json, UnknownFields::Ignored)?;
        Ok(pb::CreateApiKeyRequest::decode(bytes).unwrap())
    }

    /// What is wrong with a field, in one sentence.
    fn refused(message: &str, json: &str) -> String {
        match read_as(message, json, UnknownFields::Refused) {
            Err(error @ JsonError::Field { .. }) => error.to_string(),
            other => format!("no field: {other:?}"),
        }
    }

    fn is_malformed(json: &str) -> bool {
        matches!(create(json), Err(JsonError::Malformed { .. }))
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
    fn unknown_fields_are_refused_by_name_where_they_would_be_missed() {
        let create_request = "pidgr.v1.CreateApiKeyRequest";
        assert_eq!(
            refused(create_request, r#"{"name":"x","expiresIn":"30d"}"#),
            "expiresIn is no field of pidgr.v1.CreateApiKeyRequest"
        );
        assert_eq!(
            refused("pidgr.v1.ListApiKeysRequest", r#"{"pagination":{"size":7}}"#),
            "pagination.size is no field of pidgr.v1.Pagination"
        );
        let key = "pidgr_k_0123456789012345678901234567890123456789abcdef";
        assert!(!refused(create_request, &format!(r#"{{"{key}":1}}"#)).contains("0123"), "a key is no name");
        assert!(read_as(create_request, r#"{"name":"x"}"#, UnknownFields::Refused).is_ok());
    }

    #[test]
    fn every_legal_instant_is_read_to_its_end() {
        for (text, seconds, nanos) in [
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
            ("2027-01-31T01:00:00+01:00", 1_801_353_600, 0),
        ] {
            let request = create(&format!(r#"{{"expiresAt":"{text}"}}"#)).unwrap();
            assert_eq!(request.expires_at, Some(prost_types::Timestamp { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        let create_request = "pidgr.v1.CreateApiKeyRequest";
        assert_eq!(refused(create_request, r#"{"name":"a","name":"b"}"#), "name is given twice");
        assert_eq!(refused(create_request, r#"{"keyType":1,"key_type":2}"#), "key_type is given twice");
        assert!(is_malformed(r#"{"name":"a"} {}"#));
        assert!(is_malformed(r#"{"name":"a","#));
        assert!(is_malformed(""));
        for (json, sentence) in [
            (
                r#"{"name":"a","permissions":["PERMISSION_EVERYTHING"]}"#,
                "permissions must be a list, and each element the name or the number of a pidgr.v1.Permission",
            ),
            (r#"{"keyType":"KEY_TYPE_API_KEY","name":17}"#, "name must be a string"),
            (
                r#"{"expiresAt":"2027-01-01","name":"a"}"#,
                r#"expires_at must be an instant of RFC 3339, such as "2027-01-31T00:00:00Z""#,
            ),
            (r#"{"key_type":99999999999}"#, "key_type must be the name or the number of a pidgr.v1.KeyType"),
        ] {
            assert_eq!(refused(create_request, json), sentence);
        }
        assert_eq!(
            refused("pidgr.v1.ListApiKeysRequest", r#"{"pagination":{"pageSize":"all"}}"#),
            "pagination.page_size must be a whole number from -2147483648 to 2147483647"
        );
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
        let descriptor = descriptor("pidgr.v1.CreateApiKeyRequest");
        let not_utf8 = to_proto(&descriptor, b"{\"name\":\"\xff\"}", UnknownFields::Ignored);
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
