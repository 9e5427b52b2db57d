"""Downloads against a real HTTPS server that stalls, breaks off, lies and forgets."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trustme

from molsam import datasets
from molsam.datasets import TASKS, DataError, Task, download, downloads, fetch
from molsam.datasets.downloads import BLOCK

IMPATIENT = {"timeout": (2.0, 0.3), "retries": 3, "pause": 0.01}


@dataclass
class Server:
    """A file at an HTTPS address, and how each request for it in turn goes wrong.

    Behaviours: `ok`; `cut`, half of what was asked for; `stall`, half and then silence; `full`,
    all of it whatever the range; `unsized`, without its length; `plain`, a redirect to http://; a
    status such as `404`. The last one goes on for ever.
    """

    content: bytes
    url: str = ""
    behaviours: list[str] = field(default_factory=lambda: ["ok"])
    tag: str | None = '"one"'
    sent: int = 0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append(asked)
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        if behaviour == "plain":
            request.send_response(302)
            request.send_header("Location", self.url.replace("https://", "http://"))
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif behaviour.isdigit():
            request.send_error(int(behaviour))
        else:
            self.send(request, behaviour, 0 if behaviour == "full" else self.start(*asked))

    def start(self, asked: str | None, tag: str | None) -> int:
        return 0 if asked is None or tag not in (None, self.tag) else int(asked[6:-1])

    def send(self, request: BaseHTTPRequestHandler, behaviour: str, start: int) -> None:
        if start >= len(self.content):
            request.send_error(416)
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            last = len(self.content) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        if self.tag:
            request.send_header("ETag", self.tag)
        if behaviour != "unsized":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        piece = body[: len(body) // 2] if behaviour in ("cut", "stall") else body
        request.wfile.write(piece)
        request.wfile.flush()
        self.sent += len(piece)
        if behaviour == "stall":
            self.stopping.wait(5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"smiles": "C", TASKS["esol"].targets[0]: rng.random(30_000)})
    state = Server(frame.to_csv(index=False).encode())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    http.handle_error = lambda *_: None  # clients that give up on a stalled answer
    state.url = f"https://localhost:{http.server_port}/esol.csv"
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "localhost")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.stopping.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def task(server: Server, tmp_path: Path) -> Task:
    """A task whose published file is the server's."""
    path = tmp_path / "original.csv"
    path.write_bytes(server.content)
    table = datasets.read_table(path)
    return replace(
        TASKS["esol"],
        file="esol.csv",
        bucket=server.url.removesuffix("esol.csv"),
        editions={len(table): table.digest()},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".part-*"))


def test_a_file_arrives_whole_and_tells_of_its_progress(
    server: Server, task: Task, folder: Path
) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(task, folder, progress=lambda done, total: told.append((done, total)), **IMPATIENT)
    assert path == folder / "esol.csv"
    assert path.read_bytes() == server.content
    size = len(server.content)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert visible(folder) == ["esol.csv"]
    assert parts(folder) == []
    assert fetch(task, folder) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("trouble", ["cut", "stall"])
def test_a_broken_transfer_goes_on_where_it_stopped(
    server: Server, task: Task, folder: Path, trouble: str
) -> None:
    server.behaviours = [trouble, trouble, "ok"]
    path = fetch(task, folder, **IMPATIENT)
    assert path.read_bytes() == server.content
    starts = [int(asked[6:-1]) if asked else 0 for asked, _ in server.asked]
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2]
    assert {tag for _, tag in server.asked[1:]} == {'"one"'}
    assert server.sent < len(server.content) + 2 * BLOCK


def test_a_transfer_of_an_earlier_process_goes_on(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["cut", "ok"]
    with pytest.raises(DataError, match="the connection broke off"):
        fetch(task, folder, retries=0)
    assert visible(folder) == []
    assert fetch(task, folder).read_bytes() == server.content
    assert server.asked[1][0] is not None
    assert server.sent < len(server.content) + BLOCK
    assert parts(folder) == []


def test_a_server_without_ranges_or_tags_sends_all_again(
    server: Server, task: Task, folder: Path
) -> None:
    server.behaviours = ["cut", "full"]
    server.tag = None
    assert fetch(task, folder, **IMPATIENT).read_bytes() == server.content
    assert server.asked[1][0] is not None
    assert server.asked[1][1] is None


def test_a_file_that_changed_meanwhile_is_taken_from_the_start(
    server: Server, folder: Path
) -> None:
    first, server.content = server.content, b"smiles,y\n" + b"X" * len(server.content)
    server.behaviours = ["cut", "ok"]
    with pytest.raises(DataError, match="broke off"):
        download(server.url, folder / "a.csv", check=lambda path: None, retries=0)
    server.content, server.tag = first, '"two"'
    path = download(server.url, folder / "a.csv", check=lambda path: None)
    assert server.asked[1][1] == '"one"'
    assert path.read_bytes() == first


def test_weak_tags_do_not_vouch_for_bytes(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["cut", "ok"]
    server.tag = 'W/"one"'
    assert fetch(task, folder, **IMPATIENT).read_bytes() == server.content
    assert server.asked[1][1] is None


def test_a_part_longer_than_the_file_is_dropped(server: Server, task: Task, folder: Path) -> None:
    folder.mkdir()
    (folder / ".part-esol.csv").write_bytes(server.content + b"more")
    assert fetch(task, folder, **IMPATIENT).read_bytes() == server.content
    assert [asked is None for asked, _ in server.asked] == [False, True]


def test_a_server_that_stays_silent_is_given_up(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["stall"]
    began = time.perf_counter()
    with pytest.raises(DataError, match=r"stopped sending.*copy esol\.csv.*\$MOLSAM_DATA"):
        fetch(task, folder, timeout=(2.0, 0.2), retries=1, pause=0.01)
    assert time.perf_counter() - began < 4
    assert len(server.asked) == 2
    assert visible(folder) == []


def test_wrong_bytes_never_get_the_name(server: Server, task: Task, folder: Path) -> None:
    server.content = server.content.replace(b"0.6", b"0.7", 1)
    with pytest.raises(
        DataError, match="is not the data set esol: its molecules or labels"
    ) as caught:
        fetch(task, folder, **IMPATIENT)
    assert server.url in str(caught.value)
    assert ".part" not in str(caught.value)
    assert visible(folder) == []
    assert parts(folder) == []
    assert len(server.asked) == 1


def test_an_error_page_is_no_table(server: Server, task: Task, folder: Path) -> None:
    server.content = b"<html>Please log in to the hotel's network</html>"
    with pytest.raises(DataError, match="no column 'smiles'"):
        fetch(task, folder, **IMPATIENT)
    assert visible(folder) == []


def test_a_missing_file_is_not_asked_for_twice(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["404"]
    with pytest.raises(
        DataError, match=r"esol: cannot download https://.*: the server answers 404"
    ):
        fetch(task, folder, **IMPATIENT)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["503", "429", "ok"]
    assert fetch(task, folder, **IMPATIENT).read_bytes() == server.content
    assert len(server.asked) == 3


@pytest.mark.parametrize("behaviour", ["ok", "unsized"])
def test_what_is_too_large_is_given_up(
    behaviour: str, server: Server, task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST_BYTES", 3 * BLOCK)
    server.behaviours = [behaviour]
    with pytest.raises(DataError, match=r"it is larger than 196,608 bytes"):
        fetch(task, folder, **IMPATIENT)
    assert visible(folder) == []
    assert len(server.asked) == 1
    assert all((folder / part).stat().st_size <= 4 * BLOCK for part in parts(folder))


def test_plain_http_is_refused_before_any_request(server: Server, folder: Path) -> None:
    url = server.url.replace("https://", "http://")
    with pytest.raises(DataError, match="only https:// addresses"):
        download(url, folder / "a.csv", check=lambda path: None)
    assert server.asked == []


def test_no_redirect_leads_to_plain_http(server: Server, task: Task, folder: Path) -> None:
    server.behaviours = ["plain"]
    with pytest.raises(DataError, match="leads to an address that is not https://"):
        fetch(task, folder, **IMPATIENT)
    assert len(server.asked) == 1


def test_an_untrusted_certificate_is_refused(
    server: Server, task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(DataError, match="certificate is not trusted"):
        fetch(task, folder, **IMPATIENT)
    assert server.asked == []


def test_without_a_connection_the_error_says_how_to_go_on(task: Task, folder: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        offline = replace(task, bucket=f"https://localhost:{port}/")
        with pytest.raises(DataError, match="there is no connection to the server") as caught:
            fetch(offline, folder, timeout=(1.0, 1.0), retries=1, pause=0.01)
    assert re.search(rf"https://localhost:{port}/esol\.csv", str(caught.value))
    assert "copy esol.csv into a folder and point $MOLSAM_DATA" in str(caught.value)


def test_those_who_want_the_same_file_share_one_download(
    server: Server, task: Task, folder: Path
) -> None:
    server.behaviours = ["cut", "ok"]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(task, folder, **IMPATIENT), range(4)))
    assert {path.read_bytes() for path in paths} == {server.content}
    assert len(server.asked) == 2


def test_loading_a_task_downloads_it_once_to_the_cache(
    server: Server, task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "esol", task)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(folder))
    monkeypatch.delenv("MOLSAM_DATA", raising=False)
    told: list[int] = []
    table = datasets.load("esol", progress=lambda done, total: told.append(done))
    assert table.source == "esol"
    assert table.digest() == task.digest
    assert told[-1] == len(server.content)
    assert datasets.load("esol").digest() == task.digest
    assert len(server.asked) == 1
    assert datasets.find(task) == folder / "esol.csv"


def test_what_comes_with_rdkit_is_not_downloaded(folder: Path) -> None:
    with pytest.raises(DataError, match="comes with RDKit"):
        fetch(TASKS["bundled"], folder)
