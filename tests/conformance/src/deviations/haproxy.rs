//! How HAProxy 2.6 differs.

use super::Known;

pub(super) const KNOWN: &[Known] = &[
    Known {
        why: "takes Transfer-Encoding and drops Content-Length, as RFC 9112 section 6.3 allows",
        sign: "passes it on",
        cases: "cl-te te-cl",
    },
    Known {
        why: "takes the same value twice for one, as RFC 9110 section 8.6 allows of lengths",
        sign: "passes it on",
        cases: "cl-twice-same cl-list-same host-twice-same",
    },
    Known {
        why: "takes the same value twice for one, as RFC 9110 section 8.6 allows of lengths",
        sign: "answers 200",
        cases: "response-cl-twice-same response-cl-list",
    },
    Known {
        why: "passes names with an underscore on",
        sign: "passes on otherwise",
        cases: "cl-masked",
    },
    Known {
        why: "has 422 for codings that it does not do",
        sign: "answers 422",
        cases: "te-gzip-chunked te-gzip-chunked-in-two te-leading-comma",
    },
    Known {
        why: "takes an empty member of the list for none",
        sign: "passes it on",
        cases: "te-trailing-comma",
    },
    Known {
        why: "unfolds lines, as RFC 9112 section 5.2 allows",
        sign: "passes it on",
        cases: "te-folded trailer-folded fold-space fold-tab fold-hides-length",
    },
    Known {
        why: "unfolds lines, as RFC 9112 section 5.2 allows",
        sign: "answers 200",
        cases: "response-folded",
    },
    Known {
        why: "takes a bare LF for the end of a line, as RFC 9112 section 2.2 allows, and may wait for more \
              lines",
        sign: "passes it on",
        cases: "te-after-bare-lf chunk-line-bare-lf chunk-data-ends-in-lf chunk-extension-bare-lf \
                chunk-last-bare-lf chunk-end-bare-lf trailer-bare-lf line-bare-lf-before lf-everywhere \
                lf-request-line lf-field lf-last-field lf-empty-line pipeline-bad-second",
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
        cases: "response-chunk-bare-lf response-trailer-bare-lf response-lf response-lf-in-fields",
    },
    Known {
        why: "takes chunks from HTTP/1.0",
        sign: "passes it on",
        cases: "te-http-1.0 te-http-1.0-with-length",
    },
    Known {
        why: "takes chunks from HTTP/1.0",
        sign: "answers 200",
        cases: "response-te-http-1.0",
    },
    Known {
        why: "takes white space behind a chunk size",
        sign: "passes it on",
        cases: "chunk-size-space-behind chunk-size-tab-behind",
    },
    Known {
        why: "takes white space behind a chunk size",
        sign: "answers 200",
        cases: "response-chunk-size-space",
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
        why: "does not judge trailers by their fields",
        sign: "passes it on",
        cases: "trailer-content-length trailer-transfer-encoding trailer-host trailer-connection \
                trailer-authorization trailer-forwarded-for trailer-nul trailer-many \
                trailer-space-before-colon",
    },
    Known {
        why: "does not judge trailers by their fields",
        sign: "answers 200",
        cases: "response-trailer-length response-trailer-cookie",
    },
    Known {
        why: "takes more white space in a request line, as RFC 9112 section 3 allows",
        sign: "passes it on",
        cases: "line-two-spaces-before-target line-two-spaces-before-version line-tab",
    },
    Known {
        why: "takes other major versions in the form of HTTP/1",
        sign: "passes it on",
        cases: "version-2.0 version-0.9 version-3.1",
    },
    Known {
        why: "takes other major versions in the form of HTTP/1",
        sign: "answers in no words",
        cases: "response-http-0.9",
    },
    Known {
        why: "takes other major versions in the form of HTTP/1",
        sign: "answers 200",
        cases: "response-http-2",
    },
    Known {
        why: "speaks HTTP/2",
        sign: "answers in no words",
        cases: "version-h2-preface",
    },
    Known {
        why: "skips empty lines",
        sign: "does not answer",
        cases: "line-many-empty-lines",
    },
    Known {
        why: "skips empty lines",
        sign: "answers 200",
        cases: "response-empty-line-before",
    },
    Known {
        why: "asks for no Host",
        sign: "passes it on",
        cases: "line-bad-head-request host-missing",
    },
    Known {
        why: "passes control characters on, NUL among them",
        sign: "passes it on",
        cases: "value-nul value-control value-del",
    },
    Known {
        why: "passes control characters on, NUL among them",
        sign: "answers 200",
        cases: "response-reason-nul response-value-nul",
    },
    Known {
        why: "leaves what is hop-by-hop, or useless to the next hop, where it is",
        sign: "passes on otherwise",
        cases: "hop-nominated hop-nominated-list hop-upgrade-without-option hop-h2c expect-without-body \
                continue-empty-body upgrade-without-option upgrade-h2c",
    },
    Known {
        why: "leaves what is hop-by-hop, or useless to the next hop, where it is",
        sign: "answers otherwise",
        cases: "origin-hop-by-hop interim-hop-by-hop response-upgrade-is-hop-by-hop",
    },
    Known {
        why: "passes a request of HTTP/1.0 on as one, or asks more of it",
        sign: "passes on otherwise",
        cases: "via-http-1.0 absolute-http-1.0 http-1.0-closes http-1.0-proxy-connection \
                close-goes-before-keep-alive-1.0 http-1.0-keep-alive http-1.0-chunked-is-unpacked \
                http-1.0-cut-is-a-reset http-1.0-no-interim continue-of-http-1.0-is-ignored \
                response-until-the-end-of-both",
    },
    Known {
        why: "passes a request of HTTP/1.0 on as one, or asks more of it",
        sign: "answers 400",
        cases: "upgrade-of-http-1.0",
    },
    Known {
        why: "passes claims on unless told otherwise",
        sign: "passes on otherwise",
        cases: "forwarded-for-not-believed",
    },
    Known {
        why: "judges neither Host nor the form of the target, but for whether they agree",
        sign: "passes it on",
        cases: "host-empty host-port-alone host-space host-comma host-slash host-userinfo host-question-mark \
                host-fragment host-backslash host-quotes host-not-ascii host-port-word host-port-twice \
                host-port-too-large host-port-sign host-bracket-open host-bracket-name host-bracket-rest \
                host-v6-bare host-bad-escape host-with-scheme target-relative target-star \
                target-other-scheme absolute-no-host absolute-userinfo absolute-https absolute-without-host",
    },
    Known {
        why: "passes absolute targets on as they came; one with a query alone it refuses",
        sign: "passes on otherwise",
        cases: "absolute absolute-host-from-target absolute-no-path absolute-scheme-case absolute-options \
                absolute-https-trusted",
    },
    Known {
        why: "passes absolute targets on as they came; one with a query alone it refuses",
        sign: "answers 400",
        cases: "absolute-query-alone",
    },
    Known {
        why: "knows nothing of Max-Forwards, and passes TRACE on",
        sign: "passes it on",
        cases: "trace-refused trace-refused-at-0 trace-answered-at-0 trace-with-body trace-max-forwards-word \
                options-answered-at-0 options-of-a-path-at-0 options-with-body-at-0 \
                options-max-forwards-word options-max-forwards-minus options-max-forwards-twice",
    },
    Known {
        why: "knows nothing of Max-Forwards, and passes TRACE on",
        sign: "passes on otherwise",
        cases: "trace-counts-down options-counts-down options-counts-down-from-far",
    },
    Known {
        why: "passes CONNECT on",
        sign: "passes it on",
        cases: "connect-refused connect-port-0 connect-body",
    },
    Known {
        why: "leaves Content-Length in a 2xx to CONNECT",
        sign: "answers otherwise",
        cases: "connect-2xx-without-framing",
    },
    Known {
        why: "keeps a connection whose CONNECT was denied",
        sign: "keeps the client",
        cases: "connect-denied connect-denied-with-bytes-ahead connect-dead-backend",
    },
    Known {
        why: "answers 400 or 408 to a connection without a request",
        sign: "leaves more",
        cases: "client-ends-in-its-head client-says-nothing slow-head-never-begins",
    },
    Known {
        why: "lets the backend finish without `option abortonclose`",
        sign: "keeps the origin",
        cases: "client-breaks-off-while-waiting client-breaks-off-in-its-response",
    },
    Known {
        why: "passes interim responses on without end",
        sign: "answers 100",
        cases: "interim-without-end",
    },
    Known {
        why: "keeps a connection whose request body is still to come",
        sign: "keeps the client",
        cases: "continue-denied early-response early-response-begins-body-goes-on \
                early-response-and-origin-ends body-too-large",
    },
    Known {
        why: "writes the value of Expect as the client did",
        sign: "passes on otherwise",
        cases: "continue-chunked",
    },
    Known {
        why: "ends a body without a length by the connection, not in chunks",
        sign: "answers otherwise",
        cases: "origin-breaks-off-where-its-end-is-the-end response-until-the-end \
                response-until-the-end-http-1.0",
    },
    Known {
        why: "ends a body without a length by the connection, not in chunks",
        sign: "closes",
        cases: "response-until-the-end-empty",
    },
    Known {
        why: "takes any number for a status",
        sign: "answers 20",
        cases: "response-status-two-digits",
    },
    Known {
        why: "takes any number for a status",
        sign: "answers 2000",
        cases: "response-status-four-digits",
    },
    Known {
        why: "takes any number for a status",
        sign: "answers 99",
        cases: "response-status-099",
    },
    Known {
        why: "takes any number for a status",
        sign: "answers 600",
        cases: "response-status-600",
    },
    Known {
        why: "takes more white space in a first line, as RFC 9112 section 3 allows of requests",
        sign: "answers 200",
        cases: "response-two-spaces",
    },
    Known {
        why: "has another bound of fields (101)",
        sign: "answers 200",
        cases: "response-too-many-fields",
    },
    Known {
        why: "has another bound of fields (101)",
        sign: "passes it on",
        cases: "fields-too-many",
    },
    Known {
        why: "drops Upgrade from a response to a request that asked for none",
        sign: "answers otherwise",
        cases: "response-426-names-protocols",
    },
    Known {
        why: "reuses a connection whose 204 announced a body",
        sign: "keeps the origin",
        cases: "response-204-with-body-to-come response-204-chunked",
    },
    Known {
        why: "has 400 for heads beyond its buffer, which is 16 KiB with its reserve",
        sign: "answers 400",
        cases: "head-just-fits head-too-large head-too-large-and-open target-too-long \
                target-too-long-and-open method-too-long",
    },
    Known {
        why: "has no limit of a body that says no length",
        sign: "passes it on",
        cases: "body-too-large-in-chunks",
    },
    Known {
        why: "has no limit of a body that says no length",
        sign: "does not answer",
        cases: "body-too-large-later",
    },
    Known {
        why: "waits on in a request body without `option http-buffer-request`",
        sign: "does not answer",
        cases: "slow-body-stops",
    },
    Known {
        why: "waits on in a request body without `option http-buffer-request`",
        sign: "lets it drip",
        cases: "slow-body-drips",
    },
    Known {
        why: "has 502 for a switch behind another interim response",
        sign: "does not answer",
        cases: "upgrade-interim-before",
    },
    Known {
        why: "adds Sec-WebSocket-Accept to any response to a WebSocket handshake",
        sign: "answers otherwise",
        cases: "upgrade-426",
    },
    Known {
        why: "believes a 101 without looking at what it switches to",
        sign: "answers 101",
        cases: "upgrade-101-without-upgrade upgrade-101-to-another",
    },
    Known {
        why: "judges a WebSocket handshake itself",
        sign: "answers 400",
        cases: "upgrade-h2c-among-others upgrade-in-two-fields",
    },
    Known {
        why: "ends a tunnel when the backend has ended its side, and passes a reset on as an end",
        sign: "closes",
        cases: "tunnel-origin-ends-first",
    },
    Known {
        why: "ends a tunnel when the backend has ended its side, and passes a reset on as an end",
        sign: "ends otherwise",
        cases: "tunnel-origin-breaks-off",
    },
];
