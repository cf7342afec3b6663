//! Values as shells, containers and secret stores deliver them: with a line break at the end, in quotes, empty.
//!
//! One rule for every setting, wherever its value comes from.

use super::accepts::Accepts;

/// Written in front of UTF-8 by editors on Windows.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The longest name that is shown, in bytes: more than any setting's variable has, and less than a key.
const LONGEST_NAME: usize = 40;

/// The value without a byte order mark and without white space at either end, which no setting needs.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c == BYTE_ORDER_MARK || c.is_whitespace())
}

/// The text without a byte order mark.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// A name that is no setting's, unless it could be a secret that stands where a name belongs.
pub(super) fn shown_name(name: &str) -> &str {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_name && name.len() <= LONGEST_NAME { name } else { "a name that could be a secret (not shown)" }
}

/// What delivery did to a value that makes it useless. Completes the sentence "`APIKEYS_DATABASE_URL` …" and shows none of the value.
pub(super) fn damage(accepts: Accepts, text: &str) -> Option<&'static str> {
    if is_quoted(text) {
        return Some("is in quotes, which are part of the value: remove them (docker's --env-file keeps quotes)");
    }
    if accepts.accepts(text) {
        return None;
    }
    if text.is_empty() {
        return Some("is empty");
    }
    let is_url = matches!(accepts, Accepts::Url(_));
    if !is_url && !matches!(accepts, Accepts::VisibleAscii { .. }) {
        return None;
    }
    if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        return Some("starts or ends with a quotation mark, which is part of the value: remove it");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("has a line break, a space or a control character inside");
    }
    if !text.is_ascii() {
        let encode = "has a character that is not ASCII: percent-encode it (ä is %C3%A4)";
        return Some(if is_url { encode } else { "has a character that is not ASCII" });
    }
    None
}

fn is_quoted(text: &str) -> bool {
    ['"', '\''].iter().any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: Accepts = Accepts::Url(&["postgres://"]);

    #[test]
    fn white_space_and_a_byte_order_mark_are_no_part_of_a_value() {
        for text in ["x", "x\n", "x\r\n", " x", "\tx ", "\u{feff}x\r\n", "\n\u{feff} x"] {
            assert_eq!(trimmed(text), "x", "{text:?}");
        }
        assert_eq!(trimmed(" \n"), "");
        assert_eq!(trimmed("a b"), "a b");
    }

    #[test]
    fn a_name_that_could_be_a_secret_is_not_shown() {
        for setting in crate::config::SETTINGS {
            assert_eq!(shown_name(&setting.variable()), setting.variable());
        }
        let key = "pidgr_k_0123456789abcdefghijklmnopqrstuvwxyz";
        for name in [key, "postgres://u:p@h/d", "APIKEYS_A B"] {
            assert!(shown_name(name).contains("not shown"), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_trimmed_is_named() {
        let token = Accepts::VisibleAscii { min: 2, max: 512 };
        for (accepts, text, named) in [
            (URL, "\"postgres://h/d\"", Some("in quotes")),
            (URL, "'postgres://h/d'", Some("in quotes")),
            (token, "\"0123456789\"", Some("in quotes")),
            (Accepts::Path, "\"/var/lib\"", Some("in quotes")),
            (URL, "\"postgres://h/d", Some("quotation mark")),
            (URL, "postgres://u:p w@h/d", Some("a space")),
            (URL, "postgres://h/d\npostgres://h/d", Some("line break")),
            (URL, "postgres://u:pässwörd@h/d", Some("percent-encode")),
            (token, "tökentöken", Some("not ASCII")),
            (token, "", Some("is empty")),
            (URL, "postgres://h/d", None),
            (URL, "mysql://h/d", None),
            (token, "\"", Some("quotation mark")),
            (Accepts::Flag, "yes", None),
        ] {
            let damage = damage(accepts, text);
            assert_eq!(damage.is_some(), named.is_some(), "{text}: {damage:?}");
            assert!(damage.unwrap_or_default().contains(named.unwrap_or_default()), "{text}: {damage:?}");
        }
    }
}
