"""
glyph_rooms.py: rays, faces, occlusion and the visual hull against loops and hand-placed voxels.

The loops here know nothing of the grid of planes that the file walks through: they meet every
voxel with every ray by the slab method, and project every centre by its angle on the compass.
"""

import math

import numpy as np
import pytest
from scipy.ndimage import label

import glyph_rooms
import glyphs
from data_pairs import load_pairs
from glyph_rooms import draw_room, render, visual_hull
from glyphs import SPLITS

TAN = math.tan(math.radians(30))
SUN = {"north": 2 / math.sqrt(14), "east": 1 / math.sqrt(14), "up": 3 / math.sqrt(14)}
SHADES = {(axis, sign): round(145 + 110 * sign * SUN[axis]) for axis in SUN for sign in (-1, 1)}


@pytest.fixture(scope="module")
def rooms():
    """(views, volumes) of 20 rooms of test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyph_rooms, "ROOMS", {"train": 20, "val": 20, "test": 20})
        pairs = load_pairs("glyph-rooms", split="test")
    return pairs.of(np.arange(len(pairs.x)))


def place(*voxels):
    volume = np.zeros((32, 32, 8), bool)
    for voxel in voxels:
        volume[voxel] = True
    return volume


def view_of(*voxels):
    """(6, 32, 32) of a room with these voxels."""
    return render(place(*voxels)[None])[0, :, 0]


def test_a_voxel_in_front_of_camera_0():
    """A camera looks elsewhere, the picture is mirrored, upside down, or shifted by a pixel."""
    # Its south face is 10 deep, 0 to 1 to the right and -0.9 to 0.1 high; a pixel there is
    # 10 * TAN / 16 = 0.361 wide. Centres of pixels at 0.180, 0.541 and 0.902 to the right and at
    # 0.180 and 0.541 below the horizon hit it.
    expected = np.zeros((6, 32, 32), np.uint8)
    expected[0, 16:18, 16:19] = SHADES["north", -1]
    assert SHADES["north", -1] == 86
    assert (view_of((5, 16, 4)) == expected).all()
    # To the left, and one layer higher: 0.1 to 1.1, centres at 0.180, 0.541 and 0.902.
    expected = np.zeros((6, 32, 32), np.uint8)
    expected[0, 13:16, 13:16] = 86
    assert (view_of((5, 15, 3)) == expected).all()


def test_a_voxel_behind_is_in_camera_3():
    """Cameras are numbered the other way round, or the last three look to the front."""
    view = view_of((26, 15, 3))  # south by west, above: in camera 3 to the right, above the middle
    expected = np.zeros((6, 32, 32), np.uint8)
    expected[3, 13:16, 16:19] = SHADES["north", 1]
    assert (view == expected).all()


@pytest.mark.parametrize("v", range(6))
def test_camera_looks_60_v_degrees_clockwise(v):
    """Camera 1 looks west of north, or the steps between cameras are not 60 degrees."""
    angle = math.radians(60 * v)
    i, j = round(15.5 - 12 * math.cos(angle)), round(15.5 + 12 * math.sin(angle))
    view = view_of((i, j, 3), (i, j, 4))
    assert view[v].any() and not np.delete(view, v, 0).any()
    rows, columns = np.nonzero(view[v])
    assert abs(rows.mean() - 15.5) <= 0.5 and abs(columns.mean() - 15.5) <= 2


def rays():
    """[(v, row, u, direction)] north, east, up: by angles on the compass, not by axes."""
    for v in range(6):
        for row in range(32):
            for u in range(32):
                X = TAN * (2 * u - 31) / 32
                angle = math.radians(60 * v) + math.atan(X)
                flat = math.hypot(1, X)
                up = TAN * (31 - 2 * row) / 32
                yield v, row, u, (flat * math.cos(angle), flat * math.sin(angle), up)


def test_render_by_slabs():
    """A ray misses a voxel that it meets, meets them in another order, or by another face."""
    rng = np.random.default_rng(3)
    voxels = rng.integers((0, 0, 0), (32, 32, 8), (90, 3))
    north, east, up = 15.5 - voxels[:, 0], voxels[:, 1] - 15.5, 3.6 - voxels[:, 2]
    centres = np.stack([north, east, up], 1)
    centres = centres[np.hypot(north, east) > 3]
    view = view_of(*[tuple(v) for v in voxels[np.hypot(north, east) > 3]])
    names, met = list(SUN), 0
    for v, row, u, direction in rays():
        # Inside of a box from max(near) to min(far): when between the two planes of every axis.
        at = np.sort([(centres - 0.5) / direction, (centres + 0.5) / direction], axis=0)
        near, far = at[0].max(1), at[1].min(1)
        hits = np.flatnonzero((near < far) & (near > 0))
        shade = 0
        if len(hits):
            first = hits[near[hits].argmin()]
            axis = at[0][first].argmax()
            shade = SHADES[names[axis], -int(np.sign(direction[axis]))]
            met += 1
        assert view[v, row, u] == shade, (v, row, u)
    assert met > 500


def test_what_stands_behind_is_not_seen():
    """The last voxel of a ray is shown, or any of them; or a picture tells how far things are."""
    near, far = (7, 16, 4), (2, 16, 4)
    wall = [(7, j, k) for j in range(8, 24) for k in range(8)]
    assert view_of(far).any() and (view_of(*wall, far) == view_of(*wall)).all()
    assert (view_of(near, far)[view_of(near) > 0] == view_of(near)[view_of(near) > 0]).all()
    # Distance changes the size, and not the brightness.
    shades = [set(view_of((i, 16, 4))[0].ravel().tolist()) for i in (0, 4, 9)]
    assert shades == [{0, 86}] * 3
    assert (view_of((0, 16, 4)) > 0).sum() < (view_of((9, 16, 4)) > 0).sum()


def test_hull_by_loops():
    """The hull looks at another camera or pixel than that of a voxel's centre."""
    views = np.random.default_rng(4).integers(0, 2, (2, 6, 1, 32, 32)).astype(np.uint8)
    hull = visual_hull(views)
    assert hull.shape == (2, 32, 32, 8) and hull.dtype == bool
    unseen = 0
    for i, j, k in np.ndindex(32, 32, 8):
        north, east, up = 15.5 - i, j - 15.5, 3.6 - k
        bearing = math.degrees(math.atan2(east, north)) % 360
        v = int((bearing + 30) // 60) % 6
        off = math.radians((bearing - 60 * v + 180) % 360 - 180)
        depth = math.hypot(north, east) * math.cos(off)
        u = math.floor(16 + 16 * math.tan(off) / TAN)
        row = math.floor(16 - 16 * up / depth / TAN)
        if 0 <= row < 32:
            assert (hull[:, i, j, k] == (views[:, v, 0, row, u] > 0)).all(), (i, j, k)
        else:
            unseen += 1
            assert not hull[:, i, j, k].any()
    assert unseen > 100  # what is high or low and near: no camera sees it
    assert not visual_hull(np.zeros_like(views)).any()


def test_hull_contains_the_room(rooms):
    """The hull cuts a letter, is not larger than the truth, or claims to be good."""
    y, x = rooms
    hull = visual_hull(y)
    assert (hull | ~x).all()
    iou = (hull & x).sum((1, 2, 3)) / hull.sum((1, 2, 3))
    assert 0.1 < iou.mean() < 0.25
    # Not only of letters: every voxel whose centre is in a picture.
    anything = np.random.default_rng(5).random((3, 32, 32, 8)) < 0.01
    seen = visual_hull(np.ones((1, 6, 1, 32, 32), np.uint8))[0]
    assert (visual_hull(render(anything)) | ~(anything & seen)).all()


def test_hull_of_one_voxel_is_its_cone():
    """The hull is a box, or stops at the voxel that is seen."""
    hull = visual_hull(view_of((5, 16, 4))[None, :, None])[0]
    i, j, k = np.nonzero(hull)
    assert hull[5, 16, 4] and i.min() == 0 and i.max() > 8  # from in front of it to the wall
    slopes = (j - 15.5) / (15.5 - i), (3.6 - k) / (15.5 - i)
    assert (np.abs(np.array(slopes)) <= 3 * TAN / 16).all() and not hull[16:].any()


def test_letters_stand_apart_on_the_ground(rooms):
    """Letters float, touch, are cut by the grid or the pictures, or there are two of them."""
    y, x = rooms
    assert y.shape == (20, 6, 1, 32, 32) and x.shape == (20, 32, 32, 8)
    assert y.dtype == np.uint8 and x.dtype == bool
    assert set(np.unique(y).tolist()) == {0, *SHADES.values()}
    near = np.hypot(15.5 - np.arange(32)[:, None], np.arange(32) - 15.5) < 7.2
    assert not x[:, near].any()
    seen = visual_hull(np.ones((1, 6, 1, 32, 32), np.uint8))[0]
    assert seen[~near].all()
    # Parts of a letter may be apart, so there are at least as many parts as letters. Each letter
    # has a voxel in the lowest layer.
    parts = [label(volume.any(2), np.ones((3, 3)))[1] for volume in x]
    assert min(parts) >= 3 and max(parts) >= 5
    assert x[..., 7].any((1, 2)).all()


def room_of(monkeypatch, mask, name="a"):
    """A room whose letters all have this mask."""
    monkeypatch.setattr(glyph_rooms, "small_letter", lambda *a: mask)
    return draw_room([(None, 0)], name)


def test_a_letter_has_its_height_and_width(monkeypatch):
    """A letter stands on its head, is as wide as thick, or as thick as wide."""
    mask = np.zeros((6, 5), bool)
    mask[0], mask[:, 2] = True, True  # a T
    for name in "abcdef":
        room = room_of(monkeypatch, mask, name)
        layers = room.sum((0, 1))
        assert (layers[:2] == 0).all()  # 6 of 8 layers, the ground is layer 7
        assert layers[2] > 2 * layers[7] > 0 and (layers[3:] == layers[7]).all()
    column = glyph_rooms.footprint(5, 3.0, 0.0, (10.0, 0.5))
    # Not turned, a letter runs north: its columns are rows of the plan, three cells wide.
    cells = np.argwhere(column >= 0)
    assert cells.min(0).tolist() == [4, 15] and cells.max(0).tolist() == [7, 17] or len(cells) == 15
    assert len(cells) == 15
    assert glyph_rooms.footprint(5, 3.0, 0.0, (14.0, 0.0)) is None  # half a column outside
    assert glyph_rooms.footprint(5, 3.0, np.pi / 2, (14.0, 0.0)) is not None


def test_letters_never_touch(monkeypatch):
    """Two letters are one to the eye."""
    block = np.ones((8, 6), bool)
    counts = []
    for n in range(30):
        plan = room_of(monkeypatch, block, str(n)).any(2)
        parts, count = label(plan, np.ones((3, 3)))
        counts.append(count)
        # Blocks: each has its own part, all of 2 to 4 thick.
        assert all(9 <= (parts == c + 1).sum() <= 32 for c in range(count))
    assert set(counts) == {3, 4, 5, 6}


def test_some_letters_are_hidden(rooms):
    """Everything in a room can be seen: then one answer alone is right."""
    _, x = rooms
    shares = []
    for volume in x:
        parts, count = label(volume.any(2), np.ones((3, 3)))
        for c in range(1, count + 1):
            others = volume & (parts != c)[..., None]
            alone = (render((volume & ~others)[None]) > 0).sum()
            # Pixels that are another without this part.
            now = (render(volume[None]) != render(others[None])).sum()
            shares.append(now / alone)
    assert np.mean(np.array(shares) < 0.5) > 0.05


def test_rooms_share_no_character(monkeypatch):
    """A letter is trained on and tested on."""
    monkeypatch.setattr(glyph_rooms, "ROOMS", dict.fromkeys(SPLITS, 8))
    codes = {}
    for split in SPLITS:
        codes[split] = {code for _, code in glyph_rooms.letters_of(split)}
        drawn = set()

        def record(font, code, size, drawn=drawn):
            drawn.add(code)
            return np.ones((size, 3), bool)

        monkeypatch.setattr(glyph_rooms, "small_letter", record)
        load_pairs("glyph-rooms", split=split)
        assert len(drawn) > 20 and drawn <= codes[split]
        assert (glyphs.split_of_character(list(drawn)) == SPLITS[split]).all()
    assert not codes["train"] & (codes["val"] | codes["test"]) and not codes["val"] & codes["test"]


def test_rooms_repeat_and_stay(monkeypatch, rooms):
    """Rooms change from call to call or with their number, or two splits have the same places."""
    monkeypatch.setattr(glyph_rooms, "ROOMS", {"train": 7, "val": 7, "test": 7})
    test, again, val = (load_pairs("glyph-rooms", split=s) for s in ("test", "test", "val"))
    assert test.key == again.key != val.key
    y, x = test.of(np.arange(7))
    assert (y == rooms[0][:7]).all() and (x == rooms[1][:7]).all() and (again.x[3] == x[3]).all()
    assert (render(x) == y).all()
    # With one and the same letter, what is left of a room is where its letters stand.
    monkeypatch.setattr(glyph_rooms, "small_letter", lambda *a: np.ones((6, 3), bool))
    test, val = (load_pairs("glyph-rooms", split=s).of(np.arange(7))[1] for s in ("test", "val"))
    assert (test != val).any((1, 2, 3)).all()
