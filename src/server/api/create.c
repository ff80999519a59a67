#include "server/api/create.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/handoff.h"
#include "base/log.h"
#include "base/parse.h"

#define EGRESS_PREFIX "OPENSANDBOX_EGRESS_"

static bool is_blank(const char *text) {
    return !text || !text[strspn(text, " \t\r\n\v\f")];
}

// ---- types and ranges ----

static void read_image(struct create_form *f, struct problems *p) {
    struct field image = field_get(f->at, f->body, "image");
    const json_t *o = field_object(p, &image, false);
    if (!o)
        return;
    struct field uri = field_get(&image.at, o, "uri"), auth = field_get(&image.at, o, "auth");
    f->image = field_text(p, &uri, true);
    o = field_object(p, &auth, false);
    if (!o)
        return;
    struct field username = field_get(&auth.at, o, "username"),
                 password = field_get(&auth.at, o, "password");
    f->username = field_text(p, &username, true);
    f->password = field_text(p, &password, true);
}

static void read_platform(struct create_form *f, struct problems *p) {
    struct field platform = field_get(f->at, f->body, "platform");
    const json_t *o = field_object(p, &platform, false);
    if (!o)
        return;
    struct field os = field_get(&platform.at, o, "os"), arch = field_get(&platform.at, o, "arch");
    f->os = field_text(p, &os, true);
    f->arch = field_text(p, &arch, true);
}

static int read_entrypoint(struct create_form *f, struct problems *p) {
    struct field list = field_get(f->at, f->body, "entrypoint");
    const json_t *words = field_list(p, &list, 1, false), *word;
    size_t i;
    if (!words)
        return 0;
    f->spec->entrypoint = calloc(json_array_size(words) + 1, sizeof(char *));
    if (!f->spec->entrypoint)
        return -1;
    json_array_foreach(words, i, word) {
        const struct place at = {.in = &list.at, .index = i};
        if (!json_is_string(word))
            problem_add(p, &at, "string_type", "Input should be a valid string");
        else if (!(f->spec->entrypoint[f->spec->entrypoint_count++] =
                       strdup(json_string_value(word))))
            return -1;
    }
    return 0;
}

static void read_policy(struct create_form *f, struct problems *p) {
    struct field policy = field_get(f->at, f->body, "networkPolicy");
    struct field proxy = field_get(f->at, f->body, "credentialProxy");
    f->has_policy = policy_read(p, &policy);
    const json_t *o = field_object(p, &proxy, false);
    if (o) {
        struct field enabled = field_get(&proxy.at, o, "enabled");
        f->proxy_enabled = field_bool(p, &enabled, false);
    }
}

static int read_maps(struct create_form *f, struct problems *p) {
    struct field limits = field_get(f->at, f->body, "resourceLimits");
    struct field requests = field_get(f->at, f->body, "resourceRequests");
    struct field env = field_get(f->at, f->body, "env");
    struct field metadata = field_get(f->at, f->body, "metadata");
    struct field extensions = field_get(f->at, f->body, "extensions");
    struct pairs ignored = {0};
    int rc = field_map(p, &limits, false, &f->limits);
    f->has_limits = limits.value != NULL;
    if (rc == 0) // checked for its type, without effect (compat-1.1.1.md L9)
        rc = field_map(p, &requests, false, &ignored);
    pairs_clear(&ignored);
    if (rc == 0)
        rc = field_map(p, &env, true, &f->spec->env);
    f->spec->has_metadata = metadata.value != NULL;
    if (rc == 0)
        rc = field_map(p, &metadata, false, &f->spec->metadata);
    if (rc == 0)
        rc = field_map(p, &extensions, false, &f->spec->extensions);
    f->pool = pairs_get(&f->spec->extensions, "poolRef");
    if (is_blank(f->pool))
        f->pool = NULL;
    return rc;
}

int create_read(struct create_form *f, const json_t *body, struct problems *p) {
    f->body = body;
    if (!f->at)
        f->at = &place_body;
    f->spec = spec_new();
    if (!f->spec)
        return -1;
    struct field snapshot = field_get(f->at, body, "snapshotId"),
                 template_id = field_get(f->at, body, "templateId");
    struct field timeout = field_get(f->at, body, "timeout"),
                 lifecycle = field_get(f->at, body, "lifecycle");
    struct field secure = field_get(f->at, body, "secureAccess"),
                 volumes = field_get(f->at, body, "volumes");
    read_image(f, p);
    f->snapshot = field_text(p, &snapshot, false);
    f->template_id = field_text(p, &template_id, false);
    if (f->template_id)
        (void)text_length(p, &template_id, f->template_id, 1, 0);
    read_platform(f, p);
    (void)field_int(p, &timeout, 60, &f->timeout_s);
    int hooks = hooks_read(p, &lifecycle, f->spec);
    f->has_lifecycle = hooks > 0;
    f->spec->secure_access = field_bool(p, &secure, false);
    read_policy(f, p);
    volumes_read(p, &volumes);
    return hooks < 0 || read_entrypoint(f, p) < 0 || read_maps(f, p) < 0 ? -1 : 0;
}

// ---- rules between members ----

static void relate_template(const struct create_form *f, struct problems *p) {
    static const char *const others[] = {"credentialProxy", "entrypoint",       "env",
                                         "image",           "lifecycle",        "platform",
                                         "resourceLimits",  "resourceRequests", "secureAccess",
                                         "snapshotId",      "volumes"};
    char names[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        struct field o = field_get(f->at, f->body, others[i]);
        // Clients send secureAccess: false and empty maps always; those say nothing.
        bool says = o.value && !json_is_false(o.value) &&
                    !(json_is_object(o.value) && !json_object_size(o.value));
        if (says)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                                     others[i]);
    }
    if (used)
        problem_add(p, f->at, "value_error", "Value error, templateId cannot be combined with %s",
                    names);
    else if (!f->timeout_s)
        problem_add(p, f->at, "value_error", "Value error, timeout is required with templateId");
}

static void relate_pool(const struct create_form *f, struct problems *p) {
    if (f->has_lifecycle)
        problem_add(p, f->at, "value_error",
                    "Value error, lifecycle cannot be combined with extensions.poolRef");
    else if (!is_blank(f->snapshot))
        problem_add(p, f->at, "value_error",
                    "Value error, snapshotId cannot be combined with extensions.poolRef");
}

void create_relate(const struct create_form *f, struct problems *p) {
    bool image = !is_blank(f->image), snapshot = !is_blank(f->snapshot);
    if (pairs_get(&f->spec->env, LIFECYCLE_VARIABLE))
        problem_add(p, f->at, "value_error", "Value error, env may not set " LIFECYCLE_VARIABLE);
    else if (!is_blank(f->template_id))
        relate_template(f, p);
    else if (f->pool)
        relate_pool(f, p);
    else if (f->proxy_enabled && !f->has_policy)
        problem_add(p, f->at, "value_error",
                    "Value error, credentialProxy.enabled requires networkPolicy");
    else if (image == snapshot)
        problem_add(p, f->at, "value_error",
                    "Value error, exactly one of image.uri and snapshotId must be given");
    else if (image && !f->spec->entrypoint_count)
        problem_add(p, f->at, "value_error", "Value error, entrypoint is required with image");
    else if (!f->has_limits)
        problem_add(p, f->at, "value_error",
                    "Value error, resourceLimits is required (it may be {})");
}

// ---- what this server can do ----

static int check_extensions(const struct create_form *f, struct error *err) {
    const char *text = pairs_get(&f->spec->extensions, "access.renew.extend.seconds");
    int64_t seconds = 0;
    if (text &&
        (strchr(text, '.') || !text_int(text, &seconds) || seconds < 300 || seconds > 86400))
        return error_server(
            err, ERR_INVALID_PARAMETER,
            "extensions[\"access.renew.extend.seconds\"] must be a whole number from 300 to 86400");
    return 0;
}

static int check_not_built(const struct create_form *f, struct error *err) {
    if (!is_blank(f->template_id))
        return error_server(err, ERR_API_NOT_SUPPORTED,
                            "templateId is not supported: templates belong to a micro-VM backend");
    return 0;
}

// What a pool's template alone decides (compat-1.1.1.md L13).
static int check_pool(const struct create_form *f, struct error *err) {
    struct field volumes = field_get(f->at, f->body, "volumes");
    const char *what = f->has_policy                    ? "networkPolicy"
                       : f->proxy_enabled               ? "credentialProxy"
                       : f->os || f->arch               ? "platform"
                       : json_array_size(volumes.value) ? "volumes"
                                                        : NULL;
    return f->pool && what
               ? error_server(err, ERR_INVALID_PARAMETER,
                              "%s cannot be combined with extensions.poolRef: the pool's template "
                              "decides",
                              what)
               : 0;
}

static void lower(const char *text, char *out, size_t size) {
    size_t n = 0;
    text += strspn(text, " \t\r\n");
    while (*text && n + 1 < size)
        out[n++] = (char)tolower((unsigned char)*text++);
    while (n && isspace((unsigned char)out[n - 1]))
        n--;
    out[n] = 0;
}

static int check_guest(const struct api *a, const struct create_form *f, struct error *err) {
    if (!(a->features & RUNTIME_WINDOWS))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform.os: this server has nothing to start Windows guests with; "
                            "runtime.type = \"docker\" has, with a runtime.execd_image that holds "
                            "/install.bat and /execd.exe");
    if (!is_blank(f->snapshot))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform.os: no snapshot holds a Windows guest; start from an image");
    if (f->spec->lifecycle)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "lifecycle: hooks are not run in a Windows guest; leave it out");
    if (f->has_policy) // docs/network-policy.md: who could change the rules has no policy
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: the container of a Windows guest needs NET_ADMIN, with "
                            "which it could take the policy away; leave it out");
    return 0;
}

// The host's own platform, or none (architecture.md section 5).
static int check_platform(const struct api *a, struct create_form *f, struct error *err) {
    char os[32], arch[32];
    struct utsname host;
    if (!f->os || !f->arch)
        return 0;
    lower(f->os, os, sizeof os);
    lower(f->arch, arch, sizeof arch);
    if (strcmp(os, "linux") != 0 && strcmp(os, "windows") != 0)
        return error_server(err, ERR_INVALID_PARAMETER, "platform.os must be linux or windows");
    if (strcmp(arch, "amd64") != 0 && strcmp(arch, "arm64") != 0)
        return error_server(err, ERR_INVALID_PARAMETER, "platform.arch must be amd64 or arm64");
    (void)uname(&host);
    const char *own = strcmp(host.machine, "aarch64") == 0 ? "arm64" : "amd64";
    bool any = a->features & RUNTIME_PLATFORM, windows = strcmp(os, "windows") == 0;
    if (windows && check_guest(a, f, err) < 0)
        return -1;
    if (!any && !windows && strcmp(arch, own) != 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform: this host runs linux/%s only, not %s/%s", own, os, arch);
    f->spec->platform_os = strdup(os);
    f->spec->platform_arch = strdup(arch);
    return f->spec->platform_os && f->spec->platform_arch ? 0
                                                          : error_set(err, ENOMEM, "out of memory");
}

static int check_timeout(const struct api *a, struct create_form *f, struct error *err) {
    static const int64_t last_us = 253402300799 * 1000000LL; // the year 9999 ends
    int64_t most = a->config->timeout_max_s;
    if (f->timeout_s > (last_us - clock_wall_us()) / 1000000)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "timeout is too large: its end lies behind the year 9999");
    if (most && f->timeout_s > most)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "timeout exceeds the configured maximum of %lld seconds",
                            (long long)most);
    f->spec->timeout_s = f->timeout_s;
    return 0;
}

// "all", or how many.
static int check_gpu(const struct api *a, struct create_form *f, struct error *err) {
    const char *gpu = pairs_get(&f->limits, "gpu");
    if (!gpu)
        return 0;
    if (!(a->features & RUNTIME_GPU))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.gpu is not supported by this runtime");
    if (strcasecmp(gpu, "all") == 0)
        f->spec->gpus = SPEC_GPUS_ALL;
    else if (parse_u64(gpu, 1, 1024, &f->spec->gpus) < 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.gpu: \"%.40s\" is neither all nor a number", gpu);
    return 0;
}

// Sizes of Windows guests (docker-runtime.md 8.1), in whole GiB, rounded up: "64G", "8192Mi".
static int parse_gib(const char *text, uint64_t *ret) {
    static const struct {
        char unit;
        uint64_t times, parts;
    } units[] = {{'m', 1, 1024}, {'g', 1, 1}, {'t', 1024, 1}};
    char size[32];
    uint64_t n = 0;
    lower(text, size, sizeof size);
    size_t digits = strspn(size, "0123456789");
    const char *unit = size + digits + strspn(size + digits, " ");
    const char *rest = *unit ? unit + 1 : unit;
    if (parse_u64n(size, digits, 1, 1 << 20, &n) < 0 ||
        (*rest && strcmp(rest, "i") != 0 && strcmp(rest, "b") != 0))
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        if (units[i].unit == *unit) {
            *ret = (n * units[i].times + units[i].parts - 1) / units[i].parts;
            return 0;
        }
    }
    return -1;
}

static int guest_size(const struct create_form *f, const char *name, uint64_t least,
                      uint64_t *ret_bytes, struct error *err) {
    const char *text = pairs_get(&f->limits, name);
    uint64_t gib = 0;
    if (!text)
        return 0;
    if (parse_gib(text, &gib) < 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.%s: \"%.40s\" is no size of a Windows guest such as 8G "
                            "or 8192Mi",
                            name, text);
    if (gib < least)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.%s: \"%.40s\" is too little for a Windows guest, which "
                            "needs %lluG",
                            name, text, (unsigned long long)least);
    *ret_bytes = gib << 30;
    return 0;
}

static const char *const disks[] = {"ephemeral-storage", "storage", "disk"}; // the last one counts

static int check_guest_limits(struct create_form *f, struct error *err) {
    enum { CPU_MILLIS = 2000, MEMORY_GIB = 4, DISK_GIB = 64 };
    int r = guest_size(f, "memory", MEMORY_GIB, &f->spec->memory_bytes, err);
    for (size_t i = 0; i < ARRAY_SIZE(disks) && !r; i++)
        r = guest_size(f, disks[i], DISK_GIB, &f->spec->disk_bytes, err);
    if (!r && f->spec->cpu_millis && f->spec->cpu_millis < CPU_MILLIS)
        r = error_server(err, ERR_INVALID_PARAMETER,
                         "resourceLimits.cpu: \"%.40s\" is too little for a Windows guest, which "
                         "needs 2",
                         pairs_get(&f->limits, "cpu"));
    return r;
}

static int check_sizes(struct create_form *f, struct error *err) {
    const char *memory = pairs_get(&f->limits, "memory");
    if (memory && parse_memory(memory, &f->spec->memory_bytes) < 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.memory: \"%.40s\" is no size such as 512Mi or 2Gi",
                            memory);
    for (size_t i = 0; i < ARRAY_SIZE(disks); i++)
        if (pairs_get(&f->limits, disks[i]))
            return error_server(err, ERR_INVALID_PARAMETER,
                                "resourceLimits.%s is not supported by this runtime", disks[i]);
    return 0;
}

static int check_limits(const struct api *a, struct create_form *f, struct error *err) {
    const char *cpu = pairs_get(&f->limits, "cpu"), *pids = pairs_get(&f->limits, "pids");
    if (cpu && parse_cpu(cpu, &f->spec->cpu_millis) < 0)
        return error_server(
            err, ERR_INVALID_PARAMETER,
            "resourceLimits.cpu: \"%.40s\" is no number of cores such as 2, 0.5 or 500m", cpu);
    if (pids && parse_u64(pids, 1, 4194304, &f->spec->pids) < 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.pids: \"%.40s\" is no number from 1 to 4194304", pids);
    int r = spec_is_windows(f->spec) ? check_guest_limits(f, err) : check_sizes(f, err);
    return r ? r : check_gpu(a, f, err);
}

// OPENSANDBOX_EGRESS_* is for egress: known names go to it where there is a policy, others are
// refused (L14). TRANSPARENT stays in the sandbox's environment too.
static int check_egress_setting(struct create_form *f, const struct pair *v, bool *ret_keep,
                                struct error *err) {
    static const char *const known[] = {"LOG_LEVEL",
                                        "DNS_UPSTREAM_TIMEOUT",
                                        "MITMPROXY_SSL_INSECURE",
                                        "MITMPROXY_TRANSPARENT",
                                        "MITMPROXY_EXTRA_PORTS",
                                        "DENY_WEBHOOK",
                                        "METRICS_EXTRA_ATTRS",
                                        "CREDENTIAL_VAULT_REQUIRE_TLS",
                                        "CREDENTIAL_VAULT_REQUIRE_SCOPED_MATCH",
                                        "CREDENTIAL_VAULT_TRUSTED_PROXY_CIDRS",
                                        "POLICY_FILE"};
    size_t i = 0;
    while (i < ARRAY_SIZE(known) && strcmp(v->name + strlen(EGRESS_PREFIX), known[i]) != 0)
        i++;
    if (i == ARRAY_SIZE(known))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "env: %.100s is not a setting of the egress sidecar", v->name);
    *ret_keep = strcmp(known[i], "MITMPROXY_TRANSPARENT") == 0;
    if (f->spec->network_policy)
        return pairs_add(&f->spec->egress_env, v->name, v->value) < 0
                   ? error_set(err, ENOMEM, "out of memory")
                   : 0;
    if (!*ret_keep)
        log_warning("env: %s has no effect without networkPolicy and is dropped", v->name);
    return 0;
}

static int check_variable(struct create_form *f, const struct pair *v, bool *ret_keep,
                          struct error *err) {
    *ret_keep = true;
    if (!*v->name || strchr(v->name, '='))
        return error_server(err, ERR_INVALID_PARAMETER, "env: \"%.100s\" is no name of a variable",
                            v->name);
    if (strcmp(v->name, HANDOFF_VARIABLE) == 0 || strcmp(v->name, "EXECD_ACCESS_TOKEN_SHA256") == 0)
        return error_server(err, ERR_INVALID_PARAMETER, "env: %s is set by the server", v->name);
    if (strncmp(v->name, EGRESS_PREFIX, strlen(EGRESS_PREFIX)) == 0)
        return check_egress_setting(f, v, ret_keep, err);
    return 0;
}

static int check_env(struct create_form *f, struct error *err) {
    struct pairs kept = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < f->spec->env.count; i++) {
        const struct pair *v = &f->spec->env.items[i];
        bool keep = false;
        rc = check_variable(f, v, &keep, err);
        if (rc == 0 && keep && pairs_add(&kept, v->name, v->value) < 0)
            rc = error_set(err, ENOMEM, "out of memory");
    }
    if (rc < 0) {
        pairs_clear(&kept);
        return -1;
    }
    pairs_clear(&f->spec->env);
    f->spec->env = kept;
    return 0;
}

static int check_policy(const struct api *a, struct create_form *f, struct error *err) {
    struct field policy = field_get(f->at, f->body, "networkPolicy");
    if (f->proxy_enabled)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "credentialProxy is not supported: interception and the credential "
                            "vault are not built; leave it out");
    if (!f->has_policy)
        return 0;
    if (!(a->features & RUNTIME_NETWORK_POLICY))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: this server has nothing to keep it with; egress.path "
                            "(oci) or egress.image (docker) says what");
    f->spec->network_policy = policy_convert(policy.value, err);
    return f->spec->network_policy ? 0 : error_wrap(err, "networkPolicy");
}

static char *trimmed(const char *text) {
    static const char blanks[] = " \t\r\n";
    size_t len = 0;
    text += strspn(text, blanks);
    for (size_t i = 0; text[i]; i++)
        if (!strchr(blanks, text[i]))
            len = i + 1;
    return strndup(text, len);
}

// Image or snapshot; what is restored without an entrypoint idles.
static int read_source(struct create_form *f) {
    static const char *const idle[] = {"tail", "-f", "/dev/null"};
    struct sandbox_spec *s = f->spec;
    bool restored = !is_blank(f->snapshot);
    if (f->pool)
        return 0;
    char **source = restored ? &s->snapshot_id : &s->image;
    *source = restored ? trimmed(f->snapshot) : strdup(f->image);
    if (!*source)
        return -1;
    if (!restored || s->entrypoint_count)
        return 0;
    return spec_set_entrypoint(s, (char *const *)idle, ARRAY_SIZE(idle));
}

int create_check(const struct api *a, struct create_form *f, struct error *err) {
    struct field volumes = field_get(f->at, f->body, "volumes");
    if (check_extensions(f, err) < 0 || check_not_built(f, err) < 0 || check_pool(f, err) < 0)
        return -1;
    if (read_source(f) < 0)
        return error_set(err, ENOMEM, "out of memory");
    if (f->spec->entrypoint_count ? !*f->spec->entrypoint[0] : !f->pool)
        return error_server(err, ERR_R_INVALID_ENTRYPOINT, "entrypoint: the first word is empty");
    for (size_t i = 0; i < f->spec->metadata.count; i++)
        if (label_check(f->spec->metadata.items[i].name, f->spec->metadata.items[i].value, err) < 0)
            return -1;
    if (check_platform(a, f, err) < 0 || check_timeout(a, f, err) < 0 ||
        check_policy(a, f, err) < 0)
        return -1;
    if (check_limits(a, f, err) < 0 || check_env(f, err) < 0 ||
        volumes_convert(a, volumes.value, f->spec, err) < 0)
        return -1;
    return 0;
}

void create_form_clear(struct create_form *f) {
    pairs_clear(&f->limits);
    spec_unref(f->spec);
    *f = (struct create_form){0};
}
