//! How nginx 1.22 differs.

use super::Known;

pub(super) const KNOWN: &[Known] = &[
    Known {
        why: "has 501 for whatever is not just `chunked`",
        sign: "answers 501",
        cases: "te-list-twice te-chunked-not-last te-identity te-unknown te-gzip-alone te-parameter \
                te-quoted te-single-quoted te-empty te-leading-comma te-trailing-comma te-vertical-tab \
                te-form-feed",
    },
    Known {
        why: "refuses a second Transfer-Encoding as such",
        sign: "answers 400",
        cases: "te-gzip-chunked-in-two",
    },
    Known {
        why: "drops fields with odd names (ignore_invalid_headers)",
        sign: "passes it on",
        cases: "te-bad-byte-in-name name-no-colon name-parentheses name-not-ascii",
    },
    Known {
        why: "drops fields with odd names (ignore_invalid_headers)",
        sign: "passes on otherwise",
        cases: "name-all-token-bytes",
    },
    Known {
        why: "takes a bare LF for the end of a line, as RFC 9112 section 2.2 allows, and may wait for more \
              lines",
        sign: "passes it on",
        cases: "te-after-bare-lf chunk-line-bare-lf chunk-data-ends-in-lf chunk-extension-bare-lf \
                chunk-last-bare-lf chunk-end-bare-lf trailer-bare-lf line-bare-lf-before lf-everywhere \
                lf-request-line lf-field lf-last-field lf-empty-line cr-cr-lf pipeline-bad-second",
    },
    Known {
        why: "takes a bare LF for the end of a line, as RFC 9112 section 2.2 allows, and may wait for more \
              lines",
        sign: "does not answer",
        cases: "lf-early",
    },
    Known {
        why: "takes a bare LF for the end of a line, as RFC 9112 section 2.2 allows, and may wait for more \
              lines",
        sign: "answers 200",
        cases: "response-chunk-bare-lf response-trailer-bare-lf response-reason-bare-cr response-lf \
                response-lf-in-fields",
    },
    Known {
        why: "takes white space behind a chunk size",
        sign: "passes it on",
        cases: "chunk-size-space-behind chunk-size-tab-behind",
    },
    Known {
        why: "does not look at chunk extensions",
        sign: "passes it on",
        cases: "chunk-extension-empty chunk-extension-no-value chunk-extension-no-name \
                chunk-extension-two-words chunk-extension-control chunk-extension-open-quote \
                chunk-extension-long",
    },
    Known {
        why: "does not look at chunk extensions",
        sign: "answers 200",
        cases: "response-chunk-extension",
    },
    Known {
        why: "drops trailers unseen",
        sign: "passes on otherwise",
        cases: "trailer-passes trailer-announced pipeline-after-chunks",
    },
    Known {
        why: "drops trailers unseen",
        sign: "passes it on",
        cases: "trailer-content-length trailer-transfer-encoding trailer-host trailer-connection \
                trailer-authorization trailer-forwarded-for trailer-space-before-colon trailer-folded \
                trailer-nul trailer-no-colon trailer-long trailer-many",
    },
    Known {
        why: "drops trailers unseen",
        sign: "answers 200",
        cases: "response-trailer-length response-trailer-cookie",
    },
    Known {
        why: "drops trailers unseen",
        sign: "answers otherwise",
        cases: "response-trailers",
    },
    Known {
        why: "takes more white space in a request line, as RFC 9112 section 3 allows; without a version it is \
              HTTP/0.9",
        sign: "passes it on",
        cases: "line-two-spaces-before-target line-two-spaces-before-version line-space-last line-no-version",
    },
    Known {
        why: "judges versions otherwise",
        sign: "answers 505",
        cases: "version-no-dot",
    },
    Known {
        why: "judges versions otherwise",
        sign: "passes it on",
        cases: "version-three-digits",
    },
    Known {
        why: "judges versions otherwise",
        sign: "answers 400",
        cases: "version-0.9 version-h2-preface",
    },
    Known {
        why: "skips empty lines",
        sign: "does not answer",
        cases: "line-many-empty-lines",
    },
    Known {
        why: "passes control characters on",
        sign: "passes it on",
        cases: "value-control value-del",
    },
    Known {
        why: "leaves what is hop-by-hop where it is, and upgrades as its configuration says whatever \
              Connection says",
        sign: "passes on otherwise",
        cases: "hop-nominated hop-nominated-list hop-te-trailers hop-upgrade-without-option hop-h2c \
                upgrade-without-option upgrade-h2c upgrade-h2c-among-others upgrade-in-two-fields \
                upgrade-with-body upgrade-of-http-1.0",
    },
    Known {
        why: "leaves what is hop-by-hop where it is, and upgrades as its configuration says whatever \
              Connection says",
        sign: "answers otherwise",
        cases: "origin-hop-by-hop response-upgrade-is-hop-by-hop",
    },
    Known {
        why: "answers 100 itself and drops Expect",
        sign: "answers otherwise",
        cases: "expect-without-body continue-empty-body",
    },
    Known {
        why: "answers 100 itself and drops Expect",
        sign: "passes on otherwise",
        cases: "expect-unknown-passes continue continue-client-does-not-wait continue-denied \
                continue-chunked",
    },
    Known {
        why: "passes claims on unless told otherwise",
        sign: "passes on otherwise",
        cases: "forwarded-for-not-believed",
    },
    Known {
        why: "does not judge the characters of Host",
        sign: "passes it on",
        cases: "host-userinfo host-question-mark host-fragment host-backslash host-quotes host-not-ascii \
                host-port-word host-port-twice host-port-too-large host-port-sign host-bracket-open \
                host-bracket-name host-bracket-rest host-bad-escape",
    },
    Known {
        why: "refuses a path that leads above the root, or an escaped NUL",
        sign: "answers 400",
        cases: "target-bytes",
    },
    Known {
        why: "takes any scheme and any byte, and lets an absolute target win over Host",
        sign: "passes it on",
        cases: "target-fragment target-not-ascii target-other-scheme absolute-other-host absolute-other-port \
                absolute-tls-port absolute-https",
    },
    Known {
        why: "passes Host on as it came beside an absolute target",
        sign: "passes on otherwise",
        cases: "absolute-host-from-target absolute-options absolute-http-1.0",
    },
    Known {
        why: "takes methods of capitals, underscores and hyphens alone",
        sign: "answers 400",
        cases: "method-lower-case-is-another method-all-token-bytes method-too-long",
    },
    Known {
        why: "reuses a connection whose response has a body where none may be",
        sign: "keeps the origin",
        cases: "head-with-a-body-all-the-same response-204-chunked",
    },
    Known {
        why: "never serves TRACE",
        sign: "answers 405",
        cases: "trace-refused trace-refused-at-0 trace-passes trace-counts-down trace-answered-at-0 \
                trace-with-body trace-max-forwards-word",
    },
    Known {
        why: "does not serve OPTIONS of *",
        sign: "answers 400",
        cases: "options-star options-counts-down options-counts-down-from-far options-answered-at-0",
    },
    Known {
        why: "knows nothing of Max-Forwards",
        sign: "passes it on",
        cases: "options-of-a-path-at-0 options-with-body-at-0",
    },
    Known {
        why: "does not serve CONNECT",
        sign: "answers 400",
        cases: "connect-refused connect-tunnel connect-2xx-without-framing connect-2xx-chunked-is-no-framing \
                connect-denied connect-denied-with-bytes-ahead connect-bytes-ahead connect-dead-backend",
    },
    Known {
        why: "passes a reset, or a cut, on as an end",
        sign: "ends otherwise",
        cases: "http-1.0-cut-is-a-reset tunnel-origin-breaks-off",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "answers otherwise",
        cases: "http-1.0-no-interim",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "passes nothing on",
        cases: "interim-passes interim-unasked-100 interim-alone-first interim-several \
                upgrade-interim-before",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "does not answer",
        cases: "interim-hop-by-hop",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "answers 100",
        cases: "interim-without-end",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "answers in no words",
        cases: "response-interim-with-length",
    },
    Known {
        why: "takes an interim response for the final one (1.22)",
        sign: "answers 103",
        cases: "response-interim-chunked",
    },
    Known {
        why: "takes the end of the client's side for the client's end (proxy_ignore_client_abort)",
        sign: "closes",
        cases: "client-ends-its-side-and-waits",
    },
    Known {
        why: "takes what is no status line for HTTP/0.9",
        sign: "answers in no words",
        cases: "pipeline-over-a-failure response-nonsense response-http-0.9 response-version-case \
                response-status-word response-empty-line-before",
    },
    Known {
        why: "keeps a connection whose request body came late",
        sign: "keeps the client",
        cases: "early-response-begins-body-goes-on",
    },
    Known {
        why: "judges lengths of responses hardly, or has a cut where weir has 502",
        sign: "closes",
        cases: "response-cl-te response-te-cl",
    },
    Known {
        why: "judges lengths of responses hardly, or has a cut where weir has 502",
        sign: "answers 200",
        cases: "response-cl-twice-differs response-cl-twice-same response-cl-list response-cl-plus \
                response-cl-word response-cl-empty response-cl-overflow",
    },
    Known {
        why: "judges codings of responses otherwise, or has a cut where weir has 502",
        sign: "closes",
        cases: "response-te-unknown response-te-gzip-chunked response-te-twice response-te-then-other \
                response-te-vertical-tab",
    },
    Known {
        why: "judges codings of responses otherwise, or has a cut where weir has 502",
        sign: "answers 200",
        cases: "response-te-gzip response-te-http-1.0",
    },
    Known {
        why: "sends the response on before its chunks are judged",
        sign: "closes",
        cases: "response-chunk-size response-chunk-size-wraps response-chunk-end",
    },
    Known {
        why: "sends the response on before its chunks are judged",
        sign: "answers 200",
        cases: "response-chunk-size-space",
    },
    Known {
        why: "takes any number for a status, and any version",
        sign: "answers 200",
        cases: "response-http-2 response-two-spaces response-reason-nul",
    },
    Known {
        why: "takes any number for a status, and any version",
        sign: "answers 20",
        cases: "response-status-two-digits",
    },
    Known {
        why: "takes any number for a status, and any version",
        sign: "answers 2000",
        cases: "response-status-four-digits",
    },
    Known {
        why: "takes any number for a status, and any version",
        sign: "answers 99",
        cases: "response-status-099",
    },
    Known {
        why: "takes any number for a status, and any version",
        sign: "answers 600",
        cases: "response-status-600",
    },
    Known {
        why: "drops a line that is no field",
        sign: "answers 200",
        cases: "response-no-colon",
    },
    Known {
        why: "has no bound of fields but the head's",
        sign: "answers 200",
        cases: "response-too-many-fields",
    },
    Known {
        why: "has no bound of fields but the head's",
        sign: "passes it on",
        cases: "fields-too-many",
    },
    Known {
        why: "passes Content-Length of a 204 on",
        sign: "answers otherwise",
        cases: "response-204-length-0 response-204-with-body response-204-with-body-to-come",
    },
    Known {
        why: "believes a 101 without looking at what it switches to",
        sign: "answers 101",
        cases: "response-101-unasked upgrade-101-without-upgrade upgrade-101-without-connection \
                upgrade-101-to-another upgrade-101-to-more upgrade-101-http-1.0",
    },
    Known {
        why: "believes a 101 without looking at what it switches to",
        sign: "answers in no words",
        cases: "upgrade-101-with-length",
    },
    Known {
        why: "has 400 for heads beyond its buffers",
        sign: "answers 400",
        cases: "head-too-large head-too-large-and-open",
    },
    Known {
        why: "keeps a connection whose request body was refused before it came",
        sign: "keeps the client",
        cases: "body-too-large-announced",
    },
    Known {
        why: "ends a connection that is too slow without a word",
        sign: "closes",
        cases: "slow-head-stops slow-head-drips slow-second-head slow-body-stops",
    },
    Known {
        why: "bounds the silence in a body, not its pace",
        sign: "passes on otherwise",
        cases: "slow-body-drips",
    },
    Known {
        why: "ends a tunnel when one side has ended",
        sign: "closes",
        cases: "tunnel-client-ends-first tunnel-origin-ends-first tunnel-outlasts-other-times-half-closed",
    },
    Known {
        why: "has the backend's time for tunnels too",
        sign: "no silence",
        cases: "tunnel-outlasts-other-times",
    },
];
