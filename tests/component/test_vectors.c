// Every malformed or borderline request of data/http_vectors.json against the server: whole and
// byte by byte, to a handler of whole bodies and to one that streams. Each is followed by a good
// request, which must be served after an accepted vector and never after a rejected one. Prints a
// line for each vector (TAP).
#include <jansson.h>

#include "../unit/http/http_test.h"

static unsigned served;

static void buffered(struct http_exchange *x) {
    served++;
    http_reply(x, 200, NULL, "ok", 2);
}

static bool on_data(struct http_exchange *x, const char *data, size_t len) {
    (void)x;
    (void)data;
    return len > 0;
}

static void on_end(struct http_exchange *x, bool ok) {
    served += ok;
    http_reply_empty(x, ok ? 200 : 400);
}

static void streamed(struct http_exchange *x) {
    static const struct http_body body = {.data = on_data, .end = on_end};
    http_body_start(x, &body);
}

static const struct http_route to_buffered[] = {{"*", "/*", buffered, HTTP_BODY_BUFFERED, 0, ""}};
static const struct http_route to_streamed[] = {{"*", "/*", streamed, HTTP_BODY_STREAMED, 0, ""}};

// The vectors are latin-1 text, which JSON carries as UTF-8.
static void latin1(const json_t *text, struct strbuf *ret) {
    const unsigned char *at = (const unsigned char *)json_string_value(text);
    size_t len = json_string_length(text);
    for (size_t i = 0; i < len; i++) {
        unsigned c = at[i];
        if (c >= 0xc2 && i + 1 < len)
            c = (c & 3) << 6 | (at[++i] & 0x3f);
        (void)strbuf_addc(ret, (char)c);
    }
}

static const char *run(const struct http_route *routes, const struct strbuf *bytes, size_t step,
                       const char *verdict, unsigned *ret_status) {
    struct web *w = web_new(routes, 1, NULL);
    struct peer *p = peer_new(w);
    const char *wrong = NULL;
    served = 0;
    for (size_t at = 0; at < bytes->len && !p->eof; at += step) {
        size_t part = bytes->len - at < step ? bytes->len - at : step;
        if (write(p->fd, bytes->data + at, part) < 0)
            break; // it has closed already
        peer_turn(w, p);
    }
    bool accept = strcmp(verdict, "accept") == 0;
    PEER_UNTIL(w, p, p->eof || peer_count(p, "HTTP/1.1 ") == 2);
    *ret_status = 0;
    for (size_t i = 9; p->in.len > 12 && i < 12; i++)
        *ret_status = *ret_status * 10 + (unsigned)(p->in.data[i] - '0');
    if (accept)
        wrong = served == 2 && *ret_status == 200 ? NULL : "not accepted";
    else if (served)
        wrong = "served";
    else if (!p->eof || peer_count(p, "HTTP/1.1 ") != 1)
        wrong = "not closed";
    else if (*ret_status < 400 || *ret_status > 599 ||
             (strcmp(verdict, "501") == 0 && *ret_status != 501))
        wrong = "wrong status";
    peer_free(p);
    web_free(w);
    return wrong;
}

static const char *judge(const json_t *vector, unsigned *ret_status) {
    const char *verdict = json_string_value(json_object_get(vector, "verdict"));
    cleanup_strbuf struct strbuf bytes;
    const char *wrong = NULL;
    strbuf_init(&bytes, 1 << 20);
    latin1(json_object_get(vector, "bytes"), &bytes);
    (void)strbuf_adds(&bytes, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    for (unsigned way = 0; way < 4 && !wrong; way++)
        wrong = run(way & 1 ? to_streamed : to_buffered, &bytes, way & 2 ? 1 : bytes.len, verdict,
                    ret_status);
    return wrong;
}

int main(int argc, char **argv) {
    json_error_t why;
    json_t *all = argc == 2 ? json_load_file(argv[1], JSON_ALLOW_NUL, &why) : NULL;
    json_t *vectors = json_object_get(all, "vectors"), *vector;
    size_t i, failed = 0;
    if (!json_array_size(vectors)) {
        (void)fprintf(stderr, "usage: test-vectors FILE (%s)\n", argc == 2 ? why.text : "no file");
        return 2;
    }
    (void)printf("1..%zu\n", json_array_size(vectors));
    json_array_foreach(vectors, i, vector) {
        unsigned status = 0;
        const char *wrong = judge(vector, &status);
        failed += wrong != NULL;
        (void)printf("%s %zu - %s: %s, answered %u%s%s\n", wrong ? "not ok" : "ok", i + 1,
                     json_string_value(json_object_get(vector, "name")),
                     json_string_value(json_object_get(vector, "verdict")), status,
                     wrong ? ": " : "", wrong ? wrong : "");
    }
    json_decref(all);
    return failed ? 1 : 0;
}
