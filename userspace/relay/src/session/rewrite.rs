//! What the service's rules make of a request: who it goes to and how, its id, or the answer that it gets at once.

use std::{rc::Rc, time::SystemTime};

use weir_core::plan::{Http, Rewrite, RuleAction, Via};

use super::{Exchange, Next, Session, client::Client};
use crate::{
    fault::Fault,
    http1::{
        forwarded::Trust,
        head::Malformed,
        id::RequestId,
        own::{self, Own},
        request::Request,
        response::{Asked, Response},
        rewrite::{self, Chosen},
        rules::Rules,
        template::Variables,
        write::{self, ClientConnection, RequestChanges, ResponseChanges, ResponseShape},
    },
    worker::LocalRoute,
};

impl<C: Client> Session<C> {
    /// Decides what becomes of a request. True: it is answered, and `x.out` is the response.
    ///
    /// # Errors
    /// Its path can be read in more than one way, and the service looks at paths; or rules have made the answer too
    /// large.
    pub(super) fn decide(
        &self,
        x: &mut Exchange,
        parsed: &Request<'_, '_>,
        http: &Http,
    ) -> Result<bool, Malformed> {
        let route = Rc::clone(&x.route);
        let prepared = &route.prepared;
        if prepared.reads_paths {
            rewrite::check_path(parsed)?;
        }
        if prepared.makes_ids {
            x.id = self.request_id(http, parsed);
        }
        // A request that ends here by `Max-Forwards` is answered in another way.
        if http.rules.is_empty() || x.answer.is_some() {
            return Ok(false);
        }
        let trust = self.trust(http);
        let vars = self.variables(&route, None, false);
        x.rule = rewrite::choose(&http.rules, parsed, trust, &vars);
        let answer = match x
            .rule
            .and_then(|chosen| http.rules.get(chosen.rule))
            .map(|r| &r.action)
        {
            None => return Ok(false),
            Some(RuleAction::Relay(_)) => {
                if let Some(other) = x.rule.and_then(|chosen| route.by_rule(chosen.rule)) {
                    x.goes_to(other);
                }
                return Ok(false);
            }
            Some(RuleAction::Redirect(redirect)) => Own::Redirect(redirect),
            Some(RuleAction::Respond(respond)) => Own::Respond(respond),
        };
        let vars = Variables {
            request: Some((parsed, trust)),
            rest: rewrite::rest(parsed, x.rule),
            id: x.id.as_bytes(),
            ..self.variables(&route, None, false)
        };
        let (now, rules) = (SystemTime::now(), &prepared.response_rules);
        let to_head = x.method == Asked::Head;
        let place = own::write(&mut x.out, answer, to_head, now, rules, &vars)?;
        let place = u32::try_from(place).map_err(|_| Malformed::TooLarge)?;
        x.ruled = Some((answer.status(), place));
        Ok(true)
    }

    pub(super) fn request_id(&self, http: &Http, parsed: &Request<'_, '_>) -> RequestId {
        let sent = match &http.request_id {
            Some(name) if self.trust(http).sender => RequestId::sent(parsed, name),
            Some(_) | None => None,
        };
        sent.unwrap_or_else(|| self.worker.ids.borrow_mut().next(SystemTime::now()))
    }

    /// Whether a proxy in front, whose word counts, tells that the client came to it over TLS.
    pub(super) fn is_told_secure(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.secure)
    }

    pub(super) fn trust<'h>(&self, http: &'h Http) -> Trust<'h> {
        Trust::new(http.forwarded, &http.trusted_proxies, self.address.ip())
    }

    /// Writes the request's head into `x.out`, for a backend.
    ///
    /// # Errors
    /// What rewriting has made of it is no request.
    pub(super) fn write_request(
        &self,
        x: &mut Exchange,
        parsed: &Request<'_, '_>,
        http: &Http,
        index: Option<usize>,
    ) -> Result<(), Malformed> {
        let route = Rc::clone(&x.route);
        let trust = self.trust(http);
        let vars = Variables {
            request: Some((parsed, trust)),
            rest: rewrite::rest(parsed, x.rule),
            id: x.id.as_bytes(),
            ..self.variables(&route, index, parsed.no_host)
        };
        let changes = RequestChanges {
            rules: &route.prepared.request_rules,
            rewrite: rewrite_of(http, x.rule),
            vars: &vars,
            trust,
            fields: &http.forwarded_fields,
            via: (http.wire.via != Via::Off).then_some(&*route.route.node),
            client: &self.address_text,
            websocket: &http.websocket,
        };
        write::request(&mut x.out, parsed, &changes)?;
        x.head_out = x.out.len();
        x.written_for = index;
        Ok(())
    }

    /// Writes a response's head into `out`.
    ///
    /// # Errors
    /// Rules have made it too large.
    pub(super) fn write_response(
        &self,
        out: &mut Vec<u8>,
        x: &Exchange,
        parsed: &Response<'_, '_>,
        shape: ResponseShape,
        http: &Http,
    ) -> Result<(), Malformed> {
        x.raw.read(|request| {
            let vars = Variables {
                request: request.map(|request| (request, self.trust(http))),
                rest: request.map_or("", |request| rewrite::rest(request, x.rule)),
                id: x.id.as_bytes(),
                response: Some(parsed),
                ..self.variables(&x.route, x.backend, false)
            };
            let changes = ResponseChanges {
                rules: &x.route.prepared.response_rules,
                vars: &vars,
                via: (http.wire.via == Via::Both).then_some(&*x.route.route.node),
            };
            write::response(out, parsed, shape, &changes, SystemTime::now)
        })?
    }

    /// What variables stand for, but those of request and response. `server` says that the address the client connected
    /// to is needed, whatever the rules say.
    pub(super) fn variables<'a>(
        &'a self,
        route: &'a LocalRoute,
        index: Option<usize>,
        server: bool,
    ) -> Variables<'a>
    where
        C: 'a,
    {
        Variables {
            node: &route.route.node,
            service: &route.route.service,
            pool: route.pool_name(),
            client: self.address,
            server: if route.prepared.needs_server || server || self.told.is_some() {
                self.server()
            } else {
                None
            },
            tls: self.client.tls().map(|tls| &**tls),
            told_secure: self.is_told_secure(),
            backend: index.and_then(|index| route.pool.backend(index)),
            id: b"",
            request: None,
            rest: "",
            response: None,
        }
    }

    /// A response of weir's own after a fault; `x` is the request's exchange, if there was one.
    pub(super) fn own_response(
        &self,
        route: &LocalRoute,
        x: Option<&Exchange>,
        id: &RequestId,
        status: u16,
        to_head: bool,
        connection: ClientConnection,
    ) -> Vec<u8> {
        let write = |request: Option<&Request<'_, '_>>| {
            let http = super::http(route);
            let vars = Variables {
                request: request.zip(http.map(|http| self.trust(http))),
                id: id.as_bytes(),
                ..self.variables(route, None, false)
            };
            fault_response(status, to_head, connection, &route.prepared.response_rules, &vars)
        };
        match x {
            // A head that was accepted once is accepted again; else there is nothing to say of it.
            Some(x) => x.raw.read(write).unwrap_or_else(|_| write(None)),
            None => write(None),
        }
    }

    /// Sends the answer that a rule has for the request.
    pub(super) async fn answer_by_rule(&mut self, x: &mut Exchange) -> Next {
        let Some((status, place)) = x.ruled else {
            return Next::Close { linger: false };
        };
        let keeps = x.keep_alive && x.is_read() && !self.is_ending();
        let mut own = std::mem::take(&mut x.out);
        own::connection(&mut own, place as usize, C::told(keeps, x.version));
        let next = self.send_answer(x, status, own, keeps).await;
        if !x.is_answered() {
            x.fault = Some(Fault::ClientClosed);
        }
        next
    }
}

/// A whole response after a fault.
pub(super) fn fault_response(
    status: u16,
    to_head: bool,
    connection: ClientConnection,
    rules: &Rules,
    vars: &Variables<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let now = SystemTime::now();
    let answer = Own::Fault(status);
    let written = own::write(&mut out, answer, to_head, now, rules, vars).or_else(|_| {
        // It is rules that have made it too large, so it goes out without them.
        out.clear();
        own::write(&mut out, answer, to_head, now, &Rules::default(), vars)
    });
    let place = written.unwrap_or_default();
    own::connection(&mut out, place, connection);
    out
}

/// How a request is rewritten: as its rule says, else as the service says.
fn rewrite_of(http: &Http, chosen: Option<Chosen>) -> &Rewrite {
    match chosen.and_then(|chosen| http.rules.get(chosen.rule)) {
        Some(rule) => match &rule.action {
            RuleAction::Relay(relayed) => relayed.rewrite.as_ref().unwrap_or(&http.rewrite),
            RuleAction::Redirect(_) | RuleAction::Respond(_) => &http.rewrite,
        },
        None => &http.rewrite,
    }
}
