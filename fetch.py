"""
fetch.py: the official archives of a data set, from their official addresses to a loader's folder.

    python data.py --fetch coco              COCO 2014, MT's, 20.4 GB, into datasets/coco
    python data.py --fetch coco-val2017      the smallest that trains: 5,000 photos, 1.1 GB
    python data.py --fetch cifar10 ~/cifar   into a folder of your choice

Nothing calls this by itself. It shows what it would fetch, from where, how much it is and how much
disk is free, and asks. Then, one archive after the other:

    connect -> ROOT/.fetch/train2014.zip.part     a cut connection goes on where it was cut
            -> its size, its SHA-256              a wrong one is removed, and said
            -> ROOT/.fetch/unpacking/...          no name may lead out of this folder
            -> ROOT/.fetch/ready/train2014        complete; the archive is removed
    all of them ready -> ROOT/train2014, ...      renamed: a loader sees the whole set, or nothing

Without the last rule a loader could meet half of the set: COCO's val part alone, for example, is a
set of its own for it. The same command again goes on, or says that there is nothing to do.

Map      fetch, plan                the command, and what it shows before it asks
         get                        one archive, from wherever it is to "ready"
         download, receive          one archive, resumed; Cut: to be tried again
         make_ready, place          unpacked (unpack.py), and then renamed to ROOT
Rules    What can be fetched stands in official_archives.py. This is the only file that opens a
         connection itself; --download lets the libraries of the frozen encoders open theirs. An
         archive is opened only after its checksum has been met.
Units    GB are 10^9 bytes, as on the sets' own pages
"""

import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

from tqdm import tqdm

from data_files import TREES, data_folder, data_places
from errors import DataError
from official_archives import SETS
from safe_files import Lock
from unpack import unpack

TIMEOUT = 60  # seconds without a byte, after which a connection counts as cut
TRIES = 5  # connections to one archive in a call: of 13 GB the first one is often cut
PAUSE = 5  # seconds between them
BLOCK = 2**20  # bytes read at once
WORK = ".fetch"  # below ROOT, so that a finished folder can be renamed; no loader looks into it
READY = "ready"

# --------------------------------------------------------------------------------------------------
# The command


def fetch(name, root=None, yes=False):
    """Fetch what is still missing of a set into root (default: where the loader looks for it).

    yes: do not ask. DataError, one line, for all that can go wrong; what has been fetched by then
    is kept, and the same command goes on from there."""
    if name not in SETS:
        raise refusal(name)
    found = SETS[name]
    root = os.path.expanduser(root or data_folder(found.home) or data_places(found.home)[0])
    missing = [archive for archive in found.archives if not complete(archive, root)]
    # What can only be got by hand is there to be unpacked once it has been got.
    todo = [a for a in missing if a.url or size_of(os.path.join(root, a.name))]
    if todo:
        plan(name, root, found, todo)
        ask(yes)
        with Lock(os.path.join(root, WORK + ".lock"), f"another --fetch is at work in {root}"):
            fetch_all(todo, root)
    else:
        print(f"{name}: nothing to do, what can be fetched of it is in {root}")
    tell_what_is_next(found, root, by_hand=missing != todo)


def fetch_all(archives, root):
    """Fetch the archives, and show them to loaders when all are ready."""
    try:
        for archive in archives:
            get(archive, root)
        place(archives, root)
    finally:
        # Empty folders go. What is half done, also of another set, stays for the next call.
        for folder, _, _ in os.walk(os.path.join(root, WORK), topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


def refusal(name):
    """The DataError for a set that cannot be fetched: where it is to be had."""
    told = f"--fetch {name}: it can fetch {', '.join(SETS)}"
    if name in TREES:
        return DataError(f"{name} needs:{TREES[name]}\n{told}; {name} you have to get yourself")
    if name.startswith("glyph"):
        told += f"; {name} is made of fonts that every machine has, it needs no download"
    return DataError(told)


def plan(name, root, found, todo):
    """Print what will be fetched, from where, and how much. DataError: it does not fit the disk."""
    print(f"{name}: official files, to be put into {root}")
    for archive in todo:
        print(f"  {archive.name:36}{gb(archive.size):>9}  {archive.url or 'it is there already'}")
    here = sum(kept(archive, root) for archive in todo)
    left = sum(archive.size for archive in todo) - here
    told = f"{gb(left)} to download" + (f", {gb(here)} are here already" if here else "")

    # An archive is removed as soon as it is unpacked. So at most all unpacked files and one archive
    # lie on the disk at a time.
    unpacked = sum(archive.unpacked or archive.size for archive in todo)
    needed = unpacked + max(archive.size for archive in todo)
    free = shutil.disk_usage(existing(root)).free
    print(f"{told}; needs {gb(needed)} of disk meanwhile, {gb(unpacked)} in the end")
    print(f"disk: {gb(free)} are free")
    print(f"terms of use: {found.page}")
    if needed - here > free:
        told = f"{gb(needed - here)} are needed in {existing(root)}, {gb(free)} are free"
        raise DataError(f"{told}: name another folder, python data.py --fetch {name} FOLDER")


def ask(yes):
    """Go on only if somebody says so. DataError: there is nobody, or the answer is not y."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise DataError("there is no terminal to ask at: add --yes to download this")
    try:
        answer = input("download it? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise DataError("nothing was downloaded")


def tell_what_is_next(found, root, by_hand):
    """Print the next command, or what has to be got by hand before."""
    # A folder that the loader does not find by itself has to be named.
    own = data_folder(found.home)
    same = own is not None and os.path.realpath(own) == os.path.realpath(root)
    data_dir = "" if same else f" --data-dir {root}"
    text = found.by_hand if by_hand else found.then
    print(text.format(root=root, page=found.page, home=found.home, data_dir=data_dir))


def gb(size):
    """ "13.51 GB"; of small files "2.6 MB"."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def existing(path):
    """The path, or the folder nearest above it that exists: it tells which disk is meant."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


# --------------------------------------------------------------------------------------------------
# What is there already


def is_there(root, path, files):
    """Whether root/path is a file, or a folder with so many files. DataError: it has fewer.

    This program renames complete folders only. So one that lacks files is somebody's own."""
    path = os.path.join(root, path)
    if not os.path.isdir(path):
        return os.path.isfile(path)
    count = sum(not entry.name.startswith(".") for entry in os.scandir(path))
    if count < files:
        told = f"{path} is there, but with {count:,} of {files:,} files"
        raise DataError(f"{told}: move it away, and the same command fetches all of it")
    return True


def complete(archive, *folders):
    """Whether all that an archive gives is in one or the other of the folders."""
    for path, files in archive.gives.items():
        if not any(is_there(folder, path, files) for folder in folders):
            return False
    return True


def size_of(path):
    """Bytes of a file; 0 if there is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def kept(archive, root):
    """How many bytes of an archive need not be downloaded any more."""
    if complete(archive, root, os.path.join(root, WORK, READY)):
        return archive.size
    part = os.path.join(root, WORK, archive.name + ".part")
    own = size_of(os.path.join(root, archive.name))
    return archive.size if own == archive.size else min(size_of(part), archive.size)


def get(archive, root):
    """Bring what one archive gives to ROOT/.fetch/ready, from wherever it is now."""
    work = os.path.join(root, WORK)
    # It may have been brought there, or on to ROOT, by a call that was killed then.
    if complete(archive, root, os.path.join(work, READY)):
        return
    path = own_archive(archive, root)
    mine = path is None
    if mine:
        print(f"{archive.name}: downloading", flush=True)
        path = os.path.join(work, archive.name + ".part")
        download(archive, path)
    check(archive, path, keep=not mine)
    with disk_full(root):
        make_ready(archive, path, work)
    # The reader's own file is left where it is.
    if mine:
        remove(path)


def own_archive(archive, root):
    """The path of an archive that the reader has put into root, or None. DataError: half of one."""
    path = os.path.join(root, archive.name)
    if not archive.unpacked or not os.path.isfile(path):
        return None
    if size_of(path) == archive.size:
        return path
    told = f"{path} has {size_of(path):,} bytes, the official file {archive.size:,}"
    if not archive.url:
        raise DataError(f"{told}: it is not whole, get it again")
    print(f"{told}: it is not used")
    return None


def make_ready(archive, path, work):
    """Put what an archive gives into work/ready, each file and folder complete. DataError."""
    folder = os.path.join(work, "unpacking")
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    if archive.unpacked:
        print(f"{archive.name}: unpacking", flush=True)
        unpack(path, folder, list(archive.gives), archive.unpacked)
    else:
        # A table is what it gives.
        (only,) = archive.gives
        os.makedirs(os.path.dirname(os.path.join(folder, only)))
        os.rename(path, os.path.join(folder, only))
    if not complete(archive, folder):
        raise DataError(f"{archive.name}: it lacks one of {', '.join(archive.gives)}")
    rename_all(archive, folder, os.path.join(work, READY))
    shutil.rmtree(folder)


def rename_all(archive, source, target):
    """Move what an archive gives from one folder to another. What is there already stays."""
    for path in archive.gives:
        here, there = os.path.join(source, path), os.path.join(target, path)
        os.makedirs(os.path.dirname(there), exist_ok=True)
        if not os.path.exists(there):
            os.rename(here, there)
        elif os.path.isdir(here):
            shutil.rmtree(here)
        elif os.path.exists(here):
            os.remove(here)


def place(archives, root):
    """Rename what the archives have given from ready to root, where loaders see it."""
    for archive in archives:
        rename_all(archive, os.path.join(root, WORK, READY), root)
        for path in archive.gives:
            print(f"  {os.path.join(root, path)}")


# --------------------------------------------------------------------------------------------------
# One download


class Cut(Exception):
    """A connection ended too early: another one may go on from there."""


def download(archive, part):
    """All bytes of an archive at `part`, over as many connections as it takes, five at most."""
    for n in range(TRIES):
        if n > 0:
            time.sleep(PAUSE)
        try:
            return receive(archive, part)
        except Cut as cut:
            why = cut
    raise DataError(f"{archive.name}: {why}; {goes_on(archive, part)}")


def goes_on(archive, part):
    """What becomes of the bytes that are here, after an error."""
    if not size_of(part):
        return "the same command tries again"
    told = f"{gb(size_of(part))} of {gb(archive.size)} are kept"
    return f"{told}, the same command goes on from there"


def connect(archive, part):
    """The server's answer to a request for the bytes that `part` lacks. DataError: there is none.

    A Range asks for what comes after the bytes that are here; If-Range, for all of it if the file
    is not the one any more of which these were. A server may answer 206, "here is the part"; 200,
    "here is all of it"; or 416, "there is no such part"."""
    have = size_of(part)
    headers = {"User-Agent": "data.py --fetch", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and etag_of(part):
        headers["If-Range"] = etag_of(part)
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            remove(part)
            raise Cut("the server has no such part of the file") from None
        if error.code == 404:
            raise DataError(f"{archive.url}: 404, the file is not there any more") from None
        told = f"{archive.url}: the server answers {error.code} {error.reason}"
        raise DataError(f"{told}; try again later") from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error or type(error).__name__
        told = f"no connection to {archive.url} ({why}): is this machine online?"
        raise DataError(f"{told} If so, {goes_on(archive, part)}") from None


def receive(archive, part):
    """One connection: add to `part` what the server sends. Cut: it sends too little."""
    os.makedirs(os.path.dirname(part), exist_ok=True)
    if size_of(part) > archive.size:
        remove(part)
    have = size_of(part)
    if have == archive.size:
        return
    with connect(archive, part) as answer:
        begin = check_answer(archive, part, answer)
        if begin == 0 and have:
            print(f"{archive.name}: the server sends it from the beginning")
        # 206 after the same file: add. All else: begin again.
        with disk_full(part), open(part, "ab" if begin else "wb") as file:
            note_etag(part, answer)
            copy(archive, answer, file, begin)
    if size_of(part) < archive.size:
        raise Cut("the connection was cut")


def check_answer(archive, part, answer):
    """Where in the file the answer begins, which is 0 or the size of `part`.

    DataError: it is another file, by its size. Cut: another one than before, or another part."""
    headers = answer.headers
    if headers.get_content_type() == "text/html":
        told = f"{archive.url} answers with a web page, not with the file"
        raise DataError(f"{told}: open it in a browser; it may ask something, or be too busy today")
    begin, total = 0, headers.get("Content-Length")
    if answer.status == 206:
        # Content-Range: bytes 500-999/1000
        span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = int(span.partition("-")[0]) if span.partition("-")[0].isdecimal() else -1
    if (total or "").isdecimal() and int(total) != archive.size:
        remove(part)
        told = f"{int(total):,} bytes at the server, {archive.size:,} are published"
        raise DataError(f"{archive.url}: wrong size, {told}: the file has changed")
    changed = begin and etag_of(part) and headers.get("ETag") != etag_of(part)
    if changed or begin not in (0, size_of(part)):
        remove(part)
        raise Cut("the file at the server has changed meanwhile")
    return begin


def copy(archive, answer, file, begin):
    """Write what comes to the file. Cut: the connection broke. DataError: too much comes."""
    look = {"unit": "B", "unit_scale": True, "disable": None}  # None: only in a terminal
    with tqdm(desc=archive.name, initial=begin, total=archive.size, **look) as bar:
        while True:
            # read1 gives what has come; read would wait for all of a block, and lose it in a cut.
            try:
                block = answer.read1(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise Cut(f"the connection was cut ({error or type(error).__name__})") from None
            if not block:
                return
            begin += len(block)
            if begin > archive.size:
                raise DataError(f"{archive.url}: wrong size, over {archive.size:,} bytes come")
            file.write(block)
            bar.update(len(block))


def etag_of(part):
    """The server's name for the version of the file of which `part` is the beginning, or ""."""
    if not os.path.isfile(part + ".etag"):
        return ""
    with open(part + ".etag") as f:
        return f.read()


def note_etag(part, answer):
    # W/"..." says that two files mean the same: their bytes may differ, so it is of no use here.
    tag = answer.headers.get("ETag", "")
    with open(part + ".etag", "w") as f:
        f.write("" if tag.startswith("W/") else tag)


def remove(part):
    for path in (part, part + ".etag"):
        if os.path.exists(path):
            os.remove(path)


@contextmanager
def disk_full(path):
    """Turns "no space left" into a line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        told = f"the disk of {path} is full"
        raise DataError(f"{told}: free some space, the same command goes on from here") from None


def check(archive, path, keep):
    """DataError unless the file has the published checksum; then it is removed, unless keep."""
    print(f"{archive.name}: checking", flush=True)
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    if total.hexdigest() == archive.sha256:
        return
    if keep:
        raise DataError(f"{path}: wrong checksum, it is not the official file: remove it")
    remove(path)
    told = f"{archive.name}: wrong checksum (SHA-256 {total.hexdigest()[:12]}...)"
    raise DataError(f"{told}: removed; the same command fetches it again")
