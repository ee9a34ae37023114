//! What becomes of a request's target and `Host`: rules of the service, and the rewriting they say.
//!
//! What comes out is always a valid target in origin form and a valid host, whatever a client sent: values are
//! percent-encoded where they could end what they stand in, and what is no target or host even so is refused.

use weir_core::plan::{HostRewrite, PathRewrite, Replacement, Rewrite, Rule};

use super::{
    forwarded::Trust,
    head::Malformed,
    path,
    request::Request,
    target,
    template::{Place, Variables, WRITTEN_MOST, replace},
};

/// The rule that holds for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its position.
    pub rule: usize,
    /// Where what follows the matched prefix begins in the path.
    pub rest: usize,
}

/// The first rule that holds. `vars` stand for what conditions on variables speak of.
#[inline]
pub fn choose(
    rules: &[Rule],
    request: &Request<'_, '_>,
    trust: Trust<'_>,
    vars: &Variables<'_>,
) -> Option<Chosen> {
    rules.iter().enumerate().find_map(|(rule, asked)| {
        let variables = &asked.conditions.variable;
        if !variables.iter().all(|condition| vars.holds(condition)) {
            return None;
        }
        let rest = path::holds(&asked.conditions, request, trust)?;
        Some(Chosen { rule, rest })
    })
}

/// What follows the matched prefix.
pub fn rest<'b>(request: &Request<'_, 'b>, chosen: Option<Chosen>) -> &'b str {
    chosen
        .and_then(|chosen| path::parts(&request.target).0.get(chosen.rest..))
        .unwrap_or_default()
}

/// Refuses a request whose path weir and a backend could read differently. For services that look at paths.
///
/// # Errors
/// [`Malformed::DotSegments`].
pub fn check_path(request: &Request<'_, '_>) -> Result<(), Malformed> {
    let (path, _) = path::parts(&request.target);
    if path::has_dot_segments(path.as_bytes()) {
        Err(Malformed::DotSegments)
    } else {
        Ok(())
    }
}

/// Writes the target.
///
/// # Errors
/// [`Malformed::Target`] if what comes out is none, [`Malformed::TargetTooLong`].
#[inline]
pub(super) fn target(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    rewrite: &Rewrite,
    vars: &Variables<'_>,
) -> Result<(), Malformed> {
    if rewrite.changes_target() && !path::parts(&request.target).0.is_empty() {
        return rewritten(out, request, rewrite, vars);
    }
    if request.target.slash {
        out.push(b'/');
    }
    out.extend_from_slice(request.target.path.as_bytes());
    Ok(())
}

fn rewritten(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    rewrite: &Rewrite,
    vars: &Variables<'_>,
) -> Result<(), Malformed> {
    let (path, query) = path::parts(&request.target);
    let start = out.len();
    match &rewrite.path {
        PathRewrite::Keep => out.extend_from_slice(path.as_bytes()),
        PathRewrite::Prefix { strip, add } => {
            vars.template(out, add, Place::Path);
            let stripped = match strip.as_str() {
                "" => None,
                _ => path::behind(strip, path).and_then(|at| path.get(at..)),
            };
            match stripped {
                // Exactly one slash, so that nobody takes what follows for an authority.
                Some(rest) if !rest.is_empty() => {
                    out.push(b'/');
                    out.extend_from_slice(rest.trim_start_matches('/').as_bytes());
                }
                Some(_) => {}
                None => out.extend_from_slice(path.as_bytes()),
            }
        }
        PathRewrite::Whole(template) => vars.template(out, template, Place::Path),
    }
    for Replacement { find, with } in &rewrite.replace {
        replace(out, start, find, |out| out.extend_from_slice(with.as_bytes()));
    }
    if out.len() == start {
        out.push(b'/');
    }
    let made = out.get(start..).unwrap_or_default();
    let sound = made.first() == Some(&b'/')
        && made
            .iter()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'?'))
        && !path::has_dot_segments(made);
    if !sound {
        return Err(Malformed::Target);
    }
    match (&rewrite.query, query) {
        (None, None) => {}
        (None, Some(query)) => {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        (Some(template), _) => {
            let end = out.len();
            out.push(b'?');
            vars.template(out, template, Place::Query);
            trim_ampersands(out, end + 1);
            if out.len() == end + 1 {
                out.truncate(end);
            }
        }
    }
    if out.len() > WRITTEN_MOST {
        return Err(Malformed::TargetTooLong);
    }
    Ok(())
}

/// An empty `{request.query}` leaves the `&` beside it; it goes.
fn trim_ampersands(out: &mut Vec<u8>, from: usize) {
    while out.len() > from && out.ends_with(b"&") {
        out.pop();
    }
    let front = out.iter().skip(from).take_while(|b| **b == b'&').count();
    out.drain(from..from + front);
}

/// Writes `Host`, if it is another than the client sent. True: it was written.
///
/// # Errors
/// [`Malformed::Host`] if what comes out is none.
#[inline]
pub(super) fn host(
    out: &mut Vec<u8>,
    rewrite: &Rewrite,
    by_rule: Option<&weir_core::plan::Template>,
    vars: &Variables<'_>,
) -> Result<bool, Malformed> {
    let template = match (&rewrite.host, by_rule) {
        (HostRewrite::Keep, None) => return Ok(false),
        (HostRewrite::Backend, _) => None,
        (HostRewrite::Set(template), _) | (HostRewrite::Keep, Some(template)) => Some(template),
    };
    out.extend_from_slice(b"Host: ");
    let start = out.len();
    match template {
        Some(template) => vars.template(out, template, Place::Field),
        None => vars.backend_authority(out),
    }
    target::check_host(out.get(start..).unwrap_or_default())?;
    out.extend_from_slice(b"\r\n");
    Ok(true)
}
