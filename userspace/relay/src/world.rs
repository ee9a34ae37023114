//! What the workers go by: the plan joined with the counters and health words that outlive it.
//!
//! Built by [`Registry`] on the side of whoever holds the [`Relay`](crate::Relay), shared with the workers behind an
//! `Arc`, never changed afterwards. What is per worker (balancing, idle connections) lies in `upstream`.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    time::Instant,
};

use tokio::sync::Notify;
use weir_core::{
    health::{Admin, State, Word},
    ids::{BackendKey, PoolName, ServiceName},
    plan::{Balance, Connections, Mode, Plan, Pool, Retries, Service},
    ports::Ports,
};

use crate::{
    stats::{self, BackendCells, BackendSnapshot, PoolCells, PoolSnapshot, ServiceCells, ServiceSnapshot},
    tls::{Back, Front, TlsEnds},
    upstream::{Bells, Lobby, PoolSource, Slots, Space},
};

/// All that a worker needs to serve: one generation of the plan.
pub(crate) struct World {
    pub(crate) routes: HashMap<ServiceName, Arc<Route>>,
    /// Grows with every change of health words: what was derived from them is stale when it has moved on.
    pub(crate) generation: Arc<AtomicU64>,
}

/// A service of the plan with what belongs to it.
pub(crate) struct Route {
    pub(crate) service: Arc<Service>,
    pub(crate) node: Arc<str>,
    pub(crate) pool: Arc<Pool>,
    /// In the order of `pool.backends`.
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) cells: Arc<ServiceCells>,
    pub(crate) waiting: Arc<Waiting>,
    /// Where connections to the pool's backends come from. None: the system picks.
    pub(crate) source: Option<Arc<PoolSource>>,
    /// What TLS is ended with, if it is.
    pub(crate) tls: Option<Arc<Front>>,
    /// What the pool's backends are spoken to over TLS with, if they are.
    pub(crate) back: Option<Arc<Back>>,
    /// By rule of the service, the same with the pool that the rule chooses. Empty if none does, and in what stands here.
    pub(crate) by_rule: Vec<Option<Arc<Self>>>,
}

impl Route {
    /// It, and what its rules choose.
    pub(crate) fn all(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::once(self).chain(self.by_rule.iter().flatten())
    }

    /// Whether it has a pool, not what stands for one.
    pub(crate) fn has_pool(&self) -> bool {
        !self.pool.backends.is_empty()
    }
}

/// Stands for the pool of a service that has none of its own, because its rules decide of every request: no request
/// comes to it, and one that did would find no backend.
fn nobody() -> Pool {
    Pool {
        name: PoolName::new("-"),
        balance: Balance::RoundRobin,
        backends: Vec::new(),
        check: None,
        source: None,
        connections: Connections::default(),
        retries: Retries::default(),
        protocol: weir_core::plan::HttpProtocol::default(),
        http2: weir_core::plan::Http2::default(),
        tls: None,
        proxy: None,
        client_source: None,
        interface: None,
    }
}

/// What outlives a plan of a pool: who waits for it, and its counters.
pub(crate) struct Waiting {
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) cells: PoolCells,
}

/// What outlives a plan of a backend: its health word, its counters, its connections' number.
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    word: AtomicU8,
    pub(crate) cells: BackendCells,
    pub(crate) slots: Arc<Slots>,
}

impl Backend {
    /// Its health word now.
    #[inline]
    pub(crate) fn word(&self) -> Word {
        Word::from_bits(self.word.load(Relaxed)).unwrap_or(Word::PENDING)
    }

    fn set_word(&self, word: Word) {
        self.word.store(word.bits(), Relaxed);
    }
}

type Spaces = HashMap<(PoolName, IpAddr, SocketAddr), Arc<Space>>;

/// Counters and words by identity, over all generations of the plan.
pub(crate) struct Registry {
    workers: usize,
    services: HashMap<ServiceName, Arc<ServiceCells>>,
    backends: HashMap<BackendKey, Arc<Backend>>,
    pools: HashMap<PoolName, Arc<Waiting>>,
    /// Source ports, by pool, source address and backend.
    spaces: Spaces,
    sources: HashMap<PoolName, Arc<PoolSource>>,
    bells: Arc<Bells>,
    /// Words that came before the plan that speaks of the backend.
    early: HashMap<BackendKey, Word>,
    generation: Arc<AtomicU64>,
}

impl Registry {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            services: HashMap::new(),
            backends: HashMap::new(),
            pools: HashMap::new(),
            spaces: HashMap::new(),
            sources: HashMap::new(),
            bells: Arc::new((0..workers).map(|_| Notify::new()).collect()),
            early: HashMap::new(),
            generation: Arc::default(),
        }
    }

    /// One bell per worker, for those that wait.
    pub(crate) fn bells(&self) -> Arc<Bells> {
        Arc::clone(&self.bells)
    }

    /// Joins a plan with what is known by identity, and forgets what the plan no longer speaks of.
    pub(crate) fn world(&mut self, plan: &Arc<Plan>, ends: &TlsEnds) -> World {
        let mut backends = HashMap::new();
        let mut pools = HashMap::new();
        for pool in &plan.pools {
            let waiting = self.pools.remove(&pool.name);
            let waiting = waiting.unwrap_or_else(|| Arc::new(self.waiting()));
            for backend in &pool.backends {
                let known = self.backends.remove(&backend.key).unwrap_or_else(|| {
                    // Nothing checks such a pool, so nothing will ever say that it is up.
                    let unchecked = Word {
                        state: State::Up,
                        admin: Admin::Ready,
                    };
                    let unknown = if pool.check.is_none() {
                        unchecked
                    } else {
                        Word::PENDING
                    };
                    let word = self.early.remove(&backend.key).unwrap_or(unknown);
                    Arc::new(Backend {
                        key: backend.key.clone(),
                        word: AtomicU8::new(word.bits()),
                        cells: (0..self.workers).map(|_| Arc::default()).collect(),
                        slots: Arc::new(Slots::new(Arc::clone(&waiting.lobby))),
                    })
                });
                known.slots.set_most(pool.max_connections(backend));
                backends.insert(backend.key.clone(), known);
            }
            pools.insert(pool.name.clone(), waiting);
        }
        self.backends = backends;
        self.pools = pools;
        self.sources = self.sources(plan);
        self.early.clear();
        let (nobody, no_waiting) = (Arc::new(nobody()), Arc::new(self.waiting()));
        let mut services = HashMap::new();
        let mut routes = HashMap::new();
        for service in &plan.services {
            if matches!(service.mode, Mode::L4(_)) {
                continue;
            }
            let cells = self
                .services
                .remove(&service.name)
                .unwrap_or_else(|| Arc::new((0..self.workers).map(|_| Arc::default()).collect()));
            services.insert(service.name.clone(), Arc::clone(&cells));
            let to = |pool: &Arc<Pool>, waiting: &Arc<Waiting>| Route {
                service: Arc::clone(service),
                node: Arc::clone(&plan.node.name),
                pool: Arc::clone(pool),
                backends: pool
                    .backends
                    .iter()
                    .filter_map(|b| self.backends.get(&b.key))
                    .map(Arc::clone)
                    .collect(),
                cells: Arc::clone(&cells),
                waiting: Arc::clone(waiting),
                source: self.sources.get(&pool.name).map(Arc::clone),
                back: { ends.backs.get(&pool.name) }
                    .filter(|_| pool.tls.is_some())
                    .cloned(),
                tls: { &ends.fronts }
                    .get(&service.name)
                    .filter(|_| service.tls.is_some())
                    .cloned(),
                by_rule: Vec::new(),
            };
            let named = |name: &PoolName| Some(to(plan.pool(name)?, self.pools.get(name)?));
            let own = match &service.pool {
                Some(name) => named(name),
                None => Some(to(&nobody, &no_waiting)),
            };
            let Some(own) = own else { continue };
            let chosen = service.chosen_pools().into_iter();
            let by_rule = chosen.map(|name| name.and_then(named).map(Arc::new)).collect();
            routes.insert(service.name.clone(), Arc::new(Route { by_rule, ..own }));
        }
        self.services = services;
        World {
            routes,
            generation: Arc::clone(&self.generation),
        }
    }

    /// Where connections to each pool come from. Ports that are in use or at rest outlive a plan as long as it has them.
    fn sources(&mut self, plan: &Plan) -> HashMap<PoolName, Arc<PoolSource>> {
        let mut known = std::mem::take(&mut self.spaces);
        let mut sources = HashMap::new();
        for pool in &plan.pools {
            let Some((source, relay)) = pool.source.as_ref().and_then(|s| Some((s, s.relay.as_ref()?)))
            else {
                continue;
            };
            let of_pool = match &relay.ports {
                None => PoolSource::chosen(source.addresses.clone(), relay.reset),
                Some(ports) => {
                    let mut towards = HashMap::new();
                    for backend in &pool.backends {
                        let to = backend.key.address;
                        let spaces = source.of_family(to.is_ipv4()).map(|address| {
                            let key = (pool.name.clone(), address, to);
                            // The keys of a hasher come from the system's random numbers.
                            let seed = RandomState::new().hash_one(0_u8);
                            let space = match known.remove(&key) {
                                Some(space) => {
                                    space.lock().follow(&ports.traffic, seed);
                                    space
                                }
                                None => {
                                    let ports = Ports::new(&ports.traffic, seed, Instant::now());
                                    Arc::new(Space::new(address, ports))
                                }
                            };
                            self.spaces.insert(key, Arc::clone(&space));
                            space
                        });
                        towards.insert(to, spaces.collect());
                    }
                    PoolSource::own(towards, relay.reset)
                }
            };
            sources.insert(pool.name.clone(), Arc::new(of_pool));
        }
        sources
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            lobby: Arc::new(Lobby::new(Arc::clone(&self.bells))),
            cells: (0..self.workers).map(|_| Arc::default()).collect(),
        }
    }

    /// Takes health words; those of unknown backends are kept for the next plan.
    pub(crate) fn set_words(&mut self, words: &[(BackendKey, Word)]) {
        for (key, word) in words {
            match self.backends.get(key) {
                Some(backend) => backend.set_word(*word),
                None => {
                    self.early.insert(key.clone(), *word);
                }
            }
        }
        // Whoever sees the new number sees the words from before it.
        self.generation.fetch_add(1, Release);
    }

    pub(crate) fn sum_services(&self, plan: &Plan) -> Vec<ServiceSnapshot> {
        let known = |s: &Arc<Service>| Some((s.name.clone(), self.services.get(&s.name)?));
        let sum = |(service, cells): (_, &Arc<_>)| ServiceSnapshot {
            service,
            counts: stats::sum_service(cells),
        };
        plan.services.iter().filter_map(known).map(sum).collect()
    }

    pub(crate) fn sum_backends(&self, plan: &Plan) -> Vec<BackendSnapshot> {
        let all = plan.pools.iter().flat_map(|p| &p.backends);
        let known = all.filter_map(|b| self.backends.get(&b.key));
        known
            .map(|b| BackendSnapshot {
                backend: b.key.clone(),
                counts: stats::BackendCounts {
                    open: b.slots.held().into(),
                    max: b.slots.most(),
                    ..stats::sum_backend(&b.cells)
                },
            })
            .collect()
    }

    pub(crate) fn sum_pools(&self, plan: &Plan) -> Vec<PoolSnapshot> {
        let now = Instant::now();
        let known = |p: &Arc<Pool>| Some((p.name.clone(), self.pools.get(&p.name)?));
        let sum = |(pool, waiting): (_, &Arc<Waiting>)| PoolSnapshot {
            counts: stats::sum_pool(&waiting.cells),
            ports: { self.sources.get(&pool) }.and_then(|source| source.look(now)),
            pool,
        };
        plan.pools.iter().filter_map(known).map(sum).collect()
    }
}
