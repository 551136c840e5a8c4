"""The carrier's side: its database (db.toml) and what an agent may do with it. The current day is 25 February 2025.

Records are plain dictionaries with every field, in the order in which the published models print them; a tool's answer is
text, or a record, or a dictionary. What a tool refuses raises ValueError, whose message is what the agent reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

Record = dict[str, Any]
TODAY = date(2025, 2, 25)
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "plans": dict.fromkeys(("plan_id", "name", "data_limit_gb", "price_per_month", "data_refueling_price_per_gb")),
    "devices": dict.fromkeys(("device_id", "device_type", "model", "imei", "is_esim_capable"))
    | {"activated": False, "activation_date": None, "last_esim_transfer_date": None},
    "lines": {
        "line_id": None, "phone_number": None, "status": "Pending Activation", "plan_id": None, "device_id": None,
        "data_used_gb": 0.0, "data_refueling_gb": 0.0, "roaming_enabled": False, "contract_end_date": None,
        "last_plan_change_date": None, "last_sim_replacement_date": None, "suspension_start_date": None,
    },
    "bills": {
        "bill_id": None, "customer_id": None, "period_start": None, "period_end": None, "issue_date": None,
        "total_due": 0.0, "due_date": None, "line_items": [], "status": "Draft",
    },
    "customers": {
        "customer_id": None, "full_name": None, "date_of_birth": None, "email": None, "phone_number": None, "address": None,
        "account_status": "Pending Verification", "payment_methods": [], "line_ids": [], "bill_ids": [],
        "created_at": "2025-01-01", "last_extension_date": None, "goodwill_credit_used_this_year": 0.0,
    },
}  # fmt: skip
MOMENTS = ("activation_date", "last_esim_transfer_date", "created_at")


def load(raw: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Record]]:
    """db.toml's tables with every field there, moments printed as the published harness prints them."""
    tables: dict[str, list[Record]] = {}
    for name, fields in FIELDS.items():
        tables[name] = []
        for row in raw.get(name, ()):
            record = {k: row.get(k, list(v) if isinstance(v, list) else v) for k, v in fields.items()}
            for field in MOMENTS:
                if isinstance(record.get(field), str):
                    record[field] = record[field].replace("T", " ")
            tables[name].append(record)
    return tables


class Carrier:
    """Holds the database; every public method is a tool, an action of an initial state or an assertion."""

    def __init__(self, tables: dict[str, list[Record]]) -> None:
        self.tables = tables

    def _find(self, table: str, field: str, value: str, what: str) -> Record:
        for record in self.tables[table]:
            if record[field] == value:
                return record
        raise ValueError(f"{what} with ID {value} not found")

    def line(self, line_id: str) -> Record:
        return self._find("lines", "line_id", line_id, "Line")

    def plan(self, plan_id: str) -> Record:
        return self._find("plans", "plan_id", plan_id, "Plan")

    def bill(self, bill_id: str) -> Record:
        return self._find("bills", "bill_id", bill_id, "Bill")

    def line_by_phone(self, phone_number: str) -> Record:
        for record in self.tables["lines"]:
            if record["phone_number"] == phone_number:
                return record
        raise ValueError(f"Line with phone number {phone_number} not found")

    def _owned(self, customer_id: str, line_id: str) -> Record:
        if line_id not in self.get_customer_by_id(customer_id)["line_ids"]:
            raise ValueError(f"Line {line_id} not found for customer {customer_id}")
        return self.line(line_id)

    def awaiting(self, customer: Record) -> list[Record]:
        return [b for b in map(self.bill, customer["bill_ids"]) if b["status"] == "Awaiting Payment"]

    # ---- tools

    def get_customer_by_phone(self, phone_number: str) -> Record:
        for customer in self.tables["customers"]:
            numbers = [self.line(i)["phone_number"] for i in customer["line_ids"]]
            if phone_number in (customer["phone_number"], *numbers):
                return customer
        raise ValueError(f"Customer with phone number {phone_number} not found")

    def get_customer_by_id(self, customer_id: str) -> Record:
        return self._find("customers", "customer_id", customer_id, "Customer")

    def get_customer_by_name(self, full_name: str, dob: str) -> list[Record]:
        return [
            c for c in self.tables["customers"]
            if c["full_name"].lower() == full_name.lower() and c["date_of_birth"] == dob
        ]  # fmt: skip

    def get_details_by_id(self, id: str) -> Record:
        if id.startswith("L"):
            return self.line(id)
        if id.startswith("D"):
            return self._find("devices", "device_id", id, "Device")
        if id.startswith("B"):
            return self.bill(id)
        if id.startswith("C"):
            return self.get_customer_by_id(id)
        if id.startswith("P"):
            return self.plan(id)
        raise ValueError(f"Unknown ID format or type: {id}")

    def suspend_line(self, customer_id: str, line_id: str, reason: str) -> Record:
        line = self._owned(customer_id, line_id)
        if line["status"] != "Active":
            raise ValueError("Line must be active to suspend")
        line.update(status="Suspended", suspension_start_date=str(TODAY))
        return {"message": "Line suspended successfully. $5/month holding fee will apply.", "line": line}

    def resume_line(self, customer_id: str, line_id: str) -> Record:
        line = self._owned(customer_id, line_id)
        if line["status"] not in ("Suspended", "Pending Activation"):
            raise ValueError("Line must be suspended to resume")
        line.update(status="Active", suspension_start_date=None)
        return {"message": "Line resumed successfully", "line": line}

    def get_bills_for_customer(self, customer_id: str, limit: int = 12) -> list[Record]:
        bills = [self.bill(i) for i in self.get_customer_by_id(customer_id)["bill_ids"]]
        return sorted(bills, key=lambda b: str(b["issue_date"]), reverse=True)[:limit]

    def send_payment_request(self, customer_id: str, bill_id: str) -> str:
        customer = self.get_customer_by_id(customer_id)
        if self.awaiting(customer):
            raise ValueError("A bill is already awaiting payment for this customer")
        if bill_id not in customer["bill_ids"]:
            raise ValueError(f"Bill {bill_id} not found for customer {customer_id}")
        self.bill(bill_id)["status"] = "Awaiting Payment"
        return f"Payment request sent to the customer for bill {bill_id}"

    def get_data_usage(self, customer_id: str, line_id: str) -> Record:
        line = self._owned(customer_id, line_id)
        plan = self.plan(line["plan_id"])
        end = date(TODAY.year, TODAY.month + 1, 1) - timedelta(days=1)
        return {
            "line_id": line_id, "data_used_gb": line["data_used_gb"], "data_limit_gb": plan["data_limit_gb"],
            "data_refueling_gb": line["data_refueling_gb"], "cycle_end_date": str(end),
        }  # fmt: skip

    def enable_roaming(self, customer_id: str, line_id: str) -> str:
        line = self._owned(customer_id, line_id)
        was, line["roaming_enabled"] = line["roaming_enabled"], True
        return "Roaming was already enabled" if was else "Roaming enabled successfully"

    def disable_roaming(self, customer_id: str, line_id: str) -> str:
        line = self._owned(customer_id, line_id)
        was, line["roaming_enabled"] = line["roaming_enabled"], False
        return "Roaming disabled successfully" if was else "Roaming was already disabled"

    def transfer_to_human_agents(self, summary: str) -> str:
        return "Transfer successful"

    def refuel_data(self, customer_id: str, line_id: str, gb_amount: float) -> Record:
        line = self._owned(customer_id, line_id)
        if gb_amount <= 0:
            raise ValueError("Refuel amount must be positive")
        price = self.plan(line["plan_id"])["data_refueling_price_per_gb"]
        charge = gb_amount * price
        line["data_refueling_gb"] += gb_amount
        self._charge(customer_id, charge, f"Data refueling: {gb_amount} GB at ${price}/GB")
        return {
            "message": f"Successfully added {gb_amount} GB of data for line {line_id} for ${charge:.2f}",
            "new_data_refueling_gb": line["data_refueling_gb"], "charge": charge,
        }  # fmt: skip

    def _charge(self, customer_id: str, amount: float, description: str) -> None:
        """A line item on the customer's draft bill of the next month, which is made where there is none."""
        customer = self.get_customer_by_id(customer_id)
        draft = next((b for b in map(self.bill, customer["bill_ids"]) if b["status"] == "Draft"), None)
        if draft is None:
            start = (TODAY.replace(day=1) + timedelta(days=32)).replace(day=1)
            end = start.replace(month=start.month + 1) - timedelta(days=1)
            mark = hashlib.sha256(f"{customer_id} {len(self.tables['bills'])}".encode()).hexdigest()[:8]
            draft = self._new_bill(f"B{mark}", customer, start, end, start)
        item = {"description": description, "amount": amount, "date": str(TODAY)}
        draft["line_items"].append({**item, "item_type": "Credit" if amount < 0 else "Charge"})
        draft["total_due"] += amount

    def _new_bill(self, bill_id: str, customer: Record, start: date, end: date, issued: date) -> Record:
        bill = {
            **FIELDS["bills"], "bill_id": bill_id, "customer_id": customer["customer_id"], "period_start": str(start),
            "period_end": str(end), "issue_date": str(issued), "total_due": 0,
            "due_date": str(issued + timedelta(days=14)), "line_items": [],
        }  # fmt: skip
        self.tables["bills"].append(bill)
        customer["bill_ids"].append(bill_id)
        return bill

    # ---- initial states

    def set_data_usage(self, customer_id: str, line_id: str, data_used_gb: float) -> str:
        self._owned(customer_id, line_id)["data_used_gb"] = data_used_gb
        return f"Data usage set to {data_used_gb} GB for line {line_id}"

    def suspend_line_for_overdue_bill(
        self, customer_id: str, line_id: str, new_bill_id: str, contract_ended: bool
    ) -> str:
        line, customer = self.line(line_id), self.get_customer_by_id(customer_id)
        if line["status"] != "Active":
            raise ValueError("Line must be active to suspend for unpaid bill")
        if any(self.bill(i)["status"] == "Overdue" for i in customer["bill_ids"]):
            raise ValueError("Customer already has an overdue bill")
        amount = self.plan(line["plan_id"])["price_per_month"]
        last = TODAY.replace(day=1) - timedelta(days=1)
        bill = self._new_bill(new_bill_id, customer, last.replace(day=1), last, last.replace(day=1))
        bill["status"] = "Overdue"
        item = {
            "description": f"Charge for line {line_id}",
            "amount": amount,
            "date": str(TODAY),
            "item_type": "Charge",
        }
        bill["line_items"].append(item)
        bill["total_due"] += amount
        line.update(status="Suspended", suspension_start_date=str(TODAY))
        if contract_ended:
            line["contract_end_date"] = str(last)
        return f"Line {line_id} suspended for unpaid bill {new_bill_id}. Contract ended: {contract_ended}"

    # ---- assertions

    def assert_data_refueling_amount(self, customer_id: str, line_id: str, expected_amount: float) -> bool:
        return abs(float(self._owned(customer_id, line_id)["data_refueling_gb"]) - expected_amount) < 1e-6

    def assert_line_status(self, customer_id: str, line_id: str, expected_status: str) -> bool:
        return bool(self._owned(customer_id, line_id)["status"] == expected_status)

    def assert_overdue_bill_exists(self, customer_id: str, overdue_bill_id: str) -> bool:
        owned = overdue_bill_id in self.get_customer_by_id(customer_id)["bill_ids"]
        return owned and bool(self.bill(overdue_bill_id)["status"] == "Overdue")

    def assert_no_overdue_bill(self, overdue_bill_id: str) -> bool:
        known = {b["bill_id"]: b["status"] for b in self.tables["bills"]}
        return bool(known.get(overdue_bill_id, "Paid") == "Paid")
