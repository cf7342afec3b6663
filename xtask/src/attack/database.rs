//! What a neighbour in the database, a stranger in its place, and a restored dump can do.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Arena, Outcome,
    others::{Verdict, verify},
    victim::revoke,
};
use crate::{
    process::{Ended, output},
    service::free_address,
};

/// Longer than a lease, and than a look at the database.
const SETTLED: Duration = Duration::from_secs(4);

/// The database is restored from a dump while a replica runs on; then the new history becomes as long as the old one was.
pub(super) fn restored(arena: &Arena<'_>) -> Result<Outcome> {
    const DATABASE: &str = "restored";
    let victim = arena.on_postgres(DATABASE, &[])?;
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(victim.create(&victim.administrator, "key", "")?);
    }
    let [first, second, third, fourth] = &keys[..] else { bail!("not four keys") };
    for key in &keys {
        verify(victim.service.verification, &key.raw_key, false)?;
    }
    arena.postgres.dump(DATABASE)?;
    victim.revoke(&first.id)?;
    victim.revoke(&second.id)?;
    let process = victim.service.process_id().to_string();
    let signal = |name: &str| output(Command::new("kill").args([name, &process]));
    signal("-STOP")?;
    arena.postgres.restore(DATABASE)?;
    let another = victim.second("another")?;
    thread::scope(|scope| {
        let revoke = |id| revoke(another.public, &victim.administrator, id);
        let revoking = [&third.id, &fourth.id].map(|id| scope.spawn(move || revoke(id)));
        // Both are revoked in the database, and wait for the replica that stands still.
        sleep(Duration::from_millis(700));
        let resumed = signal("-CONT");
        for revoked in revoking {
            revoked.join().map_err(|_| anyhow!("an administrator panicked"))??;
        }
        resumed
    })?;
    let mut let_through = Vec::new();
    for (pause, when) in [(Duration::ZERO, "at once"), (SETTLED, "later")] {
        sleep(pause);
        for (key, strict) in [(third, false), (third, true), (fourth, false), (fourth, true)] {
            if verify(victim.service.verification, &key.raw_key, strict)? == Verdict::Valid {
                let_through.push(format!("{when}, a key that was revoked after the restore (strict: {strict})"));
            }
        }
    }
    Ok(Outcome { peak: victim.service.peak_memory()? / 1e6, let_through, ..Outcome::default() })
}

/// A role that may do nothing but CREATE in the database makes a schema named like the service's role, with tables of its own.
pub(super) fn schema_of_a_stranger(arena: &Arena<'_>) -> Result<Outcome> {
    const DATABASE: &str = "stranger";
    let victim = arena.on_postgres(DATABASE, &[])?;
    let revoked = victim.create(&victim.administrator, "revoked", "")?;
    victim.revoke(&revoked.id)?;
    Outcome::of(&victim, &[], |victim| {
        arena.postgres.sql(
            DATABASE,
            "CREATE ROLE stranger; CREATE SCHEMA postgres AUTHORIZATION stranger; \
             DO $$ DECLARE name text; BEGIN \
             FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP \
             EXECUTE format('CREATE TABLE postgres.%I (LIKE public.%I INCLUDING ALL)', name, name); \
             EXECUTE format('INSERT INTO postgres.%I OVERRIDING SYSTEM VALUE SELECT * FROM public.%I', name, name); \
             EXECUTE format('ALTER TABLE postgres.%I OWNER TO stranger', name); \
             END LOOP; END $$; \
             UPDATE postgres.api_keys SET revoked_at = NULL WHERE revoked_at IS NOT NULL;",
        )?;
        sleep(SETTLED);
        let accepted = verify(victim.service.verification, &revoked.raw_key, true)? == Verdict::Valid;
        Ok(if accepted { vec!["the stranger's table decides which keys are revoked".to_owned()] } else { Vec::new() })
    })
}

/// A server that stands where PostgreSQL should: refuses TLS, and asks for the password in clear text. The service has been told that
/// certificates need not be checked.
pub(super) fn rogue(arena: &Arena<'_>) -> Result<Outcome> {
    const PASSWORD: &str = "a-password-for-the-database";
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Another machine, as far as the service can tell: the system takes this address for its own.
    let port = listener.local_addr()?.port();
    let url = format!("postgres://apikeys:{PASSWORD}@0.0.0.0:{port}/apikeys?sslmode=prefer");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let _ = sender.send(ask_for_password(connection).unwrap_or_default());
        }
    });
    std::fs::create_dir_all(&arena.folder)?;
    let process = start(arena, &url)?;
    // As long as there is more to hear: it tries again and again.
    let mut said = Vec::new();
    while let Ok(more) = receiver.recv_timeout(arena.duration) {
        said.extend(more);
        if said.len() > 1_024 {
            break;
        }
    }
    drop(process);
    let told = said.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
    let let_through = if told { vec!["the password of the database, in clear text".to_owned()] } else { Vec::new() };
    Ok(Outcome { let_through, ..Outcome::default() })
}

/// What a client says to a server that speaks no TLS and wants the password as it is.
fn ask_for_password(mut connection: TcpStream) -> Result<Vec<u8>> {
    /// `SSLRequest` of PostgreSQL's protocol, version 3.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    const CLEAR_TEXT_PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut head = [0; 8];
    connection.read_exact(&mut head)?;
    if head == SSL_REQUEST {
        connection.write_all(b"N")?;
        connection.read_exact(&mut head)?;
    }
    let [a, b, c, d, ..] = head;
    let mut startup = vec![0; usize::try_from(u32::from_be_bytes([a, b, c, d]))?.saturating_sub(head.len())];
    connection.read_exact(&mut startup)?;
    connection.write_all(CLEAR_TEXT_PASSWORD)?;
    let mut answer = Vec::new();
    // Ends when the client does, or says no more.
    let _ = connection.read_to_end(&mut answer);
    Ok(answer)
}

/// A role without any right holds the lock of the migration, while a replica starts on a database that needs none.
pub(super) fn migration_lock(arena: &Arena<'_>) -> Result<Outcome> {
    const DATABASE: &str = "migration_lock";
    /// What migrations take: the letters `apikeys`, as a number.
    const LOCK: i64 = 0x0061_7069_6b65_7973;
    let victim = arena.on_postgres(DATABASE, &[])?;
    arena.postgres.sql(DATABASE, "CREATE ROLE holder LOGIN")?;
    let mut holder = arena.postgres.session(DATABASE)?;
    let mut input = holder.0.stdin.take().context("standard input is not captured")?;
    writeln!(input, "SET ROLE holder; SELECT pg_advisory_lock({LOCK});")?;
    sleep(Duration::from_millis(500));
    let outcome = Outcome::of(&victim, &[], |victim| {
        Ok(match victim.second("second") {
            Ok(_) => Vec::new(),
            Err(error) => vec![format!("no replica starts: {error:#}")],
        })
    });
    drop((input, holder));
    outcome
}

/// Starts a service that need not become ready.
fn start(arena: &Arena<'_>, url: &str) -> Result<Ended> {
    let mut command = Command::new(arena.binary);
    command.args(["serve", "--database-allow-unverified"]).env("APIKEYS_DATABASE_URL", url);
    for listener in ["APIKEYS_LISTEN", "APIKEYS_VERIFY_LISTEN", "APIKEYS_ADMIN_LISTEN"] {
        command.env(listener, free_address()?.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(arena.folder.join("service.log"))?);
    Ok(Ended(command.spawn()?))
}
