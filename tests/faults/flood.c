/* A client that is merely busy: it follows layout.md and always has as much in flight as its slots allow.
 *
 * usage: flood SOCKET PROTOCOL OP SLOTS MODE BEGUN        cc -O2 -I shm_server/native
 *
 * PROTOCOL and OP are numbers of layout.md. It says "flooding" once its ring is full, or once it has connected BEGUN times.
 * It runs until the server hangs up or it is killed, and dies with its parent. MODE:
 *   abide      stops when the server drains
 *   ignore     does not look at server_state: goes on until the socket is closed
 *   expired    every deadline has passed
 *   cancel     every prompt is cancelled before it is submitted
 *   empty      prompts without text
 *   invalid    prompts that are no UTF-8
 *   deaf       never reads its completions: submits each slot once, says that it sleeps, and says nothing more
 *   breaking   submits a slot again without waiting, and one that there is not, is thrown out, and connects again, and again
 *   connecting says hello and hangs up, again and again
 *   half       connects, says half a hello, again and again; keeps the last 64 connections
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <signal.h>
#include <unistd.h>

#include "layout.h"

#define NEED(condition)                                                                                       \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            fprintf(stderr, "flood: line %d: %s: %s\n", __LINE__, #condition, strerror(errno));               \
            exit(2);                                                                                          \
        }                                                                                                     \
    } while (0)

static const char *path, *mode;
static unsigned protocol, op, slots, begun;

struct session {
    int socket;
    uint8_t *base;
    size_t size;
    struct shm_lane lane;
    struct shm_tensor input;
    uint64_t tail, head; /* next submission to publish, next completion to take */
};

static bool is(const char *name) { return strcmp(mode, name) == 0; }

/* A connection, or -1 once nobody listens. */
static int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    NEED(strlen(path) < sizeof address.sun_path);
    strcpy(address.sun_path, path);
    int made = socket(AF_UNIX, SOCK_STREAM, 0);
    NEED(made >= 0);
    if (connect(made, (void *)&address, sizeof address) == 0)
        return made;
    NEED(errno == ENOENT || errno == ECONNREFUSED || errno == ECONNRESET);
    close(made);
    return -1;
}

static bool say_hello(int socket, size_t bytes)
{
    struct {
        struct shm_frame frame;
        struct shm_hello hello;
    } message = {
        .frame = {.magic = SHM_FRAME_MAGIC, .kind = SHM_FRAME_KIND_HELLO, .body_bytes = sizeof message - sizeof message.frame},
        .hello = {.layout_major = SHM_LAYOUT_MAJOR, .protocol = protocol, .slot_count = slots},
    };
    return send(socket, &message, bytes ? bytes : sizeof message, MSG_NOSIGNAL) > 0;
}

/* False when the server refused, or hung up. */
static bool open_session(struct session *s)
{
    *s = (struct session){.socket = dial()};
    if (s->socket < 0)
        return false;
    static uint8_t bytes[SHM_MAX_FRAME_BODY + sizeof(struct shm_frame)];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *passed = NULL;
    if (say_hello(s->socket, 0) && recvmsg(s->socket, &m, MSG_CMSG_CLOEXEC) > 0)
        passed = CMSG_FIRSTHDR(&m);
    if (!passed) {
        close(s->socket);
        return false;
    }
    int fd;
    struct shm_welcome welcome;
    memcpy(&fd, CMSG_DATA(passed), sizeof fd);
    memcpy(&welcome, bytes + sizeof(struct shm_frame), sizeof welcome);
    s->size = welcome.segment_bytes;
    s->base = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEED(s->base != MAP_FAILED);
    close(fd);
    memcpy(&s->lane, s->base + SHM_HEADER_LANE, sizeof s->lane);
    memcpy(&s->input, s->base + SHM_HEADER_TENSORS, sizeof s->input);
    return true;
}

static void close_session(struct session *s)
{
    munmap(s->base, s->size);
    close(s->socket);
}

static _Atomic uint32_t *flag(struct session *s, size_t at) { return (_Atomic uint32_t *)(void *)(s->base + at); }

static void submit(struct session *s, uint32_t slot)
{
    uint32_t entries = s->lane.submission_entries;
    uint8_t *entry = s->base + s->lane.submissions_offset + (s->tail & (entries - 1)) * SHM_ENTRY_BYTES;
    struct shm_submission x = {.request_id = s->tail, .slot = slot, .op = op, .sampling_steps = 16};
    if (is("expired"))
        x.deadline = 1;
    if (protocol == SHM_PROTOCOL_STREAM) {
        const char *text = is("invalid") ? "\xff\xfe" : "KING HENRY, SIRE";
        x.extent = is("empty") ? 0 : (uint32_t)strlen(text);
        memcpy(s->base + s->input.offset + (uint64_t)slot * s->input.row_bytes, text, x.extent);
        struct shm_control *control = (void *)(s->base + s->lane.controls_offset + slot * sizeof *control);
        atomic_store((_Atomic uint32_t *)&control->acknowledged, 0);
        atomic_store((_Atomic uint32_t *)&control->cancel, is("cancel"));
    }
    memcpy(entry + 8, (uint8_t *)&x + 8, SHM_ENTRY_BYTES - 8);
    atomic_store_explicit((_Atomic uint64_t *)(void *)entry, (s->tail + entries) / entries, memory_order_release);
    s->tail++;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(flag(s, SHM_HEADER_SERVER_PARKED)) && atomic_exchange(flag(s, SHM_HEADER_SERVER_PARKED), 0)) {
        const uint8_t bell = SHM_BELL;
        (void)send(s->socket, &bell, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* The next completion, if it is there. */
static bool take(struct session *s, struct shm_completion *done)
{
    uint32_t entries = s->lane.completion_entries;
    uint8_t *entry = s->base + s->lane.completions_offset + (s->head & (entries - 1)) * SHM_ENTRY_BYTES;
    uint64_t turn = atomic_load_explicit((_Atomic uint64_t *)(void *)entry, memory_order_acquire);
    if (turn != (s->head + entries) / entries)
        return false;
    memcpy(done, entry, sizeof *done);
    s->head++;
    if (done->status == SHM_STATUS_MORE) {
        struct shm_control *control = (void *)(s->base + s->lane.controls_offset + done->slot * sizeof *control);
        atomic_fetch_add((_Atomic uint32_t *)&control->acknowledged, 1);
    }
    return true;
}

static bool hung_up(struct session *s)
{
    char bytes[256];
    for (;;) {
        ssize_t got = recv(s->socket, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            return false;
        if (got <= 0)
            return true;
    }
}

static void flood(void)
{
    struct session s;
    NEED(open_session(&s));
    for (uint32_t slot = 0; slot < s.lane.slot_count; slot++)
        submit(&s, slot);
    printf("flooding\n");
    fflush(stdout);
    if (is("deaf")) {
        atomic_store(flag(&s, SHM_HEADER_CLIENT_PARKED), 1);
        while (getppid() != 1)
            pause();
    }
    uint64_t done = 0, statuses[16] = {0};
    for (uint32_t look = 0;; look++) {
        struct shm_completion x;
        while (take(&s, &x)) {
            statuses[x.status & 15]++;
            if (x.status == SHM_STATUS_MORE)
                continue;
            done++;
            submit(&s, x.slot);
        }
        if (look % 1024 == 0 && hung_up(&s))
            break;
        if (!is("ignore") && atomic_load(flag(&s, SHM_HEADER_SERVER_STATE)) == SHM_SERVER_STATE_DRAINING)
            break;
    }
    printf("done %llu", (unsigned long long)done);
    for (int i = 0; i < 16; i++)
        if (statuses[i])
            printf(" status %d: %llu", i, (unsigned long long)statuses[i]);
    printf("\n");
}

static void reconnect(void)
{
    static int kept[64];
    for (uint64_t round = 0;; round++) {
        if (is("half")) {
            int made = dial();
            if (made < 0)
                return;
            say_hello(made, 20);
            if (kept[round % 64])
                close(kept[round % 64]);
            kept[round % 64] = made;
        } else {
            struct session s;
            if (!open_session(&s)) {
                int again = dial();
                if (again < 0)
                    return; /* nobody listens any more */
                close(again);
                continue;
            }
            if (is("breaking")) {
                for (uint32_t i = 1; i < s.lane.submission_entries; i++)
                    submit(&s, 0);
                submit(&s, s.lane.slot_count); /* should each have been answered before the next came */
                char bytes[256];
                while (recv(s.socket, bytes, sizeof bytes, 0) > 0)
                    ;
            }
            close_session(&s);
        }
        if (round + 1 == begun) {
            printf("flooding\n");
            fflush(stdout);
        }
    }
}

int main(int count, char **arguments)
{
    NEED(count == 7);
    path = arguments[1];
    protocol = (unsigned)atoi(arguments[2]);
    op = (unsigned)atoi(arguments[3]);
    slots = (unsigned)atoi(arguments[4]);
    mode = arguments[5];
    begun = (unsigned)atoi(arguments[6]);
    NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    if (is("breaking") || is("connecting") || is("half"))
        reconnect();
    else
        flood();
    return 0;
}
