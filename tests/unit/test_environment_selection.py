"""Which of the launcher's variables go to the workers."""

from __future__ import annotations

import pytest

from trx.environment import DEFAULT_ENV_VARS, check_patterns, select

ENVIRONMENT = {
    "PATH": "/bin",
    "PATHS": "no",
    "LD_LIBRARY_PATH": "/lib",
    "PYTHONPATH": "/src",
    "CUDA_VISIBLE_DEVICES": "0",
    "cuda_lower": "no",
    "NCCL_DEBUG": "INFO",
    "OMP_NUM_THREADS": "4",
    "HOME": "/home/ada",
    "AWS_SECRET": "no",
    "HF_1": "one",
    "HF_2": "two",
    "EMPTY": "",
}


def test_the_default_patterns_take_what_workers_need_and_nothing_private() -> None:
    names = ["PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "OMP_NUM_THREADS"]
    assert select(ENVIRONMENT, DEFAULT_ENV_VARS, ()) == {name: ENVIRONMENT[name] for name in names}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], []),
        (["HOME"], ["HOME"]),
        (["HOM"], []),
        (["HF_*"], ["HF_1", "HF_2"]),
        (["HF_?"], ["HF_1", "HF_2"]),
        (["HF_[!1]"], ["HF_2"]),
        (["cuda*"], ["cuda_lower"]),
        (["EMPTY"], ["EMPTY"]),
        (["NOT_THERE"], []),
        (["HOME", "HOM*"], ["HOME"]),
        (["*"], list(ENVIRONMENT)),
    ],
)
def test_patterns_are_those_of_a_shell(patterns: list[str], names: list[str]) -> None:
    assert select(ENVIRONMENT, patterns, ()) == {name: ENVIRONMENT[name] for name in names}
    assert select(ENVIRONMENT, (), patterns) == {name: ENVIRONMENT[name] for name in names}


def test_further_patterns_add_to_the_first() -> None:
    assert select(ENVIRONMENT, ["HOME"], ["HF_1"]) == {"HOME": "/home/ada", "HF_1": "one"}


def test_a_mapping_sets_values_whatever_the_launcher_has() -> None:
    assert select(ENVIRONMENT, ["H*"], {"HF_1": "uno", "NEW": "*"}) == {
        "HOME": "/home/ada",
        "HF_1": "uno",
        "HF_2": "two",
        "NEW": "*",
    }


def test_a_mapping_instead_of_the_default_patterns_sets_values_too() -> None:
    assert select(ENVIRONMENT, {"HOME": "/elsewhere"}, ["HF_1"]) == {"HOME": "/elsewhere", "HF_1": "one"}
    assert select(ENVIRONMENT, {"A": "1", "B": "1"}, {"B": "2"}) == {"A": "1", "B": "2"}


def test_names_with_values_among_the_patterns_set_them() -> None:
    assert select(ENVIRONMENT, ["HF_*", "HF_1=uno"], ["NEW=a=b", "EMPTY="]) == {
        "HF_1": "uno",
        "HF_2": "two",
        "NEW": "a=b",
        "EMPTY": "",
    }


def test_what_is_given_stays_as_it_was() -> None:
    environment, extra = dict(ENVIRONMENT), {"HOME": "/elsewhere"}
    select(environment, ["*"], extra)["NEW"] = "1"
    assert environment == ENVIRONMENT
    assert extra == {"HOME": "/elsewhere"}


# ---- what may be asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [(), [], ["A*"], ("A", "B"), {}, {"A": "1", "_b2": ""}, DEFAULT_ENV_VARS])
def test_patterns_and_mappings_are_good(good: object) -> None:
    check_patterns("extra_env_vars", good)


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        ("PATH", TypeError, r"extra_env_vars must be a list of patterns, such as \['PATH'\]"),
        (None, TypeError, "not None"),
        (3, TypeError, "not 3"),
        ([1], TypeError, r"not \[1\]"),
        (["A", None], TypeError, "must be a list of patterns"),
        ({"A": 1}, TypeError, "must map names to strings, not 'A' to 1"),
        ({1: "A"}, TypeError, "must map names to strings, not 1 to 'A'"),
        ({"A=B": "1"}, ValueError, "'A=B' cannot be an environment variable"),
        ({"": "1"}, ValueError, "'' cannot be"),
        ({"1A": "1"}, ValueError, "'1A' cannot be"),
        ({"A\n": "1"}, ValueError, "cannot be"),
        ({"A": "1\0"}, ValueError, "cannot be"),
    ],
)
def test_anything_else_is_refused_by_name(bad: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        check_patterns("extra_env_vars", bad)
    assert "extra_env_vars" in str(caught.value)
