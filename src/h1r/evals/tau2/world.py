"""Carrier and phone in step: calls by either side, initial states, assertions, and the same world again from a transcript."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from h1r.errors import DataError
from h1r.evals.tau2 import scenario, tools
from h1r.evals.tau2.carrier import Carrier, Record
from h1r.evals.tau2.phone import Phone, State

AGENT_TOOLS, CUSTOMER_TOOLS = tools.names(tools.AGENT), tools.names(tools.CUSTOMER_TOOLS)


class Databases(NamedTuple):
    """What every task starts from."""

    carrier: Mapping[str, Sequence[Record]]
    phone: State


class World:
    """One task's carrier and phone."""

    def __init__(self, databases: Databases) -> None:
        self.carrier = Carrier(copy.deepcopy({k: list(v) for k, v in databases.carrier.items()}))
        self.phone = Phone(copy.deepcopy(databases.phone))
        self.sync()

    def begin(self, actions: Sequence[Mapping[str, Any]]) -> None:
        """A task's initial state: functions of either side, in order. Raises DataError for one that is not known."""
        for action in actions:
            self._function(action)
            self.sync()

    def _function(self, told: Mapping[str, Any]) -> Any:
        """A function of an initial state or an assertion, by side and name."""
        name, arguments = str(told["func_name"]), dict(told.get("arguments") or {})
        if name.startswith("_"):
            raise DataError(f"tau2: a task asks for {name!r}, which is not known; fetch the domain's files again")
        if told["env_type"] == "assistant":
            found = getattr(self.carrier, name, None)
        else:
            found = getattr(self.phone, name, None)
            if found is None and hasattr(scenario, name):
                arguments["phone"], found = self.phone, getattr(scenario, name)
        if found is None:
            raise DataError(f"tau2: a task asks for {name!r}, which is not known; fetch the domain's files again")
        return found(**arguments)

    def holds(self, assertion: Mapping[str, Any]) -> bool:
        """Whether an assertion comes out as the task wants it; one that cannot be asked does not hold."""
        try:
            found = self._function(assertion)
        except (ValueError, KeyError):
            return False
        self.sync()
        return bool(found) == bool(assertion.get("assert_value", True))

    def call(self, who: str, name: str, arguments: Any) -> tuple[str, bool]:
        """A tool call by "assistant" or "user": (what it answers, whether it failed). Never raises for what a model wrote."""
        side: Carrier | Phone = self.carrier if who == "assistant" else self.phone
        known = AGENT_TOOLS if who == "assistant" else CUSTOMER_TOOLS
        if name not in known:
            return f"Error: Tool '{name}' not found.", True
        if not isinstance(arguments, Mapping):
            return "Error: the arguments are not a JSON object", True
        try:
            answer = getattr(side, name)(**arguments)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            return f"Error: {e}", True
        self.sync()
        return printed(answer), False

    def sync(self) -> None:
        """What the carrier's state means for the phone, and a payment for the carrier."""
        around = self.phone.around
        if around["phone_number"] is None:
            return
        line = self.carrier.line_by_phone(around["phone_number"])
        plan = self.carrier.plan(line["plan_id"])
        around["line_active"] = line["status"] == "Active"
        around["roaming_allowed"] = bool(line["roaming_enabled"])
        limit = plan["data_limit_gb"] + line["data_refueling_gb"]
        around["mobile_data_usage_exceeded"] = line["data_used_gb"] >= limit
        asked = around["payment_request"]
        if asked is not None and asked["paid"]:
            self.carrier.bill(asked["bill_id"])["status"] = "Paid"
            around["payment_request"] = asked = None
        if asked is None:
            customer = self.carrier.get_customer_by_phone(around["phone_number"])
            if waiting := self.carrier.awaiting(customer):
                bill = waiting[0]
                around["payment_request"] = {
                    "bill_id": bill["bill_id"], "amount_due": bill["total_due"], "paid": False
                }  # fmt: skip

    def state(self) -> tuple[Any, Any]:
        """Both databases, to be compared."""
        return self.carrier.tables, self.phone.state


def printed(answer: Any) -> str:
    """A tool's answer as the model reads it: text as it is; records as JSON; in a tool's own dictionary numbers are text."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, dict) and not any(k in answer for k in ("customer_id", "plan_id", "device_id", "bill_id")):
        answer = {k: str(v) if isinstance(v, int | float) else v for k, v in answer.items()}
    return json.dumps(answer)
