/* shm_server._core.ClientLane: client.h and client_wait.h as a Python type, which any thread may call. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <sched.h>
#include <sys/eventfd.h>

#include "client_lane.h"
#include "client_wait.h"
#include "guard.h"

static const char *const counter_names[COUNTERS] = {"requests", "spin_hits", "spin_misses", "parks", "bells_sent"};

/* ---- the type ---- */

static void client_lane_free(ClientLane *self)
{
    PyMem_Free(self->lane.calls);
    PyMem_Free(self->lane.free);
    PyMem_Free(self->news);
    PyMem_Free(self->in_news);
    if (self->wake_fd >= 0 && self->started)
        close(self->wake_fd);
    if (self->open)
        PyBuffer_Release(&self->segment);
    self->open = false;
}

static void client_lane_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    client_lane_free((ClientLane *)op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

/* One processor: a spinner would only keep the one that it waits for from it. */
static bool alone(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1;
}

static int client_lane_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "header", "doorbell", "spin_ns", "ahead_ns", "evented", NULL};
    ClientLane *self = (ClientLane *)op;
    PyObject *segment;
    const char *header;
    Py_ssize_t header_bytes;
    int doorbell, evented = 0;
    long long spin_ns = 0, ahead_ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy#i|LLp:ClientLane", names, &segment, &header, &header_bytes, &doorbell,
                                     &spin_ns, &ahead_ns, &evented))
        return -1;
    if (self->open) {
        PyErr_SetString(PyExc_TypeError, "a ClientLane is initialised once");
        return -1;
    }
    if (PyObject_GetBuffer(segment, &self->segment, PyBUF_WRITABLE) < 0)
        return -1;
    self->open = true;
    if (header_bytes != SHM_PAGE_BYTES || ahead_ns == INT64_MIN ||
        !client_open(&self->lane, self->segment.buf, (const uint8_t *)header, (uint64_t)self->segment.len)) {
        PyErr_SetString(PyExc_ValueError, "the segment's header describes no lane that can be used");
        return -1;
    }
    const _Atomic uint32_t *broken = guard_broken_at(self->segment.buf);
    if (broken)
        self->lane.broken = broken; /* valid as long as the buffer that we hold */
    uint32_t slots = self->lane.at.lane.slot_count;
    self->lane.ahead_ns = ahead_ns;
    self->doorbell = doorbell;
    self->budget_ns = alone() ? 0 : spin_ns;
    self->evented = evented;
    self->used_ns = ring_now();
    self->lane.calls = PyMem_Calloc(slots, sizeof *self->lane.calls);
    self->lane.free = PyMem_Calloc(client_words(&self->lane), sizeof *self->lane.free);
    self->news = PyMem_Calloc(slots, sizeof *self->news);
    self->in_news = PyMem_Calloc(slots, 1);
    if (!self->lane.calls || !self->lane.free || !self->news || !self->in_news) {
        PyErr_NoMemory();
        return -1;
    }
    if ((self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    client_start(&self->lane);
    self->started = true;
    return 0;
}

static bool started(const ClientLane *self)
{
    if (self->started)
        return true;
    PyErr_SetString(PyExc_ValueError, "the lane was not initialised");
    return false;
}

/* A slot in one of the states of the mask; -1 with an exception. */
static int64_t slot_in(const ClientLane *self, unsigned long slot, unsigned states)
{
    if (!started(self))
        return -1;
    if (slot < self->lane.at.lane.slot_count && states >> self->lane.calls[slot].state & 1)
        return (int64_t)slot;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "slot %lu is not such a one", slot);
    return -1;
}

#define IN(state) (1u << (state))
#define OWNED (IN(CLIENT_CLAIMED) | IN(CLIENT_DONE) | IN(CLIENT_FAILED))

static bool waits_here(const ClientLane *self)
{
    if (self->evented)
        PyErr_SetString(PyExc_ValueError, "nobody waits in an evented lane");
    return !self->evented;
}

static PyObject *answer(int64_t code)
{
    return code == RAISED ? NULL : PyLong_FromLongLong(code);
}

/* claim(most, deadline_ns): the first slot waits. */
static PyObject *client_lane_claim(PyObject *op, PyObject *args)
{
    ClientLane *self = (ClientLane *)op;
    unsigned int most;
    unsigned long long deadline;
    if (!PyArg_ParseTuple(args, "IK:claim", &most, &deadline) || !started(self))
        return NULL;
    if (self->evented)
        deadline = 1; /* asked once */
    int64_t slot = claim(self, deadline, ring_now());
    if (slot < 0)
        return answer(slot);
    PyObject *slots = PyList_New(0);
    for (uint32_t claimed = 0; slots && slot >= 0; claimed++) {
        PyObject *number = PyLong_FromLongLong(slot);
        if (!number || PyList_Append(slots, number) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(number);
        slot = slots && claimed + 1 < most && self->lane.free_count > self->claiming ? client_claim(&self->lane) : LATE;
    }
    return slots; /* NULL: no memory, and what was claimed is lost */
}

/* submit(slots, op, extent, deadline_ns[, flags, sampling_steps, temperature, top_k, seed]) */
static PyObject *client_lane_submit(PyObject *op, PyObject *args)
{
    ClientLane *self = (ClientLane *)op;
    PyObject *slots;
    struct shm_submission s = {0};
    unsigned long long deadline, seed = 0;
    if (!PyArg_ParseTuple(args, "O!HIK|HIfIK:submit", &PyList_Type, &slots, &s.op, &s.extent, &deadline, &s.flags,
                          &s.sampling_steps, &s.temperature, &s.top_k, &seed) || !started(self))
        return NULL;
    s.seed = seed;
    if (s.extent > self->lane.at.bound)
        return PyErr_Format(PyExc_ValueError, "an extent of %u, the bound is %u", s.extent, self->lane.at.bound);
    Py_ssize_t count = PyList_Size(slots);
    for (Py_ssize_t i = 0; i < count; i++)
        if (slot_in(self, PyLong_AsUnsignedLong(PyList_GetItem(slots, i)), OWNED) < 0)
            return NULL;
    if (atomic_load_explicit(&self->over, memory_order_relaxed))
        Py_RETURN_FALSE;
    uint64_t now = ring_now();
    int64_t slot = 0;
    for (Py_ssize_t i = 0; slot >= 0 && i < count; i++)
        if ((slot = slot_in(self, PyLong_AsUnsignedLong(PyList_GetItem(slots, i)), OWNED)) >= 0) /* none stands there twice */
            submit(self, (uint32_t)slot, s, deadline, now);
    ring(self);
    return slot < 0 ? NULL : Py_NewRef(Py_True);
}

/* wait(slots, deadline_ns): the first that there is news of last, in their order. */
static PyObject *client_lane_wait(PyObject *op, PyObject *args)
{
    ClientLane *self = (ClientLane *)op;
    PyObject *slots;
    unsigned long long deadline;
    const unsigned waiting = IN(CLIENT_IN_FLIGHT) | IN(CLIENT_DONE) | IN(CLIENT_FAILED);
    if (!PyArg_ParseTuple(args, "O!K:wait", &PyList_Type, &slots, &deadline) || !started(self) || !waits_here(self))
        return NULL;
    bool whole = true;
    for (Py_ssize_t i = 0; i < PyList_Size(slots); i++) {
        int64_t slot = slot_in(self, PyLong_AsUnsignedLong(PyList_GetItem(slots, i)), waiting);
        if (slot < 0)
            return NULL;
        int waited = wait_for(self, (uint32_t)slot, deadline, ring_now());
        if (waited < 0)
            return NULL;
        if (!waited)
            return answer(LOST_LATE);
        whole = whole && self->lane.calls[slot].state != CLIENT_FAILED;
    }
    return answer(whole ? 0 : LOST);
}

static PyObject *client_lane_release(PyObject *op, PyObject *arg)
{
    int64_t slot = slot_in((ClientLane *)op, PyLong_AsUnsignedLong(arg), OWNED);
    if (slot < 0)
        return NULL;
    release((ClientLane *)op, (uint32_t)slot);
    Py_RETURN_NONE;
}

static PyObject *client_lane_abandon(PyObject *op, PyObject *arg)
{
    int64_t slot = slot_in((ClientLane *)op, PyLong_AsUnsignedLong(arg), OWNED | IN(CLIENT_IN_FLIGHT));
    if (slot < 0)
        return NULL;
    abandon((ClientLane *)op, (uint32_t)slot);
    Py_RETURN_NONE;
}

/* ---- one call, as a whole ---- */

/* Copy the inputs' bytes to the slot. False with an exception: they are not of the size that the extent gives them. */
static bool copy_inputs(ClientLane *self, PyObject *inputs, uint32_t slot, uint32_t extent)
{
    for (uint32_t i = 0; i < self->lane.at.lane.input_count; i++) {
        Py_buffer view;
        if (PyObject_GetBuffer(PyTuple_GetItem(inputs, (Py_ssize_t)i), &view, PyBUF_C_CONTIGUOUS) < 0)
            return false;
        uint32_t bytes = geometry_valid_bytes(&self->lane.at, i, extent);
        bool fits = view.len == (Py_ssize_t)bytes;
        uint8_t *row = client_row(&self->lane, i, slot);
        if (fits && bytes >= LARGE_BYTES) {
            Py_BEGIN_ALLOW_THREADS
            memcpy(row, view.buf, bytes);
            Py_END_ALLOW_THREADS
        } else if (fits) {
            memcpy(row, view.buf, bytes);
        } else {
            PyErr_Format(PyExc_ValueError, "input %u: %zd bytes, expected %u", i, view.len, bytes);
        }
        PyBuffer_Release(&view);
        if (!fits)
            return false;
    }
    return true;
}

/* The slot whose call is done, or LATE, ENDED, DRAINING: not run; LOST, LOST_LATE: nobody knows; RAISED. */
static int64_t call(ClientLane *self, uint16_t op, PyObject *inputs, uint32_t extent, uint64_t deadline)
{
    uint64_t now = ring_now();
    int64_t slot = claim(self, deadline, now);
    if (slot < 0)
        return slot;
    if (!copy_inputs(self, inputs, (uint32_t)slot, extent)) {
        release(self, (uint32_t)slot);
        return RAISED;
    }
    if (atomic_load_explicit(&self->over, memory_order_relaxed)) { /* meanwhile: copy_inputs may let others run */
        release(self, (uint32_t)slot);
        return ENDED;
    }
    submit(self, (uint32_t)slot, (struct shm_submission){.op = op, .extent = extent}, deadline, now);
    ring(self);
    int waited = wait_for(self, (uint32_t)slot, deadline, now);
    if (waited > 0 && self->lane.calls[slot].state == CLIENT_DONE)
        return slot;
    abandon(self, (uint32_t)slot);
    return waited < 0 ? RAISED : waited ? LOST : LOST_LATE;
}

/* call(op, inputs, extent, deadline_ns) */
static PyObject *client_lane_call(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    ClientLane *self = (ClientLane *)op;
    if (!started(self) || !waits_here(self))
        return NULL;
    if (count != 4 || !PyTuple_Check(args[1]) || PyTuple_Size(args[1]) != (Py_ssize_t)self->lane.at.lane.input_count) {
        PyErr_Format(PyExc_TypeError, "expected an op, a tuple of %u inputs, an extent and a deadline",
                     self->lane.at.lane.input_count);
        return NULL;
    }
    unsigned long number = PyLong_AsUnsignedLong(args[0]), extent = PyLong_AsUnsignedLong(args[2]);
    unsigned long long deadline = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (number > UINT16_MAX || extent > self->lane.at.bound)
        return PyErr_Format(PyExc_ValueError, "op %lu with an extent of %lu, the bound is %u", number, extent, self->lane.at.bound);
    int64_t slot = call(self, (uint16_t)number, args[1], (uint32_t)extent, deadline);
    const struct shm_completion *done = slot < 0 ? NULL : &self->lane.calls[slot].result;
    if (!done)
        return answer(slot);
    if (done->status != SHM_STATUS_OK)
        return Py_BuildValue("(LH)", (long long)slot, done->status);
    if (number != SHM_OP_ECHO)
        return answer(slot);
    PyObject *checksum = PyLong_FromUnsignedLongLong(done->checksum);
    release(self, (uint32_t)slot);
    return checksum;
}

/* result(slot): of a call that is done; None of one that failed with its session. */
static PyObject *client_lane_result(PyObject *op, PyObject *arg)
{
    ClientLane *self = (ClientLane *)op;
    int64_t slot = slot_in(self, PyLong_AsUnsignedLong(arg), IN(CLIENT_DONE) | IN(CLIENT_FAILED));
    if (slot < 0)
        return NULL;
    if (self->lane.calls[slot].state == CLIENT_FAILED)
        Py_RETURN_NONE;
    const struct shm_completion *done = &self->lane.calls[slot].result;
    return Py_BuildValue("(HHIIKKKy#)", done->status, done->flags, done->extent, done->batch, (unsigned long long)done->checksum,
                         (unsigned long long)done->queue_ns, (unsigned long long)done->model_ns,
                         (const char *)client_message(&self->lane, (uint32_t)slot), (Py_ssize_t)done->message_bytes);
}

static PyObject *client_lane_ready(PyObject *op, PyObject *arg)
{
    int64_t slot = slot_in((ClientLane *)op, PyLong_AsUnsignedLong(arg), ~0u);
    return slot < 0 ? NULL : PyBool_FromLong(client_news(&((ClientLane *)op)->lane, (uint32_t)slot));
}

/* text(slot): bytes that were not handed out yet, and whether they are the last; None: the server broke the protocol. */
static PyObject *client_lane_text(PyObject *op, PyObject *arg)
{
    ClientLane *self = (ClientLane *)op;
    int64_t slot = slot_in(self, PyLong_AsUnsignedLong(arg), IN(CLIENT_IN_FLIGHT) | IN(CLIENT_DONE));
    if (slot < 0)
        return NULL;
    if (self->lane.at.lane.protocol != SHM_PROTOCOL_STREAM) {
        PyErr_SetString(PyExc_ValueError, "this lane has no prompts");
        return NULL;
    }
    const uint8_t *text;
    uint32_t length;
    bool last = self->lane.calls[slot].state == CLIENT_DONE;
    if (client_text(&self->lane, (uint32_t)slot, &text, &length))
        return Py_BuildValue("(y#O)", (const char *)text, (Py_ssize_t)length, last ? Py_True : Py_False);
    end(self);
    Py_RETURN_NONE;
}

/* events(): for an event loop. */
static PyObject *client_lane_events(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ClientLane *self = (ClientLane *)op;
    if (!started(self))
        return NULL;
    if (!self->evented) {
        PyErr_SetString(PyExc_ValueError, "threads wait in this lane");
        return NULL;
    }
    read_doorbell(self);
    do {
        client_disarm(&self->lane);
        reap(self);
    } while (!atomic_load_explicit(&self->over, memory_order_relaxed) && self->lane.in_flight &&
             client_arm(&self->lane, self->lane.head));
    PyObject *slots = PyList_New(0);
    for (uint32_t i = 0; slots && i < self->news_count; i++) {
        PyObject *slot = PyLong_FromUnsignedLong(self->news[i]);
        if (!slot || PyList_Append(slots, slot) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(slot);
    }
    if (!slots)
        return NULL; /* the news stays */
    for (; self->news_count; self->news_count--)
        self->in_news[self->news[self->news_count - 1]] = 0;
    return slots;
}

/* ---- the end, and what is known of it ---- */

/* end(hang_up, fault=None) */
static PyObject *client_lane_end(PyObject *op, PyObject *args)
{
    ClientLane *self = (ClientLane *)op;
    int hang_up;
    const char *fault = NULL;
    if (!PyArg_ParseTuple(args, "p|z:end", &hang_up, &fault) || !started(self))
        return NULL;
    if (fault && !self->lane.fault[0])
        snprintf(self->lane.fault, sizeof self->lane.fault, "%s", fault);
    self->hung_up = self->hung_up || hang_up;
    end(self);
    Py_RETURN_NONE;
}

/* In a forked child: every descriptor is closed, and nothing of the segment is touched any more. */
static PyObject *client_lane_forget(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ClientLane *self = (ClientLane *)op;
    if (!started(self))
        return NULL;
    self->leader = NULL; /* the threads that waited are the parent's */
    self->followers = NULL;
    self->claiming = 0;
    for (uint32_t slot = 0; slot < self->lane.at.lane.slot_count; slot++)
        self->lane.calls[slot].waiter = NULL;
    self->hung_up = true;
    end(self);
    self->doorbell = -1;
    close(self->wake_fd);
    self->wake_fd = -1;
    Py_RETURN_NONE;
}

static PyObject *get_over(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(atomic_load_explicit(&((ClientLane *)op)->over, memory_order_relaxed));
}

static PyObject *get_broken(PyObject *op, void *Py_UNUSED(closure))
{
    ClientLane *self = (ClientLane *)op;
    return PyBool_FromLong(self->started && client_broken(&self->lane));
}

static PyObject *get_led(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ClientLane *)op)->leader != NULL);
}

static PyObject *get_followers(PyObject *op, void *Py_UNUSED(closure))
{
    unsigned long count = 0;
    for (const struct waiter *waiter = ((ClientLane *)op)->followers; waiter; waiter = waiter->next)
        count++;
    return PyLong_FromUnsignedLong(count);
}

static PyObject *get_fault(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((ClientLane *)op)->lane.fault);
}

static PyObject *get_farewell(PyObject *op, void *Py_UNUSED(closure))
{
    ClientLane *self = (ClientLane *)op;
    return PyBytes_FromStringAndSize((const char *)self->farewell, (Py_ssize_t)self->farewell_bytes);
}

static PyObject *get_counters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ClientLane *self = (ClientLane *)op;
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < COUNTERS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(self->counters[i]);
        if (!value || PyDict_SetItemString(dict, counter_names[i], value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    return dict;
}

static PyMethodDef client_lane_methods[] = {
    {"call", (PyCFunction)(void (*)(void))client_lane_call, METH_FASTCALL,
     "call(op, inputs, extent, deadline_ns): claim a slot, copy the inputs' bytes, submit, wait. The slot, which is the caller's; of an "
     "echo the checksum; (slot, status) where the status is not ok; or one of -1 late, -2 ended, -3 draining: not run, "
     "-4 late, -5 ended: it was in flight, and its slot is not the caller's."},
    {"claim", client_lane_claim, METH_VARARGS,
     "claim(most, deadline_ns): a list of 1 to `most` slots; -1, -2 or -3 as call. Waits for the first of them only; an evented "
     "lane does not wait."},
    {"submit", client_lane_submit, METH_VARARGS,
     "submit(slots, op, extent, deadline_ns, flags=0, sampling_steps=0, temperature=0, top_k=0, seed=0): publish them, ring once. "
     "False: the session has ended, nothing was sent."},
    {"wait", client_lane_wait, METH_VARARGS,
     "wait(slots, deadline_ns): until there is news of each: it is done, or has text. 0; -4 it is late; -5 the session ended first."},
    {"release", client_lane_release, METH_O, "Give back a slot that is not in flight."},
    {"abandon", client_lane_abandon, METH_O, "Give up a slot. In flight it stays quarantined until the server has completed it."},
    {"result", client_lane_result, METH_O,
     "Of a slot that is done: (status, flags, extent, batch, checksum, queue_ns, model_ns, message); None: the session ended first."},
    {"ready", client_lane_ready, METH_O, "Is there news of the slot: is it done, or has it text that was not asked for?"},
    {"text", client_lane_text, METH_O,
     "Of a prompt of which there is news: (bytes that were not handed out yet, are they the last?); None: the session has ended, the "
     "server broke the protocol."},
    {"events", client_lane_events, METH_NOARGS,
     "Of an evented lane: read the bells, and say of which slots there is news. The doorbell is readable when there is more."},
    {"end", client_lane_end, METH_VARARGS,
     "end(hang_up, fault=None): fail every call in flight and wake everybody. `hang_up`: the socket is about to be shut down."},
    {"forget", client_lane_forget, METH_NOARGS, "In a forked child: let go of everything that is the parent's."},
    {"counters", get_counters, METH_NOARGS, "The lane's counters by name."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef client_lane_members[] = {
    {"slots", T_UINT, offsetof(ClientLane, lane.at.lane.slot_count), READONLY, "how many slots there are"},
    {"free", T_UINT, offsetof(ClientLane, lane.free_count), READONLY, "slots that nobody owns"},
    {"in_flight", T_UINT, offsetof(ClientLane, lane.in_flight), READONLY, "calls that the server has not completed"},
    {"bound", T_UINT, offsetof(ClientLane, lane.at.bound), READONLY, "of the symbolic dimension; 0: there is none"},
    {"hung_up", T_BOOL, offsetof(ClientLane, hung_up), READONLY, "what is read of the segment from now on may be zeros"},
    {"error", T_INT, offsetof(ClientLane, error), READONLY, "errno with which the doorbell ended, or 0"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef client_lane_getset[] = {
    {"over", get_over, NULL, "has the session ended?", NULL},
    {"broken", get_broken, NULL, "did the server take pages away?", NULL},
    {"led", get_led, NULL, "does a thread poll, or sleep on the doorbell?", NULL},
    {"followers", get_followers, NULL, "how many threads sleep behind that one", NULL},
    {"fault", get_fault, NULL, "how the server broke the protocol, or ''", NULL},
    {"farewell", get_farewell, NULL, "what the server wrote behind its last bell", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot client_lane_slots[] = {
    {Py_tp_doc,
     "ClientLane(segment, header, doorbell, spin_ns=0, ahead_ns=0, evented=False): the client's side of a segment's lane.\n\n"
     "`header` is a private copy of the segment's first page, checked; `doorbell` a socket's descriptor, which the caller closes when the "
     "lane is over and not led. spin_ns: most that a call polls before it sleeps, negative without end; ahead_ns: the server's clock "
     "less ours. Holds the segment's buffer as long as it lives. Any thread may call it."},
    {Py_tp_init, client_lane_init}, {Py_tp_dealloc, client_lane_dealloc}, {Py_tp_methods, client_lane_methods},
    {Py_tp_members, client_lane_members}, {Py_tp_getset, client_lane_getset}, {0, NULL},
};

static PyType_Spec client_lane_spec = {"shm_server._core.ClientLane", sizeof(ClientLane), 0, Py_TPFLAGS_DEFAULT,
                                       client_lane_slots};

int client_lane_add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &client_lane_spec, NULL);
    int added = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return added;
}
