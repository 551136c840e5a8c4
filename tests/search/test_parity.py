"""The released code's definitions, written out naively here from its description, against ours on ragged traces."""

import numpy as np
import pytest

from h1r.search import Record, parity


def naive_windows(confs, size):
    if len(confs) < size:
        return [sum(confs) / len(confs)] if confs else [0.0]
    return [sum(confs[i : i + size]) / size for i in range(len(confs) - size + 1)]


def naive(records, size):
    """Seven votes by definition: dictionaries, loops, no shared code."""
    rows = []
    for r in records:
        if r.answer:
            confs = [round(float(c), 3) for c in r.confidence]
            windows = sorted(naive_windows(confs, size))
            few = max(1, int(0.1 * len(windows)))
            tail = confs[-size:]
            rows.append(
                (r.answer, sum(confs) / len(confs), sum(tail) / len(tail), sum(windows[:few]) / few, windows[0])
            )

    def winner(pairs):
        weights = {}
        for answer, w in pairs:
            weights[answer] = weights.get(answer, 0.0) + w
        return max(weights, key=lambda a: weights[a]) if weights else None

    def vote(column, top=None):
        own = rows
        if top:
            bar = np.percentile([r[column] for r in rows], (1 - top) * 100)
            own = [r for r in rows if r[column] >= bar]
        return winner([(r[0], r[column]) for r in own]), len(own), float(np.mean([r[column] for r in own]))

    found = {"majority": (winner([(r[0], 1.0) for r in rows]), len(rows), None)}
    for name, column in (("mean_confidence", 1), ("tail_confidence", 2), ("bottom_window", 3), ("min_window", 4)):
        found[f"{name}_weighted"] = vote(column)
    found["top10_tail_filtered"], found["top10_bottom_window_filtered"] = vote(2, 0.1), vote(3, 0.1)
    return found


def pool(seed, count, longest, size):
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        length = int(rng.integers(1, longest))
        confs = rng.gamma(6.0, 2.5, length) + rng.normal(0, 3) * np.sin(np.arange(length) / max(size, 8))
        records.append(Record(np.abs(confs), str(rng.choice(["12", "0.5", "1/2", "", "7"]))))
    return records


@pytest.mark.parametrize("size", [1, 16, 64, 256, 2048])
@pytest.mark.parametrize("seed", range(4))
def test_seven_votes(seed, size):
    records = pool(seed, 40, max(3 * size, 40), size)
    got, want = parity.released(records, size), naive(records, size)
    assert got.keys() == want.keys()
    for name, (answer, count, confidence) in want.items():
        assert (got[name].answer, got[name].num_votes) == (answer, count), name
        if confidence is not None:
            assert got[name].confidence == pytest.approx(confidence, abs=1e-9), name


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_online_bar_voters_and_stops(seed, keep):
    size = 32
    records = pool(seed, 48, 200, size)
    warmup, final = records[:16], records[16:]
    got = parity.released_online(warmup, final, keep, size)
    lows = []
    for r in records:
        windows = naive_windows([round(float(c), 3) for c in r.confidence], size)
        lows.append(min(round(w, 3) for w in windows) if len(r.confidence) >= size else windows[0])
    assert got.min_confs == pytest.approx(lows, abs=1e-9)
    assert got.bar == pytest.approx(float(np.percentile(lows[:16], (1 - keep) * 100)), abs=1e-9)
    assert got.voters == tuple(i for i, r in enumerate(records) if lows[i] >= got.bar and r.answer)
    for r in records:
        windows = naive_windows(list(r.confidence), size) if len(r.confidence) >= size else []
        first = next((i + size for i, w in enumerate(windows) if w < got.bar), None)
        assert parity.stop_index(r.confidence, size, got.bar) == first


def test_ties_and_silence():
    flat = np.full(10, 2.0)
    two = [
        Record(flat, "b"),
        Record(flat, "a"),
        Record(flat, "a"),
        Record(flat, "b"),
        Record(flat, None),
        Record(flat, ""),
    ]
    assert parity.released(two, 4)["majority"] == parity.Voted("b", 4, None)
    assert parity.released(two, 4)["mean_confidence_weighted"].answer == "b"
    nobody = parity.released([Record(flat, "")], 4)
    assert nobody["majority"].answer is None and nobody["top10_tail_filtered"].num_votes == 0
    half = [Record(flat, "1/2"), Record(flat, "0.5"), Record(flat, "3"), Record(flat, "3")]
    assert parity.released(half, 4)["majority"].answer == "3"  # raw strings: 1/2 is not 0.5 there
