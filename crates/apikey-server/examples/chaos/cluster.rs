//! Three replicas on one database, each with its link; what every fault is inflicted on.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use apikey_domain::{KeyId, OrganizationId};
use futures_util::future::try_join_all;

use crate::{
    clients::Clients,
    database::Server,
    proxy::{Counts, Link},
    replica::{Program, Replica, bootstrap},
    world::{Key, World},
};

/// How many replicas there are.
pub(crate) const REPLICAS: usize = 3;

/// Whose keys there are.
const ORGANIZATIONS: [&str; 3] = ["acme", "globex", "initech"];

/// What a run is made from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The executable.
    pub(crate) binary: PathBuf,
    /// What the first replica runs instead, where it shall misbehave.
    pub(crate) first: Option<Program>,
    /// What is added to the database's URL.
    pub(crate) parameters: &'static str,
    /// Settings of all replicas.
    pub(crate) settings: Vec<(String, String)>,
    /// Where logs are written.
    pub(crate) folder: PathBuf,
    pub(crate) seed: u64,
}

/// A running system.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    /// The server on which it is now.
    pub(crate) server: Arc<Server>,
    /// The name of its database there.
    pub(crate) database: String,
    pub(crate) world: Arc<World>,
}

impl Cluster {
    /// Starts one, on a new database of that server.
    pub(crate) async fn start(server: Arc<Server>, database: &str, plan: &Plan) -> Result<Self> {
        server.create(database).await?;
        let address = server.address().await?;
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            let own = Program { path: plan.binary.clone(), name: None };
            let program = plan.first.clone().filter(|_| number == 0).unwrap_or(own);
            let log = plan.folder.join(format!("{database}-replica-{number}.log"));
            let mut replica =
                Replica::new(program, Link::to(address).await?, database, plan.parameters, log).context("a replica")?;
            for (variable, value) in &plan.settings {
                replica.set(variable, value);
            }
            replicas.push(replica);
        }
        let url = Server::url(address, database, "");
        let mut managers = Vec::new();
        for organization in ORGANIZATIONS {
            let raw = bootstrap(&plan.binary, &url, organization).await?;
            let sql = format!("SELECT id FROM api_keys WHERE organization_id = '{organization}'");
            let id = KeyId::parse(&server.sql(database, &sql).await?)?;
            managers.push(Key { id, raw, organization: OrganizationId::parse(organization)?, manages: true });
        }
        try_join_all(replicas.iter_mut().map(Replica::start_and_wait)).await?;
        let clients = replicas.iter().map(|replica| Clients::new(replica.public, replica.verification));
        let world = Arc::new(World::new(clients.collect::<Result<_>>()?, managers, plan.seed));
        Ok(Self { replicas, server, database: database.to_owned(), world })
    }

    pub(crate) fn replica(&mut self, number: usize) -> Result<&mut Replica> {
        self.replicas.get_mut(number % REPLICAS).context("there is no such replica")
    }

    pub(crate) fn link(&self, number: usize) -> Result<&Link> {
        self.replicas.get(number % REPLICAS).map(|replica| &replica.link).context("there is no such replica")
    }

    /// The sum of a count over all links.
    pub(crate) fn count(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        self.replicas.iter().map(|replica| of(&replica.link.counts)).sum()
    }

    /// Undoes whatever a fault has left: links work and lead to the database, and every replica runs.
    pub(crate) async fn heal(&mut self) -> Result<()> {
        let address = self.server.address().await?;
        for replica in &mut self.replicas {
            replica.link.change(|condition| condition.server = address);
            replica.link.heal();
            if replica.is_stopped() {
                replica.resume().await?;
            }
            if !replica.runs() {
                replica.start()?;
            }
        }
        Ok(())
    }

    /// Leads all new connections to the database, where it is now.
    pub(crate) async fn find_database(&self) -> Result<()> {
        let address = self.server.address().await?;
        for replica in &self.replicas {
            replica.link.change(|condition| condition.server = address);
        }
        Ok(())
    }
}
