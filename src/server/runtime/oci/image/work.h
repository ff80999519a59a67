// An image on its way into the store: images/.tmp-<uuid>/{layout,rootfs,...}. The directory is
// locked as long as its owner lives, so whoever opens the store next can tell the dead ones.
// Private to image/. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_IMAGE_WORK_H
#define SERVER_RUNTIME_OCI_IMAGE_WORK_H

#include <stdint.h>

#include "base/error.h"
#include "server/runtime/oci/image/tool.h"
#include "server/runtime/oci/oci.h"

enum { WORK_PATH_SIZE = 640 };

struct work {
    const struct oci_settings *settings;
    const char *what;          // reference or file, for messages
    int images;                // borrowed
    int dir;                   // locked
    char name[48];             // .tmp-<uuid>
    char path[WORK_PATH_SIZE]; // absolute
    int64_t deadline_ms;
    // progress and guard
    const char *doing;   // "fetching"
    const char *growing; // directory below that grows meanwhile
    uint64_t total;      // expected bytes of it; 0: unknown
    uint64_t free_bytes, free_inodes;
    int64_t started_ms, next_line_ms, next_walk_ms;
};
int work_begin(struct work *w, const struct oci_settings *s, int images, const char *images_path,
               const char *what, struct error *err);
void work_end(struct work *w); // removes what is left
// Deletes what dead owners left.
int work_sweep(int images, struct error *err);

// A step follows: `growing` below the directory is watched by work_tick() (a tool's): a line of
// progress every 5 s, and an end when it has passed the limits of an image.
void work_step(struct work *w, const char *doing, const char *growing, uint64_t total);
int work_tick(void *work, struct error *err);
// Gives a tool's error its API code: DISK_FULL, IMAGE_INVALID, else `otherwise`. Returns -1.
int work_failed(const struct work *w, int otherwise, struct error *err);

#endif
