// The inside of the image store. Private to image/.
#ifndef SERVER_RUNTIME_OCI_IMAGE_STORE_H
#define SERVER_RUNTIME_OCI_IMAGE_STORE_H

#include <pthread.h>

#include "base/list.h"
#include "base/map.h"
#include "server/runtime/oci/image/image.h"
#include "server/runtime/oci/image/reference.h"

enum { STORE_PATH_SIZE = 512, STORE_KEY_SIZE = REFERENCE_MAX + 64 };

struct name_row {
    char key[STORE_KEY_SIZE]; // "<reference> <os>/<arch>"
    char id[IMAGE_ID_MAX];
    int64_t checked_us; // last answer of the registry, or import
};

struct image_store {
    const struct oci_settings *settings;
    char path[STORE_PATH_SIZE], images_path[STORE_PATH_SIZE];
    int images, names, refs, trash; // directories
    int lock;                       // of the server's store; -1 for a tool
    int inotify;                    // tells of changes to images and names; -1: always read again
    pthread_mutex_t mutex;          // guards what follows
    pthread_cond_t landed;          // a flight ended
    bool stale;                     // the index below is behind the files
    struct map by_name, by_id;      // -> struct name_row *, struct image *
    struct list flights;            // pulls under way
    int64_t next_prune_ms;
};

void store_key(const struct reference *r, const char *os, const char *arch,
               char key[STORE_KEY_SIZE]);
// Brings the index up to the files when somebody changed them. Blocks.
int store_refresh(struct image_store *s, struct error *err);
// Looks into the index. Does not block.
bool store_lookup(struct image_store *s, const char *key, struct image_info *ret);
bool store_has(struct image_store *s, const char *image_id, struct image_info *ret);
// Writes the row of a name and refreshes.
int store_name(struct image_store *s, const char *key, const char *image_id, struct error *err);
// Calls f for every row or image of the index, under its lock, in no order.
void store_each_name(struct image_store *s, void (*f)(const struct name_row *, void *), void *arg);
void store_each_image(struct image_store *s, void (*f)(const struct image *, void *), void *arg);
// Removes names of an image that is gone.
int store_forget_names(struct image_store *s, const char *image_id, const char *key,
                       struct error *err);

// Between server and tools: shared while a reference to an image is made, exclusive while one is
// removed. -1 with errno; close it to unlock.
int store_guard(struct image_store *s, int operation);

#endif
