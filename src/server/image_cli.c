#include "server/image_cli.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/oci/image/image.h"

enum { PASSWORD_MAX = 4096 };

typedef int verb_fn(struct image_store *s, int argc, char *const *argv, struct error *err);

static int print_image(const char *name, const struct image_info *info) {
    (void)printf("%s  %" PRIu64 " MiB  %s\n", info->id, info->bytes >> 20, name);
    return 0;
}

// pull REFERENCE [--always] [--username NAME --password-stdin]
static int verb_pull(struct image_store *s, int argc, char *const *argv, struct error *err) {
    static const struct option options[] = {{"always", no_argument, NULL, 'a'},
                                            {"username", required_argument, NULL, 'u'},
                                            {"password-stdin", no_argument, NULL, 'p'},
                                            {NULL, 0, NULL, 0}};
    struct image_request q = {.reference = NULL};
    struct image_info info;
    char password[PASSWORD_MAX] = "";
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'a') {
            q.always_pull = true;
        } else if (c == 'u') {
            q.username = optarg;
        } else if (c == 'p') {
            if (!fgets(password, sizeof password, stdin))
                return error_set(err, EINVAL, "no password on stdin");
            password[strcspn(password, "\r\n")] = '\0';
            q.password = password;
        } else {
            return 1;
        }
    }
    if (optind + 1 != argc || (q.username != NULL) != (q.password != NULL))
        return 1;
    q.reference = argv[optind];
    int result = image_store_ensure(s, &q, &info, err);
    explicit_bzero(password, sizeof password);
    return result ? -1 : print_image(q.reference, &info);
}

// import PATH NAME
static int verb_import(struct image_store *s, int argc, char *const *argv, struct error *err) {
    struct image_info info;
    if (argc != 3)
        return 1;
    return image_store_import(s, argv[1], argv[2], &info, err) ? -1 : print_image(argv[2], &info);
}

static int verb_list(struct image_store *s, int argc, char *const *argv, struct error *err) {
    struct image_listing *items;
    size_t count;
    (void)argv;
    if (argc != 1)
        return 1;
    if (image_store_list(s, &items, &count, err))
        return -1;
    (void)printf("%-20s %8s %6s  %-20s  %s\n", "ID", "MIB", "IN USE", "LAST USE", "NAMES");
    for (size_t i = 0; i < count; i++) {
        char when[CLOCK_TEXT_MAX];
        clock_format(items[i].last_use_us - items[i].last_use_us % 1000000, when);
        (void)printf("%-20.19s %8" PRIu64 " %6u  %-20s  %s\n", items[i].id, items[i].bytes >> 20,
                     items[i].used_by, when, items[i].names);
    }
    image_listing_free(items, count);
    return 0;
}

// rm WHICH...
static int verb_rm(struct image_store *s, int argc, char *const *argv, struct error *err) {
    if (argc < 2)
        return 1;
    for (int i = 1; i < argc; i++)
        if (image_store_remove(s, argv[i], err))
            return -1;
    return 0;
}

static const struct {
    const char *name;
    verb_fn *run;
    const char *usage;
} verbs[] = {
    {"pull", verb_pull,
     "pull [--always] [--username NAME --password-stdin] REFERENCE   from a registry"},
    {"import", verb_import,
     "import PATH NAME   root tarball, docker-archive, OCI archive or OCI layout directory"},
    {"list", verb_list, "list               what is there, least recently used first"},
    {"rm", verb_rm, "rm WHICH...        by name, id, or at least 8 digits of the id"},
};

void image_cli_usage(void) {
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        (void)fprintf(stderr, "  opensandbox-server image %s\n", verbs[i].usage);
}

int image_cli(const struct oci_settings *s, int argc, char *const *argv) {
    struct error err = {0};
    verb_fn *run = NULL;
    for (size_t i = 0; argc > 0 && i < ARRAY_SIZE(verbs); i++)
        if (!strcmp(argv[0], verbs[i].name))
            run = verbs[i].run;
    if (!run) {
        image_cli_usage();
        return 2;
    }
    (void)umask(022);
    json_init();
    error_set_prefix("OCI");
    struct image_store *store = image_store_open(s, IMAGE_STORE_TOOL, &err);
    int result = store ? run(store, argc, argv, &err) : -1;
    image_store_close(store);
    if (result > 0)
        image_cli_usage();
    if (result < 0)
        (void)fprintf(stderr, "opensandbox-server: %s%s%s\n", err.code, *err.code ? ": " : "",
                      err.message);
    return result < 0 ? 1 : result > 0 ? 2 : 0;
}
