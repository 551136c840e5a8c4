"""Problems in and out of files, streaming: JSONL (also .gz), Parquet, folders of them, and Hugging Face datasets.

    for problem in read("train.jsonl"): ...                     the format is recognised from the first record
    read("traces.parquet", format="openmathreasoning")          or named
    read("own.jsonl", columns=Columns(problem="q", answer="a"))  or given as a mapping
    read("hf:org/name:train")                                   streamed from the Hub (extra: data)

`write` is the inverse for our own format; `Indexed` gives random access to a JSONL file that does not fit in memory.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from h1r import log
from h1r.data.convert import FORMATS, Columns, Convert, Where, by_columns, guess
from h1r.errors import ConfigError, DataError
from h1r.types import Problem

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
ENCODED = ("messages", "gold", "tests", "tools", "solution", "meta")
"""Columns a Parquet file of ours holds as JSON, since their shape differs from row to row."""


def read(path: str | Path, *, format: str = "", columns: Columns | None = None) -> Iterator[Problem]:
    """Problems of a file, a folder of files (in order of name) or `hf:name[:split]`.

    Raises ConfigError for an unknown format or ending, DataError (file, line, field) for a record that cannot be read.
    """
    if format and format not in FORMATS:
        raise ConfigError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
    convert = by_columns(columns) if columns else FORMATS[format] if format else None
    for record, where in records(path):
        if convert is None:
            convert = _recognised(record, where)
        yield convert(record, where)


def records(path: str | Path) -> Iterator[tuple[dict[str, Any], Where]]:
    """The raw records of a file, folder or Hub dataset, with where each came from."""
    name = str(path)
    if name.startswith("hf:"):
        yield from _hub(name[3:])
    elif Path(name).is_dir():
        files = sorted(f for f in Path(name).rglob("*") if f.name.endswith(ENDINGS) and f.name[0] != ".")
        if not files:
            raise DataError(f"{name}: no file in this folder ends in {', '.join(ENDINGS)}")
        for file in files:
            yield from records(file)
    elif not Path(name).is_file():
        raise DataError(f"{name}: no such file; give a .jsonl, .jsonl.gz or .parquet file, a folder, or hf:name")
    elif name.endswith(".parquet"):
        yield from _parquet(name)
    elif name.endswith((".jsonl", ".jsonl.gz", ".json", ".ndjson")):
        yield from _jsonl(name)
    else:
        raise ConfigError(f"{name}: unknown ending; known are {', '.join(ENDINGS)}")


def write(path: str | Path, problems: Iterable[Problem]) -> int:
    """Problems to a .jsonl, .jsonl.gz or .parquet file, whole or not at all; returns how many."""
    name = str(path)
    if name.endswith(".jsonl"):
        return log.write(path, (as_record(p) for p in problems))
    if not name.endswith((".jsonl.gz", ".parquet")):
        raise ConfigError(f"{name}: unknown ending; known are {', '.join(ENDINGS)}")
    with log.whole(Path(path)) as temporary:
        return (_write_parquet if name.endswith(".parquet") else _write_gzip)(temporary, problems)


def as_record(problem: Problem) -> dict[str, Any]:
    """A problem as plain JSON, empty fields left out."""
    values = {f.name: getattr(problem, f.name) for f in fields(problem)}
    return {k: v for k, v in values.items() if k in ("id", "messages", "kind") or v not in (None, (), "", {})}


class Indexed:
    """Random access to the problems of a plain JSONL file: 8 bytes of memory per line, the rest stays on disk."""

    def __init__(self, path: str | Path, *, format: str = "", columns: Columns | None = None) -> None:
        self.path = str(path)
        self._convert = by_columns(columns) if columns else FORMATS[format] if format else None
        starts, position = [], 0
        with open(path, "rb") as f:
            for line in f:
                if line.strip():
                    starts.append(position)
                position += len(line)
        self._starts = np.asarray(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Problem:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: {index} of {len(self)}")
        with open(self.path, "rb") as f:
            f.seek(int(self._starts[index]))
            line = f.readline()
        where = Where(self.path, index + 1)
        record = _parsed(line, where)
        if self._convert is None:
            self._convert = _recognised(record, where)
        return self._convert(record, where)


def _recognised(record: Mapping[str, Any], where: Where) -> Convert:
    name = guess(record)
    if not name:
        raise DataError(
            f"{where.path}, {where.unit} {where.number}: columns {', '.join(record)} fit no known format; "
            "name one with format= or give columns="
        )
    return FORMATS[name]


def _jsonl(name: str) -> Iterator[tuple[dict[str, Any], Where]]:
    with gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb") as f:
        number = 0
        try:
            for number, line in enumerate(f, 1):
                if line.strip():
                    where = Where(name, number)
                    yield _parsed(line, where), where
        except (EOFError, gzip.BadGzipFile) as e:
            raise DataError(f"{name}, after line {number}: the archive is damaged ({e}); fetch it again") from None


def _parsed(line: bytes, where: Where) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as e:
        raise DataError(f"{where.path}, line {where.number}: not UTF-8 ({e.reason} at byte {e.start})") from None
    except ValueError as e:
        raise DataError(f"{where.path}, line {where.number}: not JSON ({e})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where.path}, line {where.number}: an object was expected, found {type(record).__name__}")
    return record


def _parquet(name: str) -> Iterator[tuple[dict[str, Any], Where]]:
    parquet = _pyarrow("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(name)
    except (OSError, ValueError) as e:
        raise DataError(f"{name}: not a Parquet file ({' '.join(str(e).split())})") from None
    ours = (file.schema_arrow.metadata or {}).get(b"h1r") == b"1"
    number = 0
    for batch in file.iter_batches(batch_size=256):
        for row in batch.to_pylist():
            number += 1
            if ours:
                row = {k: json.loads(v) if k in ENCODED and v is not None else v for k, v in row.items()}
            yield {k: v for k, v in row.items() if v is not None}, Where(name, number, "row")


def _write_parquet(path: Path, problems: Iterable[Problem]) -> int:
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    names = [f.name for f in fields(Problem)]
    columns = [(n, arrow.float64() if n == "difficulty" else arrow.string()) for n in names]
    schema = arrow.schema(columns, metadata={"h1r": "1"})
    count, batch = 0, []
    with parquet.ParquetWriter(path, schema) as writer:
        for problem in problems:
            record = as_record(problem)
            batch.append({n: log.dumps(record[n]) if n in ENCODED and n in record else record.get(n) for n in names})
            count += 1
            if len(batch) == 256:
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
    return count


def _write_gzip(path: Path, problems: Iterable[Problem]) -> int:
    count = 0
    # mtime 0: the same problems give the same bytes
    with gzip.GzipFile(path, "wb", mtime=0) as f:
        for problem in problems:
            count += 1
            f.write((log.dumps(as_record(problem)) + "\n").encode())
    return count


def _hub(name: str) -> Iterator[tuple[dict[str, Any], Where]]:
    try:
        import datasets
    except ImportError:
        raise ConfigError("hf: needs the package `datasets`; install open-h1r[data]") from None
    path, _, split = name.partition(":")
    for number, record in enumerate(datasets.load_dataset(path, split=split or "train", streaming=True), 1):
        yield {k: v for k, v in record.items() if v is not None}, Where(f"hf:{path}", number, "row")


def _pyarrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError("Parquet files need the package `pyarrow`; install open-h1r[data]") from None
