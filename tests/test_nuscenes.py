"""data_nuscenes.py, on a tiny nuScenes that is written here: tables, pictures and labels."""

import json

import numpy as np
import pytest
from PIL import Image

import data_nuscenes
import runs
import train_bridge
from data_nuscenes import CAMERAS, read_label
from data_pairs import load_pairs
from errors import DataError, RunError

SPLITS = ("train", "val", "test")
SCENES, MOMENTS = 12, 2
CHANNELS = [*sorted(CAMERAS), "LIDAR_TOP"]  # not the order in which they are wanted
SMALL = {"size": 9, "grid": 25}
TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "sensor")


def label_name(scene, moment):
    return f"n{scene}__LIDAR_TOP__{moment}.pcd.bin"


def write_tables(folder, scenes):
    """The five tables of these scenes, tied to each other as nuScenes does it."""
    tables = {name: [] for name in TABLES}
    for n, channel in enumerate(CHANNELS):
        tables["sensor"].append({"token": f"kind{n}", "channel": channel, "modality": "any"})
        mounted = {"token": f"mounted{n}", "sensor_token": f"kind{n}", "rotation": [1, 0, 0, 0]}
        tables["calibrated_sensor"].append(mounted)
    for scene in scenes:
        tables["scene"].append({"token": f"s{scene}", "name": f"scene-{scene:04}"})
        for moment in range(MOMENTS):
            token = f"s{scene}m{moment}"
            tables["sample"].append({"token": token, "scene_token": f"s{scene}", "prev": ""})
            for n, channel in enumerate(CHANNELS):
                file = f"samples/{channel}/{scene}-{moment}.jpg"
                if channel == "LIDAR_TOP":
                    file = f"samples/LIDAR_TOP/{label_name(scene, moment)}"
                row = {"sample_token": token, "calibrated_sensor_token": f"mounted{n}"}
                frames = [{**row, "filename": file, "is_key_frame": True}]
                # A frame between two samples belongs to the next one, and comes in any order.
                frames.append({**row, "filename": "sweeps/no.jpg", "is_key_frame": False})
                tables["sample_data"] += frames[:: 1 if moment else -1]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))


def shade(scene, moment, channel):
    return 10 * scene + 5 * moment + 20 * CAMERAS.index(channel)


def voxels(scene, moment):
    """Two voxels of a sample, and one that is noise."""
    return [[8 * scene + moment, 199 - 8 * scene, 15, 4], [100, 60, 0, 16], [9, 9, 9, 0]]


def write_files(top):
    for scene in range(SCENES):
        for moment in range(MOMENTS):
            for channel in CAMERAS:
                path = top / "samples" / channel / f"{scene}-{moment}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 36), (shade(scene, moment, channel),) * 3).save(path)
            path = top / "nuscenes_occ" / "samples" / f"{label_name(scene, moment)}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(voxels(scene, moment)))


@pytest.fixture
def top(tmp_path):
    write_tables(tmp_path / "v1.0-trainval", range(SCENES))
    write_files(tmp_path)
    return tmp_path


def everything(top, **options):
    """{(scene, moment): (split, y, x)} of the three splits."""
    found = {}
    for split in SPLITS:
        pairs = load_pairs("nuscenes", str(top), split, **(options or SMALL))
        for n in range(len(pairs.x)):
            y, x = pairs.of([n])
            scene, moment = pairs.y.name(n).split("/")[-1].removesuffix(".jpg").split("-")
            assert (int(scene), int(moment)) not in found
            found[int(scene), int(moment)] = split, y[0], x[0]
    return found


def test_pictures_and_voxels_of_a_sample(top):
    """Cameras are mixed up, a label is another sample's, or the grid is turned or mirrored."""
    found = everything(top)
    assert sorted(found) == [(s, m) for s in range(SCENES) for m in range(MOMENTS)]
    for (scene, moment), (_, y, x) in found.items():
        assert y.shape == (6, 3, 9, 16) and y.dtype == np.uint8
        expected = [shade(scene, moment, channel) for channel in CAMERAS]
        assert np.abs(y.mean((1, 2, 3)) - expected).max() < 2
        # 8 voxels a cell: large y, which is ahead, in row 0; large z, which is above, in layer 0.
        assert x.shape == (25, 25, 2) and x.dtype == bool
        assert np.argwhere(x).tolist() == sorted([[scene, scene, 0], [24 - 60 // 8, 12, 1]])


def test_cameras_go_clockwise():
    """The panorama jumps: an order of the file, or that of the alphabet."""
    turns = {"FRONT": 0, "FRONT_RIGHT": 60, "BACK_RIGHT": 120, "BACK": 180, "BACK_LEFT": 240}
    turns["FRONT_LEFT"] = 300
    angles = [turns[channel.removeprefix("CAM_")] for channel in CAMERAS]
    assert angles == [0, 60, 120, 180, 240, 300]


@pytest.mark.parametrize("grid", [200, 100, 50, 25])
def test_a_coarser_grid_has_the_maximum(tmp_path, grid):
    """A cell is occupied if half of it is, if its first voxel is, or noise makes it so."""
    rng = np.random.default_rng(grid)
    rows = np.concatenate(
        [rng.integers(0, (200, 200, 16), (70, 3)), rng.integers(0, 3, (70, 1))], 1
    )
    np.save(tmp_path / "a.npy", rows.astype(np.uint8))
    volume, cell = read_label(str(tmp_path / "a.npy"), grid), 200 // grid
    expected = np.zeros((grid, grid, 16 // cell), bool)
    for x, y, z, kind in rows:
        if kind:
            expected[(199 - y) // cell, x // cell, (15 - z) // cell] = True
    assert (volume == expected).all()


def test_pictures_keep_their_width(top):
    """A picture is cropped to a square, or squeezed into one."""
    image = Image.new("RGB", (64, 36))
    image.paste((255, 255, 255), (0, 0, 32, 36))  # the left half
    image.save(top / "a.png")
    for size, width in ((18, 32), (72, 128)):
        view = data_nuscenes.read_camera(str(top / "a.png"), size)
        assert view.shape == (3, size, width)
        assert view[:, :, : width // 2 - 4].min() > 250 and view[:, :, width // 2 + 4 :].max() < 5


def test_splits_share_no_scene(top):
    """Two moments of one scene, half a second apart, are in train and in test."""
    found = everything(top)
    of_scene = {}
    for (scene, _), (split, _, _) in found.items():
        of_scene.setdefault(scene, set()).add(split)
    assert all(len(splits) == 1 for splits in of_scene.values())
    assert {split for split, _, _ in found.values()} == set(SPLITS)


def test_what_is_left_out_is_told(top, capsys):
    """A sample without a label or with half of its pictures vanishes, or ends the run."""
    (top / "nuscenes_occ" / "samples" / f"{label_name(3, 1)}.npy").unlink()
    (top / "samples" / "CAM_BACK" / "5-0.jpg").unlink()
    rows = json.loads((top / "v1.0-trainval" / "sample_data.json").read_text())
    gone = next(n for n, r in enumerate(rows) if r["filename"] == "samples/CAM_FRONT/7-1.jpg")
    del rows[gone]
    (top / "v1.0-trainval" / "sample_data.json").write_text(json.dumps(rows))
    found = everything(top)
    assert len(found) == 21 and not {(3, 1), (5, 0), (7, 1)} & found.keys()
    said = capsys.readouterr().err
    assert "found 21 pairs; used " in said
    assert f"skipped 1: no label (first: {top}/nuscenes_occ/samples/{label_name(3, 1)}.npy)" in said
    assert "skipped 1: a picture is missing (first: s5m0)" in said
    assert "skipped 1: not all six cameras and the lidar (first: s7m1)" in said


def test_mini_is_a_part_of_trainval(top):
    """The scenes of v1.0-mini are there twice, in two splits."""
    write_tables(top / "v1.0-mini", range(6))
    assert len(everything(top)) == SCENES * MOMENTS
    for file in (top / "v1.0-trainval").iterdir():
        file.unlink()
    (top / "v1.0-trainval").rmdir()
    assert sorted({scene for scene, _ in everything(top)}) == [0, 1, 2, 3, 4, 5]


def change(name, how):
    """A function that changes one table below top."""

    def apply(top):
        path = top / "v1.0-trainval" / f"{name}.json"
        rows = json.loads(path.read_text())
        path.write_text(json.dumps(how(rows)))

    return apply


def without(field):
    return lambda rows: [{k: v for k, v in rows[0].items() if k != field}, *rows[1:]]


def with_value(field, value):
    return lambda rows: [*rows[:2], {**rows[2], field: value}, *rows[3:]]


def cut(top):
    path = top / "v1.0-trainval" / "sample.json"
    path.write_text(path.read_text()[:-9])


BROKEN = {
    "cut": (cut, "sample.json: no whole JSON"),
    "gone": (
        lambda top: (top / "v1.0-trainval/sensor.json").unlink(),
        "sensor.json: no such table",
    ),
    "object": (
        change("scene", lambda rows: rows[0]),
        "scene.json: expected a list .* found a dict",
    ),
    "number": (change("sensor", lambda rows: [7]), "sensor.json: row 0 has no token"),
    "field": (change("sample", without("scene_token")), "sample.json: row 0 has no scene_token"),
    "key": (change("sample_data", without("is_key_frame")), "row 0 has no is_key_frame"),
    "type": (change("scene", with_value("name", 5)), "scene.json: row 2 has no name"),
    "scene": (change("sample", with_value("scene_token", "x")), "sample.json: .* points at 'x'"),
    "sensor": (
        change("calibrated_sensor", with_value("sensor_token", "y")),
        "sample_data.json: .* points at 'y'",
    ),
    "sample": (
        change("sample_data", lambda rows: [{**r, "sample_token": "z"} for r in rows]),
        "sample_data.json: .* points at 'z'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables_are_refused(top, name):
    """A broken table ends in a traceback, in many lines, or in a set without a part of itself."""
    load_pairs("nuscenes", str(top), "train", **SMALL)  # what was read before does not hide it
    break_it, said = BROKEN[name]
    break_it(top)
    with pytest.raises(DataError, match=said) as error:
        load_pairs("nuscenes", str(top), "train", **SMALL)
    assert "\n" not in str(error.value) and "v1.0-trainval" in str(error.value)


@pytest.mark.parametrize(
    "rows, said",
    [
        (np.zeros((3, 3), int), "int64 .3, 3.; expected integers"),
        (np.zeros((2, 4)), "float64 .2, 4.; expected integers"),
        (np.zeros((2, 4, 1), int), "expected integers"),
        (np.array([[0, 0, 16, 1]]), "a voxel outside of the grid"),
        (np.array([[0, -1, 0, 1]]), "a voxel outside of the grid"),
        (np.array([{}] * 4), "no .npy array"),
    ],
)
def test_broken_labels_are_refused(tmp_path, rows, said):
    """Floats are cut off, a voxel comes in at the other side, or a pickle is opened."""
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(DataError, match=f"a.npy: .*{said}"):
        read_label(str(tmp_path / "a.npy"), 100)


def test_an_empty_label_is_an_empty_room(tmp_path):
    """A place without anything around is refused."""
    np.save(tmp_path / "a.npy", np.zeros((0, 4), int))
    assert not read_label(str(tmp_path / "a.npy"), 100).any()


def test_another_shape_of_picture_is_refused(top):
    """Another camera's pictures are squeezed into nuScenes' shape."""
    for path in (top / "samples" / "CAM_FRONT").iterdir():
        Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(DataError, match="CAM_FRONT/.*: 40 x 30 pixels; .* 16 : 9"):
        load_pairs("nuscenes", str(top), "train", **SMALL)


def test_missing_is_explained(tmp_path, top):
    """What is missing is not said, or not where it comes from."""
    for root, said in ((tmp_path / "nowhere", "no such folder"), (None, "give --data-dir")):
        with pytest.raises(DataError, match=f"(?s)weiyithu/SurroundOcc.*not found: .*{said}"):
            load_pairs("nuscenes", root and str(root), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="(?s)nuscenes_occ.*no folder of tables, v1.0-"):
        load_pairs("nuscenes", str(tmp_path / "empty"), "train")
    for path in (top / "nuscenes_occ" / "samples").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="(?s)not found: .*no label: .*LIDAR_TOP"):
        load_pairs("nuscenes", str(top), "train")


def test_its_flags():
    """--grid is ignored, or taken where there is none; the default is not that of the labels."""
    parse = train_bridge.parse
    args = parse("--dataset nuscenes --data-dir x --grid 50 --size 18".split())
    assert runs.data_options(args) == {"size": 18, "grid": 50}
    assert runs.data_options(parse("--dataset nuscenes --data-dir x".split())) == {}
    with pytest.raises(RunError, match="--grid is for nuscenes"):
        parse("--dataset glyph-rooms --grid 50".split())
    with pytest.raises(SystemExit):
        parse("--dataset nuscenes --data-dir x --grid 60".split())


def test_the_default_grid(top):
    """Without flags, another grid or another size of pictures."""
    y, x = load_pairs("nuscenes", str(top), "train").of([0])
    assert y.shape == (1, 6, 3, 72, 128) and x.shape == (1, 200, 200, 16) and x.sum() == 2
    keys = {load_pairs("nuscenes", str(top), "train", grid=grid).key for grid in (25, 50)}
    assert len(keys) == 2
