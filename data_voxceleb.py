"""
data_voxceleb.py: a face and a voice of the same person, from VoxCeleb1's official layout.

1,251 people, 153,516 clips of their speech cut out of interviews, and crops of their faces. Voices
lie in folders named by number, faces in folders named by name; a table of the authors joins them:

    ROOT/vox1_meta.csv                   VoxCeleb1 ID  TAB  VGGFace1 ID  TAB  Gender  TAB ...
                                         id10270            Eartha_Kitt       f
    ROOT/wav/id10270/x6uYqmx31kE/00001.wav             person, video, clip: 16 kHz, 16 bit
    ROOT/unzippedFaces/Eartha_Kitt/1.6/x6uYqmx31kE/0000375.jpg

Clips and faces are not one to one, so a pair is made of each clip and one face of its speaker,
chosen by a hash: of any video, or the network might learn the room from the sound. Two data sets,
named after their target: `voxceleb` paints a voice (see sounds.py), `voxceleb-faces` a face.

Map      read_people       the table: who is who
         voices_in, faces_in    the folders of a person
         voxceleb          the loader of both, as data_pairs.py wants it
         first_of_each     one pair a person, for matching
"""

import os
import re
from functools import partial
from glob import escape, glob

from data_files import (
    channels_first,
    find_pictures,
    missing_data,
    name_ids,
    read_image,
    split_by_hash,
)
from errors import DataError
from sounds import SPEECH, read_sound

PERSON = re.compile(r"id\d{5}$")  # a person's number in VoxCeleb1
COLUMNS = ("VoxCeleb1 ID", "VGGFace1 ID")  # of the table, those that are needed


def read_people(path):
    """{"id10270": "Eartha_Kitt", ...} of vox1_meta.csv. DataError: another table, or a bad row."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = [line.rstrip("\r\n") for line in f if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text in UTF-8 ({error})") from error
    head = [cell.strip() for cell in lines[0].split("\t")] if lines else []
    if not all(column in head for column in COLUMNS):
        told = f"its first line has {', '.join(head) or 'nothing'}"
        raise DataError(f"{path}: expected columns {' and '.join(COLUMNS)}, TAB between; {told}")
    number, name = (head.index(column) for column in COLUMNS)
    people = {}
    for n, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) <= max(number, name) or not PERSON.match(cells[number]):
            raise DataError(f"{path}: line {n} is no person: {line[:60]!r}")
        # A person of two names would be heard with two faces.
        if people.setdefault(cells[number], cells[name]) != cells[name]:
            raise DataError(f"{path}: line {n} gives {cells[number]} another name")
    return people


def folders_in(root, people):
    """Folders up to three levels below root, but not those inside of a person's."""
    faces = {name.rstrip(".") for name in people.values()}
    found, level = [], [root]
    for _ in range(3):
        entries = [entry for folder in level for entry in os.scandir(folder) if entry.is_dir()]
        entries.sort(key=lambda entry: entry.path)
        found += [entry.path for entry in entries]
        # A person's folder may hold a thousand pictures: they are looked at later, if at all.
        level = []
        for entry in entries:
            of_person = PERSON.match(entry.name) or entry.name.rstrip(".") in faces
            if not of_person and entry.name[0] != ".":
                level.append(entry.path)
    return found


def voices_in(folders):
    """{"id10270": [path of a clip, ...]}: all .wav of VIDEO folders below folders id*."""
    found = {}
    for folder in folders:
        person = os.path.basename(folder)
        if PERSON.match(person):
            clips = sorted(glob(os.path.join(escape(folder), "*", "*.wav")))
            found.setdefault(person, []).extend(clips)
    return found


def faces_in(folders, names):
    """{"Eartha_Kitt": [path of a picture, ...]} of the folders that bear one of these names."""
    # Some programs leave out the dot at a folder's end: "Robert_Downey_Jr." is without it.
    known = {name.rstrip("."): name for name in names}
    found = {}
    for folder in folders:
        name = known.get(os.path.basename(folder).rstrip("."))
        if name:
            found.setdefault(name, []).extend(find_pictures(folder, "**/*"))
    return found


def voxceleb(root, split, size=64, seconds=None, to="voices"):
    """y = a face (3, size, size), x = a voice's log-mel picture (1, 128, 128); to="faces": back.

    80 / 10 / 10 % of the people, by a hash of their numbers: nobody who is heard in the test was
    heard or seen in training. The table's own column Set is for another task."""
    how = SPEECH if seconds is None else SPEECH._replace(seconds=seconds)

    def make(y_path, x_path):
        face, voice = (x_path, y_path) if to == "faces" else (y_path, x_path)
        picture = read_image(face, face, "RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        both = channels_first(square, size), read_sound(voice, how)
        return both[::-1] if to == "faces" else both

    table = os.path.join(root, "vox1_meta.csv")
    if not os.path.isfile(table):
        raise missing_data("voxceleb", root, "no vox1_meta.csv, which joins voices and faces")
    people = read_people(table)
    folders = folders_in(root, people)
    voices, faces = voices_in(folders), faces_in(folders, people.values())

    # Who is in the table, is heard, and is seen?
    items, persons = [], []
    for person, name in people.items():
        for clip in voices.get(person, []) if faces.get(name) else []:
            number = name_ids([os.path.relpath(clip, os.path.dirname(clip_root(clip)))])[0]
            face = faces[name][number % len(faces[name])]
            items.append((clip, face) if to == "faces" else (face, clip))
            persons.append(person)
    skipped = {
        "heard, but not in vox1_meta.csv": sorted(voices.keys() - people.keys()),
        "heard, but no face": [p for p, n in people.items() if voices.get(p) and not faces.get(n)],
        "seen, but not heard": [p for p, n in people.items() if faces.get(n) and not voices.get(p)],
    }
    if not items:
        raise missing_data("voxceleb", root, "nobody of vox1_meta.csv has a voice and a face")
    return items, split_by_hash(name_ids(persons), [0.80, 0.90], root), make, skipped


def clip_root(clip):
    """The folder id* of a clip ROOT/.../id10270/VIDEO/00001.wav."""
    return os.path.dirname(os.path.dirname(clip))


def person_of(paths):
    """The person whose clip is among the two files of a pair: "id10270"."""
    for path in paths:
        person = os.path.basename(clip_root(path))
        if PERSON.match(person):
            return person
    raise DataError(f"{paths[0]}: no clip of VoxCeleb")


def first_of_each(pairs, rows):
    """Of these rows of Pairs, the first of each person: a wrong answer is then another person's."""
    seen, first = set(), []
    for place, row in enumerate(rows):
        person = person_of((pairs.y.name(row), pairs.x.name(row)))
        if person not in seen:
            seen.add(person)
            first.append(place)
    return first


voxceleb_faces = partial(voxceleb, to="faces")
