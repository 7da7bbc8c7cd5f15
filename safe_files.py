"""
safe_files.py: files that are whole or not there, and folders that one process at a time writes to.

A run may be killed at any moment, a disk may be full, and the same command may be started twice. So

    with whole("RUN/model.pt") as path:      # a name of its own beside it
        torch.save(weights, path)            # ... becomes RUN/model.pt only when it is complete

    with Lock("RUN/.lock"):                  # the second process is told who is at work
        ...
"""

import contextlib
import json
import os
import time

try:
    import fcntl
except ImportError:  # Windows: there two runs in one folder are not noticed
    fcntl = None

from errors import RunError


@contextlib.contextmanager
def whole(path):
    """A temporary name to write to; renamed to `path` at the end, removed after an error.

    Renaming is one act of the file system: a reader sees the old file or the new one, never half.
    The name holds the process's number, so that two processes cannot write to one file."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        # After the rename there is nothing to remove; after an error there may be half a file.
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_json(path, value):
    """value as JSON, whole or not at all."""
    with whole(path) as temporary, open(temporary, "w") as f:
        json.dump(value, f, indent=1)


class Lock:
    """A file that one process at a time can hold; the system frees it when that process ends.

    wait    False: RunError, with `told`, where another process holds it; True: print `told` once,
            and wait until it is free
    The file holds the number of its process, for people; what counts is the system's lock on it,
    so a file that a killed process left behind is no obstacle."""

    def __init__(self, path, told, wait=False):
        self.path, self.told, self.wait, self.file = path, told, wait, None

    def __enter__(self):
        if fcntl is None:
            return self
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        # Five looks a second cost nothing, and the line is printed once.
        waiting = False
        while not self.take():
            if not self.wait:
                raise RunError(f"{self.told} (process {self.holder()})")
            if not waiting:
                print(f"{self.told} (process {self.holder()}): waiting for it", flush=True)
            waiting = True
            time.sleep(0.2)
        return self

    def take(self):
        """Try once. True: it is ours."""
        file = open(self.path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between our two calls: then we hold a lock
            # on a file that nobody else can see. Try again with the one that is there now.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                self.file = file
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        file.close()
        return False

    def holder(self):
        """The number of the process that holds it, as far as it can be read."""
        try:
            with open(self.path) as f:
                return f.read() or "unknown"
        except FileNotFoundError:
            return "unknown"

    def __exit__(self, *error):
        if self.file is not None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path)
            self.file.close()
            self.file = None
