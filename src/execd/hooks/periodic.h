// Hooks on a schedule, all behind one timer of the kernel that follows the wall clock. Loop thread.
#ifndef EXECD_HOOKS_PERIODIC_H
#define EXECD_HOOKS_PERIODIC_H

#include "execd/execd.h"
#include "execd/hooks/plan.h"

struct periodic; // of all hooks of a plan
// plan: outlives it. NULL with err.
struct periodic *periodic_new(struct execd *e, const struct hooks_plan *plan, struct error *err);
void periodic_free(struct periodic *p); // ends what runs; NULL is fine

#endif
