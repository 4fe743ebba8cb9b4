/* The floor of a row of any size: what a copy of it takes, and what two C processes take to have one made.
 *
 *     rows memcpy|touched|untouched BYTES ROUNDS SECONDS [CPU CPU] > samples      one line a round: nanoseconds
 *
 * `memcpy` is one process: it fills a row, copies it, and looks at the copy; only the copy is timed. `touched` has another
 * process make the copy, and times from the request to the reply, both a store to a line that the other side polls. That is
 * what the sidecar's identity model is compared with. `untouched` is the request and the reply alone.
 *
 * It ends after ROUNDS, or after SECONDS where that is earlier. The warm-up, which does not count, takes a tenth of both.
 * With two CPUs each process is pinned to one. A sample has one reading of the clock in it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../shm_server/native/ring.h"

enum { MOST_PAYLOADS = 64, PAYLOADS_BYTES = 64 << 20 };

enum way { MEMCPY, TOUCHED, UNTOUCHED, WAYS };

static const char *const way_names[WAYS] = {"memcpy", "touched", "untouched"};

struct shared {
    _Alignas(128) _Atomic uint64_t request;
    _Alignas(128) _Atomic uint64_t reply;
};

struct rows {
    struct shared *lines;
    uint8_t *in, *out;
    size_t size;
};

/* Mapped as a segment is: shared, small pages, all of them there. */
static void *shared_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("rows");
        exit(1);
    }
    return memory;
}

static void pin(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)atoi(cpu), &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) {
        perror("rows");
        exit(1);
    }
}

static void serve(const struct rows *r, enum way way)
{
    for (uint64_t turn = 1;; turn++) {
        while (atomic_load_explicit(&r->lines->request, memory_order_acquire) != turn)
            ring_pause();
        if (way == TOUCHED)
            memcpy(r->out, r->in, r->size);
        atomic_store_explicit(&r->lines->reply, turn, memory_order_release);
    }
}

static void ask(const struct rows *r, uint64_t turn)
{
    atomic_store_explicit(&r->lines->request, turn, memory_order_release);
    while (atomic_load_explicit(&r->lines->reply, memory_order_acquire) != turn)
        ring_pause();
}

/* One round: what it took. */
static uint64_t round_of(const struct rows *r, enum way way, uint64_t turn, const uint8_t *payload)
{
    if (way != UNTOUCHED)
        memcpy(r->in, payload, r->size);
    uint64_t begun = ring_now();
    if (way == MEMCPY)
        memcpy(r->out, r->in, r->size);
    else
        ask(r, turn);
    uint64_t took = ring_now() - begun;
    if (way != UNTOUCHED && memcmp(r->out, payload, r->size)) {
        fprintf(stderr, "rows: the copy of round %llu is not what was to be copied\n", (unsigned long long)turn);
        exit(1);
    }
    return took;
}

int main(int argc, char **argv)
{
    bool complete = argc == 5 || argc == 7;
    enum way way = 0;
    while (complete && way < WAYS && strcmp(argv[1], way_names[way]))
        way++;
    size_t size = complete ? (size_t)atol(argv[2]) : 0;
    long rounds = complete ? atol(argv[3]) : 0;
    double seconds = complete ? atof(argv[4]) : 0;
    if (way == WAYS || !size || size > PAYLOADS_BYTES / 2 || rounds < 1 || !(seconds > 0)) {
        fprintf(stderr, "usage: rows memcpy|touched|untouched BYTES ROUNDS SECONDS [CPU CPU]\n");
        return 2;
    }
    struct rows r = {shared_memory(sizeof(struct shared)), shared_memory(size), shared_memory(size), size};
    size_t payloads = PAYLOADS_BYTES / size < MOST_PAYLOADS ? PAYLOADS_BYTES / size : MOST_PAYLOADS;
    uint8_t *bytes = malloc(payloads * size);
    uint32_t *samples = calloc((size_t)rounds, sizeof *samples);
    if (!bytes || !samples) {
        perror("rows");
        return 1;
    }
    uint64_t state = 20261123;
    for (size_t i = 0; i < payloads * size; i++) { /* xorshift64: random() would take half a second */
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        bytes[i] = (uint8_t)state;
    }
    pid_t child = way == MEMCPY ? 0 : fork();
    if (way != MEMCPY && child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (argc == 7)
            pin(argv[6]);
        serve(&r, way);
    }
    if (argc == 7)
        pin(argv[5]);
    uint64_t turn = 0, limit = (uint64_t)(seconds * 1e9), started = ring_now();
    for (long i = 0; i <= rounds / 10 && ring_now() - started < limit / 10; i++) {
        turn++;
        round_of(&r, way, turn, bytes + turn % payloads * size);
    }
    long made = 0;
    started = ring_now();
    do {
        turn++;
        uint64_t took = round_of(&r, way, turn, bytes + turn % payloads * size);
        samples[made++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    } while (made < rounds && ring_now() - started < limit);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    for (long i = 0; i < made; i++)
        printf("%u\n", samples[i]);
    return 0;
}
