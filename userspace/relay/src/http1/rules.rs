//! Header rules of a service, prepared once per plan, and the variables of their values.

use std::{io::Write, net::SocketAddr, sync::Arc};

use weir_core::plan::{self, HeaderAction, HeaderRule, Service, Template, TemplatePart, Variable};

use super::fields::{self, Kind};

/// Header rules in the order-free form that a writer wants: what goes, then what comes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Names whose fields in the message are taken out.
    removed: Vec<String>,
    /// Fields added at the end.
    added: Vec<(String, Template)>,
    per_backend: bool,
    needs_server: bool,
}

impl Rules {
    /// Prepares the rules, which count in order: a later `set` or `remove` undoes what came before it.
    ///
    /// Fields that frame the message or belong to one connection are none of theirs; such a rule does nothing
    /// (`weir-config` refuses it).
    pub fn new(rules: &[HeaderRule]) -> Self {
        let mut prepared = Self::default();
        for HeaderRule { name, action } in rules {
            let framing = match fields::kind(name) {
                Kind::ContentLength
                | Kind::TransferEncoding
                | Kind::Connection
                | Kind::Te
                | Kind::Upgrade
                | Kind::Expect
                | Kind::HopByHop => true,
                Kind::Host => matches!(action, HeaderAction::Append(_) | HeaderAction::Remove),
                Kind::Other | Kind::XForwardedFor | Kind::Forwarded | Kind::Claim => false,
            };
            if framing {
                continue;
            }
            match action {
                HeaderAction::Set(value) => {
                    prepared.take_out(name);
                    prepared.added.push((name.clone(), value.clone()));
                }
                HeaderAction::Append(value) => prepared.added.push((name.clone(), value.clone())),
                HeaderAction::Remove => prepared.take_out(name),
            }
        }
        prepared.per_backend = prepared.uses(&[Variable::BackendName, Variable::BackendAddress]);
        prepared.needs_server = prepared.uses(&[Variable::ServerAddress, Variable::ServerPort]);
        prepared
    }

    fn take_out(&mut self, name: &str) {
        self.removed.push(name.to_owned());
        self.added.retain(|(added, _)| !added.eq_ignore_ascii_case(name));
    }

    fn uses(&self, variables: &[Variable]) -> bool {
        let one_of = |part: &TemplatePart| match part {
            TemplatePart::Literal(_) => false,
            TemplatePart::Variable(variable) => variables.contains(variable),
        };
        self.added.iter().any(|(_, value)| value.parts.iter().any(one_of))
    }

    /// Whether a value speaks of the address that the client connected to.
    pub fn needs_server(&self) -> bool {
        self.needs_server
    }

    /// Whether what is written differs from backend to backend.
    pub fn per_backend(&self) -> bool {
        self.per_backend
    }

    /// Whether the message's fields of that name are taken out.
    #[inline]
    pub(super) fn removes(&self, name: &str) -> bool {
        self.removed.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// Whether there is nothing to take out.
    #[inline]
    pub(super) fn removes_nothing(&self) -> bool {
        self.removed.is_empty()
    }

    /// Writes the added fields.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, vars: &Variables<'_>) {
        for (name, value) in &self.added {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            for part in &value.parts {
                match part {
                    TemplatePart::Literal(text) => out.extend_from_slice(text.as_bytes()),
                    TemplatePart::Variable(variable) => vars.write(out, *variable),
                }
            }
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// What the variables of header values stand for.
pub struct Variables<'a> {
    /// The box's name.
    pub node: &'a Arc<str>,
    /// The service.
    pub service: &'a Service,
    /// The client.
    pub client: SocketAddr,
    /// Where the client connected to. None if the system would not say.
    pub server: Option<SocketAddr>,
    /// The backend; None in a response of weir's own.
    pub backend: Option<&'a plan::Backend>,
}

impl Variables<'_> {
    fn write(&self, out: &mut Vec<u8>, variable: Variable) {
        // Writing to a Vec can't fail.
        let _ = match variable {
            Variable::NodeName => out.write_all(self.node.as_bytes()),
            Variable::ServiceName => out.write_all(self.service.name.as_str().as_bytes()),
            Variable::PoolName => out.write_all(self.service.pool.as_str().as_bytes()),
            Variable::ClientAddress => write!(out, "{}", self.client.ip().to_canonical()),
            Variable::ClientPort => write!(out, "{}", self.client.port()),
            Variable::ServerAddress => self
                .server
                .map_or(Ok(()), |a| write!(out, "{}", a.ip().to_canonical())),
            Variable::ServerPort => self.server.map_or(Ok(()), |a| write!(out, "{}", a.port())),
            Variable::BackendName => self.backend.map_or(Ok(()), |b| out.write_all(b.name.as_bytes())),
            Variable::BackendAddress => self.backend.map_or(Ok(()), |b| write!(out, "{}", b.key.address)),
        };
    }
}
