"""
data_arrays.py: files of your own for the latent bridge: pictures, sounds and arrays.

A picture tells what it is. An array does not: is (32, 32, 3) a colour picture with its channels
last, or a volume of 32 layers? Taken for the wrong thing, it is trained on all the same, and only
the numbers in the tables are bad. So there is one rule for the axes, what it does is said once a
folder, and what it leaves open is refused, with a way to say it.

Map      read_array_or_picture    a file -> an item
         deep_pixels              pictures of more than 8 bits keep their numbers
         as_numbers               which numbers an item may hold
         lay_out                  which axis is what
Letters  V views, C channels, H x W pixels; a volume is (D, H, W)
"""

import os

import numpy as np
from PIL import Image

from data_files import (
    ORIENTATION,
    TURNS,
    channels_first,
    fits_float32,
    load_array,
    read_image,
    say_once,
)
from errors import DataError
from sounds import SPEECH, read_sound

# Pillow's names of grey pixels that are not 8-bit: 16-bit or 32-bit integers, and floats.
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_array_or_picture(path, how=SPEECH):
    """Any file of `pairs`: a picture (C, H, W), or its array as `lay_out` has it.

    8-bit pixels are uint8. All other numbers become float32 and keep their values. A .wav becomes
    a log-mel picture (1, S, S) uint8, as `how` says."""
    if path.lower().endswith(".wav"):
        return read_sound(path, how)
    if path.lower().endswith((".npy", ".npz")):
        return lay_out(as_numbers(load_array(path), path), path)
    pixels = deep_pixels(path)
    if pixels is None:
        return channels_first(read_image(path, path))
    return as_numbers(pixels, path, "16-bit or float pixels")[None]


def deep_pixels(path):
    """(H, W) of a picture of 16-bit grey or floats, as they stand in the file; else None.

    As in a depth map, a TIFF of X-rays: to make them 8-bit would leave few of their levels."""
    try:
        with Image.open(path) as image:
            if image.mode not in DEEP:
                return None
            turn = TURNS.get(image.getexif().get(ORIENTATION))
            return np.asarray(image if turn is None else image.transpose(turn), np.float32)
    except Exception:
        return None  # read_image will say what is wrong with it


def as_numbers(array, path, told=None):
    """The array as uint8, bool or float32. DataError: other numbers, or what float32 cannot hold.

    told: what to say of its numbers; None: nothing, unless they are of 16 bits."""
    if array.dtype in (np.uint8, bool):
        return array
    if array.dtype == np.uint16:
        told = "16-bit numbers"
    elif array.dtype.kind != "f":
        way = "save amounts as float32, classes as one-hot float32"
        raise DataError(f"{path}: {array.dtype}; expected floats, uint8 or bool: {way}")
    # Networks compute in float32. What it cannot hold would be inf, and then NaN, in every weight.
    if not fits_float32(array).all():
        raise DataError(f"{path}: holds NaN, inf or numbers over 3e38")
    if told and array.size:
        span = f"here {array.min():g} to {array.max():g}, as float32"
        say_once((told, os.path.dirname(path)), f"{path}: {told} keep their values, {span}")
    return array.astype(np.float32)


def lay_out(array, path):
    """The array with its axes in our order: (n), (C, H, W), (D, H, W) or (V, C, H, W).

    Programs put the channels first or last, and leave axes of length 1 behind. At most four numbers
    along the first or the last axis of a picture are its channels:

        (512), (1, 512), (512, 1)     a vector (512)
        (28, 30)                      a grey picture (1, 28, 30)
        (3, 28, 30), (28, 30, 3)      a picture (3, 28, 30)
        (16, 28, 30)                  a volume (16, 28, 30)
        (5, 28, 30, 3)                five views (5, 3, 28, 30); with a 1 for the 5, a picture

    DataError for what may be two things, as (3, 28, 3); for no axis to choose; for no number."""
    shape = array.shape
    if sum(n != 1 for n in shape) <= 1 and array.size:
        found = array.reshape(-1)
    elif array.ndim == 2 and array.size:
        found = array[None]
    elif array.ndim == 4 and shape[0] == 1:
        return lay_out(array[0], path)  # a batch of one
    else:
        found = channels_found(array, path)
    # Nothing is turned in silence. For a whole folder it is said once.
    if found.shape != shape:
        where = (os.path.dirname(path), shape)
        say_once(where, f"{path}: an array {shape} is read as {found.shape}")
    return found


def channels_found(array, path):
    """An array of three or four axes with its channels before H and W. DataError: which axis?"""
    shape = array.shape
    expected = "save it as (n), (C, H, W), (D, H, W) or (V, C, H, W), only C being 4 or less"
    if array.ndim not in (3, 4) or not array.size:
        raise DataError(f"{path}: an array {shape} is no item; {expected}")
    first, last = shape[-3], shape[-1]
    # (32, 32, 32, 1) may be a volume, or 32 grey views.
    if (first <= 4 and last <= 4) or (array.ndim == 4 and last == 1):
        raise DataError(f"{path}: an array {shape} may be two things; {expected}")
    if last <= 4:
        return np.ascontiguousarray(np.moveaxis(array, -1, -3))
    if array.ndim == 4 and first > 4:
        raise DataError(f"{path}: an array {shape} has no axis of channels; {expected}")
    return array
