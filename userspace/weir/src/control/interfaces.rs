//! Interfaces that listeners and pools name, as they come and go.
//!
//! A socket is bound to an interface, not to a name: one that is taken away and made anew is another, and what was bound to it
//! hears nothing any more. Its listeners are bound anew then, and its rules and routes set again.

use tracing::{error, info};
use weir_datapath::listen;

use super::state::Control;

impl Control {
    /// Looks whether an interface is another than before, or lacks its way out, and puts that right.
    pub(super) async fn mind_interfaces(&mut self) {
        let plan = self.loaded.plan.clone();
        if plan.named_interfaces().is_empty() {
            return;
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.uplinks(&plan).await
        {
            error!(
                error = format!("{error:#}"),
                "ways out by interfaces can't be kept as they should be"
            );
        }
        let lost = self.listeners.iter().find_map(|(key, sockets)| {
            let interface = key.interface?;
            let socket = sockets.first()?;
            listen::is_lost(socket, interface).then_some(interface)
        });
        let Some(interface) = lost else { return };
        info!(%interface, "the interface is another than before: its listeners are bound anew");
        let error_before = self.reload_error.clone();
        let loaded = self.loaded.clone();
        if let Err(error) = self.put_in_force(loaded, &mut None).await {
            error!(
                %interface,
                error = format!("{error:#}"),
                "listeners can't be bound anew"
            );
        }
        // It is about weir.toml, which was not read again.
        self.reload_error = error_before;
    }
}
