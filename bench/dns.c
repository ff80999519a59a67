// dns: both ends of what bench/egress.py measures.
//
//   dns upstream ADDRESS          answers every A question on port 53 with an address of its own
//   dns ask ADDRESS COUNT WINDOW PREFIX
//     COUNT questions for PREFIX{n}.bench.test, WINDOW of them on their way at a time; one JSON
//     line:
//     {"answers": N, "lost": N, "samples_ms": [...], "cpu_ms": N, "wall_ms": N}; samples with
//     WINDOW 1
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "fmt/json.h"

enum { BATCH = 32, SIZE = 512, HEAD = 12, PATIENCE_MS = 1000, WINDOW_MAX = 1024 };

struct batch {
    struct mmsghdr heads[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in peers[BATCH];
    uint8_t bytes[BATCH][SIZE];
};

static void prepare(struct batch *b, bool peers) {
    for (int i = 0; i < BATCH; i++) {
        b->parts[i] = (struct iovec){b->bytes[i], SIZE};
        b->heads[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &b->parts[i], .msg_iovlen = 1}};
        if (peers) {
            b->heads[i].msg_hdr.msg_name = &b->peers[i];
            b->heads[i].msg_hdr.msg_namelen = sizeof b->peers[i];
        }
    }
}

static int open_socket(const char *address, bool serve) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){4 << 20},
                     sizeof(int)); // loss would show
    if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1 ||
        (serve ? bind(fd, (struct sockaddr *)&a, sizeof a)
               : connect(fd, (struct sockaddr *)&a, sizeof a)) < 0) {
        perror(address);
        exit(1);
    }
    return fd;
}

static size_t question_end(const uint8_t *m, size_t len) {
    size_t at = HEAD;
    while (at < len && m[at])
        at += 1u + m[at];
    return at + 5;
}

static int serve(const char *address) {
    static struct batch b;
    static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 200, 0, 4};
    uint32_t next = 20u << 24;
    int fd = open_socket(address, true);
    for (;;) {
        prepare(&b, true);
        int n = recvmmsg(fd, b.heads, BATCH, MSG_WAITFORONE, NULL);
        if (n < 0)
            return 1;
        for (int i = 0; i < n; i++) {
            uint8_t *m = b.bytes[i];
            size_t end = question_end(m, b.heads[i].msg_len);
            if (end + 16 > SIZE)
                continue;
            memcpy(m + 2, "\x81\x80\0\1\0\1\0\0\0\0", 10);
            memcpy(m + end, record, sizeof record);
            uint32_t own = htonl(next);
            next = next >= 30u << 24 ? 20u << 24 : next + 1;
            memcpy(m + end + sizeof record, &own, sizeof own);
            b.parts[i].iov_len = end + 16;
        }
        (void)sendmmsg(fd, b.heads, (unsigned)n, 0); // what is lost is asked again
    }
}

static size_t write_question(uint8_t *m, uint16_t id, const char *prefix, uint64_t n) {
    char label[64];
    size_t len = (size_t)snprintf(label, sizeof label, "%s%llu", prefix, (unsigned long long)n);
    memcpy(m, (uint8_t[]){(uint8_t)(id >> 8), (uint8_t)id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, HEAD);
    m[HEAD] = (uint8_t)len;
    memcpy(m + HEAD + 1, label, len);
    memcpy(m + HEAD + 1 + len, "\5bench\4test\0\0\1\0\1", 16);
    return HEAD + 17 + len;
}

struct ask {
    int fd;
    uint64_t count, window, sent, answers, failed;
    const char *prefix;
    int64_t begin_ns; // of the last question
    json_t *samples;
};

static void send_some(struct ask *a, struct batch *b, uint64_t outstanding) {
    unsigned n = 0;
    for (; n < BATCH && outstanding + n < a->window && a->sent + n < a->count; n++)
        b->parts[n].iov_len =
            write_question(b->bytes[n], (uint16_t)(a->sent + n), a->prefix, a->sent + n);
    if (!n)
        return;
    a->begin_ns = clock_boot_ns();
    int done = sendmmsg(a->fd, b->heads, n, 0);
    a->sent += done > 0 ? (uint64_t)done : 0;
}

static void receive_some(struct ask *a, struct batch *b) {
    int n = recvmmsg(a->fd, b->heads, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++) {
        bool good = b->heads[i].msg_len > HEAD && !(b->bytes[i][3] & 15) && b->bytes[i][7];
        a->answers += good;
        a->failed += !good;
        if (good && a->window == 1)
            (void)json_array_append_new(a->samples,
                                        json_real((double)(clock_boot_ns() - a->begin_ns) / 1e6));
    }
}

static int ask(struct ask *a) {
    static struct batch out, in;
    struct rusage u;
    int64_t begin = clock_boot_ns();
    while (a->answers + a->failed < a->count) {
        prepare(&out, false);
        send_some(a, &out, a->sent - a->answers - a->failed);
        struct pollfd p = {.fd = a->fd, .events = POLLIN};
        prepare(&in, false);
        if (poll(&p, 1, PATIENCE_MS) <= 0)
            break; // nobody will answer those any more
        receive_some(a, &in);
    }
    int64_t wall = clock_boot_ns() - begin;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
    cleanup_json json_t *out_json =
        json_pack("{s:I, s:I, s:O, s:f, s:f}", "answers", (json_int_t)a->answers, "lost",
                  (json_int_t)(a->count - a->answers), "samples_ms", a->samples, "cpu_ms", cpu,
                  "wall_ms", (double)wall / 1e6);
    (void)json_dumpf(out_json, stdout, JSON_REAL_PRECISION(8));
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    struct ask a = {0};
    if (argc == 3 && !strcmp(argv[1], "upstream"))
        return serve(argv[2]);
    if (argc != 6 || strcmp(argv[1], "ask") != 0 || parse_u64(argv[3], 1, 10000000, &a.count) ||
        parse_u64(argv[4], 1, WINDOW_MAX, &a.window) || strlen(argv[5]) > 30) {
        fprintf(stderr, "usage: dns upstream ADDRESS | dns ask ADDRESS COUNT WINDOW PREFIX\n");
        return 2;
    }
    a.fd = open_socket(argv[2], false);
    a.prefix = argv[5];
    a.samples = json_array();
    int r = ask(&a);
    json_decref(a.samples);
    return r;
}
