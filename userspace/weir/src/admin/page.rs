//! The status page at `/`: one HTML document, no script, no foreign resource, reloads itself.

use super::api::{Pools, Status};
use crate::render::span;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2530;\
background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #d9dfe5;vertical-align:top}\
th{font-weight:600;color:#52606d}td.n{text-align:right}.up{color:#14713d}.down{color:#b3261e}.other{color:#8a5a00}\
@media(prefers-color-scheme:dark){body{background:#12171c;color:#dbe2e8}th,td{border-color:#2c353d}th{color:#94a3b0}\
.up{color:#5bd08f}.down{color:#ff8a80}.other{color:#f0c060}}";

/// Text made safe inside an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn state(text: &str) -> String {
    let class = match text {
        "up" | "running" | "ready" => "up",
        "down" => "down",
        _ => "other",
    };
    format!("<span class=\"{class}\">{}</span>", escape(text))
}

/// The whole document.
pub(crate) fn render(status: &Status, pools: &Pools) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"5\"><title>weir on {node}</title>\
         <style>{STYLE}</style></head><body><h1>weir on {node}: {ready}</h1>",
        node = escape(&status.node),
        ready = if status.ready {
            state("ready")
        } else {
            state("not ready")
        },
    );
    if !status.waiting_for.is_empty() {
        out += &format!("<p>Waiting for {}.</p>", escape(&status.waiting_for.join(", ")));
    }
    out += &format!(
        "<p>Version {}, running for {}, configuration {} applied {} time(s), xdp {} {}</p>",
        escape(&status.version),
        span(status.uptime_seconds),
        escape(&status.config),
        status.generation,
        escape(&status.xdp.mode),
        escape(&status.xdp.interfaces.join(", ")),
    );
    if let Some(error) = &status.reload_error {
        out += &format!(
            "<p class=\"down\">The last reload was refused:</p><pre>{}</pre>",
            escape(error)
        );
    }
    out += "<h2>Services</h2><table><tr><th>Service<th>Mode<th>State<th>Backends in use<th>Pool<th>Listen<th>Connections\
            <th>Requests</tr>";
    for s in &status.services {
        out += &format!(
            "<tr><td>{}<td>{}<td>{}<td>{} of {}<td>{}<td>{}<td class=\"n\">{}<td class=\"n\">{}</tr>",
            escape(&s.name),
            escape(&s.mode),
            state(&s.state),
            s.backends_in_use,
            s.backends,
            escape(&s.pool_names()),
            escape(&s.listen.join(" ")),
            s.connections,
            if s.mode == "http" {
                s.requests.to_string()
            } else {
                "–".to_owned()
            },
        );
    }
    out += "</table>";
    for pool in &pools.pools {
        out += &format!(
            "<h2>Pool {}</h2><p>{}, check {}{}</p><table><tr><th>Backend<th>Name<th>Weight<th>State<th>Wish<th>Since<th>In \
             use<th>Cause</tr>",
            escape(&pool.name),
            escape(&pool.balance),
            escape(&pool.check),
            match pool.tls.as_str() {
                "" => String::new(),
                tls => format!(", {}", escape(tls)),
            }
        );
        for b in &pool.backends {
            out += &format!(
                "<tr><td>{}<td>{}<td class=\"n\">{}{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                escape(&b.address),
                escape(&b.name),
                b.weight,
                if b.backup { " backup" } else { "" },
                state(&b.state),
                escape(&b.admin),
                span(b.since_seconds),
                if b.in_use { "yes" } else { "no" },
                escape(&b.cause),
            );
        }
        out += "</table>";
    }
    out += "<p><a href=\"/metrics\">metrics</a></p></body></html>\n";
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        assert_eq!(
            escape("<a href='x'>&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;"
        );
    }
}
