//! The reader of page tokens against the published layout, on altered tokens whose digest fits all the same: what a guess never
//! reaches.

use super::*;

/// Short and long ones, and one that another begins with.
fn organizations() -> [OrganizationId; 4] {
    ["a", "acme", "acme2", &"x".repeat(OrganizationId::MAX_LENGTH)].map(|name| OrganizationId::parse(name).unwrap())
}

const FILTERS: [Option<KeyType>; 3] = [None, Some(KeyType::ApiKey), Some(KeyType::ScimToken)];

/// Each input twice: as a token, and as the recipe of something that is nearly one.
#[test]
fn page_token() {
    let organizations = organizations();
    bolero::check!(name = "page_token").with_iterations(4_000).with_max_len(64).for_each(|input: &[u8]| {
        if let Ok(text) = std::str::from_utf8(input) {
            judge(&organizations, text);
        }
        judge(&organizations, &nearly_a_token(&organizations, input));
    });
}

/// A token is read for one listing at most, as the position from which it would be made again to the letter.
fn judge(organizations: &[OrganizationId], text: &str) {
    let mut readers = 0;
    for organization in organizations {
        for filter in FILTERS {
            let read = PageToken::read(text, organization, filter);
            assert_eq!(read.ok(), position_of(text, organization, filter), "{text:?} for {organization:?}, {filter:?}");
            if let Ok(position) = read {
                readers += 1;
                assert_eq!(PageToken::new(position, organization, filter).as_str(), text);
            }
        }
    }
    assert!(readers <= 1, "{text:?}");
}

/// What the token says by the letter of the layout, if it is one of that listing.
fn position_of(text: &str, organization: &OrganizationId, filter: Option<KeyType>) -> Option<Position> {
    let bytes = bytes_of(text)?;
    let organization = organization.as_str().as_bytes();
    let filter = FILTERS.iter().position(|known| *known == filter).unwrap();
    let legal = bytes.len() == 26 + organization.len() + 16
        && bytes[0] == 1
        && usize::from(bytes[1]) == filter
        && &bytes[26..bytes.len() - 16] == organization
        && bytes[bytes.len() - 16..] == digest(&bytes[..bytes.len() - 16]);
    if !legal {
        return None;
    }
    let micros = i64::from_be_bytes(bytes[2..10].try_into().unwrap());
    let id = u128::from_be_bytes(bytes[10..26].try_into().unwrap());
    let created_at = Timestamp::from_unix_micros(micros).ok()?;
    Some(Position { created_at, id: KeyId::from_uuid(uuid::Uuid::from_u128(id)) })
}

/// base64url, bit by bit, in its one spelling.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let values: Vec<usize> = text.chars().map(|digit| DIGITS.find(digit)).collect::<Option<_>>()?;
    let bits: Vec<usize> = values.iter().flat_map(|value| (0..6).rev().map(move |bit| value >> bit & 1)).collect();
    let (bytes, rest) = bits.as_chunks::<8>();
    let byte = |bits: &[usize; 8]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit == 1));
    (rest.len() < 6 && rest.iter().all(|bit| *bit == 0)).then(|| bytes.iter().map(byte).collect())
}

/// A token with up to three of its bytes replaced, inserted or removed, then perhaps with the digest that suits it, then perhaps
/// with another last character.
fn nearly_a_token(organizations: &[OrganizationId], recipe: &[u8]) -> String {
    let [choice, owner, micros, edits @ ..] = recipe else { return String::new() };
    let micros = [Timestamp::MIN.unix_micros(), -1, 0, 1_767_225_600_000_000, Timestamp::MAX.unix_micros()]
        [usize::from(*micros) % 5];
    let position = Position {
        created_at: Timestamp::from_unix_micros(micros).unwrap(),
        id: KeyId::from_uuid(uuid::Uuid::from_u128(u128::from(*choice) << 100 | 7)),
    };
    let organization = &organizations[usize::from(*owner) % organizations.len()];
    let token = PageToken::new(position, organization, FILTERS[usize::from(owner >> 4) % FILTERS.len()]);
    assert!(token.as_str().len() <= MAX_LENGTH);
    let mut bytes = URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
    if choice & 4 != 0 {
        bytes.truncate(bytes.len() - DIGEST_LENGTH);
    }
    for edit in edits.chunks_exact(3).take(usize::from(choice & 3)) {
        let place = usize::from(edit[1]) % bytes.len();
        match edit[0] % 4 {
            0 => bytes[place] = edit[2],
            1 => bytes.insert(place, edit[2]),
            2 => drop(bytes.remove(place)),
            // The last place is the organization's, and the most telling.
            _ => bytes.push(b"2e\0A"[usize::from(edit[2] % 4)]),
        }
    }
    if choice & 4 != 0 {
        let digest = digest(&bytes);
        bytes.extend(digest);
    }
    let mut text = URL_SAFE_NO_PAD.encode(bytes);
    match choice >> 4 {
        0 => text.push('='),
        1 => {
            let last = text.pop().unwrap();
            text.push(char::from_u32(u32::from(last) + 1).unwrap());
        }
        2 => text.push('A'),
        _ => {}
    }
    text
}
