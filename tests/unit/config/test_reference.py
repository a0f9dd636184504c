"""The reference of the settings: complete, and each example and default in it is what the file would accept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

import config
from config.reference import Setting, first_sentence, look_up, setting_at, settings, written
from config.source import parse

LEAVES = [each for each in settings() if not each.is_section]


def of(key: str) -> Setting:
    return next(each for each in settings() if each.key == key)


def test_every_key_of_every_section_is_there_once() -> None:
    keys = [each.key for each in settings()]
    assert len(keys) == len(set(keys)) > 90
    assert {
        "router.id",
        "services.redirect_list.sources",
        "services.interop.minor_version",
        "log.level",
    } <= set(keys)
    assert not [key for key in keys if key.endswith(".password")]


@pytest.mark.parametrize("setting", settings(), ids=lambda each: each.key)
def test_every_setting_says_what_it_is_in_whole_sentences(setting: Setting) -> None:
    assert setting.description.endswith("."), setting.description
    assert 10 < len(setting.summary) < 170
    assert setting.description.count("`") % 2 == 0
    assert setting.accepts
    assert setting.required or setting.is_section or setting.default, "what counts if it is left out?"


@pytest.mark.parametrize("setting", LEAVES, ids=lambda each: each.key)
def test_the_example_of_a_setting_can_be_copied_into_a_file(setting: Setting) -> None:
    document = parse(setting.example_lines, "example")
    assert document.problems == ()
    try:
        config.Config.model_validate(document.data)
    except ValidationError as error:
        consequences = {"missing", "too_short"}
        wrong = [each for each in error.errors() if each["type"] not in consequences]
        assert wrong == []


def test_ranges_units_words_and_lists_are_said() -> None:
    said = {
        key: (of(key).accepts, of(key).unit, of(key).default)
        for key in (
            "bgp.hold_time_seconds",
            "services.mode",
            "services.match.ports",
            "tunnels.local",
            "bgp.advertise",
        )
    }
    assert said == {
        "bgp.hold_time_seconds": ("whole number, 3 to 65535", "seconds", "30"),
        "services.mode": ("one of `open`, `closed`, `reject`", "", "open"),
        "services.match.ports": ("list of ports, 1 to 65535, at most 8 of them", "", "empty"),
        "tunnels.local": ("IPv4 or IPv6 address", "", "what router.id is"),
        "bgp.advertise": ("list of IPv4 or IPv6 networks, not empty", "", "[0.0.0.0/0]"),
    }


def test_an_example_stands_below_the_keys_around_it() -> None:
    assert of("services.redirect_list.sources").example_lines == (
        "services:\n  - redirect_list:\n      - sources: [10.1.9.0/24]"
    )


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("services.mode", "services.mode"),
        ("services[3].mode", "services.mode"),
        ("services[0].redirect_list[1].action", "services.redirect_list.action"),
        ("hold_time_seconds", "bgp.hold_time_seconds"),
        ("redirect_list.action", "services.redirect_list.action"),
    ],
)
def test_a_key_is_found_by_its_name_by_an_errors_path_and_by_its_last_part(typed: str, found: str) -> None:
    setting = look_up(typed).setting
    assert setting is not None
    assert setting.key == found


def test_a_section_comes_with_its_own_keys_and_an_ambiguous_word_with_all_that_it_may_mean() -> None:
    assert [each.key for each in look_up("log").related] == ["log.level", "log.format"]
    assert [each.key for each in look_up("zone").related] == ["router.zone", "caches.zone"]
    assert [each.key for each in look_up("bgp.accept_").related] == [
        "bgp.accept_max_length",
        "bgp.accept_max_length_ipv6",
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("servces.mode", ("services.mode",)), ("holdtime", ("bgp.hold_time_seconds",)), ("xyzzy", ())],
)
def test_an_unknown_key_suggests_those_that_look_like_it(typed: str, meant: tuple[str, ...]) -> None:
    found = look_up(typed)
    assert (found.setting, found.related, found.suggestions) == (None, (), meant)


def test_a_setting_is_found_by_the_path_of_a_problem() -> None:
    setting = setting_at(("services", 0, "forwarding", 1))
    assert setting is not None
    assert setting.key == "services.forwarding"
    assert setting_at(("nothing",)) is None


def test_values_are_written_as_the_file_reads_them() -> None:
    value = {"a": [True, 5, "10.0.0.0/8", "::/0", "true", "5", "l2"]}
    text = written(value)
    assert text == "{a: [true, 5, 10.0.0.0/8, '::/0', 'true', '5', l2]}"
    assert parse(text, "x").data == value


def test_a_sentence_ends_at_a_full_stop_and_not_in_an_abbreviation() -> None:
    assert first_sentence("A zone, e.g. an AZ; see x.y. More.") == "A zone, e.g. an AZ; see x.y"
    assert first_sentence("Sets net.ipv4 here. `0` is off.") == "Sets net.ipv4 here"
