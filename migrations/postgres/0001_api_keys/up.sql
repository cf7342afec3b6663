-- Keys, and the head of all changes that narrow a right.
--
-- Reason: the first house. The head and narrowed_seq are here from the beginning, so that a version that verifies from
-- memory can run beside one that does not: every revocation of either counts.

CREATE TABLE api_keys (
    id uuid NOT NULL,
    organization_id text NOT NULL,
    name text NOT NULL,
    -- Brand and public characters: what people recognize a key by.
    prefix text NOT NULL,
    -- What is kept in the key's place; never the key.
    digest bytea NOT NULL,
    key_type text NOT NULL,
    permissions text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    -- Counts the changes of the key, from 1. Noting a use is not a change.
    revision integer NOT NULL,
    -- The head's number when the key's rights were last narrowed: the log of revocations is this column.
    narrowed_seq bigint,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_digest_key UNIQUE (digest),
    CONSTRAINT api_keys_organization_id_check CHECK (char_length(organization_id) BETWEEN 1 AND 128),
    CONSTRAINT api_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT api_keys_digest_check CHECK (octet_length(digest) = 32),
    CONSTRAINT api_keys_expires_at_check CHECK (expires_at > created_at),
    CONSTRAINT api_keys_revoked_at_check CHECK (revoked_at >= created_at),
    CONSTRAINT api_keys_revision_check CHECK (revision >= 1),
    CONSTRAINT api_keys_narrowed_seq_check CHECK (narrowed_seq >= 1),
    -- A revocation without a number would be invisible to whoever follows the log.
    CONSTRAINT api_keys_revoked_is_narrowed_check CHECK (revoked_at IS NULL OR narrowed_seq IS NOT NULL)
)
-- Room on each page, so that noting a use (no index holds last_used_at) stays on its page and touches no index.
WITH (fillfactor = 85);

-- One listing each, newest first: a page is one range of one index.
CREATE INDEX api_keys_listing_idx ON api_keys (organization_id, created_at DESC, id DESC);
CREATE INDEX api_keys_listing_by_type_idx ON api_keys (organization_id, key_type, created_at DESC, id DESC);
-- Whoever follows the log reads only what is newer than what it knows.
CREATE INDEX api_keys_narrowed_seq_idx ON api_keys (narrowed_seq) WHERE narrowed_seq IS NOT NULL;

CREATE TABLE revocation_head (
    -- One row, by its key.
    singleton boolean NOT NULL DEFAULT true,
    seq bigint NOT NULL,
    CONSTRAINT revocation_head_pkey PRIMARY KEY (singleton),
    CONSTRAINT revocation_head_singleton_check CHECK (singleton),
    CONSTRAINT revocation_head_seq_check CHECK (seq >= 0)
)
-- Every revocation rewrites this row; the room keeps its versions on one page.
WITH (fillfactor = 10);

INSERT INTO revocation_head (seq) VALUES (0);
