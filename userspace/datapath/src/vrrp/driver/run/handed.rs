//! Adverts that the kernel's programs hand out.

use weir_core::vrrp::Family;

use super::{Hands, Loop, Report, TURN};

impl<H: Hands, R: Fn(Report)> Loop<H, R> {
    /// Has the kernel's programs hand out what is for these links, as they are now.
    pub(super) fn hear(&self) {
        let Some(adverts) = &self.adverts else { return };
        let routers = self.groups.iter().flat_map(|group| &group.routers);
        let places: Vec<_> = routers
            .flat_map(|it| {
                let own = it.link.own();
                [Family::of(own).group(), own].map(|to| (it.link.index(), to))
            })
            .collect();
        // Then the sockets get them.
        if let Err(error) = adverts.hear(&places) {
            tracing::warn!(%error, "adverts of virtual routers come by the sockets alone");
        }
    }

    /// Takes what the kernel's programs have handed out.
    pub(super) fn receive_handed_out(&mut self) {
        for _ in 0..TURN {
            let adverts = self.adverts.as_mut();
            let Some(arrived) = adverts.and_then(|adverts| adverts.receive(&mut self.buffer)) else {
                return;
            };
            // As by their sockets, each router on the link hears all of its family.
            let is_v4 = self.buffer.first().is_some_and(|first| first >> 4 == 4);
            for group in 0..self.groups.len() {
                let routers = self.groups.get(group).map_or(0, |group| group.routers.len());
                for router in 0..routers {
                    let it = self.groups.get(group).and_then(|group| group.routers.get(router));
                    if it.is_some_and(|it| {
                        it.link.index() == arrived.ifindex && it.link.own().is_ipv4() == is_v4
                    }) {
                        self.consider(group, router, arrived.len, arrived.at);
                    }
                }
            }
        }
    }
}
