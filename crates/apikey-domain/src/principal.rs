//! Who is calling, and what they may do.

use crate::{Actor, MissingPermissions, OrganizationId, Permission, PermissionSet};

/// An authenticated caller: one organization, a set of permissions, and who it is for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The organization that the credential belongs to; no request can name another.
    pub organization_id: OrganizationId,
    /// What the caller may do, and the most that it may grant.
    pub permissions: PermissionSet,
    /// Who the caller is.
    pub actor: Actor,
}

impl Principal {
    /// Succeeds where the caller holds that permission.
    ///
    /// # Errors
    /// [`MissingPermissions`] with that permission.
    pub fn require(&self, permission: &Permission) -> Result<(), MissingPermissions> {
        self.permissions.require(&PermissionSet::from_iter([permission.clone()]))
    }

    /// The privilege ceiling: nobody grants what they do not hold.
    ///
    /// # Errors
    /// [`MissingPermissions`] with those that the caller lacks.
    pub fn may_grant(&self, permissions: &PermissionSet) -> Result<(), MissingPermissions> {
        self.permissions.require(permissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_does_or_grants_what_they_do_not_hold() {
        const READ: Permission = Permission::from_static("READ");
        const WRITE: Permission = Permission::from_static("WRITE");
        let caller = Principal {
            organization_id: OrganizationId::parse("acme").unwrap(),
            permissions: PermissionSet::from_iter([READ]),
            actor: Actor::operator(),
        };
        assert_eq!((caller.require(&READ), caller.may_grant(&PermissionSet::from_iter([READ]))), (Ok(()), Ok(())));
        let missing = PermissionSet::from_iter([WRITE]);
        assert_eq!(caller.require(&WRITE).unwrap_err().permissions(), &missing);
        assert_eq!(caller.may_grant(&PermissionSet::from_iter([READ, WRITE])).unwrap_err().permissions(), &missing);
    }
}
