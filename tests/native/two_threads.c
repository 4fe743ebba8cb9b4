/* The two sides as two threads over heap memory, for ThreadSanitizer. usage: two_threads SEED REQUESTS
 *
 * The server is ring.h and stream.h; the client is written here, with C11 atomics, after layout.md. Both spin a little
 * and then sleep on a socket, so all that the protocol orders is at work: turns, flags, bells, acknowledgements. The
 * bytes of inputs and outputs are plain memory: where an order is missing, they are the race that is reported.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap_segment.h"

enum { SLOTS = 8, SLOT_BYTES = 192, REPLY_BYTES = 256, CLASSES = 10, SPINS = 200, LOST_S = 20 };

struct both {
    struct heap_segment s;
    int client_socket, server_socket;
    uint64_t begin; /* position of both rings */
    uint64_t seed, server_seed;
    uint32_t requests;
    uint64_t client_sleeps, server_sleeps;
};

static _Atomic uint32_t *flag(struct both *b, uint32_t at) { return (_Atomic uint32_t *)(void *)(b->s.base + at); }

/* S4 and S5. A wake-up that is lost ends here. By bare system calls: ThreadSanitizer takes what it sees of sockets for
 * an order between the threads, and would not report what the turns fail to order. */
static void sleep_on(int socket, _Atomic uint32_t *parked)
{
    struct pollfd one = {.fd = socket, .events = POLLIN};
    const struct timespec limit = {.tv_sec = LOST_S};
    CHECK(syscall(SYS_ppoll, &one, 1, &limit, NULL, 0) == 1);
    atomic_store(parked, 0);
    uint8_t bytes[16] = {0};
    long got = syscall(SYS_recvfrom, socket, bytes, sizeof bytes, MSG_DONTWAIT, NULL, NULL);
    for (long i = 0; i < got; i++)
        CHECK(bytes[i] == SHM_BELL);
}

/* ---- the server ---- */

static void stream_some(struct ring_lane *lane, uint32_t *left)
{
    char text[16];
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        if (!left[slot])
            continue;
        uint32_t part = left[slot] < 7 ? left[slot] : 7, done = lane->streams[slot].text;
        for (uint32_t i = 0; i < part; i++)
            text[i] = (char)('a' + (done + i + slot) % 26);
        ring_append(lane, slot, text, part);
        left[slot] -= part;
        if (!left[slot])
            ring_finish_prompt(lane, slot, SHM_STATUS_OK, 0, "", 0, 0);
    }
}

static void answer(struct both *b, uint32_t *left)
{
    struct ring_lane *lane = &b->s.lane;
    float scores[SLOTS][CLASSES];
    if (lane->op == SHM_OP_ECHO) {
        ring_complete_echo(lane);
    } else if (!lane->streams) {
        for (uint32_t i = 0; i < lane->count; i++)
            for (uint32_t c = 0; c < CLASSES; c++)
                scores[i][c] = ring_row(lane, 0, lane->batch[i].s.slot)[c];
        ring_scatter(lane, 0, (const uint8_t *)scores, sizeof scores[0], false);
        ring_complete_calls(lane, lane->count, 1);
    } else {
        for (uint32_t i = 0; i < lane->count; i++)
            left[lane->batch[i].s.slot] = lane->batch[i].s.sampling_steps;
        ring_begin_prompts(lane);
    }
}

static void *serve(void *argument)
{
    struct both *b = argument;
    struct ring_lane *lane = &b->s.lane;
    uint32_t left[SLOTS] = {0}, idle = 0;
    while (true) {
        bool streaming = false;
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            streaming |= left[slot] != 0;
        uint32_t count = ring_drain(lane, 1 + random_below(&b->server_seed, SLOTS));
        CHECK(!lane->fault[0]);
        if (count)
            answer(b, left);
        if (streaming)
            stream_some(lane, left);
        if (count || streaming) {
            idle = 0;
            continue;
        }
        if (lane->counters[RING_ECHOES] + lane->counters[RING_CALLS] + lane->counters[RING_PROMPTS] == b->requests)
            break;
        if (idle++ < SPINS) {
            ring_pause();
            continue;
        }
        atomic_store(flag(b, SHM_HEADER_SERVER_PARKED), 1); /* S1 */
        atomic_thread_fence(memory_order_seq_cst);          /* S2 */
        if (ring_peek(lane)) {                              /* S3 */
            atomic_store(flag(b, SHM_HEADER_SERVER_PARKED), 0);
            continue;
        }
        b->server_sleeps++;
        sleep_on(b->server_socket, flag(b, SHM_HEADER_SERVER_PARKED));
    }
    CHECK(lane->tail - b->begin >= b->requests);
    return NULL;
}

/* ---- the client ---- */

struct call {
    bool in_flight;
    uint64_t request_id, checksum;
    uint32_t op, extent, steps, mores, seen;
    uint8_t bytes[SLOT_BYTES];
};

static void fill(struct both *b, struct call *call, uint32_t slot)
{
    bool stream = b->s.lane.streams;
    *call = (struct call){.in_flight = true, .request_id = random_next(&b->seed)};
    call->op = random_below(&b->seed, 2) ? SHM_OP_ECHO : SHM_OP_RUN;
    call->extent = stream ? random_below(&b->seed, SLOT_BYTES + 1) : 0;
    call->steps = stream && call->op == SHM_OP_RUN ? 1 + random_below(&b->seed, 60) : 0;
    for (uint32_t i = 0; i < SLOT_BYTES; i++)
        call->bytes[i] = (uint8_t)random_next(&b->seed);
    struct ring_sums sums = {0, 0};
    ring_sum(&sums, call->bytes, stream ? call->extent : SLOT_BYTES);
    call->checksum = ring_checksum_of(sums);
    memcpy(ring_row(&b->s.lane, 0, slot), call->bytes, SLOT_BYTES);
}

static void publish(struct both *b, const struct call *call, uint32_t slot, uint64_t position)
{
    uint32_t n = b->s.at.lane.submission_entries;
    uint8_t *entry = b->s.base + b->s.at.lane.submissions_offset + position % n * SHM_ENTRY_BYTES;
    struct shm_submission e = {.request_id = call->request_id, .slot = slot, .op = (uint16_t)call->op,
                               .extent = call->extent, .sampling_steps = call->steps,
                               .submitted = ring_now()};
    if (b->s.at.lane.controls_offset)
        atomic_store((_Atomic uint32_t *)&ring_control(&b->s.lane, slot)->acknowledged, 0);
    memcpy(entry + 8, (const uint8_t *)&e + 8, sizeof e - 8);
    atomic_store_explicit((_Atomic uint64_t *)(void *)entry, (position + n) / n, memory_order_release); /* W1 */
    atomic_thread_fence(memory_order_seq_cst);                                                          /* W2 */
    const uint8_t bell = SHM_BELL;
    if (atomic_load(flag(b, SHM_HEADER_SERVER_PARKED)) && atomic_exchange(flag(b, SHM_HEADER_SERVER_PARKED), 0))
        (void)!send(b->client_socket, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* A `more` may say less than we have seen: C3 of the one before may have come after the server had published this one
 * and gone on. */
static void check_text(struct both *b, struct call *call, uint32_t slot, uint32_t length)
{
    const uint8_t *reply = ring_row(&b->s.lane, 1, slot);
    CHECK(length <= call->steps);
    for (; call->seen < length; call->seen++)
        CHECK(reply[call->seen] == 'a' + (call->seen + slot) % 26);
}

static void check(struct both *b, struct call *call, const struct shm_completion *done)
{
    const uint8_t *slot = ring_row(&b->s.lane, 0, done->slot), *reply = ring_row(&b->s.lane, 1, done->slot);
    CHECK(call->in_flight && done->request_id == call->request_id);
    CHECK(!memcmp(slot, call->bytes, SLOT_BYTES));
    if (done->status == SHM_STATUS_MORE) {
        CHECK(call->steps);
        check_text(b, call, done->slot, done->extent);
        atomic_store((_Atomic uint32_t *)&ring_control(&b->s.lane, done->slot)->acknowledged, ++call->mores); /* C1 */
        atomic_thread_fence(memory_order_seq_cst);                                                            /* C2 */
        uint32_t length = atomic_load(ring_progress(&b->s.lane, done->slot));                                 /* C3 */
        CHECK(length >= call->seen && length >= done->extent); /* it only grows */
        check_text(b, call, done->slot, length);
        return;
    }
    CHECK(done->status == SHM_STATUS_OK && done->batch >= 1 && done->batch <= SLOTS);
    call->in_flight = false;
    if (call->steps) {
        CHECK(done->extent == call->steps);
        check_text(b, call, done->slot, done->extent);
        return;
    }
    CHECK(done->extent == call->extent);
    if (call->op == SHM_OP_ECHO) {
        CHECK(done->checksum == call->checksum);
        CHECK(!memcmp(reply, call->bytes, done->extent));
        return;
    }
    for (uint32_t c = 0; c < CLASSES; c++)
        CHECK(((const float *)(const void *)reply)[c] == call->bytes[c]);
}

static bool published(const struct both *b, uint64_t position)
{
    uint32_t n = b->s.at.lane.completion_entries;
    const uint8_t *entry = b->s.base + b->s.at.lane.completions_offset + position % n * SHM_ENTRY_BYTES;
    uint64_t turn = atomic_load_explicit((const _Atomic uint64_t *)(const void *)entry, memory_order_acquire);
    CHECK(turn == (position + n) / n || turn == position / n);
    return turn == (position + n) / n;
}

static void *call_all(void *argument)
{
    struct both *b = argument;
    static struct call calls[SLOTS];
    uint64_t tail = b->begin, head = b->begin;
    uint32_t sent = 0, done = 0, idle = 0;
    memset(calls, 0, sizeof calls);
    while (done < b->requests) {
        uint32_t slot = random_below(&b->seed, SLOTS);
        if (sent < b->requests && !calls[slot].in_flight) {
            fill(b, &calls[slot], slot);
            publish(b, &calls[slot], slot, tail++);
            sent++;
        }
        bool some = false;
        while (published(b, head)) {
            struct shm_completion copy;
            memcpy(&copy, b->s.base + b->s.at.lane.completions_offset + head % b->s.at.lane.completion_entries * SHM_ENTRY_BYTES,
                   sizeof copy);
            head++;
            CHECK(copy.slot < SLOTS);
            check(b, &calls[copy.slot], &copy);
            done += copy.status != SHM_STATUS_MORE;
            some = true;
        }
        uint32_t in_flight = sent - done;
        if (some || in_flight < 1 + random_below(&b->seed, SLOTS) || idle++ < SPINS) {
            idle = some ? 0 : idle;
            continue;
        }
        idle = 0;
        atomic_store(flag(b, SHM_HEADER_CLIENT_PARKED), 1); /* S1 */
        atomic_thread_fence(memory_order_seq_cst);          /* S2 */
        if (published(b, head)) {                           /* S3 */
            atomic_store(flag(b, SHM_HEADER_CLIENT_PARKED), 0);
            continue;
        }
        b->client_sleeps++;
        sleep_on(b->client_socket, flag(b, SHM_HEADER_CLIENT_PARKED));
    }
    return NULL;
}

static void run(uint32_t protocol, uint64_t begin, uint64_t seed, uint32_t requests)
{
    struct both b = {.begin = begin, .seed = seed, .server_seed = ~seed, .requests = requests};
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    b.client_socket = pair[0], b.server_socket = pair[1];
    bool stream = protocol == SHM_PROTOCOL_STREAM;
    b.s.at.lane = (struct shm_lane){.protocol = protocol, .slot_count = SLOTS, .input_count = 1, .output_count = 1};
    b.s.at.tensors[0] = stream ? heap_text(SLOT_BYTES) : heap_tensor(SHM_DATATYPE_UINT8, SLOT_BYTES, 1, false);
    b.s.at.tensors[1] = stream ? heap_text(REPLY_BYTES) : heap_tensor(SHM_DATATYPE_FP32, CLASSES, 1, false);
    heap_open(&b.s, b.server_socket);
    heap_age(&b.s, begin);
    pthread_t server, client;
    struct both *shared = &b;
    CHECK(pthread_create(&client, NULL, call_all, shared) == 0);
    CHECK(pthread_create(&server, NULL, serve, shared) == 0);
    CHECK(pthread_join(client, NULL) == 0 && pthread_join(server, NULL) == 0);
    printf("protocol %u from %" PRIu64 ": %" PRIu64 " completions, the client slept %" PRIu64 " times, the server %" PRIu64
           ", %" PRIu64 " bells\n", protocol, begin, b.s.lane.tail - begin, b.client_sleeps, b.server_sleeps,
           b.s.lane.counters[RING_BELLS_SENT]);
    heap_close(&b.s);
    close(pair[0]);
    close(pair[1]);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    uint64_t seed = strtoull(argv[1], NULL, 0);
    uint32_t requests = (uint32_t)strtoul(argv[2], NULL, 0);
    printf("seed %" PRIu64 "\n", seed);
    fflush(stdout);
    run(SHM_PROTOCOL_CALL, 0, seed, requests);
    run(SHM_PROTOCOL_CALL, UINT64_MAX - requests / 2, seed + 1, requests); /* the positions pass 2^64 midway */
    run(SHM_PROTOCOL_STREAM, 0, seed + 2, requests);
    return 0;
}
