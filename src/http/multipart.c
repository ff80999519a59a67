#include "http/multipart.h"

#include <errno.h>
#include <stdint.h>
#include <strings.h>

#include "base/parse.h"
#include "base/strbuf.h"

enum { BOUNDARY_MAX = 70, HEAD_MAX = 16 * 1024, PADDING_MAX = 64, LINE_MAX = 5 + BOUNDARY_MAX };

enum state {
    PREAMBLE, // before the first delimiter; dropped
    TAIL,     // a delimiter was read: "--", or padding and a line end, or it was none
    HEAD,     // fields of a part
    DATA,
    EPILOGUE // behind the closing delimiter; dropped
};

struct multipart {
    const struct multipart_callbacks *callbacks;
    void *arg;
    enum state state;
    bool in_part;
    char delimiter[LINE_MAX]; // CR LF - - boundary
    size_t delimiter_len;
    size_t matched;  // of the delimiter, at the end of what was fed
    size_t borrowed; // of these, belong to what stands before: they are no data if the match fails
    char tail[PADDING_MAX];
    size_t tail_len;
    struct strbuf head;
};

// ---- fields ----

static bool is_space(char c) {
    return c == ' ' || c == '\t';
}

// One parameter of "value; name=token; name="quoted"", from *at, which is behind the value or the
// parameter before. 1 and its parts (value unescaped in place), 0 at the end, -1 malformed.
static int next_parameter(char **at, const char **ret_name, char **ret_value) {
    char *p = *at;
    while (*p == ';' || is_space(*p))
        p++;
    if (!*p)
        return 0;
    char *name = p;
    size_t len = strcspn(p, "= \t;\"");
    p += len;
    if (!len || *p != '=')
        return -1;
    *p++ = 0;
    *ret_name = name;
    *ret_value = p;
    if (*p != '"') {
        p += strcspn(p, "; \t");
        *at = p + (*p != 0);
        *p = 0;
        return 1;
    }
    char *out = ++p;
    for (*ret_value = out; *p != '"'; *out++ = *p++) {
        if (!*p)
            return -1;
        // only these: some clients send a Windows path with its backslashes as they are
        if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
            p++;
    }
    *at = p + 1;
    *out = 0;
    return 1;
}

// The value behind "type;" of a field; what comes before is compared without case.
static char *behind_type(char *value, const char *type) {
    size_t len = strlen(type);
    if (strncasecmp(value, type, len) != 0 ||
        (value[len] && value[len] != ';' && !is_space(value[len])))
        return NULL;
    return value + len;
}

// filename*=UTF-8''percent-coded (RFC 8187), decoded in place. NULL when it is none.
static char *extended_value(char *value) {
    if (strncasecmp(value, "UTF-8'", 6) != 0 || !strchr(value + 6, '\''))
        return NULL;
    char *in = strchr(value + 6, '\'') + 1, *out = value;
    while (*in) {
        uint64_t byte;
        if (*in != '%')
            *out++ = *in++;
        else if (strlen(in) < 3 || parse_hex64(in + 1, 2, &byte) < 0 || !byte)
            return NULL;
        else {
            *out++ = (char)byte;
            in += 3;
        }
    }
    *out = 0;
    return value;
}

static int read_disposition(char *value, struct multipart_part *part) {
    const char *name;
    char *text, *at = behind_type(value, "form-data");
    int r;
    if (!at)
        return -1;
    while ((r = next_parameter(&at, &name, &text)) > 0) {
        if (!strcasecmp(name, "name"))
            part->name = text;
        else if (!strcasecmp(name, "filename") && !part->filename)
            part->filename = text;
        else if (!strcasecmp(name, "filename*") && extended_value(text))
            part->filename = text;
    }
    return r;
}

// The fields of a part, each with its line end, in m->head; cut into texts in place.
static int read_head(struct multipart *m, struct multipart_part *part, struct error *err) {
    *part = (struct multipart_part){.name = "", .content_type = ""};
    if (memchr(m->head.data, 0, m->head.len))
        return error_set(err, EBADMSG, "multipart: NUL in a part's head");
    for (char *line = m->head.data, *end; (end = strstr(line, "\r\n")); line = end + 2) {
        *end = 0;
        char *value = strchr(line, ':');
        if (!*line)
            continue;
        if (is_space(*line) || !value)
            return error_set(err, EBADMSG, "multipart: a part's head has a line that is no field");
        *value++ = 0;
        value += strspn(value, " \t");
        if (!strcasecmp(line, "Content-Type"))
            part->content_type = value;
        else if (!strcasecmp(line, "Content-Disposition") && read_disposition(value, part) < 0)
            return error_set(err, EBADMSG, "multipart: Content-Disposition is not form-data");
    }
    return 0;
}

// ---- life ----

struct multipart *multipart_new(const char *content_type, const struct multipart_callbacks *c,
                                void *arg, struct error *err) {
    struct strbuf text;
    const char *name;
    char *value, boundary[BOUNDARY_MAX + 1] = "";
    strbuf_init(&text, HEAD_MAX);
    (void)strbuf_adds(&text, content_type); // a failure leaves it cut: no boundary is found
    char *at = behind_type(text.data, "multipart/form-data");
    while (at && next_parameter(&at, &name, &value) > 0)
        if (!strcasecmp(name, "boundary") && strlen(value) <= BOUNDARY_MAX)
            memcpy(boundary, value, strlen(value) + 1);
    bool usable = at && *boundary && !text.failed && !strpbrk(boundary, "\r\n") &&
                  !is_space(boundary[strlen(boundary) - 1]);
    strbuf_free(&text);
    if (!usable) {
        (void)error_set(err, EINVAL,
                        "the body must be multipart/form-data with a boundary of 1 to 70 bytes");
        return NULL;
    }
    struct multipart *m = calloc(1, sizeof *m);
    if (!m) {
        (void)error_set(err, ENOMEM, "multipart");
        return NULL;
    }
    m->callbacks = c;
    m->arg = arg;
    m->delimiter_len = (size_t)snprintf(m->delimiter, sizeof m->delimiter, "\r\n--%s", boundary);
    m->matched = m->borrowed = 2; // the first one may stand at the very beginning
    strbuf_init(&m->head, HEAD_MAX);
    return m;
}

void multipart_free(struct multipart *m) {
    if (!m)
        return;
    strbuf_free(&m->head);
    free(m);
}

// ---- bytes ----

static int emit(struct multipart *m, const char *data, size_t len) {
    if (!m->in_part || !len)
        return 0;
    return m->callbacks->data(m->arg, data, len) < 0 ? -1 : 0;
}

// What looked like a delimiter was data.
static int emit_matched(struct multipart *m) {
    size_t from = m->borrowed, to = m->matched;
    m->matched = m->borrowed = 0;
    return emit(m, m->delimiter + from, to - from);
}

static ssize_t found(struct multipart *m, size_t used) {
    m->matched = m->delimiter_len;
    m->state = TAIL;
    m->tail_len = 0;
    return (ssize_t)used;
}

// The whole delimiter from data[i] on, so that data without it goes on in one piece; else the CR
// with which one could begin whose end is still to come; else NULL. memchr() is several times as
// fast as memmem() here.
static const char *search(const struct multipart *m, const char *data, size_t len, size_t i) {
    const char *end = data + len;
    for (const char *p = data + i; (p = memchr(p, '\r', (size_t)(end - p))); p++)
        if ((size_t)(end - p) < m->delimiter_len || !memcmp(p, m->delimiter, m->delimiter_len))
            return p;
    return NULL;
}

// Searches the delimiter. A CR can only be its first byte, so a failed match restarts there at
// most. Returns the bytes used, -1 when a callback stops.
static ssize_t scan(struct multipart *m, const char *data, size_t len) {
    size_t i = 0, begin = 0; // data[begin..i) is data for sure
    while (i < len) {
        if (m->matched == 0) {
            const char *cr = search(m, data, len, i);
            i = cr ? (size_t)(cr - data) : len;
            if (emit(m, data + begin, i - begin) < 0)
                return -1;
            if (len - i >= m->delimiter_len)
                return found(m, i + m->delimiter_len);
            m->matched = cr != NULL;
            begin = i += cr != NULL;
        } else if (data[i] == m->delimiter[m->matched]) {
            begin = ++i;
            if (++m->matched == m->delimiter_len)
                return found(m, i);
        } else if (emit_matched(m) < 0) {
            return -1;
        }
    }
    return (ssize_t)i;
}

static int end_part(struct multipart *m) {
    bool was = m->in_part;
    m->in_part = false;
    m->matched = m->borrowed = 0;
    return was && m->callbacks->end(m->arg) < 0 ? -1 : 0;
}

// One byte behind a delimiter. 1: used, 0: look at it again, -1: stopped.
static int tail_byte(struct multipart *m, char c) {
    char before = m->tail_len ? m->tail[m->tail_len - 1] : 0;
    bool closing = before == '-' && m->tail_len == 1;
    if (closing && c == '-') {
        m->state = EPILOGUE;
        return end_part(m) < 0 ? -1 : 1;
    }
    if (before == '\r' && c == '\n') {
        m->state = HEAD;
        strbuf_clear(&m->head);
        return end_part(m) < 0 ? -1 : 1;
    }
    bool fits = !closing && before != '\r' && m->tail_len < sizeof m->tail;
    if (fits && (is_space(c) || c == '\r' || (c == '-' && !m->tail_len))) {
        m->tail[m->tail_len++] = c;
        return 1;
    }
    m->state = m->in_part ? DATA : PREAMBLE; // the boundary was the beginning of something longer
    if (emit_matched(m) < 0)
        return -1;
    size_t kept = m->tail_len && before == '\r'; // may begin the true one
    m->matched = kept;
    return emit(m, m->tail, m->tail_len - kept) < 0 ? -1 : 0;
}

// One byte of a part's head. -1: malformed or stopped.
static int head_byte(struct multipart *m, char c, struct error *err) {
    if (strbuf_addc(&m->head, c) < 0)
        return error_set(err, EMSGSIZE, "multipart: the head of a part is larger than %d bytes",
                         HEAD_MAX);
    const char *end = m->head.data + m->head.len;
    bool over = c == '\n' && ((m->head.len == 2 && !memcmp(end - 2, "\r\n", 2)) ||
                              (m->head.len >= 4 && !memcmp(end - 4, "\r\n\r\n", 4)));
    if (!over)
        return 0;
    struct multipart_part part;
    if (read_head(m, &part, err) < 0)
        return -1;
    m->state = DATA;
    m->in_part = true;
    m->matched = m->borrowed =
        2; // an empty part: the line end of its head is the one of the delimiter
    return m->callbacks->begin(m->arg, &part) < 0 ? -1 : 0;
}

int multipart_feed(struct multipart *m, const char *data, size_t len, struct error *err) {
    while (len) {
        ssize_t used = 1;
        switch (m->state) {
        case PREAMBLE:
        case DATA: used = scan(m, data, len); break;
        case TAIL: used = tail_byte(m, *data); break;
        case HEAD: used = head_byte(m, *data, err) < 0 ? -1 : 1; break;
        case EPILOGUE: return 0;
        }
        if (used < 0)
            return -1;
        data += used;
        len -= (size_t)used;
    }
    return 0;
}

int multipart_finish(struct multipart *m, struct error *err) {
    if (m->state == EPILOGUE)
        return 0;
    return error_set(err, EBADMSG, "multipart: the closing boundary is missing");
}
