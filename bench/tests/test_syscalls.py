import subprocess
import sys

import pytest

from bench import syscalls

PERF = """# started on Tue Nov 24 00:00:00 2026

{count},,raw_syscalls:sys_enter,0,100.00,,
"""
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3       100           read
 40.00    0.000200           4        50         7 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           3       150{errors} total
"""


def test_totals_are_read_from_what_the_tools_print():
    assert syscalls.parse("perf", PERF.format(count=1234)) == 1234
    assert syscalls.parse("strace", STRACE.format(errors="         7")) == 150
    assert syscalls.parse("strace", STRACE.format(errors="")) == 150


def test_a_tool_that_counted_nothing_says_so_by_no_number():
    assert syscalls.parse("perf", "<not supported>,,raw_syscalls:sys_enter,0,100.00,,") == 0
    assert syscalls.parse("strace", "") == 0


def test_system_calls_of_a_running_process_are_counted(tmp_path):
    tool = syscalls.tool()
    if tool is None:
        pytest.skip("neither perf nor strace may be used here")
    code = "input(); [os.getppid() for _ in range(1000)]; print('done', flush=True); input()"
    command = [sys.executable, "-c", f"import os; print('begun', flush=True); {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "begun\n"
        with syscalls.counted(tool, {"child": child.pid}, tmp_path) as calls:
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
        child.communicate("\n")
    assert 1000 <= calls["child"] < 1100
