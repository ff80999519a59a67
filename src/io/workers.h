// Threads for straight-line blocking code. A job is submitted on the loop, run() on a worker,
// done() on the loop again. run() touches nothing that the loop owns. Queues are bounded; a full
// one says so at submit.
#ifndef IO_WORKERS_H
#define IO_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"
#include "io/loop.h"

struct job {
    void (*run)(struct job *job);  // worker thread
    void (*done)(struct job *job); // loop thread; the job may be freed in it
    // private
    struct list node;
    struct loop_task task;
    struct workers *workers;
};

struct workers;
// `queue_max` jobs may wait. nice_level 0..19 (and idle I/O priority when > 0) for every thread of
// it.
struct workers *workers_new(struct loop *l, unsigned threads, size_t queue_max, int nice_level,
                            struct error *err);
int workers_submit(struct workers *w, struct job *job); // -1 when the queue is full (errno EAGAIN)
size_t workers_waiting(const struct workers *w);
void workers_free(struct workers *w); // waits for running jobs; done() of all finished jobs has
                                      // been called. NULL fine

#endif
