-- Which requests have been carried out, so that none is carried out twice.
--
-- Reason: a request with an idempotency-key header is carried out at most once, for ever, per organization and caller.
-- Rows are never deleted or changed.

CREATE TABLE idempotency_records (
    organization_id text NOT NULL,
    actor text NOT NULL,
    idempotency_key text NOT NULL,
    -- Tells the same request repeated from another request under the same header.
    request_digest bytea NOT NULL,
    -- What the first request issued.
    key_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT idempotency_records_pkey PRIMARY KEY (organization_id, actor, idempotency_key),
    CONSTRAINT idempotency_records_idempotency_key_check CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_records_request_digest_check CHECK (octet_length(request_digest) = 32)
);
