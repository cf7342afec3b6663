-- What has happened stays: a revocation, its number, the head's number and the audit trail never go back. This holds against a
-- statement typed by hand, not only against this program's own statements.

CREATE TRIGGER api_keys_stay_revoked AFTER UPDATE OF revoked_at ON api_keys
WHEN OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NOT OLD.revoked_at
BEGIN SELECT raise(ABORT, 'a key stays revoked'); END;

CREATE TRIGGER api_keys_narrowed_seq_never_falls AFTER UPDATE OF narrowed_seq ON api_keys
WHEN OLD.narrowed_seq IS NOT NULL AND (NEW.narrowed_seq IS NULL OR NEW.narrowed_seq < OLD.narrowed_seq)
BEGIN SELECT raise(ABORT, 'narrowed_seq never falls'); END;

CREATE TRIGGER revocation_head_never_falls AFTER UPDATE OF seq ON revocation_head
WHEN NEW.seq < OLD.seq
BEGIN SELECT raise(ABORT, 'the number of revocation_head never falls'); END;

CREATE TRIGGER audit_events_are_not_changed BEFORE UPDATE ON audit_events
BEGIN SELECT raise(ABORT, 'audit events are only added'); END;

CREATE TRIGGER audit_events_are_not_deleted BEFORE DELETE ON audit_events
BEGIN SELECT raise(ABORT, 'audit events are only added'); END;
