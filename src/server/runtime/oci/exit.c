#include "server/runtime/oci/exit.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/handoff.h"
#include "fmt/json.h"

enum { RECORD_MAX = 4096, SIGNAL_MAX = 64 };

static json_t *read_object(int dir, const char *name) {
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    strbuf_init(
        &sb, RECORD_MAX); // a start object that execd never emptied does not fit or has no "code"
    if (fd_read_file(dir, name, &sb, &ignored) || !sb.len)
        return NULL;
    return json_parse(sb.data, sb.len, NULL, &ignored);
}

static bool get_int(const json_t *j, const char *name, json_int_t min, json_int_t max,
                    json_int_t *ret) {
    const json_t *v = json_object_get(j, name);
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return false;
    *ret = json_integer_value(v);
    return true;
}

static bool parse_record(const json_t *j, struct inspection *ret) {
    json_int_t code, sig, time;
    if (!get_int(j, "code", 0, 255, &code) || !get_int(j, "signal", 0, SIGNAL_MAX, &sig) ||
        !get_int(j, "time_us", 0, INT64_MAX, &time))
        return false;
    ret->has_record = true;
    ret->exit_code = (int)code;
    ret->signal = (int)sig;
    ret->oom = json_is_true(json_object_get(j, "oom"));
    ret->ended_us = time > clock_wall_us() ? clock_wall_us() : time; // nobody ends in the future
    return true;
}

void exit_judge(int dir, int status, bool oom, struct inspection *ret) {
    *ret = (struct inspection){.exit_code = -1};
    cleanup_json json_t *j = read_object(dir, EXIT_RECORD_FILE);
    if (parse_record(j, ret))
        return;
    // No record: execd was killed. Its own exit status means something only when the kernel gave it
    // to us.
    ret->oom = oom;
    if (status != EXIT_STATUS_UNKNOWN && WIFSIGNALED(status)) {
        ret->signal = WTERMSIG(status);
        ret->exit_code = 128 + WTERMSIG(status);
    } else if (status != EXIT_STATUS_UNKNOWN) {
        ret->exit_code = WEXITSTATUS(status);
    } else if (oom) {
        ret->signal = SIGKILL;
        ret->exit_code = 128 + SIGKILL;
    }
    ret->ended_us = clock_wall_us();
}

bool exit_load(int dir, struct inspection *ret) {
    json_int_t code, sig, time;
    cleanup_json json_t *j = read_object(dir, EXIT_END_FILE);
    if (!get_int(j, "code", -1, 255, &code) || !get_int(j, "signal", 0, SIGNAL_MAX, &sig) ||
        !get_int(j, "time_us", 0, INT64_MAX, &time))
        return false;
    *ret = (struct inspection){.exit_code = (int)code,
                               .signal = (int)sig,
                               .ended_us = time,
                               .oom = json_is_true(json_object_get(j, "oom")),
                               .has_record = json_is_true(json_object_get(j, "record"))};
    return true;
}

int exit_save(int dir, const struct inspection *i, struct error *err) {
    cleanup_json json_t *j =
        json_pack("{s:i,s:i,s:b,s:b,s:I}", "code", i->exit_code, "signal", i->signal, "oom", i->oom,
                  "record", i->has_record, "time_us", (json_int_t)i->ended_us);
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, RECORD_MAX);
    if (!j || json_write(j, &sb))
        return error_set(err, ENOMEM, "out of memory");
    return fd_replace_file(dir, EXIT_END_FILE, sb.data, sb.len, 0600, err);
}

int exit_logs(int dir, struct strbuf *ret, struct error *err) {
    cleanup_close int fd =
        openat(dir, EXIT_LOG_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return errno == ENOENT ? 0 : error_errno(err, errno, "log of the sandbox");
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "log of the sandbox is not a regular file");
    if (st.st_size && handoff_log_read(fd, ret))
        return error_set(err, EINVAL, "log of the sandbox is damaged");
    return 0;
}
