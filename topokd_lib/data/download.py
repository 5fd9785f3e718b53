"""Fetch a published file: in pieces if need be, and complete or not at all."""

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from topokd_lib.errors import DataError

__all__ = ["fetch"]

PIECE = 1 << 18


def fetch(url: str, path: Path, *, md5: str) -> None:
    """Download a file to ``path``; an interrupted download is continued by the next call.

    The bytes go to ``<path>.partial``, which gets its name when its checksum is right. A bar is drawn on
    terminals.

    Args:
        url: Where the file is published.
        path: Where it goes; its folder is created.
        md5: Its published checksum.

    Raises:
        DataError: If the server cannot be reached, the connection breaks off, the disk is full, or the file
            is not the published one.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        expected = _receive(url, partial, have)
        found = partial.stat().st_size
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} could not be downloaded ({_why(error)})") from error
    if expected is not None and found < expected:
        raise DataError(
            f"the download of {url} broke off after {found:,} of {expected:,} bytes; the same command "
            f"goes on from there"
        )
    with partial.open("rb+") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        os.fsync(file.fileno())
    if digest != md5:
        partial.unlink()
        raise DataError(
            f"what {url} sends is not the published file: its MD5 is {digest} instead of {md5}. Try again "
            f"later, or fetch it elsewhere"
        )
    partial.replace(path)


def _receive(url: str, partial: Path, have: int) -> int | None:
    """Append what is missing, and return the size of the whole if the server tells it."""
    request = urllib.request.Request(url, headers={"User-Agent": "topokd"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the rest of a file that is complete does not exist
            raise
        return have
    with answer:
        continued = answer.status == 206
        length = answer.headers.get("Content-Length")
        start = have if continued else 0
        expected = start + int(length) if length else None
        with (
            partial.open("ab" if continued else "wb") as file,
            tqdm(
                desc=partial.stem, total=expected, initial=start, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            while piece := answer.read(PIECE):
                file.write(piece)
                bar.update(len(piece))
    return expected


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
