/* The core's client.h against a golden segment. usage: golden_client FILE SUBMISSION_HEAD COMPLETION_HEAD SUBMISSIONS
 *
 * Prints the completions that it takes, one a line, then "ok" or the fault. The golden submissions it publishes anew in another place,
 * from its own positions: the bytes must be the same, but for request ids, which are a client's own.
 */
#include "client.h"
#include "heap_segment.h"

static void open_lane(struct client_lane *lane, uint8_t *base, const uint8_t *header, uint64_t size)
{
    if (!client_open(lane, base, header, size)) {
        printf("geometry\n");
        exit(0);
    }
    lane->calls = calloc(lane->at.lane.slot_count, sizeof *lane->calls);
    lane->free = calloc(client_words(lane), sizeof *lane->free);
    CHECK(lane->calls && lane->free);
    client_start(lane);
}

static void close_lane(struct client_lane *lane)
{
    free(lane->calls);
    free(lane->free);
}

static void republish(const uint8_t *golden, uint64_t size, uint64_t head, uint64_t count)
{
    struct client_lane lane;
    uint8_t *base = aligned_alloc(SHM_PAGE_BYTES, size);
    CHECK(base);
    memset(base, 0, size);
    open_lane(&lane, base, golden, size);
    lane.tail = head;
    uint32_t n = lane.at.lane.submission_entries;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = lane.at.lane.submissions_offset + (head + i) % n * SHM_ENTRY_BYTES;
        struct shm_submission s, written;
        memcpy(&s, golden + at, sizeof s);
        CHECK(s.turn == ring_turn(head + i, n));
        struct shm_submission given = s;
        given.turn = given.request_id = 12345; /* not for the caller to say */
        client_submit(&lane, s.slot, given);
        memcpy(&written, base + at, sizeof written);
        CHECK(written.request_id == head + i);
        written.request_id = s.request_id;
        CHECK(!memcmp(&written, &s, sizeof s));
    }
    close_lane(&lane);
    free(base);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    FILE *file = fopen(argv[1], "rb");
    CHECK(file);
    fseek(file, 0, SEEK_END);
    uint64_t size = (uint64_t)ftell(file);
    rewind(file);
    uint8_t *base = aligned_alloc(SHM_PAGE_BYTES, pages(size)), *header = malloc(SHM_PAGE_BYTES);
    CHECK(base && header && fread(base, 1, size, file) == size);
    fclose(file);
    memcpy(header, base, SHM_PAGE_BYTES);
    struct client_lane lane;
    open_lane(&lane, base, header, size);
    lane.head = strtoull(argv[3], NULL, 0);
    uint32_t slot;
    int took;
    do {
        /* Whatever is answered is in flight: a call that a client made who was here before. */
        struct shm_completion next;
        memcpy(&next, client_entry(&lane, lane.at.lane.completions_offset, lane.at.lane.completion_entries, lane.head), sizeof next);
        if (next.slot < lane.at.lane.slot_count)
            lane.calls[next.slot] = (struct client_call){.state = CLIENT_IN_FLIGHT, .request_id = next.request_id,
                                                         .streaming = lane.at.lane.protocol == SHM_PROTOCOL_STREAM};
        took = client_take(&lane, &slot);
        if (took > 0)
            printf("%" PRIu64 " %" PRIu64 " %u %u %u %u %u %u %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", next.turn, next.request_id,
                   next.slot, next.status, next.flags, next.extent, next.message_bytes, next.batch, next.checksum, next.queue_ns,
                   next.model_ns);
    } while (took > 0);
    printf("%s\n", took ? lane.fault : "ok");
    republish(base, pages(size), strtoull(argv[2], NULL, 0), strtoull(argv[4], NULL, 0));
    close_lane(&lane);
    free(header);
    free(base);
    return 0;
}
