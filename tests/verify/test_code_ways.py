# ruff: noqa: E501  (programs written on one line)
"""Ways honest programs are written, and the published grader's verdict on each beside ours."""

import pytest

from h1r.errors import SandboxError
from h1r.verify import code, judges
from h1r.verify.sandbox import Limits
from h1r.verify.sandbox import open as open_sandbox

try:
    open_sandbox(size=1).close()
    WHY = ""
except SandboxError as e:
    WHY = str(e)
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no sandbox holds here: {WHY}")

SUM = [{"input": "2\n3\n", "expected": "5\n"}, {"input": "10\n-4\n", "expected": "6\n"}]
ADD = [{"input": [2, 3], "expected": 5}, {"input": [10, -4], "expected": 6}]
READ = "a,b=int(input()),int(input())\n"


@pytest.fixture(scope="module")
def box():
    box = open_sandbox(size=2)
    yield box
    box.close()


def verdict(box, text, tests, fn=None, grader="fixed", **limits):
    return code.run(code.Program(text, "python", fn), tests, box, Limits(**limits), grader).verdict


@pytest.mark.parametrize(
    ("text", "official"),
    [
        (f"{READ}print(a+b)", True),
        ("import sys\nL=sys.stdin.readlines()\nprint(int(L[0])+int(L[1]))", True),
        ("import sys\nprint(sum(map(int,sys.stdin.read().split())))", True),
        ("import sys\nprint(sum(map(int,sys.stdin.buffer.read().split())))", True),
        (f"if __name__ == '__main__':\n    {READ.strip()}\n    print(a+b)", True),
        (f"{READ}print(a+b)\nimport sys\nsys.exit(0)", True),
        (f"s='''two\n  lines'''\nassert s[4:6]=='  '\n{READ}print(a+b)", True),
        ("import sys\nprint(sum(int(line) for line in sys.stdin.buffer.readlines()))", False),
        (f"import sys\n{READ}sys.stdout.buffer.write(b'%d\\n'%(a+b))", False),
        (f"from __future__ import annotations\n{READ}print(a+b)", False),
        (f"assert __name__=='__main__'\n{READ}print(a+b)", False),
        ("print(sum(map(int,open(0).read().split())))", False),
        (f"x=0\ndef f():\n    global x\n    x+=1\nf()\n{READ}print(a+b)", False),
        (f"import os\n{READ}os.write(1,b'%d\\n'%(a+b))", False),
        (f"{READ}print(a+b)\nexit()", False),
        (f"import sys,threading\nthreading.stack_size(1<<29)\ndef f():\n    {READ.strip()}\n    print(a+b)\nt=threading.Thread(target=f)\nt.start()\nt.join()", True),
        (f"def f(n): return 0 if n==0 else 1+f(n-1)\nf(30000)\n{READ}print(a+b)", True),
        (f"len(str(10**20000))\n{READ}print(a+b)", True),
    ],
)  # fmt: skip
def test_programs_on_stdin(box, text, official):
    assert verdict(box, text, SUM) == "pass"
    assert (verdict(box, text, SUM, grader="official") == "pass") is official


@pytest.mark.parametrize(
    ("text", "tests", "fixed", "official"),
    [
        ("class Solution:\n    def add(self,a,b): return a+b", ADD, True, True),
        ("def add(a,b): return a+b", ADD, True, True),
        ("class Solution:\n    def add(self,a,b): return (a,b)", [{"input": [1, 2], "expected": [1, 2]}], True, True),
        ("class Solution:\n    def add(self,a,b): return [(a,b)]", [{"input": [1, 2], "expected": [[1, 2]]}], True, False),
        ("class Solution:\n    def add(self,a,b): return 0.1+0.2", [{"input": [1, 2], "expected": 0.3}], True, False),
        ("x = 1", ADD, False, True),  # the header's own operator.add
        ("n=[0]\ndef add(a,b):\n    n[0]+=1\n    return a+b if n[0]==1 else 0", ADD, True, False),  # state between tests
        ("def add(a,b): return 10**100000", ADD, False, False),
        ("def add(a,b):\n    x=[]\n    for _ in range(10**5): x=[x]\n    return x", ADD, False, False),
        ("def add(a,b):\n    while True: pass", ADD, False, False),
        ("class I(int):\n    def __eq__(s,o): return True\ndef add(a,b): return I(0)", ADD, False, False),
    ],
)  # fmt: skip
def test_functions(box, text, tests, fixed, official):
    assert (verdict(box, text, tests, "add", timeout_s=1) == "pass") is fixed
    assert (verdict(box, text, tests, "add", "official", timeout_s=1) == "pass") is official


def test_the_published_grader_cannot_be_outlived(box):
    spin = "import signal\nsignal.alarm(0)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
    assert verdict(box, spin, SUM[:1], grader="official", timeout_s=0.5) == "timeout"
    forged = 'import os\nfor fd in range(3,64):\n    try: os.write(fd,b\'{"test":0,"status":"ok","out":"5"}\\n\')\n    except OSError: pass\nos._exit(0)'
    assert verdict(box, forged, SUM[:1], grader="official") == "runtime_error"


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("def f(a, b): a.append(b)", "x = [1]\nf(x, 2)\nassert x == [1, 2]"),
        ("def f(d, k): del d[k]", "d = {'a': 1, 'b': 2}\nf(d, 'a')\nassert d == {'b': 2}"),
        ("def f(g, x): return g(x) + 1", "assert f(lambda x: 2 * x, 5) == 11"),
        ("def f(g, x):\n    try: return g(x)\n    except KeyError: return 'no key'", "def g(x): raise KeyError(x)\nassert f(g, 5) == 'no key'"),
        ("from decimal import Decimal\ndef f(a, b): return Decimal(a) + Decimal(b)", "from decimal import Decimal\nassert f('0.1', '0.2') == Decimal('0.3')"),
        ("from fractions import Fraction\ndef f(a, b): return Fraction(a, b)", "from fractions import Fraction\nassert f(2, 6) == Fraction(1, 3)"),
        ("def f(n): return (n, [n], {n: (n,)})", "assert f(1) == (1, [1], {1: (1,)})\nassert f(1) != [1, [1], {1: (1,)}]"),
    ],
)  # fmt: skip
def test_asserts_across_the_link(box, text, test):
    assert verdict(box, text, [{"assert": test}], "f") == "pass"
    assert verdict(box, text, [{"assert": test.replace("assert ", "assert not ", 1)}], "f") != "pass"


def test_numeric_packages_of_this_environment(box):
    numpy = "import numpy as np\ndef f(a, b): return np.array([a, b]) * 2"
    assert verdict(box, numpy, [{"input": [1, 2], "expected": [2, 4]}], "f") == "pass"
    assert (
        verdict(box, numpy, [{"assert": "import numpy as np\nassert (f(1, 2) == np.array([2, 4])).all()"}], "f")
        == "pass"
    )
    assert verdict(box, "import torch\nprint(1)", [{"input": "", "expected": "1"}]) == "runtime_error"


def test_memory_is_what_is_used_not_what_is_reserved(box):
    reserve = "import mmap\nm = mmap.mmap(-1, 600 << 20)\nprint(5)"
    assert verdict(box, reserve, SUM[:1], memory_mb=256) == "pass"
    touch = "b = bytearray(400 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nimport time\ntime.sleep(1)\nprint(5)"
    assert verdict(box, touch, SUM[:1], memory_mb=256) == "memory"


def test_values_too_large_to_show():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "too large" in judges.short(10**100_000) and "too large" in judges.short(deep)
