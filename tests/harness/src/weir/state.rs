//! What `weir status --json` and `weir pools --json` answer, as far as tests look at it. Fields that are not named
//! here are passed over: weir may add some.

use anyhow::{Context, Result};
use serde::Deserialize;

/// `weir status --json`
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// Name of the box.
    pub node: String,
    /// Counts up with each configuration applied.
    pub generation: u64,
    /// Why the last reload was refused, if it was.
    pub reload_error: Option<String>,
    /// Whether weir is ready.
    pub ready: bool,
    /// What it waits for, when not ready.
    pub waiting_for: Vec<String>,
    /// The kernel's part.
    pub xdp: Xdp,
    /// Its processes.
    pub processes: Vec<Process>,
    /// Its services.
    pub services: Vec<Service>,
}

/// The kernel's part.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Xdp {
    /// `native`, `generic` or `off`.
    pub mode: String,
    /// Interfaces it is attached to.
    pub interfaces: Vec<String>,
    /// Addresses that weir has put on interfaces.
    pub addresses: Vec<String>,
}

/// A process.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Process {
    /// `control`, `relay` or `health`.
    pub role: String,
    /// None while it is being started.
    pub pid: Option<u32>,
    /// `running` or `starting`.
    pub state: String,
    /// How often it had to be started again.
    pub restarts: u64,
    /// It was found running when control started.
    pub adopted: bool,
}

/// A service.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `l4`, `tcp` or `http`.
    pub mode: String,
    /// Where clients reach it.
    pub listen: Vec<String>,
    /// Its pool, if it has one of its own.
    pub pool: Option<String>,
    /// `up` or `down`.
    pub state: String,
}

/// `weir ha --json`
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Ha {
    /// Why the thread does not run in real time, if it does not.
    pub not_real_time: Option<String>,
    /// All groups of virtual routers.
    pub groups: Vec<HaGroup>,
}

/// A group of virtual routers.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct HaGroup {
    /// Its name.
    pub name: String,
    /// `init`, `backup` or `master`.
    pub state: String,
    /// Why.
    pub cause: String,
    /// How often the state has changed since the start.
    pub changes: u64,
    /// What it announces, or would.
    pub announced: u8,
    /// How much speaks against the box.
    pub demotion: u32,
    /// What does.
    pub shares: Vec<HaShare>,
    /// Who was heard last as master.
    pub master: Option<HaPeer>,
    /// Who is master beside this box.
    pub rival: Option<String>,
}

/// Something that speaks against a box.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct HaShare {
    /// What.
    pub cause: String,
    /// How much.
    pub share: u32,
}

/// Another box.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct HaPeer {
    /// Its address.
    pub address: String,
    /// Its priority.
    pub priority: u8,
}

/// `weir pools --json`
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Pools {
    /// All of them.
    pub pools: Vec<Pool>,
}

/// A pool.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Backend {
    /// Address and port.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Its weight.
    pub weight: u16,
    /// `pending`, `up`, `down` or `probation`.
    pub state: String,
    /// `ready`, `drain` or `maint`.
    pub admin: String,
    /// Whether it is given new flows, connections and requests.
    pub in_use: bool,
    /// Why it is in this state.
    pub cause: String,
    /// Its checks.
    pub checks: Checks,
    /// What it has carried.
    pub traffic: Traffic,
}

/// Checks of a backend.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Checks {
    /// How many passed.
    pub passed: u64,
    /// How many failed.
    pub failed: u64,
    /// How often its state changed.
    pub transitions: u64,
}

/// What a backend has carried since the start.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Traffic {
    /// Flows through XDP.
    pub l4_flows: u64,
    /// Packets through XDP, to it.
    pub l4_packets_in: u64,
    /// Packets through XDP, from it.
    pub l4_packets_out: u64,
    /// Connections of the relay.
    pub relay_connections: u64,
    /// Requests of the relay.
    pub relay_requests: u64,
}

impl Pools {
    /// Every backend with its pool.
    pub fn all(&self) -> impl Iterator<Item = (&Pool, &Backend)> {
        self.pools
            .iter()
            .flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
    }

    /// One backend.
    ///
    /// # Errors
    /// There is none of that pool and address.
    pub fn backend(&self, pool: &str, address: &str) -> Result<Backend> {
        self.all()
            .find(|(p, backend)| p.name == pool && backend.address == address)
            .map(|(_, backend)| backend.clone())
            .with_context(|| format!("weir knows no backend {pool}/{address}"))
    }
}
