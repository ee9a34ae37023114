//! What the relay ends TLS with, towards clients and towards backends: from a plan to configurations of rustls.
//!
//! Owns the order of the parts, the keys of session tickets that live as long as this process, and the configurations
//! towards backends, in which sessions with them are remembered, so that they outlive plans that change nothing of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use weir_core::{
    ids::{PoolName, ServiceName},
    plan::{BackendTls, BackendTrust, Plan, Pool, Tls, UnknownNames},
};
use weir_relay::{Back, Front, TlsEnds};
use weir_tls::{
    KeySource, Mistake, Policy, Roots, TicketKeys, Tickets,
    rustls::pki_types::{ServerName, UnixTime},
};

use crate::tls as files;

/// How long a secret of this process's own seals tickets. They open for as long again.
const ROTATION: Duration = Duration::from_secs(12 * 3600);

/// What clients are told that tickets are good for.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// What outlives plans.
pub(super) struct Ends {
    tickets: Arc<TicketKeys>,
    backs: HashMap<PoolName, Known>,
}

/// How a pool's backends are spoken to, and what that follows from.
struct Known {
    tls: BackendTls,
    http2: bool,
    /// Of the system's authorities, where they are believed.
    roots: Option<[u8; 32]>,
    back: Arc<Back>,
}

impl Ends {
    pub(super) fn new() -> anyhow::Result<Self> {
        let keys = TicketKeys::random(ROTATION.as_secs(), UnixTime::now()).map_err(|m| anyhow!("{m}"))?;
        Ok(Self {
            tickets: Arc::new(keys),
            backs: HashMap::new(),
        })
    }

    /// To be called now and then.
    pub(super) fn turn(&self) {
        self.tickets.rotate(UnixTime::now());
    }

    /// What a plan ends TLS with, signing by `keys`.
    ///
    /// # Errors
    /// What a file holds is not what it was when control looked at it, or there is no key.
    pub(super) fn of(&mut self, plan: &Plan, keys: &dyn KeySource) -> anyhow::Result<TlsEnds> {
        Ok(TlsEnds {
            fronts: self.fronts(plan, keys)?,
            backs: self.backs(plan, keys)?,
        })
    }

    fn backs(&mut self, plan: &Plan, keys: &dyn KeySource) -> anyhow::Result<HashMap<PoolName, Arc<Back>>> {
        let mut system = None;
        let mut known = HashMap::new();
        for pool in &plan.pools {
            let Some(tls) = pool.tls.as_deref() else { continue };
            let roots = match &tls.trust {
                BackendTrust::Anybody => Ok(None),
                BackendTrust::Authorities(file) => Roots::read(file.text.as_bytes()).map(Some),
                // Read anew with each plan, and once for all pools.
                BackendTrust::System => match &system {
                    Some(roots) => Ok(Some(Roots::clone(roots))),
                    None => Roots::of_system().map(|roots| Some(system.insert(roots).clone())),
                },
            };
            let of_pool = || format!("TLS of pool {}", pool.name);
            let roots = roots.map_err(|m| anyhow!("{m}")).with_context(of_pool)?;
            let back = self.back(pool, tls, roots, keys).with_context(of_pool)?;
            known.insert(pool.name.clone(), back);
        }
        self.backs = known;
        let backs = self.backs.iter();
        Ok(backs
            .map(|(name, known)| (name.clone(), Arc::clone(&known.back)))
            .collect())
    }

    /// What is the same as before stays what it was, with its memory of sessions.
    fn back(
        &mut self,
        pool: &Pool,
        tls: &BackendTls,
        roots: Option<Roots>,
        keys: &dyn KeySource,
    ) -> anyhow::Result<Known> {
        let mistake = |m: Mistake| anyhow!("{m}");
        let digest = roots.as_ref().map(|roots| *roots.digest());
        let http2 = pool.protocol.is_http2();
        if let Some(known) = self.backs.get(&pool.name)
            && (known.tls == *tls && known.http2 == http2 && known.roots == digest)
        {
            return Ok(Known {
                tls: tls.clone(),
                http2,
                roots: digest,
                back: Arc::clone(&known.back),
            });
        }
        let policy = Policy::asked_of_backends(tls).map_err(mistake)?;
        let mut back = weir_tls::Back::new(policy, roots).alpn(tls.alpn.iter().map(String::as_str));
        if let Some(one) = &tls.certificate {
            let path = one.chain.path.display();
            let read = files::certificate_for_backends(one).map_err(|m| anyhow!("{path}: {m}"))?;
            back = back.certificate(read);
        }
        let server_name = { tls.server_name.clone() }
            .map(ServerName::try_from)
            .transpose()?;
        let config = back.build(keys).map_err(mistake)?;
        Ok(Known {
            tls: tls.clone(),
            http2,
            roots: digest,
            back: Arc::new(Back {
                config: Arc::new(config),
                server_name,
                http2,
            }),
        })
    }

    fn fronts(&self, plan: &Plan, keys: &dyn KeySource) -> anyhow::Result<HashMap<ServiceName, Arc<Front>>> {
        let mut fronts = HashMap::new();
        for service in &plan.services {
            let Some(tls) = &service.tls else { continue };
            let front = self
                .front(&service.name, tls, keys)
                .with_context(|| format!("TLS of service {}", service.name))?;
            fronts.insert(service.name.clone(), Arc::new(front));
        }
        Ok(fronts)
    }

    fn front(&self, service: &ServiceName, of: &Tls, keys: &dyn KeySource) -> anyhow::Result<Front> {
        let mistake = |m: Mistake| anyhow!("{m}");
        let mut front = weir_tls::Front::new(Policy::asked(of).map_err(mistake)?)
            .strict(of.unknown_names == UnknownNames::Refuse)
            .alpn(of.alpn.iter().map(String::as_str));
        let mut names = Vec::new();
        for certificate in &of.certificates {
            let path = certificate.chain.path.display();
            let read = files::certificate(certificate).map_err(|m| anyhow!("{path}: {m}"))?;
            names.extend(read.names().iter().map(ToString::to_string));
            names.extend(read.addresses().iter().map(ToString::to_string));
            front = front.certificate(read, Vec::new());
        }
        let tickets = match &of.ticket_keys {
            Some(file) => Arc::new(TicketKeys::shared(file.text.as_bytes()).map_err(mistake)?),
            None => Arc::clone(&self.tickets),
        };
        let lifetime = u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX);
        front = front.tickets(Tickets::new(tickets, service.as_str().as_bytes(), lifetime));
        let clients = files::clients(&of.clients).map_err(mistake)?;
        if let Some(clients) = &clients {
            front = front.clients(clients.clone());
        }
        let (_, config) = front.build(keys).map_err(mistake)?;
        Ok(Front {
            config,
            names,
            clients,
        })
    }
}
