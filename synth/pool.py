"""Shards to workers: in this process, as Ray tasks, or as Ray actors that hold a generator's weights."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from synth.errors import UserError
from synth.shards import ShardReport, make_shard

REACH_S = 10.0  # for a cluster to answer
RETRIES = 3  # of a shard whose worker or node was lost
QUEUED_PER_WORKER = 2  # tasks that wait or run: a worker that ends one finds the next


@dataclass(frozen=True)
class Workers:
    """Who makes the shards.

    Attributes:
        count: Ray workers; 0 works in this process unless an ``address`` is given; None: as many as there are CPUs.
        address: a Ray cluster to join instead of starting a local one.
        gpus: GPUs, or a share of one, for each worker.
        dashboard: whether a local Ray serves its dashboard (on loopback).
    """

    count: int | None = 0
    address: str | None = None
    gpus: float = 0.0
    dashboard: bool = False

    def check(self) -> None:
        """Raise UserError when nobody listens at the address: Ray itself would try for minutes."""
        host, _, port = (self.address or "").removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        except OSError as error:
            raise UserError(
                f"--address '{self.address}': nothing answers there ({error.strerror or error}); expected auto, HOST:PORT "
                "or ray://HOST:PORT of a running Ray cluster"
            ) from error

    @property
    def in_process(self) -> bool:
        """Whether no Ray is needed."""
        return self.count == 0 and self.address is None


def reports(
    workers: Workers, todo: Iterable[int], place: str, spec_json: str, actors: bool, search_path: tuple[str, ...]
) -> Iterator[ShardReport]:
    """Make every shard of ``todo`` and yield what became of it, in the order they end."""
    if workers.in_process:
        for shard in todo:
            yield make_shard(place, shard, spec_json)
        return
    with ray_session(workers, search_path) as ray:
        count = workers.count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        submit = _actors(ray, workers, count) if actors or workers.gpus else _tasks(ray)
        most = count if workers.address and workers.count else count * QUEUED_PER_WORKER
        yield from _bounded(ray, lambda shard: submit(place, shard, spec_json), todo, most)


def _tasks(ray: Any) -> Callable[..., Any]:
    submit: Callable[..., Any] = ray.remote(num_cpus=1, max_retries=RETRIES)(make_shard).remote
    return submit


def _actors(ray: Any, workers: Workers, count: int) -> Callable[..., Any]:
    """Submit to ``count`` actors in turn; a lost one is started again elsewhere and its shard tried again."""

    class Worker:
        """Builds the generator once (see :func:`synth.shards.built`) and keeps it."""

        def make(self, place: str, shard: int, spec_json: str) -> ShardReport:
            return make_shard(place, shard, spec_json)

    remote = ray.remote(num_cpus=1, num_gpus=workers.gpus, max_restarts=-1, max_task_retries=RETRIES)(Worker)
    turn = itertools.cycle([remote.remote() for _ in range(count)])
    return lambda *arguments: next(turn).make.remote(*arguments)


def _bounded(ray: Any, submit: Callable[[int], Any], todo: Iterable[int], most: int) -> Iterator[ShardReport]:
    """Keep at most ``most`` shards submitted. Only reports, a few hundred bytes each, pass through the object store."""
    waiting = iter(todo)
    running = {submit(shard): shard for shard in itertools.islice(waiting, most)}
    while running:  # an interrupted run cancels nothing: its workers end with it, and Ray 2.60 may crash in between
        (ready,), _ = ray.wait(list(running), num_returns=1)
        shard = running.pop(ready)
        following = next(waiting, None)
        if following is not None:
            running[submit(following)] = following
        try:
            yield ray.get(ready)
        except ray.exceptions.RayError as error:
            yield ShardReport(shard, lost=f"shard {shard}: worker lost: {str(error).strip().splitlines()[0]}")


@contextlib.contextmanager
def ray_session(workers: Workers, search_path: tuple[str, ...] = ()) -> Iterator[Any]:
    """A Ray on the loopback interface, without dashboard unless asked, or the cluster at an address.

    An already running Ray of this process is used as it is and left running.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if workers.address is None:  # else Ray takes 127.0.0.1 for this machine's outer address; read when it is imported
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    mine = not ray.is_initialized()
    if mine:
        paths = [*search_path, os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(p for p in paths if p)} if search_path else {}
        local: dict[str, Any] = {
            "num_cpus": workers.count or os.cpu_count() or 1,
            "include_dashboard": workers.dashboard,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": 80 * 2**20,
            "_node_ip_address": "127.0.0.1",
        }
        try:
            ray.init(
                address=workers.address or "local",  # not whatever cluster this machine may have running
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": environment} if environment else None,
                **({} if workers.address else local),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            if workers.address is None:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--address '{workers.address}': cannot join that Ray cluster ({reason}); expected auto, HOST:PORT or "
                "ray://HOST:PORT of one that runs"
            ) from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()
