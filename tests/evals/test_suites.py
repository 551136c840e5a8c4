"""Every suite reads the real files, the Hub's columns, and says what to do when there is nothing to read."""

import csv
import json
from pathlib import Path

import pytest

from h1r.errors import DataError
from h1r.evals import SUITES
from h1r.evals.suite import fill

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"benchmark files are not at {DATA}")


def put(folder, name, *records):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        ("aime24", 30, "math"), ("aime25", 30, "math"), ("hmmt25", 30, "math"), ("math500", 500, "math"),
        ("gsm8k", 1319, "math"), ("humaneval", 164, "code"), ("mbpp", 500, "code"), ("mmlu_pro", 140, "choice"),
        ("ifeval", 541, "instructions"), ("ifbench", 300, "instructions"),
    ],
)  # fmt: skip
def test_real_files(name, count, kind):
    problems = SUITES[name].load(DATA)
    assert len(problems) == count and {p.kind for p in problems} == {kind}
    assert all(p.gold or p.tests for p in problems)
    assert all("{problem}" not in p.messages[0]["content"] for p in problems)


@needs_data
@pytest.mark.parametrize("name", ["aime24", "aime25"])
def test_two_sources_agree_on_every_answer(name):
    from h1r.evals.suite import Row

    def golds(file):
        lines = [json.loads(line) for line in (DATA / name / file).read_text().splitlines()]
        return sorted(SUITES[name].read(r, Row(name, file, 1), "{problem}").gold.lstrip("0") for r in lines)

    assert golds(f"matharena_{name}.jsonl") == golds(f"nemo_skills_{name}.jsonl")


@needs_data
def test_gsm8k_golds_are_whole_numbers():
    assert all(p.gold.lstrip("-").isdigit() for p in SUITES["gsm8k"].load(DATA))


@needs_data
def test_humaneval_solutions_pass_their_own_asserts_in_text_form():
    problem = SUITES["humaneval"].load(DATA)[0]
    code = problem.solution[0]["content"].split("```python\n")[1].rsplit("\n```", 1)[0]
    scope = {}
    # our own fixture, not model text
    exec(code + "\n" + problem.tests[0]["assert"], scope)
    assert scope["has_close_elements"]([1.0, 1.1], 0.2) is True


@pytest.mark.parametrize("name", ["tau2_telecom", "terminal_bench_hard"])
def test_data_that_is_on_no_hub_says_so_too(name, tmp_path):
    source = SUITES[name].source
    with pytest.raises(DataError) as e:
        SUITES[name].load(tmp_path)
    for words in ("github.com/", source.licence, str(tmp_path / source.folder)):
        assert words in str(e.value)


@pytest.mark.parametrize("name", [n for n in SUITES if SUITES[n].source.hub])
def test_missing_data_says_what_to_fetch_and_where(name, tmp_path):
    source = SUITES[name].source
    with pytest.raises(DataError) as e:
        SUITES[name].load(tmp_path)
    for words in (source.hub, source.licence, str(tmp_path / source.folder), "hf download"):
        assert words in str(e.value)
    with pytest.raises(DataError, match="no such folder"):
        SUITES[name].load(tmp_path / "absent")


def test_hub_columns_of_aime(tmp_path):
    put(tmp_path, "aime25/test.jsonl", {"problem_idx": 1, "problem": "What is $\\frac{6}{2}$?", "answer": 3})
    (p,) = SUITES["aime25"].load(tmp_path)
    assert p.gold == "3" and "$\\frac{6}{2}$" in p.messages[0]["content"] and "\\boxed{}" in p.messages[0]["content"]


def test_same_statement_same_id_whatever_its_spaces(tmp_path):
    put(tmp_path, "aime24/a.jsonl", {"problem": "Find  $x$.", "answer": "1"}, {"problem": "find $x$", "answer": "1"})
    with pytest.raises(DataError, match="1 problems appear twice"):
        SUITES["aime24"].load(tmp_path)


def test_missing_column_names_file_row_and_columns(tmp_path):
    put(tmp_path, "aime24/a.jsonl", {"problem": "x", "solution": "y"})
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: aime24 needs a column answer or .* found problem, solution"):
        SUITES["aime24"].load(tmp_path)


def test_amo_descriptions_go_to_a_judge(tmp_path):
    rows = [
        {"question_id": i, "prompt": "p", "answer": "\\boxed{6}", "answer_type": t}
        for i, t in enumerate(["number", "description"])
    ]
    problems = SUITES["amo_bench"].load(put(tmp_path, "amo_bench/test.jsonl", *rows))
    assert [p.kind for p in problems] == ["math", "judge"] and problems[0].meta["parser_subset"] is True


def test_mmlu_pro_letters_run_over_real_options(tmp_path):
    row = {
        "question_id": 7,
        "question": "Q?",
        "options": ["a", "N/A", "c", "N/A"],
        "answer": "C",
        "answer_index": 2,
        "category": "law",
    }
    (p,) = SUITES["mmlu_pro"].load(put(tmp_path, "mmlu_pro/test.jsonl", row))
    assert p.gold == "B" and p.meta["options"] == 2
    assert p.messages[0]["content"].endswith("'Answer: A/B' (e.g. 'Answer: A').\n\nQ?\n\nA) a\nB) c")


def test_gpqa_shuffles_by_question_and_marks_the_set_as_gated(tmp_path):
    (tmp_path / "gpqa").mkdir()
    names = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    with open(tmp_path / "gpqa" / "gpqa_diamond.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(names)
        writer.writerows([f"question {i}\nwith a line", "right", "w1", "w2", "w3"] for i in range(40))
    first, again = (SUITES["gpqa_diamond"].load(tmp_path) for _ in range(2))
    assert first == again and len(first) == 40
    for p in first:
        assert f"{p.gold}) right" in p.messages[0]["content"] and p.meta["gated"]
    assert {p.gold for p in first} == set("ABCD")


def test_ifeval_leaves_absent_arguments_out(tmp_path):
    row = {"key": 1, "prompt": "Say {hi}.", "instruction_id_list": ["a:b"], "kwargs": [{"n": 3, "m": None}]}
    (p,) = SUITES["ifeval"].load(put(tmp_path, "ifeval/input_data.jsonl", row))
    assert p.gold == [{"id": "a:b", "kwargs": {"n": 3}}] and p.messages[0]["content"] == "Say {hi}."


def test_quickstart_is_found_from_the_run_and_from_the_model(tmp_path):
    record = {
        "id": "h1",
        "messages": [{"role": "user", "content": "1 + 1?"}],
        "kind": "math",
        "gold": "2",
        "difficulty": 0.25,
    }
    put(tmp_path, "problems/heldout.jsonl", record)
    (tmp_path / "model").mkdir()
    for place in (tmp_path, tmp_path / "model", tmp_path / "problems" / "heldout.jsonl"):
        (p,) = SUITES["quickstart"].load(place)
        assert (p.id, p.gold, p.difficulty) == ("h1", "2", 0.25)
    with pytest.raises(DataError, match="run `h1r quickstart` first"):
        SUITES["quickstart"].load(DATA.parent if DATA.exists() else tmp_path.parent)


def test_another_prompt_can_be_given(tmp_path):
    put(tmp_path, "gsm8k/test.jsonl", {"question": "2 apples?", "answer": "two\n#### 1,002"})
    (p,) = SUITES["gsm8k"].load(tmp_path, prompt="Q: {problem} {keep}")
    assert p.messages[0]["content"] == "Q: 2 apples? {keep}" and p.gold == "1002"


def test_protocol_of_the_paper():
    want = {"aime24": (16, 65536), "hmmt25": (16, 65536), "amo_bench": (16, 65536), "math500": (1, 32768),
            "gpqa_diamond": (5, 32768), "mmlu_pro": (3, 32768), "ifbench": (1, 32768)}  # fmt: skip
    assert {n: (SUITES[n].samples, SUITES[n].max_tokens) for n in want} == want
    assert all((SUITES[n].temperature, SUITES[n].top_p) == (0.6, 0.95) for n in want)


def test_fill_does_not_fill_what_it_filled():
    assert fill("{a}{b}", a="{b}", b="x") == "{b}x"
