//! `pools.NAME.source` as a word: backends see the client's address.
//!
//! Owns the words, and what can't go with them within a pool. Families, and what it takes of the box, are `cross/clients.rs`.

use weir_core::plan::{ClientSource, HttpProtocol};

use crate::{
    reader::{Cx, Table, Value},
    words::quoted,
};

const WORDS: [(&str, ClientSource); 2] = [
    ("client", ClientSource { port: false }),
    ("client-and-port", ClientSource { port: true }),
];

/// None if it is no word, or a wrong one.
pub(super) fn read(
    cx: &mut Cx,
    table: &Table<'_>,
    value: &Value<'_>,
    protocol: HttpProtocol,
) -> Option<ClientSource> {
    let text = value.as_string()?;
    let Some(&(_, source)) = WORDS.iter().find(|(word, _)| *word == text) else {
        value.mistake(
            cx,
            format!("is {}", quoted(text)),
            "write source = { addresses = [\"10.0.0.5\"] } for addresses of this box, \"client\" or \"client-and-port\" for \
             the client's",
        );
        return None;
    };
    let idle_min = table.get("connections").and_then(|value| value.peek("idle_min"));
    if protocol == HttpProtocol::H2c {
        value.mistake(
            cx,
            "is one client's address, and a connection of HTTP/2 carries many clients",
            "remove it, or write protocol = \"http/1.1\"",
        );
    } else if let Some(idle_min) = idle_min {
        idle_min.mistake(
            cx,
            "has no effect: each connection comes from its client's address, so none is made in advance",
            "remove it, or source",
        );
    }
    Some(source)
}
