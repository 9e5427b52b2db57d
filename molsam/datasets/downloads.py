"""Downloads that can be trusted: HTTPS alone, resumed where they broke off, checked, then named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3
from filelock import FileLock

from molsam.datasets.files import DataError

BLOCK = 1 << 16
MOST_BYTES = 1 << 30  # no published table comes near
Progress = Callable[[int, int | None], object]
Timeout = tuple[float, float]

REASONS = {
    requests.exceptions.InvalidSchema: "it leads to an address that is not https://",
    requests.exceptions.SSLError: "the server's certificate is not trusted",
    requests.exceptions.Timeout: "the server does not answer",
    requests.exceptions.ConnectionError: "there is no connection to the server",
    urllib3.exceptions.TimeoutError: "the server stopped sending",
    urllib3.exceptions.HTTPError: "the connection broke off",
}
FINAL = (requests.exceptions.InvalidSchema, requests.exceptions.SSLError)


def download(
    url: str,
    path: str | Path,
    *,
    check: Callable[[Path], object],
    progress: Progress | None = None,
    timeout: Timeout = (10.0, 30.0),
    retries: int = 4,
    pause: float = 0.5,
) -> Path:
    """Bring `url` to `path`, which comes into being only once `check` is content.

    What arrives is kept in a hidden file beside `path`; a broken transfer, in this process or an
    earlier one, goes on from there where the server allows it. Processes that want the same file
    wait for the first of them.

    Parameters
    ----------
    check : called with the file that arrived, under another name with the same ending; raises
        `DataError` if it is not what was wanted, and then nothing is kept.
    progress : called with the bytes at hand and the bytes in all (None if the server is silent).
    timeout : seconds to wait for a connection, and for each further piece.
    retries, pause : how often to try again, after `pause`, 2 `pause`, 4 `pause`, ... seconds.

    Raises
    ------
    DataError : another address than https://, no answer, more than `MOST_BYTES`, or content that
        `check` refuses.
    """
    path = Path(path)
    if not url.startswith("https://"):
        raise DataError(f"cannot download {url}: only https:// addresses are trusted")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            return path
        _fill(url, part, progress or (lambda done, total: None), timeout, retries, pause)
        _tag_file(part).unlink(missing_ok=True)
        try:
            check(part)
        except DataError as error:
            part.unlink()
            raise DataError(str(error).replace(str(part), url)) from error
        os.replace(part, path)
    return path


def _fill(
    url: str,
    part: Path,
    progress: Progress,
    timeout: Timeout,
    retries: int,
    pause: float,
) -> None:
    with requests.Session() as session:
        del session.adapters["http://"]  # so that no redirect leaves HTTPS
        for attempt in range(retries + 1):
            try:
                _transfer(session, url, part, progress, timeout)
                return
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                if attempt == retries or _is_final(error):
                    raise DataError(f"cannot download {url}: {_reason(error)}") from error
            time.sleep(pause * 2**attempt)


def _transfer(
    session: requests.Session,
    url: str,
    part: Path,
    progress: Progress,
    timeout: Timeout,
) -> None:
    """Add to `part` what it lacks, or fill it from the start where the server prefers that."""
    done = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | (_resuming(part, done) if done else {})
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if response.status_code in (206, 416) and not resumed:
            part.unlink(missing_ok=True)
            raise requests.RequestException("the server has another range of the file")
        response.raise_for_status()
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        _refuse_size(url, total or 0)
        if not resumed:
            _remember_tag(part, response.headers.get("ETag", ""))
        with part.open("ab" if resumed else "wb") as file:
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                done += len(block)
                _refuse_size(url, done)
                progress(done, total)


def _refuse_size(url: str, size: int) -> None:
    if size > MOST_BYTES:
        raise DataError(f"cannot download {url}: it is larger than {MOST_BYTES:,} bytes")


def _resuming(part: Path, done: int) -> dict[str, str]:
    """Headers that ask for the rest of the same file, or for all of it if it has changed."""
    tag = _tag_file(part)
    same = {"If-Range": tag.read_text()} if tag.is_file() else {}
    return {"Range": f"bytes={done}-"} | same


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _remember_tag(part: Path, tag: str) -> None:
    _tag_file(part).unlink(missing_ok=True)
    if tag.startswith('"'):  # a weak one (W/"...") does not vouch for equal bytes
        _tag_file(part).write_text(tag)


def _is_final(error: Exception) -> bool:
    """No use in trying again: the address or the request is wrong, not the moment."""
    response = getattr(error, "response", None)
    status = 0 if response is None else response.status_code
    return isinstance(error, FINAL) or (400 <= status < 500 and status not in (408, 429))


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    return next((why for kind, why in REASONS.items() if isinstance(error, kind)), str(error))
