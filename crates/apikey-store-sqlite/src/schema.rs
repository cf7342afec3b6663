//! The tables as diesel sees them. The truth is in `migrations/sqlite`.

diesel::table! {
    revocation_head (seq) {
        seq -> BigInt,
    }
}

diesel::table! {
    api_keys (id) {
        id -> Binary,
        organization_id -> Text,
        name -> Text,
        prefix -> Text,
        digest -> Binary,
        key_type -> Text,
        permissions -> Text,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
        last_used_at -> Nullable<BigInt>,
        revision -> BigInt,
        narrowed_seq -> Nullable<BigInt>,
    }
}

diesel::table! {
    key_counts (organization_id, key_type, shard) {
        organization_id -> Text,
        key_type -> Text,
        shard -> BigInt,
        keys -> BigInt,
    }
}

diesel::table! {
    audit_events (id) {
        id -> BigInt,
        organization_id -> Text,
        key_id -> Binary,
        kind -> Text,
        actor -> Text,
        origin_address -> Nullable<Text>,
        origin_request_id -> Nullable<Text>,
        at -> BigInt,
    }
}

diesel::table! {
    idempotency_records (organization_id, actor, idempotency_key) {
        organization_id -> Text,
        actor -> Text,
        idempotency_key -> Text,
        request_digest -> Binary,
        key_id -> Binary,
        created_at -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(revocation_head, api_keys);
