/* A segment of one lane on the heap, for the programs beside this file: the sanitizers see every byte beyond it. */
#ifndef HEAP_SEGMENT_H
#define HEAP_SEGMENT_H

#include <inttypes.h>
#include <stdlib.h>

#include "stream.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct heap_segment {
    uint8_t *base;
    uint64_t size;
    struct geometry at;
    struct ring_lane lane;
};

static inline uint64_t pages(uint64_t bytes)
{
    return (bytes + SHM_PAGE_BYTES - 1) / SHM_PAGE_BYTES * SHM_PAGE_BYTES;
}

static inline uint32_t power_of_two(uint32_t least)
{
    uint32_t n = 1;
    while (n < least)
        n *= 2;
    return n;
}

static inline struct shm_tensor heap_tensor(uint16_t datatype, uint32_t first, uint32_t second, bool symbolic)
{
    uint64_t bytes = (uint64_t)shm_datatype_bytes[datatype] * first * second;
    return (struct shm_tensor){
        .row_bytes = (uint32_t)((bytes + SHM_ROW_ALIGNMENT - 1) / SHM_ROW_ALIGNMENT * SHM_ROW_ALIGNMENT),
        .datatype = datatype, .rank = 2, .symbolic = symbolic, .dims = {first, second}};
}

static inline struct shm_tensor heap_text(uint32_t bytes)
{
    struct shm_tensor text = heap_tensor(SHM_DATATYPE_UINT8, bytes, 1, true);
    text.rank = 1, text.dims[1] = 0;
    return text;
}

/* The areas one after the other, without a page between them: what leaves one is in the next, or in a redzone. `at` has the
 * tensors, their counts, the protocol and the slots. */
static inline uint64_t heap_plan(struct geometry *at)
{
    struct shm_lane *lane = &at->lane;
    bool stream = lane->protocol == SHM_PROTOCOL_STREAM;
    uint32_t entries = power_of_two(lane->slot_count);
    uint64_t end = SHM_PAGE_BYTES;
    lane->submission_entries = entries, lane->completion_entries = stream ? 2 * entries : entries;
    lane->submissions_offset = end, end += pages((uint64_t)lane->submission_entries * SHM_ENTRY_BYTES);
    lane->completions_offset = end, end += pages((uint64_t)lane->completion_entries * SHM_ENTRY_BYTES);
    lane->messages_offset = end, end += pages((uint64_t)lane->slot_count * SHM_MESSAGE_BYTES);
    for (uint32_t i = 0; i < geometry_tensors(at); i++)
        at->tensors[i].offset = end, end += pages((uint64_t)lane->slot_count * at->tensors[i].row_bytes);
    if (stream) {
        lane->controls_offset = end, end += pages((uint64_t)lane->slot_count * sizeof(struct shm_control));
        lane->progress_offset = end, end += pages((uint64_t)lane->slot_count * sizeof(struct shm_progress));
    }
    return end;
}

static inline void heap_write_header(uint8_t *base, const struct geometry *at)
{
    memcpy(base + SHM_HEADER_LANE, &at->lane, sizeof at->lane);
    memcpy(base + SHM_HEADER_TENSORS, at->tensors, sizeof at->tensors);
}

/* Both rings as they are when `position` entries have been through them. */
static inline void heap_age(struct heap_segment *s, uint64_t position)
{
    uint64_t rings[2] = {s->at.lane.submissions_offset, s->at.lane.completions_offset};
    uint32_t entries[2] = {s->at.lane.submission_entries, s->at.lane.completion_entries};
    s->lane.head = s->lane.tail = position;
    for (int r = 0; r < 2; r++)
        for (uint32_t i = 0; i < entries[r]; i++) {
            uint64_t before = (position + i) / entries[r];
            memcpy(s->base + rings[r] + ((position + i) & (entries[r] - 1)) * SHM_ENTRY_BYTES, &before, 8);
        }
}

/* Opens a segment of `s->at`, whose tensors, counts, protocol and slots are set. */
static inline void heap_open(struct heap_segment *s, int doorbell)
{
    uint32_t slots = s->at.lane.slot_count;
    s->size = heap_plan(&s->at);
    s->base = aligned_alloc(SHM_PAGE_BYTES, s->size);
    CHECK(s->base);
    memset(s->base, 0, s->size);
    heap_write_header(s->base, &s->at);
    CHECK(ring_open(&s->lane, s->base, s->size, doorbell));
    s->at = s->lane.at; /* with what was found out about it */
    s->lane.in_flight = calloc(slots, 1);
    s->lane.batch = calloc(slots, sizeof *s->lane.batch);
    s->lane.streams = s->at.lane.protocol == SHM_PROTOCOL_STREAM ? calloc(slots, sizeof *s->lane.streams) : NULL;
}

static inline void heap_close(struct heap_segment *s)
{
    free(s->lane.in_flight);
    free(s->lane.batch);
    free(s->lane.streams);
    free(s->base);
}

/* splitmix64: the same numbers everywhere for the same seed. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)(random_next(state) % bound);
}

#endif
