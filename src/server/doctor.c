#include "server/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/parse.h"
#include "io/stream.h"
#include "server/cli.h"

enum weight {
    NEEDED,
    WANTED
}; // without it no sandbox starts; without it something works less well

struct finding {
    char text[400];   // what was found
    char remedy[300]; // what to do about it
};

struct check {
    const char *name;
    enum weight weight;
    bool (*ok)(const struct config *c, struct finding *f);
    bool oci; // of the built-in runtime alone
};

#define FOUND(f, ...)  ((void)snprintf((f)->text, sizeof(f)->text, __VA_ARGS__))
#define REMEDY(f, ...) ((void)snprintf((f)->remedy, sizeof(f)->remedy, __VA_ARGS__))

static bool find_program(const char *name, char *path, size_t size) {
    const char *search = getenv("PATH");
    for (const char *p = search ? search
                                : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
         *p;) {
        size_t n = strcspn(p, ":");
        int len = snprintf(path, size, "%.*s/%s", (int)n, p, name);
        if (n && len > 0 && (size_t)len < size && access(path, X_OK) == 0)
            return true;
        p += n + (p[n] == ':');
    }
    return false;
}

static bool program_ok(const char *name, const char *package, struct finding *f) {
    char path[PATH_MAX];
    if (find_program(name, path, sizeof path)) {
        FOUND(f, "%.300s", path);
        return true;
    }
    FOUND(f, "%s is not in PATH", name);
    REMEDY(f, "apt-get install %s", package);
    return false;
}

static bool privileges_ok(const struct config *c, struct finding *f) {
    static const struct {
        unsigned bit;
        const char *name;
    } needed[] = {{21, "CAP_SYS_ADMIN"},
                  {12, "CAP_NET_ADMIN"},
                  {0, "CAP_CHOWN"},
                  {1, "CAP_DAC_OVERRIDE"},
                  {7, "CAP_SETUID"}};
    struct error err = {0};
    struct strbuf status cleanup_strbuf;
    uint64_t effective = 0;
    strbuf_init(&status, 65536);
    if (fd_read_file(AT_FDCWD, "/proc/self/status", &status, &err) == 0) {
        const char *line = strstr(status.data, "\nCapEff:\t");
        if (line)
            (void)parse_hex64(line + 9, 16, &effective);
    }
    REMEDY(f, "run the server as root, or by its systemd unit");
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        if (!(effective >> needed[i].bit & 1)) {
            FOUND(f, "the process lacks %s", needed[i].name);
            return false;
        }
    }
    FOUND(f, "uid %u", (unsigned)geteuid());
    return true;
}

static bool kernel_ok(const struct config *c, struct finding *f) {
    struct utsname u;
    struct open_how how = {.flags = O_PATH | O_CLOEXEC};
    (void)uname(&u);
    REMEDY(f, "use Linux 5.19 or newer (Debian 12 has 6.1)");
    int fd cleanup_close = (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how);
    int pid_fd cleanup_close = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fd < 0 || pid_fd < 0) {
        FOUND(f, "%s lacks %s", u.release, fd < 0 ? "openat2" : "pidfd_open");
        return false;
    }
    if (syscall(SYS_mount_setattr, -1, "", 0, NULL, 0) < 0 && errno == ENOSYS) {
        FOUND(f, "%s lacks mount_setattr", u.release);
        return false;
    }
    FOUND(f, "%s", u.release);
    return true;
}

static bool overlay_ok(const struct config *c, struct finding *f) {
    struct error err = {0};
    struct strbuf list cleanup_strbuf;
    strbuf_init(&list, 65536);
    if (fd_read_file(AT_FDCWD, "/proc/filesystems", &list, &err) == 0 &&
        strstr(list.data, "\toverlay\n")) {
        FOUND(f, "the kernel has it");
        return true;
    }
    FOUND(f, "the kernel has no overlay file system");
    REMEDY(f, "modprobe overlay, and name it in /etc/modules-load.d/overlay.conf");
    return false;
}

static bool runtime_ok(const struct config *c, struct finding *f) {
    if (c->oci_runtime[0] == '/') {
        FOUND(f, "%.300s", c->oci_runtime);
        REMEDY(f, "correct oci.runtime");
        return access(c->oci_runtime, X_OK) == 0;
    }
    if (strcasecmp(c->oci_runtime, "auto") != 0)
        return program_ok(c->oci_runtime, c->oci_runtime, f);
    return program_ok("crun", "crun", f) || program_ok("runc", "crun", f);
}

static bool skopeo_ok(const struct config *c, struct finding *f) {
    return program_ok("skopeo", "skopeo", f);
}
static bool umoci_ok(const struct config *c, struct finding *f) {
    return program_ok("umoci", "umoci", f);
}
static bool nft_ok(const struct config *c, struct finding *f) {
    return program_ok("nft", "nftables", f);
}

static bool execd_ok(const struct config *c, struct finding *f) {
    struct error err = {0};
    char path[PATH_MAX];
    if (cli_find_execd(c, path, &err) < 0) {
        FOUND(f, "%.390s", err.message);
        REMEDY(f, "make build, or set runtime.execd_path");
        return false;
    }
    FOUND(f, "%.300s", path);
    return true;
}

// Controllers cpu, memory and pids, in the unified hierarchy or as directories of the first one.
static bool cgroup_ok(const struct config *c, struct finding *f) {
    static const char *const names[] = {"cpu", "memory", "pids"};
    char path[PATH_MAX], unified[512] = "";
    struct error err = {0};
    (void)snprintf(path, sizeof path, "%s/cgroup.controllers", c->cgroup_root);
    bool v2 = fd_read_text(AT_FDCWD, path, unified, sizeof unified, &err) == 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", c->cgroup_root, names[i]);
        if (v2 ? strstr(unified, names[i]) != NULL : access(path, F_OK) == 0)
            continue;
        FOUND(f, "no controller %s below %.300s", names[i], c->cgroup_root);
        REMEDY(f,
               v2 ? "boot with cgroup_enable=%s"
                  : "mount the cgroup file system with its %s controller",
               names[i]);
        return false;
    }
    FOUND(f, "version %d below %.300s", v2 ? 2 : 1, c->cgroup_root);
    return true;
}

static uint64_t read_number(const char *path) {
    char text[64];
    struct error err = {0};
    uint64_t value = 0;
    if (fd_read_text(AT_FDCWD, path, text, sizeof text, &err) < 0 ||
        parse_u64(text, 0, UINT64_MAX, &value) < 0)
        return 0;
    return value;
}

static bool user_namespace_ok(const struct config *c, struct finding *f) {
    uint64_t most = read_number("/proc/sys/user/max_user_namespaces");
    FOUND(f, "user.max_user_namespaces = %llu", (unsigned long long)most);
    REMEDY(f, "sysctl -w user.max_user_namespaces=15000, or oci.user_namespace = \"never\"");
    return most > 0 || strcasecmp(c->user_namespace, "never") == 0;
}

static bool forward_ok(const struct config *c, struct finding *f) {
    uint64_t on = read_number("/proc/sys/net/ipv4/ip_forward");
    FOUND(f, "net.ipv4.ip_forward = %llu", (unsigned long long)on);
    REMEDY(f, "sysctl -w net.ipv4.ip_forward=1; without it sandboxes reach nothing outside");
    return on == 1;
}

static bool inotify_ok(const struct config *c, struct finding *f) {
    uint64_t most = read_number("/proc/sys/fs/inotify/max_user_instances");
    FOUND(f, "fs.inotify.max_user_instances = %llu", (unsigned long long)most);
    REMEDY(f, "sysctl -w fs.inotify.max_user_instances=8192");
    return most >= 1024;
}

static bool disk_ok(const struct config *c, struct finding *f) {
    char path[PATH_MAX];
    struct statvfs v;
    (void)snprintf(path, sizeof path, "%s", c->state_dir);
    while (statvfs(path, &v) < 0) { // the nearest directory that exists already
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            (void)snprintf(path, sizeof path, "/");
            break;
        }
        *slash = 0;
    }
    if (statvfs(path, &v) < 0)
        return false;
    unsigned long long mib = (unsigned long long)v.f_bavail * v.f_frsize >> 20;
    FOUND(f, "%llu MiB free at %.300s", mib, path);
    REMEDY(f, "free space, or set oci.state_dir to a larger file system");
    return mib >= 1024;
}

// Users of sandboxes must be able to walk down to their root directories.
static bool path_ok(const struct config *c, struct finding *f) {
    char path[PATH_MAX];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s", c->state_dir);
    for (char *p = path + 1;; p++) {
        char was = *p;
        if (was && was != '/')
            continue;
        *p = 0;
        if (stat(path, &st) == 0 && !(st.st_mode & S_IXOTH)) {
            FOUND(f, "%.300s is closed to the sandboxes' users", path);
            REMEDY(f, "chmod o+x %.200s, or set oci.state_dir to another place", path);
            return false;
        }
        if (!(*p = was))
            break;
    }
    FOUND(f, "%.300s", c->state_dir);
    return true;
}

static bool files_ok(const struct config *c, struct finding *f) {
    struct rlimit r = {0};
    (void)getrlimit(RLIMIT_NOFILE, &r);
    FOUND(f, "hard limit of %llu", (unsigned long long)r.rlim_max);
    REMEDY(f, "raise LimitNOFILE (systemd) or ulimit -Hn to 65536");
    return r.rlim_max >= 16384;
}

static bool port_ok(const struct config *c, struct finding *f) {
    struct error err = {0};
    int fd cleanup_close = listen_tcp(strcasecmp(c->host, "localhost") == 0 ? "127.0.0.1" : c->host,
                                      (unsigned)c->port, 1, &err);
    FOUND(f, "%.200s port %lld%s%.150s", c->host, (long long)c->port, fd < 0 ? ": " : "",
          fd < 0 ? err.message : "");
    REMEDY(f, "is the server running already? Else set server.port to a free one");
    return fd >= 0;
}

// What keeps network policies: a program on oci, an image on docker.
static bool egress_ok(const struct config *c, struct finding *f) {
    char path[PATH_MAX] = "";
    struct error err = {0};
    bool docker = strcasecmp(c->runtime, "docker") == 0;
    if (docker ? !c->egress_image : cli_find_egress(c, path, &err) < 0) {
        FOUND(f, "networkPolicy is refused: %.300s",
              docker ? "egress.image is unset" : err.message);
        REMEDY(f, "%s", docker ? "set egress.image" : "install egress, or set egress.path");
        return false;
    }
    FOUND(f, "%.300s", docker ? c->egress_image : path);
    if (strcasecmp(c->egress_mode, "dns") != 0)
        return true;
    FOUND(f, "mode dns: policies stop nobody who knows an address");
    REMEDY(f, "set egress.mode to dns+nft");
    return false;
}

static const struct check checks[] = {
    {"privileges", NEEDED, privileges_ok, true},
    {"kernel", NEEDED, kernel_ok, true},
    {"overlay", NEEDED, overlay_ok, true},
    {"runtime", NEEDED, runtime_ok, true},
    {"execd", NEEDED, execd_ok, false},
    {"skopeo", NEEDED, skopeo_ok, true},
    {"umoci", NEEDED, umoci_ok, true},
    {"nft", NEEDED, nft_ok, true},
    {"egress", WANTED, egress_ok, false},
    {"cgroups", NEEDED, cgroup_ok, true},
    {"state directory", NEEDED, path_ok, true},
    {"user namespaces", WANTED, user_namespace_ok, true},
    {"ip_forward", WANTED, forward_ok, true},
    {"inotify", WANTED, inotify_ok, false},
    {"disk", WANTED, disk_ok, false},
    {"file descriptors", WANTED, files_ok, false},
    {"port", WANTED, port_ok, false},
};

static bool concerns(const struct check *k, const struct config *c) {
    return !k->oci || strcasecmp(c->runtime, "oci") == 0;
}

static bool tell(FILE *out, const char *name, enum weight weight, bool ok,
                 const struct finding *f) {
    (void)fprintf(out, "%-5s %-17s %s\n",
                  ok                 ? "ok"
                  : weight == NEEDED ? "FAIL"
                                     : "warn",
                  name, f->text);
    if (!ok)
        (void)fprintf(out, "      %-17s remedy: %s\n", "", f->remedy);
    return ok || weight != NEEDED;
}

// ---- the engine ----

static unsigned tell_engine(const struct config *c, doctor_ask_fn *ask, FILE *out) {
    const char *host = getenv("DOCKER_HOST");
    struct doctor_engine e;
    struct finding f = {0};
    struct error err = {0};
    bool best_effort = strcasecmp(c->limits, "best_effort") == 0;
    if (ask(c, &e, &err)) {
        FOUND(&f, "%.390s", err.message);
        REMEDY(&f, "start the engine, or set DOCKER_HOST (now %.200s)", host ? host : "unset");
        return !tell(out, "engine", NEEDED, false, &f);
    }
    FOUND(&f, "%s", e.name);
    (void)tell(out, "engine", NEEDED, true, &f);
    FOUND(&f, "%s",
          e.limits      ? "memory, processor and processes can be limited"
          : best_effort ? "sandboxes run without limits: the engine can set none"
                        : "the engine cannot limit sandboxes: creates that ask for it are refused");
    REMEDY(&f, "%s",
           best_effort ? "run the engine as root, or on control groups v2"
                       : "run the engine as root, or on control groups v2; or set docker.limits = "
                         "\"best_effort\"");
    unsigned failed = !tell(out, "limits", best_effort ? WANTED : NEEDED, e.limits, &f);
    FOUND(&f, "%zu of another server", e.foreign);
    REMEDY(&f, "they are left alone; `opensandbox-server adopt` takes them over");
    return failed + !tell(out, "foreign sandboxes", WANTED, e.foreign == 0, &f);
}

unsigned doctor_run(const struct config *c, doctor_ask_fn *ask, FILE *out) {
    unsigned failed = 0;
    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        struct finding f = {0};
        if (!concerns(&checks[i], c))
            continue;
        bool ok = checks[i].ok(c, &f);
        failed += !tell(out, checks[i].name, checks[i].weight, ok, &f);
    }
    return strcasecmp(c->runtime, "docker") == 0 ? failed + tell_engine(c, ask, out) : failed;
}

int doctor_start_check(const struct config *c, struct error *err) {
    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        struct finding f = {0};
        if (concerns(&checks[i], c) && checks[i].weight == NEEDED && !checks[i].ok(c, &f))
            return error_set(err, ENOENT,
                             "%s: %s; remedy: %s (`opensandbox-server doctor` runs all checks)",
                             checks[i].name, f.text, f.remedy);
    }
    return 0;
}
