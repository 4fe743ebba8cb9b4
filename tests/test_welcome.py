"""What a server says in its welcome."""

import os
import socket
import time

import numpy as np
from client import read_frame

from shm_server import layout
from shm_server.layout import FrameKind
from shm_server.session import doorbell


def test_a_welcome_says_what_the_servers_clock_reads():
    """A client of another time namespace sends its deadlines by it; layout.md, "Welcome"."""
    ours, theirs = socket.socketpair()
    fd = os.memfd_create("segment")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    doorbell.send_welcome(theirs, fd, 8192, 7, server="s", model={"name": "m"})
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    kind, body, fds = read_frame(ours)
    welcome = np.frombuffer(body, layout.welcome, 1)[0]
    assert kind == FrameKind.WELCOME
    assert before <= int(welcome["clock"]) <= after
    assert (welcome["layout_major"], welcome["layout_minor"]) == (2, 0)
    for each in (fd, *fds):
        os.close(each)
    ours.close()
    theirs.close()
