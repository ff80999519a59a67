#include "server/runtime/oci/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/strbuf.h"

#define PROBE_FILE "probe"
static const char *const search[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                     "/usr/bin",        "/sbin",          "/bin"};

static bool find_program(const char *name, char ret[PROBE_PATH_SIZE]) {
    char path[PROBE_PATH_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(search); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", search[i], name);
        if (!access(path, X_OK)) {
            if (ret)
                (void)snprintf(ret, PROBE_PATH_SIZE, "%s", path);
            return true;
        }
    }
    return false;
}

static bool find_runtime(const char *wish, char ret[PROBE_PATH_SIZE], bool *ret_runc) {
    if (!strcmp(wish, "auto")) {
        *ret_runc = false;
        if (find_program("crun", ret))
            return true;
        return *ret_runc = find_program("runc", ret);
    }
    const char *slash = strrchr(wish, '/');
    *ret_runc = !strcmp(slash ? slash + 1 : wish, "runc");
    if (!slash)
        return find_program(wish, ret);
    (void)snprintf(ret, PROBE_PATH_SIZE, "%s", wish);
    return !access(wish, X_OK);
}

int probe_programs(const struct oci_settings *s, char ret_runtime[PROBE_PATH_SIZE], bool *ret_runc,
                   struct error *err) {
    static const struct {
        const char *name, *package, *use;
    } tools[] = {{"skopeo", "skopeo", "pulls images"},
                 {"umoci", "umoci", "unpacks images"},
                 {"nft", "nftables", "loads the firewall rules"}};
    cleanup_strbuf struct strbuf missing;
    strbuf_init(&missing, 900);
    const char *name = strrchr(s->runtime, '/') ? strrchr(s->runtime, '/') + 1 : s->runtime;
    if (!strcmp(name, "runsc"))
        return error_set(err, ENOTSUP,
                         "runsc cannot inherit execd's socket and is not supported yet: set "
                         "oci.runtime = \"crun\"");
    if (!find_runtime(s->runtime, ret_runtime, ret_runc))
        (void)strbuf_addf(&missing, "; %s (runs sandboxes): apt install %s", s->runtime,
                          strcmp(name, "auto") != 0 ? name : "crun");
    for (size_t i = 0; i < ARRAY_SIZE(tools); i++)
        if (!find_program(tools[i].name, NULL))
            (void)strbuf_addf(&missing, "; %s (%s): apt install %s", tools[i].name, tools[i].use,
                              tools[i].package);
    if (access(s->execd_path, X_OK))
        (void)strbuf_addf(&missing,
                          "; execd at %s: build it (make build) or set runtime.execd_path",
                          s->execd_path);
    return missing.len ? error_set(err, ENOENT, "missing on this host: %s", missing.data + 2) : 0;
}

static bool has_capability(int number) {
    char text[4096];
    struct error ignored;
    uint64_t bits = 0;
    if (fd_read_text(AT_FDCWD, "/proc/self/status", text, sizeof text, &ignored))
        return false;
    const char *p = strstr(text, "\nCapEff:\t");
    return p && !parse_hex64(p + 9, strspn(p + 9, "0123456789abcdef"), &bits) &&
           (bits >> number & 1);
}

int probe_kernel(struct error *err) {
    static const struct {
        int number;
        const char *name;
    } needed[] = {{CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                  {CAP_CHOWN, "CAP_CHOWN"},         {CAP_SETUID, "CAP_SETUID"},
                  {CAP_SETGID, "CAP_SETGID"},       {CAP_MKNOD, "CAP_MKNOD"},
                  {CAP_KILL, "CAP_KILL"},           {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"}};
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (!has_capability(needed[i].number))
            return error_set(err, EPERM,
                             "the server lacks %s: run it as root (in a container: --privileged)",
                             needed[i].name);
    cleanup_strbuf struct strbuf sb;
    struct error unreadable; // the probe sandbox tells then
    strbuf_init(&sb, 65536);
    if (!fd_read_file(AT_FDCWD, "/proc/filesystems", &sb, &unreadable) &&
        !strstr(sb.data, "\toverlay\n"))
        return error_set(err, ENOTSUP, "the kernel has no overlay file system: modprobe overlay");
    cleanup_close int tree = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr))
        return error_errno(err, errno,
                           "the kernel cannot make detached mounts (open_tree, mount_setattr: "
                           "Linux 5.12 or later)");
    return 0;
}

// ---- a process ----

static bool status_field(const char *text, const char *name, uint64_t *ret, bool hex) {
    char key[32];
    (void)snprintf(key, sizeof key, "\n%s:\t", name);
    const char *p = strstr(text, key);
    if (!p)
        return false;
    p += strlen(key);
    if (hex)
        return !parse_hex64(p, strspn(p, "0123456789abcdef"), ret);
    return !parse_u64n(p, strspn(p, "0123456789"), 0, UINT64_MAX, ret);
}

int probe_process(pid_t pid, uint32_t uid, bool root, struct error *err) {
    static const uint64_t ours =
        1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_FOWNER | 1ULL << CAP_FSETID |
        1ULL << CAP_KILL | 1ULL << CAP_NET_BIND_SERVICE | 1ULL << CAP_SETFCAP | 1ULL << CAP_SETGID |
        1ULL << CAP_SETPCAP | 1ULL << CAP_SETUID | 1ULL << CAP_SYS_CHROOT;
    char name[32], text[8192];
    uint64_t seccomp = 0, no_new = 0, bounding = ~0ULL, effective = ~0ULL, inheritable = ~0ULL,
             ambient = ~0ULL, real = ~0ULL;
    (void)snprintf(name, sizeof name, "/proc/%d/status", pid);
    if (fd_read_text(AT_FDCWD, name, text, sizeof text, err))
        return -1;
    if (!status_field(text, "Seccomp", &seccomp, false) || seccomp != 2)
        return error_set(
            err, EPERM,
            "the sandbox runs without its seccomp filter (mode %llu): this runtime cannot be used",
            (unsigned long long)seccomp);
    if (!status_field(text, "NoNewPrivs", &no_new, false) || no_new != 1)
        return error_set(err, EPERM,
                         "the sandbox runs without no_new_privs: this runtime cannot be used");
    if (!status_field(text, "Uid", &real, false) || real != uid)
        return error_set(err, EPERM,
                         "the sandbox runs as user %llu instead of %u: this runtime cannot be used",
                         (unsigned long long)real, uid);
    (void)status_field(text, "CapBnd", &bounding, true);
    (void)status_field(text, "CapEff", &effective, true);
    (void)status_field(text, "CapInh", &inheritable, true);
    (void)status_field(text, "CapAmb", &ambient, true);
    if ((bounding & ~ours) || (effective & ~ours) || (!root && effective) || inheritable || ambient)
        return error_set(err, EPERM,
                         "the sandbox has capabilities %llx of %llx, more than it was given: this "
                         "runtime cannot be used",
                         (unsigned long long)effective, (unsigned long long)bounding);
    return 0;
}

// ---- the remembered verdict ----

void probe_key(const char *runtime, const char *profile_hash, const char *layout,
               bool user_namespaces, char *text, size_t size) {
    struct utsname kernel;
    struct stat st = {.st_ino = 0};
    (void)uname(&kernel);
    (void)stat(runtime, &st);
    (void)snprintf(text, size, "%s %s %llu %lld.%09ld %s cgroups %s %s", kernel.release, runtime,
                   (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                   profile_hash, layout, user_namespaces ? "mapped" : "plain");
}

bool probe_remembered(int dir, const char *key) {
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    strbuf_init(&sb, 4096);
    return !fd_read_file(dir, PROBE_FILE, &sb, &ignored) && !strcmp(sb.data, key);
}

void probe_remember(int dir, const char *key) {
    struct error ignored;
    (void)fd_replace_file(dir, PROBE_FILE, key, strlen(key), 0600, &ignored);
}
