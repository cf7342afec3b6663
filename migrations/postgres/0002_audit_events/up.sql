-- The audit trail: one row for each change of a key, written in the transaction of the change.
--
-- Reason: no event, no change. There is no foreign key to api_keys, since the trail outlives what it speaks of, and since a
-- foreign key would lock the key's row for each event.

CREATE TABLE audit_events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    organization_id text NOT NULL,
    key_id uuid NOT NULL,
    kind text NOT NULL,
    actor text NOT NULL,
    -- Where the call came from, as far as that is known.
    origin_address text,
    origin_request_id text,
    at timestamptz NOT NULL,
    CONSTRAINT audit_events_pkey PRIMARY KEY (id),
    CONSTRAINT audit_events_kind_check CHECK (char_length(kind) BETWEEN 1 AND 64),
    CONSTRAINT audit_events_actor_check CHECK (actor <> '')
);
