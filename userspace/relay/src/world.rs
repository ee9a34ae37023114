//! What the workers go by: the plan joined with the counters and health words that outlive it.
//!
//! Built by [`Registry`] on the side of whoever holds the [`Relay`](crate::Relay), shared with the workers behind an
//! `Arc`, never changed afterwards. What is per worker (balancing, idle connections) lies in `upstream`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

use weir_core::{
    health::{Admin, State, Word},
    ids::{BackendKey, ServiceName},
    plan::{Mode, Plan, Pool, Service},
};

use crate::stats::{self, BackendCells, BackendSnapshot, ServiceCells, ServiceSnapshot};

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
}

/// What outlives a plan of a backend: its health word and its counters.
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    word: AtomicU8,
    pub(crate) cells: BackendCells,
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

/// Counters and words by identity, over all generations of the plan.
pub(crate) struct Registry {
    workers: usize,
    services: HashMap<ServiceName, Arc<ServiceCells>>,
    backends: HashMap<BackendKey, Arc<Backend>>,
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
            early: HashMap::new(),
            generation: Arc::default(),
        }
    }

    /// Joins a plan with what is known by identity, and forgets what the plan no longer speaks of.
    pub(crate) fn world(&mut self, plan: &Arc<Plan>) -> World {
        let mut backends = HashMap::new();
        for pool in &plan.pools {
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
                    })
                });
                backends.insert(backend.key.clone(), known);
            }
        }
        self.backends = backends;
        self.early.clear();
        let mut services = HashMap::new();
        let mut routes = HashMap::new();
        for service in &plan.services {
            if matches!(service.mode, Mode::L4(_)) {
                continue;
            }
            let Some(pool) = plan.pool(&service.pool) else {
                continue;
            };
            let cells = self
                .services
                .remove(&service.name)
                .unwrap_or_else(|| Arc::new((0..self.workers).map(|_| Arc::default()).collect()));
            services.insert(service.name.clone(), Arc::clone(&cells));
            let backends = pool
                .backends
                .iter()
                .filter_map(|b| self.backends.get(&b.key))
                .map(Arc::clone)
                .collect();
            let route = Route {
                service: Arc::clone(service),
                node: Arc::clone(&plan.node.name),
                pool: Arc::clone(pool),
                backends,
                cells,
            };
            routes.insert(service.name.clone(), Arc::new(route));
        }
        self.services = services;
        World {
            routes,
            generation: Arc::clone(&self.generation),
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
                counts: stats::sum_backend(&b.cells),
            })
            .collect()
    }
}
