"""The tools of both sides, word for word as the published harness shows them to the two models (domains/telecom/tools.py and
user_tools.py of sierra-research/tau2-bench, MIT; schemas as its pydantic models print)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]
CUSTOMER = ("customer_id", "string")
LINE = ("line_id", "string")


def _parameters(*fields: tuple[str, str, str] | tuple[str, str, str, Any]) -> Schema:
    """(name, type, description[, default]) to a schema."""
    properties: dict[str, Any] = {}
    for name, kind, description, *default in fields:
        told: dict[str, Any] = {"default": default[0]} if default else {}
        if description:
            told["description"] = description
        properties[name] = {**told, "title": name.replace("_", " ").title(), "type": kind}
    made: Schema = {"properties": properties}
    if required := [f[0] for f in fields if len(f) == 3]:
        made["required"] = required
    return {**made, "title": "parameters", "type": "object"}


def _tool(name: str, description: str, parameters: Schema | None = None) -> Mapping[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters or _parameters()}
    return {"type": "function", "function": function}


def _line(action: str) -> Schema:
    return _parameters(
        ("customer_id", "string", "ID of the customer who owns the line."),
        ("line_id", "string", f"ID of the line to {action}."),
    )


AGENT: Sequence[Mapping[str, Any]] = (
    _tool("get_customer_by_phone", "Finds a customer by their primary contact or line phone number.",
          _parameters(("phone_number", "string", "The phone number to search for."))),
    _tool("get_customer_by_id", "Retrieves a customer directly by their unique ID.",
          _parameters(("customer_id", "string", "The unique identifier of the customer."))),
    _tool("get_customer_by_name",
          "Searches for customers by name and DOB. May return multiple matches if names are similar,\n\n"
          "DOB helps disambiguate.",
          _parameters(("full_name", "string", "The full name of the customer."),
                      ("dob", "string", "Date of birth for verification, in the format YYYY-MM-DD."))),
    _tool("get_details_by_id",
          "Retrieves the details for a given ID.\n\n"
          "The ID must be a valid ID for a Customer, Line, Device, Bill, or Plan.",
          _parameters(("id", "string", "The ID of the object to retrieve."))),
    _tool("suspend_line",
          "Suspends a specific line (max 6 months).\n\nChecks: Line status must be Active.\n"
          "Logic: Sets line status to Suspended, records suspension_start_date.",
          _parameters(("customer_id", "string", "ID of the customer who owns the line."),
                      ("line_id", "string", "ID of the line to suspend."),
                      ("reason", "string", "Reason for suspension."))),
    _tool("resume_line",
          "Resumes a suspended line.\n\nChecks: Line status must be Suspended or Pending Activation.\n"
          "Logic: Sets line status to Active, clears suspension_start_date.", _line("resume")),
    _tool("get_bills_for_customer", "Retrieves a list of the customer's bills, most recent first.",
          _parameters(("customer_id", "string", "ID of the customer."),
                      ("limit", "integer", "Maximum number of bills to return.", 12))),
    _tool("send_payment_request",
          "Sends a payment request to the customer for a specific bill.\n\nChecks:\n    - Customer exists\n"
          "    - Bill exists and belongs to the customer\n"
          "    - No other bills are already awaiting payment for this customer\n"
          "Logic: Sets bill status to AWAITING_PAYMENT and notifies customer.\n"
          "Warning: This method does not check if the bill is already PAID.\n"
          "Always check the bill status before calling this method.",
          _parameters(("customer_id", "string", "ID of the customer who owns the bill."),
                      ("bill_id", "string", "ID of the bill to send payment request for."))),
    _tool("get_data_usage",
          "Retrieves current billing cycle data usage for a line, including data\n\n"
          "refueling amount, data limit, and cycle end date.", _line("check usage for")),
    _tool("enable_roaming", "Enables international roaming on a line.", _line("enable roaming for")),
    _tool("disable_roaming", "Disables international roaming on a line.", _line("disable roaming for")),
    _tool("transfer_to_human_agents",
          "Transfer the user to a human agent, with a summary of the user's issue.\n\nOnly transfer if\n"
          " -  the user explicitly asks for a human agent\n"
          " -  given the policy and the available tools, you cannot solve the user's issue.",
          _parameters(("summary", "string", "A summary of the user's issue."))),
    _tool("refuel_data",
          "Refuels data for a specific line, adding to the customer's bill.\n\n"
          "Checks: Line status must be Active, Customer owns the line.\n"
          "Logic: Adds data to the line and charges customer based on the plan's refueling rate.",
          _parameters(("customer_id", "string", "ID of the customer who owns the line."),
                      ("line_id", "string", "ID of the line to refuel data for."),
                      ("gb_amount", "number", "Amount of data to add in gigabytes."))),
)  # fmt: skip

MODES = ("4g_5g_preferred", "4g_only", "3g_only", "2g_only")
_APN = {
    "additionalProperties": False,
    "description": "Represents the configuration for a single Access Point Name (APN).",
    "properties": {
        "apn_name": {"$ref": "#/$defs/APNNames", "default": "internet",
                     "description": "The name identifier for the APN connection."},
        "reset_at_reboot": {"default": False, "title": "Reset At Reboot", "type": "boolean",
                            "description": "Whether the APN settings will be reset at the next reboot."},
        "mms_apn": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": "mms", "title": "Mms Apn",
                    "description": "Specific APN name used for MMS traffic, if different from general data."},
        "mmsc_url": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": "http://mms.carrier.com/mms/wapenc",
                     "description": "The URL of the Multimedia Messaging Service Center (MMSC). Crucial for MMS.",
                     "title": "Mmsc Url"},
        "mms_proxy": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Mms Proxy",
                      "description": "The proxy server address required for MMS traffic on some networks."},
        "mms_port": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Mms Port",
                     "description": "The proxy server port required for MMS traffic on some networks."},
    },
    "title": "APNSettings", "type": "object",
}  # fmt: skip
_MODE_SCHEMA = {
    "$defs": {"NetworkModePreference": {"enum": list(MODES), "title": "NetworkModePreference", "type": "string"}},
    "properties": {"mode": {"anyOf": [{"$ref": "#/$defs/NetworkModePreference"}, {"type": "string"}], "title": "Mode"}},
    "required": ["mode"], "title": "parameters", "type": "object",
}  # fmt: skip
_APN_SCHEMA = {
    "$defs": {"APNNames": {"enum": ["internet", "broken"], "title": "APNNames", "type": "string"}, "APNSettings": _APN},
    "properties": {"apn_settings": {"anyOf": [{"$ref": "#/$defs/APNSettings"},
                                              {"additionalProperties": True, "type": "object"}], "title": "Apn Settings"}},
    "required": ["apn_settings"], "title": "parameters", "type": "object",
}  # fmt: skip
_APP = _parameters(("app_name", "string", ""))

CUSTOMER_TOOLS: Sequence[Mapping[str, Any]] = (
    _tool("check_status_bar",
          "Shows what icons are currently visible in your phone's status bar (the area at the top of the screen). Displays "
          "network signal strength, mobile data status (enabled, disabled, data saver), Wi-Fi status, and battery level."),
    _tool("check_network_status",
          "Checks your phone's connection status to cellular networks and Wi-Fi. Shows airplane mode status, signal "
          "strength, network type, whether mobile data is enabled, and whether data roaming is enabled."),
    _tool("check_network_mode_preference", "Shows the current network mode preference."),
    _tool("set_network_mode_preference",
          "Changes the type of cellular network your phone prefers to connect to (e.g., 5G, LTE/4G, 3G). Higher-speed "
          "networks (LTE/5G) provide faster data but may use more battery.", _MODE_SCHEMA),
    _tool("run_speed_test",
          "Measures your current internet connection speed (download speed). Provides information about connection quality "
          "and what activities it can support."),
    _tool("toggle_airplane_mode",
          "Toggles Airplane Mode ON or OFF. When ON, it disconnects all wireless communications including cellular, Wi-Fi, "
          "and Bluetooth.\n\nReturns the new state of airplane_mode."),
    _tool("check_sim_status",
          "Checks if your SIM card is working correctly and displays its current status. Shows if the SIM is active, "
          "missing, or locked with a PIN or PUK code."),
    _tool("reseat_sim_card",
          "Simulates removing and reinserting your SIM card. This can help resolve recognition issues."),
    _tool("toggle_data",
          "Toggles your phone's mobile data connection ON or OFF. Controls whether your phone can use cellular data for "
          "internet access when Wi-Fi is unavailable.\n\nReturns the new data connection status."),
    _tool("toggle_roaming",
          "Toggles Data Roaming ON or OFF. When ON, your phone can use data networks in areas outside your carrier's "
          "coverage.\n\nReturns the new data roaming status."),
    _tool("check_data_restriction_status",
          "Checks if your phone has any data-limiting features active. Shows if Data Saver mode is on."),
    _tool("toggle_data_saver_mode",
          "Toggles Data Saver mode ON or OFF. When ON, it reduces data usage, which may affect data speed.\n\n"
          "Returns the new data saver mode status."),
    _tool("check_apn_settings",
          "Checks the technical APN settings your phone uses to connect to your carrier's mobile data network. Shows "
          "current APN name and MMSC URL for picture messaging."),
    _tool("set_apn_settings", "Sets the APN settings for the phone.", _APN_SCHEMA),
    _tool("reset_apn_settings", "Resets your APN settings to the default settings."),
    _tool("check_wifi_status",
          "Checks your Wi-Fi connection status. Shows if Wi-Fi is turned on, which network you're connected to (if any), "
          "and the signal strength."),
    _tool("toggle_wifi",
          "Toggles your phone's Wi-Fi radio ON or OFF. Controls whether your phone can discover and connect to wireless "
          "networks for internet access.\n\nReturns the new Wi-Fi status."),
    _tool("check_wifi_calling_status",
          "Checks if Wi-Fi Calling is enabled on your device. This feature allows you to make and receive calls over a "
          "Wi-Fi network instead of using the cellular network."),
    _tool("toggle_wifi_calling",
          "Toggles Wi-Fi Calling ON or OFF. This feature allows you to make and receive calls over Wi-Fi instead of the "
          "cellular network, which can help in areas with weak cellular signal.\n\nReturns the new Wi-Fi Calling status."),
    _tool("check_vpn_status",
          "Checks if you're using a VPN (Virtual Private Network) connection. Shows if a VPN is active, connected, and "
          "displays any available connection details."),
    _tool("connect_vpn", "Connects to your VPN (Virtual Private Network)."),
    _tool("disconnect_vpn",
          "Disconnects any active VPN (Virtual Private Network) connection. Stops routing your internet traffic through a "
          "VPN server, which might affect connection speed or access to content."),
    _tool("check_installed_apps", "Returns the name of all installed apps on the phone."),
    _tool("check_app_status",
          "Checks detailed information about a specific app. Shows its permissions and background data usage settings.",
          _APP),
    _tool("check_app_permissions",
          "Checks what permissions a specific app currently has. Shows if the app has access to features like storage, "
          "camera, location, etc.", _APP),
    _tool("grant_app_permission",
          "Gives a specific permission to an app (like access to storage, camera, or location). Required for some app "
          "functions to work properly.",
          _parameters(("app_name", "string", "The name of the app to grant the permission to."),
                      ("permission", "string", "The permission to grant, should be lowercase."))),
    _tool("can_send_mms", "Checks if the default messaging app can send MMS messages."),
    _tool("reboot_device",
          "Restarts your phone completely. This can help resolve many temporary software glitches by refreshing all running "
          "services and connections."),
    _tool("check_payment_request", "Checks if the agent has sent you a payment request."),
    _tool("make_payment", "Makes a payment for the bill that the agent has sent you."),
)  # fmt: skip


def names(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(t["function"]["name"]) for t in tools)
