-- The first schema. SQLite has no types for UUIDs, instants and sets: a UUID is a blob of 16 bytes, an instant an integer of
-- microseconds since 1970-01-01T00:00:00Z, a set of permissions their names in one text, separated by single spaces. STRICT
-- makes SQLite refuse a value of another type instead of keeping it.

-- How many times a right was narrowed. It exists from the first version on, and each revocation moves it, so that later
-- versions may decide by it while older ones still run.
CREATE TABLE revocation_head (
    seq INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;

INSERT INTO revocation_head (seq) VALUES (0);

-- One row, for ever: a second one would give each read two heads, a missing one none.
CREATE TRIGGER revocation_head_stays_one_row_insert BEFORE INSERT ON revocation_head
BEGIN SELECT raise(ABORT, 'revocation_head has one row'); END;

CREATE TRIGGER revocation_head_stays_one_row_delete BEFORE DELETE ON revocation_head
BEGIN SELECT raise(ABORT, 'revocation_head has one row'); END;

CREATE TABLE api_keys (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    organization_id TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    prefix          TEXT    NOT NULL,
    -- What a verification looks a key up by: one indexed read.
    digest          BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    key_type        TEXT    NOT NULL,
    permissions     TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER CHECK (expires_at > created_at),
    revoked_at      INTEGER CHECK (revoked_at >= created_at),
    last_used_at    INTEGER,
    revision        INTEGER NOT NULL CHECK (revision BETWEEN 1 AND 4294967295),
    -- The head's number when the key's rights were last narrowed: the log of narrowings is this column. A row that says
    -- "revoked" without it would be a revocation that no cache ever hears of.
    narrowed_seq    INTEGER CHECK (narrowed_seq > 0),
    CHECK (revoked_at IS NULL OR narrowed_seq IS NOT NULL)
) STRICT;

-- A page of a listing begins anywhere in these without a look at the keys before it.
CREATE INDEX api_keys_by_organization ON api_keys (organization_id, created_at DESC, id DESC);
CREATE INDEX api_keys_by_organization_and_type ON api_keys (organization_id, key_type, created_at DESC, id DESC);

-- "Everything since that number" is one range of it; keys that were never narrowed do not weigh on it.
CREATE INDEX api_keys_by_narrowed_seq ON api_keys (narrowed_seq) WHERE narrowed_seq IS NOT NULL;

-- How many keys there are of each type, so that a listing's total is not counted row by row. `shard` is 0 here: one process
-- writes, so there is nothing to spread; the column is there since the schemas of both databases are alike.
CREATE TABLE key_counts (
    organization_id TEXT    NOT NULL,
    key_type        TEXT    NOT NULL,
    shard           INTEGER NOT NULL CHECK (shard = 0),
    keys            INTEGER NOT NULL CHECK (keys >= 0),
    PRIMARY KEY (organization_id, key_type, shard)
) STRICT, WITHOUT ROWID;

-- Who did what to which key, when and from where; written in the transaction of the change. AUTOINCREMENT: an id is never
-- given twice, so that a gap at the end of the trail shows.
CREATE TABLE audit_events (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id   TEXT    NOT NULL,
    key_id            BLOB    NOT NULL REFERENCES api_keys (id),
    kind              TEXT    NOT NULL,
    actor             TEXT    NOT NULL,
    origin_address    TEXT,
    origin_request_id TEXT,
    at                INTEGER NOT NULL
) STRICT;

CREATE INDEX audit_events_by_key ON audit_events (key_id, id);

-- Requests that are carried out at most once, for ever: rows are never deleted.
CREATE TABLE idempotency_records (
    organization_id TEXT    NOT NULL,
    actor           TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    request_digest  BLOB    NOT NULL CHECK (length(request_digest) = 32),
    key_id          BLOB    NOT NULL REFERENCES api_keys (id),
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (organization_id, actor, idempotency_key)
) STRICT, WITHOUT ROWID;
