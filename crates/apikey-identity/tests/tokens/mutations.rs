//! A token with a changed byte is another token, and nobody signed that one.

use std::sync::LazyLock;

use proptest::{prelude::*, test_runner::Config};
use tokio::runtime::Runtime;

use crate::{
    Shared, authenticator_of,
    issuer::{SigningKey, good_principal},
    outcome,
};

struct Subject {
    runtime: Runtime,
    authenticator: Shared,
    tokens: Vec<String>,
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let keys = [SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519()];
    let published: Vec<_> = keys.iter().map(|key| key.published(key.algorithm())).collect();
    let authenticator = runtime.block_on(authenticator_of(&published));
    let tokens = keys.iter().map(|key| key.good_token(key.algorithm())).collect();
    Subject { runtime, authenticator: Shared::new(authenticator), tokens }
});

impl Subject {
    fn accepts(&self, token: &str) -> bool {
        match self.runtime.block_on(outcome(&*self.authenticator, token)) {
            Ok(principal) => principal == good_principal(),
            Err(class) => {
                assert_ne!(class, "unavailable", "a bad token is answered as a failure of ours");
                false
            }
        }
    }
}

fn replaced(token: &str, at: usize, byte: u8) -> String {
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = byte;
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_token_with_one_byte_replaced_is_rejected(
        which in 0..3_usize,
        at in any::<prop::sample::Index>(),
        byte in 0..128_u8,
    ) {
        let token = &SUBJECT.tokens[which];
        let mutated = replaced(token, at.index(token.len()), byte);
        prop_assert_eq!(SUBJECT.accepts(&mutated), mutated == *token);
    }

    #[test]
    fn a_token_with_one_byte_more_or_less_is_rejected(
        which in 0..3_usize,
        at in any::<prop::sample::Index>(),
        byte in 0..128_u8,
    ) {
        let token = &SUBJECT.tokens[which];
        let at = at.index(token.len());
        let (before, after) = token.split_at(at);
        let (more, less) = (format!("{before}{}{after}", char::from(byte)), format!("{before}{}", &after[1..]));
        prop_assert!(!SUBJECT.accepts(&more) && !SUBJECT.accepts(&less));
    }
}

/// The last character of a part has bits that no byte needs: the place where lax decoders accept several spellings.
#[test]
fn the_last_character_of_each_part_has_one_spelling() {
    for token in &SUBJECT.tokens {
        assert!(SUBJECT.accepts(token));
        let ends = token.match_indices('.').map(|(at, _)| at - 1).chain([token.len() - 1]);
        for at in ends {
            for byte in (0..128).filter(|byte| *byte != token.as_bytes()[at]) {
                let mutated = replaced(token, at, byte);
                assert!(!SUBJECT.accepts(&mutated), "{mutated}");
            }
        }
    }
}
