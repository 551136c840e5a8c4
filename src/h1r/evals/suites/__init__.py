"""One file per benchmark. A new one is a file with a `SUITE` and its line here."""

from collections.abc import Mapping

from h1r.evals.suite import Suite
from h1r.evals.suites import (
    aime24,
    aime25,
    amo_bench,
    gpqa_diamond,
    gsm8k,
    hle,
    hmmt25,
    humaneval,
    ifbench,
    ifeval,
    livecodebench,
    long_context,
    math500,
    mbpp,
    mmlu_pro,
    quickstart,
    scicode,
    tau2_telecom,
    terminal_bench_hard,
)

SUITES: Mapping[str, Suite] = {
    s.name: s
    for s in (
        quickstart.SUITE,
        aime24.SUITE,
        aime25.SUITE,
        hmmt25.SUITE,
        amo_bench.SUITE,
        math500.SUITE,
        gsm8k.SUITE,
        humaneval.SUITE,
        mbpp.SUITE,
        mmlu_pro.SUITE,
        gpqa_diamond.SUITE,
        ifeval.SUITE,
        ifbench.SUITE,
        hle.SUITE,
        livecodebench.SUITE,
        scicode.SUITE,
        tau2_telecom.SUITE,
        terminal_bench_hard.SUITE,
        long_context.SUITE,
    )
}
"""Every benchmark by name."""
