-- How many keys there are per organization and type, in 16 parts each.
--
-- Reason: total_count must not cost more with more keys. One row per organization would make all of its creates wait for
-- each other; each create counts in any of the parts, and a reader sums them.

CREATE TABLE key_counts (
    organization_id text NOT NULL,
    key_type text NOT NULL,
    shard smallint NOT NULL,
    keys bigint NOT NULL,
    CONSTRAINT key_counts_pkey PRIMARY KEY (organization_id, key_type, shard),
    CONSTRAINT key_counts_shard_check CHECK (shard BETWEEN 0 AND 15),
    CONSTRAINT key_counts_keys_check CHECK (keys >= 0)
)
-- Every create rewrites one of these rows; the room keeps its versions on their page.
WITH (fillfactor = 50);
