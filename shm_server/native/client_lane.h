/* shm_server._core.ClientLane: the client's side of a segment's lane; see client.c. */
#ifndef SHM_CLIENT_LANE_H
#define SHM_CLIENT_LANE_H

#include <Python.h>

int client_lane_add_type(PyObject *module);

#endif
