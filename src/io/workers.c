#include "io/workers.h"

#include <errno.h>
#include <linux/ioprio.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

struct workers {
    struct loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list queue;
    size_t waiting, queue_max;
    bool ending;
    int nice_level;
    unsigned count;
    pthread_t threads[];
};

static void on_done(struct loop_task *task) {
    struct job *job = CONTAINER_OF(task, struct job, task);
    job->done(job);
}

static void lower_priority(int nice_level) {
    if (nice_level <= 0)
        return;
    // per thread on Linux; a refusal only means ordinary priority
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), nice_level);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

static void *work(void *arg) {
    struct workers *w = arg;
    lower_priority(w->nice_level);
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (list_empty(&w->queue) && !w->ending)
            pthread_cond_wait(&w->work, &w->lock);
        struct list *node = list_pop(&w->queue);
        if (!node)
            break;
        w->waiting--;
        pthread_mutex_unlock(&w->lock);
        struct job *job = LIST_ENTRY(node, struct job, node);
        job->run(job);
        loop_post(w->loop, &job->task);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct workers *workers_new(struct loop *l, unsigned threads, size_t queue_max, int nice_level,
                            struct error *err) {
    struct workers *w = calloc(1, sizeof *w + threads * sizeof(pthread_t));
    sigset_t all, old;
    pthread_attr_t attr;
    if (!w) {
        (void)error_errno(err, ENOMEM, "workers");
        return NULL;
    }
    w->loop = l;
    w->queue_max = queue_max;
    w->nice_level = nice_level;
    list_init(&w->queue);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, 256 * 1024); // no function of ours needs a tenth of it
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old); // signals are the loop thread's business
    int r = 0;
    while (w->count < threads && !(r = pthread_create(&w->threads[w->count], &attr, work, w)))
        w->count++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (r) {
        workers_free(w);
        (void)error_errno(err, r, "start %u worker threads", threads);
        return NULL;
    }
    return w;
}

int workers_submit(struct workers *w, struct job *job) {
    job->workers = w;
    job->task = (struct loop_task){.run = on_done};
    pthread_mutex_lock(&w->lock);
    bool full = w->waiting >= w->queue_max || w->ending; // nobody would run it any more
    if (!full) {
        list_push_back(&w->queue, &job->node);
        w->waiting++;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    if (full)
        errno = EAGAIN;
    return full ? -1 : 0;
}

size_t workers_waiting(const struct workers *w) {
    struct workers *mutable = (struct workers *)w; // the lock is not part of what callers see
    pthread_mutex_lock(&mutable->lock);
    size_t n = w->waiting;
    pthread_mutex_unlock(&mutable->lock);
    return n;
}

void workers_free(struct workers *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->count; i++)
        (void)pthread_join(w->threads[i], NULL);
    loop_step(w->loop); // the posted done() calls
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    free(w);
}
