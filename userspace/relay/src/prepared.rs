//! What a service changes of messages, prepared once per plan: header rules in the form that writers want, and what has to
//! be kept of a request for them.

use weir_core::plan::{ForwardedField, HostRewrite, Http, Rewrite, RuleAction, Template, Variable};

use crate::http1::rules::Rules;

/// Of one service.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) request_rules: Rules,
    pub(crate) response_rules: Rules,
    /// Something wants the address that the client connected to.
    pub(crate) needs_server: bool,
    /// A request is not the same for every backend.
    pub(crate) per_backend: bool,
    /// The request's head is wanted after it was written: for another backend, or for the response.
    pub(crate) keeps_head: bool,
    /// Requests have ids.
    pub(crate) makes_ids: bool,
    /// Rules look at paths, or change them.
    pub(crate) reads_paths: bool,
}

impl Prepared {
    pub(crate) fn new(http: &Http) -> Self {
        let request_rules = Rules::new(&http.request_headers).with_request_id(http.request_id.as_ref());
        let response_rules = Rules::new(&http.response_headers);
        let rewrites = || rewrites(http);
        let of_request = || {
            request_rules
                .templates()
                .chain(rewrites().flat_map(Rewrite::templates))
        };
        let of_answers = || http.rules.iter().flat_map(|rule| answered(&rule.action));
        let of_response = || response_rules.templates().chain(of_answers());
        let all = || of_request().chain(of_response());
        let per_backend = of_request().any(|t| t.uses(&Variable::OF_BACKEND))
            || rewrites().any(|r| r.host == HostRewrite::Backend);
        let looks = |rule: &weir_core::plan::Rule| {
            !rule.conditions.path.is_empty() || !rule.conditions.path_prefix.is_empty()
        };
        Self {
            needs_server: all().any(|t| t.uses(&Variable::OF_SERVER))
                || http.forwarded_fields.contains(&ForwardedField::Port),
            per_backend,
            keeps_head: per_backend || response_rules.templates().any(Template::uses_request),
            makes_ids: http.request_id.is_some() || all().any(|t| t.uses(&[Variable::RequestId])),
            reads_paths: http.rules.iter().any(looks) || rewrites().any(Rewrite::changes_target),
            request_rules,
            response_rules,
        }
    }
}

/// All ways in which the service rewrites requests.
fn rewrites(http: &Http) -> impl Iterator<Item = &Rewrite> {
    let by_rule = http.rules.iter().filter_map(|rule| match &rule.action {
        RuleAction::Relay(relayed) => relayed.rewrite.as_ref(),
        RuleAction::Redirect(_) | RuleAction::Respond(_) => None,
    });
    by_rule.chain([&http.rewrite])
}

/// The templates of what a rule answers.
fn answered(action: &RuleAction) -> impl Iterator<Item = &Template> {
    let (to, headers) = match action {
        RuleAction::Relay(_) => (None, [].as_slice()),
        RuleAction::Redirect(redirect) => (Some(&redirect.to), [].as_slice()),
        RuleAction::Respond(respond) => (None, respond.headers.as_slice()),
    };
    to.into_iter().chain(headers.iter().map(|(_, template)| template))
}
