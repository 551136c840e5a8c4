"""Ray pools and replicas on this machine; a killed worker is replaced and reported; vLLM's command and launcher."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the ray extra")

import httpx2
import torch

from h1r.errors import ConfigError, DataError, WorkerLost
from h1r.log import alive
from h1r.model import PRESETS
from h1r.model.weights import Held
from h1r.scale import Server, Source, cluster, command, generators, graders, launch, replicas, require
from h1r.scale.broadcast import PATIENCE
from h1r.scale.cluster import _uninterrupted
from h1r.types import Problem, Prompt, SamplingParams, Score, StopReason, Trace


def make_echo():
    """A Generator that writes the prompt's length n times. Classes live inside, so that actors need not import this."""

    class Echo:
        version = 0

        def generate(self, prompts, sampling, watches=None):
            if prompts[0].text == "die":
                os._exit(1)
            if prompts[0].text == "wrong":
                raise DataError("prompt: wrong")
            return [
                [
                    Trace(prompt=p, token_ids=(len(p.text), os.getpid()), stop=StopReason.STOP, version=self.version)
                    for _ in range(sampling.n)
                ]
                for p in prompts
            ]

        def load(self, path, version):
            self.version = version

    return Echo()


def make_grader():
    class Length:
        def grade(self, items):
            return [Score(float(problem.gold == len(trace.text)), "length") for problem, trace in items]

    return Length()


def make_app():
    """An ASGI app that streams its process id three times, or dies."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/die":
            os._exit(1)
        import asyncio

        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"%d\n" % os.getpid(), "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": scope["query_string"]})

    return app


@pytest.fixture(scope="module")
def session():
    with cluster(cpus=4):
        yield


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Actors unpickle by value what this module holds: it is not importable where they live."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("session")
def test_pool_spreads_survives_and_reloads():
    pool = generators(2, make_echo, cpus=0.5)
    prompts = [Prompt(text="x" * i) for i in range(1, 6)]
    pool.load("weights", 3)
    groups = pool.generate(prompts, SamplingParams(n=2))
    assert [g[0].token_ids[0] for g in groups] == [1, 2, 3, 4, 5]
    assert [len(g) for g in groups] == [2] * 5
    assert [g[0].token_ids[1] == groups[0][0].token_ids[1] for g in groups] == [True, False, True, False, True]
    with pytest.raises(DataError, match="prompt: wrong"):
        pool.generate([Prompt(text="wrong")], SamplingParams())
    with pytest.raises(WorkerLost, match="1 of 2 workers died"):
        pool.generate([Prompt(text="die"), Prompt(text="fine")], SamplingParams())
    again = pool.generate(prompts, SamplingParams())
    assert [g[0].token_ids[0] for g in again] == [1, 2, 3, 4, 5]
    assert again[0][0].token_ids[1] != groups[0][0].token_ids[1]  # another process
    assert [g[0].version for g in again] == [3] * 5  # with the weights loaded last
    assert pool.lost == 1
    with pytest.raises(ConfigError, match="Watch"):
        pool.generate(prompts, SamplingParams(), [object()] * 5)  # type: ignore[list-item]
    pool.close()


@pytest.mark.usefixtures("session")
def test_more_than_the_cluster_has_is_refused():
    require({"CPU": 4, "GPU": 0})
    with pytest.raises(ConfigError, match="the Ray cluster has 4 CPU, the recipe asks for 9: lower the number"):
        require({"CPU": 9})
    with pytest.raises(ConfigError, match="has 0 GPU, the recipe asks for 1"):
        require({"GPU": 1})


@pytest.mark.usefixtures("session")
def test_graders_keep_the_order():
    pool = graders(2, make_grader, cpus=0.5)
    items = [
        (
            Problem(id=str(i), messages=(), kind="text", gold=i % 3),
            Trace(prompt=Prompt(), token_ids=(), stop=StopReason.STOP, text="ab"),
        )
        for i in range(7)
    ]
    assert [s.value for s in pool.grade(items)] == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    pool.close()


@pytest.mark.usefixtures("session")
def test_replicas_behind_one_address():
    with replicas(make_app, 2, port=0, cpus=0.5) as (url, fleet), httpx2.Client(base_url=url, timeout=20) as client:
        answer = client.get("/?q=7")
        lines = answer.text.split("\n")
        assert len(set(lines[:3])) == 1 and lines[3] == "q=7"
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as threads:
            seen = {threads.submit(client.get, "/").result().text.split("\n")[0] for _ in range(1)}
            seen |= {r.text.split("\n")[0] for r in threads.map(lambda _: client.get("/"), range(8))}
        assert len(seen) == 2
        dead = client.get("/die")
        assert dead.status_code == 502 and "died" in dead.json()["error"]["message"]
        deadline = time.monotonic() + 20
        while None in fleet.ports and time.monotonic() < deadline:
            time.sleep(0.05)
        with ThreadPoolExecutor(8) as threads:
            after = {r.text.split("\n")[0] for r in threads.map(lambda _: client.get("/"), range(8))}
        assert len(after) == 2 and after != seen and fleet.restarts == 1
        while fleet.held != [0, 0] and time.monotonic() < deadline + 20:
            time.sleep(0.05)  # an answer arrives before its sender has counted it as done
        assert fleet.held == [0, 0]


def test_vllm_command():
    server = Server(model="m", name="h1r", python="py", port=9, max_model_len=4096, tensor_parallel=2, eager=True)
    vector = command(server)
    assert vector[:3] == ["py", "-m", "vllm.entrypoints.openai.api_server"]
    flags = dict(itertools.pairwise(vector))
    assert (flags["--port"], flags["--max-model-len"], flags["--tensor-parallel-size"]) == ("9", "4096", "2")
    assert flags["--reasoning-parser"] == "deepseek_r1" and "--enforce-eager" in vector
    assert "--no-enable-prefix-caching" not in vector
    assert "--no-enable-prefix-caching" in command(replace(server, prefix_caching=False))
    with pytest.raises(ConfigError, match="port=0"):
        Server(model="m", name="n", port=0)


def test_launch_waits_for_health_and_tells_a_death(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(model="m", name="n", port=port)
    code = (
        "import sys, time, http.server as h\ntime.sleep(0.3)\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        f"h.HTTPServer(('127.0.0.1', {port}), H).serve_forever()"
    )
    with launch(server, tmp_path / "log", 20, [sys.executable, "-c", code]) as url:
        assert httpx2.get(f"{url}/health").status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")
    dying = [sys.executable, "-c", "print('no GPU'); raise SystemExit(3)"]
    with pytest.raises(WorkerLost, match="code 3"), launch(server, tmp_path / "dead", 20, dying):
        pass
    assert "no GPU" in (tmp_path / "dead").read_text()


SERVER = (
    "import http.server as h, os, subprocess, sys\n"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "open(sys.argv[2], 'w').write(f'{os.getpid()} {worker.pid}')\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): self.send_response(200); self.end_headers()\n"
    "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()"
)
HOLDER = (
    "import sys, time\nfrom h1r.scale import Server, launch\n"
    "port, pids, log, server = sys.argv[1:]\n"
    "with launch(Server(model='m', name='n', port=int(port)), log, 20, [sys.executable, '-c', server, port, pids]):\n"
    "    print('up', flush=True); time.sleep(600)"
)


@pytest.mark.parametrize("killed", ["holder", "server"])
def test_nothing_of_a_server_outlives_its_holder(tmp_path: Path, killed: str):
    """Killed with -9, the holder takes the server and its worker with it; so does the server its worker."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pids = tmp_path / "pids"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(port), str(pids), str(tmp_path / "log"), SERVER],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "up\n"
    server, worker = map(int, pids.read_text().split())
    os.kill(holder.pid if killed == "holder" else server, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (alive(server) or alive(worker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(server) and not alive(worker)
    holder.kill()
    holder.wait()


def refusing():
    raise DataError("the checkpoint is torn; write it again")


def test_a_factory_that_refuses_is_told_and_not_tried_again(session):
    pool = generators(1, refusing, cpus=0.1, redo=2)
    with pytest.raises(DataError, match="torn"):
        pool.generate([Prompt(text="x")], SamplingParams())
    assert pool.lost == 0
    pool.close()


class Steady:
    """A trainer whose weights are given away."""

    def weights(self):
        return Held(PRESETS["quickstart"], {"a": torch.zeros(3)})


def test_what_a_receiver_refuses_reaches_whoever_gives_and_nobody_waits(session):
    pool, begin = generators(1, refusing, cpus=0.1), time.monotonic()
    with pytest.raises(DataError, match="torn"):
        pool.push(Source(Steady()), 1)
    assert time.monotonic() - begin < PATIENCE / 2
    pool.close()


def test_a_program_that_is_not_there_is_told(tmp_path: Path):
    with (
        pytest.raises(ConfigError, match="give vLLM's interpreter"),
        launch(Server(model="m", name="n", python="/no/python"), tmp_path / "log"),
    ):
        pass


def test_an_interruption_waits_while_ray_starts():
    """Half-way, `ray.init` leaves a thread behind that `ray.shutdown` does not end, and the process dies of it."""
    ended = []

    def start(interruptions):
        with _uninterrupted():
            for _ in range(interruptions):
                signal.raise_signal(signal.SIGINT)
            ended.append(interruptions)

    for interruptions in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            start(interruptions)
    assert ended == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
