/* guard.h: the table, the handler, and whom it hands other faults to. Pure C, no Python. */
#define _GNU_SOURCE
#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_POINTER_LOCK_FREE == 2,
               "a signal handler may use lock-free atomics only");

/* ---- the table ---- */

/* A mapping as one word, so that nobody reads half of it: number of the first page, and behind it how many there are.
 * 45 bits of page numbers are all of a user's addresses on amd64 and arm64. */
enum { UNIT = 4096, COUNT_BITS = 19 };
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
#define FREE UINT64_C(0)
#define CLAIMED (UINT64_C(1) << COUNT_BITS) /* no pages at page 1: nothing is in it */

struct guard {
    _Atomic uint64_t range;
    _Atomic uint32_t broken;
    struct guard *next; /* never changes once the guard is in the list */
};

/* It grows with the mappings there are at a time, and entries are used again but never freed: a handler may look at any. */
static struct guard *_Atomic guards;
static _Atomic uint32_t inside; /* handlers that are looking at the list */
/* Of guard_add. No handler takes it. */
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

static bool contains(uint64_t range, const void *address)
{
    return (uint64_t)(uintptr_t)address / UNIT - (range >> COUNT_BITS) < (range & COUNT_MASK);
}

/* The guard whose mapping contains `address`, or NULL.
 *
 * Whoever touches a mapping does so between its guard_add and its guard_remove, so its own entry stands still meanwhile.
 * Others change; but each is read in one load, and what a load sees was mapped at that moment, beside the mapping that is
 * being touched, so it does not contain the address. The acquire pairs with the release in guard_add: who sees a range
 * sees its `broken` as 0 or later. */
static struct guard *find(const void *address, uint64_t *range)
{
    for (struct guard *g = atomic_load_explicit(&guards, memory_order_acquire); g; g = g->next)
        if (contains(*range = atomic_load_explicit(&g->range, memory_order_seq_cst), address))
            return g;
    return NULL;
}

/* Map zeros over [base, base + size). Two threads that fault at once both do: what the first wrote in between is lost, which
 * nobody misses, since the server reads nothing back that it wrote. */
static bool map_zeros(uint64_t base, uint64_t size)
{
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    /* A bare system call: the sanitizers' mmap does more than a handler may. Shared memory is not counted in RLIMIT_DATA. */
    return syscall(SYS_mmap, base, size, prot, MAP_PRIVATE | flags, -1, 0) == (long)base ||
           syscall(SYS_mmap, base, size, prot, MAP_SHARED | flags, -1, 0) == (long)base;
}

/* True: the fault was in a guarded mapping, and the touch may be done again. Async-signal-safe: atomics, and mmap, which
 * is one system call.
 *
 * H1 and H2 stand against R1 and R2 of guard_remove. In the single order of the four either H2 comes after R1 and finds no
 * range, or R2 comes after H1 and waits for H3, which comes after the mmap. Forbidden: the mapping is unmapped, its addresses
 * are somebody else's, and then a handler that found the range before maps zeros over them. */
static bool caught(const siginfo_t *info)
{
    if (info->si_code != BUS_ADRERR) /* not for want of a page: misaligned, or broken hardware, or sent by somebody */
        return false;
    uint64_t range;
    bool done = false;
    atomic_fetch_add_explicit(&inside, 1, memory_order_seq_cst); /* H1 */
    struct guard *guard = find(info->si_addr, &range);           /* H2 */
    if (guard) {
        /* Before the zeros are there: whoever reads one finds `broken` set. */
        atomic_store_explicit(&guard->broken, 1, memory_order_release);
        done = map_zeros((range >> COUNT_BITS) * UNIT, (range & COUNT_MASK) * UNIT);
    }
    atomic_fetch_sub_explicit(&inside, 1, memory_order_seq_cst); /* H3 */
    return done;
}

/* ---- the handler ---- */

/* Others install handlers of their own, before us and after us (faulthandler, a framework), and hand on to whom they found.
 * When one is found over ours, ours goes on top again at the next level, so that each level hands on to another handler
 * and none is asked twice. */
enum { LEVELS = 8 };
static struct sigaction before[LEVELS];
static int levels;

/* Hand a SIGBUS on to whom it went before, as the kernel would have. */
static void hand_on(int level, int number, siginfo_t *info, void *context)
{
    const struct sigaction to = before[level];
    bool function = to.sa_flags & SA_SIGINFO || (to.sa_handler != SIG_DFL && to.sa_handler != SIG_IGN);
    bool fault = info->si_code == BUS_ADRERR || info->si_code == BUS_ADRALN || info->si_code == BUS_OBJERR ||
                 info->si_code == BUS_MCEERR_AR;
    if (!function) {
        if (to.sa_handler == SIG_IGN && !fault)
            return;
        /* A fault happens again as soon as we return, and the core shows where; no fault can be ignored. */
        signal(number, SIG_DFL);
        if (!fault)
            raise(number);
        return;
    }
    sigset_t mask = to.sa_mask, old;
    if (!(to.sa_flags & SA_NODEFER))
        sigaddset(&mask, number);
    if (to.sa_flags & SA_RESETHAND)
        before[level] = (struct sigaction){.sa_handler = SIG_DFL};
    pthread_sigmask(SIG_BLOCK, &mask, &old);
    if (to.sa_flags & SA_SIGINFO)
        to.sa_sigaction(number, info, context);
    else
        to.sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void on_sigbus(int level, int number, siginfo_t *info, void *context)
{
    int error = errno;
    if (!caught(info))
        hand_on(level, number, info, context);
    errno = error;
}

#define LEVEL(n) static void level_##n(int number, siginfo_t *info, void *context) { on_sigbus(n, number, info, context); }
LEVEL(0) LEVEL(1) LEVEL(2) LEVEL(3) LEVEL(4) LEVEL(5) LEVEL(6) LEVEL(7)
static void (*const handlers[LEVELS])(int, siginfo_t *, void *) = {level_0, level_1, level_2, level_3,
                                                                  level_4, level_5, level_6, level_7};

static bool same(const struct sigaction *a, const struct sigaction *b)
{
    return a->sa_flags == b->sa_flags && (a->sa_flags & SA_SIGINFO ? a->sa_sigaction == b->sa_sigaction
                                                                   : a->sa_handler == b->sa_handler);
}

/* Have one of our handlers on top. Who installs another after that and before the next mapping is made stands before us. */
static bool install(void)
{
    struct sigaction top;
    if (sigaction(SIGBUS, NULL, &top) < 0)
        return false;
    int level = 0;
    for (; level < levels; level++)
        if (top.sa_flags & SA_SIGINFO && top.sa_sigaction == handlers[level])
            return true;
    for (level = 0; level < levels && !same(&before[level], &top);)
        level++;
    if (level == LEVELS) {
        errno = EBUSY;
        return false;
    }
    before[level] = top; /* first: the handler may run at once */
    levels = level == levels ? levels + 1 : levels;
    /* NODEFER: whom we hand on to says itself what it wants blocked. Not ONSTACK: what faults is data, so the stack has room, and a
     * thread's signal stack may be one that a library has left behind unmapped, as OpenVINO does. */
    struct sigaction ours = {.sa_sigaction = handlers[level], .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER};
    return sigaction(SIGBUS, &ours, NULL) == 0;
}

/* ---- what others call ---- */

/* In a forked child there is one thread, the one that forked, and it is in no handler and not adding. The handler, the
 * table and the mappings are its own copies: what breaks there is broken there. */
static void forked(void)
{
    atomic_store(&inside, 0);
    pthread_mutex_init(&adding, NULL);
}

static struct guard *entry(void)
{
    for (struct guard *g = atomic_load_explicit(&guards, memory_order_relaxed); g; g = g->next)
        if (atomic_load_explicit(&g->range, memory_order_acquire) == FREE)
            return g;
    struct guard *fresh = calloc(1, sizeof *fresh);
    if (fresh) {
        atomic_store_explicit(&fresh->range, CLAIMED, memory_order_relaxed);
        fresh->next = atomic_load_explicit(&guards, memory_order_relaxed);
        atomic_store_explicit(&guards, fresh, memory_order_release); /* pairs with the acquire in find */
    }
    return fresh;
}

struct guard *guard_add(void *base, size_t size)
{
    static bool prepared;
    uint64_t first = (uint64_t)(uintptr_t)base / UNIT, count = size / UNIT + (size % UNIT != 0);
    if ((uintptr_t)base % UNIT || !count || count > COUNT_MASK || first >> (64 - COUNT_BITS)) {
        errno = EINVAL;
        return NULL;
    }
    pthread_mutex_lock(&adding);
    struct guard *guard = NULL;
    int error = prepared ? 0 : pthread_atfork(NULL, NULL, forked);
    prepared = !error;
    if (error)
        errno = error;
    else if (install() && (guard = entry())) {
        atomic_store_explicit(&guard->broken, 0, memory_order_relaxed);
        /* Pairs with the load in find. */
        atomic_store_explicit(&guard->range, first << COUNT_BITS | count, memory_order_release);
    }
    pthread_mutex_unlock(&adding);
    return guard;
}

void guard_remove(struct guard *guard)
{
    atomic_store_explicit(&guard->range, CLAIMED, memory_order_seq_cst); /* R1, see caught */
    while (atomic_load_explicit(&inside, memory_order_seq_cst))          /* R2 */
        sched_yield(); /* a handler takes as long as one mmap */
    atomic_store_explicit(&guard->range, FREE, memory_order_release);    /* for the next guard_add, which acquires it */
}

const _Atomic uint32_t *guard_broken(const struct guard *guard)
{
    return &guard->broken;
}

const _Atomic uint32_t *guard_broken_at(const void *address)
{
    uint64_t range;
    struct guard *guard = find(address, &range);
    return guard ? &guard->broken : NULL;
}
