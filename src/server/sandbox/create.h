// A create under way, for create.c and pool/take.c alone. Loop thread.
#ifndef SERVER_SANDBOX_CREATE_H
#define SERVER_SANDBOX_CREATE_H

#include "base/cleanup.h"
#include "server/sandbox/domain.h"
#include "server/sandbox/hooks/prestart.h"

struct create {
    struct operation op;
    struct domain *domain;
    struct list tickets; // who is to be told yet
    bool promised;       // Pending was answered: a failure stays visible
    bool has_slot;
    bool in_store;  // its record was committed
    bool begun;     // the runtime was asked to make it
    bool taking;    // its sandbox comes out of a pool's stock
    int64_t takes;  // stocked ones tried: bufferMax at most, as a stock that fails is made again
    bool uncounted; // its preStart hook runs: no business of who limits creates
    bool left;      // to the next start of the server
    struct prestart_wait prestart;
    int64_t asked_us;
    struct image_wait image_wait;
    struct list slot_wait;
    char *username, *password;
    struct image_info image;
    struct provision_result result;
    struct sandbox_spec *spec;
    char artifact[RUNTIME_STATE_MAX]; // of the snapshot it is restored from
    char token_sha256[SHA256_HEX_SIZE];
    char *env; // taking: what execd is to be given, a JSON object; NULL: nothing
    struct teardown_wait teardown;
    struct error error; // told after the teardown
};

static inline struct create *create_of(struct operation *op) {
    return CONTAINER_OF(op, struct create, op);
}

// pool/take.c: a stocked sandbox becomes the one that was asked for.
enum { TAKE_STEPS = 5 };
extern const struct step take_steps[TAKE_STEPS];

#endif
