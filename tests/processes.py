"""
processes.py: a second process for a test, without a second import of torch (three seconds each).

A forked process has all that the test has imported, so it begins at once, and the test knows its
number. It never returns into pytest. Not a test by itself.
"""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path


def start(work, said=os.devnull, **env):
    """Run work() in a process of its own that prints to the file `said`. -> its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(env)
        sys.stdout = sys.stderr = open(said, "a", buffering=1)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # without pytest's own last words


def end(child, seconds=90):
    """Wait for a process, and kill one that hangs. -> its exit code."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return stop(child)


def stop(child):
    """Kill a process, as the system does where memory is short. -> its exit code, -9."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_group(work, folder, world=2):
    """work() in `world` processes that find each other, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    files = [str(Path(folder) / f"said-{rank}") for rank in range(world)]
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    both = zip(files, places, strict=True)
    children = [start(work, said, **group, **place) for said, place in both]
    codes = [end(child) for child in children]
    assert codes == [0] * world, "\n".join(Path(said).read_text()[-2000:] for said in files)
