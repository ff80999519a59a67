// A docker runtime on a fake engine, with an execd that is a thread of the test: it answers on the
// port that the fake engine "published". For the test files of the runtime.
#ifndef TESTS_DOCKER_WORLD_H
#define TESTS_DOCKER_WORLD_H

#include <pthread.h>

#include "fake_engine.h"
#include "fmt/json.h"
#include "server/runtime/docker/docker.h"

#define ID    "11111111-2222-4333-8444-555555555555"
#define CID   "c0ffee00c0ffee00c0ffee00c0ffee00"
#define HASH  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define IMAGE "debian:12"

struct world {
    struct fake_engine *fake;
    struct runtime *runtime;
    struct docker_settings settings;
    int listener;
    unsigned port;
    pthread_t execd;
    char binary[32];
    struct sandbox_spec *spec;
};

int set_up(void **state); // cmocka's; *state is the world, scripted for a warm create
int tear_down(void **state);
void start(struct world *w); // a runtime of w->settings, when its event stream stands
void container(struct world *w, const char *state); // what an inspect of the sandbox tells
int image(struct world *w, struct image_info *ret, struct error *err);
int provision(struct world *w, struct error *err); // of w->spec
json_t *body(struct world *w); // of the last container that was created; a new reference
bool lists(const json_t *list, const char *text);
const char *label(const json_t *j, const char *name);

#endif
