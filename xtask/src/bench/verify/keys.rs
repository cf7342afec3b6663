//! The keys that are verified: made here, put into the database directly, and known with the answer that each has to get.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufReader, Read as _},
};

use anyhow::{Result, ensure};
use apikey_domain::{KeyType, RawKey, pidgr};

use crate::postgres::Postgres;

/// One key in this many is revoked.
const REVOKED: usize = 20;
/// Keys in one statement: a few dozen megabytes.
const BATCH: usize = 100_000;
/// What each key may do; the bench asks for the first of them, as a gateway would.
const PERMISSIONS: &str = "{PERMISSION_CAMPAIGNS_READ,PERMISSION_CAMPAIGNS_WRITE,PERMISSION_TEMPLATES_READ}";
/// `required_permissions`: `CAMPAIGNS_READ`, as field 2 of the request.
const REQUIRED: [u8; 3] = [0x12, 1, 6];
/// The head of a message of gRPC: not compressed, and its length.
const FRAME_HEAD: usize = 5;
/// An id in an answer: a hyphenated UUID.
const ID: usize = 36;
/// What all ids start with; the rest is the key's number in hexadecimal digits.
const ID_START: &str = "00000000-0000-4000-8000-";

/// Raw keys, one after the other, as whole messages of gRPC.
pub(crate) struct Keys {
    messages: Vec<u8>,
    /// The length of each message.
    length: usize,
}

impl Keys {
    /// Makes that many and puts them into the database, whose schema is there and empty.
    pub(crate) fn seed(count: usize, database: &Postgres, name: &str) -> Result<Self> {
        let mut random = BufReader::new(File::open("/dev/urandom")?);
        let mut entropy = |buffer: &mut [u8]| random.read_exact(buffer);
        let mut messages = Vec::new();
        let mut length = 0;
        let mut rows = String::new();
        for index in 0..count {
            let raw_key: RawKey = pidgr::KEY_FORMAT.generate(KeyType::ApiKey, &mut entropy)?;
            row(&mut rows, index, &raw_key)?;
            let before = messages.len();
            message(&mut messages, raw_key.expose())?;
            length = messages.len() - before;
            if (index + 1) % BATCH == 0 || index + 1 == count {
                database.sql(name, &copy(&rows))?;
                rows.clear();
            }
        }
        database.sql(name, &format!("UPDATE revocation_head SET seq = {}", count.div_ceil(REVOKED)))?;
        database.sql(name, "VACUUM (ANALYZE) api_keys")?;
        database.sql(name, "CHECKPOINT")?;
        Ok(Self { messages, length })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.messages.len() / self.length
    }

    /// The request that presents that key.
    pub(crate) fn request(&self, index: usize) -> &[u8] {
        self.messages.get(index * self.length..(index + 1) * self.length).unwrap_or_default()
    }
}

/// Fails unless the answer is the right one for that key.
pub(crate) fn check(index: usize, answer: &[u8]) -> Result<()> {
    let verdict: &[u8] = if index.is_multiple_of(REVOKED) {
        // `rejected`, its `reason` REVOKED and its `api_key_id`.
        &[0x12, 40, 0x08, 4, 0x12]
    } else {
        // `valid`, of whatever length, and its `api_key_id`.
        &[0x0A, 0, 0x0A]
    };
    let body = answer.get(FRAME_HEAD..).unwrap_or_default();
    let (head, rest) = body.split_at_checked(verdict.len()).unwrap_or_default();
    let agrees = head.iter().zip(verdict).enumerate().all(|(at, (is, should))| at == 1 && *should == 0 || is == should);
    let id = rest.get(1..=ID).unwrap_or_default();
    let right = !head.is_empty() && agrees && is_id_of(id, index) && is_whole(answer);
    ensure!(right, "key {index} was answered {answer:02x?}");
    Ok(())
}

/// Fails unless the answer is a valid key's, whichever.
pub(crate) fn check_constant(answer: &[u8]) -> Result<()> {
    let valid = answer.get(FRAME_HEAD) == Some(&0x0A) && is_whole(answer);
    ensure!(valid, "a bare server answered {answer:02x?}");
    Ok(())
}

/// Whether these bytes are one message of gRPC, not compressed.
fn is_whole(answer: &[u8]) -> bool {
    match answer {
        [0, a, b, c, d, body @ ..] => usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok() == Some(body.len()),
        _ => false,
    }
}

fn key_id(index: usize) -> String {
    format!("{ID_START}{index:012x}")
}

/// The same without writing it: the load has to be faster than what it measures.
fn is_id_of(id: &[u8], index: usize) -> bool {
    let digits = id.strip_prefix(ID_START.as_bytes()).unwrap_or_default();
    let number = digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | usize::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | usize::from(digit - b'a' + 10)),
        _ => None,
    });
    digits.len() == 12 && number == Some(index)
}

fn message(messages: &mut Vec<u8>, raw_key: &str) -> Result<()> {
    let length = 2 + raw_key.len() + REQUIRED.len();
    messages.push(0);
    messages.extend(u32::try_from(length)?.to_be_bytes());
    messages.extend([0x0A, u8::try_from(raw_key.len())?]);
    messages.extend(raw_key.bytes());
    messages.extend(REQUIRED);
    Ok(())
}

fn copy(rows: &str) -> String {
    format!(
        "COPY api_keys (id, organization_id, name, prefix, digest, key_type, permissions, created_at, revoked_at, \
         narrowed_seq, revision) FROM STDIN;\n{rows}\\.\n"
    )
}

/// A line of `COPY`.
fn row(rows: &mut String, index: usize, raw_key: &RawKey) -> Result<()> {
    write!(rows, "{}\torganization-{:03}\tbench\t{}\t\\\\x", key_id(index), index % 1_000, raw_key.prefix())?;
    for byte in raw_key.digest().as_bytes() {
        write!(rows, "{byte:02x}")?;
    }
    write!(rows, "\tKEY_TYPE_API_KEY\t{PERMISSIONS}\t2026-01-01T00:00:00Z")?;
    if index.is_multiple_of(REVOKED) {
        writeln!(rows, "\t2026-02-01T00:00:00Z\t{}\t2", index / REVOKED + 1)?;
    } else {
        writeln!(rows, "\t\\N\t\\N\t1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(verdict: &[u8], id: &str) -> Vec<u8> {
        let mut body = verdict.to_vec();
        body.push(36);
        body.extend(id.bytes());
        let mut answer = vec![0, 0, 0, 0, u8::try_from(body.len()).unwrap()];
        answer.extend(body);
        answer
    }

    #[test]
    fn only_the_right_verdict_on_the_right_key_passes() {
        let (valid, revoked) = ([0x0A, 38, 0x0A], [0x12, 40, 0x08, 4, 0x12]);
        assert!(check(1, &answer(&valid, &key_id(1))).is_ok());
        assert!(check(20, &answer(&revoked, &key_id(20))).is_ok());
        assert!(check_constant(&answer(&valid, &key_id(7))).is_ok());

        assert!(check(20, &answer(&valid, &key_id(20))).is_err(), "a revoked key is valid");
        assert!(check(1, &answer(&revoked, &key_id(1))).is_err(), "a valid key is revoked");
        assert!(check(20, &answer(&[0x12, 40, 0x08, 3, 0x12], &key_id(20))).is_err(), "another reason");
        assert!(check(1, &answer(&valid, &key_id(2))).is_err(), "another key");
        let whole = answer(&valid, &key_id(1));
        for length in 0..whole.len() {
            assert!(
                check(1, &whole[..length]).is_err() && check_constant(&whole[..length]).is_err(),
                "cut at {length}"
            );
        }
        assert!(check_constant(&answer(&revoked, &key_id(1))).is_err(), "a bare server refuses");
    }
}
