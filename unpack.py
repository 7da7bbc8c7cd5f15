"""
unpack.py: a zip or tar file from somewhere else, unpacked without believing what it says.

    unpack("val2017.zip", "new/folder", wanted=["val2017"], most=860_000_000)

An archive is a list of names, each with bytes, and whoever unpacks it writes these bytes to files
of these names. That is a program with few commands, written by a stranger:

    ../../.bashrc              a name may lead out of the folder, and replace a file of yours
    /etc/passwd, C:\\x          so may one that begins at the top of the disk
    x -> /home/you, x/notes    or a link that leads out, with a file below it
    a device, a pipe           opened later, they hang, or speak to the hardware
    9 TB of zeros in 10 MB     a disk is full before anybody has noticed

So: only files and folders with names below the new folder, each name once, and no more bytes than
was said before. One that breaks a rule makes the whole archive suspect: nothing of it is kept.
"""

import contextlib
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from typing import Any, NamedTuple

from errors import DataError

BLOCK = 2**20  # bytes copied at once
# What the libraries raise at a damaged archive. Any other OSError speaks of the disk.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
)


class Member(NamedTuple):
    """One entry of an archive."""

    name: str
    kind: str  # "file", "folder", or what else it is, in words
    size: int  # bytes once unpacked, as the archive has it
    open: Any  # open() -> a binary file to read these bytes from


def unpack(path, folder, wanted, most):
    """Unpack what lies at or below the names in `wanted` into a folder, which must not exist yet.

    most: how many bytes all of it may come to. DataError, and no folder: an unsafe name, a link, a
    device, a name twice, a password, too many bytes, or an archive that cannot be read."""
    os.makedirs(folder)
    try:
        left = most
        for member in members(path):
            # What is not wanted is looked at all the same: an archive with one bad name is bad.
            check(path, member)
            if member.kind == "folder" or not is_below(member.name, wanted):
                continue
            if member.size > left:
                raise DataError(f"{path}: unpacked it is larger than the {most:,} bytes expected")
            left -= write(path, member, folder)
    except DAMAGED as error:
        shutil.rmtree(folder)
        why = str(error).partition("\n")[0]
        raise DataError(f"{path}: no whole zip or tar file ({why}); fetch it again") from error
    except BaseException:
        shutil.rmtree(folder)
        raise


def members(path):
    """Yield the Members of a .zip, or of a .tar, .tar.gz, ... in their order."""
    if zipfile.is_zipfile(path):
        yield from zip_members(path)
    else:
        yield from tar_members(path)


def zip_members(path):
    """Those of a zip file. Links have no field of their own there: they are in the Unix mode."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # The mode is 0 where the archive was made on another system.
            mode = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                kind = "folder"
            elif info.flag_bits & 1:
                kind = "a file with a password"
            else:
                kind = "file" if mode in (0, stat.S_IFREG) else "a link or device"
            yield Member(info.filename, kind, info.file_size, lambda i=info: archive.open(i))


def tar_members(path):
    """Those of a tar file, read once from its beginning to its end."""
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                kind = "folder"
            else:
                kind = "file" if info.isreg() else "a link or device"
            yield Member(info.name, kind, info.size, lambda i=info: archive.extractfile(i))


def check(path, member):
    """DataError for a member that is neither a file nor a folder, or whose name is not below here.

    A backslash and a colon are harmless here, and are a folder and a disk on Windows."""
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or any(c in member.name for c in "\\:\0"):
        raise DataError(f"{path}: unsafe name {member.name!r}; nothing of it was unpacked")
    if member.kind not in ("file", "folder"):
        told = f"{member.name!r} is {member.kind}"
        raise DataError(f"{path}: {told}, which has no place in it; nothing was unpacked")


def is_below(name, wanted):
    """Whether a name is one of `wanted`, or lies in one of them. "./x" is "x"."""
    name = os.path.normpath(name)
    return any(name == top or name.startswith(top + "/") for top in wanted)


def write(path, member, folder):
    """Write one file below the folder. -> its bytes. DataError: its name is there already."""
    target = os.path.join(folder, os.path.normpath(member.name))
    count = 0
    # "x" opens no file that is there already. The mode, owner and date are not the archive's.
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        file = open(target, "xb")
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"{path}: {member.name!r} is in it twice; nothing was unpacked") from None
    with contextlib.closing(member.open()) as source, file:
        while block := source.read(BLOCK):
            count += len(block)
            # The size that stands in an archive is a claim; what counts is what comes out.
            if count > member.size:
                raise DataError(f"{path}: {member.name!r} is longer than it says")
            file.write(block)
    return count
