"""
data_tables.py: tables of captions, as people and programs write them.

A table of captions looks simple until one sees what spreadsheets, pandas, R and the authors of data
sets write. Each of these lines says that a photo shows a sign, and to split them at commas would
spoil most of them:

    "photo.jpg","a sign, it says ""stop"" there"    quoted: the field holds a comma and quotes
    17,photo.jpg,a sign                             the number of the row stands before it
    photo.jpg,2,000 people at a sign                a comma inside, and no quotes around it
    photo.jpg,"a sign                               a quote that is never closed
    photo.jpg#0 TAB a sign                          Flickr8k's own form

So the csv module takes the fields apart, the header says which of them are wanted, and a line that
cannot be read is refused by its number.

Map      read_table       a table -> [Row, ...]
         columns          which names of a header are the image's and the captions'
         layout_of        separator and columns, from the header or from the first row
         records          lines -> records: a quoted field may go on in the next line
         rows_of          a record -> a Row for each of its captions
"""

import csv
import json
import re
from typing import NamedTuple

from data_files import PICTURES
from errors import DataError

# Names of the two columns, as data sets and people write them; small letters, _ for other signs.
IMAGE = "image filepath file_name filename image_name file_path image_path image_file path file"
CAPTION = "caption title text comment captions sentence description"
SEPARATORS = {",": "commas", "\t": "tabs", "|": "|", ";": "semicolons"}
# Flickr8k's form: photo.jpg#0, or photo.jpg#enc#0 with a language, then blanks, then the caption.
TOKEN_ROW = re.compile(r"(\S.*?)(?:#\w+)?#\d+(?:[ \t]+(.*))?")
# A quoted field may hold line breaks; one of more lines than this is a quote without an end.
MOST_LINES = 100


class Row(NamedTuple):
    """A picture and one of its captions. A picture has as many captions as it has rows."""

    file: str  # path below the folder of the pictures
    caption: str  # anything but a text with words in it is skipped, and counted
    id: int | None = None  # decides about train, val, test; None: the CRC-32 of `file`


# --------------------------------------------------------------------------------------------------
# A table -> rows


def read_table(path):
    """([Row, ...], what it was taken for) of a table of captions. DataError names the line."""
    text = read_text(path)
    if path.endswith(".jsonl"):
        return jsonl_rows(text, path)
    # Not splitlines(): it also splits at signs like U+2028 that stand inside of sentences.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # Excel may write its separator into the first line, `sep=;`.
    if re.fullmatch("sep=.", lines[0].strip()):
        lines[0] = ""
    first = next((line for line in lines if line.strip()), "")
    token = TOKEN_ROW.fullmatch(first)
    if token and is_picture(token[1]):
        return token_rows(lines, path), "rows of `name#number caption`"
    layout = layout_of(first, lines, path)
    rows = []
    for number, record in enumerate(records(lines, layout)):
        if number > 0 or not layout.header:
            rows += rows_of(record, layout, path)
    return rows, layout.told


def read_text(path):
    """The text of a file in UTF-8, or in UTF-16, which spreadsheets call Unicode text."""
    with open(path, "rb") as f:
        raw = f.read()
    # UTF-16 is known by its first two bytes. "-sig": spreadsheets begin a file in UTF-8 with an
    # invisible mark, which is not part of the first name.
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except ValueError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: not UTF-8 text, in line {line}; save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path}: not UTF-8 text, it holds zero bytes; save it as UTF-8")
    return text


def parse_json(text, where, change=None):
    """The value of a text in JSON. DataError: cut short, or nested deeper than Python goes.

    change(object) takes the place of each object, as soon as it has been read."""
    try:
        return json.loads(text, object_hook=change)
    except ValueError as error:
        raise DataError(f"{where}: no whole JSON ({error})") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply for a data set") from error


def is_picture(name):
    return name.strip().lower().endswith(PICTURES)


def token_rows(lines, path):
    """Rows of Flickr8k's form, where a quote is a sign like others."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = TOKEN_ROW.fullmatch(line)
        if not found:
            raise DataError(f"{path} line {number}: expected `name#number caption`")
        rows.append(Row(found[1], found[2] or ""))
    return rows


def jsonl_rows(text, path):
    """Rows of a file with one JSON object a line, Hugging Face's metadata.jsonl."""
    rows, told = [], "empty"
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        record = parse_json(line, where)
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object, found {line[:40]}")
        image, captions = columns(list(record), where)
        told = f"pictures from key {image}, captions from {', '.join(captions)}"
        if not isinstance(record[image], str):
            raise DataError(f"{where}: {image} is no file's name: {record[image]}")
        # A key may hold one sentence, or a list of them.
        for name in captions:
            texts = record[name] if isinstance(record[name], list) else [record[name]]
            rows += [Row(record[image], one) for one in texts]
    return rows, told


def columns(names, where):
    """(name of the image's column, names of the captions' columns) among names. DataError: none."""
    plain = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in names}
    image = [plain[word] for word in IMAGE.split() if word in plain]
    caption = [plain[word] for word in CAPTION.split() if word in plain]
    # Some tables have five captions in a row: caption_0 to caption_4.
    numbered = [name for word, name in plain.items() if re.fullmatch(r"caption_?\d+", word)]
    if not image or not (caption or numbered):
        wanted = "image, filepath, file_name, filename or image_name; caption, title, text, comment"
        raise DataError(f"{where}: no columns called {wanted}; found {', '.join(names)[:200]}")
    return image[0], caption[:1] or numbered


# --------------------------------------------------------------------------------------------------
# Fields between separators


class Layout(NamedTuple):
    """Which field of a table is what."""

    separator: str
    width: int  # fields of a row
    image: int  # the number of the image's field, from 0
    captions: list  # those of its captions
    number: int | None  # that of Flickr30k's column comment_number
    header: bool
    told: str  # the same in words


def parse(text, separator):
    """(fields, False) of a record by the csv module, or (None, is a quote still open?)."""
    # strict: else `"no" he said` would lose its quotes in silence.
    options = {"delimiter": separator, "strict": True, "skipinitialspace": True}
    try:
        return next(csv.reader([text], **options)), False
    except csv.Error as error:
        return None, "end of data" in str(error)


def layout_of(first, lines, path):
    """The Layout of a table, from its header or, without one, from its first row."""
    # The separator is the one at which the header falls apart into names that we know.
    for separator in SEPARATORS:
        names = parse(first, separator)[0] or []
        try:
            image, captions = columns(names, path)
        except DataError:
            continue
        # R leaves out the header's field above the numbers of the rows: the pictures then stand
        # one field further right than their name in the header.
        row = next((line for line in lines[lines.index(first) + 1 :] if line.strip()), "")
        fields = parse(row, separator)[0] or []
        pictures = [at for at, field in enumerate(fields) if is_picture(field)]
        if len(fields) == len(names) + 1 and pictures == [names.index(image) + 1]:
            names = ["", *names]
        number = names.index("comment_number") if "comment_number" in names else None
        at = [names.index(name) for name in captions]
        told = f"pictures from column {image}, captions from {', '.join(captions)}"
        told = f"{SEPARATORS[separator]} between {len(names)} columns, {told}"
        return Layout(separator, len(names), names.index(image), at, number, True, told)

    # No header: then the first row holds the name of a picture.
    for separator in SEPARATORS:
        pieces = [piece.strip(' "') for piece in first.split(separator)]
        pictures = [n for n, piece in enumerate(pieces) if is_picture(piece)]
        if pictures and len(pieces) > 1:
            return plain_layout(separator, pictures[0], pieces, lines)
    return columns([first.strip()], f"{path} line 1")  # raises: neither of the two


def plain_layout(separator, image, pieces, lines):
    """The Layout of a table without a header, whose first row has these pieces."""
    rows = [line.split(separator) for line in lines if line.strip()]
    numbered = all(len(row) > 2 and row[1].strip(' "').isdigit() for row in rows)
    if image == 1 and pieces[0].isdigit():
        width, caption = 3, 2  # 17,photo.jpg,a dog
    elif image > 0:
        width, image, caption = 2, 1, 0  # a dog,photo.jpg
    elif numbered:
        width, caption = 3, 2  # photo.jpg,0,a dog: all rows are like that
    else:
        width, caption = 2, 1  # photo.jpg,a dog; also photo.jpg,2,000 people
    told = f"no header, {SEPARATORS[separator]} between {width} columns"
    told += f", pictures from column {image + 1}, captions from column {caption + 1}"
    return Layout(separator, width, image, [caption], None, False, told)


def records(lines, layout):
    """Yield (number of its first line, text, fields or None) of each record of a table.

    None: its quotes are not those of a quoted field. They are signs of the caption, then."""
    n = 0
    while n < len(lines):
        text, end = lines[n], n + 1
        fields, is_open = parse(text, layout.separator)
        # A quoted field may go on in the next lines. If one of these names another picture, or
        # none of them closes it, then the quote was just a quote, and the record is one line.
        pictures = names_picture(text, layout)
        while is_open and end < min(len(lines), n + MOST_LINES) and pictures < 2:
            text += "\n" + lines[end]
            pictures += names_picture(lines[end], layout)
            fields, is_open = parse(text, layout.separator)
            end += 1
        if fields is None or pictures > 1:
            text, end = lines[n], n + 1
            fields = parse(text, layout.separator)[0]
        if text.strip():
            yield n + 1, text, fields
        n = end


def names_picture(line, layout):
    """Whether a field of this line is the name of a picture."""
    return any(is_picture(piece.strip(' "')) for piece in line.split(layout.separator))


def rows_of(record, layout, path):
    """The rows of one record: one for each of its captions. DataError names its line."""
    line, text, fields = record
    where = f"{path} line {line}"
    if fields is None or len(fields) > layout.width:
        fields = split_around(text, layout, where)
    # Flickr30k's own results.csv has one row without its second |: `x.jpg| 4   a dog`.
    if layout.number == 1 and len(fields) > 1 and not fields[1].isdigit():
        found = re.match(r"\s*\d+\s+(\S.*)", text.partition(layout.separator)[2])
        fields = [fields[0], "", found[1]] if found else fields

    if not any(fields):
        return []  # a spreadsheet ends in such rows
    if len(fields) <= max(layout.image, *layout.captions):
        told = f"{layout.width} fields with {SEPARATORS[layout.separator]} between them"
        raise DataError(f"{where}: expected {told}, found {text[:60]!r}")
    file = fields[layout.image].strip()
    if not file:
        raise DataError(f"{where}: no picture's name in {text[:60]!r}")
    return [Row(file, fields[at]) for at in layout.captions]


def split_around(text, layout, where):
    """The fields of a record whose quotes or separators are not those of a table.

    `photo.jpg,2,000 people` has a field more than columns: a caption holds a separator, and no
    quotes. What stands between the columns before the caption and those after it is the caption."""
    fields = [field.strip() for field in text.split(layout.separator)]
    spare = len(fields) - layout.width
    if spare > 0 and len(layout.captions) > 1:
        raise DataError(f"{where}: {len(fields)} fields for {layout.width} columns")
    if spare > 0:
        at = layout.captions[0]
        pieces = text.split(layout.separator)[at : at + spare + 1]
        fields[at : at + spare + 1] = [layout.separator.join(pieces).strip()]
    # A name may be quoted although the caption is not.
    if len(fields) > layout.image:
        fields[layout.image] = fields[layout.image].strip(' "')
    return fields
