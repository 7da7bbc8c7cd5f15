"""
grading.py: what the graded tests share. A test that grades names them, and compares with `grade`:

    @graded("guide")
    def test_guidance(impl):
        want = 4 * e_c - 3 * e_0
        grade(impl.guide(e_c, e_0, 3), want, {"e_c and e_0 have changed places": 4 * e_0 - 3 * e_c})

`conftest.py` hands a student's functions to it under --impl, and prints what `grade` has to say.
"""

from pathlib import Path

import pytest
import torch

STUBS = sorted((Path(__file__).parent.parent / "assignments").glob("ex*.py"))
graded = pytest.mark.graded


class Mistake(AssertionError):
    """A wrong answer of a graded function. The message is for the student."""


def as_tensor(x):
    x = torch.stack([*map(torch.as_tensor, x)]) if isinstance(x, list | tuple) else x
    return torch.as_tensor(x).detach().double()


def differ(got, want, rtol, atol):
    return got.shape != want.shape or not torch.allclose(got, want, rtol, atol)


def grade(got, want, mistakes=(), rtol=1e-5, atol=1e-8, what="the answer"):
    """Raises Mistake unless got equals want, numbers, tensors or tuples of equal tensors.

    mistakes: {message: what this mistake answers}; the first one that fits is named. A message
    whose answer is the right one here cannot be told from it, and does no harm."""
    __tracebackhide__ = True
    if got is None:
        raise Mistake(f"{what} is None: does every path of your function end with a return?")
    if isinstance(got, str | dict) or isinstance(got, tuple) and not isinstance(want, list | tuple):
        raise Mistake(f"{what} is a {type(got).__name__}, it should be one number or tensor")
    try:
        got, want = as_tensor(got), as_tensor(want)
    except (TypeError, ValueError, RuntimeError) as e:
        raise Mistake(f"{what} is no number or tensor: {str(e).splitlines()[0]}") from None
    if not differ(got, want, rtol, atol):
        return
    for message, wrong in dict(mistakes).items():
        if not differ(got, as_tensor(wrong), rtol, atol):
            raise Mistake(message)
    if got.shape != want.shape:
        shape = tuple(want.shape) or "() like one number"
        raise Mistake(f"{what} has shape {tuple(got.shape)}, it should be {shape}")
    if not got.isfinite().all():
        raise Mistake(f"{what} holds NaN or Inf: the root of something below 0, a division by 0?")
    off = (got - want).abs()
    at = off.argmax()
    told = f"{got.flatten()[at]:.6g} where {want.flatten()[at]:.6g} is right"
    raise Mistake(f"{what} is off{' by up to' if off.ndim else ' by'} {off.max():.3g}: {told}")


def refuses(call, message):
    """Raises Mistake(message) unless call() raises ValueError."""
    __tracebackhide__ = True
    try:
        call()
    except ValueError:
        return
    except NotImplementedError:  # a stub
        raise
    except Exception as e:
        raise Mistake(f"{message} (here it is {type(e).__name__})") from None
    raise Mistake(message)
