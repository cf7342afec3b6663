//! The modelled database: the head, the keys with their place in the sequence, and the replicas' rows.

use apikey_application::{
    fence::{ReplicaId, ReplicaRow},
    ports::Seq,
};

use crate::world::KEYS;

const ROWS: usize = 6;

/// A key's row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    Unborn,
    Live,
    /// With its `narrowed_seq`.
    Revoked(u64),
}

/// A server's state, as one snapshot of it shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Database {
    pub(crate) seq: Seq,
    pub(crate) keys: [Record; KEYS],
    pub(crate) rows: Rows,
    /// Only where numbers come from a sequence.
    pub(crate) sequence: u64,
}

/// The table of replicas.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    rows: [Option<ReplicaRow>; ROWS],
}

impl Database {
    pub(crate) fn new(unborn: Option<usize>) -> Self {
        let record = |key| if unborn == Some(key) { Record::Unborn } else { Record::Live };
        Self { seq: Seq::new(1, 0), keys: std::array::from_fn(record), rows: Rows { rows: [None; ROWS] }, sequence: 0 }
    }

    /// Revokes, or locks the row of a key that is revoked already. Returns the revocation's own place.
    pub(crate) fn revoke(&mut self, key: usize) -> Seq {
        if let Record::Revoked(number) = self.keys[key] {
            return Seq { number, ..self.seq };
        }
        self.seq.number += 1;
        self.keys[key] = Record::Revoked(self.seq.number);
        self.seq
    }

    /// Which keys were revoked after that number.
    pub(crate) fn revoked_after(&self, number: u64) -> [bool; KEYS] {
        self.keys.map(|record| matches!(record, Record::Revoked(narrowed) if narrowed > number))
    }
}

impl Rows {
    pub(crate) fn all(&self) -> Vec<ReplicaRow> {
        self.iter().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ReplicaRow> {
        self.rows.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    pub(crate) fn get_mut(&mut self, id: ReplicaId) -> Option<&mut ReplicaRow> {
        self.rows.iter_mut().flatten().find(|row| row.id == id)
    }

    pub(crate) fn get(&self, id: ReplicaId) -> Option<&ReplicaRow> {
        self.iter().find(|row| row.id == id)
    }

    /// Inserts, or replaces the row of that id.
    pub(crate) fn put(&mut self, row: ReplicaRow) {
        self.remove(row.id);
        *self.rows.iter_mut().find(|slot| slot.is_none()).expect("room for a row") = Some(row);
    }

    pub(crate) fn remove(&mut self, id: ReplicaId) {
        let kept = self.rows.map(|row| row.filter(|row| row.id != id));
        self.rows = [None; ROWS];
        for (slot, row) in self.rows.iter_mut().zip(kept.into_iter().flatten()) {
            *slot = Some(row);
        }
    }
}
