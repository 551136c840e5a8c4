"""The customer's side: a telephone (user_db.toml), where it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from h1r.evals.tau2.tools import MODES

State = dict[str, Any]
BARS = {
    "none": "📵 No Signal",
    "poor": "📶¹ Poor",
    "fair": "📶² Fair",
    "good": "📶³ Good",
    "excellent": "📶⁴ Excellent",
}
SIGNALS = {"2G": "poor", "3G": "fair", "4G": "good", "5G": "excellent"}
TECHNOLOGY = {"4g_only": "4G", "3g_only": "3G", "2g_only": "2G"}
MEGABITS = {"2G": (0.1, 0.4), "3G": (1.0, 5.0), "4G": (10.0, 100.0), "5G": (50.0, 500.0), "none": (0.0, 0.0)}
SHARE = {"poor": 0.2, "fair": 0.5, "good": 0.8, "excellent": 1.0, "none": 0.0}
SPEEDS = ((1, "Very Poor"), (5, "Poor"), (25, "Fair"), (100, "Good"), (float("inf"), "Excellent"))
ADVICE = {
    "Very Poor": "Connection is very slow. Basic web browsing might be difficult.",
    "Poor": "Connection is slow. Web browsing may be sluggish, streaming difficult.",
    "Fair": "Connection is okay for web browsing and some standard definition streaming.",
    "Good": "Connection is good for most activities, including HD streaming.",
    "Excellent": "Connection is very fast.",
}
SIM = {
    "active": "Your SIM card is active and working.",
    "missing": "No SIM card detected in the phone.",
    "locked_pin": "The SIM card is locked with a PIN code.",
    "locked_puk": "The SIM card is locked with a PUK code.",
}
APN = {
    "apn_name": "internet", "reset_at_reboot": False, "mms_apn": "mms", "mmsc_url": "http://mms.carrier.com/mms/wapenc",
    "mms_proxy": None, "mms_port": None,
}  # fmt: skip
PERMISSIONS = ("sms", "storage", "phone", "network")


def load(raw: Mapping[str, Any]) -> State:
    """user_db.toml with what it leaves out: the surroundings of a customer at home."""
    device: State = {**raw["device"], "vpn_details": None, "wifi_ssid": None}
    device["active_apn_settings"] = {**APN, **device.get("active_apn_settings", {})}
    device["app_statuses"] = {
        name: {p: bool(app.get("permissions", {}).get(p, False)) for p in PERMISSIONS}
        for name, app in device["app_statuses"].items()
    }
    surroundings = {
        "name": None, "phone_number": None, "is_abroad": False, "roaming_allowed": False, "signal_strength": dict(SIGNALS),
        "mobile_data_usage_exceeded": False, "line_active": True, "payment_request": None,
    }  # fmt: skip
    return {"device": device, "surroundings": surroundings | raw.get("surroundings", {})}


def _on(state: Any) -> str:
    return "ON" if state else "OFF"


class Phone:
    """Holds the state; every public method is a tool, an action of an initial state or an assertion."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.device: State = state["device"]
        self.around: State = state["surroundings"]

    def _bar(self) -> str:
        d, shown = self.device, []
        if d["airplane_mode"]:
            shown.append("✈️ Airplane Mode")
        else:
            technology = d["network_technology_connected"]
            shown.append(BARS[d["network_signal_strength"]])
            if technology != "none":
                shown.append(technology)
            if d["data_enabled"] and technology != "none":
                shown += ["📱 Data Enabled"] + (["🔽 Data Saver"] if d["data_saver_mode"] else [])
            else:
                shown.append("📵 Data Disabled")
        if d["wifi_enabled"] and d["wifi_connected"]:
            shown.append(f"📡 Connected to {d['wifi_ssid']}" if d["wifi_ssid"] else "📡 Enabled")
        if d["vpn_connected"]:
            shown.append("🔒 VPN Connected")
        return " | ".join([*shown, f"🔋 {d['battery_level']}%"])

    def _said(self, update: str) -> str:
        return f"{update}\nStatus Bar: {self._bar()}"

    def _sim(self) -> str:
        return "missing" if self.device["sim_card_missing"] else str(self.device["sim_card_status"])

    def simulate_network_search(self) -> None:
        """What the phone finds: by SIM, preference, airplane mode, access point and line."""
        d = self.device
        working = self._sim() == "active" and not d["airplane_mode"] and self.around["line_active"]
        if not working or d["active_apn_settings"]["apn_name"] == "broken":
            d.update(
                network_connection_status="no_service", network_technology_connected="none",
                network_signal_strength="none",
            )  # fmt: skip
            return
        signals = self.around["signal_strength"]
        technology = TECHNOLOGY.get(d["network_mode_preference"])
        if technology is None:
            technology = "5G" if signals.get("5G", "none") != "none" else "4G"
        d.update(
            network_connection_status="connected", network_technology_connected=technology,
            network_signal_strength=signals.get(technology, "none"),
        )  # fmt: skip

    def data_works(self) -> bool:
        d, a = self.device, self.around
        if d["airplane_mode"] or d["network_signal_strength"] == "none":
            return False
        if d["network_connection_status"] == "no_service" or not d["data_enabled"]:
            return False
        if a["is_abroad"] and not (d["roaming_enabled"] and a["roaming_allowed"]):
            return False
        return not a["mobile_data_usage_exceeded"]

    def speed(self) -> tuple[float | None, str]:
        """Megabits per second, and the word for it."""
        if not self.data_works():
            return None, "No Connection"
        d = self.device
        slow = d["vpn_connected"] and (d["vpn_details"] or {}).get("server_performance") == "poor"
        factor = (0.1 if slow else 1.0) * (0.2 if d["data_saver_mode"] else 1.0)
        low, high = MEGABITS[d["network_technology_connected"]]
        speed = round((low + high) / 2.0 * SHARE[d["network_signal_strength"]] * factor, 2)
        return speed, next(word for bound, word in SPEEDS if speed < bound)

    def mms_works(self) -> bool:
        d = self.device
        if not self.data_works() or d["network_technology_connected"] == "2G":
            return False
        if d["wifi_calling_enabled"] and d["wifi_calling_mms_over_wifi"]:
            return False
        app = d["app_statuses"].get("messaging")
        return d["active_apn_settings"]["mmsc_url"] is not None and bool(app and app["storage"] and app["sms"])

    # ---- tools: looking

    def check_status_bar(self) -> str:
        return f"Status Bar: {self._bar()}"

    def check_network_status(self) -> str:
        d = self.device
        lines = [
            f"Airplane Mode: {_on(d['airplane_mode'])}",
            f"SIM Card Status: {self._sim()}",
            f"Cellular Connection: {d['network_connection_status']}",
            f"Cellular Signal: {d['network_signal_strength']}",
            f"Cellular Network Type: {d['network_technology_connected']}",
            f"Mobile Data Enabled: {'Yes' if d['data_enabled'] else 'No'}",
            f"Data Roaming Enabled: {'Yes' if d['roaming_enabled'] else 'No'}",
            f"Wi-Fi Radio: {_on(d['wifi_enabled'])}",
            f"Wi-Fi Connected: {'Yes' if d['wifi_connected'] else 'No'}",
        ]
        return "\n".join(lines + ([f"Connected Wi-Fi Network: {d['wifi_ssid']}"] if d["wifi_connected"] else []))

    def check_network_mode_preference(self) -> str:
        return f"Network Mode Preference: {self.device['network_mode_preference']}"

    def run_speed_test(self) -> str:
        speed, word = self.speed()
        if speed is None:
            return f"Speed test failed: {word}."
        return f"Speed Test Result: {speed:.2f} Mbps ({word}). {ADVICE[word]}"

    def check_sim_status(self) -> str:
        return SIM[self._sim()]

    def check_data_restriction_status(self) -> str:
        on = self.device["data_saver_mode"]
        return "Data Saver mode is ON (limits data usage)." if on else "Data Saver mode is OFF."

    def check_apn_settings(self) -> str:
        apn = self.device["active_apn_settings"]
        return (
            f"Current APN Name: {apn['apn_name'] or 'Not Set'}\n"
            f"MMSC URL (for picture messages): {apn['mmsc_url'] or 'Not Set'}\n"
            "(These are technical settings, usually best left unchanged.)"
        )

    def check_wifi_status(self) -> str:
        d = self.device
        if not d["wifi_enabled"]:
            return "Wi-Fi is turned OFF."
        if not d["wifi_connected"]:
            return "Wi-Fi is ON but not connected to any network."
        return f"Wi-Fi is ON and connected to '{d['wifi_ssid']}'. Signal strength: {d['wifi_signal_strength']}."

    def check_wifi_calling_status(self) -> str:
        return f"Wi-Fi Calling is currently turned {_on(self.device['wifi_calling_enabled'])}."

    def check_vpn_status(self) -> str:
        d = self.device
        if not d["vpn_connected"]:
            set_on = d["vpn_enabled_setting"]
            return "VPN is turned ON in settings, but currently not connected." if set_on else "VPN is turned OFF."
        if not d["vpn_details"]:
            return "VPN is ON and connected (no specific details available)."
        told = dict(d["vpn_details"])
        level = told.pop("server_performance")
        shown = ", ".join(f"{k!r}: {v!r}" for k, v in told.items())
        performance = f"<PerformanceLevel.{level.upper()}: {level!r}>"
        return f"VPN is ON and connected. Details: {{{shown}, 'server_performance': {performance}}}"

    def check_installed_apps(self) -> str:
        return f"The following apps are installed on the phone: {', '.join(self.device['app_statuses'])}"

    def _allowed(self, app_name: str) -> list[str] | None:
        app = self.device["app_statuses"].get(app_name)
        return None if app is None else [p for p in PERMISSIONS if app[p]]

    def check_app_status(self, app_name: str) -> str:
        allowed = self._allowed(app_name)
        if allowed is None:
            return f"App '{app_name}' not found on this phone."
        lines = (
            [" - Permissions Granted:", *[f"   - {p}" for p in allowed]]
            if allowed
            else [" - Permissions: None granted."]
        )
        return "\n".join([f"Status for App: {app_name}", *lines])

    def check_app_permissions(self, app_name: str) -> str:
        allowed = self._allowed(app_name)
        if allowed is None:
            return f"App '{app_name}' not found on this phone."
        if not allowed:
            return f"App '{app_name}' currently has no permissions granted."
        return f"App '{app_name}' has permission for: {', '.join(allowed)}."

    def can_send_mms(self) -> str:
        return f"Your messaging app {'can' if self.mms_works() else 'cannot'} send MMS messages."

    def check_payment_request(self) -> str:
        asked = self.around["payment_request"]
        if asked is None:
            return "No payment request has been made."
        return f"You have a payment request for bill {asked['bill_id']} of {asked['amount_due']} USD."

    # ---- tools: acting

    def set_network_mode_preference(self, mode: str) -> str:
        if mode not in MODES:
            known = ", ".join(MODES)
            return self._said(f"Failed to set network mode: '{mode}' is not a valid option. Please use one of: {known}")
        self.device["network_mode_preference"] = mode
        self.simulate_network_search()
        return self._said(f"Preferred Network Mode set to: {mode}")

    def toggle_airplane_mode(self) -> str:
        d = self.device
        d["airplane_mode"] = not d["airplane_mode"]
        if d["airplane_mode"] or d["wifi_enabled"]:
            d.update(wifi_connected=False, wifi_ssid=None, wifi_signal_strength="none")
        if d["airplane_mode"]:
            d.update(vpn_connected=False, vpn_details=None)
        self.simulate_network_search()
        return self._said(f"Airplane Mode is now {_on(d['airplane_mode'])}.")

    def reseat_sim_card(self) -> str:
        self.device["sim_card_missing"] = False
        self.simulate_network_search()
        return self._said("SIM card re-seated successfully.")

    def _toggle(self, field: str, name: str, search: bool) -> str:
        self.device[field] = not self.device[field]
        if search:
            self.simulate_network_search()
        return self._said(f"{name} is now {_on(self.device[field])}.")

    def toggle_data(self) -> str:
        return self._toggle("data_enabled", "Mobile Data", True)

    def toggle_roaming(self) -> str:
        return self._toggle("roaming_enabled", "Data Roaming", True)

    def toggle_data_saver_mode(self) -> str:
        return self._toggle("data_saver_mode", "Data Saver Mode", False)

    def toggle_wifi_calling(self) -> str:
        return self._toggle("wifi_calling_enabled", "Wi-Fi Calling", False)

    def toggle_wifi(self) -> str:
        d = self.device
        if d["airplane_mode"]:
            return self._said("Cannot change Wi-Fi settings while Airplane Mode is ON.")
        if d["wifi_enabled"]:
            d.update(wifi_connected=False, wifi_ssid=None, wifi_signal_strength="none")
        return self._toggle("wifi_enabled", "Wi-Fi", False)

    def set_apn_settings(self, apn_settings: Mapping[str, Any]) -> str:
        unknown = set(apn_settings) - set(APN)
        made = {**APN, **apn_settings}
        if unknown or made["apn_name"] not in ("internet", "broken"):
            raise ValueError(f"invalid APN settings {dict(apn_settings)}")
        self.device["active_apn_settings"] = made
        self.simulate_network_search()
        return self._said(f"APN settings set to: {made['apn_name']}")

    def reset_apn_settings(self) -> str:
        self.device["active_apn_settings"]["reset_at_reboot"] = True
        self.simulate_network_search()
        return self._said("APN settings will reset at reboot.")

    def connect_vpn(self) -> str:
        d = self.device
        if d["vpn_connected"]:
            return "VPN already connected."
        details = {"server_address": "192.168.1.1", "protocol": "OpenVPN", "server_performance": "excellent"}
        d.update(vpn_connected=True, vpn_details=details)
        return self._said("VPN connected successfully.")

    def disconnect_vpn(self) -> str:
        d = self.device
        was = d["vpn_connected"]
        d.update(vpn_connected=False, vpn_details=None)
        return self._said("VPN disconnected successfully." if was else "No active VPN connection to disconnect.")

    def grant_app_permission(self, app_name: str, permission: str) -> str:
        app, permission = self.device["app_statuses"].get(app_name), permission.lower()
        if app is None:
            return self._said(f"Error. App '{app_name}' not found. Cannot grant permission.")
        if permission not in PERMISSIONS:
            known = f"available permissions: {list(PERMISSIONS)}"
            return self._said(f"Error. Permission '{permission}' not tracked for app '{app_name}', {known}")
        app[permission] = True
        return self._said(f"Success. Permission '{permission}' granted to app '{app_name}'.")

    def reboot_device(self) -> str:
        lines = []
        if self.device["active_apn_settings"]["reset_at_reboot"]:
            lines.append("Resetting APN settings...")
            self.device["active_apn_settings"] = dict(APN)
        self.simulate_network_search()
        return self._said("\n".join([*lines, "Restarting network services..."]))

    def make_payment(self) -> str:
        asked = self.around["payment_request"]
        if asked is None:
            return "You do not have a payment request."
        asked["paid"] = True
        return f"Payment of {asked['amount_due']} USD has been made for bill {asked['bill_id']}."
