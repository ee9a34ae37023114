//! Header rules of a service, prepared once per plan.

use weir_core::plan::{HeaderAction, HeaderRule, Replacement, Template, TemplatePart, Variable};

use super::{
    fields::{self, Kind},
    template::{Place, Variables, replace},
};

/// Header rules in the order-free form that a writer wants: what becomes of the fields that came, then what is added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// By name, what becomes of fields that came.
    changes: Vec<(String, Change)>,
    /// Fields added at the end.
    added: Vec<Added>,
    /// What `Host` becomes.
    host: Option<Template>,
}

/// What becomes of a field that came.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Removed,
    /// At least one.
    Replaced(Vec<Replacement<Template>>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Added {
    name: String,
    value: Template,
    /// Replaced in the value afterwards.
    replaced: Vec<Replacement<Template>>,
}

/// What is to be done with a field that came.
pub(super) enum Fate<'r> {
    Stays,
    Goes,
    Replaced(&'r [Replacement<Template>]),
}

impl Rules {
    /// Prepares the rules, which count in order: a later `set` or `remove` undoes what came before it, a `replace` works
    /// on what those before it have left.
    ///
    /// Fields that frame the message or belong to one connection are none of theirs; such a rule does nothing
    /// (`weir-config` refuses it).
    pub fn new(rules: &[HeaderRule]) -> Self {
        let mut prepared = Self::default();
        for HeaderRule { name, action } in rules {
            match fields::kind(name) {
                Kind::ContentLength
                | Kind::TransferEncoding
                | Kind::Connection
                | Kind::Te
                | Kind::Upgrade
                | Kind::Expect
                | Kind::HopByHop => {}
                Kind::Host => {
                    if let HeaderAction::Set(value) = action {
                        prepared.host = Some(value.clone());
                    }
                }
                Kind::Other
                | Kind::XForwardedFor
                | Kind::Forwarded
                | Kind::MaxForwards
                | Kind::Via
                | Kind::Claim => prepared.add(name, action),
            }
        }
        prepared
    }

    fn add(&mut self, name: &str, action: &HeaderAction) {
        match action {
            HeaderAction::Set(value) => {
                self.take_out(name);
                self.append(name, value.clone());
            }
            HeaderAction::Append(value) => self.append(name, value.clone()),
            HeaderAction::Remove => self.take_out(name),
            HeaderAction::Replace(replacement) => {
                let same = |added: &&mut Added| added.name.eq_ignore_ascii_case(name);
                for added in self.added.iter_mut().filter(same) {
                    added.replaced.push(replacement.clone());
                }
                let known = self
                    .changes
                    .iter_mut()
                    .find(|(n, _)| n.eq_ignore_ascii_case(name));
                match known {
                    Some((_, Change::Removed)) => {}
                    Some((_, Change::Replaced(all))) => all.push(replacement.clone()),
                    None => {
                        let change = Change::Replaced(vec![replacement.clone()]);
                        self.changes.push((name.to_owned(), change));
                    }
                }
            }
        }
    }

    /// Has the message's field of that name, if there is one, replaced by one with the request's id.
    #[must_use]
    pub fn with_request_id(mut self, name: Option<&String>) -> Self {
        if let Some(name) = name {
            let parts = vec![TemplatePart::Variable(Variable::RequestId)];
            self.take_out(name);
            self.append(name, Template { parts });
        }
        self
    }

    fn append(&mut self, name: &str, value: Template) {
        self.added.push(Added {
            name: name.to_owned(),
            value,
            replaced: Vec::new(),
        });
    }

    fn take_out(&mut self, name: &str) {
        self.changes.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.changes.push((name.to_owned(), Change::Removed));
        self.added.retain(|added| !added.name.eq_ignore_ascii_case(name));
    }

    /// Every value.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let changed = self.changes.iter().flat_map(|(_, change)| match change {
            Change::Removed => [].iter(),
            Change::Replaced(all) => all.iter(),
        });
        let added = self.added.iter().flat_map(|added| &added.replaced);
        let values = self.added.iter().map(|added| &added.value);
        changed
            .chain(added)
            .map(|r| &r.with)
            .chain(values)
            .chain(&self.host)
    }

    /// What `Host` becomes, if rules say so.
    pub(super) fn host(&self) -> Option<&Template> {
        self.host.as_ref()
    }

    /// Whether there is nothing to be done with the fields that came.
    #[inline]
    pub(super) fn leave_all(&self) -> bool {
        self.changes.is_empty()
    }

    /// What becomes of a field that came.
    #[inline]
    pub(super) fn fate(&self, name: &str) -> Fate<'_> {
        match self.changes.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            None => Fate::Stays,
            Some((_, Change::Removed)) => Fate::Goes,
            Some((_, Change::Replaced(all))) => Fate::Replaced(all),
        }
    }

    /// Writes a field that came, or one that weir itself answers with, as the rules will have it.
    #[inline]
    pub(super) fn field(&self, out: &mut Vec<u8>, vars: &Variables<'_>, name: &str, value: &[u8]) {
        let fate = if self.leave_all() {
            Fate::Stays
        } else {
            self.fate(name)
        };
        if let Fate::Goes = fate {
            return;
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        let start = out.len();
        out.extend_from_slice(value);
        if let Fate::Replaced(all) = fate {
            replace_all(out, start, all, vars);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the added fields.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, vars: &Variables<'_>) {
        for Added {
            name,
            value,
            replaced,
        } in &self.added
        {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            let start = out.len();
            vars.template(out, value, Place::Field);
            replace_all(out, start, replaced, vars);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn replace_all(out: &mut Vec<u8>, start: usize, all: &[Replacement<Template>], vars: &Variables<'_>) {
    for Replacement { find, with } in all {
        replace(out, start, find, |out| vars.template(out, with, Place::Field));
    }
}
