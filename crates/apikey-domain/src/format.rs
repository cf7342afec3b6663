//! What a key looks like: brand, public part, secret and checksum; how it is made, read and digested.
//!
//! A raw key exists here only inside [`RawKey`] and, borrowed, inside [`PresentedKey`]; neither can be printed.

use std::fmt;

use blake3::{
    Hasher,
    hazmat::{ContextKey, HasherExt as _, hash_derive_key_context},
};
use zeroize::Zeroizing;

use crate::KeyType;

/// The digits of base 62, in the order of their values.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Public characters after the brand; with the brand they are the key's prefix.
const PUBLIC_LENGTH: usize = 8;
/// Secret characters: 32 × log2(62) = 190 bits.
const SECRET_LENGTH: usize = 32;
/// Digits of the checksum: 62⁶ > 2³².
const CHECKSUM_LENGTH: usize = 6;
/// Everything after the brand.
const BODY_LENGTH: usize = PUBLIC_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH;

/// The format of one product's keys: a brand for each type of key, and the context of the digest.
///
/// ```text
/// pidgr_k_  Ab3dE6gH  x9…32 characters…Qz  0aB9cD
/// brand     public    secret               checksum
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    digest_context: &'static str,
    /// The context as BLAKE3 takes it in, where that was done in advance.
    context_key: Option<ContextKey>,
    api_key: &'static str,
    scim_token: &'static str,
}

impl KeyFormat {
    /// The longest brand, in characters.
    pub const MAX_BRAND_LENGTH: usize = 32;

    /// A format with these brands. The context separates these digests from all others that BLAKE3 makes of the same
    /// text; it should be unique to the product and must never change while keys exist.
    ///
    /// # Panics
    /// Where the context is empty, or a brand is not 2 to 32 characters of `a-z`, `0-9` and `_` that end in `_`, or one
    /// brand starts with the other. In a constant, that is an error of the compiler.
    #[must_use]
    pub const fn new(
        digest_context: &'static str,
        api_key_brand: &'static str,
        scim_token_brand: &'static str,
    ) -> Self {
        assert!(!digest_context.is_empty(), "a digest needs a context");
        assert!(is_brand(api_key_brand.as_bytes()) && is_brand(scim_token_brand.as_bytes()), "not a brand");
        assert!(
            !starts_with(api_key_brand.as_bytes(), scim_token_brand.as_bytes())
                && !starts_with(scim_token_brand.as_bytes(), api_key_brand.as_bytes()),
            "one brand starts with the other"
        );
        Self { digest_context, context_key: None, api_key: api_key_brand, scim_token: scim_token_brand }
    }

    /// The same format with a faster digest, for whoever digests many keys: the part of the work that depends on the context
    /// alone, which is half of it, is done here and once.
    #[must_use]
    pub fn prepared(self) -> Self {
        Self { context_key: Some(hash_derive_key_context(self.digest_context)), ..self }
    }

    /// The brand of that type's keys.
    #[must_use]
    pub const fn brand(&self, key_type: KeyType) -> &'static str {
        match key_type {
            KeyType::ApiKey => self.api_key,
            KeyType::ScimToken => self.scim_token,
        }
    }

    /// Whether the text starts with one of the brands, so that it was meant as a key of this format.
    #[must_use]
    pub fn claims(&self, text: &str) -> bool {
        KeyType::ALL.into_iter().any(|key_type| text.starts_with(self.brand(key_type)))
    }

    /// Whether a key of this format stands anywhere in the text, such as one that was pasted where a name belongs.
    #[must_use]
    pub fn occurs_in(&self, text: &str) -> bool {
        KeyType::ALL.into_iter().any(|key_type| {
            let brand = self.brand(key_type);
            let candidate = |start: usize| text.get(start..start + brand.len() + BODY_LENGTH);
            text.match_indices(brand).filter_map(|(start, _)| candidate(start)).any(|text| self.parse(text).is_ok())
        })
    }

    /// Makes a new key. `entropy` fills the given buffer with random bytes; bytes that would bias the digits are thrown
    /// away.
    ///
    /// # Errors
    /// Whatever `entropy` fails with.
    pub fn generate<E>(
        &self,
        key_type: KeyType,
        entropy: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<RawKey, E> {
        let brand = self.brand(key_type);
        let mut text = Zeroizing::new(String::with_capacity(brand.len() + BODY_LENGTH));
        text.push_str(brand);
        let mut buffer = Zeroizing::new([0_u8; 64]);
        while text.len() < brand.len() + PUBLIC_LENGTH + SECRET_LENGTH {
            entropy(buffer.as_mut_slice())?;
            // Six random bits are a digit, or are drawn again: 62 and 63 have no digit, so that each digit is as likely.
            let digits = buffer.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 0x3F)));
            let missing = brand.len() + PUBLIC_LENGTH + SECRET_LENGTH - text.len();
            text.extend(digits.take(missing).map(|digit| char::from(*digit)));
        }
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        let digest = self.digest(&text);
        let prefix = KeyPrefix(text.get(..brand.len() + PUBLIC_LENGTH).unwrap_or_default().into());
        Ok(RawKey { text, key_type, prefix, digest })
    }

    /// Reads a key that somebody presents. Exactly one spelling is accepted: nothing is trimmed, re-cased or padded.
    ///
    /// Costs one pass over at most `MAX_BRAND_LENGTH + 46` bytes, and no I/O: typos, truncations and guesses end here.
    ///
    /// # Errors
    /// [`MalformedKey`] says which part is wrong.
    pub fn parse<'a>(&'a self, text: &'a str) -> Result<PresentedKey<'a>, MalformedKey> {
        let (key_type, body) = KeyType::ALL
            .into_iter()
            .find_map(|key_type| Some((key_type, text.strip_prefix(self.brand(key_type))?)))
            .ok_or(MalformedKey::Brand)?;
        if body.len() != BODY_LENGTH {
            return Err(MalformedKey::Length);
        }
        // All bytes, whatever the first ones are: random characters would have a processor guess wrong at every other one.
        if !body.bytes().fold(true, |all, byte| all & byte.is_ascii_alphanumeric()) {
            return Err(MalformedKey::Alphabet);
        }
        let (covered, digits) = text.split_at(text.len() - CHECKSUM_LENGTH);
        if checksum(covered.as_bytes()) != *digits.as_bytes() {
            return Err(MalformedKey::Checksum);
        }
        Ok(PresentedKey { format: self, text, key_type })
    }

    fn digest(&self, text: &str) -> KeyDigest {
        KeyDigest(match &self.context_key {
            Some(context_key) => Hasher::new_from_context_key(context_key).update(text.as_bytes()).finalize().into(),
            None => blake3::derive_key(self.digest_context, text.as_bytes()),
        })
    }
}

const fn is_brand(mut brand: &[u8]) -> bool {
    if brand.len() < 2 || brand.len() > KeyFormat::MAX_BRAND_LENGTH || !matches!(brand.last(), Some(b'_')) {
        return false;
    }
    while let [byte, rest @ ..] = brand {
        if !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_') {
            return false;
        }
        brand = rest;
    }
    true
}

const fn starts_with(mut text: &[u8], mut start: &[u8]) -> bool {
    while let [expected, start_rest @ ..] = start {
        match text {
            [byte, text_rest @ ..] if *byte == *expected => text = text_rest,
            _ => return false,
        }
        start = start_rest;
    }
    true
}

/// CRC-32 (ISO-HDLC) in base 62, most significant digit first, padded with zeros.
fn checksum(covered: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(covered);
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits
}

/// A key that was just made: shown once, then forgotten.
///
/// It cannot be printed, compared, copied or serialized, and its memory is zeroized on drop.
///
/// ```compile_fail
/// # use apikey_domain::{pidgr::KEY_FORMAT, KeyType};
/// let raw_key = KEY_FORMAT.generate(KeyType::ApiKey, &mut |_: &mut [u8]| Ok::<_, ()>(())).unwrap();
/// println!("{raw_key:?}");
/// ```
pub struct RawKey {
    text: Zeroizing<String>,
    key_type: KeyType,
    prefix: KeyPrefix,
    digest: KeyDigest,
}

impl RawKey {
    /// The whole key, for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What the key is for.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The part that may be shown: brand and public characters.
    #[must_use]
    pub const fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// What is stored in the key's place.
    #[must_use]
    pub const fn digest(&self) -> &KeyDigest {
        &self.digest
    }
}

/// A well-formed key that somebody presented; nothing says that it was ever issued.
pub struct PresentedKey<'a> {
    format: &'a KeyFormat,
    text: &'a str,
    key_type: KeyType,
}

impl PresentedKey<'_> {
    /// The type that its brand claims.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The part that may be shown: brand and public characters.
    #[must_use]
    pub fn prefix(&self) -> KeyPrefix {
        KeyPrefix(self.text.get(..self.text.len() - SECRET_LENGTH - CHECKSUM_LENGTH).unwrap_or_default().into())
    }

    /// The digest under which the key is looked up.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        self.format.digest(self.text)
    }
}

/// Why a text is not a key. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// It starts with none of the brands.
    #[error("does not start with a known brand")]
    Brand,
    /// It is cut or extended.
    #[error("has the wrong length")]
    Length,
    /// It holds a character outside `0-9A-Za-z` after the brand.
    #[error("holds a character outside 0-9A-Za-z")]
    Alphabet,
    /// It was mistyped or guessed.
    #[error("has the wrong checksum")]
    Checksum,
}

/// What is stored in a key's place: its 32-byte BLAKE3 digest in derive-key mode.
///
/// A key is 190 random bits, so that its digest needs no salt and no slow hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// A digest as it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes, for storing and looking up.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(f, "KeyDigest({first:02x}{second:02x}{third:02x}{fourth:02x}…)")
    }
}

/// The part of a key that identifies it to people: brand and public characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Box<str>);

/// The text is not a key's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is a brand and {PUBLIC_LENGTH} characters of 0-9A-Za-z")]
pub struct InvalidKeyPrefix;

impl KeyPrefix {
    /// Accepts a prefix of any product's keys: adapters read what they once stored, whatever the format is today.
    ///
    /// # Errors
    /// [`InvalidKeyPrefix`] for every other text.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyPrefix> {
        let (brand, public) = text
            .len()
            .checked_sub(PUBLIC_LENGTH)
            .and_then(|place| text.split_at_checked(place))
            .ok_or(InvalidKeyPrefix)?;
        let legal = is_brand(brand.as_bytes()) && public.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if legal { Ok(Self(text.into())) } else { Err(InvalidKeyPrefix) }
    }

    /// The prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidgr::KEY_FORMAT;

    /// The published test vector.
    const VECTOR: &str = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk";

    #[test]
    fn the_published_vector_is_a_key() {
        let presented = KEY_FORMAT.parse(VECTOR).unwrap();
        assert_eq!(presented.key_type(), KeyType::ApiKey);
        assert_eq!(presented.prefix().as_str(), "pidgr_k_Ab3dE6gH");
    }

    #[test]
    fn the_digest_never_changes() {
        // Stored digests are looked up for ever: a change here would disown every key that was ever issued.
        let published = "5b972a875c61dcd39be2d3f6bd849c899a5b20da4a4d2e0e482e5a9b64253257";
        for format in [KEY_FORMAT, KEY_FORMAT.prepared()] {
            let digest = format.parse(VECTOR).unwrap().digest();
            assert_eq!(blake3::Hash::from_bytes(*digest.as_bytes()).to_hex().as_str(), published);
        }
        assert!(KEY_FORMAT.prepared().context_key.is_some(), "half of the work is done already");
    }

    #[test]
    fn each_way_to_spell_a_key_wrongly_is_told() {
        let re_cased = VECTOR.replace("Ab3dE6gH", "aB3De6Gh");
        for (text, expected) in [
            (String::new(), MalformedKey::Brand),
            (VECTOR.replace("pidgr_k_", "pidgr_x_"), MalformedKey::Brand),
            (VECTOR.replace("pidgr_k_", "PIDGR_K_"), MalformedKey::Brand),
            (format!(" {VECTOR}"), MalformedKey::Brand),
            (format!("{VECTOR} "), MalformedKey::Length),
            (format!("{VECTOR}\n"), MalformedKey::Length),
            (format!("{VECTOR}0"), MalformedKey::Length),
            (VECTOR[..VECTOR.len() - 1].to_owned(), MalformedKey::Length),
            (VECTOR.replace("pidgr_k_", "pidgr_scim_"), MalformedKey::Checksum),
            (VECTOR.replace('V', "-"), MalformedKey::Alphabet),
            (VECTOR.replace("UV", "é"), MalformedKey::Alphabet),
            (re_cased, MalformedKey::Checksum),
            (VECTOR.replace("3z4Fwk", "3z4Fwl"), MalformedKey::Checksum),
        ] {
            assert_eq!(KEY_FORMAT.parse(&text).err(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn digits_are_drawn_without_bias() {
        // Entropy that yields each byte value once: every digit must come out equally often.
        let mut next = 0_u8;
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..62 {
            let mut entropy = |buffer: &mut [u8]| {
                for byte in buffer {
                    *byte = next;
                    next = next.wrapping_add(1);
                }
                Ok::<_, ()>(())
            };
            let raw_key = KEY_FORMAT.generate(KeyType::ApiKey, &mut entropy).unwrap();
            for digit in raw_key.expose()[8..48].bytes() {
                *counts.entry(digit).or_insert(0) += 1;
            }
        }
        assert_eq!(counts.len(), 40, "the first 40 digits of each 64 bytes: {counts:?}");
        assert!(counts.values().all(|count| *count == 62), "{counts:?}");
    }

    #[test]
    fn bytes_without_a_digit_are_drawn_again() {
        // 30 digits, then 20: the lower six bits of a byte are its digit, and 0x3F is none.
        let mut draws = [30, 20].into_iter();
        let mut entropy = |buffer: &mut [u8]| {
            buffer.fill(0xFF);
            buffer[..draws.next().ok_or("two draws hold enough digits")?].fill(0xC1);
            Ok::<_, &str>(())
        };
        let raw_key = KEY_FORMAT.generate(KeyType::ApiKey, &mut entropy).unwrap();
        assert!(raw_key.expose()[8..48] == char::from(ALPHABET[1]).to_string().repeat(40));
        assert!(KEY_FORMAT.parse(raw_key.expose()).is_ok());
    }

    #[test]
    fn a_format_claims_what_starts_with_one_of_its_brands() {
        assert!(KEY_FORMAT.claims("pidgr_k_") && KEY_FORMAT.claims("pidgr_scim_x"));
        assert!(!KEY_FORMAT.claims("") && !KEY_FORMAT.claims("other_k_") && !KEY_FORMAT.claims(" pidgr_k_"));
    }

    #[test]
    fn a_brand_has_2_to_32_characters_and_ends_in_an_underscore() {
        let longest = format!("{}_", "a".repeat(31));
        assert!(is_brand(b"a_") && is_brand(b"__") && is_brand(b"a_9_") && is_brand(longest.as_bytes()));
        let too_long = format!("a{longest}");
        for illegal in ["", "_", "a", "ab", "A_", "-_", too_long.as_str()] {
            assert!(!is_brand(illegal.as_bytes()), "{illegal:?}");
        }
    }

    #[test]
    fn a_text_starts_with_its_beginnings_and_nothing_else() {
        assert!(starts_with(b"ab_", b"") && starts_with(b"ab_", b"ab") && starts_with(b"ab_", b"ab_"));
        assert!(!starts_with(b"ab_", b"b") && !starts_with(b"ab_", b"ac") && !starts_with(b"ab_", b"ab_c"));
    }

    #[test]
    fn a_digest_shows_only_its_first_bytes() {
        assert_eq!(format!("{:?}", KeyDigest([0xAB; 32])), "KeyDigest(abababab…)");
    }

    #[test]
    fn prefixes_of_any_brand_are_read_back_and_nothing_else() {
        assert_eq!(KeyPrefix::parse("acme_01234567").unwrap().to_string(), "acme_01234567");
        for illegal in ["", "01234567", "acme01234567", "acme_0123456", "acme_0123456é", "Acme_01234567", "é_01234567"]
        {
            assert_eq!(KeyPrefix::parse(illegal), Err(InvalidKeyPrefix), "{illegal:?}");
        }
    }
}
