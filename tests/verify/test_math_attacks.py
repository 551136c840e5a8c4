"""Nothing a model writes hangs, crashes or runs code in the verifier; every verdict comes soon."""

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from h1r.verify import compare
from h1r.verify.math import check
from h1r.verify.pool import Pool

LIMIT = 4.0  # seconds: 2 on a quiet machine, twice that on a loaded one

ATTACKS = {
    "tower": "9^{9^{9^9}}",
    "tower of powers": "((9^9)^{9999})^{9999}",
    "deep exponents": "10^{(5^{5^{5^{5^{5}}}} \\cdot \\log_{10}(5)}",
    "factorial": "(10^6)!",
    "factorial of factorial": "((100!)!)!",
    "binomial": "\\binom{10^6}{5\\cdot 10^5}",
    "long sum": "\\sum_{k=1}^{10^9} \\frac{1}{k}",
    "long product": "\\prod_{k=1}^{10^{12}} k",
    "integral": "\\int_0^{1} \\frac{\\sin(x^{x^{x}})}{\\ln(1+x^7)} dx",
    "parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "braces": "{" * 100_000 + "1" + "}" * 100_000,
    "fractions": "\\frac{" * 5000 + "1" + "}{2}" * 5000,
    "roots": "\\sqrt{" * 300 + "2" + "}" * 300,
    "million digits": "7" * 1_000_000,
    "long decimal": "0." + "3" * 100_000,
    "expanded power": "(x+1)^{5000}-(x+1)^{4999}(x+1)+1",
    "big polynomial": "x^{1000}+" * 900 + "1",
    "matrix": "\\begin{pmatrix}"
    + "\\\\".join("&".join("12" for _ in range(100)) for _ in range(100))
    + "\\end{pmatrix}",
    "left": "\\left" * 50_000,
    "spaces": "1" + " " * 100_000 + "2",
    "signs": "-" * 50_000 + "1",
    "factorial marks": "3" + "!" * 5000,
    "commas": "1," * 50_000,
    "nul": "5\x005",
    "full width": "５５",
    "zero width": "5\u200b6",
    "lambda": "(lambda: open('/tmp/h1r-pwned','w'))()",
    "import": "__import__('os').system('touch /tmp/h1r-pwned') or 0",
    "mro": "().__class__.__mro__[1].__subclasses__()",
    "huge angle": "\\sin(10^{10^{9}})",
    "power of powers": "2^{2^{2^{49}}}",
    "nested abs": "|" * 2000 + "x" + "|" * 2000,
    "pm": "\\pm1" * 500,
    "trig": "\\sin x" * 1200,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_verdict_soon_and_never_correct(name):
    start = time.monotonic()
    verdict, _ = check("5", f"<think>hm</think> \\boxed{{{ATTACKS[name]}}}")
    assert time.monotonic() - start < LIMIT
    assert verdict.verdict == "incorrect"
    assert not Path("/tmp/h1r-pwned").exists()


HACKS = [
    "\\boxed{1} \\boxed{2} \\boxed{3} \\boxed{4} \\boxed{5} \\boxed{6}",
    "<think>\\boxed{5}",
    "<think> \\boxed{5} </think> I could not find it.",
    "\\boxed{4 \\text{ or } 5 \\text{ or } 6}",
    "\\boxed{5 \\text{ or } 6}",
    "\\boxed{[4,6]}",
    "\\boxed{}",
    "\\boxed{\\{4,5,6\\}}",
    "\\boxed{5} but perhaps rather \\boxed{6}",
    "\\boxed{5",
    "I do not know whether it is $5$",
]


@pytest.mark.parametrize("text", HACKS)
def test_hedges_are_not_answers(text):
    assert check("5", text)[0].verdict == "incorrect"


def test_text_around_the_answer_is_fine():
    assert check("5", "\\boxed{\\text{the answer is } 5}")[0].verdict == "correct"


@pytest.mark.parametrize(
    "text", ["\\boxed{1}" * 100_000, "{" * 1_000_000, "\\boxed{" * 100_000, "$" * 500_000, "answer is " * 100_000]
)
def test_long_replies_are_scanned_once(text):
    start = time.monotonic()
    check("5", text)
    assert time.monotonic() - start < LIMIT


def test_equal_text_is_correct_however_large_its_value():
    assert compare("10^{10^{10}}", "10^{10^{10}}").verdict == "correct"
    assert compare("9^{9^{9^9}}", "9^{9^{9^{9}}}").verdict in ("correct", "incorrect", "unscored")


def test_a_gold_that_cannot_be_computed_is_not_the_answers_fault():
    assert compare("7" * 300_000, "5").verdict == "unscored"


def test_threads_and_asyncio():
    results = []

    def work():
        results.append(compare("\\sqrt{8}", "2\\sqrt{2}").verdict)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == ["correct"] * 8

    async def many():
        return await asyncio.gather(*(asyncio.to_thread(compare, "x(x+1)", "x^2+x") for _ in range(8)))

    assert [v.verdict for v in asyncio.run(many())] == ["correct"] * 8


def test_workers_outlive_the_thread_that_started_them():
    """An evaluation grades each benchmark with threads of its own; the first one's end takes no worker away."""
    pool, pids = Pool(size=2), []
    for _ in range(2):
        with ThreadPoolExecutor(2) as threads:
            verdicts = threads.map(
                lambda i: compare(f"{i}\\sqrt{{2}}", f"\\sqrt{{2}}\\cdot {i}", pool=pool), range(2, 20)
            )
            assert {v.verdict for v in verdicts} == {"correct"}
        assert pool.zygote is not None and pool.zygote.poll() is None
        pids.append(pool.zygote.pid)
    assert pids[0] == pids[1]
    pool.close()


@pytest.mark.parametrize("how", ["killed", "worn"])
def test_no_answer_pays_for_a_worker_lost_between_two_verdicts(how, monkeypatch):
    pool = Pool(size=1)
    assert compare("\\sqrt{8}", "2\\sqrt{2}", pool=pool).correct
    worker = pool.idle.get()
    pool.idle.put(worker)
    if how == "killed":
        signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
    else:
        monkeypatch.setattr("h1r.verify.pool.WORN", 0.0)
    assert compare("\\sqrt{8}", "2\\sqrt{2}", pool=pool).correct
    assert pool.idle.get() is not worker
    pool.idle.put(None)
    pool.close()


def test_a_system_that_tells_no_processor_time_keeps_its_workers(monkeypatch):
    monkeypatch.setattr("h1r.verify.pool._Worker.processor_seconds", lambda worker: float("inf"))
    pool = Pool(size=1)
    assert compare("\\sqrt{8}", "2\\sqrt{2}", pool=pool).correct
    worker = pool.idle.get()
    pool.idle.put(worker)
    assert compare("\\sqrt{8}", "2\\sqrt{2}", pool=pool).correct
    assert pool.idle.get() is worker
    pool.idle.put(worker)
    pool.close()


def test_nothing_stays_when_the_holder_is_killed():
    code = (
        "import os, time\nfrom h1r.verify.pool import Pool\nfrom h1r.verify import compare\npool = Pool(size=1)\n"
        "compare('x+1', '1+x', pool=pool)\nprint(pool.zygote.pid, flush=True)\ntime.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pidfd = os.pidfd_open(int(holder.stdout.readline()))
    holder.kill()
    holder.wait()
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


def test_a_killed_worker_is_replaced_and_the_deadline_is_kept():
    pool = Pool(size=1, deadline=0.3)
    compare("x+1", "1+x", pool=pool)
    start = time.monotonic()
    hard = "\\int_0^{1} \\frac{\\sin(x^{x^{x}})}{\\ln(1+x^7)} dx"
    assert compare("1+\\sqrt{2}x", hard, pool=pool).verdict == "incorrect"
    assert time.monotonic() - start < 3
    assert compare("\\sqrt{8}", "2\\sqrt{2}", pool=Pool(size=1)).verdict == "correct"
    pool.close()


def test_memory_of_the_caller_stays_flat():
    for i in range(50):
        compare(f"{i}\\sqrt{{2}}", f"\\sqrt{{2}}\\cdot {i}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(300):
        assert compare(f"{i + 1}\\sqrt{{2}}", f"\\sqrt{{2}}\\cdot {i + 1}").verdict == "correct"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_a_worker_kept_waiting_is_tried_again_then_unscored_never_incorrect():
    """A stopped worker gets no processor time: the machine's doing. One that computes for ever is the answer's doing."""
    pool = Pool(size=1, deadline=0.5)
    try:
        assert compare("1+\\sqrt{2}", "\\sqrt{2}+1", pool=pool).correct
        stopped = []

        def stop(worker):
            with open(f"/proc/self/fdinfo/{worker.pidfd}") as f:
                stopped.append(next(int(line.split()[1]) for line in f if line.startswith("Pid:")))
            os.kill(stopped[-1], signal.SIGSTOP)
            return worker

        fork = pool._fork
        first = stop(pool.idle.get())
        pool.idle.put(first)
        assert compare("1+\\sqrt{2}", "\\sqrt{2}+1", pool=pool).correct  # the second try, on a fresh worker

        pool.idle.get().kill()
        pool.idle.put(None)
        pool._fork = lambda: stop(fork())
        verdict = compare("1+\\sqrt{2}", "\\sqrt{2}+1", pool=pool)
        assert verdict.verdict == "unscored" and "overloaded" in verdict.why
        assert len(stopped) == 3 and threading.active_count() < 50
    finally:
        pool.close()
