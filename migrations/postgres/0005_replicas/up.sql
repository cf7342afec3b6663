-- The replicas that verify from memory: who they are, and what each has applied of the log of revocations.
--
-- Reason: a revocation is confirmed once every replica has acknowledged it, or can hold no lease from before it. A version
-- that does not know this table verifies from the database alone, and nobody has to wait for it.

CREATE TABLE replicas (
    -- Another one for each attempt to join.
    id uuid NOT NULL,
    -- The head's number up to which the replica has applied every revocation.
    acked_seq bigint NOT NULL,
    -- Counts the renewals that were committed: a row in which it stands still for as long as a lease lasts may be deleted.
    renewals bigint NOT NULL,
    -- How long this replica's leases last. Others wait by this value, so that it can be changed by a rolling restart.
    lease_millis integer NOT NULL,
    CONSTRAINT replicas_pkey PRIMARY KEY (id),
    CONSTRAINT replicas_acked_seq_check CHECK (acked_seq >= 0),
    CONSTRAINT replicas_renewals_check CHECK (renewals >= 0),
    CONSTRAINT replicas_lease_millis_check CHECK (lease_millis BETWEEN 1000 AND 60000)
)
-- Every renewal rewrites a row. No index holds what it changes, and the room keeps the row's versions on their page.
WITH (fillfactor = 10);
