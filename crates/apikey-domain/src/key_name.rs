//! A key's human-readable name, stored as it was sent or refused with a reason.

use std::{fmt, ops::RangeInclusive};

/// A human-readable name: 1 to 200 characters (Unicode scalar values), not blank, stored as sent.
///
/// Refused are characters that make a name look like something that it is not: control characters (general category
/// Cc), line and paragraph separators, bidirectional controls, and default-ignorable code points other than the two
/// joiners and the two emoji variation selectors. A name of nothing visible (white space, joiners and selectors alone) is
/// blank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(Box<str>);

/// The text cannot be a key's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyNameError {
    /// There is nothing to see in it.
    #[error("must not be blank")]
    Blank,
    /// It has more than 200 characters.
    #[error("must have at most {max} characters, has {length}", max = KeyName::MAX_LENGTH)]
    TooLong {
        /// How many characters it has.
        length: usize,
    },
    /// It holds a character that names must not hold.
    #[error("must not hold the character U+{:04X} (character {position})", u32::from(*.character))]
    Forbidden {
        /// The first such character.
        character: char,
        /// Its place, counted in characters from 1.
        position: usize,
    },
}

impl KeyName {
    /// The longest name, in Unicode scalar values (from the published reference of `CreateApiKeyRequest.name`).
    pub const MAX_LENGTH: usize = 200;

    /// Accepts a legal name, unchanged.
    ///
    /// # Errors
    /// [`KeyNameError`] says what is wrong: first the length, then a forbidden character, then blankness.
    pub fn parse(text: &str) -> Result<Self, KeyNameError> {
        let length = text.chars().count();
        if length > Self::MAX_LENGTH {
            return Err(KeyNameError::TooLong { length });
        }
        if let Some((index, character)) = text.chars().enumerate().find(|(_, character)| is_forbidden(*character)) {
            return Err(KeyNameError::Forbidden { character, position: index + 1 });
        }
        if text.chars().all(|character| character.is_whitespace() || ALLOWED_IGNORABLE.contains(&character)) {
            return Err(KeyNameError::Blank);
        }
        Ok(Self(text.into()))
    }

    /// The name as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Zero-width non-joiner and joiner, which several scripts and emoji sequences need, and the emoji variation selectors.
const ALLOWED_IGNORABLE: [char; 4] = ['\u{200C}', '\u{200D}', '\u{FE0E}', '\u{FE0F}'];

/// Bidirectional controls (Unicode property `Bidi_Control`), line and paragraph separators, and the code points of
/// `Default_Ignorable_Code_Point` in Unicode 16.0 (`DerivedCoreProperties.txt`), neighbouring ranges joined.
const FORBIDDEN: [RangeInclusive<char>; 17] = [
    '\u{00AD}'..='\u{00AD}',
    '\u{034F}'..='\u{034F}',
    '\u{061C}'..='\u{061C}',
    '\u{115F}'..='\u{1160}',
    '\u{17B4}'..='\u{17B5}',
    '\u{180B}'..='\u{180F}',
    '\u{200B}'..='\u{200F}',
    '\u{2028}'..='\u{202E}',
    '\u{2060}'..='\u{206F}',
    '\u{3164}'..='\u{3164}',
    '\u{FE00}'..='\u{FE0F}',
    '\u{FEFF}'..='\u{FEFF}',
    '\u{FFA0}'..='\u{FFA0}',
    '\u{FFF0}'..='\u{FFF8}',
    '\u{1BCA0}'..='\u{1BCA3}',
    '\u{1D173}'..='\u{1D17A}',
    '\u{E0000}'..='\u{E0FFF}',
];

fn is_forbidden(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    character.is_control()
        || (!ALLOWED_IGNORABLE.contains(&character) && FORBIDDEN.iter().any(|range| range.contains(&character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_are_kept_to_the_byte() {
        for legal in [
            "CI Integration",
            " padded ",
            "naïve",
            "日本語",
            "می\u{200C}خواهم",
            "👩\u{200D}🚀 ❤\u{FE0F} ☂\u{FE0E}",
            "e\u{301}",
            "Robert'); DROP TABLE api_keys;--",
            &"𐍈".repeat(200),
        ] {
            assert_eq!(KeyName::parse(legal).map(|name| name.to_string()), Ok(legal.to_owned()));
        }
    }

    #[test]
    fn names_without_anything_visible_are_blank() {
        for blank in ["", " ", "\u{3000}\u{00A0}", "\u{200D}", " \u{FE0F} "] {
            assert_eq!(KeyName::parse(blank), Err(KeyNameError::Blank), "{blank:?}");
        }
    }

    #[test]
    fn each_forbidden_range_is_refused_at_both_ends_and_the_place_is_told() {
        let controls = ['\0', '\u{1f}', '\u{7f}', '\u{80}', '\u{9f}', '\n', '\t'];
        let deceptive = [
            '\u{AD}',
            '\u{34F}',
            '\u{61C}',
            '\u{1160}',
            '\u{17B4}',
            '\u{180E}',
            '\u{200B}',
            '\u{200E}',
            '\u{200F}',
            '\u{2028}',
            '\u{2029}',
            '\u{202A}',
            '\u{202E}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{FE00}',
            '\u{FEFF}',
            '\u{FFA0}',
            '\u{FFF0}',
            '\u{1BCA0}',
            '\u{1D173}',
            '\u{E0001}',
            '\u{E007F}',
            '\u{E0FFF}',
        ];
        assert!(deceptive.into_iter().all(is_forbidden));
        let ends = FORBIDDEN.iter().flat_map(|range| [*range.start(), *range.end()]);
        for character in controls.into_iter().chain(deceptive).chain(ends) {
            let outcome = KeyName::parse(&format!("ab{character}"));
            if ALLOWED_IGNORABLE.contains(&character) {
                assert!(outcome.is_ok(), "{character:?}");
            } else {
                assert_eq!(outcome, Err(KeyNameError::Forbidden { character, position: 3 }));
            }
        }
    }

    /// By Unicode's own tables, as the crate `regex-syntax` has them: every character there is, alone beside a visible one.
    #[test]
    fn what_is_forbidden_is_what_the_properties_say() {
        use regex_syntax::hir::{Class, HirKind};

        let properties = r"[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}]";
        let forbidden = regex_syntax::parse(properties).unwrap();
        let HirKind::Class(Class::Unicode(class)) = forbidden.kind() else { panic!("{forbidden:?}") };
        let mut expected: Vec<char> = class.iter().flat_map(|range| range.start()..=range.end()).collect();
        expected.retain(|character| !['\u{200C}', '\u{200D}', '\u{FE0E}', '\u{FE0F}'].contains(character));
        let refused: Vec<char> =
            ('\0'..=char::MAX).filter(|character| KeyName::parse(&format!("a{character}")).is_err()).collect();
        assert_eq!(refused.len(), expected.len());
        assert_eq!(refused, expected);
    }

    #[test]
    fn the_length_is_counted_in_scalar_values() {
        assert!(KeyName::parse(&"x".repeat(200)).is_ok());
        assert_eq!(KeyName::parse(&"😀".repeat(201)), Err(KeyNameError::TooLong { length: 201 }));
    }

    #[test]
    fn errors_name_the_character_and_never_print_it() {
        let error = KeyName::parse("a\u{202E}b").unwrap_err();
        assert_eq!(error.to_string(), "must not hold the character U+202E (character 2)");
    }
}
