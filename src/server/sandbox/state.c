#include "server/sandbox/state.h"

#include <stdio.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/clock.h"

static const struct {
    const char *name, *reason, *message;
} states[SANDBOX_STATE_COUNT] = {
    [SANDBOX_PENDING] = {"Pending", "CONTAINER_STARTING", "Sandbox is being created."},
    [SANDBOX_RUNNING] = {"Running", "CONTAINER_RUNNING", "Sandbox container started successfully."},
    [SANDBOX_PAUSING] = {"Pausing", "CONTAINER_PAUSING", "Sandbox is being paused."},
    [SANDBOX_PAUSED] = {"Paused", "CONTAINER_PAUSED", "Sandbox is paused."},
    [SANDBOX_RESUMING] = {"Resuming", "CONTAINER_RESUMING", "Sandbox is being resumed."},
    [SANDBOX_STOPPING] = {"Stopping", "CONTAINER_STOPPING", "Sandbox is being removed."},
    [SANDBOX_TERMINATED] = {"Terminated", "CONTAINER_EXITED", "Sandbox has ended."},
    [SANDBOX_FAILED] = {"Failed", "CONTAINER_EXITED_ERROR", "Sandbox has failed."},
};

// Every transition there is. What is not here does not happen.
static const struct {
    enum sandbox_state from;
    enum sandbox_event event;
    enum sandbox_state to;
} transitions[] = {
    {SANDBOX_PENDING, EVENT_PROVISIONED, SANDBOX_RUNNING},
    {SANDBOX_PENDING, EVENT_PROVISION_FAILED, SANDBOX_FAILED},
    {SANDBOX_PENDING, EVENT_STOP, SANDBOX_STOPPING},
    {SANDBOX_RUNNING, EVENT_PAUSE, SANDBOX_PAUSING},
    {SANDBOX_RUNNING, EVENT_FOUND_PAUSED, SANDBOX_PAUSED},
    {SANDBOX_RUNNING, EVENT_EXITED_OK, SANDBOX_TERMINATED},
    {SANDBOX_RUNNING, EVENT_EXITED_BADLY, SANDBOX_FAILED},
    {SANDBOX_RUNNING, EVENT_STOP, SANDBOX_STOPPING},
    {SANDBOX_PAUSING, EVENT_PAUSED, SANDBOX_PAUSED},
    {SANDBOX_PAUSING, EVENT_PAUSE_FAILED, SANDBOX_RUNNING},
    {SANDBOX_PAUSED, EVENT_RESUME, SANDBOX_RESUMING},
    {SANDBOX_PAUSED, EVENT_FOUND_RUNNING, SANDBOX_RUNNING},
    {SANDBOX_PAUSED, EVENT_EXITED_OK, SANDBOX_TERMINATED},
    {SANDBOX_PAUSED, EVENT_EXITED_BADLY, SANDBOX_FAILED},
    {SANDBOX_PAUSED, EVENT_STOP, SANDBOX_STOPPING},
    {SANDBOX_RESUMING, EVENT_RESUMED, SANDBOX_RUNNING},
    {SANDBOX_RESUMING, EVENT_RESUME_FAILED, SANDBOX_PAUSED},
    {SANDBOX_TERMINATED, EVENT_STOP, SANDBOX_STOPPING},
    {SANDBOX_FAILED, EVENT_STOP, SANDBOX_STOPPING},
};

int state_after(enum sandbox_state from, enum sandbox_event event) {
    for (size_t i = 0; i < ARRAY_SIZE(transitions); i++)
        if (transitions[i].from == from && transitions[i].event == event)
            return (int)transitions[i].to;
    return -1;
}

static void assign(struct registry *r, struct sandbox *sb, enum sandbox_state to) {
    registry_counted(r, sb->state, to);
    sb->state = to;
}

int state_apply(struct registry *r, struct sandbox *sb, enum sandbox_event event) {
    int to = state_after(sb->state, event);
    if (to < 0)
        return -1;
    assign(r, sb, (enum sandbox_state)to);
    sb->changed_us = clock_wall_us();
    (void)snprintf(sb->reason, sizeof sb->reason, "%s", states[to].reason);
    (void)snprintf(sb->message, sizeof sb->message, "%s", states[to].message);
    return 0;
}

void state_restore(struct registry *r, struct sandbox *sb, enum sandbox_state state) {
    assign(r, sb, state);
}

const char *sandbox_state_name(enum sandbox_state s) {
    return states[s].name;
}
const char *state_reason(enum sandbox_state s) {
    return states[s].reason;
}
const char *state_message(enum sandbox_state s) {
    return states[s].message;
}

int sandbox_state_parse(const char *name, enum sandbox_state *ret) {
    for (int i = 0; i < SANDBOX_STATE_COUNT; i++) {
        if (strcasecmp(states[i].name, name) == 0) {
            *ret = (enum sandbox_state)i;
            return 0;
        }
    }
    return -1;
}
