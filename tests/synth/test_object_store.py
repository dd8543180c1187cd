"""A corpus in an object store: against a real S3 server on loopback, with requests that fail and requests that are slow."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.corpus import LOCK, Corpus, record_name
from synth.engine import Job, generate, repair
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.lock import writing
from synth.pool import Workers
from synth.storage import open_storage
from synth.stream import Stream
from synth.verify import differences, verify
from tests.conftest import PLUGIN, Run

moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytest.importorskip("obstore", reason="obstore is not installed")

ONION = GeneratorSpec("onions.Onion", {"shape": (8, 10, 8), "shells": 4}, (str(PLUGIN),))


@dataclass
class Faults:
    """What the server does to requests on their way."""

    fail: Callable[[str, str], bool] = lambda method, path: False
    delay: Callable[[str, str], float] = lambda method, path: 0.0
    failed: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0
    most_waiting: int = 0

    def around(self, application: Any) -> Any:
        """The server's application behind these faults."""

        def answer(environment: dict[str, Any], start: Any) -> Any:
            method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
            with self.lock:
                self.seen.append((method, path))
                broken = self.fail(method, path)
                if broken:
                    self.failed.append(path)
            if self.delay(method, path):
                with self.lock:
                    self.waiting += 1
                    self.most_waiting = max(self.most_waiting, self.waiting)
                time.sleep(self.delay(method, path))
                with self.lock:
                    self.waiting -= 1
            if broken:
                environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
                start("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code></Error>"]
            return application(environment, start)

        return answer


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    """Endpoint of an S3 server, and its faults."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            """Nothing."""

    faults = Faults()
    application = faults.around(DomainDispatcherApplication(create_backend_app))
    running = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", faults
    running.shutdown()


@pytest.fixture
def bucket(server: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """``s3://…`` of a new bucket; the environment says how to reach it."""
    import boto3

    endpoint, faults = server
    for name, value in {
        "AWS_ACCESS_KEY_ID": "loom",
        "AWS_SECRET_ACCESS_KEY": "loom",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"brain-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    yield f"s3://{name}/corpora"
    faults.fail, faults.delay = (lambda method, path: False), (lambda method, path: 0.0)
    faults.failed.clear()


@pytest.fixture
def faults(server: tuple[str, Faults]) -> Faults:
    """What the server does to requests."""
    return server[1]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same corpus in a folder."""
    out = tmp_path_factory.mktemp("local") / "onion.zarr"
    assert not generate(Job(ONION, 10, 3, out, 4)).failed
    return out


def whole(url: str, local: Path) -> bool:
    remote = Corpus(url)
    problems = [problem for _, found in verify(remote) for problem in found]
    return problems == [] and list(differences(remote, Corpus(local))) == []


def test_a_corpus_in_a_bucket_is_the_one_in_a_folder(bucket: str, local: Path, run: Run, tmp_path: Path) -> None:
    url = f"{bucket}/onion.zarr"
    assert generate(Job(ONION, 10, 3, url, 4)).made == 3
    assert whole(url, local) and generate(Job(ONION, 10, 3, url, 4)).made == 0
    assert run("synth", "verify", url, "--same-as", local).code == 0
    assert "10 volumes" in run("synth", "inspect", url, "--png", tmp_path / "a.png").out
    assert run("synth", "explain", url, 3).code == 0
    assert np.array_equal(Corpus(url).image(7), Corpus(local).image(7))
    assert np.array_equal(Corpus(url).covariates(), Corpus(local).covariates())


def test_ray_workers_write_to_a_bucket(
    bucket: str, local: Path, brainloom_command: list[str], in_subprocess: Callable[[str], dict[str, str]]
) -> None:
    url = f"{bucket}/onion.zarr"
    options = ["--generator", "onions.Onion", "--generator.shape", "8,10,8", "--generator.shells", "4"]
    words = ["synth", "generate", *options, "--count", "10", "--seed", "3", "--shard-size", "2", "--out", url]
    command = [*brainloom_command, *words, "--workers", "2"]
    done = subprocess.run(command, env=in_subprocess(str(PLUGIN)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert whole(url, local)


def test_a_put_that_fails_is_tried_again(bucket: str, local: Path, faults: Faults) -> None:
    broken: set[str] = set()

    def first_time(method: str, path: str) -> bool:
        again = path in broken
        broken.add(path)
        return method == "PUT" and not again

    faults.fail = first_time
    url = f"{bucket}/onion.zarr"
    assert not generate(Job(ONION, 10, 3, url, 4)).failed
    assert len(faults.failed) >= 9 and whole(url, local)


def test_a_shard_that_cannot_be_put_is_made_by_the_next_run(
    bucket: str, local: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synth import storage

    monkeypatch.setattr(storage, "RETRY", {"max_retries": 1})
    storage._remote.cache_clear()
    faults.fail = lambda method, path: method == "PUT" and "/image/c.1." in path
    url = f"{bucket}/onion.zarr"
    outcome = generate(Job(ONION, 10, 3, url, 4))
    assert list(outcome.failed) == [4] and "shard 1" in outcome.failed[4]
    assert Corpus(url).missing() == [1] and not Corpus(url).complete
    faults.fail = lambda method, path: False
    before = len(faults.seen)
    assert generate(Job(ONION, 10, 3, url, 4)).made == 1 and whole(url, local)
    assert not any(method == "PUT" and "/image/c.0." in path for method, path in faults.seen[before:])
    storage._remote.cache_clear()


def test_slow_gets_are_waited_for_by_several_threads_at_once(bucket: str, local: Path, faults: Faults) -> None:
    url = f"{bucket}/onion.zarr"
    generate(Job(ONION, 10, 3, url, 4))
    stream = Stream(Corpus(url), 2, seed=1, threads=4, prefetch=4)
    faults.delay = lambda method, path: 0.15 if method == "GET" and "/image/" in path else 0.0
    batches = list(stream)
    for batch, expected in zip(batches, Stream(Corpus(local), 2, seed=1), strict=True):
        assert batch.index.equal(expected.index) and batch.image.equal(expected.image)
    assert faults.most_waiting >= 3, "four threads wait at once"


def test_damage_in_a_bucket_is_found_and_mended(bucket: str, local: Path) -> None:
    url = f"{bucket}/onion.zarr"
    generate(Job(ONION, 10, 3, url, 4))
    storage = open_storage(url)
    data = bytearray(storage.read("image/c.1.0.0.0.0"))
    data[5] ^= 1
    storage.write("image/c.1.0.0.0.0", [bytes(data)])
    storage.delete(record_name(2))
    assert not whole(url, local)
    assert not repair(url, ONION, Workers(0)).failed and whole(url, local)


def test_a_second_writer_of_a_bucket_is_refused_until_the_hold_runs_out(
    bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synth import lock

    url = f"{bucket}/onion.zarr"
    generate(Job(ONION, 10, 3, url, 4))
    storage = open_storage(url)
    storage.delete(record_name(1))
    with writing(storage), pytest.raises(UserError, match=r"another run .* its hold ends in"):
        generate(Job(ONION, 10, 3, url, 4))
    assert not storage.exists(LOCK)
    monkeypatch.setattr(lock, "LEASE_S", -1.0)
    storage.write(LOCK, [b'{"pid": 1, "host": "gone", "since": "then", "until": 0}'])
    assert generate(Job(ONION, 10, 3, url, 4)).made == 1 and whole(url, local)


def test_a_place_that_is_no_store_is_one_sentence(run: Run) -> None:
    answer = run("synth", "generate", "--count", 1, "--generator", "LabelMap", "--out", "ftp://somewhere/a.zarr")
    assert answer.code == 2 and "expected a folder or a URL" in answer.err
