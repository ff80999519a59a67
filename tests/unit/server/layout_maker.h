// OCI layouts made by hand, for tests: each blob under the hash of its bytes.
#ifndef TESTS_LAYOUT_MAKER_H
#define TESTS_LAYOUT_MAKER_H

#include <jansson.h>

#include "server/runtime/oci/image/manifest.h"

enum { LAYOUT_TEXT_MAX = 64 * 1024 };

// Writes a blob below <layout>/blobs/sha256 and describes it. The result is the caller's.
json_t *layout_blob(int layout, const char *media_type, const void *data, size_t len);
json_t *layout_blob_json(int layout, const char *media_type, const json_t *value);
void layout_write(int at, const char *name, const char *text);
void layout_write_json(int at, const char *name, const json_t *value);
// An empty layout directory: oci-layout and blobs/sha256.
void layout_begin(int layout);
// A manifest of one plain tar layer and a config for the platform; NULL: the host's.
json_t *layout_manifest(int layout, const void *tar, size_t len, const char *os, const char *arch);
void layout_index(int layout, json_t *descriptor); // index.json with one entry; takes it

#endif
