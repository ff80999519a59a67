// The way of a sandbox out of the stock of its pool.
#include <string.h>

#include "base/clock.h"
#include "server/errors.h"
#include "server/runtime/execd.h"
#include "server/sandbox/create.h"

static bool same_env(const struct pairs *a, const struct pairs *b) {
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const char *value = pairs_get(b, a->items[i].name);
        if (!value || strcmp(value, a->items[i].value) != 0)
            return false;
    }
    return true;
}

static int ready(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    if (op->sandbox->state != SANDBOX_RUNNING)
        return error_server(err, ERR_R_SANDBOX_START_FAILED, "the stocked sandbox has ended");
    if (!same_env(&t->spec->env, &op->sandbox->spec->env) &&
        !(t->env = pairs_to_text(&t->spec->env)))
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    return STEP_DONE;
}

// From here on it may know what is meant for one taker alone: after a crash nobody gets it.
static int commit_reserved(struct operation *op, struct error *err) {
    if (!create_of(op)->env)
        return STEP_SKIP;
    op->sandbox->reserved = true;
    return record_fill(op, SANDBOX_RUNNING, err);
}

// Its execd gives the variables to every process it starts from now on.
static int hand_over(struct operation *op, struct error *err) {
    const struct create *t = create_of(op);
    char token[SANDBOX_TOKEN_SIZE];
    if (!t->env)
        return STEP_DONE;
    domain_token(op->domain, "execd", op->id, token);
    return execd_set_environment(op->domain->settings.runtime, op->id, token, t->env, err);
}

static int become(struct create *t, struct sandbox *sb) {
    if (pairs_copy(&sb->metadata, &t->spec->metadata) < 0)
        return -1;
    spec_unref(sb->spec);
    sb->spec = spec_ref(t->spec);
    sb->expires_us = t->spec->timeout_s ? t->asked_us + t->spec->timeout_s * 1000000 : 0;
    sb->changed_us = clock_wall_us();
    sb->phase_count = 0; // of its making, which nobody waited for
    sb->reserved = false;
    return 0;
}

static int commit_taken(struct operation *op, struct error *err) {
    struct sandbox *sb = op->sandbox;
    if (become(create_of(op), sb) < 0)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    registry_date(op->domain->registry, sb, create_of(op)->asked_us);
    if (record_fill(op, SANDBOX_RUNNING, err) < 0)
        return -1;
    op->change.rows[0].record.sandbox.stock = 0;
    return sb->key ? key_put(sb->key, &op->change, err) : STEP_DONE;
}

static int taken(struct operation *op, struct error *err) {
    (void)err;
    op->sandbox->stock = false;
    expiry_set(op->domain, op->sandbox);
    return STEP_DONE;
}

const struct step take_steps[TAKE_STEPS] = {
    {"ready", STEP_LOOP, 0, ready, NULL},
    {"commit the reservation", STEP_STORE, 0, commit_reserved, NULL},
    {"hand over", STEP_WORKER, 0, hand_over, NULL},
    {"commit the hand-over", STEP_STORE, 0, commit_taken, NULL},
    {"taken", STEP_LOOP, 0, taken, NULL},
};
