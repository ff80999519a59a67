#include "execd/files/glob.h"

#include <errno.h>
#include <stdint.h>

#include "base/cleanup.h"

enum op {
    OP_RUNE,  // one rune, arg
    OP_ANY,   // any rune but '/'
    OP_CLASS, // a rune of the class that begins at pattern offset arg
    OP_SPLIT, // go on at the next one and at arg
    OP_JUMP,  // go on at arg
    OP_MATCH
};
// a byte of the pattern makes three steps at most
enum { STEPS_MAX = 3 * GLOB_PATTERN_MAX + 2, DEPTH_MAX = 64 };

struct step {
    enum op op;
    uint32_t arg;
};

struct files_glob {
    const char *pattern; // behind the steps
    bool negated;
    uint32_t count;
    struct step steps[];
};

// One rune; a byte that is no UTF-8 stands for itself, outside of Unicode.
static uint32_t next_rune(const char **at) {
    const unsigned char *p = (const unsigned char *)*at;
    unsigned more = *p >= 0xf0 && *p < 0xf5 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc2 ? 1 : 0;
    uint32_t rune = more ? *p & (0x3fU >> more) : *p;
    if (*p >= 0xf5)
        more = 0;
    for (unsigned i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            more = 0;
            break;
        }
        rune = rune << 6 | (p[i] & 0x3f);
    }
    if (!more && *p >= 0x80)
        rune = 0x110000 + *p;
    *at += more + 1;
    return rune;
}

// ---- compiling ----

struct compiler {
    struct files_glob *g;
    const char *at;
    unsigned depth;
};

static uint32_t emit(struct compiler *c, enum op op, uint32_t arg) {
    c->g->steps[c->g->count] = (struct step){op, arg};
    return c->g->count++;
}

// Behind the '[': checks the class, leaves `at` behind its ']'.
static int compile_class(struct compiler *c) {
    emit(c, OP_CLASS, (uint32_t)(c->at - c->g->pattern));
    if (*c->at == '!' || *c->at == '^')
        c->at++;
    if (*c->at == ']')
        return -1;
    while (*c->at != ']') {
        if (*c->at == '\\')
            c->at++;
        if (!*c->at)
            return -1;
        (void)next_rune(&c->at);
    }
    c->at++;
    return 0;
}

static int compile_sequence(struct compiler *c, const char *ends);

// Behind the '{': SPLIT over each alternative but the last, JUMPs to the common end.
static int compile_braces(struct compiler *c) {
    uint32_t last_jump = UINT32_MAX; // chain of jumps through their arg until the end is known
    for (;;) {
        uint32_t split = emit(c, OP_SPLIT, 0);
        if (compile_sequence(c, ",}") < 0 || !*c->at)
            return -1;
        if (*c->at++ == '}') {
            // the last alternative needs no other way
            c->g->steps[split] = (struct step){OP_JUMP, split + 1};
            break;
        }
        last_jump = emit(c, OP_JUMP, last_jump);
        c->g->steps[split].arg = c->g->count;
    }
    while (last_jump != UINT32_MAX) {
        uint32_t before = c->g->steps[last_jump].arg;
        c->g->steps[last_jump].arg = c->g->count;
        last_jump = before;
    }
    return 0;
}

static int compile_negation(struct compiler *c) {
    if (*c->at != '(')
        return -1;
    c->at++;
    c->g->negated = !c->g->negated;
    if (compile_sequence(c, ")") < 0 || *c->at != ')')
        return -1;
    c->at++;
    return 0;
}

static void compile_star(struct compiler *c, bool at_start) {
    const char *first = c->at - 1;
    while (*c->at == '*')
        c->at++;
    // "**/" stands for any number of directories: none, in front of a base name
    if (at_start && c->at - first >= 2 && *c->at == '/') {
        c->at++;
        return;
    }
    uint32_t split = emit(c, OP_SPLIT, 0);
    emit(c, OP_ANY, 0);
    emit(c, OP_JUMP, split);
    c->g->steps[split].arg = c->g->count;
}

// Up to one of `ends` (which stays) or the end of the pattern.
static int compile_sequence(struct compiler *c, const char *ends) {
    const char *start = c->at;
    if (++c->depth > DEPTH_MAX)
        return -1;
    while (*c->at && !strchr(ends, *c->at)) {
        int failed = 0;
        switch (*c->at) {
        case '*':
            c->at++;
            compile_star(c, c->at - 1 == start || c->at[-2] == '/');
            break;
        case '?':
            c->at++;
            emit(c, OP_ANY, 0);
            break;
        case '[':
            c->at++;
            failed = compile_class(c);
            break;
        case '{':
            c->at++;
            failed = compile_braces(c);
            break;
        case '!':
            c->at++;
            failed = compile_negation(c);
            break;
        case '\\':
            if (!*++c->at)
                return -1;
            __attribute__((fallthrough));
        default: emit(c, OP_RUNE, next_rune(&c->at)); break;
        }
        if (failed)
            return -1;
    }
    c->depth--;
    return 0;
}

struct files_glob *files_glob_new(const char *pattern) {
    size_t len = strlen(pattern);
    if (len > GLOB_PATTERN_MAX) {
        errno = E2BIG;
        return NULL;
    }
    size_t steps = (3 * len + 2) * sizeof(struct step);
    struct files_glob *g = calloc(1, sizeof *g + steps + len + 1);
    if (!g)
        return NULL;
    char *copy = (char *)g->steps + steps;
    memcpy(copy, pattern, len + 1);
    g->pattern = copy;
    struct compiler c = {.g = g, .at = copy};
    if (compile_sequence(&c, "") < 0) {
        free(g);
        errno = EINVAL;
        return NULL;
    }
    emit(&c, OP_MATCH, 0);
    return g;
}

void files_glob_free(struct files_glob *g) {
    free(g);
}

// ---- matching ----

// A range that begins with its greater end still matches that end, '-' at the end is itself.
static bool in_class(const char *p, uint32_t rune) {
    bool complement = *p == '!' || *p == '^', found = false, has_low = false;
    uint32_t low = 0;
    for (p += complement; *p != ']';) {
        bool range = has_low && *p == '-' && p[1] != ']';
        p += range;
        if (*p == '\\')
            p++;
        uint32_t r = next_rune(&p);
        found = found || (range ? low <= rune && rune <= r : r == rune);
        has_low = !range;
        low = r;
    }
    return found != complement;
}

struct states {
    uint16_t list[STEPS_MAX];
    uint32_t count;
    uint64_t present[(STEPS_MAX + 63) / 64];
};

static void states_add(struct states *s, uint32_t step) {
    uint64_t bit = UINT64_C(1) << (step & 63);
    if (s->present[step >> 6] & bit)
        return;
    s->present[step >> 6] |= bit;
    s->list[s->count++] = (uint16_t)step;
}

// Follows splits and jumps: the list grows while it is walked. Whether the end can be reached.
static bool states_close(const struct files_glob *g, struct states *s) {
    bool matched = false;
    for (uint32_t i = 0; i < s->count; i++) {
        struct step step = g->steps[s->list[i]];
        if (step.op == OP_SPLIT)
            states_add(s, s->list[i] + 1U);
        if (step.op == OP_SPLIT || step.op == OP_JUMP)
            states_add(s, step.arg);
        matched = matched || step.op == OP_MATCH;
    }
    return matched;
}

static bool takes(const struct files_glob *g, struct step step, uint32_t rune) {
    if (step.op == OP_RUNE)
        return step.arg == rune;
    if (step.op == OP_CLASS)
        return in_class(g->pattern + step.arg, rune);
    return step.op == OP_ANY && rune != '/';
}

static void states_reset(struct states *s, uint32_t steps) {
    s->count = 0;
    memset(s->present, 0, (steps + 63) / 64 * sizeof s->present[0]);
}

bool files_glob_match(const struct files_glob *g, const char *name) {
    struct states sets[2], *now = &sets[0], *then = &sets[1];
    states_reset(now, g->count);
    states_add(now, 0);
    bool matched = states_close(g, now);
    while (*name && now->count) {
        uint32_t rune = next_rune(&name);
        states_reset(then, g->count);
        for (uint32_t i = 0; i < now->count; i++)
            if (takes(g, g->steps[now->list[i]], rune))
                states_add(then, now->list[i] + 1U);
        matched = states_close(g, then);
        struct states *swap = now;
        now = then;
        then = swap;
    }
    return (matched && !*name) != g->negated;
}
