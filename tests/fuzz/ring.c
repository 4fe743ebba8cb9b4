/* A client that writes anything anywhere, against geometry.h, ring.h and stream.h; see guided.h for how to run it.
 *
 * A tape is a session, or a header. After every step of the server: it took exactly what a second reading of layout.md says, it
 * wrote nothing that is the client's, and its completions are right. AddressSanitizer and UBSan watch the rest.
 */
#include <sys/socket.h>

#include "guided.h"

static struct tape *tape;
static uint64_t noise; /* where it does not matter what the bytes are: no tape is as long as a row */

static uint32_t below(uint32_t bound) { return tape_below(tape, bound); }
static bool one_in(uint32_t n) { return below(n) == n - 1; } /* behind the tape's end nothing is odd */
static uint64_t nasty(void) { return tape_nasty(tape); }

/* As nasty, of noise. */
UNTRACED static uint64_t nasty_noise(void)
{
    uint8_t bytes[9];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)random_next(&noise);
    return tape_nasty(&(struct tape){.bytes = bytes, .size = sizeof bytes});
}

/* ---- the client ---- */

UNTRACED static uint8_t *entry_at(struct heap_segment *s, uint64_t position)
{
    return s->base + s->at.lane.submissions_offset + position % s->at.lane.submission_entries * SHM_ENTRY_BYTES;
}

/* A slot that the client may submit, or UINT32_MAX when there is none. */
UNTRACED static uint32_t free_slot(struct heap_segment *s, uint64_t tail)
{
    uint32_t begin = below(s->at.lane.slot_count);
    uint8_t taken[64];
    memcpy(taken, s->lane.in_flight, s->at.lane.slot_count);
    for (uint64_t p = s->lane.head; p != tail; p++) {
        uint32_t slot = ((const struct shm_submission *)(const void *)entry_at(s, p))->slot;
        if (slot < s->at.lane.slot_count)
            taken[slot] = 1;
    }
    for (uint32_t i = 0; i < s->at.lane.slot_count; i++)
        if (!taken[(begin + i) % s->at.lane.slot_count])
            return (begin + i) % s->at.lane.slot_count;
    return UINT32_MAX;
}

/* A submission as it should be, but for one word in `wrong` cases of four. */
static void submit(struct heap_segment *s, uint64_t *tail, uint32_t wrong)
{
    uint32_t slot = free_slot(s, *tail);
    if (slot == UINT32_MAX && !wrong)
        return;
    bool stream = s->at.lane.protocol == SHM_PROTOCOL_STREAM;
    struct shm_submission e = {.turn = *tail / s->at.lane.submission_entries + 1, .request_id = random_next(&noise)};
    e.slot = slot == UINT32_MAX || (wrong && one_in(8)) ? below(s->at.lane.slot_count) : slot;
    e.op = one_in(2) ? SHM_OP_ECHO : SHM_OP_RUN;
    e.flags = e.op == SHM_OP_RUN && stream ? (uint16_t)below(8) : 0;
    e.extent = below(s->at.bound + 1);
    e.deadline = one_in(4) ? nasty() : 0;
    e.submitted = one_in(2) ? nasty() : 0;
    if (*tail > UINT64_MAX - s->at.lane.submission_entries)
        e.turn = 0; /* the lap that ends at 2^64 */
    if (below(4) < wrong) {
        switch (below(5)) {
        case 0: e.slot = one_in(2) ? s->at.lane.slot_count : (uint32_t)nasty(); break;
        case 1: e.op = (uint16_t)nasty(); break;
        case 2: e.flags = (uint16_t)nasty(); break;
        case 3: e.extent = one_in(2) ? s->at.bound + 1 : (uint32_t)nasty(); break;
        case 4: e.turn = nasty(); break;
        }
    }
    memcpy(entry_at(s, *tail), &e, sizeof e);
    ++*tail;
}

/* In a `hostile` session anything, else mostly what is right: those last, and go round their rings. */
static void misbehave(struct heap_segment *s, uint64_t *tail, bool hostile)
{
    switch (hostile || one_in(40) ? below(12) : 11) {
    case 0: /* one word of one entry */
        *(uint64_t *)(void *)(entry_at(s, below(64)) + 8 * below(8)) = nasty();
        break;
    case 1: /* the whole ring */
        for (uint64_t i = 0; i < s->at.lane.submission_entries * SHM_ENTRY_BYTES / 8; i++)
            ((uint64_t *)(void *)(s->base + s->at.lane.submissions_offset))[i] = nasty_noise();
        break;
    case 2: /* the header, after it was read */
        *(uint64_t *)(void *)(s->base + 8 * below(SHM_PAGE_BYTES / 8)) = nasty();
        break;
    case 3: /* the completion ring, which is the server's */
        *(uint64_t *)(void *)(s->base + s->at.lane.completions_offset + 8 * below(8 * s->at.lane.completion_entries)) = nasty();
        break;
    case 4:
        if (s->at.lane.controls_offset)
            *(uint64_t *)(void *)(s->base + s->at.lane.controls_offset + 16 * below(8 * s->at.lane.slot_count)) = nasty();
        break;
    case 5: {
        const struct shm_tensor *input = &s->at.tensors[below(s->at.lane.input_count)];
        s->base[input->offset + below(s->at.lane.slot_count * input->row_bytes)] ^= 0xff;
        break;
    }
    default:
        for (uint32_t n = below(2 * s->at.lane.slot_count + 1); n; n--)
            submit(s, tail, hostile && one_in(8));
    }
}

/* ---- what the server should have done, from the bytes as they were ---- */

struct expected { uint32_t count, op, consumed; bool fault; };

static bool right(const struct heap_segment *s, const uint8_t *in_flight, const struct shm_submission *e)
{
    if (e->slot >= s->at.lane.slot_count || in_flight[e->slot])
        return false;
    bool stream = s->at.lane.protocol == SHM_PROTOCOL_STREAM;
    return e->extent <= s->at.bound && ((e->op == SHM_OP_ECHO && e->flags == 0) ||
                                        (e->op == SHM_OP_RUN && e->flags <= (stream ? 7 : 0)));
}

UNTRACED static struct expected expect(const struct heap_segment *s, const uint8_t *before, const uint8_t *were_in_flight,
                              uint64_t head, uint32_t limit)
{
    struct expected x = {0};
    uint32_t n = s->at.lane.submission_entries;
    uint8_t in_flight[64];
    memcpy(in_flight, were_in_flight, s->at.lane.slot_count);
    for (;; x.consumed++) {
        uint64_t position = head + x.consumed;
        struct shm_submission e;
        memcpy(&e, before + s->at.lane.submissions_offset + position % n * SHM_ENTRY_BYTES, sizeof e);
        bool fresh = e.turn == (position + n) / n, old = e.turn == position / n;
        if (!fresh && !old)
            x.fault = true;
        if (!fresh || x.consumed == limit || (x.count && e.op != x.op))
            break;
        if (!right(s, in_flight, &e)) {
            x.fault = true;
            break;
        }
        if ((e.deadline && e.deadline <= s->lane.taken_ns) || s->lane.draining)
            continue; /* answered, and its slot is free again */
        in_flight[e.slot] = 1;
        x.op = e.op;
        x.count++;
    }
    if (x.fault)
        x.count = x.op = 0;
    return x;
}

/* The server wrote nothing but completions, messages, outputs, progress, server_state and a 0 to client_parked. */
UNTRACED static void check_untouched(const struct heap_segment *s, const uint8_t *before)
{
    for (uint32_t at = 0; at < SHM_PAGE_BYTES; at += 4)
        if (at != SHM_HEADER_CLIENT_PARKED && at != SHM_HEADER_SERVER_STATE)
            CHECK(!memcmp(s->base + at, before + at, 4));
    CHECK(!memcmp(s->base + s->at.lane.submissions_offset, before + s->at.lane.submissions_offset,
                  s->at.lane.completions_offset - s->at.lane.submissions_offset));
    for (uint32_t i = 0; i < s->at.lane.input_count; i++)
        CHECK(!memcmp(s->base + s->at.tensors[i].offset, before + s->at.tensors[i].offset,
                      (size_t)s->at.lane.slot_count * s->at.tensors[i].row_bytes));
    if (s->at.lane.controls_offset)
        CHECK(!memcmp(s->base + s->at.lane.controls_offset, before + s->at.lane.controls_offset,
                      s->at.lane.progress_offset - s->at.lane.controls_offset));
}

UNTRACED static void check_completions(const struct heap_segment *s, uint64_t from)
{
    for (; from != s->lane.tail; from++) {
        uint32_t n = s->at.lane.completion_entries;
        if (s->lane.tail - from > n)
            continue; /* overrun: a prompt whose client acknowledges what it never took */
        struct shm_completion c;
        memcpy(&c, s->base + s->at.lane.completions_offset + from % n * SHM_ENTRY_BYTES, sizeof c);
        CHECK(c.turn == (from + n) / n);
        CHECK(c.slot < s->at.lane.slot_count);
        CHECK(c.message_bytes <= SHM_MESSAGE_BYTES && c.status <= SHM_STATUS_BROKEN);
        CHECK(c.extent <= (s->lane.streams ? s->at.tensors[1].dims[0] : s->at.bound));
    }
}

/* ---- the server ---- */

UNTRACED static void make_noise(uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at < size; at++)
        bytes[at] = (uint8_t)random_next(&noise);
}

/* Rows in and out, in memory of their own to the byte: ASan sees one too many. */
static void call(struct heap_segment *s)
{
    struct ring_lane *lane = &s->lane;
    uint32_t finite = 0, bucket = one_in(8) ? below(lane->extent + 1) : lane->extent + below(3);
    for (uint32_t i = 0; i < geometry_tensors(&s->at); i++) {
        bool input = i < s->at.lane.input_count;
        uint32_t row_bytes = s->at.tensors[i].symbolic ? bucket * s->at.part_bytes[i] : s->at.part_bytes[i];
        size_t size = (size_t)lane->count * row_bytes;
        uint8_t *rows = malloc(size ? size : 1);
        CHECK(rows);
        make_noise(rows, size); /* NaN and infinity too */
        if (input)
            ring_gather(lane, i, rows, row_bytes);
        else
            ring_scatter(lane, i - s->at.lane.input_count, rows, row_bytes, ring_contiguous(lane) && one_in(2));
        free(rows);
        if (!input && s->at.tensors[i].datatype == SHM_DATATYPE_FP32 && one_in(2))
            finite |= 1u << (i - s->at.lane.input_count);
    }
    ring_complete_calls(lane, 1 + below(99), finite);
}

static void complete(struct heap_segment *s)
{
    struct ring_lane *lane = &s->lane;
    char message[SHM_MESSAGE_BYTES];
    memset(message, 'm', sizeof message);
    if (lane->op == SHM_OP_RUN && lane->streams) {
        ring_begin_prompts(lane);
    } else if (lane->op == SHM_OP_RUN && !one_in(4)) {
        call(s);
    } else if (one_in(4)) {
        ring_complete_error(lane, message, below(SHM_MESSAGE_BYTES + 1));
    } else {
        ring_complete_echo(lane);
    }
}

static void prompts(struct heap_segment *s)
{
    char text[64];
    memset(text, 't', sizeof text);
    for (uint32_t slot = 0; s->lane.streams && slot < s->at.lane.slot_count; slot++) {
        if (!ring_prompted(&s->lane, slot))
            continue;
        uint32_t room = ring_room(&s->lane, slot);
        CHECK(room <= s->at.tensors[1].dims[0]);
        if (room)
            ring_append(&s->lane, slot, text, 1 + below(room < 64 ? room : 64));
        CHECK(ring_prompted(&s->lane, slot)); /* a `more` does not give the slot back */
        if (ring_cancelled(&s->lane, slot) || one_in(4)) {
            ring_finish_prompt(&s->lane, slot, one_in(2) ? SHM_STATUS_OK : SHM_STATUS_BROKEN, 0, text, below(65),
                               nasty());
            CHECK(!ring_prompted(&s->lane, slot));
        }
    }
}

/* How many descriptors it has looked at. */
static uint64_t serve(struct heap_segment *s, uint8_t *before)
{
    static const uint32_t limits[] = {0, 1, 2, 3, 8, UINT32_MAX};
    uint8_t in_flight[64];
    uint32_t limit = limits[below(6)];
    uint64_t head = s->lane.head, tail = s->lane.tail;
    memcpy(before, s->base, s->size);
    memcpy(in_flight, s->lane.in_flight, s->at.lane.slot_count);
    uint32_t count = ring_drain(&s->lane, limit);
    struct expected x = expect(s, before, in_flight, head, limit);
    CHECK(count == s->lane.count && count == x.count && s->lane.op == x.op);
    CHECK(!!s->lane.fault[0] == x.fault);
    CHECK(s->lane.head - head == x.consumed);
    check_untouched(s, before);
    if (count)
        complete(s);
    if (!x.fault)
        prompts(s);
    check_untouched(s, before);
    check_completions(s, tail);
    return x.consumed + x.fault;
}

/* A lane as it may be: texts, or one to three tensors in and out, some of one symbolic dimension. */
static void plan_anything(struct geometry *at, uint32_t slots)
{
    bool stream = one_in(2);
    at->lane = (struct shm_lane){.protocol = stream ? SHM_PROTOCOL_STREAM : SHM_PROTOCOL_CALL, .slot_count = slots};
    at->lane.input_count = stream ? 1 : 1 + below(3);
    at->lane.output_count = stream ? 1 : 1 + below(3);
    uint32_t bound = 1 + below(64);
    for (uint32_t i = 0; i < geometry_tensors(at); i++) {
        bool symbolic = one_in(2);
        at->tensors[i] = stream ? heap_text(bound + i * below(100))
                                : heap_tensor((uint16_t)(1 + below(SHM_DATATYPE_FP64)), symbolic ? bound : 1 + below(9),
                                              1 + below(5), symbolic);
    }
}

/* Take the bells away. */
static void hear(int client)
{
    uint8_t bells[256];
    while (recv(client, bells, sizeof bells, MSG_DONTWAIT) > 0) {}
}

/* How many descriptors the server has looked at. */
static uint64_t session(int doorbell, int client)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 8, 64};
    struct heap_segment s = {0};
    plan_anything(&s.at, counts[below(6)]);
    heap_open(&s, doorbell);
    uint32_t slots = s.at.lane.slot_count;
    uint64_t begin = one_in(2) ? 0 : one_in(2) ? UINT64_MAX - below(4 * slots + 4) : tape_word(tape, 8);
    uint64_t tail = begin, seen = 0;
    bool hostile = one_in(2);
    heap_age(&s, begin);
    uint8_t *before = malloc(s.size);
    CHECK(before);
    while (!s.lane.fault[0] && !tape_over(tape)) {
        misbehave(&s, &tail, hostile);
        if (one_in(3))
            atomic_store(ring_flag(&s.lane, SHM_HEADER_CLIENT_PARKED), hostile ? (uint32_t)nasty() : 1);
        if (one_in(3))
            s.lane.draining = one_in(2);
        if (one_in(20))
            ring_announce_draining(&s.lane);
        seen += serve(&s, before);
        if (tail - s.lane.head > s.at.lane.submission_entries)
            tail = s.lane.head; /* it wrote more than there is room for */
        if (one_in(4))
            hear(client);
    }
    if (s.lane.fault[0]) { /* whatever comes now is not looked at */
        submit(&s, &tail, 0);
        uint64_t head = s.lane.head;
        CHECK(ring_drain(&s.lane, 8) == 0 && s.lane.head == head);
        CHECK(strlen(s.lane.fault) < sizeof s.lane.fault - 1 && !strncmp(s.lane.fault, "submission ", 11));
    }
    free(before);
    heap_close(&s);
    return seen;
}

/* A header of nasty numbers: refused, or every byte that it names is there. */
static void open_anything(void)
{
    struct heap_segment s = {0};
    plan_anything(&s.at, 1 + below(8));
    s.size = heap_plan(&s.at);
    uint32_t tensors = geometry_tensors(&s.at);
    for (uint32_t n = below(3); n; n--) {
        uint64_t offset = one_in(2) ? nasty() : nasty() / SHM_PAGE_BYTES * SHM_PAGE_BYTES;
        struct shm_tensor *tensor = &s.at.tensors[below(tensors)];
        switch (below(8)) {
        case 0: case 1: ((uint32_t *)&s.at.lane)[below(6)] = (uint32_t)nasty(); break;
        case 2: ((uint64_t *)&s.at.lane)[3 + below(5)] = offset; break;
        case 3: tensor->offset = offset; break;
        case 4: tensor->row_bytes = (uint32_t)nasty(); break;
        case 5: tensor->datatype = (uint16_t)nasty(); break;
        case 6: tensor->rank = (uint16_t)nasty(), tensor->symbolic = (uint16_t)nasty(); break;
        case 7: tensor->dims[below(8)] = (uint32_t)nasty(); break;
        }
    }
    s.base = aligned_alloc(SHM_PAGE_BYTES, s.size);
    CHECK(s.base);
    memset(s.base, 0, s.size);
    heap_write_header(s.base, &s.at);
    if (ring_open(&s.lane, s.base, s.size, -1)) {
        const struct shm_lane *lane = &s.lane.at.lane;
        uint32_t last = lane->slot_count - 1;
        for (uint32_t i = 0; i < geometry_tensors(&s.lane.at); i++) {
            uint32_t bound = s.lane.at.tensors[i].symbolic ? s.lane.at.tensors[i].dims[0] : 0;
            ring_row(&s.lane, i, last)[s.lane.at.tensors[i].row_bytes - 1] = 1;
            CHECK(geometry_valid_bytes(&s.lane.at, i, bound) <= s.lane.at.tensors[i].row_bytes);
        }
        ring_message(&s.lane, last)[SHM_MESSAGE_BYTES - 1] = 1;
        ring_entry(&s.lane, lane->submissions_offset, lane->submission_entries, lane->submission_entries - 1)[63] = 1;
        ring_entry(&s.lane, lane->completions_offset, lane->completion_entries, UINT64_MAX)[63] = 1;
        if (lane->protocol == SHM_PROTOCOL_STREAM) {
            ring_control(&s.lane, last)->cancel = 1;
            atomic_store(ring_progress(&s.lane, last), 1);
            CHECK(s.lane.at.bound <= s.lane.at.tensors[1].dims[0]);
        }
    }
    free(s.base);
}

static uint64_t play(struct tape *now)
{
    static int pair[2] = {-1, -1};
    if (pair[0] < 0)
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    tape = now;
    if (one_in(6)) {
        open_anything();
        return 1;
    }
    noise = tape_word(tape, 2);
    hear(pair[1]);
    return session(one_in(2) ? pair[0] : -1, pair[1]);
}
