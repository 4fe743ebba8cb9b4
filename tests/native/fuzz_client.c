/* A server that writes anything anywhere, against client.h. usage: fuzz_client SEED SESSIONS
 *
 * After every step of the client: each completion that it took was right by a second reading of layout.md, its table of calls adds up, it
 * wrote nothing that is the server's, and text lies within the reply. AddressSanitizer and UBSan watch the rest.
 */
#include "client.h"
#include "heap_segment.h"

static uint64_t seed;

static uint32_t below(uint32_t bound) { return random_below(&seed, bound); }
static bool one_in(uint32_t n) { return below(n) == 0; }

static uint64_t nasty(void)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 4, 7, 8, 63, 64, 255, 256, 257, 4095, 4096, 65535, INT32_MAX, UINT32_MAX,
                                     1ull << 32, UINT64_MAX - 3, UINT64_MAX};
    return one_in(3) ? random_next(&seed) : edges[below(sizeof edges / sizeof *edges)];
}

struct world {
    struct heap_segment heap;
    struct client_lane lane;
    uint64_t published; /* completions, as the server counts */
    uint8_t answered[256]; /* slots whose completion was not taken yet */
    uint64_t taken, faults, texts;
};

static void open_world(struct world *w)
{
    struct geometry *at = &w->heap.at;
    bool stream = one_in(3);
    *at = (struct geometry){.lane = {.protocol = stream ? SHM_PROTOCOL_STREAM : SHM_PROTOCOL_CALL,
                                     .slot_count = one_in(4) ? 65 + below(70) : 1 + below(9), .input_count = 1, .output_count = 1}};
    if (stream)
        at->tensors[0] = heap_text(100), at->tensors[1] = heap_text(200);
    else
        at->tensors[0] = heap_tensor(SHM_DATATYPE_FP32, 5, 3, one_in(2)), at->tensors[1] = at->tensors[0];
    heap_open(&w->heap, -1);
    uint8_t header[SHM_PAGE_BYTES];
    memcpy(header, w->heap.base, sizeof header);
    CHECK(client_open(&w->lane, w->heap.base, header, w->heap.size));
    w->lane.calls = calloc(at->lane.slot_count, sizeof *w->lane.calls);
    w->lane.free = calloc(client_words(&w->lane), sizeof *w->lane.free);
    CHECK(w->lane.calls && w->lane.free);
    client_start(&w->lane);
    uint64_t position = one_in(2) ? 0 : UINT64_MAX - below(40);
    heap_age(&w->heap, position);
    w->lane.head = w->lane.tail = w->published = position;
}

/* ---- the server ---- */

static uint8_t *completion_at(struct world *w, uint64_t position)
{
    return w->heap.base + w->heap.at.lane.completions_offset +
           (position & (w->heap.at.lane.completion_entries - 1)) * SHM_ENTRY_BYTES;
}

/* Answer a call in flight, rightly but for one word in `wrong` cases of four. */
static void answer(struct world *w, uint32_t wrong)
{
    uint32_t begin = below(w->heap.at.lane.slot_count);
    for (uint32_t i = 0; i < w->heap.at.lane.slot_count; i++) {
        uint32_t slot = (begin + i) % w->heap.at.lane.slot_count;
        const struct client_call *call = &w->lane.calls[slot];
        if ((call->state != CLIENT_IN_FLIGHT && call->state != CLIENT_ABANDONED) || (w->answered[slot] && !wrong))
            continue;
        w->answered[slot] = 1;
        struct shm_completion done = {.request_id = call->request_id, .slot = slot, .batch = below(3),
                                      .status = call->streaming && one_in(2) ? SHM_STATUS_MORE : (uint16_t)below(4),
                                      .extent = below(client_completion_bound(&w->lane) + 1), .message_bytes = below(257)};
        done.turn = ring_turn(w->published, w->heap.at.lane.completion_entries);
        if (below(4) < wrong)
            switch (below(6)) {
            case 0: done.slot = one_in(2) ? w->heap.at.lane.slot_count : below(w->heap.at.lane.slot_count); break;
            case 1: done.request_id = nasty(); break;
            case 2: done.status = (uint16_t)nasty(); break;
            case 3: done.extent = (uint32_t)nasty(); break;
            case 4: done.message_bytes = (uint32_t)nasty(); break;
            case 5: done.turn = nasty(); break;
            }
        memcpy(completion_at(w, w->published++), &done, sizeof done);
        return;
    }
}

static void misbehave(struct world *w, bool hostile)
{
    const struct shm_lane *at = &w->heap.at.lane;
    switch (hostile ? below(8) : 7) {
    case 0: /* one word of one completion */
        *(uint64_t *)(void *)(completion_at(w, below(256)) + 8 * below(8)) = nasty();
        break;
    case 1: /* the header, after it was read */
        *(uint64_t *)(void *)(w->heap.base + 8 * below(SHM_PAGE_BYTES / 8)) = nasty();
        break;
    case 2: /* how much text there is */
        if (at->progress_offset)
            *(uint32_t *)(void *)(w->heap.base + at->progress_offset + (uint64_t)below(at->slot_count) * sizeof(struct shm_progress)) =
                one_in(2) ? below(201) : (uint32_t)nasty();
        break;
    case 3: /* what the client has said */
        if (at->controls_offset)
            *(uint64_t *)(void *)(w->heap.base + at->controls_offset + 16 * below(8 * at->slot_count)) = nasty();
        break;
    default:
        for (uint32_t n = below(2 * at->slot_count); n; n--)
            answer(w, hostile && one_in(8));
    }
}

/* ---- the client ---- */

static void submit(struct world *w)
{
    int64_t slot = client_claim(&w->lane);
    if (slot < 0)
        return;
    CHECK(w->lane.calls[slot].state == CLIENT_CLAIMED);
    if (one_in(8)) {
        client_release(&w->lane, (uint32_t)slot);
        return;
    }
    client_submit(&w->lane, (uint32_t)slot, (struct shm_submission){.op = one_in(4) ? SHM_OP_ECHO : SHM_OP_RUN,
                                                                    .extent = below(w->lane.at.bound + 1)});
    client_bell_due(&w->lane);
}

/* What layout.md says of the completion at the head, read from the bytes as they were. */
static bool right(const struct world *w, const struct shm_completion *done, const struct client_call *calls)
{
    bool stream = w->heap.at.lane.protocol == SHM_PROTOCOL_STREAM;
    if (done->slot >= w->heap.at.lane.slot_count)
        return false;
    const struct client_call *call = &calls[done->slot];
    bool expected = call->state == CLIENT_IN_FLIGHT || call->state == CLIENT_ABANDONED;
    return expected && done->request_id == call->request_id && done->status <= (stream ? 11 : 3) &&
           (done->status != SHM_STATUS_MORE || call->streaming) && done->message_bytes <= 256 &&
           done->extent <= (stream ? w->heap.at.tensors[1].dims[0] : w->heap.at.bound);
}

static bool take(struct world *w)
{
    uint32_t slot = UINT32_MAX, slots = w->heap.at.lane.slot_count, entries = w->heap.at.lane.completion_entries;
    struct client_call *before = malloc(slots * sizeof *before);
    CHECK(before);
    memcpy(before, w->lane.calls, slots * sizeof *before);
    uint64_t head = w->lane.head;
    struct shm_completion done;
    memcpy(&done, completion_at(w, head), sizeof done);
    int took = client_take(&w->lane, &slot);
    bool there = done.turn == ring_turn(head, entries), empty = done.turn == ring_turn_before(head, entries);
    CHECK(took == (there && right(w, &done, before) ? 1 : !there && empty ? 0 : -1));
    CHECK(w->lane.head == head + (took > 0) && (took >= 0) == !w->lane.fault[0]);
    for (uint32_t i = 0; i < slots; i++) {
        const struct client_call *was = &before[i], *is = &w->lane.calls[i];
        if (took <= 0 || i != done.slot)
            CHECK(!memcmp(was, is, sizeof *is));
        else if (done.status == SHM_STATUS_MORE)
            CHECK(is->mores == was->mores + 1 && is->state == was->state);
        else
            CHECK(is->state == (was->state == CLIENT_ABANDONED ? CLIENT_FREE : CLIENT_DONE));
    }
    if (took > 0)
        w->answered[done.slot] = 0;
    w->taken += took > 0;
    w->faults += took < 0;
    free(before);
    return took > 0;
}

/* What an owner does with news: read the text, release what is done, give up. */
static void use(struct world *w)
{
    for (uint32_t slot = 0; slot < w->heap.at.lane.slot_count; slot++) {
        struct client_call *call = &w->lane.calls[slot];
        bool owned = call->state == CLIENT_IN_FLIGHT || call->state == CLIENT_DONE;
        if (owned && client_news(&w->lane, slot) && w->heap.at.lane.protocol == SHM_PROTOCOL_STREAM) {
            const uint8_t *text = NULL, *reply = client_row(&w->lane, 1, slot);
            uint32_t length = 0, read = call->read;
            if (client_text(&w->lane, slot, &text, &length)) {
                CHECK(text == reply + read && call->read == read + length && call->read <= 200);
                w->texts++;
            } else {
                CHECK(w->lane.fault[0]);
            }
        }
        if (call->state == CLIENT_DONE && one_in(2)) {
            client_release(&w->lane, slot);
        } else if (call->state == CLIENT_IN_FLIGHT && one_in(20)) {
            client_cancel(&w->lane, slot);
            call->state = CLIENT_ABANDONED;
        }
    }
}

static void check_sums(const struct world *w)
{
    uint32_t flying = 0, bits = 0;
    for (uint32_t slot = 0; slot < w->heap.at.lane.slot_count; slot++) {
        enum client_state state = w->lane.calls[slot].state;
        bool bit = w->lane.free[slot / 64] >> slot % 64 & 1;
        CHECK(bit == (state == CLIENT_FREE));
        bits += bit;
        flying += state == CLIENT_IN_FLIGHT || state == CLIENT_ABANDONED;
    }
    CHECK(bits == w->lane.free_count && flying == w->lane.in_flight);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    seed = strtoull(argv[1], NULL, 0);
    uint64_t sessions = strtoull(argv[2], NULL, 0), taken = 0, faults = 0, texts = 0;
    printf("seed %" PRIu64 "\n", seed);
    for (uint64_t i = 0; i < sessions; i++) {
        struct world w = {0};
        bool hostile = one_in(2);
        open_world(&w);
        for (int step = 0; step < 200 && !w.lane.fault[0]; step++) {
            for (uint32_t n = below(w.heap.at.lane.slot_count + 1); n; n--)
                submit(&w);
            misbehave(&w, hostile);
            client_arm(&w.lane, w.lane.head);
            client_disarm(&w.lane);
            while (take(&w))
                ;
            use(&w);
            check_sums(&w);
        }
        /* Text of a right one may be shorter than what `progress` said at random before. */
        CHECK(hostile || !w.lane.fault[0] || w.heap.at.lane.protocol == SHM_PROTOCOL_STREAM);
        taken += w.taken, faults += w.faults, texts += w.texts;
        free(w.lane.calls);
        free(w.lane.free);
        heap_close(&w.heap);
    }
    printf("%" PRIu64 " sessions: %" PRIu64 " completions, %" PRIu64 " faults, %" PRIu64 " texts\n", sessions, taken, faults, texts);
    return 0;
}
