"""The paper's number stands beside the same experiment only; what a result says; warnings."""

import pytest

from fewshot.config.compose import composed
from fewshot.report.jobs import planned_tests
from fewshot.results.paper import comparison_key, paper_numbers, paper_table, read_csv
from fewshot.results.record import diagnostics, name_of_test, score_line

RESULT = {
    **{"status": "finished", "method": "oplstm", "variant": "released", "config_diff": {}},
    **{"data": "omniglot", "trained_on": "omniglot", "metric": "accuracy", "bn": "transductive"},
    **{"ways": 5, "shots": 1, "val_shots": 1, "test_queries": 1, "tasks": 600},
    **{"mean": 84.0, "ci95": 1.0, "baselines": {"nearest_neighbour": 50.0, "chance": 20.0}},
}
ELSEWHERE = {"trained_on": "mini", "data": "cub", "test_queries": 15}


def test_the_papers_number_stands_beside_the_same_experiment():
    numbers = {"value": 84.27, "ci95": 0.9, "seeds_ci95": 3.18, "parameters": 249167}
    assert paper_numbers(RESULT).items() >= numbers.items()
    assert paper_numbers(RESULT | ELSEWHERE)["value"] == 42.33
    assert score_line(RESULT).endswith("chance 20.00%; paper, mean of 3 runs: 84.27%)")
    assert len(paper_table()) == len(read_csv("paper.csv")) == 84  # no row hides another


@pytest.mark.parametrize(
    "change",
    [
        *({"test_queries": 15}, {"variant": "paper"}, {"config_diff": {"method.lr": 0.1}}, {"tasks": 100}),
        *({"config_diff": {"x": [[{"y": None}]]}}, {"val_shots": 5}, {"shots": 5}, {"data": "glyphs"}),
        *({"trained_on": "mini"}, {"ways": 10}, {"status": "timeout"}, {"run_status": "unfinished"}),
        *({"method": "sap"}, {"bn": "support", "train_bn": "transductive"}),
    ],
    ids=str,
)
def test_the_papers_number_stands_beside_nothing_else(change):
    assert not paper_numbers(RESULT | change)
    assert "paper" not in score_line(RESULT | change)
    assert comparison_key(RESULT | change) != comparison_key(RESULT)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        (["data=omniglot", "method=protonet"], 83.60),
        (["data=omniglot", "method=protonet", "data.train_ways=20"], None),
        (["experiment=figure5-omniglot", "shots=1", "method.support_mode=set"], 72.60),
        (["experiment=figure5-omniglot", "shots=8", "method.support_mode=sequence"], 41.31),
        (["data=sine", "method=lstm", "shots=30", "method.support_mode=set"], 0.0064),
        (["data=sine", "method=lstm", "shots=30", "method.support_mode=sequence"], 0.0056),
        (["data=mini", "method=sap"], 52.96),
        (["data=mini", "method=sap", "method.centred=true"], None),
    ],
)
def test_a_configuration_finds_its_number(overrides, value):
    cfg = composed([*overrides, "seed=42"])
    [test, *_] = planned_tests(cfg)
    assert paper_numbers(test).get("value") == value


def test_a_test_is_named_by_its_protocol():
    across = RESULT | ELSEWHERE | {"ways": 10, "shots": 5}
    assert name_of_test(across) == "cub-10way-5shot-15queries-600tasks"
    assert "trained for 5-shot" in score_line(RESULT | {"val_shots": 5})
    assert "run timeout" in score_line(RESULT | {"run_status": "timeout"})
    assert "(10-way 5-shot, 600 tasks" in score_line(across)
    support = RESULT | {"bn": "support", "train_bn": "transductive"}
    assert "trained with bn transductive" in score_line(support)
    assert name_of_test(support) == "omniglot-5way-1shot-1queries-600tasks-bn-support"
    assert comparison_key(RESULT | {"bn": "support", "train_bn": "support"}) == comparison_key(RESULT)


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        ({"mean": 20.9}, True),
        ({"mean": 21.1}, False),
        ({"mean": 15.0}, True),
        *(
            ({"mean": mean, "ci95": 0.1, "baselines": {"support_mean": 4.0}}, warns)
            for mean, warns in ((3.8, False), (3.95, True), (5.0, True))
        ),
    ],
    ids=str,
)
def test_a_score_at_chance(change, warns):
    assert ["at chance" in warning for warning in diagnostics(RESULT | change)] == [True] * warns
