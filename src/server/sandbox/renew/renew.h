// Renewal on access: a sandbox whose create asked for it (extensions
// "access.renew.extend.seconds") lives on while somebody uses it (lifecycle-api.md 9). Loop thread.
#ifndef SERVER_SANDBOX_RENEW_RENEW_H
#define SERVER_SANDBOX_RENEW_RENEW_H

#include "server/sandbox/sandbox.h"

#define RENEW_EXTENSION "access.renew.extend.seconds"

struct domain;
// Somebody has used it. Moves its expiry to now + the seconds that it asked for, never to an
// earlier time, and not again within the interval of the configuration, whatever the source;
// failures are logged. Costs next to nothing where there is nothing to do.
void renew_access(struct domain *d, struct sandbox *sb, const char *source);

#endif
