#include "server/adopt/adopt.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/map.h"
#include "fmt/json.h"
#include "server/cli.h"
#include "server/runtime/docker/adopt/adopt.h"
#include "server/sandbox/snapshot/snapshot.h"
#include "server/sandbox/state.h"
#include "server/store/reference.h"
#include "server/store/store.h"

enum { METADATA_MAX = 1024 * 1024, QUEUE_MAX = 16 };

struct adoption {
    struct loop loop;
    struct store *store;
    struct engine *engine;
    struct map known;      // ids of our snapshots
    char *file, *metadata; // of the reference: its database, its directory of metadata
    bool named, dry;       // the file was named on the command line
    unsigned taken, refused;
    struct change change;
    struct error failure; // of the commit
};

static const char usage[] =
    "usage: opensandbox-server adopt [--database FILE] [--metadata DIR] [--dry-run]\n"
    "  the other server's files; else store.path or ~/.opensandbox/opensandbox.db, and\n"
    "  ~/.opensandbox/metadata\n";

// ---- a commit that is waited for ----

static void committed(struct change *c, const struct error *err) {
    struct adoption *a = CONTAINER_OF(c, struct adoption, change);
    a->failure = err ? *err : (struct error){0};
    change_clear(c);
    loop_stop(&a->loop);
}

static int commit(struct adoption *a, struct error *err) {
    a->change.done = committed;
    if (store_commit(a->store, &a->change) < 0) {
        change_clear(&a->change);
        return error_errno(err, errno, "store");
    }
    loop_run(&a->loop);
    if (!a->failure.kind)
        return 0;
    *err = a->failure;
    return -1;
}

static void say(struct adoption *a, const char *what, const char *id, const char *problem) {
    if (*problem)
        a->refused++;
    else
        a->taken++;
    (void)printf("%s %s: %s%s\n", what, id, *problem ? "left alone: " : "taken over", problem);
}

// ---- sandboxes ----

// A file of the reference replaces what the labels say.
static int read_metadata(const struct adoption *a, const struct foreign *f, struct pairs *ret,
                         struct error *err) {
    char path[PATH_MAX];
    struct strbuf text cleanup_strbuf;
    struct error ignored;
    strbuf_init(&text, METADATA_MAX);
    if (snprintf(path, sizeof path, "%s/%s.json", a->metadata, f->id) < (int)sizeof path &&
        fd_read_file(AT_FDCWD, path, &text, &ignored) == 0 &&
        pairs_from_text(ret, text.data, &ignored) == 0)
        return 0;
    return pairs_copy(ret, &f->spec->metadata) ? error_set(err, ENOMEM, "out of memory") : 0;
}

static int put_sandbox(struct adoption *a, const struct foreign *f, struct error *err) {
    struct pairs metadata = {0};
    enum sandbox_state state = f->paused ? SANDBOX_PAUSED : SANDBOX_RUNNING;
    if (read_metadata(a, f, &metadata, err))
        return -1;
    struct sandbox_record *r = &change_put(&a->change, STORE_SANDBOXES)->sandbox;
    *r = (struct sandbox_record){.state = strdup(sandbox_state_name(state)),
                                 .reason = strdup(state_reason(state)),
                                 .message = strdup(state_message(state)),
                                 .spec = spec_to_text(f->spec),
                                 .metadata = pairs_to_text(&metadata),
                                 .runtime = strdup("docker"),
                                 .runtime_state = strdup(f->state),
                                 .image_id = strdup(f->image_id),
                                 .created_us = f->created_us,
                                 .changed_us = clock_wall_us(),
                                 .expires_us = f->expires_us};
    (void)snprintf(r->id, sizeof r->id, "%s", f->id);
    pairs_clear(&metadata);
    if (r->state && r->reason && r->message && r->spec && r->metadata && r->runtime &&
        r->runtime_state && r->image_id)
        return commit(a, err);
    change_clear(&a->change);
    return error_set(err, ENOMEM, "out of memory");
}

// The record first: a mark without one would make the sandbox a ruin at the next start.
static int each_sandbox(const struct foreign *f, void *arg, struct error *err) {
    struct adoption *a = arg;
    if (!*f->problem && !a->dry &&
        (put_sandbox(a, f, err) || foreign_claim(a->engine, store_instance(a->store), f, err)))
        return error_wrap(err, "sandbox %s", f->id);
    say(a, "sandbox", f->id, f->problem);
    return 0;
}

// ---- snapshots ----

static int note_known(const union store_record *r, void *arg) {
    struct adoption *a = arg;
    return map_put(&a->known, r->snapshot.id, a);
}

static int put_snapshot(struct adoption *a, const struct reference_snapshot *s, const char *image,
                        const char *artifact, struct error *err) {
    static const char spec[] = "{\"entrypoint\":[\"tail\",\"-f\",\"/dev/null\"]}";
    cleanup_json json_t *j = json_parse(spec, sizeof spec - 1, NULL, err);
    if (!j)
        return -1;
    if (image)
        json_object_set_new(j, "image", json_string(image));
    struct snapshot_record *r = &change_put(&a->change, STORE_SNAPSHOTS)->snapshot;
    *r = (struct snapshot_record){.source_id = strdup(s->source_id),
                                  .name = s->name ? strdup(s->name) : NULL,
                                  .state = strdup(s->state),
                                  .reason = s->reason ? strdup(s->reason) : NULL,
                                  .message = s->message ? strdup(s->message) : NULL,
                                  .spec = json_dumps(j, JSON_COMPACT),
                                  .artifact = strdup(artifact),
                                  .created_us = s->created_us,
                                  .changed_us = s->changed_us};
    (void)snprintf(r->id, sizeof r->id, "%s", s->id);
    if (r->source_id && r->state && r->spec && r->artifact)
        return commit(a, err);
    change_clear(&a->change);
    return error_set(err, ENOMEM, "out of memory");
}

static bool is_id(const char *text) {
    return text && strlen(text) == UUID_TEXT_SIZE - 1;
}

static int each_snapshot(const struct reference_snapshot *s, void *arg, struct error *err) {
    struct adoption *a = arg;
    struct error ignored;
    enum snapshot_state state;
    char artifact[RUNTIME_STATE_MAX];
    const char *problem = "", *text = s->restore_config ? s->restore_config : "";
    cleanup_json json_t *config = json_parse(text, strlen(text), NULL, &ignored);
    const char *image = json_string_value(json_object_get(config, "image"));
    if (is_id(s->id) && map_get(&a->known, s->id))
        return 0; // ours already
    if (!is_id(s->id) || !is_id(s->source_id) || !s->state ||
        snapshot_state_parse(s->state, &state) < 0)
        problem = "its row is damaged";
    else if (!foreign_snapshot(s->id, image, artifact))
        problem = "its image is none that the engine made of a sandbox";
    if (!*problem && !a->dry && put_snapshot(a, s, image, artifact, err))
        return error_wrap(err, "snapshot %s", s->id);
    say(a, "snapshot", s->id ? s->id : "?", problem);
    return 0;
}

static int take_snapshots(struct adoption *a, struct error *err) {
    if (!reference_is(a->file))
        return a->named ? error_set(err, ENOENT, "--database %s: no file of the reference server",
                                    a->file)
                        : 0;
    if (store_load(a->store, STORE_SNAPSHOTS, note_known, a, err))
        return -1;
    return reference_each(a->file, each_snapshot, a, err);
}

// ---- the command ----

static int open_all(struct adoption *a, const struct config *c,
                    const struct engine_settings *engine, struct error *err) {
    const struct store_settings store = {.path = c->store_path, .queue_max = QUEUE_MAX};
    if (loop_init(&a->loop, err))
        return -1;
    a->store = store_open(&a->loop, &store, err);
    if (!a->store)
        return -1;
    a->engine = engine_new(engine, err);
    return a->engine ? engine_negotiate(a->engine, err) : -1;
}

static int run(struct adoption *a, struct error *err) {
    if (foreign_each(a->engine, store_instance(a->store), each_sandbox, a, err) ||
        take_snapshots(a, err))
        return -1;
    (void)printf(
        "%s%u taken over, %u left alone%s\n", a->dry ? "would be: " : "", a->taken, a->refused,
        a->taken && !a->dry ? "; the other server must not be started again on this engine" : "");
    return 0;
}

// 0, or an exit code.
static int read_options(struct adoption *a, const struct config *c, int argc, char *const *argv) {
    static const struct option options[] = {{"database", required_argument, NULL, 'd'},
                                            {"metadata", required_argument, NULL, 'm'},
                                            {"dry-run", no_argument, NULL, 'n'},
                                            {NULL, 0, NULL, 0}};
    const char *home = getenv("HOME"), *file = NULL, *metadata = NULL;
    optind = 1;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'd')
            file = optarg;
        else if (o == 'm')
            metadata = optarg;
        else if (o == 'n')
            a->dry = true;
        else
            return EXIT_USAGE;
    }
    home = home && *home ? home : "/root";
    a->named = file != NULL;
    if (!file && reference_is(c->store_path))
        file = c->store_path; // the configuration is that server's own
    if (optind != argc)
        return EXIT_USAGE;
    if ((file ? asprintf(&a->file, "%s", file)
              : asprintf(&a->file, "%s/.opensandbox/opensandbox.db", home)) < 0 ||
        (metadata ? asprintf(&a->metadata, "%s", metadata)
                  : asprintf(&a->metadata, "%s/.opensandbox/metadata", home)) < 0)
        return EXIT_START;
    return 0;
}

int adopt_cli(const struct config *c, const struct engine_settings *engine, int argc,
              char *const *argv) {
    static struct adoption a; // large, and there is one
    struct error err = {0};
    int rc = read_options(&a, c, argc, argv);
    if (rc == EXIT_USAGE)
        (void)fputs(usage, stderr);
    if (rc)
        return rc;
    json_init();
    map_init(&a.known);
    int opened = open_all(&a, c, engine, &err);
    rc = opened || run(&a, &err) ? EXIT_START : a.refused ? EXIT_CONFIG : EXIT_DONE;
    if (err.kind)
        (void)fprintf(stderr, "opensandbox-server: %s\n", err.message);
    engine_free(a.engine);
    store_close(a.store);
    (void)loop_close(&a.loop);
    map_clear(&a.known);
    free(a.file);
    free(a.metadata);
    return rc;
}
