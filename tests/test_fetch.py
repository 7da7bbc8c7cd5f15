"""
Fetching official archives, from a small server on 127.0.0.1 that cuts, lies and forgets; hostile
archives; and where data are looked for.
"""

import errno
import hashlib
import http.server
import io
import os
import re
import shutil
import socket
import stat
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_layouts import write_coco

import data
import data_files
import fetch
import train
import train_bridge
import unpack
from data_files import data_folder
from data_pairs import load_pairs
from errors import DataError, RunError
from official_archives import SETS, Archive, Official
from safe_files import Lock

ROOT = Path(data.__file__).parent


# --------------------------------------------------------------------------------------------------
# A server, and archives


class Site:
    """What the server has, and how it misbehaves.

    files    {path: bytes};  etag   {path: text}
    cuts     bytes after which the next answers break off; None: not
    how      words: "no range", "no if-range", "416", "404", "503", "page", "chunked"
    asked    [(path, Range), ...]"""

    def __init__(self):
        self.files, self.etag, self.cuts, self.asked = {}, {}, [], []
        self.how, self.length = "", None

    def answer(self, handler):
        path, span = handler.path[1:], handler.headers.get("Range")
        self.asked.append((path, span))
        if self.how in ("404", "503"):
            return handler.send_error(int(self.how))
        body, status = self.files[path], 200
        tag = self.etag.get(path)
        same = handler.headers.get("If-Range") in (None, tag) or self.how == "no if-range"
        sent = {"Content-Length": self.length or len(body), "ETag": tag}
        if span and same and self.how != "no range":
            begin = int(span.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body) or self.how == "416":
                return handler.send_error(416)
            whole = self.length or len(body)
            body, status = body[begin:], 206
            sent["Content-Range"] = f"bytes {begin}-{whole - 1}/{whole}"
            sent["Content-Length"] = len(body)
        if self.how == "page":
            sent["Content-Type"] = "text/html; charset=utf-8"
        handler.send_response(status)
        if self.how == "no length":
            del sent["Content-Length"]
        for key, value in sent.items():
            if value is not None:
                handler.send_header(key, str(value))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        handler.wfile.write(body[:cut])
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch):
    """A Site that is online; without waiting between tries, and without anybody's proxy."""
    found = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found.answer(self)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(fetch, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("MODALITY_DATA", raising=False)
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def noise(n, seed=0):
    """Bytes that no archive makes smaller."""
    return np.random.default_rng(seed).bytes(n)


def zipped(files):
    """A zip file of {name: bytes}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


def tarred(members):
    """A .tar.gz of [(TarInfo, bytes)]."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for info, body in members:
            info.size = len(body) if info.isreg() else info.size
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def row(site, name, body, gives, unpacked=10**6, sha=None):
    """The Archive of a body, which the server then has."""
    site.files[name] = body
    sha = sha or hashlib.sha256(body).hexdigest()
    return Archive(name, f"{site.url}/{name}", len(body), sha, gives, unpacked)


PHOTOS = {f"photos/{n}.jpg": noise(300 + 17 * n, n) for n in range(5)}
WORDS = noise(777, 99)


@pytest.fixture
def toy(site, monkeypatch, tmp_path):
    """toy() fetches a set of three files, a zip, a .tar.gz and a table, into its root."""
    body = tarred([(entry("x/a.bin"), noise(900, 7)), (entry("x/b.bin"), noise(1100, 8))])
    archives = [
        row(site, "photos.zip", zipped(PHOTOS), {"photos": 5}),
        row(site, "x.tar.gz", body, {"x": 2}),
        row(site, "words.txt", WORDS, {"lists/words.txt": 1}, 0),
    ]
    monkeypatch.setitem(SETS, "toy", Official("coco", "it", "a page", archives, "now: train"))
    root = tmp_path / "root"

    def call(yes=True):
        fetch.fetch("toy", str(root), yes)

    call.root, call.site, call.archives = root, site, archives
    return call


def lies_in(root):
    """What is in a folder, without what is hidden in it."""
    return (
        sorted(path.name for path in root.iterdir() if path.name[0] != ".") if root.exists() else []
    )


def whole(root):
    """Whether all of the toy set is there, and no work is left."""
    right = all((root / name).read_bytes() == body for name, body in PHOTOS.items())
    right &= (root / "lists/words.txt").read_bytes() == WORDS
    right &= (root / "x/b.bin").read_bytes() == noise(1100, 8)
    return right and sorted(os.listdir(root)) == ["lists", "photos", "x"]


def says(match, call, *args):
    """The one line of the DataError that a call ends with."""
    with pytest.raises(DataError, match=match) as error:
        call(*args)
    line = str(error.value)
    assert "\n" not in line
    return line


# --------------------------------------------------------------------------------------------------
# Downloads


def test_the_whole_set_and_then_nothing(toy, capsys):
    """Files are lost or changed on the way, or a second call fetches them again."""
    toy()
    assert whole(toy.root)
    said = capsys.readouterr().out
    for archive in toy.archives:
        assert archive.url in said
    assert "now: train" in said and "are free" in said and "a page" in said
    asked = list(toy.site.asked)
    assert asked == [(archive.name, None) for archive in toy.archives]
    toy()
    assert toy.site.asked == asked and "nothing to do" in capsys.readouterr().out


def test_a_cut_goes_on_where_it_was(toy, monkeypatch):
    """A cut connection costs all that was fetched, or a loader sees half of a set."""
    monkeypatch.setattr(fetch, "TRIES", 1)
    toy.site.cuts = [None, 0, None, 400]  # of the tar nothing comes; then all; of the words 400
    says("x.tar.gz: the connection was cut; the same command tries again", toy)
    assert lies_in(toy.root) == []
    says("words.txt: .* cut; 0.0 MB of 0.0 MB are kept, the same command goes on", toy)
    assert lies_in(toy.root) == []
    toy()
    assert whole(toy.root)
    names = [name for name, _ in toy.site.asked]
    assert names == ["photos.zip", "x.tar.gz", "x.tar.gz", "words.txt", "words.txt"]
    assert toy.site.asked[-1] == ("words.txt", "bytes=400-")


def test_cuts_are_tried_again(toy, monkeypatch):
    """Over night a download stops at its first cut, or never stops trying."""
    toy.site.cuts = [700, 500, 300]
    toy()
    assert whole(toy.root)
    spans = [span for name, span in toy.site.asked if name == "photos.zip"]
    assert spans == [None, "bytes=700-", "bytes=1200-", "bytes=1500-"]
    shutil.rmtree(toy.root)
    toy.site.asked.clear()
    toy.site.cuts = [3] * 99
    says("photos.zip: the connection was cut", toy)
    assert len(toy.site.asked) == fetch.TRIES


def test_a_server_that_knows_no_range(toy, capsys):
    """What it sends from the beginning is added to what was there."""
    toy.site.how, toy.site.cuts = "no range", [700]
    toy()
    assert whole(toy.root)
    assert "photos.zip: the server sends it from the beginning" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["", "no if-range"])
def test_the_file_changes_meanwhile(toy, how):
    """Half of an old file and half of a new one are taken for a file."""
    right, toy.site.how = toy.site.files["photos.zip"], how
    toy.site.files["photos.zip"], toy.site.etag["photos.zip"] = noise(len(right), 5), '"old"'
    toy.site.cuts = [800]
    answer = toy.site.answer

    def change(handler):
        answer(handler)
        toy.site.files["photos.zip"], toy.site.etag["photos.zip"] = right, '"new"'

    toy.site.answer = change
    toy()
    assert whole(toy.root)


def test_no_such_part(toy):
    """A server's 416 ends the download for good."""
    toy.site.how, toy.site.cuts = "416", [650]
    toy()
    assert whole(toy.root)


def test_a_longer_part_than_there_can_be(toy):
    """A part that is longer than the file is asked for its rest, for ever."""
    part = toy.root / fetch.WORK / "photos.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10**4))
    toy()
    assert whole(toy.root) and toy.site.asked[0] == ("photos.zip", None)


def test_no_length(toy):
    """A server that does not say how long the file is has none, or sends more than it should."""
    toy.site.how = "no length"
    toy()
    assert whole(toy.root)
    shutil.rmtree(toy.root)
    toy.site.files["photos.zip"] += b"more"
    says("wrong size, over [0-9,]+ bytes come", toy)
    assert lies_in(toy.root) == []


def test_wrong_size(toy):
    """A file of another size is downloaded, gigabytes of it, before anybody says so."""
    size = len(toy.site.files["photos.zip"])
    toy.site.length = size + 1000
    line = says("wrong size", toy)
    assert f"{size + 1000:,} bytes at the server, {size:,} are published" in line
    assert not (toy.root / fetch.WORK / "photos.zip.part").exists()
    # The same of the second half, whose own length is the right one.
    toy.site.length, toy.site.cuts = None, [700]
    answer = toy.site.answer

    def change(handler):
        answer(handler)
        toy.site.length = size + 1000

    toy.site.answer = change
    says("wrong size", toy)
    assert lies_in(toy.root) == []


def test_wrong_checksum(toy):
    """Damaged bytes are unpacked, or kept so that every later call fails, too."""
    right = toy.site.files["x.tar.gz"]
    toy.site.files["x.tar.gz"] = right[:500] + b"?" + right[501:]
    says(r"x.tar.gz: wrong checksum \(SHA-256 .*removed; the same command fetches it again", toy)
    assert lies_in(toy.root) == []
    toy.site.files["x.tar.gz"] = right
    toy()
    assert whole(toy.root)


ANSWERS = {
    "404": "photos.zip: 404, the file is not there any more",
    "503": "the server answers 503 Service Unavailable; try again later",
    "page": "photos.zip answers with a web page, not with the file",
}


@pytest.mark.parametrize("how", ANSWERS)
def test_answers_that_are_no_file(toy, how):
    """A page of excuses is saved as the data set, or a traceback explains HTTP."""
    toy.site.how = how
    says(ANSWERS[how], toy)
    assert lies_in(toy.root) == [] and len(toy.site.asked) == 1


def test_no_network(toy, monkeypatch):
    """Without a network there is a traceback, or a wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    closed = toy.archives[0]._replace(url=f"http://127.0.0.1:{port}/photos.zip")
    toy.archives[0] = closed
    says("no connection to http://127.*refused.*: is this machine online?.*tries again", toy)
    assert os.listdir(toy.root) == []


def test_silence_counts_as_cut(toy, monkeypatch):
    """A server that says nothing more holds the download for ever."""
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    monkeypatch.setattr(fetch, "TRIES", 1)
    over = threading.Event()
    answer = toy.site.answer

    def stall(handler):
        toy.site.cuts = [600]
        answer(handler)
        handler.wfile.flush()
        over.wait(5)

    toy.site.answer = stall
    try:
        says("photos.zip: the connection was cut .*timed out", toy)
    finally:
        over.set()
    assert (toy.root / fetch.WORK / "photos.zip.part").stat().st_size == 600


# --------------------------------------------------------------------------------------------------
# The disk, the question, other people's files


def test_no_room(toy, monkeypatch):
    """A disk is filled before anybody has counted."""
    archives = toy.archives
    needed = 2 * 10**6 + len(WORDS) + max(archive.size for archive in archives)
    usage = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
    says("2.0 MB are needed in .*, 2.0 MB are free: name another folder", toy)
    assert not toy.root.exists() and not toy.site.asked
    usage.free += 1
    toy()
    assert whole(toy.root)


@pytest.mark.parametrize("where", ["download", "unpack"])
def test_the_disk_gets_full(toy, monkeypatch, where):
    """A full disk is a traceback, loses what was fetched, or leaves half a folder."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((fetch, "copy") if where == "download" else (unpack, "write")), full)
        says("the disk of .* is full: free some space, the same command goes on from here", toy)
    assert lies_in(toy.root) == []
    work = os.listdir(toy.root / fetch.WORK)
    assert "unpacking" not in work and "photos.zip.part" in work
    toy()
    assert whole(toy.root)
    assert len(toy.site.asked) == (3 if where == "unpack" else 4)


@pytest.mark.parametrize(
    "answer, goes", [("y", True), ("YES ", True), ("n", 0), ("", 0), (None, 0)]
)
def test_the_question(toy, monkeypatch, answer, goes):
    """Gigabytes are fetched without a yes, or not at all."""
    heard = io.StringIO("" if answer is None else answer + "\n")
    heard.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", heard)
    if goes:
        toy(yes=False)
        assert whole(toy.root)
    else:
        says("nothing was downloaded", toy, False)
        assert not toy.root.exists() and not toy.site.asked


def test_nobody_to_ask(toy, monkeypatch):
    """In a script the question waits for ever, or counts as a yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    says("no terminal to ask at: add --yes", toy, False)
    assert not toy.root.exists() and not toy.site.asked


def test_two_at_once(toy):
    """Two calls write into one file."""
    with Lock(str(toy.root / ".fetch.lock"), "first"):
        with pytest.raises(RunError, match="another --fetch is at work in .*root"):
            toy()
    assert not toy.site.asked


def test_somebody_elses_half(toy):
    """A folder with a part of its files is taken for the whole, or is written into."""
    (toy.root / "photos").mkdir(parents=True)
    (toy.root / "photos" / "0.jpg").write_bytes(b"mine")
    (toy.root / "photos" / ".DS_Store").write_bytes(b"")
    says(r"photos is there, but with 1 of 5 files: move it away", toy)
    assert (toy.root / "photos" / "0.jpg").read_bytes() == b"mine" and not toy.site.asked


def test_an_archive_that_is_there(toy, capsys):
    """An archive that somebody has is fetched again, trusted blindly, or removed."""
    toy.root.mkdir()
    mine = toy.root / "photos.zip"
    mine.write_bytes(toy.site.files["photos.zip"][:-1])
    toy()
    assert "it is not used" in capsys.readouterr().out
    assert toy.site.asked[0] == ("photos.zip", None)
    shutil.rmtree(toy.root / "photos")
    toy.site.asked.clear()
    mine.write_bytes(toy.site.files["photos.zip"])
    toy()
    assert not toy.site.asked and mine.exists() and (toy.root / "photos").is_dir()
    shutil.rmtree(toy.root / "photos")
    mine.write_bytes(noise(len(toy.site.files["photos.zip"]), 3))
    says("photos.zip: wrong checksum, it is not the official file", toy)
    assert mine.exists()


def test_killed_while_it_renames(toy, monkeypatch):
    """What was ready is fetched again, or the work of another set is removed with one's own."""
    other = toy.root / fetch.WORK / fetch.READY / "other"
    other.mkdir(parents=True)
    (other / "file").write_bytes(b"ready")
    rename = fetch.rename_all

    def killed(archive, source, target):
        if target == str(toy.root) and archive.name == "x.tar.gz":
            raise KeyboardInterrupt
        rename(archive, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "rename_all", killed)
        with pytest.raises(KeyboardInterrupt):
            toy()
    assert lies_in(toy.root) == ["photos"] and len(toy.site.asked) == 3
    toy()
    assert lies_in(toy.root) == ["lists", "photos", "x"] and len(toy.site.asked) == 3
    assert (other / "file").read_bytes() == b"ready"
    assert os.listdir(toy.root / fetch.WORK) == [fetch.READY]
    assert os.listdir(toy.root / fetch.WORK / fetch.READY) == ["other"]


def test_what_must_be_got_by_hand(site, monkeypatch, tmp_path, capsys):
    """CelebA's lists are not fetched because its faces cannot be, or it is not said how to."""
    faces = row(site, "faces.zip", zipped(PHOTOS), {"photos": 5})._replace(url="")
    table = row(site, "words.txt", WORDS, {"words.txt": 1}, 0)
    by_hand = "open {page}, save in {root}"
    found = Official(
        "celeba", "its lists", "a page", [faces, table], "now {home}{data_dir}", by_hand
    )
    monkeypatch.setitem(SETS, "toy", found)
    fetch.fetch("toy", str(tmp_path), True)
    assert f"open a page, save in {tmp_path}" in capsys.readouterr().out
    assert (tmp_path / "words.txt").read_bytes() == WORDS
    fetch.fetch("toy", str(tmp_path), True)
    said = capsys.readouterr().out
    assert "nothing to do" in said and "open a page" in said
    (tmp_path / "faces.zip").write_bytes(site.files["faces.zip"][:99])
    says(
        "faces.zip has 99 bytes, .*: it is not whole, get it again",
        fetch.fetch,
        "toy",
        str(tmp_path),
        True,
    )
    (tmp_path / "faces.zip").write_bytes(site.files["faces.zip"])
    fetch.fetch("toy", str(tmp_path), True)
    assert f"now celeba --data-dir {tmp_path}" in capsys.readouterr().out
    assert len(lies_in(tmp_path / "photos")) == 5 and len(site.asked) == 1


# --------------------------------------------------------------------------------------------------
# Hostile archives


def linked_zip(mode):
    """A zip with a member of that Unix mode: its bytes are where a link leads to."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x/a.bin", b"fine")
        info = zipfile.ZipInfo("x/bad")
        info.external_attr = mode << 16
        archive.writestr(info, "../../../escaped")
    return out.getvalue()


def locked_zip():
    """A zip that says of its members that they have a password."""
    body = bytearray(zipped({"x/a.bin": b"fine"}))
    body[body.index(b"PK\x01\x02") + 8] |= 1
    body[6] |= 1
    return bytes(body)


def damaged_tar():
    """A .tar.gz with other bytes in its middle."""
    body = tarred([(entry("x/b"), str(list(range(999))).encode())])
    half = len(body) // 2
    return body[:half] + bytes(99) + body[half + 99 :]


def with_bad(name):
    return zipped({"x/a.bin": b"fine", name: b"bad"})


FINE = (entry("x/a.bin"), b"fine")
HOSTILE = {
    "zip: ..": (with_bad("x/../../escaped"), "unsafe name 'x/../../escaped'"),
    "zip: .. alone": (with_bad("../escaped"), "unsafe name"),
    "zip: absolute": (with_bad("/tmp/escaped"), "unsafe name '/tmp/escaped'"),
    "zip: backslash": (with_bad("x\\..\\..\\escaped"), "unsafe name"),
    "zip: a disk": (with_bad("C:escaped"), "unsafe name 'C:escaped'"),
    "zip: unwanted, and out": (with_bad("readme/../../escaped"), "unsafe name"),
    "zip: link": (linked_zip(stat.S_IFLNK | 0o777), "'x/bad' is a link or device"),
    "zip: device": (linked_zip(stat.S_IFCHR | 0o666), "'x/bad' is a link or device"),
    "zip: password": (locked_zip(), "'x/a.bin' is a file with a password"),
    "zip: file and folder": (zipped({"x/a": b"1", "x/a/b": b"2"}), "'x/a/b' is in it twice"),
    "zip: cut short": (with_bad("x/b")[:-30], "no whole zip or tar file"),
    "tar: ..": (tarred([FINE, (entry("x/../../escaped"), b"bad")]), "unsafe name"),
    "tar: absolute": (tarred([FINE, (entry("/tmp/escaped"), b"bad")]), "unsafe name"),
    "tar: link out": (
        tarred(
            [(entry("x/out", tarfile.SYMTYPE, "../../.."), b""), (entry("x/out/escaped"), b"1")]
        ),
        "'x/out' is a link or device",
    ),
    "tar: hard link": (
        tarred([FINE, (entry("x/b", tarfile.LNKTYPE, "/etc/passwd"), b"")]),
        "'x/b' is a link or device",
    ),
    "tar: device": (
        tarred([FINE, (entry("x/b", tarfile.CHRTYPE), b"")]),
        "'x/b' is a link or device",
    ),
    "tar: pipe": (
        tarred([FINE, (entry("x/b", tarfile.FIFOTYPE), b"")]),
        "'x/b' is a link or device",
    ),
    "tar: twice": (tarred([FINE, (entry("./x//a.bin"), b"other")]), "is in it twice"),
    "tar: cut short": (
        tarred([FINE, (entry("x/b"), noise(9000))])[:4000],
        "no whole zip or tar file",
    ),
    "tar: damaged": (damaged_tar(), "no whole zip or tar file"),
    "neither": (noise(3000), "no whole zip or tar file"),
}
BOMBS = {
    "zip": zipped({"x/a.bin": bytes(600), "x/b.bin": bytes(401)}),
    "tar": tarred([(entry("x/a.bin"), bytes(600)), (entry("x/b.bin"), bytes(401))]),
}


@pytest.fixture
def hostile(site, monkeypatch, tmp_path):
    """hostile(body, most) fetches a set with that archive."""

    def call(body, most=10**5, gives=(("x", 1),)):
        archive = row(site, "bad.zip", body, dict(gives), most)
        monkeypatch.setitem(SETS, "bad", Official("coco", "it", "", [archive], ""))
        fetch.fetch("bad", str(tmp_path / "a" / "root"), True)

    call.top = tmp_path
    return call


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(hostile, name):
    """A file is written outside of the folder, a link or device is made, or half is left."""
    body, told = HOSTILE[name]
    says(told, hostile, body)
    root = hostile.top / "a" / "root"
    assert lies_in(root) == [] and lies_in(hostile.top / "a") == ["root"]
    assert set(os.listdir(root / fetch.WORK)) <= {"bad.zip.part", "bad.zip.part.etag"}
    assert lies_in(hostile.top) == ["a"] and not os.path.exists("/tmp/escaped")


@pytest.mark.parametrize("kind", BOMBS)
def test_more_than_was_announced(hostile, kind):
    """A small archive fills the disk."""
    says("unpacked it is larger than the 1,000 bytes expected", hostile, BOMBS[kind], 1000)
    assert lies_in(hostile.top / "a" / "root") == []
    hostile(BOMBS[kind], 1001)
    assert lies_in(hostile.top / "a" / "root" / "x") == ["a.bin", "b.bin"]


def test_a_size_is_a_claim(tmp_path, monkeypatch):
    """What a member says of its size is believed, and more than that comes out."""
    (tmp_path / "a.zip").write_bytes(with_bad("x/b"))
    told = unpack.Member("x/b", "file", 3, lambda: io.BytesIO(bytes(5000)))
    monkeypatch.setattr(unpack, "members", lambda path: [told])
    with pytest.raises(DataError, match="'x/b' is longer than it says"):
        unpack.unpack("a.zip", str(tmp_path / "new"), ["x"], 10**6)
    assert not (tmp_path / "new").exists()


def test_only_what_is_wanted(hostile):
    """A gigabyte of other annotations is unpacked with the captions, or a file has wrong rights."""
    info = entry("./x/a.bin")
    info.mode = 0o4777
    others = [(entry("xy/c.bin"), bytes(10**6)), (entry("y/x/d.bin"), bytes(10**6))]
    hostile(tarred([(entry("x", tarfile.DIRTYPE), b""), (info, b"fine"), *others]))
    root = hostile.top / "a" / "root"
    assert lies_in(root) == ["x"] and (root / "x/a.bin").read_bytes() == b"fine"
    assert (root / "x/a.bin").stat().st_mode & 0o7111 == 0


def test_an_archive_without_its_files(hostile):
    """A folder that lacks files is given to the loader."""
    body = zipped({"x/1": b"1", "x/2": b"2"})
    says("but with 2 of 3 files|lacks one of", hostile, body, 10**5, (("x", 3),))
    says("it lacks one of x, y", hostile, body, 10**5, (("x", 2), ("y", 1)))
    assert lies_in(hostile.top / "a" / "root") == []


# --------------------------------------------------------------------------------------------------
# Where data are looked for


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A working folder without data, and a shared disk in $MODALITY_DATA that is not there yet."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MODALITY_DATA", str(tmp_path / "disk"))
    return tmp_path


def test_the_order_of_places(places, monkeypatch):
    """Another folder is read than the one that was given, or than README says."""
    disk = str(places / "disk" / "coco")
    assert data_files.data_places("coco") == [disk, "datasets/coco"]
    assert data_folder("coco") is None and data_folder("coco", "given") == "given"
    os.makedirs("datasets/coco")
    assert data_folder("coco") == "datasets/coco"
    os.makedirs(disk)
    assert data_folder("coco") == disk and data_folder("coco", "given") == "given"
    monkeypatch.setenv("MODALITY_DATA", "")
    assert data_files.data_places("ffhq") == ["datasets/ffhq"]
    # Both directions of VoxCeleb lie in one folder.
    assert data_files.data_places("voxceleb-faces") == ["datasets/voxceleb"]
    monkeypatch.setenv("MODALITY_DATA", "~/x")
    assert data_files.data_places("ffhq")[0] == os.path.expanduser("~/x/ffhq")


def test_named_files_are_not_looked_for(places):
    """A folder that happens to be there changes what --source-dir or --image-latents means."""
    os.makedirs("datasets/pairs")
    assert data_folder("pairs") == "datasets/pairs"
    for option in ("source_dir", "target_dir", "image_latents", "text_latents"):
        assert data_folder("pairs", None, {option: "a"}) is None
        assert data_folder("pairs", None, {option: None}) == "datasets/pairs"
    with pytest.raises(DataError, match="looked in mine: no such folder"):
        load_pairs("pairs", None, "train", source_dir="mine", target_dir="yours")


@pytest.mark.parametrize("name, load", [("coco", data.load), ("ffhq", load_pairs)])
def test_loaders_look_there(places, name, load):
    """train.py finds a set, and evaluate.py --on, data.py or a table does not."""
    with pytest.raises(DataError) as error:
        load(name)
    last = str(error.value).splitlines()[-1]
    where = f"{places / 'disk' / name} or datasets/{name}"
    assert last.startswith(f"data set {name} not found: give --data-dir, or put it in {where}")
    assert last.endswith("; to download it: python data.py --fetch coco") == (name == "coco")
    os.makedirs(f"datasets/{name}")
    with pytest.raises(DataError, match=f"looked in datasets/{name}: "):
        load(name)


def test_the_run_keeps_the_folder(places):
    """A run forgets where its data were, and evaluation looks elsewhere."""
    assert train.parse("--dataset coco".split()).data_dir is None
    os.makedirs("datasets/coco")
    os.makedirs("datasets/ffhq")
    os.makedirs("datasets/pairs")
    os.makedirs("datasets/glyphs")
    assert train.parse("--dataset coco".split()).data_dir == "datasets/coco"
    assert train.parse("--dataset coco --data-dir x".split()).data_dir == "x"
    assert train.parse([]).data_dir is None
    assert train_bridge.parse("--dataset ffhq".split()).data_dir == "datasets/ffhq"
    both = "--dataset pairs --source-dir a --target-dir b"
    assert train_bridge.parse(both.split()).data_dir is None


@pytest.mark.parametrize("name", data.LOADERS)
def test_missing_data_name_the_command(name):
    """A student is sent to a download page although there is a command, or to one that is not."""
    line = str(data_files.missing_data(name, "my data", "no x")).splitlines()[-1]
    assert (f"python data.py --fetch {name} 'my data'" in line) == (name in SETS)
    if name in SETS:
        lists = any(not archive.url or archive.unpacked == 0 for archive in SETS[name].archives)
        assert SETS[name].part == ("its lists" if lists else "it")


# --------------------------------------------------------------------------------------------------
# From the archives to a loader


@pytest.fixture
def coco_site(site, monkeypatch, tmp_path):
    """A tiny COCO in three archives, laid out as the official ones; the working folder is empty."""
    write_coco(tmp_path / "tree")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    files = {}
    for path in sorted((tmp_path / "tree").rglob("*.j*")):
        name = str(path.relative_to(tmp_path / "tree"))
        files.setdefault(name.split("/")[0], {})[name] = path.read_bytes()
    files["annotations"]["annotations/instances_val2014.json"] = b"{}"
    archives = []
    for archive, part in zip(
        SETS["coco"].archives, ("train2014", "val2014", "annotations"), strict=True
    ):
        gives = {path: min(n, 45) for path, n in archive.gives.items()}
        archives.append(row(site, archive.name, zipped(files[part]), gives, 10**7))
    monkeypatch.setitem(SETS, "coco", SETS["coco"]._replace(archives=archives))
    return site


def test_coco_is_whole_or_not_there(coco_site, monkeypatch, capsys):
    """A fetched set cannot be loaded, or half of one is taken for COCO's val part alone."""
    monkeypatch.setattr(fetch, "TRIES", 1)
    monkeypatch.setattr(sys, "argv", ["data.py", "--fetch", "coco", "--yes"])
    coco_site.cuts = [None, None, 900]
    with pytest.raises(DataError, match="annotations_trainval2014.zip: the connection was cut"):
        data.main()
    with pytest.raises(DataError, match="not found: looked in datasets/coco"):
        data.load("coco")
    data.main()
    said = capsys.readouterr().out
    assert "now: python train.py --dataset coco --download" in said
    assert len(coco_site.asked) == 4 and sorted(os.listdir("datasets/coco/annotations")) == [
        "captions_train2014.json",
        "captions_val2014.json",
    ]
    assert sorted(os.listdir("datasets/coco")) == ["annotations", "train2014", "val2014"]
    sides = [len(data.load("coco", None, side).images) for side in ("train", "val", "test")]
    assert sides[0] + sides[1] == 120 and sides[2] == 45
    # One of an archive's two files is there already, as somebody's own: it stays, the other comes.
    os.remove("datasets/coco/annotations/captions_val2014.json")
    Path("datasets/coco/annotations/captions_train2014.json").write_bytes(b"mine")
    data.main()
    assert Path("datasets/coco/annotations/captions_train2014.json").read_bytes() == b"mine"
    assert len(coco_site.asked) == 5 and len(os.listdir("datasets/coco/annotations")) == 2
    assert len(os.listdir("datasets/coco")) == 3


def test_flags(monkeypatch, capsys, tmp_path):
    """--yes without --fetch is ignored in silence, or a set that cannot be fetched is a riddle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data.py", "coco", "--yes"])
    with pytest.raises(SystemExit):
        data.main()
    assert "--yes is the answer to --fetch" in capsys.readouterr().err
    with pytest.raises(DataError, match="(?s)NVlabs/ffhq-dataset.*ffhq you have to get yourself"):
        fetch.fetch("ffhq")
    says("glyphs is made of fonts", fetch.fetch, "glyphs")
    says("it can fetch coco, coco-2017", fetch.fetch, "cocoo")


# --------------------------------------------------------------------------------------------------
# The list of official files


def test_the_list_is_sound():
    """A row has a slip: a checksum cut short, a file twice, a folder that no loader knows."""
    for name, found in SETS.items():
        assert found.home in data.LOADERS and name.startswith(found.home)
        assert found.page.startswith("http")
        for archive in found.archives:
            assert len(archive.sha256) == 64 and int(archive.sha256, 16)
            assert archive.url == "" or archive.url.startswith(("https://", "http://images.coco"))
            # What is no archive is one file; photos are about as large in a zip as outside.
            assert archive.unpacked or list(archive.gives.values()) == [1]
            photos = max(archive.gives.values()) > 1000
            assert not photos or archive.size < archive.unpacked < 1.2 * archive.size
        gives = [path for archive in found.archives for path in archive.gives]
        assert len(set(gives)) == len(gives)


def test_published_facts():
    """A size is not that of the official file: everybody's download ends with `wrong size`."""
    sizes = {a.name: a.size for found in SETS.values() for a in found.archives}
    told = {"train2014.zip": 13.5, "val2014.zip": 6.6, "train2017.zip": 19.3, "val2017.zip": 0.8}
    told |= {"cifar-10-binary.tar.gz": 0.17, "img_align_celeba.zip": 1.4}
    assert {n: round(sizes[n] / 1e9, 2 if x < 0.5 else 1) for n, x in told.items()} == told
    # One address in the tree that a missing set prints, and here.
    for name in ("cifar10", "coco"):
        for archive in SETS[name].archives:
            stem = os.path.basename(archive.url).split("2014")[0].split("_")[0]
            assert (
                os.path.dirname(archive.url) in data_files.TREES[name]
                and stem in data_files.TREES[name]
            )
    assert SETS["cifar10"].archives[0].gives == {"cifar-10-batches-bin": 7}


# --------------------------------------------------------------------------------------------------
# Nothing else opens a connection


NETWORK = {"urllib", "http", "socket", "ssl", "requests", "httpx", "aiohttp", "ftplib", "telnetlib"}
NETWORK |= {"smtplib", "xmlrpc", "socketserver", "asyncio", "gdown", "wget", "subprocess"}


def imported(text):
    """The first words of all that a file imports, wherever in it."""
    return set(re.findall(r"^ *(?:import|from) (\w+)", text, re.M))


def test_only_fetch_opens_connections():
    """Data are downloaded by something that nobody asked for it."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("t[ah]*/*.py")]
    texts = {path.name: path.read_text() for path in files}
    assert {"data.py", "train.py", "captioning.py", "lemma1.py"} <= texts.keys()
    assert {name for name, text in texts.items() if imported(text) & NETWORK} == {"fetch.py"}
    assert {name for name, text in texts.items() if "fetch" in imported(text)} == {"data.py"}
    # ... and there only behind the flag.
    assert re.findall("^.*import fetch", texts["data.py"], re.M) == [
        "        from fetch import fetch"
    ]
    words = r"os\.system|os\.popen|load_state_dict_from_url|download_url|urlretrieve|hub\.load\("
    assert [name for name, text in texts.items() if re.search(words, text)] == []


def test_a_missing_set_asks_nobody(site, places, monkeypatch):
    """Training without data begins to download them."""

    def connect(*args):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in SETS.keys() & data.LOADERS.keys():
        with pytest.raises(DataError, match="python data.py --fetch"):
            data.load(name, None, "test")
    with pytest.raises(DataError, match="python data.py --fetch coco"):
        train.main("--dataset coco --out runs/x --device cpu".split())
    assert not os.path.exists("datasets") and not os.path.exists("runs")
