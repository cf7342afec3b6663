//! The key parser against a reader of its own, on texts that nobody would think of. Knows the format as it is published, and
//! none of the parser's code.

#![expect(clippy::indexing_slicing, reason = "a panic is a failed test")]

use apikey_domain::{KeyPrefix, KeyType, pidgr::KEY_FORMAT};

use crate::raw_key;

const DIGITS: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECKSUM_LENGTH: usize = 6;

/// Each input twice: as a text, and as the recipe of a text that is nearly a key.
#[test]
fn key_parser() {
    bolero::check!(name = "key_parser").with_iterations(20_000).with_max_len(64).for_each(|input: &[u8]| {
        if let Ok(text) = std::str::from_utf8(input) {
            judge(text);
        }
        judge(&nearly_a_key(input));
    });
}

fn judge(text: &str) {
    let expected = key_type_of(text);
    let parsed = KEY_FORMAT.parse(text);
    assert_eq!(parsed.as_ref().ok().map(apikey_domain::PresentedKey::key_type), expected, "{text:?}");
    let Ok(parsed) = parsed else { return };
    assert!(KEY_FORMAT.claims(text), "{text:?}");
    let prefix = parsed.prefix();
    assert_eq!(prefix.as_str(), &text[..text.len() - 38], "{text:?}");
    assert_eq!(KeyPrefix::parse(prefix.as_str()), Ok(prefix));
    let again = KEY_FORMAT.parse(text).unwrap();
    assert_eq!(again.digest(), parsed.digest(), "{text:?}");
}

/// What the text is by the letter of the published format: brand, 40 digits, and a checksum that is read as a number here, where
/// the parser writes one.
fn key_type_of(text: &str) -> Option<KeyType> {
    let (key_type, body) = match text.strip_prefix("pidgr_k_") {
        Some(body) => (KeyType::ApiKey, body),
        None => (KeyType::ScimToken, text.strip_prefix("pidgr_scim_")?),
    };
    let values: Vec<u64> = body.chars().map(|digit| DIGITS.find(digit).map(|at| at as u64)).collect::<Option<_>>()?;
    let (_, checksum) = values.split_last_chunk::<CHECKSUM_LENGTH>().filter(|(rest, _)| rest.len() == 40)?;
    let checksum = checksum.iter().fold(0, |sum, digit| sum * 62 + digit);
    (checksum == u64::from(crc(&text.as_bytes()[..text.len() - CHECKSUM_LENGTH]))).then_some(key_type)
}

/// CRC-32 (ISO-HDLC), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let register = bytes.iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| (register >> 1) ^ (0xEDB8_8320 * (register & 1)))
    });
    !register
}

/// A key with up to three characters replaced, inserted or removed, and then perhaps with the checksum that suits it: no guess
/// would come past the checksum.
fn nearly_a_key(recipe: &[u8]) -> String {
    let [choice, seed, edits @ ..] = recipe else { return String::new() };
    let key_type = if choice & 1 == 0 { KeyType::ApiKey } else { KeyType::ScimToken };
    let mut text: Vec<char> = raw_key(key_type, u64::from(*seed)).expose().chars().collect();
    for edit in edits.chunks_exact(3).take(usize::from(choice >> 1 & 3)) {
        let (place, character) = (usize::from(edit[1]) % text.len(), char::from(edit[2]));
        match edit[0] % 4 {
            0 => text[place] = character,
            1 => text.insert(place, character),
            2 => drop(text.remove(place)),
            _ => text.push(character),
        }
    }
    let sealed = choice & 8 != 0;
    if sealed {
        text.truncate(text.len() - CHECKSUM_LENGTH);
        let covered: String = text.iter().collect();
        let checksum = u64::from(crc(covered.as_bytes()));
        let digit = |place: u32| DIGITS.as_bytes()[(checksum / 62_u64.pow(place) % 62) as usize];
        text.extend((0..6).rev().map(|place| char::from(digit(place))));
    }
    text.into_iter().collect()
}
