// Windows guests (docker-runtime.md section 8): a Linux container in which QEMU runs the guest.
// execd is a program of the guest: it answers minutes after the start, knows no token, and is
// reached where the engine publishes it, since only what comes in by the container's network card
// gets through to the guest. Workers, unless stated.
//
// The devices that it needs are looked for on this host when the engine is reached by a socket. Of
// another engine's host nothing is known here: that engine refuses the container itself, and what
// it says of a device becomes the same 400 (windows_is_device()).
#ifndef SERVER_RUNTIME_DOCKER_WINDOWS_WINDOWS_H
#define SERVER_RUNTIME_DOCKER_WINDOWS_WINDOWS_H

#include "server/runtime/docker/internal.h"

// Its volume of install.bat and execd.exe: this and the sandbox's id.
#define WINDOWS_OEM "opensandbox-win-oem-"
// Ports of the guest that are published: execd, HTTP, RDP (UDP, too), the screen. Any thread.
extern const unsigned windows_ports[GUEST_PORTS];
int windows_port_index(unsigned port); // -1: none of them

// Whether such guests can be here at all, before a pull of gigabytes: 400 with the reason.
int windows_check(const struct docker *d, struct error *err);
bool windows_is_device(const char *message); // an engine's: it has not got one of the devices

// Makes that volume, and its bind. It has the sandbox's labels, so it is
// removed with the sandbox, by a failed create and by the sweep of leftovers.
int windows_volume(struct docker *d, const char *id, json_t *binds, struct error *err);
// Makes the body of a sandbox's container (container.h) that of a guest's.
int windows_shape(const struct docker *d, const struct sandbox_spec *s, json_t *body,
                  struct error *err);
// Both files out of runtime.execd_image into the volume, before the container's start.
int windows_bring(struct docker *d, const char *container, struct error *err);

#endif
