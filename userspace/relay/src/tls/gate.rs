//! How many handshakes are under way, and their turns: work of milliseconds, which must not hold up the traffic of
//! connections that are established.
//!
//! A handshake waits for its turn before each step that costs. One has its turn per pass of the runtime over the tasks that
//! are ready, so that whatever is ready beside it runs in between.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// A worker's handshakes.
#[derive(Default)]
pub(crate) struct Gate {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
    /// A task gives out turns.
    runs: Cell<bool>,
}

#[derive(Default)]
struct Ticket {
    waker: RefCell<Option<Waker>>,
    turn: Cell<bool>,
    gone: Cell<bool>,
}

/// A place in the queue.
#[derive(Default)]
pub(super) struct Turn(Option<Rc<Ticket>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0 {
            ticket.gone.set(true);
        }
    }
}

impl Turn {
    /// Ready once it is this handshake's turn, once per step.
    pub(super) fn poll(&mut self, cx: &Context<'_>, gate: &Rc<Gate>) -> Poll<()> {
        if let Some(ticket) = &self.0 {
            if ticket.turn.get() {
                self.0 = None;
                return Poll::Ready(());
            }
            *ticket.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !gate.runs.get() {
            // Nobody had a turn in this pass.
            gate.runs.set(true);
            tokio::task::spawn_local(give_turns(Rc::clone(gate)));
            return Poll::Ready(());
        }
        let ticket = Rc::new(Ticket::default());
        *ticket.waker.borrow_mut() = Some(cx.waker().clone());
        gate.waiting.borrow_mut().push_back(Rc::clone(&ticket));
        self.0 = Some(ticket);
        Poll::Pending
    }
}

/// Gives one turn per pass until nobody waits.
async fn give_turns(gate: Rc<Gate>) {
    loop {
        // Behind everything that is ready now, and what the system says is.
        tokio::task::yield_now().await;
        let next = loop {
            let next = gate.waiting.borrow_mut().pop_front();
            match next {
                Some(ticket) if ticket.gone.get() => {}
                next => break next,
            }
        };
        let Some(ticket) = next else {
            gate.runs.set(false);
            return;
        };
        ticket.turn.set(true);
        let waker = ticket.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
