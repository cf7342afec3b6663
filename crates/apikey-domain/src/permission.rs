//! Permissions as validated names, sets of them, and a product's catalogue.

use std::{borrow::Cow, fmt};

/// A permission's name: 1 to 128 characters, `A-Z` first, then `A-Z`, `0-9` and `_`.
///
/// A name and not an enum, since other products bring their own catalogue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(Cow<'static, str>);

/// The text is not a permission's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a permission is 1 to {max} characters: A-Z first, then A-Z, 0-9 and _", max = Permission::MAX_LENGTH)]
pub struct PermissionError;

impl Permission {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 128;

    /// Accepts a legal name, as it is.
    ///
    /// # Errors
    /// [`PermissionError`] for every other text.
    pub fn parse(name: &str) -> Result<Self, PermissionError> {
        if is_legal(name.as_bytes()) { Ok(Self(Cow::Owned(name.to_owned()))) } else { Err(PermissionError) }
    }

    /// A name that is known at compile time.
    ///
    /// # Panics
    /// Where the name is not legal; in a constant, that is an error of the compiler.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        assert!(is_legal(name.as_bytes()), "not a permission's name");
        Self(Cow::Borrowed(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_legal(mut name: &[u8]) -> bool {
    if name.len() > Permission::MAX_LENGTH || !matches!(name.first(), Some(b'A'..=b'Z')) {
        return false;
    }
    while let [byte, rest @ ..] = name {
        if !matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_') {
            return false;
        }
        name = rest;
    }
    true
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of permissions; duplicates collapse.
///
/// In the order of their names, each once: sets are small and made once, and then read very often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PermissionSet(Vec<Permission>);

impl PermissionSet {
    /// The set that holds nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// How many permissions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set holds that permission.
    #[must_use]
    pub fn contains(&self, permission: &Permission) -> bool {
        self.0.binary_search(permission).is_ok()
    }

    /// The permissions in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.0.iter()
    }

    /// Succeeds where this set holds all of `required`.
    ///
    /// # Errors
    /// [`MissingPermissions`] with those that it does not hold.
    pub fn require(&self, required: &Self) -> Result<(), MissingPermissions> {
        let missing = required.iter().filter(|permission| !self.contains(permission)).cloned();
        let missing = Self(missing.collect());
        if missing.is_empty() { Ok(()) } else { Err(MissingPermissions(missing)) }
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let mut permissions: Vec<Permission> = permissions.into_iter().collect();
        permissions.sort_unstable();
        permissions.dedup();
        Self(permissions)
    }
}

/// Permissions that were needed and not held; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermissions(PermissionSet);

impl MissingPermissions {
    /// Those that are missing.
    #[must_use]
    pub const fn permissions(&self) -> &PermissionSet {
        &self.0
    }
}

impl fmt::Display for MissingPermissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("missing permissions:")?;
        self.0.iter().try_for_each(|permission| write!(f, " {permission}"))
    }
}

impl std::error::Error for MissingPermissions {}

/// The permissions that a product knows, in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub struct PermissionCatalogue(&'static [Permission]);

impl PermissionCatalogue {
    /// A catalogue of these permissions.
    #[must_use]
    pub const fn new(permissions: &'static [Permission]) -> Self {
        Self(permissions)
    }

    /// The permissions in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &'static Permission> + use<> {
        self.0.iter()
    }

    /// The permission with that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Permission> {
        self.iter().find(|permission| permission.as_str() == name)
    }

    /// All permissions of the catalogue.
    #[must_use]
    pub fn all(&self) -> PermissionSet {
        self.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_legal_form_are_accepted_and_nothing_else() {
        for legal in ["A", "ORG_READ", "A1_", &"A".repeat(128)] {
            let permission = Permission::parse(legal).unwrap();
            assert_eq!((permission.as_str(), permission.to_string().as_str()), (legal, legal));
        }
        for illegal in ["", "_A", "1A", "org_read", "ORG-READ", "ORG READ", "É", &"A".repeat(129)] {
            assert_eq!(Permission::parse(illegal), Err(PermissionError), "{illegal:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        const READ: Permission = Permission::from_static("READ");
        const WRITE: Permission = Permission::from_static("WRITE");
        let held = PermissionSet::from_iter([READ, READ]);
        assert_eq!((held.len(), PermissionSet::empty().len()), (1, 0));
        assert_eq!(held.require(&PermissionSet::empty()), Ok(()));
        let missing = held.require(&PermissionSet::from_iter([READ, WRITE])).unwrap_err();
        assert_eq!(missing.to_string(), "missing permissions: WRITE");
    }

    #[test]
    fn a_catalogue_knows_its_permissions_by_name_and_in_their_order() {
        static PERMISSIONS: [Permission; 2] = [Permission::from_static("WRITE"), Permission::from_static("READ")];
        let catalogue = PermissionCatalogue::new(&PERMISSIONS);
        assert!(catalogue.iter().eq(&PERMISSIONS));
        assert_eq!(catalogue.find("READ"), Some(&PERMISSIONS[1]));
        assert_eq!((catalogue.find("read"), catalogue.find("")), (None, None));
        assert_eq!(catalogue.all(), PERMISSIONS.iter().cloned().collect());
    }
}
