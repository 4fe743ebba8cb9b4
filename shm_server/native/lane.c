#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include "guard.h"
#include "lane.h"

PyTypeObject *lane_type;

static void lane_release(Lane *self)
{
    if (!self->open)
        return;
    self->open = false;
    PyMem_Free(self->ring.in_flight);
    PyMem_Free(self->ring.batch);
    PyMem_Free(self->ring.aside.batch);
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

/* Are all outputs of the mask there, and of fp32? */
static bool lane_floats(const Lane *self, uint32_t mask)
{
    const struct geometry *at = &self->ring.at;
    for (; mask; mask &= mask - 1) {
        uint32_t output = (uint32_t)__builtin_ctz(mask);
        if (output >= at->lane.output_count ||
            at->tensors[at->lane.input_count + output].datatype != SHM_DATATYPE_FP32)
            return false;
    }
    return true;
}

static int lane_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "doorbell", "finite", NULL};
    Lane *self = (Lane *)op;
    PyObject *segment;
    unsigned int finite = 0;
    int doorbell;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oi|I:Lane", names, &segment, &doorbell, &finite))
        return -1;
    if (self->open) {
        PyErr_SetString(PyExc_TypeError, "a Lane is initialised once");
        return -1;
    }
    if (PyObject_GetBuffer(segment, &self->segment, PyBUF_WRITABLE) < 0)
        return -1;
    if (!ring_open(&self->ring, self->segment.buf, (uint64_t)self->segment.len, doorbell)) {
        PyBuffer_Release(&self->segment);
        PyErr_SetString(PyExc_ValueError, "the segment's header describes no lane that can be served");
        return -1;
    }
    if (!lane_floats(self, finite)) {
        PyBuffer_Release(&self->segment);
        PyErr_Format(PyExc_ValueError, "finite=%u: expected a mask of FP32 outputs, there are %u outputs", finite,
                     self->ring.at.lane.output_count);
        return -1;
    }
    self->finite = finite;
    const _Atomic uint32_t *broken = guard_broken_at(self->segment.buf);
    if (broken)
        self->ring.broken = broken; /* valid as long as the buffer that we hold */
    self->open = true;
    self->ring.in_flight = PyMem_Calloc(self->ring.at.lane.slot_count, 1);
    self->ring.batch = PyMem_Calloc(self->ring.at.lane.slot_count, sizeof *self->ring.batch);
    bool prompts = self->ring.at.lane.protocol == SHM_PROTOCOL_STREAM;
    if (prompts)
        self->ring.streams = PyMem_Calloc(self->ring.at.lane.slot_count, sizeof *self->ring.streams);
    if (!self->ring.in_flight || !self->ring.batch || (prompts && !self->ring.streams)) {
        lane_release(self);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

bool lane_ready(Lane *self)
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

static PyObject *lane_swap(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Lane *self = (Lane *)op;
    if (!lane_ready(self))
        return NULL;
    if (!self->ring.aside.batch) /* few models ask for it */
        self->ring.aside.batch = PyMem_Calloc(self->ring.at.lane.slot_count, sizeof *self->ring.aside.batch);
    if (!self->ring.aside.batch)
        return PyErr_NoMemory();
    ring_swap(&self->ring);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_echo(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (!lane_ready((Lane *)op))
        return NULL;
    ring_complete_echo(&((Lane *)op)->ring);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_calls(PyObject *op, PyObject *arg)
{
    Lane *self = (Lane *)op;
    unsigned long batch = PyLong_AsUnsignedLong(arg);
    if ((batch == (unsigned long)-1 && PyErr_Occurred()) || !lane_ready(self))
        return NULL;
    ring_complete_calls(&self->ring, (uint32_t)batch, self->finite);
    Py_RETURN_NONE;
}

static PyObject *lane_complete_error(PyObject *op, PyObject *message)
{
    Lane *self = (Lane *)op;
    char *text;
    Py_ssize_t length;
    if (!lane_ready(self) || PyBytes_AsStringAndSize(message, &text, &length) < 0)
        return NULL;
    if (length > SHM_MESSAGE_BYTES) {
        PyErr_Format(PyExc_ValueError, "a message of %zd bytes, %d fit", length, (int)SHM_MESSAGE_BYTES);
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
        const struct shm_submission *s = &self->ring.batch[i].s;
        /* y#: the text is copied out of the segment before anybody looks at it. N takes the reference, of None too. */
        PyObject *temperature = s->flags & SHM_SUBMISSION_FLAG_WITH_TEMPERATURE
                                    ? PyFloat_FromDouble((double)s->temperature) : Py_NewRef(Py_None);
        PyObject *top_k = s->flags & SHM_SUBMISSION_FLAG_WITH_TOP_K
                              ? PyLong_FromUnsignedLong(s->top_k) : Py_NewRef(Py_None);
        PyObject *seed = s->flags & SHM_SUBMISSION_FLAG_WITH_SEED
                             ? PyLong_FromUnsignedLongLong(s->seed) : Py_NewRef(Py_None);
        PyObject *item = Py_BuildValue("Iy#INNNK", s->slot, (const char *)ring_row(&self->ring, 0, s->slot),
                                       (Py_ssize_t)s->extent, s->sampling_steps, temperature, top_k, seed,
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

/* ---- tensors ---- */

/* `rows` rows of `row_bytes` each, from `row` on, of a buffer that has them all; NULL with an exception. */
static uint8_t *lane_rows(const Py_buffer *view, unsigned int row, unsigned int rows, unsigned int row_bytes)
{
    if (row_bytes && (uint64_t)view->len / row_bytes >= (uint64_t)row + rows)
        return (uint8_t *)view->buf + (size_t)row * row_bytes;
    PyErr_Format(PyExc_ValueError, "%u rows of %u bytes from row %u on do not fit %zd bytes", rows, row_bytes, row,
                 view->len);
    return NULL;
}

static PyObject *lane_gather(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    PyObject *out;
    unsigned int input, row, row_bytes;
    if (!PyArg_ParseTuple(args, "IOII:gather", &input, &out, &row, &row_bytes) || !lane_ready(self))
        return NULL;
    if (input >= self->ring.at.lane.input_count)
        return PyErr_Format(PyExc_ValueError, "input %u, there are %u", input, self->ring.at.lane.input_count);
    Py_buffer view;
    if (PyObject_GetBuffer(out, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    uint8_t *rows = lane_rows(&view, row, self->ring.count, row_bytes);
    if (rows)
        ring_gather(&self->ring, input, rows, row_bytes);
    PyBuffer_Release(&view);
    return rows ? Py_NewRef(Py_None) : NULL;
}

static PyObject *lane_scatter(PyObject *op, PyObject *args)
{
    Lane *self = (Lane *)op;
    PyObject *from;
    unsigned int output, row, row_bytes;
    int by_slot;
    if (!PyArg_ParseTuple(args, "IOIIp:scatter", &output, &from, &row, &row_bytes, &by_slot) || !lane_ready(self))
        return NULL;
    if (output >= self->ring.at.lane.output_count)
        return PyErr_Format(PyExc_ValueError, "output %u, there are %u", output, self->ring.at.lane.output_count);
    if (by_slot && !ring_contiguous(&self->ring)) {
        PyErr_SetString(PyExc_ValueError, "rows by slot, of slots that are no neighbours");
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(from, &view, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    uint8_t *rows = lane_rows(&view, row, self->ring.count, row_bytes);
    if (rows)
        ring_scatter(&self->ring, output, rows, row_bytes, by_slot);
    PyBuffer_Release(&view);
    return rows ? Py_NewRef(Py_None) : NULL;
}

PyObject *counter_dict(const char *const *names, const uint64_t *values, size_t count)
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
    {"swap", lane_swap, METH_NOARGS, "Exchange the batch in hand with the one put aside, so that another may be taken meanwhile."},
    {"complete_echo", lane_complete_echo, METH_NOARGS, "Read every byte of the batch's inputs, answer with checksums."},
    {"complete_calls", lane_complete_calls, METH_O,
     "complete_calls(batch): answer the batch, whose outputs stand in the segment; `batch` requests were run together."},
    {"complete_error", lane_complete_error, METH_O, "Answer the batch with a model error; UTF-8 bytes that fit a message."},
    {"begin_prompts", lane_begin_prompts, METH_NOARGS,
     "Move the batch to the prompts in flight; a list of (slot, text, sampling_steps, temperature, top_k, seed, deadline), "
     "the text copied, as bytes; None for what the client leaves open."},
    {"append", lane_append, METH_VARARGS, "append(slot, text): let the client have more text, at most room(slot) bytes."},
    {"room", lane_room, METH_O, "Bytes of text that the slot's reply still takes."},
    {"cancelled", lane_cancelled, METH_O, "Does the client want no more of the slot's prompt?"},
    {"finish_prompt", lane_finish_prompt, METH_VARARGS,
     "finish_prompt(slot, status, flags, message, started_ns=0): complete the slot's prompt with the text so far."},
    {"gather", lane_gather, METH_VARARGS,
     "gather(input, out, row, row_bytes): copy the batch's rows of an input, in order, to rows from `row` on; zeros behind "
     "what counts."},
    {"scatter", lane_scatter, METH_VARARGS,
     "scatter(output, rows, row, row_bytes, by_slot): copy rows from `row` on to the batch's rows of an output, in the batch's "
     "order, or with by_slot in that of the slots."},
    {"counters", lane_counters, METH_NOARGS, "The lane's counters by name, totals since it was opened."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"count", T_UINT, offsetof(Lane, ring.count), READONLY, "requests in the batch; 0 when none was taken"},
    {"op", T_UINT, offsetof(Lane, ring.op), READONLY, "operation of the whole batch; 0 with a fault"},
    {"lowest", T_UINT, offsetof(Lane, ring.lowest), READONLY, "lowest slot of the batch"},
    {"extent", T_UINT, offsetof(Lane, ring.extent), READONLY, "largest extent of the batch"},
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
    {Py_tp_doc, "Lane(segment, doorbell, finite=0): the server's side of a segment's lane.\n\n"
                "Holds the segment's buffer until close(). `doorbell` is a socket's descriptor, or -1 for none; `finite` a mask of "
                "FP32 outputs in which a NaN or an infinity is a model error."},
    {Py_tp_init, lane_init}, {Py_tp_dealloc, lane_dealloc}, {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members}, {Py_tp_getset, lane_getset}, {0, NULL},
};

static PyType_Spec lane_spec = {"shm_server._core.Lane", sizeof(Lane), 0, Py_TPFLAGS_DEFAULT, lane_slots};

int lane_add_type(PyObject *module)
{
    lane_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    return lane_type ? PyModule_AddType(module, lane_type) : -1;
}
