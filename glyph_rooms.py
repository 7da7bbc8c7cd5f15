"""
glyph_rooms.py: rooms of letters, seen from their middle. From six pictures, what stands where?

LD's third task is nuScenes: six cameras on a car look all around, and the answer is a grid that
says which cells of the space around it are occupied. This set asks the same and needs no download.
Three to six letters, cut out of thick board as in glyph-solids, stand around the viewer:

    y    (6, 1, 32, 32) uint8, pictures of six cameras that cover the full circle
    x    (32, 32, 8) bool, occupied voxels [i, j, k], k = 0 on top. The ground is not part of it

      i = 0      north                The plan, from above, as on a map. The viewer's eye, O, is in
         + - - - - - - - - +          the middle, 3.9 above the ground: at half the grid's height.
         |        0        |          Camera v looks 60 v degrees clockwise from north and sees 60
         |  5           1  |          degrees: pictures 0 to 5, side by side, are one panorama.
    west |        O        | east     A voxel is one unit long. Seen from the eye, its centre is at
         |  4    CCC    2  |             north = 15.5 - i    east = j - 15.5    up = 3.6 - k
         |        3 B      |
         + - - - - - - - - +          What is B like, of which C hides a part? Nothing in y tells.
       j = 0     south                Many x fit one y, and a sample is one of them.

How far away is a letter? A small one that is near fills as many pixels as a large one far away, and
brightness depends on a face's direction alone, as in the light of a distant sun. What tells is
where a letter meets the ground: the lower in the picture, the nearer. And whatever hides another
thing is nearer. One letter in seven shows less than half of what it would show alone.

The classical answer, `visual_hull`, does not know that letters stand. It fills the whole cone of
each pixel that shows something. To place a letter in its cone is what there is to learn.

Map      draw_room         the letters of one room, as voxels
         ray_steps         which voxels a ray meets, in which order, and by which faces
         render            voxels -> six pictures
         visual_hull       six pictures -> voxels, without learning
         glyph_rooms       the set, as Pairs
Letters  B rooms   R = 6 * 32 * 32 rays, one a pixel   K steps of a ray   v a camera
         row, u: of a pixel   [i, j, k] of a voxel
Try      python data.py glyph-rooms     counts, and a picture
"""

import unicodedata
from functools import cache

import numpy as np

from glyphs import (
    FACES,
    LETTERS,
    SPLITS,
    Lazy,
    Pairs,
    digest,
    letter,
    open_face,
    split_of_character,
)

SHAPE = (32, 32, 8)  # of the grid: rows from north to south, columns from west to east, layers
CAMERAS, SIDE = 6, 32  # SIDE x SIDE pixels each
SLOPE = np.tan(np.radians(30))  # of the rays at the edges of a picture: 60 degrees in all
# The eye above the ground. From 4, the very middle, some rays would run along the edges of voxels,
# and rounding would decide which face they see.
EYE = 3.9
# The walls of the grid, measured from the eye: south and north, west and east, ground and top.
LOW, HIGH = np.array([-16, -16, -EYE]), np.array([16, 16, SHAPE[2] - EYE])

# Nearer than this, a voxel of the top layer could be outside of the picture: it is 3.6 above the
# eye, has to be 3.6 / tan(30) = 6.2 deep, and at a picture's left and right edge things are
# 1 / cos(30) times as far away as deep.
NEAREST = 7.2

ROOMS = {"train": 6000, "val": 300, "test": 300}
FEWEST, MOST = 3, 6  # letters in a room


# --------------------------------------------------------------------------------------------------
# A room


def letters_of(split):
    """[(font, code), ...]: the letters and digits of bold faces whose character is of this split.

    As in all glyph sets the split is by character: what stands in a room of test is nowhere in
    train."""
    found = []
    for file, words in FACES.items():
        if "bold" not in words:
            continue
        font, characters = open_face(file, 32)  # four times as large as in the room
        codes = [c for c in characters if unicodedata.category(chr(c)) in LETTERS]
        codes = np.array(codes)
        found += [(font, int(code)) for code in codes[split_of_character(codes) == SPLITS[split]]]
    return found


# Of the centres of the cells of the plan, measured from the viewer.
NORTH = 15.5 - np.arange(32)[:, None]  # (32, 1): rows
EAST = np.arange(32)[None] - 15.5  # (1, 32): columns


def footprint(w, thickness, yaw, at):
    """(32, 32) int: which column of a letter stands on each cell of the plan, -1 for none.

    The letter is w columns wide and `thickness` thick, turned by yaw, its centre at `at`, (north,
    east). None if a corner of it is outside of the grid."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    reach_north = (w * abs(cos) + thickness * abs(sin)) / 2
    reach_east = (w * abs(sin) + thickness * abs(cos)) / 2
    if abs(at[0]) + reach_north > 16 or abs(at[1]) + reach_east > 16:
        return None
    # Turned back by yaw, the letter stands straight: each cell asks where in it it lies.
    north, east = NORTH - at[0], EAST - at[1]
    column = np.floor(north * cos + east * sin + w / 2).astype(int)
    across = east * cos - north * sin
    inside = (column >= 0) & (column < w) & (np.abs(across) < thickness / 2)
    return np.where(inside, column, -1)


def grown(plan):
    """(32, 32) bool: a part of the plan, and all cells beside it."""
    rows = plan.copy()
    rows[1:] |= plan[:-1]
    rows[:-1] |= plan[1:]
    result = rows.copy()
    result[:, 1:] |= rows[:, :-1]
    result[:, :-1] |= rows[:, 1:]
    return result


@cache
def small_letter(font, code, size):
    """(h, w) bool, max(h, w) <= size, without empty rows and columns: else a letter might float.

    None where nothing of it is left."""
    mask = letter(font, code, size)
    if mask is None or not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw_room(letters, name):
    """(32, 32, 8) bool: three to six of these letters, as a hash of the room's name deals them.

    Sizes are 6, 7 or 8 voxels, thickness U(2, 4), yaw U(0, 360) degrees, and the centre is U(8, 20)
    away. The direction is any; but three of four letters stand within 9 degrees of the last one's:
    so that some are hidden. What would be too near, outside of the grid, or at another letter is
    dealt again."""
    # Each room has a generator of its own: it stays what it is when others are added.
    rng = np.random.default_rng(int(digest("room", name), 16))
    missing = FEWEST + int((MOST - FEWEST + 1) * rng.random())
    volume = np.zeros(SHAPE, bool)
    free = np.hypot(NORTH, EAST) >= NEAREST
    last = None  # the direction of the letter before
    while missing:
        u = rng.random(7)
        thickness, yaw = 2 + 2 * u[0], 2 * np.pi * u[1]
        direction, distance = 2 * np.pi * u[2], 8 + 12 * u[3]
        if last is not None and u[6] < 0.75:
            direction = last + np.radians(18 * u[2] - 9)
        at = distance * np.cos(direction), distance * np.sin(direction)
        mask = small_letter(*letters[int(u[4] * len(letters))], 6 + int(3 * u[5]))
        if mask is None:
            continue

        h, w = mask.shape
        column = footprint(w, thickness, yaw, at)
        if column is None or not free[column >= 0].all():
            continue
        # Set down with its feet on the ground, the lowest layer. Letters shall not touch.
        cells = column >= 0
        volume[cells, SHAPE[2] - h :] = mask[:, column[cells]].T
        free &= ~grown(cells)
        last = direction
        missing -= 1
    return volume


# --------------------------------------------------------------------------------------------------
# What the cameras see
#
# The eye is always in the middle, so the same R rays start there in every room. Which voxels a ray
# meets, in which order, is computed once and exactly; to render a room is then to look these voxels
# up, and to take the first one that is occupied.


def camera_axes():
    """(6, 2), (6, 2): north and east of where each camera looks, and of what is to its right."""
    yaw = np.radians(60 * np.arange(CAMERAS))
    forward = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    right = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)
    return forward, right


def ray_directions():
    """(R, 3) north, east, up of the ray through the centre of each pixel; R counts v, row, u.

        forward + X right + Y up,   X = SLOPE (u - 15.5) / 16,  Y = SLOPE (15.5 - row) / 16

    It is not of length 1: it is 1 deep."""
    forward, right = camera_axes()
    offset = SLOPE * (np.arange(SIDE) + 0.5 - SIDE / 2) / (SIDE / 2)  # (32,) of centres of pixels
    X, Y = offset[None, None, :, None], -offset[None, :, None, None]
    flat = forward[:, None, None] + X * right[:, None, None]  # (6, 1, 32, 2)
    flat = np.broadcast_to(flat, (CAMERAS, SIDE, SIDE, 2))
    up = np.broadcast_to(Y, (CAMERAS, SIDE, SIDE, 1))
    return np.concatenate([flat, up], axis=3).reshape(-1, 3)


# Brightness of a face: 145 + 110 cos(angle between its normal and the sun). The sun stands at
# north, east, up = 2, 1, 3, so that all six kinds of faces differ. The ground is black: 0.
SUN = np.array([2, 1, 3]) / np.sqrt(14)


@cache
def ray_steps():
    """(R, K) numbers of voxels, in the order in which a ray enters them, and (R, K) brightness.

    A ray passes from one voxel to the next where it crosses one of the planes of the grid's north,
    east or up. It crosses the plane at p of axis a at depth t = p / direction[a], and sees the face
    there from in front: its normal is opposite to the ray. Shorter lists are filled up with the
    number of a voxel that is always empty, one behind the last."""
    direction = ray_directions()
    times, axes = [], []
    for axis in range(3):
        planes = np.arange(SHAPE[axis] + 1) + LOW[axis]
        times.append(planes / direction[:, axis, None])
        axes += [axis] * len(planes)
    times = np.concatenate(times, axis=1)  # (R, 33 + 33 + 9)
    order = np.argsort(times, axis=1, kind="stable")
    times = np.take_along_axis(times, order, axis=1)
    axes = np.array(axes)[order]

    # Half-way to the next plane the ray is inside of the voxel that it has entered.
    middle = (times[:, :-1] + times[:, 1:]) / 2
    at = middle[..., None] * direction[:, None]  # (R, K, 3)
    i, j = np.floor(16 - at[..., 0]).astype(int), np.floor(16 + at[..., 1]).astype(int)
    k = np.floor(HIGH[2] - at[..., 2]).astype(int)
    inside = (times[:, :-1] > 0) & ((at > LOW) & (at < HIGH)).all(2)
    voxel = np.where(inside, (i * 32 + j) * 8 + k, np.prod(SHAPE))

    normal = -np.sign(direction)  # of the faces that a ray can enter by, one for each axis
    bright = np.rint(145 + 110 * normal * SUN)  # (R, 3)
    bright = np.take_along_axis(bright, axes[:, :-1], axis=1)
    # The steps inside of the grid come first, in their order.
    first = np.argsort(~inside, axis=1, kind="stable")[:, : inside.sum(1).max()]
    voxel = np.take_along_axis(voxel, first, axis=1)
    return voxel, np.take_along_axis(bright, first, axis=1).astype(np.uint8)


def render(volumes):
    """(B, 32, 32, 8) bool -> (B, 6, 1, 32, 32) uint8: a pixel shows the first face on its ray."""
    voxel, bright = ray_steps()
    views = np.zeros((len(volumes), len(voxel)), np.uint8)
    for view, volume in zip(views, volumes, strict=True):
        occupied = np.append(volume.ravel(), False)  # and the voxel that is always empty
        met = occupied[voxel]  # (R, K)
        hit = np.flatnonzero(met.any(1))
        first = met[hit].argmax(1)
        view[hit] = bright[hit, first]
    return views.reshape(-1, CAMERAS, 1, SIDE, SIDE)


# --------------------------------------------------------------------------------------------------
# The classical answer


@cache
def pixel_of_voxel():
    """(32, 32, 8) int: the number of the pixel, among all R, on which a voxel's centre falls.

    In camera v, which is turned by a = 60 v degrees, the centre is

        depth = north cos a + east sin a             u = floor(16 + 16 right / (depth SLOPE))
        right = east cos a - north sin a             row = floor(16 - 16 up / (depth SLOPE))

    where u is in 0 ... 31, and depth > 0, for one camera alone. R if row is outside of the picture:
    no camera sees it."""
    i, j, k = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    plan, up = np.stack([15.5 - i, j - 15.5], axis=-1), HIGH[2] - 0.5 - k
    forward, right = camera_axes()
    pixel = np.full(SHAPE, CAMERAS * SIDE * SIDE)
    for v in range(CAMERAS):
        depth, side = plan @ forward[v], plan @ right[v]
        scale = SIDE / 2 / np.where(depth > 0, depth * SLOPE, np.inf)
        u = np.floor(SIDE / 2 + scale * side).astype(int)
        row = np.floor(SIDE / 2 - scale * up).astype(int)
        seen = (depth > 0) & (u >= 0) & (u < SIDE) & (row >= 0) & (row < SIDE)
        pixel[seen] = ((v * SIDE + row) * SIDE + u)[seen]
    return pixel


def visual_hull(views):
    """(B, 6, 1, 32, 32) uint8 -> (B, 32, 32, 8) bool: all voxels that may be occupied, filled.

        hull[i, j, k] = views[v, row, u] > 0,   (v, row, u) the pixel on which its centre falls

    This is the back-projection of silhouettes: the cone behind every pixel that shows something. It
    contains the truth: a ray of a pixel misses the centre of a voxel on that pixel by at most
    depth SLOPE / 32 <= 0.41 to the side and in height, so it runs through the voxel, or meets
    another one before. One viewpoint says nothing about depth: most of the hull is air."""
    shown = views.reshape(len(views), -1) > 0  # (B, R)
    shown = np.pad(shown, ((0, 0), (0, 1)))  # what no camera sees is taken for empty
    return shown[:, pixel_of_voxel()]


# --------------------------------------------------------------------------------------------------
# The set


def glyph_rooms(split):
    """Six pictures (6, 1, 32, 32) from the middle of a room -> its voxels (32, 32, 8).

    6,000 rooms for training, 300 for val and for test, of the letters of that split alone."""
    letters = letters_of(split)
    packed = []
    for number in range(ROOMS[split]):
        volume = draw_room(letters, f"{split} {number}")
        packed.append(np.packbits(volume))  # 1 KB instead of 8
    packed = np.stack(packed)  # (N, 1024) uint8
    y = render([unpack(one) for one in packed])

    def one_volume(i):
        return unpack(packed[i])

    return Pairs(y, Lazy(len(packed), one_volume), digest("glyph-rooms", split, packed, y))


def unpack(packed):
    """(1024,) uint8 -> (32, 32, 8) bool, the inverse of np.packbits."""
    return np.unpackbits(packed).view(bool).reshape(SHAPE)
