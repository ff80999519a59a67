// The states of a sandbox and what moves it from one to the next. Loop thread; pure but for the
// sandbox itself.
#ifndef SERVER_SANDBOX_STATE_H
#define SERVER_SANDBOX_STATE_H

#include "server/sandbox/registry.h"

enum sandbox_event {
    EVENT_PROVISIONED,
    EVENT_PROVISION_FAILED,
    EVENT_PAUSE,
    EVENT_PAUSED,
    EVENT_PAUSE_FAILED,
    EVENT_RESUME,
    EVENT_RESUMED,
    EVENT_RESUME_FAILED,
    EVENT_FOUND_PAUSED,  // reconcile: frozen, whatever the record says
    EVENT_FOUND_RUNNING, // reconcile: not frozen
    EVENT_EXITED_OK,
    EVENT_EXITED_BADLY,
    EVENT_STOP,
    EVENT_COUNT
};

// The state after the event, or -1 when the event means nothing in that state.
int state_after(enum sandbox_state from, enum sandbox_event event);
// Moves it, with the new state's reason and message and the time. -1: the event means nothing here.
int state_apply(struct registry *r, struct sandbox *sb, enum sandbox_event event);
// A record that was loaded.
void state_restore(struct registry *r, struct sandbox *sb, enum sandbox_state state);
// Texts that stand in a status until something better is known.
const char *state_reason(enum sandbox_state s);
const char *state_message(enum sandbox_state s);

#endif
