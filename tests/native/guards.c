/* guard.c with memory that goes away under its threads. usage: guards SEED ROUNDS
 *
 * Every kind of handler that a SIGBUS may have gone to before, threads that fault at once, addresses that are used again
 * as soon as they are free, forks, and more mappings than anybody has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap_segment.h"

/* Between finding a mapping and laying zeros over it, a handler may lose its processor: in breaks_the_rule it does. */
static _Atomic bool slow;
static long slowly(long number, uint64_t base, uint64_t size, int prot, int flags, int fd, int offset)
{
    if (atomic_load(&slow))
        usleep(500);
    return syscall(number, base, size, prot, flags, fd, offset);
}
#define syscall slowly
#include "guard.c"
#undef syscall

enum { PAGE = 4096, SIZE = 8 * PAGE, THREADS = 4, MANY = 2000 };

struct memory {
    int fd;
    volatile uint8_t *base;
    struct guard *guard;
};

static struct memory shared_memory(void)
{
    struct memory m = {.fd = memfd_create("guards", MFD_CLOEXEC)};
    CHECK(m.fd >= 0 && ftruncate(m.fd, SIZE) == 0);
    m.base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    CHECK(m.base != MAP_FAILED);
    return m;
}

static struct memory guarded(void)
{
    struct memory m = shared_memory();
    m.guard = guard_add((void *)m.base, SIZE);
    CHECK(m.guard && guard_broken_at((const void *)(m.base + SIZE - 1)) == guard_broken(m.guard));
    return m;
}

static void drop(struct memory m)
{
    if (m.guard)
        guard_remove(m.guard);
    CHECK(munmap((void *)m.base, SIZE) == 0 && close(m.fd) == 0);
}

static bool broken(struct memory m) { return atomic_load(guard_broken(m.guard)) != 0; }

/* Run `what` in a child; how it ended, as wait(2) has it. What it says on stderr is in `said`. */
static char said[4096];
static int child(void (*what)(void))
{
    int pipes[2], status;
    CHECK(pipe(pipes) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        dup2(pipes[1], 2);
        what();
        _exit(0);
    }
    close(pipes[1]);
    ssize_t got, length = 0;
    while ((got = read(pipes[0], said + length, sizeof said - 1 - (size_t)length)) > 0)
        length += got;
    said[length] = 0;
    close(pipes[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static bool killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS; }

/* ---- a SIGBUS that is none of ours ---- */

static void *volatile seen;
static volatile int calls, number_seen;
static sigjmp_buf back;

static void mending(int number, siginfo_t *info, void *context)
{
    (void)context;
    seen = info->si_addr, number_seen = number, calls++;
    if (info->si_code == BUS_ADRERR)
        CHECK(mmap((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

static void leaving(int number)
{
    number_seen = number, calls++;
    siglongjmp(back, 1);
}

static void counting(int number) { number_seen = number, calls++; }

static void set(void (*plain)(int), void (*full)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_flags = flags};
    if (full)
        action.sa_sigaction = full, action.sa_flags |= SA_SIGINFO;
    else
        action.sa_handler = plain;
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

/* Guards a mapping after its handler was set, and touches memory that is nobody's. */
static void touch_foreign(void)
{
    struct memory ours = guarded(), foreign = shared_memory();
    CHECK(ftruncate(foreign.fd, 0) == 0);
    foreign.base[5 * PAGE + 7] = 1;
    CHECK(!broken(ours));
}

static void with_default(void) { set(SIG_DFL, NULL, 0), touch_foreign(); }
static void with_ignored(void) { set(SIG_IGN, NULL, 0), touch_foreign(); }
static void send_default(void) { set(SIG_DFL, NULL, 0), guarded(), raise(SIGBUS); }
static void send_ignored(void) { set(SIG_IGN, NULL, 0), guarded(), raise(SIGBUS); }

static void with_full(void)
{
    set(NULL, mending, 0);
    touch_foreign();
    CHECK(calls == 1 && number_seen == SIGBUS && (uintptr_t)seen % PAGE == 7);
    touch_foreign(); /* again: it is still there */
    raise(SIGBUS);
    CHECK(calls == 3);
}

static void with_plain(void)
{
    set(leaving, NULL, SA_NODEFER);
    for (volatile int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1))
            touch_foreign();
    CHECK(calls == 3 && number_seen == SIGBUS);
}

static void with_one_shot(void)
{
    set(counting, NULL, (int)SA_RESETHAND);
    guarded();
    raise(SIGBUS);
    CHECK(calls == 1);
    raise(SIGBUS); /* the default action */
}

/* A sender may say anything: a page that is missing is what the kernel says only. */
static void with_forged(void)
{
    set(counting, NULL, 0);
    struct memory m = guarded();
    siginfo_t info = {.si_signo = SIGBUS, .si_code = SI_QUEUE, .si_addr = (void *)m.base};
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &info) == 0);
    CHECK(calls == 1 && !broken(m));
}

static void with_what_was_there(void) { touch_foreign(); }

/* Others put theirs over ours: each time ours comes on top again and hands on to theirs, until there are too many. */
static void with_many(void)
{
    const int flags[] = {0, SA_RESTART, SA_NODEFER, SA_ONSTACK, SA_RESTART | SA_NODEFER, SA_RESTART | SA_ONSTACK,
                         SA_NODEFER | SA_ONSTACK};
    set(SIG_DFL, NULL, 0);
    guarded();
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        set(counting, NULL, flags[i]);
        struct memory m = guarded();
        CHECK(ftruncate(m.fd, 0) == 0 && m.base[PAGE] == 0 && broken(m));
        raise(SIGBUS);
        CHECK(calls == (int)i + 1);
        set(counting, NULL, flags[i]); /* the same again needs no other level */
        guarded();
    }
    set(counting, NULL, SA_RESTART | SA_NODEFER | SA_ONSTACK);
    struct memory m = shared_memory();
    CHECK(!guard_add((void *)m.base, SIZE) && errno == EBUSY);
}

static void foreign(void)
{
    CHECK(killed(child(with_default)));
    CHECK(killed(child(with_ignored))); /* nobody can ignore a fault */
    CHECK(killed(child(send_default)));
    CHECK(child(send_ignored) == 0);
    CHECK(child(with_full) == 0);
    CHECK(child(with_plain) == 0);
    CHECK(killed(child(with_one_shot)));
    CHECK(child(with_many) == 0);
    CHECK(child(with_forged) == 0);
    int status = child(with_what_was_there);
#ifdef __SANITIZE_ADDRESS__
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) && strstr(said, "AddressSanitizer: BUS"));
#else
    CHECK(status);
#endif
}

/* ---- threads ---- */

static struct memory victims[THREADS], whole;
static _Atomic bool stop;

static void *read_all(void *argument)
{
    uint64_t seed = (uint64_t)(uintptr_t)argument;
    while (!atomic_load(&stop)) {
        struct memory m = victims[random_below(&seed, THREADS)];
        uint32_t at = random_below(&seed, SIZE);
        _Atomic uint8_t *byte = (_Atomic uint8_t *)&m.base[at];
        if (random_below(&seed, 2))
            CHECK(atomic_load(byte) <= 1);
        else
            atomic_store(byte, 1);
        at = random_below(&seed, SIZE);
        CHECK(whole.base[at] == (uint8_t)(at % 251));
    }
    return NULL;
}

/* All threads fault at once in mappings that the main thread truncates; one that nobody truncates stays whole. */
static void faults_at_once(uint64_t *seed, uint32_t rounds)
{
    whole = guarded();
    for (uint32_t at = 0; at < SIZE; at++)
        whole.base[at] = (uint8_t)(at % 251);
    for (uint32_t round = 0; round < rounds; round++) {
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            victims[i] = guarded();
        atomic_store(&stop, false);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, read_all, (void *)(uintptr_t)random_next(seed)) == 0);
        for (int i = 0; i < THREADS; i++)
            CHECK(ftruncate(victims[i].fd, random_below(seed, SIZE / PAGE) * PAGE) == 0);
        for (int i = 0; i < THREADS; i++)
            while (!broken(victims[i]))
                sched_yield();
        atomic_store(&stop, true);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        for (int i = 0; i < THREADS; i++)
            drop(victims[i]);
        CHECK(!broken(whole));
    }
    drop(whole);
}

/* One that reads on while the mapping is unmapped breaks the rule, and may die of it. It must not take other memory with it
 * that is at the same addresses then. */
static volatile uint8_t *_Atomic lost;
static _Thread_local sigjmp_buf resume;

static void resuming(int number)
{
    (void)number;
    siglongjmp(resume, 1);
}

static void *read_too_long(void *argument)
{
    (void)sigsetjmp(resume, 1);
    while (!atomic_load(&stop)) {
        const volatile uint8_t *base = atomic_load(&lost);
        if (base)
            (void)base[PAGE]; /* what is there now may be anybody's */
    }
    return argument;
}

static __attribute__((unused)) void breaks_the_rule(void)
{
    pthread_t threads[THREADS];
    atomic_store(&stop, false);
    set(resuming, NULL, SA_NODEFER);
    const struct sigaction action = {.sa_handler = resuming, .sa_flags = SA_NODEFER};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, read_too_long, NULL) == 0);
    atomic_store(&slow, true);
    for (uint32_t round = 0; round < 200; round++) {
        struct memory m = guarded();
        CHECK(ftruncate(m.fd, 0) == 0);
        atomic_store(&lost, m.base);
        for (int yields = 0; yields < 100 && !broken(m); yields++)
            sched_yield();
        drop(m);
        uint8_t *other = mmap((void *)m.base, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(other != MAP_FAILED);
        memset(other, 7, SIZE);
        usleep(1000);
        for (int i = 0; i < SIZE; i += PAGE)
            CHECK(((volatile uint8_t *)other)[i] == 7);
        munmap(other, SIZE);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Each thread guards, breaks and unmaps memory of its own, and has other memory at the same addresses at once: no handler
 * of another thread's mapping may lay zeros over it. */
static void *churn(void *argument)
{
    uint64_t seed = (uint64_t)(uintptr_t)argument, rounds = 1 + seed % 64;
    for (uint64_t round = 0; round < rounds; round++) {
        struct memory m = guarded();
        m.base[0] = 1;
        CHECK(ftruncate(m.fd, 0) == 0 && m.base[random_below(&seed, SIZE)] == 0 && broken(m));
        drop(m);
        uint8_t *other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(other != MAP_FAILED);
        memset(other, 7, SIZE);
        sched_yield();
        for (uint32_t at = 0; at < SIZE; at += 64)
            CHECK(((volatile uint8_t *)other)[at] == 7);
        CHECK(!guard_broken_at(other));
        munmap(other, SIZE);
    }
    return NULL;
}

static void addresses_used_again(uint64_t *seed, uint32_t rounds)
{
    for (uint32_t round = 0; round < rounds; round++) {
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)random_next(seed)) == 0);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

/* ---- forks, and many ---- */

static struct memory inherited;

static void break_in_child(void)
{
    CHECK(ftruncate(inherited.fd, PAGE) == 0 && inherited.base[2 * PAGE] == 0 && broken(inherited));
    struct memory own = guarded();
    CHECK(ftruncate(own.fd, 0) == 0 && own.base[0] == 0 && broken(own));
    drop(own);
    drop(inherited);
}

static void forks(void)
{
    inherited = guarded();
    CHECK(child(break_in_child) == 0);
    CHECK(!broken(inherited));
    CHECK(inherited.base[2 * PAGE] == 0 && broken(inherited));
    drop(inherited);
}

static void many(void)
{
    static struct memory all[MANY];
    for (int i = 0; i < MANY; i++)
        all[i] = guarded();
    for (int i = 0; i < MANY; i += 2)
        CHECK(ftruncate(all[i].fd, 0) == 0 && all[i].base[SIZE - 1] == 0);
    for (int i = 0; i < MANY; i++) {
        CHECK(broken(all[i]) == (i % 2 == 0));
        drop(all[i]);
    }
    CHECK(!guard_add(said, sizeof said) && errno == EINVAL); /* no page begins there */
    CHECK(!guard_add((void *)(uintptr_t)PAGE, (size_t)1 << 40) && errno == EINVAL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    uint64_t seed = strtoull(argv[1], NULL, 0);
    uint32_t rounds = (uint32_t)strtoul(argv[2], NULL, 0);
    printf("seed %" PRIu64 "\n", seed);
    fflush(stdout);
    foreign();
    faults_at_once(&seed, rounds);
    addresses_used_again(&seed, rounds);
#ifndef __SANITIZE_THREAD__ /* which would say that the rule is broken */
    CHECK(child(breaks_the_rule) == 0);
#endif
    forks();
    many();
    printf("all guarded\n");
    return 0;
}
