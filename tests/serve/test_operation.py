"""`h1r serve` as a process: drain on SIGTERM, refusals at start, a proxy before another server, replicas behind one address."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from h1r.cli.app import app as command
from h1r.engine import LLM
from h1r.errors import EndpointError
from h1r.serve import Limits, app
from h1r.serve.proxy import proxy
from serving import process, serving, until

MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
ENDLESS = {"prompt": [1, 2, 3], "max_tokens": 900, "ignore_eos": True, "temperature": 0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m", "--host", "0.0.0.0"], "give --api-key-file"),
        (["m", "--max-running", "0"], "at_work=0"),
        (["m", "--log-prompts"], "give --log-file"),
        (["m", "--backend", "vllm"], "together with --url"),
        (["m", "--backend", "gpt"], "own, or vllm"),
        ([], "which model"),
        (["m", "--log-file", "/proc/nothing/log"], "cannot be written"),
        (["--backend", "vllm", "--url", "http://127.0.0.1:9"], "is the server up"),
    ],
)
def test_start_is_refused_with_the_cure(arguments: list[str], words: str):
    done = CliRunner().invoke(command, ["serve", *arguments])
    assert done.exit_code != 0 and words in f"{done.output} {done.exception}"


def test_sigterm_lets_answers_finish_and_takes_no_more(checkpoint: Path, tmp_path: Path):
    log = tmp_path / "log.jsonl"
    with process(str(checkpoint), "--dtype", "float32", "--memory-gib", "0.1", "--log-file", str(log)) as (
        running,
        url,
    ):
        pieces = []
        with (
            httpx2.Client(timeout=30) as other,
            httpx2.stream("POST", f"{url}/v1/completions", json=ENDLESS | {"stream": True}, timeout=30) as answer,
        ):
            other.get(f"{url}/health")  # a connection that is open already
            for i, piece in enumerate(answer.iter_raw()):
                pieces.append(piece)
                if i == 3:
                    running.send_signal(signal.SIGTERM)
                    time.sleep(0.05)
                    with contextlib.suppress(httpx2.TransportError):  # hung up: as good
                        assert other.post(f"{url}/v1/completions", json=ENDLESS).status_code == 503
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        assert running.wait(timeout=20) in (0, -signal.SIGTERM)
    assert [e["completion_tokens"] for e in map(json.loads, log.read_text().splitlines()) if e["status"] == 200] == [
        900
    ]


def test_draining_refuses_new_requests(llm: LLM):
    made = app(llm, "tiny")
    with serving(made) as url:
        made.state.turns.draining = True
        refused = httpx2.post(f"{url}/v1/completions", json=ENDLESS)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert httpx2.get(f"{url}/health").status_code == 503


def test_no_cors_unless_asked(llm: LLM):
    origin = {"origin": "http://elsewhere"}
    for origins, told in (((), None), (("http://elsewhere",), "http://elsewhere")):
        with serving(app(llm, "tiny", cors_origins=origins)) as url:
            answer = httpx2.get(f"{url}/v1/models", headers=origin)
            assert answer.headers.get("access-control-allow-origin") == told


def test_proxy_is_the_same_server(llm: LLM, checkpoint: Path):
    """Before a server of ours, which speaks vLLM's dialect: same answers, keys and page; DeepConf runs in front."""
    with serving(app(llm, "tiny", api_keys=["inner-secret"])) as inner:
        with pytest.raises(EndpointError, match="no list of models"):
            proxy(inner, key="wrong-key")
        with pytest.raises(EndpointError, match="no model 'other'"):
            proxy(inner, "other", key="inner-secret")
        made = proxy(
            inner,
            key="inner-secret",
            answer_of=lambda t: str(len(t.text) % 3),
            api_keys=["outer-secret"],
            limits=Limits(in_flight=64),
        )
        with serving(made) as outer:
            assert httpx2.get(f"{outer}/v1/models").status_code == 401
            client = httpx2.Client(base_url=outer, headers={"authorization": "Bearer outer-secret"}, timeout=30)
            assert client.get("/v1/models").json()["data"][0]["max_model_len"] == llm.loop.engine.context
            ask = {
                "messages": MESSAGES,
                "temperature": 0,
                "max_tokens": 12,
                "ignore_eos": True,
                "return_token_ids": True,
            }
            direct = httpx2.post(
                f"{inner}/v1/chat/completions", json=ask, headers={"authorization": "Bearer inner-secret"}, timeout=30
            ).json()
            got = client.post("/v1/chat/completions", json=ask).json()
            assert got["choices"] == direct["choices"] and got["usage"] == direct["usage"]
            streamed = client.post("/v1/chat/completions", json=ask | {"stream": True})
            assert streamed.headers["content-type"].startswith("text/event-stream") and "[DONE]" in streamed.text
            refused = client.post("/v1/chat/completions", json=ask | {"temprature": 1})
            assert refused.status_code == 400 and "did you mean" in refused.json()["error"]["message"]
            assert "Think harder" in client.get("/").text and client.get("/health").json()["ready"]
            think = {
                "messages": MESSAGES,
                "traces": 6,
                "warmup": 3,
                "window": 4,
                "keep_fraction": 0.5,
                "max_tokens": 30,
            }
            result = client.post("/v1/deepthink", json=think).json()
            assert result["traces"] == 6 and result["tokens"] > 0 and result["answer"] is not None
            with client.stream("POST", "/v1/completions", json=ENDLESS | {"stream": True}) as answer:
                next(answer.iter_raw())
            until(lambda: not llm.loop.engine.busy)
    with serving(made) as outer:
        lost = httpx2.post(f"{outer}/v1/completions", json=ENDLESS, headers={"authorization": "Bearer outer-secret"})
        assert lost.status_code == 502 and "does not answer" in lost.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_replicas_behind_one_address(checkpoint: Path, llm: LLM, tmp_path: Path):
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    (tmp_path / "keys").write_text("a-long-secret\n")
    (tmp_path / "admin").write_text("administrator\n")
    arguments = ["--replicas", "2", "--cpus", "0.5", "--dtype", "float32", "--memory-gib", "0.1"]
    arguments += ["--api-key-file", str(tmp_path / "keys"), "--admin-key-file", str(tmp_path / "admin")]
    arguments += ["--log-file", str(tmp_path / "log.jsonl"), "--max-body-mib", "1"]
    with process(str(checkpoint), *arguments) as (running, url):
        client = httpx2.Client(base_url=url, headers={"authorization": "Bearer a-long-secret"}, timeout=60)
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        assert client.post("/v1/completions", content=b"x" * (2 << 20)).status_code == 413
        prompts = [[3 + i, 20 + i % 7, 40] for i in range(24)]
        greedy = {"max_tokens": 40, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        got: dict[int, list[int]] = {}

        def ask(i: int) -> None:
            answer = client.post("/v1/completions", json=greedy | {"prompt": prompts[i]})
            got[i] = answer.json()["choices"][0]["token_ids"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        alone = client.post("/v1/completions", json=greedy | {"prompt": prompts}).json()["choices"]
        assert [got[i] for i in range(24)] == [c["token_ids"] for c in alone]
        counted = [client.get(f"/metrics?replica={i}").text for i in (0, 1)]
        tokens = [float(t.split("vllm:generation_tokens_total{")[1].split()[1]) for t in counted]
        assert sum(tokens) == 2 * 24 * 40 and min(tokens) > 0
        weights = {"path": str(checkpoint), "version": 7}
        assert client.post("/admin/weights", json=weights).status_code == 401
        swapped = client.post("/admin/weights", json=weights, headers={"authorization": "Bearer administrator"})
        assert swapped.status_code == 200
        assert [client.get(f"/version?replica={i}").json()["weights_version"] for i in (0, 1)] == [7, 7]
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(e["status"] == 200 and e["path"] == "/v1/completions" for e in lines) == 25
