/* The floor: two C processes, one mapped page of rings and a slot, nothing else.
 *
 * One writes 3,072 bytes and publishes an entry; the other reads them all (the checksum of layout.md) and publishes the
 * checksum back. The same bytes move as in an echo through the sidecar, with no Go, no Python and no checks in the way.
 *
 *     pingpong ROUNDS [CPU_A CPU_B] > samples      one line a round: nanoseconds
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

enum { PAYLOADS = 64, WARM_UP = 20000 };

struct shared {
    _Alignas(128) _Atomic uint64_t request;
    _Alignas(128) _Atomic uint64_t reply;
    uint64_t checksum; /* on the reply's line, as in a completion */
    _Alignas(4096) uint8_t slot[SHM_IMAGE_BYTES];
};

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) {
        perror("pin");
        exit(1);
    }
}

static void serve(struct shared *s)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t turn = 1;; turn++) {
        while (atomic_load_explicit(&s->request, memory_order_acquire) != turn)
            ring_pause();
        s->checksum = ring_checksum(s->slot, sizeof s->slot);
        atomic_store_explicit(&s->reply, turn, memory_order_release);
    }
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 0;
    if (rounds < 1 || (argc != 2 && argc != 4)) {
        fprintf(stderr, "usage: pingpong ROUNDS [CPU_A CPU_B]\n");
        return 2;
    }
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uint32_t *samples = calloc((size_t)rounds, sizeof *samples);
    uint8_t(*payloads)[SHM_IMAGE_BYTES] = malloc(PAYLOADS * SHM_IMAGE_BYTES);
    if (s == MAP_FAILED || !samples || !payloads) {
        perror("pingpong");
        return 1;
    }
    uint64_t expected[PAYLOADS];
    srandom(20261123);
    for (int i = 0; i < PAYLOADS; i++) {
        for (unsigned k = 0; k < SHM_IMAGE_BYTES; k++)
            payloads[i][k] = (uint8_t)random();
        expected[i] = ring_checksum(payloads[i], SHM_IMAGE_BYTES);
    }
    pid_t child = fork();
    if (child == 0) {
        if (argc == 4)
            pin(atoi(argv[3]));
        serve(s);
    }
    if (argc == 4)
        pin(atoi(argv[2]));
    for (long i = -WARM_UP; i < rounds; i++) {
        uint64_t turn = (uint64_t)(i + WARM_UP + 1);
        uint64_t begun = ring_now();
        memcpy(s->slot, payloads[turn % PAYLOADS], SHM_IMAGE_BYTES);
        atomic_store_explicit(&s->request, turn, memory_order_release);
        while (atomic_load_explicit(&s->reply, memory_order_acquire) != turn)
            ring_pause();
        uint64_t took = ring_now() - begun;
        if (s->checksum != expected[turn % PAYLOADS]) {
            fprintf(stderr, "pingpong: wrong checksum in round %ld\n", i);
            kill(child, SIGKILL);
            return 1;
        }
        if (i >= 0)
            samples[i] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (long i = 0; i < rounds; i++)
        printf("%u\n", samples[i]);
    return 0;
}
