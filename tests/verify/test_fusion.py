"""SandboxFusion's protocol, both ends: our service over our sandbox, and our client on any such service."""

import base64
import threading
import time

import httpx2
import pytest
import uvicorn

from h1r.errors import SandboxError
from h1r.serve.sandbox import app
from h1r.verify import code
from h1r.verify.sandbox import Limits
from h1r.verify.sandbox import open as open_sandbox

try:
    open_sandbox(size=1).close()
    WHY = ""
except SandboxError as e:
    WHY = str(e)
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no sandbox holds here: {WHY}")


@pytest.fixture(scope="module")
def url():
    box = open_sandbox(size=2)
    server = uvicorn.Server(uvicorn.Config(app(box), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    box.close()


def post(url, **body):
    return httpx2.post(f"{url}/run_code", json=body, timeout=60).json()


def test_the_published_answers(url):
    good = post(url, code="print(input() + '!')", language="python", stdin="hi")
    assert (good["status"], good["run_result"]["stdout"], good["run_result"]["return_code"]) == ("Success", "hi!\n", 0)
    assert good["compile_result"] is None and good["executor_pod_name"] is None
    assert good["run_result"]["status"] == "Finished" and 0 < good["run_result"]["execution_time"] < 5
    bad = post(url, code="import sys\nsys.exit(3)", language="python")
    assert (bad["status"], bad["run_result"]["return_code"]) == ("Failed", 3)
    late = post(url, code="while True: pass", language="python", run_timeout=0.5)
    assert (late["status"], late["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    flood = post(url, code="print('x' * 300000)", language="python")
    assert len(flood["run_result"]["stdout"]) == 300001  # the original waits for ever above 64 KiB
    assert post(url, code="1", language="klingon")["status"] == "SandboxError"
    assert httpx2.get(f"{url}/v1/ping").json() == "pong"
    assert httpx2.post(f"{url}/run_code", json={"code": "1"}).status_code == 422


def test_compiled_languages(url):
    plus = "#include <iostream>\nint main(){int a;std::cin>>a;std::cout<<a+1;}"
    told = post(url, code=plus, language="cpp", stdin="4")
    assert told["run_result"]["stdout"] == "5" and told["compile_result"]["return_code"] == 0
    broken = post(url, code="int main(){return x;}", language="cpp")
    assert broken["status"] == "Failed" and broken["run_result"] is None and "x" in broken["compile_result"]["stderr"]


def test_files_in_and_back_but_no_link_out(url):
    text = (
        "import os\nprint(open('a/b.txt').read())\nopen('out.txt','w').write('made')\n"
        "os.symlink('/etc/passwd','link')\nos.symlink('/etc','dir')"
    )
    sent = {"a/b.txt": base64.b64encode(b"given").decode()}
    wanted = ["out.txt", "link", "dir/passwd", "/etc/passwd", "../x", "absent"]
    told = post(url, code=text, language="python", files=sent, fetch_files=wanted)
    assert told["run_result"]["stdout"] == "given\n"
    assert {k: base64.b64decode(v) for k, v in told["files"].items()} == {"out.txt": b"made"}
    assert post(url, code="1", language="python", files={"a": "%%%"})["status"] == "SandboxError"


def test_our_client_grades_through_it(url):
    box = open_sandbox(url)
    assert box.level == "remote"
    add, tests = "def add(a, b): return a + b", [{"input": [2, 3], "expected": 5}, {"input": [1, 1], "expected": 2}]

    def verdict(text, tests, fn=None, language="python"):
        return code.run(code.Program(text, language, fn), tests, box, Limits(timeout_s=1)).verdict

    assert verdict("print(int(input())+1)", [{"input": "4", "expected": "5"}]) == "pass"
    assert verdict("print(int(input())+2)", [{"input": "4", "expected": "5"}]) == "fail"
    assert verdict(add, tests, "add") == "pass"
    assert verdict("def add(a, b): return 5", tests, "add") == "fail"
    assert verdict("def add(a, b):\n    while True: pass", tests, "add") == "timeout"
    assert verdict("import os\ndef add(a, b): os._exit(0)", tests, "add") == "runtime_error"
    assert verdict(add, [{"assert": "assert add(2, 3) == 5"}], "add") == "pass"
    assert verdict(add, [{"assert": "assert add(2, 3) == 6"}], "add") == "fail"
    assert verdict("int main(){return x;}", [{"input": "", "expected": ""}], language="cpp") == "compile_error"
    box.close()


def test_a_server_that_is_not_there_is_our_failure():
    box = open_sandbox("http://127.0.0.1:9")
    with pytest.raises(SandboxError, match="is it running"):
        code.run(code.Program("print(1)"), [{"input": "", "expected": "1"}], box)
