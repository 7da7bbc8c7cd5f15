"""
errors.py: what can go wrong without being a bug, and the one place that turns it into one line.

A file may be missing, a flag may be wrong, a disk may be full. A reader then needs one sentence:
what was wrong, where, what to do. So our functions raise an InputError whose text is that
sentence, and `run_script`, through which every script starts, prints it. All other exceptions are
bugs of ours: they keep their traceback, which is what somebody needs to mend them.
"""

import os
import sys


class InputError(Exception):
    """Wrong input: one line that says what was wrong, where, and what to do."""


class DataError(InputError):
    """A data set: missing, broken, or not what its layout says."""


class EncoderError(InputError):
    """A frozen encoder: no such name, no weights, weights that cannot be trusted."""


class DeviceError(InputError):
    """A device that cannot be used."""


class RunError(InputError):
    """A run: wrong flags, a broken checkpoint, a folder in use."""


def run_script(name, main, stopped="stopped"):
    """Call main(); leave with one line, and status 1, at what is no bug.

    name: the script's; stopped: what Ctrl-C prints, for a script that can go on later."""
    try:
        main()
        sys.stdout.flush()  # a full disk or a closed pipe should show here, not after the end
    except InputError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: {stopped}")
    except BrokenPipeError:
        # `python evaluate.py RUN | head` closes the pipe when it has seen enough. What Python still
        # holds for it goes nowhere, or it would complain once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # Of files: no permission, no space, gone meanwhile. The system's own words are good.
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(f"{name}: {error.strerror or error}{where}")
    except MemoryError as error:
        sys.exit(f"{name}: {out_of_memory(error)}")
    except RuntimeError as error:
        # PyTorch says "not enough memory" in a RuntimeError, on a CPU, and in a class of its own
        # below it on a GPU. Any other RuntimeError is a bug.
        if "memory" not in str(error).lower():
            raise
        sys.exit(f"{name}: {out_of_memory(error)}")


def out_of_memory(error):
    """One line about what did not fit."""
    told = str(error).splitlines()[0][:200] if str(error) else "out of memory"
    return f"{told}; make it smaller: --batch, --width, --layers, --limit, or fewer --K"
