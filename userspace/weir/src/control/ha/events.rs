//! What control waits for of virtual routers.

use super::{Ha, Report, Running};

/// What [`Ha::changed`] waits for.
pub(in crate::control) enum Event {
    /// The thread says something.
    Report(Report),
    /// Some link has changed.
    Links,
    /// The thread has died.
    Died,
    /// It is to be started again.
    Revive,
}

impl Ha {
    /// Waits for what the thread has to tell, for its end, or for a link to change.
    pub(in crate::control) async fn changed(&mut self) -> Event {
        let (links, driver) = match &mut self.running {
            Some(Running { links, driver, .. }) => (Some(links), Some(driver)),
            None => (None, None),
        };
        let linked = async {
            match links {
                Some(links) => links.changed().await,
                None => std::future::pending().await,
            }
        };
        let deaths = &self.deaths;
        let died = async {
            match driver {
                Some(driver) if !deaths.is_dead() => driver.died().await,
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // What it has told before it died counts first.
            Some(report) = self.reports.recv() => Event::Report(report),
            () = died => Event::Died,
            () = deaths.due() => Event::Revive,
            () = linked => Event::Links,
        }
    }
}
