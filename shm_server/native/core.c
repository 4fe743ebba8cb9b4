/* shm_server._core: the rings of ring.h, and the memory that they are in, as Python types.
 *
 * Mapping a segment's pages, guarded: mapping.c.
 * Lane    one lane of one session: drain, complete, gather.
 * Poller  spins and sleeps over many lanes with the GIL released, and hands out one drained lane at a time.
 *
 * One thread, the data thread, calls everything of the latter two but Poller.wake(), which any thread may call. Limited
 * API 3.11.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "guard.h"
#include "mapping.h"
#include "stream.h"

/* ---- Lane ------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    Py_buffer segment;      /* held from construction to close(): the mapping outlives every access */
    struct ring_lane ring;
    bool open, reported;    /* reported: its fault has been handed out once */
    bool bells_due;         /* its doorbell is readable */
    bool paused;            /* nothing is to be handed out for now */
} Lane;

static PyTypeObject *lane_type;

static void lane_release(Lane *self)
{
    if (!self->open)
        return;
    self->open = false;
    PyMem_Free(self->ring.in_flight);
    PyMem_Free(self->ring.batch);
    PyMem_Free(self->ring.streams);
    PyBuffer_Release(&self->segment);
}

static void lane_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    lane_release((Lane *)op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

static int lane_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "index", "doorbell", NULL};
    Lane *self = (Lane *)op;
    PyObject *segment;
    unsigned int index;
    int doorbell;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OIi:Lane", names, &segment, &index, &doorbell))
        return -1;
    if (self->open) {
        PyErr_SetString(PyExc_TypeError, "a Lane is initialised once");
        return -1;
    }
    if (PyObject_GetBuffer(segment, &self->segment, PyBUF_WRITABLE) < 0)
        return -1;
    if (!ring_open(&self->ring, self->segment.buf, (uint64_t)self->segment.len, index, doorbell)) {
        PyBuffer_Release(&self->segment);
        PyErr_Format(PyExc_ValueError, "the segment's header does not describe lane %u", index);
        return -1;
    }
    const _Atomic uint32_t *broken = guard_broken_at(self->segment.buf);
    if (broken)
        self->ring.broken = broken; /* valid as long as the buffer that we hold */
    self->open = true;
    self->ring.in_flight = PyMem_Calloc(self->ring.at.slot_count, 1);
    self->ring.batch = PyMem_Calloc(self->ring.at.slot_count, sizeof *self->ring.batch);
    bool prompts = self->ring.at.kind == SHM_LANE_KIND_PROMPT;
    if (prompts)
        self->ring.streams = PyMem_Calloc(self->ring.at.slot_count, sizeof *self->ring.streams);
    if (!self->ring.in_flight || !self->ring.batch || (prompts && !self->ring.streams)) {
        lane_release(self);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static bool lane_ready(Lane *self)
{
    if (self->open)
        return true;
    PyErr_SetString(PyExc_ValueError, "the lane is closed");
    return false;
}

static PyObject *lane_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    lane_release((Lane *)op);
    Py_RETURN_NONE;
}

static PyObject *lane_drain(PyObject *op, PyObject *limit)
{
    unsigned long most = PyLong_AsUnsignedLong(limit);
    if ((most == (unsigned long)-1 && PyErr_Occurred()) || !lane_ready((Lane *)op))
        return NULL;
    return PyLong_FromUnsignedLong(ring_drain(&((Lane *)op)->ring, most > UINT32_MAX ? UINT32_MAX : (uint32_t)most));
}

static PyObject *lane_announce_draining(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (!lane_ready((Lane *)op))
        return NULL;
    ring_announce_draining(&((Lane *)op)->ring);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_echo(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (!lane_ready((Lane *)op))
        return NULL;
    ring_complete_echo(&((Lane *)op)->ring);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_scores(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    PyObject *scores;
    unsigned int first, batch;
    int by_slot;
    if (!PyArg_ParseTuple(args, "OIpI:complete_scores", &scores, &first, &by_slot, &batch) || !lane_ready(self))
        return NULL;
    Py_buffer view;
    if (PyObject_GetBuffer(scores, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    bool floats = view.format && (!strcmp(view.format, "f") || !strcmp(view.format, "<f")) && view.ndim == 2;
    if (!floats || view.shape[1] < 1 || (uint64_t)view.shape[1] * sizeof(float) > self->ring.at.reply_bytes ||
        view.shape[0] < (Py_ssize_t)first + (Py_ssize_t)self->ring.count ||
        (by_slot && !ring_contiguous(&self->ring))) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "scores must be a C-contiguous float32 array (n, classes), a row for each "
                                          "request of the batch, and a row must fit a reply");
        return NULL;
    }
    ring_complete_scores(&self->ring, view.buf, (uint32_t)view.shape[1], first, by_slot, batch);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_error(PyObject *op, PyObject *message)
{
    Lane *self = (Lane *)op;
    char *text;
    Py_ssize_t length;
    if (!lane_ready(self) || PyBytes_AsStringAndSize(message, &text, &length) < 0)
        return NULL;
    if ((uint64_t)length > self->ring.at.reply_bytes) {
        PyErr_Format(PyExc_ValueError, "message of %zd bytes, the reply holds %u", length, self->ring.at.reply_bytes);
        return NULL;
    }
    ring_complete_error(&self->ring, text, (uint32_t)length);
    Py_RETURN_NONE;
}

/* ---- prompts ---- */

static PyObject *lane_begin_prompts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Lane *self = (Lane *)op;
    if (!lane_ready(self))
        return NULL;
    if (!self->ring.streams) {
        PyErr_SetString(PyExc_ValueError, "this lane has no prompts");
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && i < self->ring.count; i++) {
        const struct shm_submission *s = &self->ring.batch[i];
        /* y#: the text is copied out of the segment before anybody looks at it. N takes the reference, of None too. */
        PyObject *temperature = s->flags & SHM_SUBMISSION_FLAG_WITH_TEMPERATURE
                                    ? PyFloat_FromDouble((double)s->temperature) : Py_NewRef(Py_None);
        PyObject *top_k = s->flags & SHM_SUBMISSION_FLAG_WITH_TOP_K
                              ? PyLong_FromUnsignedLong(s->top_k) : Py_NewRef(Py_None);
        PyObject *seed = s->flags & SHM_SUBMISSION_FLAG_WITH_SEED
                             ? PyLong_FromUnsignedLongLong(s->seed) : Py_NewRef(Py_None);
        PyObject *item = Py_BuildValue("Iy#INNNK", s->slot, (const char *)ring_slot(&self->ring, s->slot),
                                       (Py_ssize_t)s->length, s->sampling_steps, temperature, top_k, seed,
                                       (unsigned long long)s->deadline);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    if (list)
        ring_begin_prompts(&self->ring);
    return list;
}

/* The slot of a prompt in flight, or -1 with an exception. */
static int64_t lane_prompted(Lane *self, unsigned long slot)
{
    if (!lane_ready(self))
        return -1;
    if (slot <= UINT32_MAX && ring_prompted(&self->ring, (uint32_t)slot))
        return (int64_t)slot;
    PyErr_Format(PyExc_ValueError, "no prompt is in flight in slot %lu", slot);
    return -1;
}

static PyObject *lane_append(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    unsigned int slot;
    const char *text;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Iy#:append", &slot, &text, &length) || lane_prompted(self, slot) < 0)
        return NULL;
    if ((uint64_t)length > ring_room(&self->ring, slot)) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of text, the reply takes %u more", length,
                     ring_room(&self->ring, slot));
        return NULL;
    }
    if (length)
        ring_append(&self->ring, slot, text, (uint32_t)length);
    Py_RETURN_NONE;
}

static PyObject *lane_room(PyObject *op, PyObject *arg)
{
    int64_t slot = lane_prompted((Lane *)op, PyLong_AsUnsignedLong(arg));
    return slot < 0 ? NULL : PyLong_FromUnsignedLong(ring_room(&((Lane *)op)->ring, (uint32_t)slot));
}

static PyObject *lane_cancelled(PyObject *op, PyObject *arg)
{
    int64_t slot = lane_prompted((Lane *)op, PyLong_AsUnsignedLong(arg));
    return slot < 0 ? NULL : PyBool_FromLong(ring_cancelled(&((Lane *)op)->ring, (uint32_t)slot));
}

static PyObject *lane_finish_prompt(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    unsigned int slot, status, flags;
    const char *message;
    Py_ssize_t length;
    unsigned long long started_ns = 0;
    if (!PyArg_ParseTuple(args, "IIIy#|K:finish_prompt", &slot, &status, &flags, &message, &length, &started_ns) ||
        lane_prompted(self, slot) < 0)
        return NULL;
    if (length > SHM_MESSAGE_BYTES) {
        PyErr_Format(PyExc_ValueError, "a message of %zd bytes, %d fit", length, (int)SHM_MESSAGE_BYTES);
        return NULL;
    }
    ring_finish_prompt(&self->ring, slot, (uint16_t)status, (uint16_t)flags, message, (uint32_t)length,
                       started_ns);
    Py_RETURN_NONE;
}

/* ---- images ---- */

static PyObject *lane_gather(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    PyObject *out;
    unsigned int row;
    if (!PyArg_ParseTuple(args, "OI:gather", &out, &row) || !lane_ready(self))
        return NULL;
    Py_buffer view;
    if (PyObject_GetBuffer(out, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    size_t slot_bytes = self->ring.at.slot_bytes;
    if ((uint64_t)view.len < ((uint64_t)row + self->ring.count) * slot_bytes) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "the batch does not fit the rows");
        return NULL;
    }
    for (uint32_t i = 0; i < self->ring.count; i++)
        memcpy((uint8_t *)view.buf + (row + i) * slot_bytes, ring_slot(&self->ring, self->ring.batch[i].slot), slot_bytes);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *counter_dict(const char *const *names, const uint64_t *values, size_t count)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (!value || PyDict_SetItemString(dict, names[i], value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *lane_counters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return counter_dict(ring_counter_names, ((Lane *)op)->ring.counters, RING_COUNTERS);
}

static PyObject *lane_get_contiguous(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(ring_contiguous(&((Lane *)op)->ring));
}

static PyObject *lane_get_fault(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((Lane *)op)->ring.fault);
}

static PyMethodDef lane_methods[] = {
    {"close", lane_close, METH_NOARGS, "Let go of the segment. Every other method raises ValueError afterwards."},
    {"drain", lane_drain, METH_O, "Take up to `limit` submissions of one operation; see Poller.next."},
    {"announce_draining", lane_announce_draining, METH_NOARGS, "Set server_state to `draining` in the header."},
    {"complete_echo", lane_complete_echo, METH_NOARGS, "Read every byte of the batch's slots, answer with checksums."},
    {"complete_scores", lane_complete_scores, METH_VARARGS,
     "complete_scores(scores, first, by_slot, batch): answer request i with row first + i, or with by_slot row "
     "first + slot - lowest."},
    {"complete_error", lane_complete_error, METH_O, "Answer the batch with a model error; UTF-8 bytes that fit a reply."},
    {"begin_prompts", lane_begin_prompts, METH_NOARGS,
     "Move the batch to the prompts in flight; a list of (slot, text, sampling_steps, temperature, top_k, seed, deadline), "
     "the text copied, as bytes; None for what the client leaves open."},
    {"append", lane_append, METH_VARARGS, "append(slot, text): let the client have more text, at most room(slot) bytes."},
    {"room", lane_room, METH_O, "Bytes of text that the slot's reply still takes."},
    {"cancelled", lane_cancelled, METH_O, "Does the client want no more of the slot's prompt?"},
    {"finish_prompt", lane_finish_prompt, METH_VARARGS,
     "finish_prompt(slot, status, flags, message, started_ns=0): complete the slot's prompt with the text so far."},
    {"gather", lane_gather, METH_VARARGS, "gather(out, row): copy the batch's slots, in order, to rows from `row` on."},
    {"counters", lane_counters, METH_NOARGS, "The lane's counters by name, totals since it was opened."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"count", T_UINT, offsetof(Lane, ring.count), READONLY, "requests in the batch; 0 when none was taken"},
    {"op", T_UINT, offsetof(Lane, ring.op), READONLY, "operation of the whole batch; 0 with a fault"},
    {"lowest", T_UINT, offsetof(Lane, ring.lowest), READONLY, "lowest slot of the batch"},
    {"draining", T_BOOL, offsetof(Lane, ring.draining), 0, "answer new submissions with `draining`"},
    {"paused", T_BOOL, offsetof(Lane, paused), 0, "pollers hand out nothing of this lane: submissions wait in the ring"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef lane_getset[] = {
    {"contiguous", lane_get_contiguous, NULL, "are the batch's slots neighbours, in any order?", NULL},
    {"fault", lane_get_fault, NULL, "how the client broke the protocol, or ''", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, "Lane(segment, index, doorbell): the server's side of one lane of a segment.\n\n"
                "Holds the segment's buffer until close(). `doorbell` is a socket's descriptor, or -1 for none."},
    {Py_tp_init, lane_init}, {Py_tp_dealloc, lane_dealloc}, {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members}, {Py_tp_getset, lane_getset}, {0, NULL},
};

static PyType_Spec lane_spec = {"shm_server._core.Lane", sizeof(Lane), 0, Py_TPFLAGS_DEFAULT, lane_slots};

/* ---- Poller ---------------------------------------------------------------------------------------------- */

enum { POLLER_SPIN_HITS, POLLER_SPIN_MISSES, POLLER_PARKS, POLLER_WAKES, POLLER_COUNTERS };
static const char *const poller_counter_names[POLLER_COUNTERS] = {"spin_hits", "spin_misses", "parks", "wakes"};

enum {
    EVENTS = 64,             /* doorbells looked at per wake; the rest is found by the scan all the same */
    ROUNDS_PER_CLOCK = 64,   /* rounds of a spin between two looks at the clock */
    LOOK_NS = 10000000,      /* so often the doorbells are looked at by a poller that never sleeps */
    SPIN_FLOOR_NS = 2000,    /* a budget below this is not worth its clock reads: no spinning */
};

typedef struct {
    PyObject_HEAD
    Lane **lanes;
    size_t count, capacity;
    size_t cursor, looked;   /* the next lane of this pass over all lanes, and how many it has looked at */
    int epoll, wake_fd;
    _Atomic uint32_t woken;  /* wake() was called */
    int64_t budget_ns;       /* most that a spin may take; negative: without end */
    int64_t effective_ns;    /* what it may take now */
    bool bells_due;
    uint64_t looked_ns;      /* when the doorbells were looked at last */
    uint64_t counters[POLLER_COUNTERS];
} Poller;

static PyTypeObject *poller_type;

static int poller_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spin_ns", NULL};
    Poller *self = (Poller *)op;
    long long spin_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L:Poller", names, &spin_ns))
        return -1;
    if (self->capacity) {
        PyErr_SetString(PyExc_TypeError, "a Poller is initialised once");
        return -1;
    }
    self->lanes = PyMem_Calloc(8, sizeof *self->lanes);
    if (!self->lanes) {
        PyErr_NoMemory();
        return -1;
    }
    self->capacity = 8;
    self->budget_ns = self->effective_ns = spin_ns;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (self->epoll < 0 || self->wake_fd < 0 || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->wake_fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void poller_dealloc(PyObject *op)
{
    Poller *self = (Poller *)op;
    PyTypeObject *type = Py_TYPE(op);
    for (size_t i = 0; i < self->count; i++)
        Py_DECREF((PyObject *)self->lanes[i]);
    if (self->capacity) {
        close(self->epoll);
        close(self->wake_fd);
    }
    PyMem_Free(self->lanes);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

static PyObject *poller_add(PyObject *op, PyObject *arg)
{
    Poller *self = (Poller *)op;
    if (!self->capacity || !Py_IS_TYPE(arg, lane_type)) {
        PyErr_SetString(PyExc_TypeError, "add takes a Lane");
        return NULL;
    }
    Lane *lane = (Lane *)arg;
    if (!lane_ready(lane))
        return NULL;
    if (self->count == self->capacity) {
        Lane **more = PyMem_Realloc(self->lanes, 2 * self->capacity * sizeof *more);
        if (!more)
            return PyErr_NoMemory();
        self->lanes = more;
        self->capacity *= 2;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = lane};
    if (lane->ring.doorbell >= 0 && epoll_ctl(self->epoll, EPOLL_CTL_ADD, lane->ring.doorbell, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_INCREF(arg);
    self->lanes[self->count++] = lane;
    self->looked += self->looked > self->cursor; /* this pass has been at the end: the next one looks at it */
    Py_RETURN_NONE;
}

static void poller_unwatch(Poller *self, Lane *lane)
{
    /* ENOENT: unwatched before, at end of file */
    if (lane->ring.doorbell >= 0)
        (void)epoll_ctl(self->epoll, EPOLL_CTL_DEL, lane->ring.doorbell, NULL);
}

static PyObject *poller_remove(PyObject *op, PyObject *arg)
{
    Poller *self = (Poller *)op;
    for (size_t i = 0; i < self->count; i++) {
        if ((PyObject *)self->lanes[i] != arg)
            continue;
        poller_unwatch(self, self->lanes[i]);
        /* The order stays, and so does the place in it: who comes and goes must not have another one passed over. */
        size_t behind = (self->cursor + self->count - 1 - i) % self->count; /* lanes looked at since this one was */
        self->looked -= behind < self->looked;
        self->cursor -= i < self->cursor;
        if (self->cursor >= --self->count)
            self->cursor = 0;
        memmove(&self->lanes[i], &self->lanes[i + 1], (self->count - i) * sizeof *self->lanes);
        Py_DECREF(arg);
        Py_RETURN_NONE;
    }
    PyErr_SetString(PyExc_ValueError, "that lane was not added");
    return NULL;
}

/* Nothing to hand out for a lane whose batch is still being run, whose fault was handed out, or that was paused or closed. */
static bool poller_skips(const Lane *lane)
{
    return lane->ring.count || lane->reported || lane->paused || !lane->open;
}

static bool poller_pending(const Poller *self)
{
    for (size_t i = 0; i < self->count; i++)
        if (!poller_skips(self->lanes[i]) && (ring_peek(&self->lanes[i]->ring) || self->lanes[i]->ring.fault[0] ||
                                              ring_broken(&self->lanes[i]->ring)))
            return true;
    return atomic_load_explicit(&self->woken, memory_order_seq_cst);
}

/* Go on with the pass, to the next lane that has something. Each lane is looked at once a pass, and the passes go round: a
 * client that always has something waiting delays each of the others by one batch. */
static Lane *poller_scan(Poller *self, uint32_t limit)
{
    Lane *found = NULL;
    size_t at = self->cursor, looked = self->looked;
    for (; looked < self->count && !found; looked++) {
        Lane *lane = self->lanes[at];
        at = at + 1 < self->count ? at + 1 : 0;
        if (poller_skips(lane) || (!ring_drain(&lane->ring, limit) && !lane->ring.fault[0]))
            continue;
        lane->reported = lane->ring.fault[0];
        Py_INCREF((PyObject *)lane);
        found = lane;
    }
    self->cursor = at;
    self->looked = looked;
    return found;
}

/* Empty the doorbells that have something. A bell's bytes say nothing, so there is no hurry. */
static void poller_read_bells(Poller *self)
{
    self->bells_due = false;
    for (size_t i = 0; i < self->count; i++) {
        Lane *lane = self->lanes[i];
        if (!lane->bells_due || !lane->open)
            continue;
        lane->bells_due = false;
        uint8_t bytes[256];
        ssize_t got = recv(lane->ring.doorbell, bytes, sizeof bytes, MSG_DONTWAIT);
        /* End of file or reset: the control thread sees it too and removes the lane; until then do not wake for it. */
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            poller_unwatch(self, lane);
        for (ssize_t k = 0; k < got; k++)
            if (bytes[k] != SHM_BELL && !lane->ring.fault[0])
                snprintf(lane->ring.fault, sizeof lane->ring.fault, "byte %u on the doorbell is no bell", bytes[k]);
    }
}

/* Now and then while there is always work: a poller that never sleeps would never see a byte that is no bell. */
static void poller_look(Poller *self, uint64_t now)
{
    if (now - self->looked_ns < LOOK_NS)
        return;
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(self->epoll, events, EVENTS, 0);
    for (int i = 0; i < ready; i++)
        if (events[i].data.ptr) /* NULL is wake(), which poller_park reads */
            ((Lane *)events[i].data.ptr)->bells_due = self->bells_due = true;
    self->looked_ns = now;
    if (self->bells_due)
        poller_read_bells(self);
}

/* Look until something is there or the budget is spent. Without the GIL. */
static bool poller_spin(Poller *self)
{
    uint64_t begun = 0;
    for (uint32_t round = 1; self->effective_ns; round++) {
        if (poller_pending(self)) {
            self->counters[POLLER_SPIN_HITS]++;
            self->effective_ns = self->budget_ns;
            return true;
        }
        ring_pause();
        if (round % ROUNDS_PER_CLOCK || self->effective_ns < 0)
            continue;
        uint64_t now = ring_now();
        if (!begun)
            begun = now;
        if (now - begun < (uint64_t)self->effective_ns)
            continue;
        self->counters[POLLER_SPIN_MISSES]++;
        self->effective_ns = self->effective_ns / 2 < SPIN_FLOOR_NS ? 0 : self->effective_ns / 2; /* it did not pay */
        return false;
    }
    return false;
}

static void poller_flag(const Poller *self, uint32_t parked)
{
    for (size_t i = 0; i < self->count; i++)
        if (self->lanes[i]->open)
            atomic_store_explicit(ring_flag(&self->lanes[i]->ring, SHM_HEADER_SERVER_PARKED), parked,
                                  memory_order_seq_cst);
}

/* Sleep until a doorbell or wake(). Without the GIL. Returns 0, or errno. */
static int poller_park(Poller *self)
{
    int error = 0;
    poller_flag(self, 1);
    /* Between our store of `server_parked` and the last look at the rings; the client has its fence between the
     * release of `turn` and its load of `server_parked`. Without it the look may pass the store: we see no entry,
     * the client sees 0, and we sleep on a submission that is there. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!poller_pending(self)) {
        struct epoll_event events[EVENTS];
        uint64_t slept = ring_now();
        int ready = epoll_wait(self->epoll, events, EVENTS, -1);
        error = ready < 0 && errno != EINTR ? errno : 0;
        self->counters[POLLER_PARKS]++;
        for (int i = 0; i < ready; i++) {
            uint64_t ignored;
            if (events[i].data.ptr)
                ((Lane *)events[i].data.ptr)->bells_due = self->bells_due = true;
            else if (read(self->wake_fd, &ignored, sizeof ignored) > 0)
                self->counters[POLLER_WAKES]++;
        }
        self->looked_ns = ring_now();
        if (self->budget_ns > 0 && self->looked_ns - slept < (uint64_t)self->budget_ns)
            self->effective_ns = self->budget_ns; /* a spin would have caught it */
    }
    poller_flag(self, 0); /* a client that still sees 1 rings once for nothing */
    return error;
}

/* A limit from 1 on as a C integer, or 0 with an exception. Also false for a Poller that was never initialised. */
static uint32_t poller_limit(const Poller *self, PyObject *limit)
{
    unsigned long most = PyLong_AsUnsignedLong(limit);
    if (most == (unsigned long)-1 && PyErr_Occurred())
        return 0;
    if (most == 0 || !self->capacity) {
        PyErr_SetString(PyExc_ValueError, most ? "the poller was not initialised" : "the limit is at least 1");
        return 0;
    }
    return most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

static PyObject *poller_take(PyObject *op, PyObject *limit)
{
    uint32_t most = poller_limit((Poller *)op, limit);
    if (!most)
        return NULL;
    ((Poller *)op)->looked = 0;
    Lane *lane = poller_scan((Poller *)op, most);
    if (lane)
        return (PyObject *)lane;
    Py_RETURN_NONE;
}

static PyObject *poller_sweep(PyObject *op, PyObject *limit)
{
    Poller *self = (Poller *)op;
    uint32_t most = poller_limit(self, limit);
    if (!most)
        return NULL;
    Lane *lane = poller_scan(self, most);
    if (lane)
        return (PyObject *)lane;
    self->looked = 0;
    poller_look(self, ring_now());
    Py_RETURN_NONE;
}

static PyObject *poller_next(PyObject *op, PyObject *limit)
{
    Poller *self = (Poller *)op;
    uint32_t most = poller_limit(self, limit);
    if (!most)
        return NULL;
    for (;;) {
        self->looked = 0;
        /* The plain load first: an exchange takes the line for writing, each time round. */
        if (atomic_load_explicit(&self->woken, memory_order_relaxed) && atomic_exchange(&self->woken, 0))
            Py_RETURN_NONE;
        Lane *lane = poller_scan(self, most);
        if (lane) {
            poller_look(self, lane->ring.taken_ns); /* the clock was read a moment ago */
            return (PyObject *)lane;
        }
        if (self->bells_due)
            poller_read_bells(self);
        int error = 0;
        Py_BEGIN_ALLOW_THREADS
        if (!poller_spin(self))
            error = poller_park(self);
        Py_END_ALLOW_THREADS
        if (error) {
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
}

static PyObject *poller_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Poller *self = (Poller *)op;
    uint64_t one = 1;
    if (!self->capacity) {
        PyErr_SetString(PyExc_ValueError, "the poller was not initialised");
        return NULL;
    }
    atomic_store_explicit(&self->woken, 1, memory_order_seq_cst);
    /* EAGAIN: the counter is full, so it is readable, which is all that is wanted. */
    if (write(self->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *poller_counters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return counter_dict(poller_counter_names, ((Poller *)op)->counters, POLLER_COUNTERS);
}

static PyMethodDef poller_methods[] = {
    {"add", poller_add, METH_O, "Serve this lane too. Data thread."},
    {"remove", poller_remove, METH_O, "Stop serving this lane. Data thread."},
    {"next", poller_next, METH_O,
     "Wait for work: a Lane with a drained batch of up to `limit` requests, or with a fault (op 0); None after wake()."},
    {"take", poller_take, METH_O, "Like next, but None at once when nothing is pending."},
    {"sweep", poller_sweep, METH_O,
     "Go on with the pass that next or take began: each lane once, and None at its end; then the next pass begins."},
    {"wake", poller_wake, METH_NOARGS, "Make next() return None soon. Any thread."},
    {"counters", poller_counters, METH_NOARGS, "The poller's counters by name."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poller_slots[] = {
    {Py_tp_doc, "Poller(spin_ns): spin up to spin_ns (negative: without end, 0: never), then sleep, over many lanes."},
    {Py_tp_init, poller_init}, {Py_tp_dealloc, poller_dealloc}, {Py_tp_methods, poller_methods}, {0, NULL},
};

static PyType_Spec poller_spec = {"shm_server._core.Poller", sizeof(Poller), 0, Py_TPFLAGS_DEFAULT, poller_slots};

/* ---- module ---------------------------------------------------------------------------------------------- */

static PyObject *core_checksum(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    Py_buffer view;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t sum = ring_checksum(view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(sum);
}

/* A score in 16 bits may miss 0 and 1 by that much; `scores.py` allows the same. */
#define CORE_ROUNDING 1e-3f

/* Here, since a look at each number takes 0.1 us, and NumPy's reductions take five. */
static PyObject *core_are_scores(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *scores;
    unsigned int images, classes, rows;
    if (!PyArg_ParseTuple(args, "OIII:are_scores", &scores, &images, &classes, &rows))
        return NULL;
    Py_buffer view;
    if (PyObject_GetBuffer(scores, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* no array, one of gaps, or of a type that has no format */
        Py_RETURN_FALSE;
    }
    bool fit = view.format && (!strcmp(view.format, "f") || !strcmp(view.format, "<f")) && view.ndim == 2 &&
               view.shape[0] == (Py_ssize_t)images && view.shape[1] == (Py_ssize_t)classes && rows <= images;
    const float *score = view.buf;
    for (size_t i = 0; fit && i < (size_t)rows * classes; i++)
        fit = score[i] >= -CORE_ROUNDING && score[i] <= 1 + CORE_ROUNDING; /* no NaN is */
    PyBuffer_Release(&view);
    return PyBool_FromLong(fit);
}

static PyMethodDef core_methods[] = {
    {"are_scores", core_are_scores, METH_VARARGS,
     "are_scores(scores, images, classes, rows): whether they are C-contiguous float32 (images, classes) whose first "
     "rows are probabilities."},
    {"checksum", core_checksum, METH_O, "The checksum of layout.md over any bytes, as an int."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT, "shm_server._core", "Atomics, spin and park; see layout.md.", -1, core_methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&core_module);
    if (!module)
        return NULL;
    lane_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    poller_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &poller_spec, NULL);
    if (!lane_type || !poller_type || PyModule_AddType(module, lane_type) < 0 ||
        PyModule_AddType(module, poller_type) < 0 || mapping_add_type(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
