//! Who calls a use case, and the parameters that a product sets for all of them.

use apikey_domain::{KeyFormat, MissingPermissions, Origin, Permission, PermissionCatalogue, Principal};

/// An authenticated caller, and where the call came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is and what it may do.
    pub principal: Principal,
    /// From where, for the audit.
    pub origin: Origin,
}

/// What differs from product to product.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What keys look like.
    pub format: KeyFormat,
    /// The permissions that there are.
    pub catalogue: PermissionCatalogue,
    /// The permission that issuing, listing and revoking requires.
    pub manage: Permission,
}

impl Policy {
    /// Pidgr's own values.
    #[must_use]
    pub fn pidgr() -> Self {
        use apikey_domain::pidgr::{CATALOGUE, KEY_FORMAT, MANAGE_API_KEYS};
        Self { format: KEY_FORMAT, catalogue: CATALOGUE, manage: MANAGE_API_KEYS }
    }

    /// Succeeds where the caller may manage keys.
    ///
    /// # Errors
    /// [`MissingPermissions`] with the permission that it lacks.
    pub fn authorize(&self, principal: &Principal) -> Result<(), MissingPermissions> {
        principal.require(&self.manage)
    }
}
