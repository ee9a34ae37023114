//! Families of certificates and keys.

use super::{Families, Labels, Scrape, flag};

/// All of them.
pub(super) fn families(out: &mut Families, scrape: &Scrape) {
    for certificate in &scrape.status.certificates {
        let of = match certificate.pool.as_str() {
            "" => ("service", certificate.service.as_str()),
            pool => ("pool", pool),
        };
        let labels: Labels<'_> = &[of, ("file", &certificate.file)];
        for (name, help, value) in [
            (
                "weir_tls_certificate_not_after_timestamp_seconds",
                "When a certificate that clients or backends are shown ends, since the epoch.",
                certificate.not_after,
            ),
            (
                "weir_tls_certificate_not_before_timestamp_seconds",
                "When a certificate that clients or backends are shown begins, since the epoch.",
                certificate.not_before,
            ),
        ] {
            out.gauge(name, help, labels, seconds(value));
        }
    }
    for (file, count, failed) in &scrape.tls.files {
        out.counter(
            "weir_tls_certificate_reload_failures_total",
            "Times the new content of a file of TLS was refused.",
            &[("file", file)],
            *count,
        );
        out.gauge(
            "weir_tls_certificate_reload_failed",
            "1 while a file of TLS holds something else than what is served, because it was refused.",
            &[("file", file)],
            flag(*failed),
        );
    }
    for list in &scrape.tls.lists {
        out.gauge(
            "weir_tls_revocation_list_next_update_timestamp_seconds",
            "When a list of revoked certificates is due to be replaced, since the epoch.",
            &[("service", &list.service), ("file", &list.file)],
            seconds(list.next_update),
        );
    }
    if let Some((signed, refused)) = scrape.tls.signatures {
        for (result, count) in [("signed", signed), ("refused", refused)] {
            out.counter(
                "weir_keys_signatures_total",
                "Requests for a signature that the keys process was asked.",
                &[("result", result)],
                count,
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
fn seconds(value: i64) -> f64 {
    value as f64
}
