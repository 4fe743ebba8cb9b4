/* A fuzzer that keeps what went where nothing had been before, and goes on from there (AFL's and libFuzzer's way, with what
 * gcc has: -fsanitize-coverage=trace-pc). A program defines `play`, and its main is this one:
 *
 *     program SEED COUNT CORPUS [KEEP]
 *
 * plays every file in the folder CORPUS, and then mutations of them until COUNT things were tried, as play counts them. The same
 * seed and corpus are the same run. New tapes that go somewhere new are written to the folder KEEP, and one whose play
 * ends in abort() or hangs, to ./crash-SEED; where it lies in a corpus of its own, a COUNT of 0 plays it again.
 */
#ifndef GUIDED_H
#define GUIDED_H

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap_segment.h"
#include "tape.h"

enum { TAPE_BYTES = 1024, TAPES = 1 << 14, EDGES = 1 << 14, HANG_SECONDS = 600 };

/* Do what the tape says; how many things that tried. */
static uint64_t play(struct tape *tape);

/* Of a function that is the fuzzer's and not what is fuzzed: where it goes is no news, and to note it takes time. */
#define UNTRACED __attribute__((noinline, no_sanitize_coverage))

struct kept { uint8_t *bytes; size_t size; };

static struct kept tapes[TAPES];
static size_t tape_count;
static uint8_t *playing;           /* what is being played, for the hand of `crashed` */
static size_t playing_size;
static char crash_name[64];
static uint64_t guide_seed;

/* ---- coverage: which edges were taken, and roughly how often ---- */

static uint8_t taken[EDGES];       /* by this tape, up to 255 times */
static uint8_t known[EDGES];       /* by any, a bit for each power of two of times */
static bool listening;             /* a tape is being played */

int main(int argc, char **argv);
void __sanitizer_cov_trace_pc(void);

__attribute__((no_sanitize("address", "undefined"), no_sanitize_coverage))
void __sanitizer_cov_trace_pc(void)
{
    static uintptr_t before;
    uintptr_t here = (uintptr_t)__builtin_return_address(0) - (uintptr_t)main; /* the same wherever we are loaded */
    uint8_t *edge = &taken[(here ^ before * 31) % EDGES];
    *edge += listening && *edge != UINT8_MAX;
    before = here;
}

struct news { uint32_t edges, times; };

/* What `taken` has that was not known; known from now on. */
static struct news learn(void)
{
    struct news news = {0, 0};
    for (size_t i = 0; i < EDGES; i += 8) {
        uint64_t eight;
        memcpy(&eight, &taken[i], 8);
        for (size_t k = i; eight && k < i + 8; k++) {
            uint8_t times = taken[k] ? (uint8_t)(1u << (31 - __builtin_clz(taken[k]))) : 0;
            news.edges += times && !known[k];
            news.times += (times & ~known[k]) != 0;
            known[k] |= times;
        }
    }
    return news;
}

/* ---- playing ---- */

static void crashed(int number)
{
    int file = open(crash_name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    ssize_t written = write(file, playing, playing_size);
    const char *said = written < 0 ? "\nthe tape could not be written\n" : "\nthe tape is in ";
    written = write(2, said, strlen(said));
    written = write(2, crash_name, strlen(crash_name));
    written = write(2, "\n", 1);
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "abort_on_error=1"; }
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

static uint64_t play_bytes(uint8_t *bytes, size_t size)
{
    playing = bytes, playing_size = size;
    memset(taken, 0, sizeof taken);
    alarm(HANG_SECONDS);
    listening = true;
    uint64_t tried = play(&(struct tape){.bytes = bytes, .size = size});
    listening = false;
    return tried;
}

static void keep(const uint8_t *bytes, size_t size)
{
    if (tape_count == TAPES)
        return;
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy);
    memcpy(copy, bytes, size);
    tapes[tape_count++] = (struct kept){copy, size};
}

static void write_tape(const char *folder, const uint8_t *bytes, size_t size)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a names it */
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    char name[4096];
    snprintf(name, sizeof name, "%s/%016" PRIx64, folder, hash);
    FILE *file = fopen(name, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size);
    fclose(file);
}

/* ---- mutations ---- */

static uint32_t any(uint32_t bound) { return random_below(&guide_seed, bound); }

static size_t mutate(uint8_t *bytes, size_t size)
{
    const struct kept *other = &tapes[any((uint32_t)tape_count)];
    for (uint32_t n = 1 + any(4); n; n--) {
        size_t at = size ? any((uint32_t)size) : 0, length = 1 + any(16), room = TAPE_BYTES - size;
        switch (size ? any(6) : 4) {
        case 0: bytes[at] ^= (uint8_t)(1u << any(8)); break;
        case 1: bytes[at] = (uint8_t)any(256); break;
        case 2: /* leave some out */
            length = length < size - at ? length : size - at;
            memmove(bytes + at, bytes + at + length, size - at - length);
            size -= length;
            break;
        case 3: /* say some twice */
            length = length < size - at ? length : size - at;
            length = length < room ? length : room;
            memmove(bytes + at + length, bytes + at, size - at);
            size += length;
            break;
        case 4: /* go on */
            for (size_t more = 1 + any(256); more && size < TAPE_BYTES; more--)
                bytes[size++] = (uint8_t)any(256);
            break;
        case 5: /* then do as another did */
            for (size_t from = at; from < other->size && at < TAPE_BYTES; from++, at++)
                bytes[at] = other->bytes[from];
            size = at > size ? at : size;
            break;
        }
    }
    return size;
}

static size_t next_tape(uint8_t *bytes)
{
    if (any(8)) {
        /* half of them from the newest, where less has been tried */
        size_t newest = tape_count < 64 ? tape_count : 64;
        size_t which = any(2) ? tape_count - 1 - any((uint32_t)newest) : any((uint32_t)tape_count);
        memcpy(bytes, tapes[which].bytes, tapes[which].size);
        return mutate(bytes, tapes[which].size);
    }
    size_t size = 16 + any(TAPE_BYTES - 16);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)any(256);
    return size;
}

/* ---- the program ---- */

static int by_size(const void *one, const void *two)
{
    const struct kept *a = one, *b = two;
    size_t shared = a->size < b->size ? a->size : b->size;
    return a->size != b->size ? (a->size < b->size ? -1 : 1) : memcmp(a->bytes, b->bytes, shared);
}

static void read_corpus(const char *folder)
{
    DIR *dir = opendir(folder);
    CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char name[4096];
        uint8_t bytes[TAPE_BYTES];
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        FILE *file = entry->d_type == DT_DIR ? NULL : fopen(name, "rb");
        if (!file)
            continue;
        keep(bytes, fread(bytes, 1, sizeof bytes, file));
        fclose(file);
    }
    closedir(dir);
    qsort(tapes, tape_count, sizeof *tapes, by_size);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4 || argc == 5);
    guide_seed = strtoull(argv[1], NULL, 0);
    uint64_t wanted = strtoull(argv[2], NULL, 0), tried = 0, played = 0, edges = 0, said = 0;
    snprintf(crash_name, sizeof crash_name, "crash-%s", argv[1]);
    signal(SIGABRT, crashed);
    signal(SIGALRM, crashed);
    printf("seed %s\n", argv[1]);
    read_corpus(argv[3]);
    for (size_t i = 0; i < tape_count; i++) {
        tried += play_bytes(tapes[i].bytes, tapes[i].size);
        edges += learn().edges;
    }
    printf("%zu tapes of the corpus: %" PRIu64 " edges\n", tape_count, edges);
    keep((const uint8_t *)"", 0);
    static uint8_t bytes[TAPE_BYTES];
    for (; tried < wanted; played++) {
        size_t size = next_tape(bytes);
        tried += play_bytes(bytes, size);
        struct news news = learn();
        edges += news.edges;
        if (news.times)
            keep(bytes, size);
        if (news.edges && argc == 5)
            write_tape(argv[4], bytes, size);
        if (tried / 500000 != said) {
            said = tried / 500000;
            printf("%" PRIu64 " of %" PRIu64 ", %" PRIu64 " tapes, %zu kept, %" PRIu64 " edges\n", tried, wanted, played,
                   tape_count, edges);
            fflush(stdout);
        }
    }
    printf("done: %" PRIu64 " tried, %" PRIu64 " tapes, %" PRIu64 " edges\n", tried, played, edges);
    for (size_t i = 0; i < tape_count; i++)
        free(tapes[i].bytes);
    return 0;
}

#endif
