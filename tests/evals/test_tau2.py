"""tau2 telecom: both databases, the published tasks' own solutions, conversations with a scripted agent and customer."""

import json
from pathlib import Path

import pytest

from h1r.errors import ConfigError, DataError, EndpointError
from h1r.evals import SUITES, Episodes, Setting, rescore_episodes, run_episodes
from h1r.evals.suites import tau2_telecom
from h1r.evals.tau2 import carrier, phone, talk, tools
from h1r.evals.tau2.world import Databases, World, printed
from h1r.types import Prompt, SamplingParams, StopReason, Trace

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (SHARED / "tau2_telecom").is_dir(), reason="no tau2 data in shared/data")

PLAN = {
    "plan_id": "P1",
    "name": "Basic",
    "data_limit_gb": 5.0,
    "price_per_month": 40.0,
    "data_refueling_price_per_gb": 2.0,
}
LINE = {"line_id": "L1", "phone_number": "555-1", "status": "Active", "plan_id": "P1", "device_id": "D1", "data_used_gb": 3.2,
        "contract_end_date": "2026-12-31"}  # fmt: skip
CUSTOMER = {
    "customer_id": "C1", "full_name": "Ada Byron", "date_of_birth": "1985-06-15", "email": "a@b.c", "phone_number": "555-0",
    "address": {"street": "1 Main St", "city": "X", "state": "CA", "zip_code": "9"}, "account_status": "Active",
    "line_ids": ["L1"], "bill_ids": [], "created_at": "2025-01-15T10:30:00",
}  # fmt: skip
DEVICE = {"device_id": "D1", "device_type": "phone", "model": "M", "is_esim_capable": True}
PHONE = {
    "device": {
        "sim_card_status": "active", "sim_card_missing": False, "airplane_mode": False, "network_signal_strength": "good",
        "network_technology_connected": "5G", "network_connection_status": "connected", "battery_level": 80,
        "data_enabled": True, "roaming_enabled": False, "network_mode_preference": "4g_5g_preferred", "wifi_enabled": False,
        "wifi_connected": False, "wifi_signal_strength": "none", "wifi_calling_enabled": False,
        "wifi_calling_mms_over_wifi": False, "data_saver_mode": False, "vpn_enabled_setting": False, "vpn_connected": False,
        "active_apn_settings": {"apn_name": "internet"},
        "app_statuses": {"messaging": {"permissions": {"sms": True, "storage": True}}, "browser": {}},
    }
}  # fmt: skip
DB = Databases(
    carrier.load({"plans": [PLAN], "lines": [LINE], "customers": [CUSTOMER], "devices": [DEVICE]}), phone.load(PHONE)
)
ME = {"env_type": "user", "func_name": "set_user_info", "arguments": {"name": "Ada", "phone_number": "555-1"}}
OFF = {"env_type": "user", "func_name": "turn_data_off", "arguments": {}}
WORKS = {"env_type": "user", "func_name": "assert_mobile_data_status", "arguments": {"expected_status": True}}
TASK = {
    "id": "[mobile]off",
    "user_scenario": {"persona": "terse", "instructions": {
        "domain": "telecom", "reason_for_call": "No data.", "known_info": "You are Ada.", "unknown_info": None,
        "task_instructions": "Be brief."}},
    "initial_state": {"initialization_actions": [ME, OFF]},
    "evaluation_criteria": {
        "actions": [{"requestor": "user", "name": "toggle_data", "arguments": {}}],
        "env_assertions": [WORKS | {"assert_value": True}], "reward_basis": ["ENV_ASSERTION", "ACTION"]},
}  # fmt: skip


@pytest.fixture
def world():
    made = World(DB)
    made.begin([ME])
    return made


def trace(content="", *calls):
    return Trace(prompt=Prompt(), token_ids=(1, 2, 3), stop=StopReason.STOP, content=content, tool_calls=calls)


def call(name, **arguments):
    return trace("", {"name": name, "arguments": arguments})


class Script:
    """Says its lines in order and keeps what it was shown."""

    def __init__(self, *lines):
        self.lines, self.shown, self.offered = list(lines), [], []

    def __call__(self, messages, offered, *_):
        self.shown.append(list(messages))
        self.offered.append(offered)
        return self.lines.pop(0)


def test_records_print_as_the_published_models_do(world):
    line, failed = world.call("assistant", "get_details_by_id", {"id": "L1"})
    assert not failed and list(json.loads(line)) == list(carrier.FIELDS["lines"])
    assert json.loads(line)["data_used_gb"] == 3.2 and json.loads(line)["suspension_start_date"] is None
    usage = json.loads(world.call("assistant", "get_data_usage", {"customer_id": "C1", "line_id": "L1"})[0])
    assert usage == {"line_id": "L1", "data_used_gb": "3.2", "data_limit_gb": "5.0", "data_refueling_gb": "0.0",
                     "cycle_end_date": "2025-02-28"}  # fmt: skip
    person = json.loads(
        world.call("assistant", "get_customer_by_name", {"full_name": "ada byron", "dob": "1985-06-15"})[0]
    )
    assert person[0]["created_at"] == "2025-01-15 10:30:00"
    assert printed({"message": "x", "line": {"line_id": "L1", "data_used_gb": 1.0}, "n": 2.5}) == (
        '{"message": "x", "line": {"line_id": "L1", "data_used_gb": 1.0}, "n": "2.5"}'
    )


def test_refusals_are_words_for_the_model(world):
    for who, name, arguments, words in (
        ("assistant", "get_customer_by_id", {"customer_id": "C9"}, "Error: Customer with ID C9 not found"),
        ("assistant", "toggle_data", {}, "Error: Tool 'toggle_data' not found."),
        ("user", "refuel_data", {}, "Error: Tool 'refuel_data' not found."),
        ("user", "set_user_info", {"name": "x", "phone_number": "y"}, "Error: Tool 'set_user_info' not found."),
        ("assistant", "resume_line", {"customer_id": "C1", "line_id": "L1"}, "Error: Line must be suspended to resume"),
        ("assistant", "refuel_data", {"customer_id": "C1", "line_id": "L1", "gb_amount": -1}, "must be positive"),
        ("assistant", "get_details_by_id", {"id": "X"}, "Error: Unknown ID format or type: X"),
        ("assistant", "get_customer_by_id", ["C1"], "not a JSON object"),
    ):
        answer, failed = world.call(who, name, arguments)
        assert failed and words in answer, answer
    assert world.call("assistant", "resume_line", {})[1]


def test_the_phone(world):
    def do(name, **arguments):
        return world.call("user", name, arguments)[0]

    assert do("check_status_bar") == "Status Bar: 📶³ Good | 5G | 📱 Data Enabled | 🔋 80%"
    assert do("toggle_airplane_mode") == "Airplane Mode is now ON.\nStatus Bar: ✈️ Airplane Mode | 🔋 80%"
    assert do("run_speed_test") == "Speed test failed: No Connection."
    do("toggle_airplane_mode")
    assert do("run_speed_test") == "Speed Test Result: 275.00 Mbps (Excellent). Connection is very fast."
    assert do("connect_vpn").startswith("VPN connected successfully.")
    assert "'server_performance': <PerformanceLevel.EXCELLENT: 'excellent'>}" in do("check_vpn_status")
    world.phone.device["vpn_details"]["server_performance"] = "poor"
    assert do("run_speed_test").startswith("Speed Test Result: 27.50 Mbps (Good).")
    do("disconnect_vpn")
    assert "3G" in do("set_network_mode_preference", mode="3g_only")
    assert "not a valid option" in do("set_network_mode_preference", mode="6g")
    assert do("run_speed_test").startswith("Speed Test Result: 1.50 Mbps (Poor).")
    assert do("can_send_mms") == "Your messaging app can send MMS messages."
    world.phone.device["active_apn_settings"]["mmsc_url"] = None
    assert do("can_send_mms") == "Your messaging app cannot send MMS messages."
    do("reset_apn_settings")
    assert "Resetting APN settings...\nRestarting network services..." in do("reboot_device")
    assert do("can_send_mms") == "Your messaging app can send MMS messages."
    assert "Permission 'storage' granted" in do("grant_app_permission", app_name="browser", permission="Storage")


def test_carrier_and_phone_keep_step(world):
    owed = {"customer_id": "C1", "line_id": "L1", "new_bill_id": "B7", "contract_ended": False}
    world.begin([{"env_type": "assistant", "func_name": "suspend_line_for_overdue_bill", "arguments": owed}])
    world.call("user", "reboot_device", {})
    assert "📵 No Signal" in world.call("user", "check_status_bar", {})[0]
    paid = {"env_type": "assistant", "func_name": "assert_no_overdue_bill", "arguments": {"overdue_bill_id": "B7"}}
    assert not world.holds(paid)
    assert world.call("user", "check_payment_request", {})[0] == "No payment request has been made."
    world.call("assistant", "send_payment_request", {"customer_id": "C1", "bill_id": "B7"})
    assert world.call("user", "check_payment_request", {})[0] == "You have a payment request for bill B7 of 40.0 USD."
    world.call("user", "make_payment", {})
    assert world.holds(paid)
    world.call("assistant", "resume_line", {"customer_id": "C1", "line_id": "L1"})
    world.call("user", "reboot_device", {})
    assert world.holds({"env_type": "user", "func_name": "assert_service_status",
                        "arguments": {"expected_status": "connected"}})  # fmt: skip
    over = {"env_type": "assistant", "func_name": "set_data_usage",
            "arguments": {"customer_id": "C1", "line_id": "L1", "data_used_gb": 5.0}}  # fmt: skip
    world.begin([over])
    assert not world.phone.data_works()
    told = json.loads(
        world.call("assistant", "refuel_data", {"customer_id": "C1", "line_id": "L1", "gb_amount": 2.0})[0]
    )
    assert told["charge"] == "4.0" and world.phone.data_works()
    draft = world.carrier.bill(world.carrier.get_customer_by_id("C1")["bill_ids"][-1])
    assert (draft["status"], draft["total_due"], draft["period_end"]) == ("Draft", 4.0, "2025-03-31")


def test_a_conversation_that_ends_well():
    agent = Script(
        call("get_customer_by_phone", phone_number="555-1"), trace("Please turn your mobile data on."), trace("Good.")
    )
    customer = Script(trace("My data is off."), call("toggle_data"), trace("It is on."), trace("Thanks ###STOP###"))
    told = talk.talk(TASK, DB, "THE POLICY", agent, customer)
    assert told.ended == "stop" and told.steps == 9 and told.tokens == 9
    found = talk.reward(TASK, DB, told.messages, told.ended)
    assert found.value == 1.0 and found.parts == {"ENV_ASSERTION": 1.0, "ACTION": 1.0}
    first, last = agent.shown[0], agent.shown[-1]
    assert first[0]["content"].endswith("<policy>\nTHE POLICY\n</policy>")
    assert [m["role"] for m in last] == ["system", "assistant", "user", "assistant", "tool", "assistant", "user"]
    assert last[1]["content"] == talk.GREETING and last[-1]["content"] == "It is on."
    assert all("toggle_data" not in json.dumps(m) for m in last), "the agent does not see the customer's phone"
    seen = customer.shown[-1]
    assert [m["role"] for m in seen] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert "Persona:\n\tterse\nInstructions:\n\tDomain: telecom\n\tReason for call:\n\t\tNo data." in seen[0]["content"]
    assert {t["function"]["name"] for t in customer.offered[0]} == tools.names(tools.CUSTOMER_TOOLS)
    assert talk.reward(TASK, DB, [m for m in told.messages if not m.get("tool_calls")], "stop").value == 0.0


def test_conversations_that_end_badly():
    def ended(agent, customer, **more):
        told = talk.talk(TASK, DB, "P", agent, customer, **more)
        return told.ended, talk.reward(TASK, DB, told.messages, told.ended).value

    assert ended(Script(trace("")), Script(trace("Hi"))) == ("empty", 0.0)
    forever = [trace("again")] * 99
    assert ended(Script(*forever), Script(*forever), steps=20) == ("steps", 0.0)
    wrong = [call("no_such_tool")] * 20
    assert ended(Script(*wrong), Script(trace("Hi"))) == ("errors", 0.0)
    broken = [trace("", {"name": "resume_line", "arguments": "{not json"})] * 20
    assert ended(Script(*broken), Script(trace("Hi"))) == ("errors", 0.0)
    assert ended(Script(), Script(trace("###STOP###"))) == ("stop", 0.0)
    with pytest.raises(talk.CustomerError):
        talk.talk(TASK, DB, "P", Script(), Script(trace("")))


def test_parts_of_the_reward():
    plain = [{"who": "assistant", "role": "assistant", "content": "That is $1,250 in all."}]
    task = {"initial_state": {}, "evaluation_criteria": {"communicate_info": ["1250"], "reward_basis": ["COMMUNICATE"]}}
    assert talk.reward(task, DB, plain, "stop").value == 1.0
    task["evaluation_criteria"]["communicate_info"] = ["1251"]
    assert talk.reward(task, DB, plain, "stop").value == 0.0
    acted = [{"who": "assistant", "role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "function": {"name": "enable_roaming", "arguments": '{"customer_id": "C1", "line_id": "L1"}'}}]}]  # fmt: skip
    gold = {"name": "enable_roaming", "arguments": {"customer_id": "C1", "line_id": "L1"}}
    both = {"evaluation_criteria": {"actions": [gold], "reward_basis": ["DB", "ACTION"]}}
    assert talk.reward(both, DB, acted, "stop").value == 1.0
    assert talk.reward(both, DB, [], "stop").parts == {"DB": 0.0, "ACTION": 0.0}
    other = {"name": "enable_roaming", "arguments": {"customer_id": "C2", "line_id": "L1"}}
    wrong = {"evaluation_criteria": {"actions": [other], "reward_basis": ["ACTION"]}}
    assert talk.reward(wrong, DB, acted, "stop").value == 0.0
    wrong["evaluation_criteria"]["actions"][0]["compare_args"] = ["line_id"]
    assert talk.reward(wrong, DB, acted, "stop").value == 1.0


def test_an_unknown_function_of_a_task_is_a_data_error():
    with pytest.raises(DataError, match="no_such"):
        World(DB).begin([{"env_type": "user", "func_name": "no_such", "arguments": {}}])
    with pytest.raises(DataError):
        World(DB).begin([{"env_type": "user", "func_name": "__init__", "arguments": {}}])


@needs_data
def test_every_published_task_is_broken_at_first_and_mended_by_its_own_actions():
    problems = SUITES["tau2_telecom"].load(SHARED)
    assert len(problems) == 20
    mended = 0
    for p in problems:
        task, db = p.meta["task"], tau2_telecom.databases(Path(p.meta["folder"]))
        wanted = task["evaluation_criteria"]
        made = World(db)
        made.begin(task["initial_state"]["initialization_actions"])
        before = all(made.holds(a) for a in wanted["env_assertions"])
        for a in wanted["actions"]:
            assert not made.call(a["requestor"], a["name"], a["arguments"])[1], a
        assert all(made.holds(a) for a in wanted["env_assertions"])
        mended += not before
    assert mended == 18  # two are to be transferred: nothing can be mended there


@needs_data
def test_the_suite_plays_stores_rescores_and_continues(tmp_path):
    suite = SUITES["tau2_telecom"]
    problem = next(p for p in suite.load(SHARED) if "data_mode_off" in p.id)
    agent = Script(trace("Please turn your mobile data on."))
    customer = Script(trace("No data."), call("toggle_data"), trace("Works. ###STOP###"))
    episodes = Episodes(tmp_path / "e.jsonl")
    how = {"write": agent, "model": "m", "sampling": SamplingParams(seed=0), "workers": 1}
    setting = Setting(partner=customer, partner_name="c")
    (item,) = run_episodes([problem], suite.agent, setting, episodes, **how)
    assert item.value == 1.0 and item.outcome == "correct" and item.tokens == 3 and item.detail["parts"]
    again = Episodes(tmp_path / "e.jsonl")
    (kept,) = run_episodes([problem], suite.agent, setting, again, **how)
    assert kept == item and not agent.lines and not customer.lines
    assert [i.value for i in rescore_episodes([problem], suite.agent, again)] == [1.0]

    other = next(p for p in suite.load(SHARED) if "airplane_mode_on" in p.id)
    assert other.messages == problem.messages  # and yet another episode
    customer_ = Script(trace("Anything?"), trace("###STOP###"))
    (second,) = run_episodes(
        [other],
        suite.agent,
        Setting(partner=customer_, partner_name="c"),
        again,
        **(how | {"write": Script(trace("Hm."))}),
    )
    assert second.key != item.key and second.value == 0.0 and len(again.records) == 2

    def dead(*_):
        raise EndpointError("the server is gone")

    (lost,) = run_episodes([problem], suite.agent, Setting(partner=dead, partner_name="d"), again, **how)
    assert lost.value is None and lost.outcome == "unscored" and len(again.records) == 2
    (alone,) = run_episodes([problem], suite.agent, Setting(), Episodes(tmp_path / "f.jsonl"), **how)
    assert alone.value is None and "--partner" in alone.why
    with pytest.raises(ConfigError, match="needs a model"):
        tau2_telecom.play(problem, agent, Setting())
