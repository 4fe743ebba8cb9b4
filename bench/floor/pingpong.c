/* The floor: two C processes, one mapped page of rings and a slot, nothing else.
 *
 * One writes 3,072 bytes and publishes an entry; the other reads them all (the checksum of layout.md) and publishes the
 * checksum back. The same bytes move as in an echo through the sidecar, with no Go, no Python and no checks in the way.
 *
 *     pingpong shm|socket|wake ROUNDS [SECONDS] > samples      one line a round: nanoseconds
 *
 * It ends after ROUNDS, or after SECONDS where that is earlier: where two spinning processes share one core, a round takes
 * as long as a time slice. The warm-up, which does not count, takes no longer than SECONDS either.
 *
 * `socket` is the peer: the same bytes over a Unix socket, blocking on both sides, which is what a sleeping sidecar is
 * compared with. `wake` is one way: each 500 us a byte from a process that computes to one that sleeps at the socket, from
 * before it is sent until it has been read. That is what a streamed token is compared with.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../shm_server/native/ring.h"

enum { PAYLOADS = 64, WARM_UP = 20000, PACE_NS = 500000 };

enum { IMAGE_BYTES = 3072 };

static uint64_t checksum_of(const uint8_t *image)
{
    struct ring_sums sums = {0, 0};
    ring_sum(&sums, image, IMAGE_BYTES);
    return ring_checksum_of(sums);
}

struct shared {
    _Alignas(128) _Atomic uint64_t request;
    _Alignas(128) _Atomic uint64_t reply;
    uint64_t checksum; /* on the reply's line, as in a completion */
    _Alignas(4096) uint8_t slot[IMAGE_BYTES];
};

static void all(ssize_t (*move)(int, void *, size_t), int fd, void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = move(fd, (uint8_t *)bytes + done, size - done);
        if (n <= 0)
            exit(1); /* the other process is gone */
        done += (size_t)n;
    }
}

static ssize_t put(int fd, void *bytes, size_t size) { return write(fd, bytes, size); }

static void serve_socket(int fd)
{
    static uint8_t image[IMAGE_BYTES];
    for (;;) {
        all(read, fd, image, sizeof image);
        uint64_t checksum = checksum_of(image);
        all(put, fd, &checksum, sizeof checksum);
    }
}

static void serve(struct shared *s)
{
    for (uint64_t turn = 1;; turn++) {
        while (atomic_load_explicit(&s->request, memory_order_acquire) != turn)
            ring_pause();
        s->checksum = checksum_of(s->slot);
        atomic_store_explicit(&s->reply, turn, memory_order_release);
    }
}

static void serve_wake(struct shared *s, int fd)
{
    uint8_t byte;
    for (uint64_t turn = 1;; turn++) {
        all(read, fd, &byte, 1);
        s->checksum = ring_now();
        atomic_store_explicit(&s->reply, turn, memory_order_release);
    }
}

static uint64_t wake(struct shared *s, int fd, uint64_t turn)
{
    uint8_t byte = 0;
    for (uint64_t due = ring_now() + PACE_NS; ring_now() < due;)
        ;
    uint64_t sent = ring_now();
    all(put, fd, &byte, 1);
    while (atomic_load_explicit(&s->reply, memory_order_acquire) != turn)
        ring_pause();
    return s->checksum - sent;
}

static uint64_t ask(struct shared *s, uint64_t turn, uint8_t *payload)
{
    memcpy(s->slot, payload, IMAGE_BYTES);
    atomic_store_explicit(&s->request, turn, memory_order_release);
    while (atomic_load_explicit(&s->reply, memory_order_acquire) != turn)
        ring_pause();
    return s->checksum;
}

static uint64_t ask_socket(int fd, uint8_t *payload)
{
    uint64_t checksum;
    all(put, fd, payload, IMAGE_BYTES);
    all(read, fd, &checksum, sizeof checksum);
    return checksum;
}

int main(int argc, char **argv)
{
    bool complete = argc == 3 || argc == 4;
    long rounds = complete ? atol(argv[2]) : 0;
    double seconds = argc == 4 ? atof(argv[3]) : 1e9;
    bool by_socket = complete && !strcmp(argv[1], "socket"), waking = complete && !strcmp(argv[1], "wake");
    if (rounds < 1 || !(seconds > 0) || (!by_socket && !waking && strcmp(argv[1], "shm"))) {
        fprintf(stderr, "usage: pingpong shm|socket|wake ROUNDS [SECONDS]\n");
        return 2;
    }
    uint64_t limit = (uint64_t)(seconds * 1e9);
    int ends[2];
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uint32_t *samples = calloc((size_t)rounds, sizeof *samples);
    uint8_t(*payloads)[IMAGE_BYTES] = malloc(PAYLOADS * IMAGE_BYTES);
    if (s == MAP_FAILED || !samples || !payloads || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) {
        perror("pingpong");
        return 1;
    }
    uint64_t expected[PAYLOADS];
    srandom(20261123);
    for (int i = 0; i < PAYLOADS; i++) {
        for (unsigned k = 0; k < IMAGE_BYTES; k++)
            payloads[i][k] = (uint8_t)random();
        expected[i] = checksum_of(payloads[i]);
    }
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (by_socket)
            serve_socket(ends[1]);
        if (waking)
            serve_wake(s, ends[1]);
        serve(s);
    }
    uint64_t turn = 0, started = ring_now();
    long i = -WARM_UP;
    for (; i < rounds; i++) {
        turn++;
        uint8_t *payload = payloads[turn % PAYLOADS];
        uint64_t begun = ring_now();
        uint64_t checksum = 0, took;
        if (waking)
            took = wake(s, ends[0], turn);
        else {
            checksum = by_socket ? ask_socket(ends[0], payload) : ask(s, turn, payload);
            took = ring_now() - begun;
        }
        if (!waking && checksum != expected[turn % PAYLOADS]) {
            fprintf(stderr, "pingpong: wrong checksum in round %ld\n", i);
            kill(child, SIGKILL);
            return 1;
        }
        if (i >= 0)
            samples[i] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
        if (i == -1 || begun - started > limit) { /* once for the warm-up, once for the rounds */
            if (i >= 0)
                break;
            i = -1;
            started = ring_now();
        }
    }
    long made = i < rounds ? i + 1 : rounds;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (i = 0; i < made; i++)
        printf("%u\n", samples[i]);
    return 0;
}
