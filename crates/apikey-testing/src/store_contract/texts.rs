//! Contract: texts are kept to the byte, whatever SQL, C or Unicode would make of them.

use apikey_application::ports::{CommitError, KeyStore, StoreError};
use apikey_domain::{Actor, KeyName, pidgr};

use super::{AuditRow, StoreUnderTest, commit, everything, listing, stored};
use crate::fixtures::{a_key, a_key_with, a_person, an_organization, issue, permissions, seconds_later};

pub async fn every_legal_class_of_name_is_kept_to_the_byte(under_test: &impl StoreUnderTest) {
    let names = [
        "x".to_owned(),
        "CI Integration".to_owned(),
        " padded with spaces ".to_owned(),
        "\u{3000}ideographic\u{A0}and no-break".to_owned(),
        "Robert'); DROP TABLE api_keys;--".to_owned(),
        r#"quotes " ' ` and \ backslash \0 \x00 \n"#.to_owned(),
        "% _ ? $1 :name @p ?1 {} [] /* */ -- #".to_owned(),
        "NULL".to_owned(),
        "0".to_owned(),
        "1e999".to_owned(),
        "naïve".to_owned(),
        "nai\u{308}ve".to_owned(),
        "日本語のキー".to_owned(),
        "مفتاح".to_owned(),
        "می\u{200C}خواهم".to_owned(),
        "👩\u{200D}🚀 ❤\u{FE0F} ☂\u{FE0E}".to_owned(),
        "e\u{301}\u{302}\u{303}".to_owned(),
        "\u{FFFD} \u{E000} \u{10FFFD}".to_owned(),
        "\u{FFFE}\u{FFFF}\u{1FFFE}".to_owned(),
        "ﬁ ß İ ı ſ".to_owned(),
        "😀".repeat(200),
        "𐍈".repeat(KeyName::MAX_LENGTH),
        "é".repeat(KeyName::MAX_LENGTH),
        "x".repeat(KeyName::MAX_LENGTH),
    ];
    for (seed, name) in (1..).zip(&names) {
        let key = a_key_with(seed, |parts| {
            parts.name = KeyName::parse(name).expect("a legal name");
            parts.created_at = seconds_later(seed);
        });
        commit(under_test, issue(&key)).await;
        assert_eq!(stored(under_test, &key).await, Some(key), "{name:?}");
    }
    let all = listing(under_test, &an_organization(), None, 5).await;
    let listed = all.iter().rev().map(|key| key.parts().name.as_str());
    assert!(listed.eq(names.iter().map(String::as_str)));
}

pub async fn no_illegal_name_reaches_a_store(under_test: &impl StoreUnderTest) {
    // A commit takes a `KeyName`, and there is none of these: the type is what keeps them out of every store.
    let too_long = "😀".repeat(KeyName::MAX_LENGTH + 1);
    for illegal in [
        "",
        "   ",
        "\u{3000}\u{2003}",
        "\u{200D}\u{FE0F}",
        "nul\0nul",
        "line\nfeed",
        "tab\tulator",
        "delete\u{7F}",
        "next\u{85}line",
        "line\u{2028}separator",
        "paragraph\u{2029}separator",
        "bidi\u{202E}override",
        "bidi\u{2066}isolate",
        "mark\u{200E}",
        "zero\u{200B}width",
        "soft\u{AD}hyphen",
        "byte order\u{FEFF}mark",
        "tag\u{E0041}",
        "selector\u{FE00}",
        "filler\u{3164}",
        &too_long,
    ] {
        KeyName::parse(illegal).expect_err(illegal);
    }
    assert_eq!(under_test.row_counts().await, super::RowCounts::default());
}

pub async fn an_actor_is_kept_to_the_byte(under_test: &impl StoreUnderTest) {
    let actors = [
        Actor::operator(),
        Actor::api_key(a_key(99).id()),
        a_person("alice"),
        a_person("o'Hara \"the\" %_\\ 日本語 😀"),
        a_person(&"x".repeat(Actor::MAX_LENGTH)),
        a_person(" "),
    ];
    for (seed, actor) in (1..).zip(actors) {
        let key = a_key(seed);
        let mut issued = issue(&key);
        issued.events[0].actor = actor;
        let expected: Vec<AuditRow> = issued.events.iter().map(AuditRow::from).collect();
        commit(under_test, issued).await;
        assert_eq!(under_test.audit_rows(key.id()).await, expected);
    }
}

pub async fn an_origin_is_kept_to_the_byte_or_refused_as_a_whole(under_test: &impl StoreUnderTest) {
    // No type keeps a NUL out of an origin, and not every database has texts with one. What must never happen is half a text,
    // or a change without its event.
    let texts = [
        None,
        Some(""),
        Some("2001:db8::1%eth0"),
        Some("a'b\"c\\d"),
        Some("日本語"),
        Some("before\0after"),
        Some("\0"),
    ];
    for (seed, text) in (1..).zip(texts) {
        for (offset, in_address) in [(0, true), (100, false)] {
            let key = a_key(seed + offset);
            let before = everything(under_test, &key).await;
            let mut issued = issue(&key);
            let origin = &mut issued.events[0].origin;
            *(if in_address { &mut origin.address } else { &mut origin.request_id }) = text.map(str::to_owned);
            let expected: Vec<AuditRow> = issued.events.iter().map(AuditRow::from).collect();
            match under_test.store().commit(issued).await {
                Ok(_) => assert_eq!(under_test.audit_rows(key.id()).await, expected),
                Err(CommitError::Store(StoreError::Defect(_))) if text.is_some_and(|text| text.contains('\0')) => {
                    assert_eq!(everything(under_test, &key).await, before);
                }
                Err(error) => panic!("{text:?}: {error:?}"),
            }
        }
    }
}

pub async fn a_set_of_all_permissions_is_kept(under_test: &impl StoreUnderTest) {
    let sets = [
        pidgr::CATALOGUE.all(),
        permissions([&"A".repeat(128), "B", "B_", "B0"]),
        permissions(["NULL", "A_B", "A__B"]),
    ];
    for (seed, set) in (1..).zip(sets) {
        let key = a_key_with(seed, |parts| parts.permissions = set);
        commit(under_test, issue(&key)).await;
        assert_eq!(stored(under_test, &key).await, Some(key));
    }
}
