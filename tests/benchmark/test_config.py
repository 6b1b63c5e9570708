"""What a configuration may say, and the one line for what it may not."""

import math
from pathlib import Path
from typing import Any

import pytest

from attacks.registry import resolve as resolve_attack
from benchmark.config import CONFIGS, RunConfig, build_config, parse_eps, read_config
from benchmark.datasets import DATASETS
from benchmark.errors import RequestError

CONTENT: dict[str, Any] = {
    "models": ["nominal"],
    "threats": [{"norm": "linf", "eps": "8/255"}],
    "attacks": ["pgd20"],
}


def _build(**overrides: Any) -> RunConfig:
    return build_config(CONTENT, overrides)


def _refused(**overrides: Any) -> str:
    """Why a file with these fields is refused."""
    with pytest.raises(RequestError) as caught:
        build_config(CONTENT | overrides, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"samples": 0}, "--samples: "),
        ({"batch_size": 0}, "--batch-size: "),
        ({"models": ["nominal", "nominal"]}, "models names one entry twice: nominal"),
        ({"attacks": [3]}, "--attack: "),
        ({"threats": [{"norm": "linf", "eps": "8/0"}]}, '--eps: must be a number or a fraction like "8/255", got '),
        ({"threats": [{"norm": "linf", "eps": "8"}]}, "--eps: eps must be in (0, 1] for linf, got 8"),
        ({"threats": [{"norm": "l7", "eps": "8/255"}]}, "--norm: "),
    ],
)
def test_what_an_option_gave_is_told_as_the_option(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        build_config(CONTENT, given)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("8/255", 8 / 255),
        (" 8/255 ", 8 / 255),
        ("8 / 255", 8 / 255),
        ("0.03", 0.03),
        ("1", 1.0),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("0.5/255", 0.5 / 255),
        (0.03, 0.03),
        (2, 2.0),
    ],
)
def test_eps_is_a_number_or_a_fraction(text: str | float, eps: float) -> None:
    assert parse_eps(text) == eps


@pytest.mark.parametrize(
    "text", ["8/0", "abc", "", "/", "8/", "/255", "8/255/2", "0x8", "8:255", "True", "None", "[8]"]
)
def test_eps_that_is_no_number_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='must be a number or a fraction like "8/255"') as caught:
        parse_eps(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["-1", "0", "0/255", "-8/255", "8/-255", "nan", "inf", "-inf", "1/inf", "1e400"])
def test_eps_that_is_not_positive_and_finite_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        parse_eps(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("eps", ["8/0", "-1", "abc", "nan", "inf", "0"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_configuration_names_the_threat_whose_eps_is_wrong(norm: str, eps: str) -> None:
    message = _refused(threats=[{"norm": "linf", "eps": "8/255"}, {"norm": norm, "eps": eps}])
    assert message.startswith("threats.1.eps: must be")
    assert eps in message


@pytest.mark.parametrize(("eps", "meant"), [("8", "8/255"), (16, "16/255"), ("1.5", "1.5/255"), ("255", "255/255")])
def test_pixel_values_under_linf_suggest_the_fraction(eps: str | int, meant: str) -> None:
    message = _refused(threats=[{"norm": "linf", "eps": eps}])
    assert f'did you mean "{meant}"?' in message
    assert "(0, 1] for linf" in message


def test_a_radius_beyond_all_pixel_values_suggests_nothing() -> None:
    message = _refused(threats=[{"norm": "linf", "eps": "256"}])
    assert "(0, 1] for linf, got 256" in message
    assert "did you mean" not in message


def test_radii_above_one_are_fine_for_l2_and_one_is_for_linf() -> None:
    config = _build(threats=[{"norm": "l2", "eps": "3"}, {"norm": "linf", "eps": 1}])
    assert [(t.norm, t.eps) for t in config.threats] == [("l2", 3.0), ("linf", 1.0)]


def test_options_come_before_the_file_and_what_is_not_given_stays() -> None:
    config = build_config(CONTENT | {"samples": 7, "seed": 3}, {"samples": 9, "seed": None})
    assert (config.samples, config.seed) == (9, 3)


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    message = _refused(model="nominal")
    assert message.startswith("unknown field 'model'")
    for name in RunConfig.model_fields:
        assert name in message


def test_an_unknown_field_of_a_threat_is_refused_with_the_fields_of_a_threat() -> None:
    message = _refused(threats=[{"norm": "linf", "epsilon": 0.1, "eps": 0.1}])
    assert "epsilon" in message
    assert "eps" in message.partition("known: ")[2].split(", ")
    assert "models" not in message


@pytest.mark.parametrize(
    ("name", "value", "twice"),
    [
        ("models", ["nominal", "nominal"], ": nominal"),
        ("attacks", ["pgd20", "noise", "pgd20"], ": pgd20"),
        ("threats", [{"norm": "linf", "eps": "8/255"}, {"eps": 8 / 255}], ""),
    ],
)
def test_an_entry_named_twice_is_refused(name: str, value: list[Any], twice: str) -> None:
    assert _refused(**{name: value}) == f"{name} names one entry twice{twice}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", 0),
        ("samples", -1),
        ("samples", "many"),
        ("samples", 1.5),
        ("batch_size", 0),
        ("unit_size", 0),
        ("workers", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("models", []),
        ("models", "nominal"),
        ("models", [3]),
        ("attacks", []),
        ("threats", []),
        ("threats", "8/255"),
        ("dataset", 5),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_field_and_itself(name: str, value: Any) -> None:
    message = _refused(**{name: value})
    assert message.startswith(name)
    assert (repr(value[0]) if value == [3] else repr(value)) in message


def test_an_unknown_norm_is_refused_with_the_known_ones() -> None:
    message = _refused(threats=[{"norm": "l7", "eps": 0.1}])
    assert message.startswith("threats.0.norm")
    for name in ("linf", "l2", "l7"):
        assert name in message


@pytest.mark.parametrize("missing", ["models", "threats", "attacks"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(RequestError, match=f"{missing}: Field required"):
        build_config({k: v for k, v in CONTENT.items() if k != missing}, {})


@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"device": "cpu"}, {"workers": 5}])
def test_what_changes_no_number_is_no_part_of_the_identity(changes: dict[str, Any]) -> None:
    assert _build(**changes) != _build()
    assert _build(**changes).identity() == _build().identity()
    assert _build(**changes).fingerprint() == _build().fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["pgd-at"]},
        {"dataset": "digits"},
        {"samples": 100},
        {"threats": [{"norm": "linf", "eps": "4/255"}]},
        {"threats": [{"norm": "l2", "eps": "8/255"}]},
        {"attacks": ["pgd100"]},
        {"seed": 1},
        {"unit_size": 50},
    ],
)
def test_what_changes_numbers_is_part_of_the_identity(changes: dict[str, Any]) -> None:
    assert _build(**changes).identity() != _build().identity()
    assert _build(**changes).fingerprint() != _build().fingerprint()


def test_every_field_is_either_identity_or_known_not_to_matter() -> None:
    assert set(RunConfig.model_fields) - set(_build().identity()) == {"batch_size", "device", "workers"}


def test_two_spellings_of_a_radius_are_one_configuration() -> None:
    assert (
        _build(threats=[{"eps": " 8/255"}]).identity() == _build(threats=[{"norm": "linf", "eps": 8 / 255}]).identity()
    )


@pytest.mark.parametrize(
    ("name", "threats"), [("quick", [("linf", 8 / 255)]), ("full", [("linf", 8 / 255), ("l2", 0.5)])]
)
def test_the_shipped_configurations_are_valid_and_attack_at_the_standard_radii(
    name: str, threats: list[tuple[str, float]]
) -> None:
    config = build_config(read_config(name), {})
    assert config.dataset in DATASETS
    assert [(t.norm, t.eps) for t in config.threats] == threats
    for attack in config.attacks:
        assert resolve_attack(attack).name == attack


def test_the_quick_configuration_is_the_main_job_of_the_issue() -> None:
    config = build_config(read_config("quick"), {})
    assert {model.partition("@")[0] for model in config.models} == {
        "kmeans",
        "nominal",
        "nominal-kmeans-head",
        "pgd-at",
        "clustr",
        "clustr-qtrades",
        "clustr-1lip",
    }
    assert "clustr-qtrades@scores" in config.models
    assert set(config.attacks) == {"exact", "certify", "pgd20", "magnet100", "autoattack"}
    assert (config.dataset, config.samples) == ("fashion-mnist", 200)


def test_all_shipped_files_are_read_by_their_name() -> None:
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names >= {"quick", "full"}
    for name in names:
        build_config(read_config(name), {})


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("models: [nominal]\nthreats: [{eps: 8/255}]\nattacks: [pgd20]\nsamples: 5\n")
    config = build_config(read_config(str(path)), {})
    assert config.samples == 5
    assert math.isclose(config.threats[0].eps, 8 / 255)


def _unreadable(name: str | Path) -> str:
    with pytest.raises(RequestError) as caught:
        read_config(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_configuration_suggests_the_nearest() -> None:
    assert _unreadable("quik") == "no configuration 'quik'; did you mean quick?"
    far = _unreadable("zzz")
    assert "quick" in far
    assert "full" in far


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    assert "no configuration" in _unreadable(tmp_path)


def test_bytes_that_are_no_text_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert str(tmp_path / "bad.yaml") in _unreadable(tmp_path / "bad.yaml")


@pytest.mark.parametrize("text", ["models: [", "a: b: c", "\t- x", "key: 'open", "!!python/object:os.system x"])
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert f"configuration {path} is not YAML" in _unreadable(path)


@pytest.mark.parametrize("text", ["", "- nominal\n", "nominal\n", "5\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert "must be a mapping" in _unreadable(path)


@pytest.mark.usefixtures("as_installed")
def test_a_mapping_with_keys_that_are_no_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("1: 2\nmodels: [nominal]\nthreats: [{eps: 0.1}]\nattacks: [pgd20]\n")
    with pytest.raises(RequestError):
        build_config(read_config(str(path)), {})
