//! Audit events as the columns that a statement unnests: one array for each, so that one statement stores any number.

use apikey_domain::{AuditEvent, KeyEvent, Origin};
use diesel::pg::data_types::PgTimestamp;
use uuid::Uuid;

use crate::row::to_database;

#[derive(Debug, Default)]
pub(crate) struct EventColumns {
    pub(crate) organization_ids: Vec<String>,
    pub(crate) key_ids: Vec<Uuid>,
    pub(crate) kinds: Vec<String>,
    pub(crate) actors: Vec<String>,
    pub(crate) origin_addresses: Vec<Option<String>>,
    pub(crate) origin_request_ids: Vec<Option<String>>,
    pub(crate) instants: Vec<PgTimestamp>,
}

impl EventColumns {
    pub(crate) fn of(events: Vec<AuditEvent>) -> Self {
        let mut columns = Self::default();
        for AuditEvent { event, actor, origin } in events {
            let KeyEvent { key_id, organization_id, kind, at } = event;
            let Origin { address, request_id } = origin;
            columns.organization_ids.push(organization_id.to_string());
            columns.key_ids.push(*key_id.as_uuid());
            columns.kinds.push(kind.name().to_owned());
            columns.actors.push(actor.to_string());
            columns.origin_addresses.push(address);
            columns.origin_request_ids.push(request_id);
            columns.instants.push(to_database(at));
        }
        columns
    }
}

/// Binds the seven columns to a statement, in the order of [`insert_events`].
macro_rules! bind_events {
    ($statement:expr, $columns:expr) => {{
        use diesel::sql_types::{Array, Nullable, Text, Timestamptz, Uuid as SqlUuid};
        let columns = $columns;
        $statement
            .bind::<Array<Text>, _>(columns.organization_ids)
            .bind::<Array<SqlUuid>, _>(columns.key_ids)
            .bind::<Array<Text>, _>(columns.kinds)
            .bind::<Array<Text>, _>(columns.actors)
            .bind::<Array<Nullable<Text>>, _>(columns.origin_addresses)
            .bind::<Array<Nullable<Text>>, _>(columns.origin_request_ids)
            .bind::<Array<Timestamptz>, _>(columns.instants)
    }};
}

/// Inserts the events of the parameters 1 to 7, in their order, for each row that `source` yields (one or none). `unnest` of several
/// arrays is syntax: PostgreSQL takes it for its own function whatever other schemas hold, and knows it only without a schema.
macro_rules! insert_events {
    ($source:expr) => {
        concat!(
            "INSERT INTO $schema.audit_events \
                 (organization_id, key_id, kind, actor, origin_address, origin_request_id, at) \
             SELECT e.organization_id, e.key_id, e.kind, e.actor, e.origin_address, e.origin_request_id, e.at FROM ",
            $source,
            ", unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[]) \
                 WITH ORDINALITY AS e (organization_id, key_id, kind, actor, origin_address, origin_request_id, at, place) \
             ORDER BY e.place"
        )
    };
}

pub(crate) use {bind_events, insert_events};
