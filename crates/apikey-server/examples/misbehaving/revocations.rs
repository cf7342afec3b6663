//! The revocation log that replicas share, but for what it is there for.

use apikey_application::{
    fence::{Lease, Mark, Reaping, ReplicaId, ReplicaRow},
    ports::{Read, Renewed, Revocations, Seq, StoreError},
};

/// Renewals bring no digests, where that is wanted.
pub(crate) struct DroppedDigests<R> {
    revocations: R,
    drops: bool,
}

impl<R> DroppedDigests<R> {
    pub(crate) const fn new(revocations: R, drops: bool) -> Self {
        Self { revocations, drops }
    }
}

impl<R: Revocations> Revocations for DroppedDigests<R> {
    async fn join(&self, replica: ReplicaId, lease: Lease) -> Result<Seq, StoreError> {
        self.revocations.join(replica, lease).await
    }

    async fn renew(&self, mark: Mark, renewal: u64, applied: u64) -> Result<Renewed, StoreError> {
        let mut renewed = self.revocations.renew(mark, renewal, applied).await?;
        if self.drops
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
