/* The core's ring.h against a golden segment. usage: golden FILE SUBMISSION_HEAD COMPLETION_HEAD COMPLETIONS
 *
 * Prints the submissions that it takes, one a line, then "ok" or the fault. The golden completions it publishes anew
 * in another place, from its own positions: the bytes must be the same.
 */
#include "heap_segment.h"

static void republish(const struct ring_lane *lane, uint64_t size, uint64_t head, uint64_t count)
{
    struct ring_lane copy = *lane;
    uint32_t n = lane->at.lane.completion_entries;
    copy.base = aligned_alloc(SHM_PAGE_BYTES, size);
    CHECK(copy.base);
    memset(copy.base, 0, size);
    copy.tail = head;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *golden = lane->base + lane->at.lane.completions_offset + (head + i) % n * SHM_ENTRY_BYTES;
        struct shm_completion done;
        memcpy(&done, golden, sizeof done);
        CHECK(done.turn == ring_turn(head + i, n));
        done.turn = 12345; /* not for the caller to say */
        ring_publish(&copy, done);
        CHECK(!memcmp(copy.base + (golden - lane->base), golden, SHM_ENTRY_BYTES));
    }
    free(copy.base);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    FILE *file = fopen(argv[1], "rb");
    CHECK(file);
    fseek(file, 0, SEEK_END);
    uint64_t size = (uint64_t)ftell(file);
    rewind(file);
    uint8_t *base = aligned_alloc(SHM_PAGE_BYTES, pages(size));
    CHECK(base && fread(base, 1, size, file) == size);
    fclose(file);
    struct ring_lane lane;
    if (!ring_open(&lane, base, size, -1)) {
        printf("geometry\n");
        free(base);
        return 0;
    }
    lane.in_flight = calloc(lane.at.lane.slot_count, 1);
    CHECK(lane.in_flight);
    lane.head = strtoull(argv[2], NULL, 0);
    int peek;
    while ((peek = ring_peek(&lane)) > 0) {
        struct shm_submission s = ring_copy(&lane);
        if (!ring_check(&lane, &s))
            break;
        printf("%" PRIu64 " %" PRIu64 " %u %u %u %u %" PRIu64 " %" PRIu64 " %u %.9g %u %" PRIu64 "\n", s.turn, s.request_id,
               s.slot, s.op, s.flags, s.extent, s.deadline, s.submitted, s.sampling_steps, (double)s.temperature, s.top_k,
               s.seed);
        lane.in_flight[s.slot] = 1;
        lane.head++;
    }
    printf("%s\n", lane.fault[0] ? lane.fault : peek < 0 ? "turn neither old nor new" : "ok");
    republish(&lane, pages(size), strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
    free(lane.in_flight);
    free(base);
    return 0;
}
