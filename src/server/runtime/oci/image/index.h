// The inside of the image store. Private to image/.
#ifndef SERVER_RUNTIME_OCI_IMAGE_INDEX_H
#define SERVER_RUNTIME_OCI_IMAGE_INDEX_H

#include <pthread.h>

#include "base/list.h"
#include "base/map.h"
#include "server/runtime/oci/image/image.h"
#include "server/runtime/oci/image/reference.h"

enum { INDEX_PATH_SIZE = 512, INDEX_KEY_SIZE = REFERENCE_MAX + 64 };

struct name_row {
    char key[INDEX_KEY_SIZE]; // "<reference> <os>/<arch>"
    char id[IMAGE_ID_MAX];
    int64_t checked_us; // last answer of the registry, or import
};

struct image_store {
    const struct oci_settings *settings;
    char path[INDEX_PATH_SIZE], images_path[INDEX_PATH_SIZE];
    int images, names, refs, trash; // directories
    int lock;                       // of the server's store; -1 for a tool
    int inotify;                    // tells of changes to images and names; -1: always read again
    pthread_mutex_t mutex;          // guards what follows
    pthread_cond_t landed;          // a flight ended
    bool stale;                     // the index below is behind the files
    struct map by_name, by_id;      // -> struct name_row *, struct image *
    struct list flights;            // pulls under way
};

void index_key(const struct reference *r, const char *os, const char *arch,
               char key[INDEX_KEY_SIZE]);
// Brings the index up to the files when somebody changed them. Blocks.
int index_refresh(struct image_store *s, struct error *err);
// Looks into the index. Does not block.
bool index_lookup(struct image_store *s, const char *key, struct image_info *ret);
bool index_has(struct image_store *s, const char *image_id, struct image_info *ret);
// Writes the row of a name and refreshes.
int index_name(struct image_store *s, const char *key, const char *image_id, struct error *err);
// Calls f for every row or image of the index, under its lock, in no order.
void index_each_name(struct image_store *s, void (*f)(const struct name_row *, void *), void *arg);
void index_each_image(struct image_store *s, void (*f)(const struct image *, void *), void *arg);
// Removes names of an image that is gone.
int index_forget_names(struct image_store *s, const char *image_id, const char *key,
                       struct error *err);

// Between server and tools: shared while a reference to an image is made, exclusive while one is
// removed. -1 with errno; close it to unlock.
int index_guard(struct image_store *s, int operation);

#endif
