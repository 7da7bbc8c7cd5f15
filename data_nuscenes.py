"""
data_nuscenes.py: nuScenes, six cameras around a car -> which cells of the space are occupied.

nuScenes is a data base of JSON tables. Each row of a table has a `token`, an id by which rows of
other tables point at it. What is needed of them here:

    scene.json               token, name                      850 scenes of 20 seconds
    sample.json              token, scene_token               a moment; about 40 in a scene
    sample_data.json         sample_token, calibrated_sensor_token, is_key_frame, filename
                                                              one file of one sensor
    calibrated_sensor.json   token, sensor_token              a sensor, as mounted on one car
    sensor.json              token, channel                   CAM_FRONT, ..., LIDAR_TOP

A sample has key frames of all its sensors; frames between samples are left out. The labels are
SurroundOcc's (Wei et al., arXiv 2303.09551). A file has the name of the sample's lidar file:

    nuscenes_occ/samples/NAME.pcd.bin.npy    (M, 4) integers x, y, z, class: the occupied voxels

of a grid of 200 x 200 x 16 voxels of 0.5 m around the lidar: x to the right from -50 to 50 m, y
ahead from -50 to 50 m, z up from -5 to 3 m. Classes 1 to 16 are cars, trees and so on. Class 0 is
noise: SurroundOcc does not count these voxels, here they are empty.

    y    (6, 3, size, 16/9 size) uint8, the cameras clockwise from the front, as in glyph-rooms
    x    (grid, grid, grid * 16/200) bool, the row ahead first, from left to right, top first

Map      nuscenes      the loader: see data_pairs.py for what it returns
         key_frames    the tables, joined: the files of each sample
         read_rows     one table, checked
         read_label    one grid
"""

import os
from functools import lru_cache
from glob import glob

import numpy as np
from PIL import Image

from data_files import file_stamps, load_array, missing_data, read_image, split_by_name
from data_tables import parse_json, read_text
from errors import DataError

# Clockwise, so that the pictures side by side are a panorama.
CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_FRONT_LEFT",
)
LIDAR = "LIDAR_TOP"
GRID = (200, 200, 16)  # voxels of a label, x, y, z
# Fields that each row of a table must have, and their types.
FIELDS = {
    "scene": {"token": str, "name": str},
    "sample": {"token": str, "scene_token": str},
    "sample_data": {
        "sample_token": str,
        "calibrated_sensor_token": str,
        "filename": str,
        "is_key_frame": bool,
    },
    "calibrated_sensor": {"token": str, "sensor_token": str},
    "sensor": {"token": str, "channel": str},
}
BETWEEN = "a frame between samples"  # stands for a row that is not needed


# --------------------------------------------------------------------------------------------------
# The tables


def read_rows(folder, name):
    """The rows of one table, dictionaries. Of sample_data those of key frames alone.

    DataError in one line: no JSON, no list of rows, or a row without one of its FIELDS."""
    path = os.path.join(folder, name + ".json")
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such table")

    # sample_data has 2.6 million rows, one in six of a key frame. The others are dropped while the
    # file is read, or they would fill the memory.
    def drop(row):
        return BETWEEN if row.get("is_key_frame") is False else row

    rows = parse_json(read_text(path), path, drop)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found a {type(rows).__name__}")
    kept = []
    for number, row in enumerate(rows):
        if row is BETWEEN:
            continue
        for field, kind in FIELDS[name].items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                raise DataError(f"{path}: row {number} has no {field}")
        kept.append(row)
    return kept


def follow(table, token, path):
    """The row that a token points at. DataError if there is none."""
    if token not in table:
        raise DataError(f"{path}: a row points at {token!r}, which no table has")
    return table[token]


def stamps_of(folder):
    """Names, sizes and times of the tables: they tell whether one has changed."""
    return tuple(file_stamps([os.path.join(folder, f"{name}.json") for name in FIELDS]))


@lru_cache(4)
def key_frames(folder, stamps):
    """({token of a sample: {channel: file}}, {token of a sample: name of its scene}) of v1.0-...

    Remembered while the tables have these stamps: those of v1.0-trainval have 1.3 GB, and train,
    val and test are loaded one after the other."""
    tables = {}
    for name in ("scene", "sample", "calibrated_sensor", "sensor"):
        tables[name] = {row["token"]: row for row in read_rows(folder, name)}

    scene_of = {}
    for token, row in tables["sample"].items():
        scene = follow(tables["scene"], row["scene_token"], f"{folder}/sample.json")
        scene_of[token] = scene["name"]

    # A file is of a mounted sensor, which is of a kind of sensor, which has a channel.
    path = f"{folder}/sample_data.json"
    files = {token: {} for token in scene_of}
    for row in read_rows(folder, "sample_data"):
        mounted = follow(tables["calibrated_sensor"], row["calibrated_sensor_token"], path)
        sensor = follow(tables["sensor"], mounted["sensor_token"], path)
        follow(files, row["sample_token"], path)[sensor["channel"]] = row["filename"]
    return files, scene_of


# --------------------------------------------------------------------------------------------------
# Pictures and labels


def read_camera(path, size):
    """(3, size, 16/9 size) uint8: nuScenes' pictures have 1600 x 900 pixels. None is cut off."""
    image = read_image(path, path, "RGB")
    width, height = image.size
    if 9 * width != 16 * height:
        raise DataError(f"{path}: {width} x {height} pixels; nuScenes' pictures are 16 : 9")
    image = image.resize((round(size * 16 / 9), size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def read_label(path, grid):
    """(grid, grid, grid * 16 / 200) bool of a file of SurroundOcc's: rows from ahead, top first.

    A coarser grid is pooled by its maximum: a cell is occupied if any voxel in it is."""
    rows = load_array(path)
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iu":
        raise DataError(f"{path}: {rows.dtype} {rows.shape}; expected integers (M, 4): x y z class")
    if len(rows) and ((rows[:, :3] < 0).any() or (rows[:, :3] >= GRID).any()):
        raise DataError(f"{path}: a voxel outside of the grid of 200 x 200 x 16")

    # Which cell of the coarse grid is a voxel in?
    cell = GRID[0] // grid
    occupied = rows[rows[:, 3] > 0, :3].astype(int) // cell
    volume = np.zeros((grid, grid, GRID[2] // cell), bool)
    volume[tuple(occupied.T)] = True  # [x, y, z]
    # As a map whose top is ahead: rows from large y to small, columns by x, layers from large z.
    return np.ascontiguousarray(volume.transpose(1, 0, 2)[::-1, :, ::-1])


# --------------------------------------------------------------------------------------------------
# The loader


def nuscenes(root, split, size=72, grid=200):
    """Six cameras (6, 3, size, 16/9 size) -> occupied voxels (grid, grid, grid * 16/200).

    grid: 200, 100, 50 or 25. All tables below ROOT/v1.0-*, which have labels and pictures on this
    disk. 80 / 10 / 10 % by a hash of the scene's name: moments of one scene look alike, so no scene
    is in two parts. Not nuScenes' own parts."""

    def make(*paths):
        y = np.stack([read_camera(path, size) for path in paths[:-1]])
        return y, read_label(paths[-1], grid)

    folders = [path for path in sorted(glob(os.path.join(root, "v1.0-*"))) if os.path.isdir(path)]
    if not folders:
        raise missing_data("nuscenes", root, "no folder of tables, v1.0-...")
    files, scene_of = {}, {}
    for folder in folders:
        # v1.0-mini is a part of v1.0-trainval: its samples have the same tokens.
        found, scenes = key_frames(folder, stamps_of(folder))
        files |= found
        scene_of |= scenes

    items, names = [], []
    skipped = {"not all six cameras and the lidar": [], "no label": [], "a picture is missing": []}
    for token, by_channel in files.items():
        if not {*CAMERAS, LIDAR} <= by_channel.keys():
            skipped["not all six cameras and the lidar"].append(token)
            continue
        label = os.path.basename(by_channel[LIDAR]) + ".npy"
        label = os.path.join(root, "nuscenes_occ", "samples", label)
        pictures = [os.path.join(root, by_channel[channel]) for channel in CAMERAS]
        if not os.path.isfile(label):
            skipped["no label"].append(label)
        elif not all(map(os.path.isfile, pictures)):
            skipped["a picture is missing"].append(token)
        else:
            items.append((*pictures, label))
            names.append(scene_of[token])
    if not items:
        told = next(
            (f"{reason}: {found[0]}" for reason, found in skipped.items() if found), "empty"
        )
        raise missing_data("nuscenes", root, told)
    return items, split_by_name(names, [0.80, 0.90], root), make, skipped
