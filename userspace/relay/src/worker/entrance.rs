//! What connections of one listener come in by, on one worker.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use weir_core::ids::ServiceName;

use super::LocalRoute;

/// What connections of one listener come in by: outlives plans, follows them.
pub(crate) struct Entrance {
    pub(super) service: RefCell<ServiceName>,
    pub(super) route: RefCell<Option<Rc<LocalRoute>>>,
    /// The listener is gone, or serves another service now: what has begun is finished by the last route.
    pub(super) closed: Cell<bool>,
    /// What comes in was going to addresses that are not on this box.
    pub(super) transparent: bool,
}

impl Entrance {
    /// The service as the present plan has it; for a listener that is gone, as the last plan had it. None: the service
    /// is gone.
    #[inline]
    pub(crate) fn route(&self) -> Option<Rc<LocalRoute>> {
        self.route.borrow().clone()
    }

    /// Whether what comes in was going to addresses that are not on this box.
    pub(crate) const fn is_transparent(&self) -> bool {
        self.transparent
    }

    /// Whether its connections may not begin another request.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get() || self.route.borrow().is_none()
    }
}
