// The template of a pool becomes a create body and takes the same way as every other.
#include <string.h>

#include "server/api/create.h"

static void copy_member(json_t *to, const json_t *from, const char *name) {
    json_t *value = json_object_get(from, name);
    if (value)
        (void)json_object_set(to, name, value);
}

// [{"name", "value"}] becomes an object; what has no value (valueFrom) is refused.
static json_t *pod_env(const struct field *list, struct problems *p) {
    const json_t *items = field_list(p, list, 0, false), *item;
    json_t *env = json_object();
    size_t i;
    json_array_foreach(items, i, item) {
        const struct field at = {.at = {.in = &list->at, .index = i}, .value = item};
        const json_t *o = field_object(p, &at, true);
        struct field name = field_get(&at.at, o, "name"), value = field_get(&at.at, o, "value");
        const char *key = o ? field_text(p, &name, true) : NULL;
        const char *text = o ? field_text(p, &value, true) : NULL;
        if (key && text)
            (void)json_object_set_new(env, key, json_string(text));
    }
    return env;
}

// Image, env and resources of the first container; commands of pods start what is not needed here
// (execd is there already), so it idles.
static json_t *pod_body(const struct place *at, const json_t *spec, struct problems *p) {
    const struct place in = {.in = at, .name = "spec"};
    struct field containers = field_get(&in, spec, "containers");
    const json_t *list = field_list(p, &containers, 1, true);
    const struct field first = {.at = {.in = &containers.at, .index = 0},
                                .value = json_array_get(list, 0)};
    const json_t *c = list ? field_object(p, &first, true) : NULL;
    if (!c)
        return json_object();
    struct field image = field_get(&first.at, c, "image"), env = field_get(&first.at, c, "env"),
                 resources = field_get(&first.at, c, "resources");
    const char *uri = field_text(p, &image, true);
    const json_t *r = field_object(p, &resources, false);
    json_t *body = json_pack("{s:o, s:{s:s*}}", "env", pod_env(&env, p), "image", "uri", uri);
    json_t *limits = json_object_get(r, "limits");
    if (limits)
        (void)json_object_set(body, "resourceLimits", limits);
    return body;
}

static json_t *plain_body(const json_t *template) {
    static const char *const members[] = {
        "image",      "snapshotId",     "entrypoint",   "env",     "metadata",  "extensions",
        "platform",   "resourceLimits", "secureAccess", "volumes", "lifecycle", "networkPolicy",
        "templateId", "credentialProxy"};
    json_t *body = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        copy_member(body, template, members[i]);
    return body;
}

static json_t *body_of(const struct place *at, const json_t *template, struct problems *p) {
    const json_t *spec = json_object_get(template, "spec");
    json_t *body = json_is_object(spec) ? pod_body(at, spec, p) : plain_body(template);
    if (!json_object_get(body, "resourceLimits"))
        (void)json_object_set_new(body, "resourceLimits", json_object());
    if (!json_object_get(body, "entrypoint"))
        (void)json_object_set_new(body, "entrypoint",
                                  json_pack("[sss]", "tail", "-f", "/dev/null"));
    return body;
}

struct sandbox_spec *template_read(const struct api *a, const struct place *at,
                                   const json_t *template, struct problems *p, struct error *err) {
    struct create_form f = {.at = at};
    struct sandbox_spec *spec = NULL;
    json_t *body = body_of(at, template, p);
    if (create_read(&f, body, p) < 0)
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    else if (!problems_any(p))
        create_relate(&f, p);
    if (err->kind || problems_any(p))
        ;
    else if (f.pool)
        (void)error_server(err, ERR_INVALID_PARAMETER, "template: a pool cannot stand on a pool");
    else if (f.username)
        (void)error_server(err, ERR_INVALID_PARAMETER,
                           "template: image.auth is not kept; pull the image first "
                           "(opensandbox-server image pull)");
    else if (f.has_lifecycle) // they would run in stock that nobody has taken
        (void)error_server(err, ERR_INVALID_PARAMETER,
                           "template: lifecycle is not supported in a pool; create sandboxes with "
                           "hooks without one");
    else if (create_check(a, &f, err) < 0)
        ;
    else if (spec_is_windows(f.spec))
        (void)error_server(
            err, ERR_INVALID_PARAMETER,
            "template: a Windows guest boots for minutes after its start, so none is "
            "kept ready; create it without a pool");
    else
        spec = spec_ref(f.spec);
    create_form_clear(&f);
    json_decref(body);
    return spec;
}
