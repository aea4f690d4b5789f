"""Tables that users bring: CSV with a header, or JSON, rows as {column: text}."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from anymask.data.sa1b import read_json
from anymask.errors import DataError

Row = dict[str, str]


def read_table(path: str | Path, required: Sequence[str] = ()) -> list[Row]:
    """The rows of a CSV file with a header, or of a JSON file: a list of objects, or {image: {column: value}}.

    Values become text without blanks around it; missing ones "". In the second form of JSON the key becomes
    the column `image`. Raises DataError, naming the file, for anything else, an empty table, or without the
    `required` columns.
    """
    path = Path(path)
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: has no rows")
    for column in required:
        if column not in rows[0]:
            raise DataError(f"{path}: has no column {column!r}; it has {', '.join(rows[0])}")
    return rows


def _csv_rows(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [
                {str(column).strip(): (value or "").strip() for column, value in row.items() if column is not None}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not readable as CSV ({error})") from error


def _json_rows(path: Path) -> list[Row]:
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
        content = [{"image": key, **value} for key, value in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: is no table; allowed: a list of objects, or an object of objects by image")
    columns = list(dict.fromkeys(str(column) for row in content for column in row))
    return [
        {column: "" if row.get(column) is None else str(row[column]).strip() for column in columns} for row in content
    ]
