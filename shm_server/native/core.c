/* shm_server._core: the rings of ring.h, and the memory that they are in, as Python types.
 *
 * Mapping a segment's pages, guarded: mapping.c.
 * Lane    one lane of one session: drain, complete, gather: lane.c.
 * Poller  spins and sleeps over many lanes with the GIL released, and hands out one drained lane at a time: poller.c.
 *
 * One thread, the data thread, calls everything of the latter two but Poller.wake(), which any thread may call. Limited
 * API 3.11.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "client_lane.h"
#include "lane.h"
#include "mapping.h"
#include "poller.h"

static PyObject *core_checksum(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    Py_buffer view;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    struct ring_sums sums = {0, 0};
    ring_sum(&sums, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(ring_checksum_of(sums));
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
    if (lane_add_type(module) < 0 || poller_add_type(module) < 0 || mapping_add_type(module) < 0 ||
        client_lane_add_type(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
