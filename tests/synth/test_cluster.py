"""Ray for real: a cluster that loses a node, kill -9 at any moment, sockets that listen on loopback only."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synth.corpus import Corpus, record_path
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from synth.verify import verify
from tests.conftest import PLUGIN
from tests.synth.test_engine import bits, files

Environment = Callable[[str], dict[str, str]]
COUNT, SHARD = 200, 4


def slow(seconds: float) -> GeneratorSpec:
    return GeneratorSpec("slow_onions.SlowOnion", {"seconds": seconds}, (str(PLUGIN),))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as a run makes it that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed") / "onion.zarr"
    assert not generate(Job(slow(0.0), COUNT, 3, out, SHARD)).failed
    return out


THREE_NODES = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from synth.engine import Job, generate
from synth.generator import GeneratorSpec

out, plugin = Path(sys.argv[1]), sys.argv[2]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR",
         runtime_env={"env_vars": {"PYTHONPATH": plugin}})
lost = []

def lose(done, total, *note):
    if done >= 40 and not lost:
        lost.append(done)
        cluster.remove_node(nodes[0], allow_graceful=False)

spec = GeneratorSpec("slow_onions.SlowOnion", {"seconds": 0.02}, (plugin,))
outcome = generate(Job(spec, 200, 3, out, 4), workers=3, progress=lose)
until = time.monotonic() + 40
while (alive := sum(node["Alive"] for node in ray.nodes())) > 2 and time.monotonic() < until:
    time.sleep(0.5)
print(f"failed {len(outcome.failed)} lost at {lost[0]} alive {alive}", flush=True)
"""


@pytest.mark.slow
def test_a_cluster_of_three_nodes_that_loses_one_ends_with_a_whole_corpus(
    tmp_path: Path, undisturbed: Path, in_subprocess: Environment
) -> None:
    out = tmp_path / "onion.zarr"
    command = [sys.executable, "-c", THREE_NODES, str(out), str(PLUGIN)]
    done = subprocess.run(command, env=in_subprocess(str(PLUGIN)), capture_output=True, text=True, timeout=100)
    told = re.search(r"^failed 0 lost at \d+ alive 2$", done.stdout, re.MULTILINE)  # Ray says more around it
    assert told, done.stdout + done.stderr
    # the seconds that each onion takes are an option, so the recipes differ; the volumes do not
    corpus = Corpus(out)
    assert corpus.complete and bits(out) == bits(undisturbed)
    assert [p for _, found in verify(corpus) for p in found] == []


class Run:
    """A run of the command in processes of its own, which can be killed."""

    def __init__(self, out: Path, brainloom: list[str], environment: dict[str, str]) -> None:
        words = ["synth", "generate", "--generator", "slow_onions.SlowOnion", "--generator.seconds", "0.04"]
        words += ["--count", str(COUNT), "--seed", "3", "--shard-size", str(SHARD), "--workers", "2", "--out", str(out)]
        self.process = subprocess.Popen(
            [*brainloom, *words],
            env=environment,
            cwd=PLUGIN,
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[int]:
        """Processes of Ray's workers."""
        return [pid for pid in descendants(self.process.pid) if name_of(pid).startswith("ray::")]

    @property
    def running(self) -> bool:
        return self.process.poll() is None


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process began, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds Ray's workers in /proc")
@pytest.mark.timeout(420)
def test_kill_9_of_driver_workers_and_both_at_twenty_moments_loses_nothing(
    tmp_path: Path, undisturbed: Path, in_subprocess: Environment, brainloom_command: list[str]
) -> None:
    rng = random.Random(20)
    out = tmp_path / "corpora" / "onion-0.zarr"
    environment, kills, corpora = in_subprocess(str(PLUGIN)), 0, [out]
    first_seen: dict[str, tuple[int, int]] = {}
    while True:
        run = Run(out, brainloom_command, environment)
        wait_for_more(run, out)
        while run.running and kills < 20:
            time.sleep(rng.uniform(0.05, 0.6))
            victim = ("workers", "driver", "both", "workers")[kills % 4]
            if not run.running:
                break
            kills += 1
            if victim in ("workers", "both"):
                for worker in run.workers():
                    kill(worker)
            if victim in ("driver", "both"):
                kill(run.process.pid)
                run.process.wait()
            check_untouched(out, first_seen)
        told = run.process.communicate(timeout=120)[1]
        check_untouched(out, first_seen)
        if run.process.returncode == 0:
            if kills >= 20:
                break
            out = tmp_path / "corpora" / f"onion-{len(corpora)}.zarr"
            corpora.append(out)
            first_seen = {}
        else:
            assert run.process.returncode in (-signal.SIGKILL, 1), told
    assert kills == 20
    for made in corpora:
        assert Corpus(made).complete and bits(made) == bits(undisturbed)
        assert [p for _, found in verify(Corpus(made)) for p in found] == []
        assert not list(made.glob("records/*.part.json"))


def wait_for_more(run: Run, out: Path) -> None:
    """Return when the run has begun to make shards."""
    before = len(list(out.glob("records/*.json")))
    until = time.monotonic() + 60
    while run.running and time.monotonic() < until and len(list(out.glob("records/*.json"))) == before:
        time.sleep(0.05)


def check_untouched(out: Path, first_seen: dict[str, tuple[int, int]]) -> None:
    """No file of a committed shard changes once its record was there."""
    now = files(out) if out.exists() else {}
    for shard in range(COUNT // SHARD):
        if record_path(out, shard).exists():
            for name in (f"image/c.{shard}.0.0.0.0", f"label/c.{shard}.0.0.0", f"records/{shard:08d}.json"):
                assert first_seen.setdefault(name, now.get(name, (0, 0))) == now.get(name, (0, 0)), (
                    f"{name} was written twice"
                )


LISTENING = """
import json, os
from pathlib import Path
from synth.pool import Workers, ray_session
from tests.synth.test_cluster import descendants

with ray_session(Workers(1)) as ray:
    ray.get(ray.remote(lambda: 1).remote())
    own = {}
    for pid in [os.getpid(), *descendants(os.getpid())]:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                own[os.readlink(file)] = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                found.append([own[f"socket:[{words[9]}]"], words[1].split(":")[0]])
print(json.dumps(found))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads /proc/net/tcp")
def test_a_local_ray_listens_on_loopback_only(in_subprocess: Environment) -> None:
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, env=in_subprocess(""), capture_output=True, text=True, timeout=100)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert {name for name, _ in found} >= {"raylet", "gcs_server"}
    assert [entry for entry in found if entry[1] not in LOOPBACK] == []
    assert not any("dashboard" in name for name, _ in found)
