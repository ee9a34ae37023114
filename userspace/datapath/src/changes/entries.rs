//! Service entries and their rings.
//!
//! A ring is written beside the one it replaces; all keys of a service and family share it. What a slot remembers of its
//! last change is `rings`'s.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::{
    Service, ServiceLimits, Slot,
    maps::{action, service as flags},
};
use weir_core::{
    ids::{BackendKey, ServiceName},
    plan::{FlowHash, Forward, OnBackendDown, PerSource},
};

use super::{Family, Filled, Limits, Op, State, YOUNG, canonical, check::Checked, sources::Sources};
use crate::{
    WantedAction, WantedForward,
    assign::Numbers,
    error::Error,
    rings::{self, Area, Space, Taker},
};

/// The areas that a state's services use.
pub(super) fn areas(state: &State) -> BTreeSet<Area> {
    let rings = state.services.values().filter(|s| s.ring_len != 0);
    rings
        .map(|s| Area {
            offset: s.ring_offset,
            len: s.ring_len,
        })
        .collect()
}

/// What `SERVICE_LIMITS` says of a service. All zero if nothing is bounded.
pub(super) fn limits(per_source: &PerSource) -> ServiceLimits {
    if !per_source.is_limited() {
        return ServiceLimits::default();
    }
    // A ban of less than a second is one of a second: 0 would be none.
    let ban = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    ServiceLimits {
        rate: per_source.rate.unwrap_or(0),
        open: per_source.connections.unwrap_or(0),
        ban: per_source.ban.map_or(0, ban),
        mask_v4: words(u32::from(per_source.prefix_v4) + 96)[3],
        mask_v6: words(per_source.prefix_v6.into()),
        prefixes: u32::from(per_source.prefix_v4) | u32::from(per_source.prefix_v6) << 16,
        reserved: 0,
    }
}

/// The first `bits` of an address as a mask, as it lies in an `Addr16`.
fn words(bits: u32) -> [u32; 4] {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    let octets = mask.to_be_bytes();
    let (quads, _) = octets.as_chunks::<4>();
    let mut words = [0; 4];
    for (word, quad) in words.iter_mut().zip(quads) {
        *word = u32::from_ne_bytes(*quad);
    }
    words
}

/// The entry of a service but for its ring and its sources.
fn entry(service: &Checked<'_>, id: u32, family: Family) -> Service {
    let mut out = Service {
        id,
        action: action::RELAY,
        ..Service::default()
    };
    if service.per_source.is_limited() {
        out.flags |= flags::LIMITED;
    }
    let Some(forward) = service.forward() else {
        return out;
    };
    out.action = match forward.mode {
        Forward::Nat => action::NAT,
        Forward::FullNat => action::FULL_NAT,
        Forward::Dsr => action::DSR,
        Forward::Ipip => action::IPIP,
    };
    match forward.hash {
        FlowHash::Flow => {}
        FlowHash::Source { prefix_v4, prefix_v6 } => {
            out.flags |= flags::HASH_MASKED;
            out.hash_mask = words(match family {
                Family::V4 => u32::from(prefix_v4) + 96,
                Family::V6 => prefix_v6.into(),
            });
        }
        FlowHash::Quic { len } => {
            out.flags |= flags::HASH_QUIC | u32::from(len & 0xf) << flags::QUIC_LEN_SHIFT;
        }
    }
    if forward.on_backend_down == OnBackendDown::Reset {
        out.flags |= flags::RESET;
    }
    out.flags |= u32::from(forward.mss.unwrap_or(0)) << flags::MSS_SHIFT;
    out
}

/// The entries of one plan.
pub(super) struct Entries<'a, R> {
    old: &'a State,
    /// The L4 services of before, by id and family.
    before: BTreeMap<(u32, Family), Service>,
    space: Space,
    limits: &'a Limits,
    read: R,
    now: u32,
    pub(super) sources: Sources<'a>,
    pub(super) writes: Vec<Op>,
    pub(super) filled: BTreeMap<(ServiceName, Family), Filled>,
    /// Done already in this plan, with whether somebody takes new flows.
    done: BTreeMap<(ServiceName, Family), (Service, bool)>,
    pub(super) began: BTreeMap<(ServiceName, Family), u32>,
    pub(super) unsettled: BTreeMap<(ServiceName, Family), u32>,
}

impl<'a, R: Fn(Area) -> Vec<Slot>> Entries<'a, R> {
    pub(super) fn new(old: &'a State, limits: &'a Limits, read: R, now: u32) -> Self {
        let forwarded = old.services.iter().filter(|(_, s)| s.action != action::RELAY);
        Self {
            old,
            before: forwarded
                .map(|(listen, service)| ((service.id, Family::of(listen.addr)), *service))
                .collect(),
            space: Space::new(
                limits.ring_slots,
                areas(old).into_iter().chain(old.leaving.iter().copied()),
            ),
            limits,
            read,
            now,
            sources: Sources::new(old, limits),
            writes: Vec::new(),
            filled: BTreeMap::new(),
            done: BTreeMap::new(),
            began: BTreeMap::new(),
            unsettled: BTreeMap::new(),
        }
    }

    /// The entry of a service for one family, and whether it can serve: all its keys of that family share it.
    pub(super) fn service(
        &mut self,
        service: &Checked<'_>,
        id: u32,
        family: Family,
        numbers: &Numbers<BackendKey>,
    ) -> Result<(Service, bool), Error> {
        let value = entry(service, id, family);
        let forward = match service.action {
            WantedAction::Relay { up } => return Ok((value, *up)),
            WantedAction::Forward(forward) => forward,
        };
        let key = (service.name.clone(), family);
        if let Some(done) = self.done.get(&key) {
            return Ok(*done);
        }
        let mut value = self.ring(&key, value, forward, numbers)?;
        // Asked for before anybody is up: what cannot be shall be said at once.
        let any = || {
            forward
                .backends
                .iter()
                .any(|b| Family::of(canonical(b.key.address).ip()) == family)
        };
        if forward.mode == Forward::FullNat && any() {
            let sources = self.sources.of(service.name, forward.sources.as_ref(), family)?;
            (value.sources, value.source_count) = sources;
        }
        let up = self
            .filled
            .get(&key)
            .is_some_and(|filled| !filled.takers.is_empty());
        self.done.insert(key, (value, up));
        Ok((value, up))
    }

    /// Gives an entry its ring.
    fn ring(
        &mut self,
        key: &(ServiceName, Family),
        value: Service,
        forward: &WantedForward,
        numbers: &Numbers<BackendKey>,
    ) -> Result<Service, Error> {
        let (name, family) = key;
        let before = self.before.get(&(value.id, *family)).copied().unwrap_or_default();
        let old_area = (before.ring_len != 0).then_some(Area {
            offset: before.ring_offset,
            len: before.ring_len,
        });

        let mut nobody = true;
        let mut takers = Vec::new();
        for wanted in &forward.backends {
            let address = canonical(wanted.key.address);
            // A tunnel's end may be of either family, whatever is in the tunnel.
            if forward.mode != Forward::Ipip && Family::of(address.ip()) != *family {
                continue;
            }
            nobody = false;
            if let (true, 1.., Some(index)) = (wanted.alive, wanted.weight, numbers.get(&wanted.key)) {
                takers.push(Taker {
                    address,
                    index,
                    weight: wanted.weight,
                });
            }
        }
        // So that the order of the file makes no difference.
        takers.sort_unstable_by_key(|taker| (taker.address, taker.index));
        let filled = Filled {
            size: forward.ring_size,
            takers,
        };

        let service = Service {
            generation: before.generation,
            ..value
        };
        let with = |area: Area, generation| Service {
            ring_offset: area.offset,
            ring_len: area.len,
            generation,
            ..service
        };
        let began = match (self.old.began.get(key), old_area) {
            (Some(&began), _) => Some(began),
            (None, None) => (!filled.takers.is_empty()).then_some(self.now),
            (None, Some(_)) => None,
        };
        self.began.extend(began.map(|began| (key.clone(), began)));
        let done = match old_area {
            _ if nobody => service,
            Some(area) if area.len == filled.size && self.old.filled.get(key) == Some(&filled) => {
                self.settle(key, area);
                with(area, before.generation)
            }
            // Nobody takes new flows and nobody ever did: no ring is needed to say so.
            None if filled.takers.is_empty() => service,
            _ => {
                let ring = |cause| Error::Ring {
                    service: name.clone(),
                    size: filled.size,
                    cause,
                };
                let current = rings::fill(self.limits.hash_key, filled.size, &filled.takers).map_err(ring)?;
                let old_slots = old_area.map(|area| (self.read)(area)).unwrap_or_default();
                let young = began.is_some_and(|began| self.now.saturating_sub(began) < YOUNG);
                let slots = rings::follow(&old_slots, &current, self.now, self.limits.horizon, young);
                self.unsettled
                    .extend(rings::oldest(&slots).map(|oldest| (key.clone(), oldest)));
                match old_area {
                    Some(area) if old_slots == slots => with(area, before.generation),
                    _ => {
                        let area = self.space.take(filled.size).ok_or_else(|| Error::Full {
                            what: "ring slots",
                            need: self.space.used() + u64::from(filled.size),
                            room: self.limits.ring_slots.into(),
                            mend: "take a smaller ring_size, or fewer L4 services",
                        })?;
                        self.writes.push(Op::WriteRing(area, slots));
                        with(area, before.generation.wrapping_add(1))
                    }
                }
            }
        };
        self.filled.insert(key.clone(), filled);
        Ok(done)
    }

    /// Lets old changes go, so that packets of their slots read no clock any more. A ring without any is not even looked
    /// at: there may be hundreds.
    fn settle(&mut self, key: &(ServiceName, Family), area: Area) {
        let Some(&oldest) = self.old.unsettled.get(key) else {
            return;
        };
        if self.now.saturating_sub(oldest) <= self.limits.horizon {
            self.unsettled.insert(key.clone(), oldest);
            return;
        }
        let mut slots = (self.read)(area);
        let settled = rings::settled(&slots, self.now, self.limits.horizon);
        for (i, slot) in &settled {
            if let Some(place) = slots.get_mut(*i as usize) {
                *place = *slot;
            }
        }
        self.unsettled
            .extend(rings::oldest(&slots).map(|oldest| (key.clone(), oldest)));
        if !settled.is_empty() {
            let place = |(i, slot)| (area.offset.saturating_add(i), slot);
            self.writes
                .push(Op::SettleSlots(settled.into_iter().map(place).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_lie_as_addresses_do() {
        let octets = |bits| words(bits).map(u32::to_ne_bytes).concat();
        assert_eq!(octets(0), [0; 16]);
        assert_eq!(octets(128), [0xff; 16]);
        let mut expected = [0_u8; 16];
        expected[..2].fill(0xff);
        expected[2] = 0xf0;
        assert_eq!(octets(20), expected);
        assert_eq!(words(96 + 32), [u32::MAX; 4]);
    }

    #[test]
    fn limits_say_what_was_asked_for() {
        let per_source = PerSource {
            rate: Some(10),
            prefix_v4: 24,
            prefix_v6: 48,
            ban: Some(std::time::Duration::from_millis(200)),
            ..PerSource::default()
        };
        let found = limits(&per_source);
        assert_eq!((found.rate, found.open, found.ban), (10, 0, 1));
        assert_eq!(found.mask_v4.to_ne_bytes(), [0xff, 0xff, 0xff, 0]);
        assert_eq!(found.mask_v6[0], u32::MAX);
        assert_eq!(found.mask_v6[1].to_ne_bytes(), [0xff, 0xff, 0, 0]);
        assert_eq!(found.prefixes, 24 | 48 << 16);
        assert_eq!(limits(&PerSource::default()), ServiceLimits::default());
    }
}
