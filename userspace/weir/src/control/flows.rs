//! `weir flows`, control's side: from a request to a look at the tables, on another thread than the control loop's.

use tokio::sync::oneshot;
use tracing::debug;
use weir_core::ids::ServiceName;
use weir_datapath::flows::{Flow, FlowFilter, FlowOrder, FlowView};

use super::state::Control;
use crate::admin::api::{self, Answer, Request};

/// Flows shown unless asked otherwise.
const SHOWN: u32 = 100;
/// Flows shown at most: what an answer may hold.
const MOST: u32 = 100_000;

/// A request that was understood.
struct Query {
    filter: FlowFilter,
    order: FlowOrder,
    limit: usize,
}

impl Control {
    /// Answers as soon as the tables were read; the control loop does not wait for it.
    pub(super) fn list_flows(&self, request: &Request, reply: oneshot::Sender<Answer>) {
        let prepared = self
            .flow_query(request)
            .and_then(|query| Ok((query, self.flow_view()?)));
        let (query, view) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = reply.send(Answer::error(error));
                return;
            }
        };
        tokio::task::spawn_blocking(move || {
            // A question whose asker has gone away is nobody's loss.
            if reply.send(look(&query, &view)).is_err() {
                debug!("nobody waits for the flows any more");
            }
        });
    }

    fn flow_view(&self) -> Result<FlowView, String> {
        let kernel = self
            .kernel
            .as_ref()
            .ok_or("node.xdp is \"off\": there is no L4 plane that could have flows")?;
        kernel.flow_view().map_err(|e| format!("{e:#}"))
    }

    fn flow_query(&self, request: &Request) -> Result<Query, String> {
        let Request::Flows {
            service,
            backend,
            source,
            destination,
            closed,
            sort,
            limit,
        } = request
        else {
            return Err("this request is not for flows".to_owned());
        };
        let network = |text: &Option<String>, key| match text {
            Some(text) => weir_config::args::network(text)
                .map(Some)
                .map_err(|e| format!("{key} {e}")),
            None => Ok(None),
        };
        let service = match service {
            Some(name) => {
                let name = ServiceName::new(name.as_str());
                if self.loaded.plan.service(&name).is_none() {
                    return Err(format!(
                        "there is no service {name}; `weir status` shows them all"
                    ));
                }
                Some(name)
            }
            None => None,
        };
        let backend = match backend {
            Some(name) => Some(self.find_backend(name).ok_or_else(|| {
                format!("there is no backend {name}; write POOL/ADDRESS as `weir pools` shows them")
            })?),
            None => None,
        };
        let order = match sort.as_deref() {
            None | Some("newest") => FlowOrder::Newest,
            Some("bytes") => FlowOrder::Bytes,
            Some("packets") => FlowOrder::Packets,
            Some(other) => return Err(format!("there is no order {other}; use newest, bytes or packets")),
        };
        let limit = if *limit == 0 { SHOWN } else { *limit };
        if limit > MOST {
            return Err(format!(
                "at most {MOST} flows are shown at once; narrow the filter"
            ));
        }
        Ok(Query {
            filter: FlowFilter {
                service,
                backend,
                source: network(source, "source")?,
                destination: network(destination, "destination")?,
                closed: *closed,
            },
            order,
            limit: limit as usize,
        })
    }
}

fn look(query: &Query, view: &FlowView) -> Answer {
    match view.list(&query.filter, query.order, query.limit) {
        Ok(found) => Answer::result(&api::Flows {
            total: found.total,
            matched: found.matched,
            accounting: found.accounting,
            flows: found.flows.into_iter().map(shown).collect(),
        }),
        Err(error) => Answer::error(format!("the flows can't be read: {error}")),
    }
}

fn shown(flow: Flow) -> api::Flow {
    api::Flow {
        client: flow.client.to_string(),
        vip: flow.vip.to_string(),
        protocol: match flow.protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            other => other.to_string(),
        },
        service: flow.service.map(|name| name.to_string()),
        backend: flow.backend.map(|key| key.to_string()),
        source: flow.source.map(|source| source.to_string()),
        age_seconds: flow.age,
        idle_seconds: flow.idle,
        packets: flow.packets,
        bytes: flow.bytes,
        state: flow.stage.as_str().to_owned(),
    }
}
