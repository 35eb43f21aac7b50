/* workers.h: a parallel hook that runs tasks from the last to the first, by its workers in turn: results must not
   depend on either. Include it after qnet.h. */
#ifndef WORKERS_H
#define WORKERS_H

/* user: how many workers there are, a size_t. */
static void workers_run(void *user, size_t count, qnet_task task, void *arg)
{
    while (count-- > 0) task(arg, count, count * 7 % *(const size_t *)user);
}

static void workers_hook(qnet_hooks *hooks, size_t *workers)
{
    hooks->parallel.user = workers, hooks->parallel.run = workers_run, hooks->parallel.workers = *workers;
}

#endif
