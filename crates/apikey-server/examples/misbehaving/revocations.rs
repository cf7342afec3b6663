//! The revocation log that replicas share, but for what it is there for.

use apikey_application::{
    fence::{Lease, Mark, Reaping, ReplicaId, ReplicaRow},
    ports::{Read, Renewed, Revocations, Seq, StoreError},
};

use crate::Wrong;

/// Renewals bring no digests, or look for no mark, where that is wanted.
pub(crate) struct Careless<R> {
    revocations: R,
    wrong: Wrong,
}

impl<R> Careless<R> {
    pub(crate) const fn new(revocations: R, wrong: Wrong) -> Self {
        Self { revocations, wrong }
    }
}

impl<R: Revocations> Revocations for Careless<R> {
    async fn join(&self, replica: ReplicaId, lease: Lease) -> Result<Seq, StoreError> {
        self.revocations.join(replica, lease).await
    }

    async fn renew(&self, mark: Mark, renewal: u64, applied: u64) -> Result<Renewed, StoreError> {
        let known = if self.wrong == Wrong::AnyHistory { Mark { renewal: 0, ..mark } } else { mark };
        let mut renewed = self.revocations.renew(known, renewal, applied).await?;
        if self.wrong == Wrong::DropsDigests
            && let Renewed::Committed(renewal) = &mut renewed
        {
            renewal.revoked.clear();
        }
        Ok(renewed)
    }

    async fn replicas(&self) -> Result<Read<Vec<ReplicaRow>>, StoreError> {
        self.revocations.replicas().await
    }

    async fn reap(&self, watched: Reaping) -> Result<bool, StoreError> {
        self.revocations.reap(watched).await
    }

    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError> {
        self.revocations.leave(replica).await
    }

    async fn hinted(&self) {
        self.revocations.hinted().await;
    }
}
