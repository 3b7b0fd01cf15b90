"""The settings of the reported runs: sizes, rates, budgets and what `variant` changes, against the paper's protocol."""

import math
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import composed
from fewshot.episodes import Task
from fewshot.training.build import make_learner
from tests.conftest import TEXT

pytestmark = pytest.mark.usefixtures("undrawn")

TASKS = {
    "sine": Task((1,), 1, True),
    "omniglot": Task((1, 28, 28), 5, False),
    "mini": Task((3, 84, 84), 5, False),
    "cub": Task((3, 84, 84), 5, False),
}


def chosen(data: str, method: str, shots: int = 1, variant: str = "released") -> DictConfig:
    """conf/train.yaml as the command line would compose it."""
    return composed([f"data={data}", f"method={method}", f"shots={shots}", f"variant={variant}"])


COUNTS = [
    ("sine", "maml", "released", 17_018),
    ("sine", "lstm", "released", 20_201),
    ("sine", "oplstm", "released", 17_923),
    ("sine", "oplstm", "paper", 17_923),
    ("omniglot", "maml", "released", 247_621),
    ("omniglot", "protonet", "released", 247_296),
    ("omniglot", "lstm", "released", 13_530_097),
    ("omniglot", "oplstm", "released", 248_525),
    ("omniglot", "oplstm", "paper", 248_526),
]
for images in ("mini", "cub"):
    COUNTS += [
        (images, "maml", "released", 121_093),
        (images, "warpmaml", "released", 231_877),
        (images, "sap", "released", 412_852),
        (images, "protonet", "released", 113_088),
        (images, "lstm", "released", 55_879_349),
        (images, "oplstm", "released", 133_182),
        (images, "oplstm", "paper", 133_186),
    ]


@pytest.mark.parametrize(("data", "method", "variant", "count"), COUNTS)
def test_parameter_counts(data: str, method: str, variant: str, count: int) -> None:
    """The networks of the paper, without its dead weights; the other variant of all but OP-LSTM is the same net."""
    for either in [variant] if method == "oplstm" else ["released", "paper"]:
        cfg = chosen(data, method, variant=either)
        with torch.device("meta"):
            learner = make_learner(cfg, TASKS[data])
        assert sum(parameter.numel() for parameter in learner.parameters()) == count


REPORTED: dict[tuple[str, str], dict[str, Any]] = {
    ("sine", "lstm"): {"lr": 0.004673978383086751, "passes": 4, "meta_batch_size": 4, "hidden": [40, 40]},
    ("sine", "oplstm"): {
        "lr": 0.0010448688371510757,
        "passes": 9,
        "meta_batch_size": 1,
        "gamma": 0.025,
        "lstm_units": [5, 5, 1],
    },
    ("sine", "maml"): {
        "lr": 0.0032937018686863585,
        "inner_lr": 0.003769030557807799,
        "inner_steps": 14,
        "eval_inner_steps": 14,
        "meta_batch_size": 2,
        "grad_clip": 10,
    },
    ("omniglot", "lstm"): {
        "lr": 8.33e-5,
        "passes": 3,
        "meta_batch_size": 12,
        "hidden": [1024, 600, 400, 200, 92],
        "first_labels": True,
    },
    ("omniglot", "oplstm"): {"lr": 2.5e-4, "passes": 1, "meta_batch_size": 4, "lstm_units": [5, 5, 1]},
    ("omniglot", "maml"): {
        "lr": 3.125e-5,
        "inner_lr": 0.4,
        "inner_steps": 1,
        "eval_inner_steps": 3,
        "meta_batch_size": 32,
        "grad_clip": None,
    },
    ("omniglot", "protonet"): {"lr": 2.5e-4, "meta_batch_size": 4},
}
for images in ("mini", "cub"):
    REPORTED |= {
        (images, "lstm"): {
            "lr": 6.9e-5,
            "passes": 3,
            "meta_batch_size": 32,
            "hidden": [1904, 1904],
            "first_labels": True,
        },
        (images, "oplstm"): {
            "lr": 2.5e-4,
            "passes": 3,
            "meta_batch_size": 4,
            "gamma": 0.025,
            "lstm_units": [40, 20, 1],
        },
        (images, "maml"): {
            "lr": 1e-3,
            "inner_lr": 0.01,
            "inner_steps": 5,
            "eval_inner_steps": 10,
            "grad_clip": 10,
        },
        (images, "protonet"): {"lr": 2.5e-4, "meta_batch_size": 4},
        (images, "warpmaml"): {
            "lr": 1e-3,
            "inner_lr": 0.1,
            "inner_steps": 5,
            "eval_inner_steps": 5,
            "meta_batch_size": 1,
        },
        (images, "sap"): {
            "lr": 1e-3,
            "inner_lr": 0.0360774985854036,
            "inner_steps": 1,
            "eval_inner_steps": 10,
            "meta_batch_size": 4,
            "grad_clip": 10,
        },
    }
FORMS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("maml", "*", "released"): {"first_order": False, "grad_clip_each": True},
    ("maml", "*", "paper"): {"first_order": False, "grad_clip_each": False},
    ("sap", "*", "released"): {"centred": False},
    ("sap", "*", "paper"): {"centred": True},
    ("warpmaml", "*", "released"): {"last_loss": False},
    ("warpmaml", "*", "paper"): {"last_loss": True},
    ("lstm", "*", "released"): {"pool_cell": False, "query_cell": False},
    ("lstm", "*", "paper"): {"pool_cell": True, "query_cell": True, "first_labels": True},
    ("lstm", "sine", "released"): {"first_labels": False},
    ("oplstm", "*", "released"): {"pool_state": False, "softmax": False},
    ("oplstm", "*", "paper"): TEXT | {"preactivation": False, "detach": False, "scalar_bias": False},
    ("oplstm", "sine", "released"): {
        "normalisation": "joint",
        "gamma": 0.025,
        "detach": False,
        "preactivation": False,
    },
    ("oplstm", "omniglot", "released"): {
        "normalisation": "none",
        "gamma": None,
        "preactivation": True,
        "detach": False,
        "scalar_bias": False,
    },
    ("oplstm", "mini", "released"): {
        "normalisation": "matrix",
        "gamma": 0.025,
        "preactivation": False,
        "detach": True,
        "scalar_bias": True,
    },
}
FORMS[("oplstm", "cub", "released")] = FORMS[("oplstm", "mini", "released")]
BUDGETS = {  # updates, updates between validations, validation and test tasks, shots, test queries of both forms
    ("sine", "lstm", 5): (17_500, 625, 1000, 2000, 50, 50),
    ("sine", "oplstm", 10): (70_000, 2500, 1000, 2000, 50, 50),
    ("sine", "maml", 20): (35_000, 1250, 1000, 2000, 50, 50),
    ("omniglot", "maml", 1): (80_000, 2500, 600, 600, 1, 15),
    ("omniglot", "oplstm", 5): (80_000, 2500, 600, 600, 5, 15),
    ("mini", "lstm", 1): (80_000, 2500, 600, 600, 1, 15),
    ("mini", "maml", 5): (60_000, 2000, 600, 600, 5, 15),
    ("mini", "warpmaml", 1): (60_000, 2500, 600, 600, 1, 15),
    ("cub", "sap", 1): (15_000, 625, 600, 600, 1, 15),
    ("mini", "sap", 5): (10_000, 625, 600, 600, 5, 15),
    ("cub", "protonet", 5): (80_000, 2500, 600, 600, 5, 15),
}


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize(("data", "method"), REPORTED)
def test_settings_of_the_reported_runs(data: str, method: str, variant: str) -> None:
    """A typing error in conf/ would run another experiment under the paper's name."""
    expected = (
        REPORTED[data, method]
        | FORMS.get((method, "*", variant), {})
        | FORMS.get((method, data, variant), {})
    )
    cfg = chosen(data, method, variant=variant)
    told = OmegaConf.to_container(cfg.method, resolve=True)
    assert {key: told[key] for key in expected} == expected
    assert cfg.variant == variant


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize(("data", "method", "shots"), BUDGETS)
def test_budgets_of_the_reported_runs(data: str, method: str, shots: int, variant: str) -> None:
    """Updates, validation and the number of queries, on which the intervals depend."""
    cfg = chosen(data, method, shots, variant)
    *budget, released, text = BUDGETS[data, method, shots]
    trainer = cfg.trainer
    assert [
        trainer.max_steps,
        trainer.val_check_interval,
        trainer.num_val_tasks,
        trainer.num_test_tasks,
    ] == budget
    assert cfg.data.test_queries == (released if variant == "released" else text)
    assert cfg.data.train_queries == cfg.data.val_queries == (50 if data == "sine" else 15)
    assert cfg.shots == shots
    if data == "sine":
        assert cfg.data.sign == (1 if variant == "released" else -1)
    else:
        assert cfg.data.ways == 5


def test_maml_on_photographs_has_a_meta_batch_by_shots() -> None:
    """Protocol: 4 tasks 1-shot, 2 tasks 5-shot."""
    sizes = {shots: chosen("mini", "maml", shots).method.meta_batch_size for shots in (1, 5)}
    assert sizes == {1: 4, 5: 2}


def test_warp_maml_trains_on_five_shots() -> None:
    """Protocol: k_train = 5 even for 1-shot; all other runs train on the shots they are tested on."""
    for method, shots, expected in (("warpmaml", 1, 5), ("warpmaml", 5, 5), ("maml", 1, 1), ("sap", 1, 1)):
        assert chosen("mini", method, shots).data.train_shots == expected


@pytest.mark.parametrize(("backbone", "spread"), [("fc", 784), ("conv4", 27), ("mlp", 1)])
def test_initialisation_is_torch_s(backbone: str, spread: int) -> None:
    """Torch's defaults, batch norm at the identity; only the MLP's hidden biases start at 0."""
    data = {"fc": "omniglot", "conv4": "mini", "mlp": "sine"}[backbone]
    learner = make_learner(chosen(data, "maml"), TASKS[data])
    first = learner.net.body[0]  # type: ignore[index,union-attr]
    bound = 1 / math.sqrt(spread)
    assert 0.9 * bound < first.weight.abs().max() <= bound
    assert (first.bias.abs().max() == 0) == (backbone == "mlp")
    assert learner.net.head.bias.abs().max() > 0  # type: ignore[union-attr]
    if backbone != "mlp":
        assert (first.bn_weight == 1).all()
        assert (first.bn_bias == 0).all()


@pytest.mark.parametrize(
    ("support", "variant", "first_labels"),
    [
        ("set", "released", False),
        ("sequence", "released", True),
        ("set", "paper", True),
    ],
)
def test_only_sets_on_sine_hide_their_labels_at_first(support: str, variant: str, first_labels: bool) -> None:
    cfg = composed(["data=sine", "method=lstm", f"variant={variant}", f"method.support_mode={support}"])
    assert cfg.method.first_labels is first_labels


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("shots", [1, 3, 5, 8, 10])
def test_figure_5_leaves_enough_queries(shots: int, variant: str) -> None:
    """A character has 20 drawings."""
    cfg = composed(["experiment=figure5-omniglot", f"shots={shots}", f"variant={variant}"])
    assert (cfg.data.name, cfg.method.name) == ("omniglot", "lstm")
    for queries in (cfg.data.train_queries, cfg.data.val_queries, cfg.data.test_queries):
        assert queries <= 10
        assert shots + queries <= 20


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_figure_6_follows_the_form(variant: str) -> None:
    cfg = composed(["experiment=figure6", f"variant={variant}"])
    assert (cfg.data.name, cfg.method.name, cfg.trainer.similarity) == ("mini", "oplstm", variant)


@pytest.mark.parametrize(("variant", "bound"), [("released", 0.5**0.5), ("paper", 1600**-0.5)])
def test_the_output_bias_starts_as_released(variant: str, bound: float) -> None:
    biases, cfg = [], chosen("mini", "oplstm", variant=variant)
    for seed in range(40):
        torch.manual_seed(seed)
        learner = make_learner(cfg, TASKS["mini"])
        biases.append(learner.head.bias.detach())  # type: ignore[union-attr]
    spread = torch.cat(biases).abs().max()
    assert 0.8 * bound < spread <= bound
