"""What the initial states of tasks do to a phone, and what their assertions ask of it."""

from __future__ import annotations

from h1r.evals.tau2.phone import Phone


def set_user_info(phone: Phone, name: str, phone_number: str) -> None:
    phone.around.update(name=name, phone_number=phone_number)


def set_user_location(phone: Phone, abroad: bool) -> None:
    phone.around["is_abroad"] = abroad


def simulate_network_search(phone: Phone) -> None:
    phone.simulate_network_search()


def _turn(phone: Phone, field: str, on: bool, toggle: str) -> None:
    """A switch to a position; it is thrown at least once, as the published actions do."""
    getattr(phone, toggle)()
    if phone.device[field] != on:
        getattr(phone, toggle)()


def turn_airplane_mode_on(phone: Phone) -> None:
    _turn(phone, "airplane_mode", True, "toggle_airplane_mode")


def turn_airplane_mode_off(phone: Phone) -> None:
    _turn(phone, "airplane_mode", False, "toggle_airplane_mode")


def turn_data_on(phone: Phone) -> None:
    phone.device["data_enabled"] = True


def turn_data_off(phone: Phone) -> None:
    _turn(phone, "data_enabled", False, "toggle_data")


def turn_roaming_on(phone: Phone) -> None:
    _turn(phone, "roaming_enabled", True, "toggle_roaming")


def turn_roaming_off(phone: Phone) -> None:
    _turn(phone, "roaming_enabled", False, "toggle_roaming")


def turn_data_saver_mode_on(phone: Phone) -> None:
    _turn(phone, "data_saver_mode", True, "toggle_data_saver_mode")


def turn_data_saver_mode_off(phone: Phone) -> None:
    _turn(phone, "data_saver_mode", False, "toggle_data_saver_mode")


def unseat_sim_card(phone: Phone) -> None:
    phone.device["sim_card_missing"] = True
    phone.simulate_network_search()


def lock_sim_card(phone: Phone, mode: str) -> None:
    phone.device["sim_card_status"] = f"locked_{mode}"
    phone.simulate_network_search()


def break_apn_settings(phone: Phone) -> None:
    phone.device["active_apn_settings"]["apn_name"] = "broken"
    phone.simulate_network_search()


def break_apn_mms_setting(phone: Phone) -> None:
    phone.device["active_apn_settings"]["mmsc_url"] = None


def break_vpn(phone: Phone) -> None:
    phone.connect_vpn()
    phone.device["vpn_details"]["server_performance"] = "poor"


def set_wifi_calling(phone: Phone, enabled: bool, mms_over_wifi: bool | None = None) -> None:
    phone.device["wifi_calling_enabled"] = enabled
    if mms_over_wifi is not None:
        phone.device["wifi_calling_mms_over_wifi"] = mms_over_wifi


def remove_app_permission(phone: Phone, app_name: str, permission: str) -> None:
    phone.device["app_statuses"][app_name][permission.lower()] = False


# ---- assertions


def assert_airplane_mode_status(phone: Phone, expected_status: bool) -> bool:
    return bool(phone.device["airplane_mode"] == expected_status)


def assert_service_status(phone: Phone, expected_status: str) -> bool:
    return bool(phone.device["network_connection_status"] == expected_status)


def assert_mobile_data_status(phone: Phone, expected_status: bool) -> bool:
    return phone.data_works() == expected_status


def assert_mobile_roaming_status(phone: Phone, expected_status: bool) -> bool:
    return bool(phone.device["roaming_enabled"] == expected_status)


def assert_mobile_data_saver_mode_status(phone: Phone, expected_status: bool) -> bool:
    return bool(phone.device["data_saver_mode"] == expected_status)


def assert_internet_speed(phone: Phone, expected_speed: float, expected_desc: str | None = None) -> bool:
    speed, word = phone.speed()
    return (speed or 0.0) >= expected_speed and (expected_desc is None or word.lower() == expected_desc.lower())


def assert_internet_not_excellent(phone: Phone) -> bool:
    return phone.speed()[1].lower() != "excellent"


def assert_can_send_mms(phone: Phone, expected_status: bool) -> bool:
    return phone.mms_works() == expected_status


def assert_mobile_data_usage_exceeded(phone: Phone, expected_status: bool) -> bool:
    return bool(phone.around["mobile_data_usage_exceeded"] == expected_status)
