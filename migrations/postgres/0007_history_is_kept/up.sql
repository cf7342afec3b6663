-- What has happened stays: a revocation, its number, the head's number and the audit trail never go back.
--
-- Reason: what leases and confirmations rely on must hold against a statement typed by hand and against a stolen password of the
-- service's role too, not only against this program's own statements. (The tables' owner can still switch triggers off; the
-- service need not be the owner.)
--
-- The conditions stand in WHEN, so that an ordinary statement calls no function. Rows are judged after the update, so that a
-- violated CHECK is named first. The codes are those of a violated CHECK.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = TG_NAME,
        SCHEMA = TG_TABLE_SCHEMA,
        TABLE = TG_TABLE_NAME,
        MESSAGE = format('%s of %s is refused by the trigger %s', TG_OP, TG_TABLE_NAME, TG_NAME);
END
$$;

CREATE TRIGGER api_keys_stay_revoked AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
    EXECUTE FUNCTION refuse_change();

CREATE TRIGGER api_keys_narrowed_seq_never_falls AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.narrowed_seq IS NOT NULL AND (NEW.narrowed_seq IS NULL OR NEW.narrowed_seq < OLD.narrowed_seq))
    EXECUTE FUNCTION refuse_change();

CREATE TRIGGER revocation_head_never_falls AFTER UPDATE ON revocation_head FOR EACH ROW
    WHEN (NEW.seq < OLD.seq)
    EXECUTE FUNCTION refuse_change();

CREATE TRIGGER revocation_head_stays BEFORE DELETE OR TRUNCATE ON revocation_head FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_events_are_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_change();
