//! Units of work that are abandoned, panic or queue up.

use std::{
    future::Future,
    path::PathBuf,
    pin::pin,
    sync::mpsc,
    task::{Context, Waker},
};

use diesel::{RunQueryDsl, sql_query};

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("apikey-store-sqlite-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// A store of one table, `t (n)`.
    fn connections(&self) -> Arc<Connections> {
        let database = database_url(&self.0.join("database")).unwrap();
        let mut writer = connect(&database, Role::Write).unwrap();
        writer.batch_execute("CREATE TABLE t (n INTEGER)").unwrap();
        let lock = File::create(self.0.join("lock")).unwrap();
        Arc::new(Connections::open(&database, writer, lock).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn insert(connection: &mut SqliteConnection) -> Result<usize, Failure> {
    Ok(sql_query("INSERT INTO t (n) VALUES (1)").execute(connection)?)
}

async fn rows(connections: &Arc<Connections>) -> usize {
    let count = |connection: &mut SqliteConnection| -> Result<usize, StoreError> {
        // Each row is changed by nothing, and counted by that.
        let changed = write(connection, |connection| Ok(sql_query("UPDATE t SET n = n").execute(connection)?));
        Ok(changed?)
    };
    connections.run(Role::Write, count).await.unwrap()
}

#[tokio::test]
async fn a_call_whose_future_is_dropped_happens_whole() {
    // On a runtime of one thread, where waiting inside a drop would panic.
    let scratch = Scratch::new("dropped");
    let connections = scratch.connections();
    let (started, has_started) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    {
        let call = connections.run(Role::Write, move |connection| {
            let done = write(connection, |connection| {
                insert(connection)?;
                started.send(()).unwrap();
                may_go_on.recv().unwrap();
                insert(connection)
            });
            done.map_err(StoreError::from)
        });
        let mut call = pin!(call);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        has_started.recv().unwrap();
    }
    go_on.send(()).unwrap();
    assert_eq!(rows(&connections).await, 2);
}

#[tokio::test]
async fn a_panic_inside_a_transaction_leaves_nothing_and_the_connection_is_replaced() {
    let scratch = Scratch::new("panic");
    let connections = scratch.connections();
    let panics = |connection: &mut SqliteConnection| -> Result<(), StoreError> {
        Ok(write(connection, |connection| {
            insert(connection)?;
            panic!("the test wants it");
        })?)
    };
    let error = connections.run(Role::Write, panics).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error:?}");
    assert_eq!(rows(&connections).await, 0);
    connections.run(Role::Write, |connection| insert(connection).map_err(StoreError::from)).await.unwrap();
    assert_eq!(rows(&connections).await, 1);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let scratch = Scratch::new("reader");
    let connections = scratch.connections();
    let error = connections.run(Role::Read, |connection| insert(connection).map_err(StoreError::from)).await;
    assert!(matches!(error, Err(StoreError::Unavailable(_))), "{error:?}");
    assert_eq!(rows(&connections).await, 0);
}

#[tokio::test]
async fn a_queue_that_is_too_long_is_refused_and_then_drained() {
    let scratch = Scratch::new("queue");
    let connections = scratch.connections();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let write_one = |connection: &mut SqliteConnection| insert(connection).map_err(StoreError::from);
    let mut calls = vec![tokio::spawn({
        let connections = Arc::clone(&connections);
        async move {
            let blocked = move |connection: &mut SqliteConnection| {
                may_go_on.recv().unwrap();
                insert(connection).map_err(StoreError::from)
            };
            connections.run(Role::Write, blocked).await
        }
    })];
    calls.extend((1..MAX_WAITING).map(|_| {
        let connections = Arc::clone(&connections);
        tokio::spawn(async move { connections.run(Role::Write, write_one).await })
    }));
    // One thread: each task gets as far as it can before this one goes on.
    while connections.writer.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let error = connections.run(Role::Write, write_one).await.unwrap_err();
    assert!(matches!(error, StoreError::Overloaded), "{error:?}");
    go_on.send(()).unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(rows(&connections).await, MAX_WAITING);
}
