//! Pidgr's own values for what is a parameter elsewhere.

use crate::{KeyFormat, Permission, PermissionCatalogue};

/// The format of Pidgr's keys: `pidgr_k_…` for API keys, `pidgr_scim_…` for SCIM tokens.
pub const KEY_FORMAT: KeyFormat = KeyFormat::new("pidgr.com 2026-11 api key digest v1", "pidgr_k_", "pidgr_scim_");

/// Needed to create, list and revoke API keys.
pub const MANAGE_API_KEYS: Permission = Permission::from_static("PERMISSION_MANAGE_API_KEYS");

/// Pidgr's permissions in the order of their public numbers, 1 to 31; [`MANAGE_API_KEYS`] is number 1000.
pub const CATALOGUE: PermissionCatalogue = PermissionCatalogue::new(&PERMISSIONS);

static PERMISSIONS: [Permission; 32] = [
    Permission::from_static("PERMISSION_ORG_READ"),
    Permission::from_static("PERMISSION_ORG_WRITE"),
    Permission::from_static("PERMISSION_MEMBERS_READ"),
    Permission::from_static("PERMISSION_MEMBERS_INVITE"),
    Permission::from_static("PERMISSION_MEMBERS_MANAGE"),
    Permission::from_static("PERMISSION_CAMPAIGNS_READ"),
    Permission::from_static("PERMISSION_CAMPAIGNS_WRITE"),
    Permission::from_static("PERMISSION_CAMPAIGNS_START"),
    Permission::from_static("PERMISSION_TEMPLATES_READ"),
    Permission::from_static("PERMISSION_TEMPLATES_WRITE"),
    Permission::from_static("PERMISSION_INBOX_READ"),
    Permission::from_static("PERMISSION_INBOX_ACT"),
    Permission::from_static("PERMISSION_GROUPS_ALL_READ"),
    Permission::from_static("PERMISSION_GROUPS_WRITE"),
    Permission::from_static("PERMISSION_GROUPS_ALL_WRITE"),
    Permission::from_static("PERMISSION_TEAMS_ALL_READ"),
    Permission::from_static("PERMISSION_TEAMS_WRITE"),
    Permission::from_static("PERMISSION_TEAMS_ALL_WRITE"),
    Permission::from_static("PERMISSION_PRIVACY_READ"),
    Permission::from_static("PERMISSION_PRIVACY_WRITE"),
    Permission::from_static("PERMISSION_AUDIT_READ"),
    Permission::from_static("PERMISSION_TEMPLATES_REVIEW"),
    Permission::from_static("PERMISSION_PLATFORM_SUPPORT"),
    Permission::from_static("PERMISSION_PLATFORM_ACCESS_CODES"),
    Permission::from_static("PERMISSION_PLATFORM_PROVISION"),
    Permission::from_static("PERMISSION_PLATFORM_ABUSE_RESPONSE"),
    Permission::from_static("PERMISSION_PLATFORM_COMPLIANCE_WRITE"),
    Permission::from_static("PERMISSION_PLATFORM_SYNTHETIC"),
    Permission::from_static("PERMISSION_CHANNELS_DISPATCH"),
    Permission::from_static("PERMISSION_REACHABILITY_WRITE"),
    Permission::from_static("PERMISSION_PLATFORM_INCIDENTS"),
    MANAGE_API_KEYS,
];
